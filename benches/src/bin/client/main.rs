//! One client of a running instance, as a peer of `benches/peers`: a process that answers lines of JSON.
//!
//! After `{"ready": true, ..}` it takes on each line of standard input `{"run": WORKLOAD, "seconds": S}`:
//! embeds the texts of that workload (from the file of workloads) in one call, again and again for S
//! seconds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use embedring_client::Client;
use serde_json::{Value, json};

/// Embeds through a running instance, for a bench that talks over standard input and output.
#[derive(Debug, Parser)]
struct Args {
    /// The instance to use.
    #[arg(long)]
    instance: String,
    /// JSON object: lists of texts by workload.
    #[arg(long)]
    workloads: PathBuf,
}

/// Calls of a visit at least, however short it is.
const CALLS_MIN: usize = 3;

#[expect(clippy::print_stdout, reason = "the protocol's answers")]
fn main() -> Result<()> {
    let args = Args::parse();
    let client = Client::connect(&args.instance)?;
    let file = File::open(&args.workloads)
        .with_context(|| format!("cannot read {}", args.workloads.display()))?;
    let workloads: BTreeMap<String, Vec<String>> = serde_json::from_reader(file)?;
    println!("{}", json!({ "ready": true }));
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        let request = serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
        let answer = run(&client, &workloads, &request)
            .unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn run(
    client: &Client,
    workloads: &BTreeMap<String, Vec<String>>,
    request: &Value,
) -> Result<Value> {
    let name = request.get("run").and_then(Value::as_str);
    let name = name.context("\"run\" is missing")?;
    let seconds = request.get("seconds").and_then(Value::as_f64);
    let time = Duration::from_secs_f64(seconds.unwrap_or(1.0));
    let texts = workloads
        .get(name)
        .with_context(|| format!("no workload {name}"))?;
    let (begun, mut times, mut tokens) = (now(), Vec::new(), 0);
    while times.len() < CALLS_MIN || begun.elapsed() < time {
        let call = now();
        let answer = client.embed(texts)?;
        times.push(call.elapsed().as_secs_f64());
        tokens = (0..answer.len()).map(|index| answer.tokens(index)).sum();
    }
    Ok(json!({ "calls": times.len(), "seconds_per_call": times, "tokens": tokens }))
}

#[expect(clippy::disallowed_methods, reason = "durations within this process")]
fn now() -> Instant {
    Instant::now()
}

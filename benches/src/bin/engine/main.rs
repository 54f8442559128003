//! The engine alone, as a peer of `benches/peers`: a process that loads one model and answers lines of
//! JSON.
//!
//! After `{"ready": true, ..}` it takes on each line of standard input one of
//! `{"run": WORKLOAD, "form": "as-called", "seconds": S}` (texts from the file of workloads, again and
//! again for S seconds; tokenising included), `{"embed": [TEXTS], "path": FILE}` (vectors as an `.npy`
//! file), `{"memory": true}` (peak resident bytes) and `{"peak": "f32"|"bf16"|"int8"}` (the arithmetic
//! limit of its threads).

mod serve;

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::{Value, json};

use serve::Engine;

/// Serves one model to a bench over standard input and output.
#[derive(Debug, Parser)]
struct Args {
    /// The model's directory.
    #[arg(long)]
    model_dir: PathBuf,
    /// The numbers to compute with.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "int8"])]
    precision: String,
    /// Threads that compute.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The instructions to use; the best ones of the machine unless given.
    #[arg(long)]
    kernels: Option<String>,
    /// JSON object: lists of texts by workload.
    #[arg(long)]
    workloads: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the protocol's answers")]
fn main() -> Result<()> {
    let mut engine = Engine::load(&Args::parse())?;
    println!("{}", engine.ready());
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        if line.trim().is_empty() {
            continue;
        }
        let request: Value =
            serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))?;
        let answer = engine
            .answer(&request)
            .unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

//! The real worker under each batch policy, with the same requests: at which load are 99 % in time?
//!
//! For every policy an instance of the `embedring` binary is started with it, and `embedring bench load` searches
//! its limit. Policies with numbers of their own are tuned on other seeds than they are measured on, ours not at
//! all. Policies take turns, in several rounds, so that a machine that changes its pace does not favour one.

mod instance;
mod plot;
mod policies;
mod report;
mod study;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

use study::{Extent, Panel, Study};

/// The real worker under each batch policy, with the same requests: the load at which 99 % are in time.
///
/// Writes load.md, load.json and load.svg. Wants a machine that does nothing else: about an hour and a half on two cores
/// as it is, minutes with --quick.
#[derive(Debug, Parser)]
struct Args {
    /// The `embedring` binary.
    #[arg(long)]
    bin: PathBuf,
    /// Few policies, short runs, no tuning: a proof that it works, not a result.
    #[arg(long)]
    quick: bool,
    /// Where to write.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// Numbers that the model is computed with.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "int8"])]
    precision: String,
    /// Time of a question; a paragraph has four times as much.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    deadline_ms: u32,
    /// Kinds of arrivals, as `embedring bench load --arrivals` takes them; numbers are tuned with the first.
    #[arg(long, value_delimiter = ',', default_value = "poisson,bursty")]
    arrivals: Vec<String>,
    /// Only policies whose names contain this, and ours.
    #[arg(long, default_value = "")]
    only: String,
    /// What a reader should know, such as that the machine did other things too.
    #[arg(long, default_value = "")]
    note: String,
    /// The command, as the reports name it.
    #[arg(long, default_value = "cargo xtask bench load")]
    command: String,
}

#[expect(clippy::print_stdout, reason = "what a bench says while it works")]
fn main() -> Result<()> {
    let args = Args::parse();
    let extent = if args.quick {
        Extent::QUICK
    } else {
        Extent::FULL
    };
    let study = Study {
        bin: args.bin.clone(),
        precision: args.precision.clone(),
        deadline_ms: args.deadline_ms,
        extent,
    };
    let policies = policies::policies(args.quick, args.deadline_ms, &args.only);
    let first = args.arrivals.first().context("--arrivals is empty")?;
    let tuned = policies
        .iter()
        .map(|policy| study.tuned(policy, first))
        .collect::<Result<Vec<_>>>()?;
    let mut panels = Vec::new();
    for arrivals in &args.arrivals {
        panels.push(study.panel(arrivals, &tuned)?);
        // What is there is kept, should the next kind of arrivals be too much.
        write(&args, &study, &panels)?;
    }
    println!("{}", markdown(&args, &study, &panels)?);
    Ok(())
}

fn write(args: &Args, study: &Study, panels: &[Panel]) -> Result<()> {
    std::fs::create_dir_all(&args.results)
        .with_context(|| format!("cannot make {}", args.results.display()))?;
    let write = |file: &str, text: &str| {
        let path = args.results.join(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("load.md", &markdown(args, study, panels)?)?;
    let json = report::json(panels, study, &args.command, &args.note)?;
    write("load.json", &json)?;
    plot::write(panels, &args.results.join("load.svg"))
}

fn markdown(args: &Args, study: &Study, panels: &[Panel]) -> Result<String, std::fmt::Error> {
    report::markdown(panels, study, &args.command, &args.note)
}

//! Simulates a device under load with our schedule and with what others do.
//!
//! Discrete events, many seeds, the same arrivals and noise for every policy; every policy is tuned on
//! other seeds than it is measured on.

mod arrivals;
mod baselines;
mod contenders;
mod decision;
mod device;
mod ours;
mod plot;
mod pool;
mod pool_study;
mod report;
mod request;
mod run;
mod study;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

use arrivals::Arrivals;
use study::Extent;

/// Simulates devices under load: ours beside what others do.
///
/// Writes sim.md (tables), sim.json and sim.svg; of two devices sim-pool.md and sim-pool.json.
#[derive(Debug, Parser)]
struct Args {
    /// A few seeds and short runs: minutes become seconds, and numbers rough.
    #[arg(long)]
    quick: bool,
    /// Where to write.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// A recorded trace, CSV with a time stamp in the first column; left out when not there.
    #[arg(
        long,
        env = "EMBEDRING_TRACE",
        default_value = "../shared/data/azure-llm-2023-conv.csv"
    )]
    trace: PathBuf,
    /// Only devices and arrivals whose names contain this, as in `cpu poisson` or `pool`. Files of which
    /// nothing is left are not written.
    #[arg(long, default_value = "")]
    only: String,
}

#[expect(clippy::print_stdout, reason = "what a bench says while it works")]
fn main() -> Result<()> {
    let args = Args::parse();
    let extent = Extent {
        requests: if args.quick { 4_000 } else { 8_000 },
        tuned_on: 1_000..if args.quick { 1_001 } else { 1_003 },
        measured_on: 0..if args.quick { 2 } else { 10 },
    };
    let mut arrivals = vec![Arrivals::Poisson, Arrivals::Bursty];
    if args.trace.is_file() {
        arrivals.push(Arrivals::trace(&args.trace)?);
    } else {
        println!("no trace at {}: left out", args.trace.display());
    }
    let contenders = contenders::contenders();
    let mut panels = Vec::new();
    for device in [device::CPU, device::GPU] {
        for arrivals in &arrivals {
            let name = format!("{} {}", device.name, arrivals.name());
            if name.contains(&args.only) {
                println!("{name}");
                panels.push(study::panel(&device, arrivals, &contenders, &extent)?);
            }
        }
    }
    let heading = format!(
        "Written by `cargo xtask bench sim`: {} requests a run, tuned on {} seeds, measured on {} others.",
        extent.requests,
        extent.tuned_on.end - extent.tuned_on.start,
        extent.measured_on.end - extent.measured_on.start,
    );
    std::fs::create_dir_all(&args.results)
        .with_context(|| format!("cannot make {}", args.results.display()))?;
    let write = |file: &str, text: &str| {
        let path = args.results.join(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let pairs = pool_study::study(&arrivals, &extent, &args.only, |name| println!("{name}"));
    if !pairs.is_empty() {
        let markdown = pool_study::markdown(&pairs, &heading);
        println!("{markdown}");
        write("sim-pool.md", &markdown)?;
        let json = serde_json::json!({ "extent": extent, "pairs": pairs });
        write(
            "sim-pool.json",
            &(serde_json::to_string_pretty(&json)? + "\n"),
        )?;
    }
    if panels.is_empty() {
        return Ok(());
    }
    let decisions = decision::decisions();
    let markdown = report::markdown(&panels, &decisions, &heading)?;
    println!("{markdown}");
    write("sim.md", &markdown)?;
    let json = serde_json::json!({ "extent": extent, "decisions": decisions, "panels": panels });
    write("sim.json", &(serde_json::to_string_pretty(&json)? + "\n"))?;
    plot::write(&panels, &args.results.join("sim.svg"))
}

//! Simulates a device under load with our schedule and with what others do.
//!
//! Discrete events, many seeds, the same arrivals and noise for every policy; every policy is tuned on
//! other seeds than it is measured on.

mod arrivals;
mod contenders;
mod decision;
mod device;
mod models;
mod others;
mod ours;
mod plot;
mod pool;
mod pool_study;
mod provenance;
mod report;
mod request;
mod run;
mod study;
mod table;
mod teacher;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use embedring_traffic::{Arrivals, Profile, Trace};
use serde::Serialize;

use study::Extent;

/// Simulates devices under load: ours beside what others do.
///
/// Writes sim.md (tables), sim.json and sim.svg; of two devices sim-pool.md and sim-pool.json.
#[derive(Debug, Parser)]
struct Args {
    /// Another comparison than that of schedules.
    #[command(subcommand)]
    other: Option<Other>,
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
    /// A device from a table that `embedring bench cost-table` recorded, beside the built-in ones; may be given
    /// several times.
    #[arg(long, value_name = "FILE")]
    cost_table: Vec<PathBuf>,
    /// Time of a question on the devices of --cost-table.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    deadline_ms: u64,
    /// Only devices and arrivals whose names contain this, as in `cpu poisson` or `pool`. Files of which
    /// nothing is left are not written.
    #[arg(long, default_value = "")]
    only: String,
}

#[derive(Debug, Subcommand)]
enum Other {
    Models(models::Args),
}

/// The index of dispersion of counts of a generator, beside the recorded one's.
#[derive(Debug, Serialize)]
struct ClientsCheck {
    arrivals: &'static str,
    window_s: f64,
    recorded: f64,
    generated: f64,
    holds: bool,
}

#[expect(clippy::print_stdout, reason = "what a bench says while it works")]
fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Other::Models(args)) = &args.other {
        return models::models(args);
    }
    let extent = Extent {
        requests: if args.quick { 4_000 } else { 8_000 },
        tuned_on: 1_000..if args.quick { 1_001 } else { 1_003 },
        measured_on: 0..if args.quick { 2 } else { 10 },
    };
    let mut arrivals = vec![Arrivals::Poisson, Arrivals::Bursty];
    arrivals.extend(Profile::ALL.map(Arrivals::Clients));
    if args.trace.is_file() {
        arrivals.push(Arrivals::Trace(Trace::read(&args.trace)?));
    } else {
        println!("no trace at {}: left out", args.trace.display());
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
        let json =
            serde_json::json!({ "from": provenance::here(), "extent": extent, "pairs": pairs });
        write(
            "sim-pool.json",
            &(serde_json::to_string_pretty(&json)? + "\n"),
        )?;
    }
    let checks = checks(if args.quick { 40 } else { 200 })?;
    let panels = panels(&args, &arrivals, &extent)?;
    if panels.is_empty() {
        return Ok(());
    }
    let decisions = decision::decisions();
    let markdown = report::markdown(&panels, &decisions, &checks, &heading)?;
    println!("{markdown}");
    write("sim.md", &markdown)?;
    let json = serde_json::json!({
        "from": provenance::here(),
        "extent": extent,
        "clients": checks,
        "decisions": decisions,
        "panels": panels,
    });
    write("sim.json", &(serde_json::to_string_pretty(&json)? + "\n"))?;
    plot::write(&panels, &args.results.join("sim.svg"))
}

/// One device each.
#[expect(clippy::print_stdout, reason = "what a bench says while it works")]
fn panels(args: &Args, arrivals: &[Arrivals], extent: &Extent) -> Result<Vec<study::Panel>> {
    let mut devices = vec![device::CPU, device::GPU];
    for path in &args.cost_table {
        devices.push(table::device(path, args.deadline_ms * 1_000_000)?);
    }
    let contenders = contenders::contenders();
    let mut panels = Vec::new();
    for device in &devices {
        for arrivals in arrivals {
            let name = format!("{} {}", device.name, arrivals.name());
            if name.contains(&args.only) {
                println!("{name}");
                panels.push(study::panel(device, arrivals, &contenders, extent)?);
            }
        }
    }
    Ok(panels)
}

/// The generators of many clients, held against the recorded traffic that they stand for.
fn checks(hours: u32) -> Result<Vec<ClientsCheck>> {
    let mut checks = Vec::new();
    for profile in Profile::ALL {
        for check in profile.check(hours, 0) {
            let check = ClientsCheck {
                arrivals: profile.name(),
                window_s: check.window_s,
                recorded: check.recorded,
                generated: check.generated,
                holds: check.holds(),
            };
            ensure!(
                check.holds,
                "a generator is not what it stands for: {check:?}"
            );
            checks.push(check);
        }
    }
    Ok(checks)
}

//! Two simulated devices as real processes: what load the pool carries with 99 % of the requests in time,
//! beside what each device carries alone.
//!
//! Starts `embedring up` with simulated devices, and sends single texts at a given rate: an open loop, each
//! text's time counted from when it was meant to be sent. Load 1 is as much work as the fast device can do,
//! the fixed time of batches not counted.

mod instance;
mod load;

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use embedring_load::Provenance;
use serde::Serialize;
use serde_json::json;

use instance::{Device, Instance};
use load::{Load, Outcome};

/// Measures pools of two simulated devices with real processes.
#[derive(Debug, Parser)]
struct Args {
    /// The `embedring` binary.
    #[arg(long, default_value = "target/release/embedring")]
    bin: PathBuf,
    /// Short runs and few loads: rough numbers.
    #[arg(long)]
    quick: bool,
    /// How often the fast device is as fast as the slow one.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 20])]
    ratios: Vec<u32>,
    /// Where to write pool.json and pool.md.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// What a reader should know, such as that the machine did other things too.
    #[arg(long, default_value = "")]
    note: String,
}

/// What was found for a pair of devices: loads at which enough is in time.
#[derive(Clone, Copy, Debug, Serialize)]
struct Row {
    /// So many times as fast the fast device is.
    ratio: u32,
    fast_at_99: f64,
    slow_at_99: f64,
    both_at_99: f64,
    of_sum: f64,
    beside_fast: f64,
    slow_share: f64,
}

/// What the fast device costs: ten times two cores with a small model, so that a run is short.
const FAST: Device = Device {
    batch_ns: 1_000_000,
    token_ns: 20_000,
};
const WANTED: f64 = 0.99;

#[expect(clippy::print_stdout, reason = "what a bench says while it works")]
fn main() -> Result<()> {
    let args = Args::parse();
    let bench = Bench {
        bin: args.bin.clone(),
        seconds: if args.quick { 3.0 } else { 20.0 },
        steps: if args.quick { 4 } else { 7 },
    };
    let fast = bench.at_99(&[("fast", FAST)], 1.0)?;
    println!("the fast device alone: {:.2}", fast.load);
    let mut rows = Vec::new();
    for &ratio in &args.ratios {
        let slow = FAST.slower(ratio);
        let capacity = 1.0 + f64::from(ratio).recip();
        let slow_alone = bench.at_99(&[("slow", slow)], f64::from(ratio).recip())?;
        let both = bench.at_99(&[("fast", FAST), ("slow", slow)], capacity)?;
        let row = Row {
            ratio,
            fast_at_99: fast.load,
            slow_at_99: slow_alone.load,
            both_at_99: both.load,
            of_sum: both.load / (fast.load + slow_alone.load),
            beside_fast: both.load / fast.load,
            slow_share: both.slow_share,
        };
        println!(
            "1:{ratio}: slow alone {:.3}, both {:.2}: {:.0} % of the sum, {:.2} x the fast alone; {:.0} % of the tokens on the slow one",
            row.slow_at_99,
            row.both_at_99,
            100.0 * row.of_sum,
            row.beside_fast,
            100.0 * row.slow_share,
        );
        rows.push(row);
    }
    write(&args, &bench, &rows)
}

fn write(args: &Args, bench: &Bench, rows: &[Row]) -> Result<()> {
    let command = if args.quick {
        "cargo xtask bench pool --quick"
    } else {
        "cargo xtask bench pool"
    };
    let from = Provenance::here(command);
    let markdown = markdown(&from, bench, rows)?;
    let json = serde_json::to_string_pretty(&json!({
        "version": 1,
        "from": from,
        "note": args.note,
        "seconds_per_load": bench.seconds,
        "deadline_ms": load::DEADLINE_MS,
        "rows": rows,
    }))?;
    std::fs::create_dir_all(&args.results)?;
    for (name, text) in [("pool.json", json + "\n"), ("pool.md", markdown)] {
        let path = args.results.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn markdown(from: &Provenance, bench: &Bench, rows: &[Row]) -> Result<String, std::fmt::Error> {
    let mut text = String::from("# Two unequal devices as real processes\n\n");
    writeln!(
        text,
        "Written by `{}` at {} on {}. Simulated devices in real workers; {} s a load, a question has {} ms and a \
         paragraph four times as much. Load 1 is all that the fast device could do if batches had no fixed time.\n",
        from.command,
        from.commit,
        from.machine,
        bench.seconds,
        load::DEADLINE_MS
    )?;
    text.push_str(
        "| fast : slow | fast alone, load at 99 % in time | slow alone | both | of the sum | beside the fast alone | \
         tokens on the slow one |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        writeln!(
            text,
            "| {}:1 | {:.2} | {:.3} | {:.2} | {:.0} % | {:.2} × | {:.0} % |",
            row.ratio,
            row.fast_at_99,
            row.slow_at_99,
            row.both_at_99,
            100.0 * row.of_sum,
            row.beside_fast,
            100.0 * row.slow_share
        )?;
    }
    Ok(text)
}

struct Bench {
    bin: PathBuf,
    seconds: f64,
    /// Halvings.
    steps: u32,
}

/// The highest load with enough in time, and the slow device's part of the tokens there.
#[derive(Clone, Copy, Debug, Default)]
struct At99 {
    load: f64,
    slow_share: f64,
}

impl Bench {
    /// By halving, for devices that can do `capacity` together.
    #[expect(clippy::print_stdout, reason = "what a bench says while it works")]
    fn at_99(&self, devices: &[(&str, Device)], capacity: f64) -> Result<At99> {
        let instance = Instance::start(&self.bin, devices)?;
        let load = Load::new(&instance, FAST)?;
        // Until plans are made.
        let _warm = load.run(0.3 * capacity, self.seconds.min(3.0), 0)?;
        let (mut low, mut high, mut found) = (0.0, 1.2 * capacity, At99::default());
        for step in 0..self.steps {
            let middle = f64::midpoint(low, high);
            let outcome: Outcome = load.run(middle, self.seconds, u64::from(step) + 1)?;
            println!(
                "  {} devices, load {middle:.3}: {:.2} % in time, sent {:.1} ms late at the 99th percentile",
                devices.len(),
                100.0 * outcome.in_time,
                outcome.late_ms_p99,
            );
            if outcome.in_time >= WANTED {
                low = middle;
                found = At99 {
                    load: middle,
                    slow_share: outcome.slow_share,
                };
            } else {
                high = middle;
            }
        }
        Ok(found)
    }
}

//! From round trips to a table and a JSON file.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{Args, Stages, Turn};

/// One turn of one variant, in nanoseconds.
#[derive(Clone, Debug, Serialize)]
struct Quantiles {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// All turns of one variant.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    rival: Option<String>,
    turns: Vec<Quantiles>,
    /// Where the median round trip spent its time, per turn.
    stages: Vec<Stages>,
}

impl Row {
    /// Median over the turns of a quantile.
    fn median(&self, of: impl Fn(&Quantiles) -> u64) -> u64 {
        let mut values: Vec<_> = self.turns.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    }

    /// Median over the turns of a stage.
    fn median_stage(&self, of: impl Fn(&Stages) -> u64) -> Option<u64> {
        let mut values: Vec<_> = self.stages.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    }
}

/// All variants.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn add(&mut self, name: &str, rival: Option<String>, turn: Turn) {
        let mut sorted = turn.round_trips_ns;
        sorted.sort_unstable();
        let at = |per_mille: usize| {
            sorted
                .get((sorted.len() * per_mille / 1000).min(sorted.len() - 1))
                .copied()
                .unwrap_or(0)
        };
        let quantiles = Quantiles {
            p50: at(500),
            p99: at(990),
            p999: at(999),
            max: at(1000),
        };
        let row = match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row,
            None => {
                self.rows.push(Row {
                    name: name.to_owned(),
                    rival,
                    turns: Vec::new(),
                    stages: Vec::new(),
                });
                let last = self.rows.len() - 1;
                &mut self.rows[last]
            }
        };
        row.turns.push(quantiles);
        row.stages.extend(turn.stages);
    }

    /// Ratio of the medians of each turn, as median, lowest and highest over the turns.
    fn ratio(&self, row: &Row, less_worker: bool) -> Option<[f64; 3]> {
        let rival = self
            .rows
            .iter()
            .find(|other| Some(&other.name) == row.rival.as_ref())?;
        let mut ratios: Vec<f64> = row
            .turns
            .iter()
            .zip(&rival.turns)
            .enumerate()
            .map(|(turn, (ours, theirs))| {
                let own = if less_worker {
                    row.stages.get(turn).map_or(0, |stages| stages.own_work)
                } else {
                    0
                };
                micros(ours.p50.saturating_sub(own)) / micros(theirs.p50).max(0.001)
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        Some([
            *ratios.get(ratios.len() / 2)?,
            *ratios.first()?,
            *ratios.last()?,
        ])
    }

    pub(crate) fn print(&self) -> Result<()> {
        let mut out = std::io::stdout();
        writeln!(
            out,
            "{:<18} {:>9} {:>9} {:>9} {:>9}  {:<26} less the worker's own work",
            "round trip, µs", "p50", "p99", "p99.9", "max", "p50 against its rival"
        )?;
        for row in &self.rows {
            let ratio = |less| {
                self.ratio(row, less)
                    .map_or_else(String::new, |[median, low, high]| {
                        format!("{median:.2}x ({low:.2} to {high:.2})")
                    })
            };
            let against = match &row.rival {
                Some(rival) => format!("{} {}", ratio(false), rival),
                None => String::new(),
            };
            let own = row
                .median_stage(|stages| stages.own_work)
                .map_or_else(String::new, |ns| {
                    format!("{} ({:.2} µs)", ratio(true), micros(ns))
                });
            writeln!(
                out,
                "{:<18} {:>9.2} {:>9.2} {:>9.2} {:>9.0}  {against:<36} {own}",
                row.name,
                micros(row.median(|q| q.p50)),
                micros(row.median(|q| q.p99)),
                micros(row.median(|q| q.p999)),
                micros(row.median(|q| q.max)),
            )?;
        }
        writeln!(
            out,
            "\nwhere the median round trip went, µs: client, intake, tokenise and null backend, rings"
        )?;
        for row in &self.rows {
            let stage = |of: fn(&Stages) -> u64| row.median_stage(of).map(micros);
            if let (Some(client), Some(intake), Some(own), Some(rings)) = (
                stage(|s| s.client),
                stage(|s| s.intake),
                stage(|s| s.own_work),
                stage(|s| s.rings),
            ) {
                writeln!(
                    out,
                    "{:<18} {client:>8.2} {intake:>8.2} {own:>8.2} {rings:>8.2}",
                    row.name
                )?;
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, path: &Path, args: &Args) -> Result<()> {
        let text = |program: &str, args: &[&str]| {
            std::process::Command::new(program)
                .args(args)
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
                .unwrap_or_default()
        };
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let json = serde_json::json!({
            "command": format!(
                "cargo xtask bench ring -- --rounds {} --polling {} --blocking {}",
                args.rounds, args.polling, args.blocking
            ),
            "commit": text("git", &["rev-parse", "HEAD"]),
            "machine": { "cpu": cpu, "cores": cores, "kernel": text("uname", &["-r"]) },
            "unit": "nanoseconds",
            "rows": self.rows,
        });
        let json = serde_json::to_string_pretty(&json).context("write JSON")?;
        std::fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a round trip")]
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

//! A device from a recorded table of costs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::device::{Costs, Device, NOISE, Structure};
use crate::request::Request;

/// What `embedring bench cost-table` writes, as far as it is used here.
#[derive(Debug, Deserialize)]
struct File {
    version: u32,
    device: String,
    precision: String,
    rows: Vec<Row>,
    fit: Fit,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Row {
    texts: u32,
    tokens_each: u32,
    ns_median: f64,
    ns_p90: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Fit {
    ns_per_batch: f64,
    ns_per_token: f64,
    ns_per_square: f64,
}

const VERSION: u32 = 1;
/// The 90th percentile of the normal distribution, in standard deviations.
const NORMAL_P90: f64 = 1.2816;

/// By how much batches of a number of texts and a mean length take longer than the fit says: the recorded ratios,
/// between them interpolated in the logarithms of both.
#[derive(Debug)]
pub(crate) struct Corrections {
    texts: Vec<f64>,
    tokens: Vec<f64>,
    /// By length, then by number; `None` where none was recorded.
    ratios: Vec<Vec<Option<f64>>>,
}

/// A device that takes what the table says, with the spread that it has, for users with this deadline.
pub(crate) fn device(path: &Path, deadline_ns: u64) -> Result<Device> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, deadline_ns).with_context(|| format!("{} is no table of costs", path.display()))
}

fn parse(text: &[u8], deadline_ns: u64) -> Result<Device> {
    let file: File = serde_json::from_slice(text)?;
    ensure!(
        file.version == VERSION,
        "it is of version {}, not {VERSION}",
        file.version
    );
    ensure!(!file.rows.is_empty(), "it has no rows");
    let positive = |row: &Row| {
        row.texts > 0 && row.tokens_each > 0 && row.ns_median > 0.0 && row.ns_median.is_finite()
    };
    ensure!(
        file.rows.iter().all(positive),
        "a row has no texts, no tokens or no time"
    );
    let costs = Costs {
        fixed_ns: file.fit.ns_per_batch,
        token_ns: file.fit.ns_per_token,
        square_ns: file.fit.ns_per_square,
    };
    ensure!(
        costs.fixed_ns >= 0.0 && costs.token_ns > 0.0 && costs.square_ns >= 0.0,
        "its fit has no cost of a token, or a negative one"
    );
    Ok(Device {
        name: format!("{} {}", file.device, file.precision).into(),
        costs,
        deadline_ns,
        noise: noise(&file.rows),
        corrections: Some(Arc::new(Corrections::new(&file.rows, &costs))),
        structure: Structure::NONE,
    })
}

/// Standard deviation of the logarithm of a batch's time: the median of what the rows' percentiles say, at least
/// that of the built-in devices.
fn noise(rows: &[Row]) -> f64 {
    let mut spreads: Vec<f64> = rows
        .iter()
        .map(|row| (row.ns_p90 / row.ns_median).ln() / NORMAL_P90)
        .collect();
    spreads.sort_by(f64::total_cmp);
    spreads[spreads.len() / 2].max(NOISE)
}

impl Corrections {
    fn new(rows: &[Row], costs: &Costs) -> Self {
        let steps = |of: fn(&Row) -> u32| {
            let mut steps: Vec<u32> = rows.iter().map(of).collect();
            steps.sort_unstable();
            steps.dedup();
            steps.into_iter().map(f64::from).collect::<Vec<_>>()
        };
        let texts = steps(|row| row.texts);
        let tokens = steps(|row| row.tokens_each);
        let mut ratios = vec![vec![None; texts.len()]; tokens.len()];
        for row in rows {
            let (count, each) = (f64::from(row.texts), f64::from(row.tokens_each));
            let work = costs.token_ns * count * each + costs.square_ns * count * each * each;
            let at = |steps: &[f64], value: f64| steps.iter().position(|step| *step == value);
            if let (Some(line), Some(column)) = (at(&tokens, each), at(&texts, count)) {
                ratios[line][column] = Some(row.ns_median / (costs.fixed_ns + work));
            }
        }
        Self {
            texts,
            tokens,
            ratios,
        }
    }

    /// The recorded time of such a batch, of the one that the fit says.
    #[expect(clippy::cast_precision_loss, reason = "texts and tokens of a batch")]
    pub(crate) fn ratio(&self, batch: &[Request]) -> f64 {
        let count = batch.len().max(1) as f64;
        let tokens: u64 = batch.iter().map(|request| request.tokens).sum();
        let columns = around(&self.texts, count);
        let lines = around(&self.tokens, tokens as f64 / count);
        let (mut sum, mut weights) = (0.0, 0.0);
        for (line, line_weight) in lines {
            for (column, column_weight) in columns {
                let weight = line_weight * column_weight;
                if let Some(ratio) = self.ratios[line][column] {
                    sum += weight * ratio;
                    weights += weight;
                }
            }
        }
        if weights > 0.0 { sum / weights } else { 1.0 }
    }
}

/// The steps below and above a value, and how much each of them counts; at the ends there is one only.
fn around(steps: &[f64], value: f64) -> [(usize, f64); 2] {
    let above = steps.partition_point(|step| *step < value);
    let last = steps.len() - 1;
    if above == 0 || above > last {
        let end = above.min(last);
        return [(end, 1.0), (end, 0.0)];
    }
    let (low, high) = (steps[above - 1], steps[above]);
    let part = (value / low).ln() / (high / low).ln();
    [(above - 1, 1.0 - part), (above, part)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Kind;

    const TABLE: &str = r#"{
        "version": 1, "device": "cpu", "precision": "f32", "threads": 2, "machine": "m", "commit": "c",
        "command": "x", "note": "shared",
        "rows": [
            {"texts": 1, "tokens_each": 10, "ns_median": 2000, "ns_p90": 2300, "repeats": 9},
            {"texts": 4, "tokens_each": 10, "ns_median": 5000, "ns_p90": 5800, "repeats": 9},
            {"texts": 1, "tokens_each": 40, "ns_median": 4000, "ns_p90": 4600, "repeats": 9}
        ],
        "fit": {"ns_per_batch": 1000, "ns_per_token": 100, "ns_per_square": 0}
    }"#;

    fn batch(count: usize, tokens: u64) -> Vec<Request> {
        let one = Request {
            kind: Kind::Question,
            arrived_ns: 0,
            deadline_ns: 0,
            tokens,
        };
        vec![one; count]
    }

    #[test]
    fn recorded_batches_take_what_was_recorded() {
        let device = parse(TABLE.as_bytes(), 100).unwrap();
        assert_eq!(device.name, "cpu f32");
        for (count, tokens, want) in [(1, 10, 2000.0), (4, 10, 5000.0), (1, 40, 4000.0)] {
            let got = device.batch_ns(&batch(count, tokens));
            assert!((got - want).abs() < 1e-6, "{count} x {tokens}: {got}");
        }
        // Twice as many as one and half as many as four: between the ratios of both, 1 and 1.
        let got = device.batch_ns(&batch(2, 10));
        assert!((got - 3000.0).abs() < 1e-6, "{got}");
        // Nothing was recorded there: the nearest that were.
        assert!(device.batch_ns(&batch(4, 40)) > 10_000.0);
        assert!(
            device.noise > 0.1 && device.noise < 0.12,
            "{}",
            device.noise
        );
    }

    #[test]
    fn what_is_no_table_says_why() {
        for (from, to, why) in [
            ("\"version\": 1", "\"version\": 2", "version 2"),
            ("2000", "0", "no time"),
            ("\"ns_per_token\": 100", "\"ns_per_token\": 0", "a token"),
        ] {
            let error = parse(TABLE.replacen(from, to, 1).as_bytes(), 100).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
    }
}

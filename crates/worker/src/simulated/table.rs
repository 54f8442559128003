//! The table of costs, from the configuration or from a file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// What batches cost: `ns_per_batch + ns_per_token · Σ tokens + ns_per_square · Σ tokens²`, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostTable {
    ns_per_batch: f64,
    ns_per_token: f64,
    ns_per_square: f64,
    /// Each batch of this number fails; 0 for none.
    fail_every: u64,
}

/// Why there is no table.
#[derive(Debug, Error)]
#[error("{}: {problem}", .path.display())]
pub struct CostTableError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: CostTableProblem,
}

/// What is wrong with a file of costs.
#[derive(Debug, Error)]
pub enum CostTableProblem {
    /// It can not be read.
    #[error("can not be read: {0}")]
    Read(io::Error),
    /// It is no JSON, or not of this shape.
    #[error("no table of costs: {0}")]
    Shape(serde_json::Error),
    /// It is of another version.
    #[error("a table of version {got}, this program reads version {VERSION}")]
    Version {
        /// Its version.
        got: u64,
    },
    /// It has neither a fit nor rows to fit.
    #[error("neither \"fit\" nor \"rows\"; one of them says what batches cost")]
    Empty,
    /// A cost is negative, not finite, or all of them are zero.
    #[error("no costs of a device: {0}")]
    NoCosts(CostTable),
}

/// The version of the file that is read.
const VERSION: u64 = 1;

/// A file of costs. What it says about where it was measured is for people.
#[derive(Debug, Deserialize)]
struct File {
    version: u64,
    #[serde(default)]
    rows: Vec<Row>,
    fit: Option<Fit>,
    #[serde(default)]
    fail_every: u64,
}

#[derive(Debug, Deserialize)]
struct Row {
    texts: u32,
    tokens_each: u32,
    ns_median: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Fit {
    ns_per_batch: f64,
    ns_per_token: f64,
    ns_per_square: f64,
}

impl fmt::Display for CostTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ns per batch, {} per token, {} per square of a text's tokens",
            self.ns_per_batch, self.ns_per_token, self.ns_per_square
        )
    }
}

impl CostTable {
    /// From three costs in nanoseconds, not negative.
    #[must_use]
    pub fn from_costs(ns_per_batch: f64, ns_per_token: f64, ns_per_square: f64) -> Self {
        Self {
            ns_per_batch,
            ns_per_token,
            ns_per_square,
            fail_every: 0,
        }
    }

    /// From a file of the format that `docs/devices.md` describes: its `fit`, or where it has none the
    /// costs that fit its `rows` best.
    ///
    /// # Errors
    /// When the file can not be read or is no such table.
    pub fn read(path: &Path) -> Result<Self, CostTableError> {
        let problem = |problem| CostTableError {
            path: path.to_owned(),
            problem,
        };
        let text = std::fs::read(path).map_err(|error| problem(CostTableProblem::Read(error)))?;
        Self::from_json(&text).map_err(problem)
    }

    fn from_json(text: &[u8]) -> Result<Self, CostTableProblem> {
        let file: File = serde_json::from_slice(text).map_err(CostTableProblem::Shape)?;
        if file.version != VERSION {
            return Err(CostTableProblem::Version { got: file.version });
        }
        let fit = match file.fit {
            Some(fit) => [fit.ns_per_batch, fit.ns_per_token, fit.ns_per_square],
            None if file.rows.is_empty() => return Err(CostTableProblem::Empty),
            None => fit_rows(&file.rows),
        };
        let table = Self {
            fail_every: file.fail_every,
            ..Self::from_costs(fit[0], fit[1], fit[2])
        };
        let are_costs =
            fit.iter().all(|ns| ns.is_finite() && *ns >= 0.0) && fit.iter().any(|ns| *ns > 0.0);
        if are_costs {
            Ok(table)
        } else {
            Err(CostTableProblem::NoCosts(table))
        }
    }

    /// Nanoseconds for a batch of texts of these lengths in tokens.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "tokens of a batch; costs are not negative, and a cast saturates"
    )]
    pub(crate) fn batch_ns(&self, lengths: impl Iterator<Item = usize>) -> u64 {
        let work = |tokens: f64| self.ns_per_token * tokens + self.ns_per_square * tokens * tokens;
        let texts: f64 = lengths.map(|tokens| work(tokens as f64)).sum();
        (self.ns_per_batch + texts) as u64
    }

    /// Whether batch number `batch`, counted from 1, fails.
    pub(crate) fn fails(&self, batch: u64) -> bool {
        self.fail_every > 0 && batch.is_multiple_of(self.fail_every)
    }
}

/// The costs, none negative, with the least sum of squared relative errors over the rows: of all choices of
/// costs that are not zero, the best whose least squares have no negative one. (With three costs that is
/// the exact solution of non-negative least squares, Lawson and Hanson 1974.)
fn fit_rows(rows: &[Row]) -> [f64; 3] {
    let rows: Vec<[f64; 3]> = rows
        .iter()
        .filter(|row| row.ns_median > 0.0)
        .map(|row| {
            let (texts, each) = (f64::from(row.texts), f64::from(row.tokens_each));
            // Divided by the time, so that what is left over is relative.
            [1.0, texts * each, texts * each * each].map(|x| x / row.ns_median)
        })
        .collect();
    let error = |costs: &[f64; 3]| -> f64 {
        let off = |row: &[f64; 3]| {
            let sum: f64 = row.iter().zip(costs).map(|(x, cost)| x * cost).sum();
            (sum - 1.0).powi(2)
        };
        rows.iter().map(off).sum()
    };
    (1_u8..8)
        .filter_map(|chosen| least_squares(&rows, chosen))
        .filter(|costs| costs.iter().all(|cost| *cost >= 0.0))
        .min_by(|a, b| error(a).total_cmp(&error(b)))
        .unwrap_or([0.0; 3])
}

/// Least squares of `Σ x · cost = 1` over the costs whose bit is set in `chosen`, the others zero, by
/// elimination; nothing where the rows do not determine them.
fn least_squares(rows: &[[f64; 3]], chosen: u8) -> Option<[f64; 3]> {
    let mut system = [[0.0; 4]; 3];
    for (i, line) in system.iter_mut().enumerate() {
        if chosen & (1 << i) == 0 {
            line[i] = 1.0;
            continue;
        }
        for (j, cell) in line.iter_mut().take(3).enumerate() {
            if chosen & (1 << j) != 0 {
                *cell = rows.iter().map(|row| row[i] * row[j]).sum();
            }
        }
        line[3] = rows.iter().map(|row| row[i]).sum();
    }
    for i in 0..3 {
        let (done, below) = system.split_at_mut(i + 1);
        let pivot = &done[i];
        for line in below {
            let times = line[i] / pivot[i];
            for (cell, above) in line.iter_mut().zip(pivot).skip(i) {
                *cell -= times * above;
            }
        }
    }
    let mut costs = [0.0; 3];
    for i in (0..3).rev() {
        let known: f64 = (i + 1..3).map(|j| system[i][j] * costs[j]).sum();
        costs[i] = (system[i][3] - known) / system[i][i];
    }
    costs.iter().all(|cost| cost.is_finite()).then_some(costs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, wanted: f64) -> bool {
        (got - wanted).abs() <= 1e-6 * wanted.abs().max(1.0)
    }

    #[track_caller]
    fn refused(text: &str, part: &str) {
        let problem = CostTable::from_json(text.as_bytes()).unwrap_err();
        assert!(problem.to_string().contains(part), "{problem}");
    }

    #[test]
    fn a_whole_file_is_read_and_its_fit_counts() {
        let text = r#"{"version":1,"device":"cpu","precision":"f32","threads":2,"machine":"m",
            "commit":"c","command":"x","rows":[{"texts":1,"tokens_each":16,"ns_median":5,"ns_p90":6,
            "repeats":9}],"fit":{"ns_per_batch":1000,"ns_per_token":10.5,"ns_per_square":0.5}}"#;
        let table = CostTable::from_json(text.as_bytes()).unwrap();
        assert_eq!(table.batch_ns([10, 20].into_iter()), 1_000 + 315 + 250);
        assert!(!table.fails(1));
    }

    #[test]
    fn rows_without_a_fit_are_fitted() {
        let costs = [2e6, 3e3, 1.5];
        let mut rows = Vec::new();
        for texts in [1, 4, 16, 64] {
            for each in [8, 32, 128, 512] {
                let (t, e) = (f64::from(texts), f64::from(each));
                let ns = costs[0] + costs[1] * t * e + costs[2] * t * e * e;
                rows.push(format!(
                    r#"{{"texts":{texts},"tokens_each":{each},"ns_median":{ns}}}"#
                ));
            }
        }
        let text = format!(r#"{{"version":1,"rows":[{}]}}"#, rows.join(","));
        let table = CostTable::from_json(text.as_bytes()).unwrap();
        assert!(near(table.ns_per_batch, costs[0]), "{table}");
        assert!(near(table.ns_per_token, costs[1]), "{table}");
        assert!(near(table.ns_per_square, costs[2]), "{table}");
    }

    #[test]
    fn rows_that_do_not_determine_all_costs_give_none_that_is_negative() {
        let text = r#"{"version":1,"rows":[{"texts":1,"tokens_each":100,"ns_median":1000},
            {"texts":2,"tokens_each":100,"ns_median":2100}]}"#;
        let table = CostTable::from_json(text.as_bytes()).unwrap();
        let ns = table.batch_ns([100].into_iter());
        assert!((900..=1_100).contains(&ns), "{table}");
    }

    #[test]
    fn what_is_no_table_says_why() {
        refused("[]", "no table of costs");
        refused(r#"{"version":2}"#, "version 2");
        refused(r#"{"version":1}"#, "neither");
        refused(r#"{"version":1,"rows":[]}"#, "neither");
        for costs in [
            r#"{"ns_per_batch":-1,"ns_per_token":1,"ns_per_square":0}"#,
            r#"{"ns_per_batch":0,"ns_per_token":0,"ns_per_square":0}"#,
        ] {
            refused(&format!(r#"{{"version":1,"fit":{costs}}}"#), "no costs");
        }
        let error = CostTable::read(Path::new("/nonexistent/table.json")).unwrap_err();
        assert!(
            error.to_string().starts_with("/nonexistent/table.json: "),
            "{error}"
        );
    }

    #[test]
    fn a_table_may_tell_batches_to_fail() {
        let text = r#"{"version":1,"fail_every":3,"fit":{"ns_per_batch":1,"ns_per_token":0,"ns_per_square":0}}"#;
        let table = CostTable::from_json(text.as_bytes()).unwrap();
        let fails: Vec<_> = (1..=6).map(|batch| table.fails(batch)).collect();
        assert_eq!(fails, [false, false, true, false, false, true]);
    }
}

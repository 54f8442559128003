//! The last batches of a worker with their circumstances, as rows to learn from.

use std::collections::VecDeque;

use embedring_protocol::{Report, WorkerIdentity};

use crate::fit::Coefficients;
use crate::number::{Batch, float};
use crate::saved::{Reader, Writer};

/// Batches kept.
const BATCHES_MAX: usize = 2_048;
/// How fast the mean of the last errors follows: three or four batches count.
const FOLLOW: f64 = 0.3;
/// An error of more than seven times is a stall, and nothing to learn from.
const ERROR_MAX: f64 = 2.0;
/// Batches whose circumstances are taken for those of now.
const NOW: usize = 32;

/// Numbers in a row.
pub(crate) const FEATURES: usize = 11;
/// The first of them that are circumstances rather than the batch itself.
const CIRCUMSTANCES: usize = 4;

/// A batch, and what was known of it when it began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) batch: Batch,
    features: [f32; FEATURES],
}

/// The last batches of one worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct History {
    rows: VecDeque<Row>,
    /// Mean of the logarithms of time over analytic prediction of the last batches: all that the board
    /// shows of a clock that was throttled.
    late: f64,
    finished_ns: u64,
}

impl History {
    /// Takes in a batch and the logarithm of its time over the analytic prediction.
    pub(crate) fn add(
        &mut self,
        worker: usize,
        identity: Option<&WorkerIdentity>,
        report: &Report,
        score: f64,
    ) {
        let log = |value: u64| float(value).ln_1p();
        let begun_ns = report.finished_ns.saturating_sub(report.run_ns);
        let idle_ns = match self.finished_ns {
            0 => 0,
            finished_ns => begun_ns.saturating_sub(finished_ns),
        };
        let features = [
            log(report.texts),
            log(report.tokens),
            log(report.tokens_squared),
            log(report.longest_tokens),
            log(report.waiting_tokens),
            log(idle_ns),
            float(report.neighbours),
            headroom(identity, report.rss_bytes),
            self.late,
            float(identity.map_or(0, |identity| identity.precision)),
            float(worker as u64),
        ];
        if self.rows.len() == BATCHES_MAX {
            self.rows.pop_front();
        }
        self.rows.push_back(Row {
            batch: Batch {
                tokens: float(report.tokens),
                squares: float(report.tokens_squared),
                run_ns: float(report.run_ns),
            },
            features: features.map(narrow),
        });
        self.late += FOLLOW * (score.clamp(-ERROR_MAX, ERROR_MAX) - self.late);
        self.finished_ns = report.finished_ns;
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Forgets all: the device has changed.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.late = 0.0;
    }

    /// Lays out all rows but the last quarter, which is to measure with, and for each of them the logarithm
    /// of its time over the prediction of `base`.
    pub(crate) fn lay_out(&self, base: &Coefficients, rows: &mut Vec<f32>, targets: &mut Vec<f32>) {
        for row in self.rows.iter().take(self.rows.len() - self.measured()) {
            rows.extend(row.features);
            let error = (row.batch.run_ns / base.predict(&row.batch)).ln();
            targets.push(narrow(error.clamp(-ERROR_MAX, ERROR_MAX)));
        }
    }

    /// The last quarter.
    pub(crate) fn held_back(&self) -> impl Iterator<Item = &Batch> {
        let first = self.rows.len() - self.measured();
        self.rows.iter().skip(first).map(|row| &row.batch)
    }

    fn measured(&self) -> usize {
        self.rows.len() / 4
    }

    /// A row for a batch of so many tokens and squared tokens under the circumstances of now.
    pub(crate) fn asked(&self, tokens: u64, squares: u64, rows: &mut Vec<f32>) {
        let length = squares / tokens.max(1);
        let log = |value: u64| narrow(float(value).ln_1p());
        let texts = tokens / length.max(1);
        rows.extend([log(texts.max(1)), log(tokens), log(squares), log(length)]);
        let recent = self.rows.len().min(NOW);
        for at in CIRCUMSTANCES..FEATURES {
            let last = self.rows.iter().rev().take(recent);
            let sum: f64 = last.map(|row| f64::from(row.features[at])).sum();
            rows.push(narrow(sum / float(recent.max(1) as u64)));
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.float(self.late);
        to.number(self.finished_ns);
        to.number(self.rows.len() as u64);
        for Row { batch, features } in &self.rows {
            for value in [batch.tokens, batch.squares, batch.run_ns] {
                to.float(value);
            }
            for feature in features {
                to.bytes(&feature.to_le_bytes());
            }
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let mut history = Self {
            late: from.float()?,
            finished_ns: from.number()?,
            rows: VecDeque::new(),
        };
        for _ in 0..from.count(BATCHES_MAX)? {
            let batch = Batch {
                tokens: from.not_negative()?,
                squares: from.not_negative()?,
                run_ns: from.not_negative().filter(|ns| *ns > 0.0)?,
            };
            let mut features = [0.0; FEATURES];
            for feature in &mut features {
                let bytes = from.bytes(4)?.first_chunk()?;
                *feature = Some(f32::from_le_bytes(*bytes)).filter(|value| value.is_finite())?;
            }
            history.rows.push_back(Row { batch, features });
        }
        Some(history)
    }
}

/// The part of its memory that a worker does not use; 1 where there is no bound.
fn headroom(identity: Option<&WorkerIdentity>, rss_bytes: u64) -> f64 {
    let max_bytes = identity.map_or(0, |identity| identity.memory_max_bytes);
    if max_bytes == 0 {
        return 1.0;
    }
    1.0 - float(rss_bytes.min(max_bytes)) / float(max_bytes)
}

/// For libraries that work with less.
#[expect(
    clippy::cast_possible_truncation,
    reason = "logarithms, shares and small counts"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}

//! A learned model beside the predictions that are published, and which of them is better.
//!
//! What contends is not the model but its table, as it would be published: coefficients that stand still,
//! and corrections. It is measured on batches that came after it was learned.

use embedring_policy::correction_1024;
use embedring_protocol::{CORRECTION_LENGTHS, CORRECTION_TOKENS, Corrections};

use crate::accuracy::pinball;
use crate::bound::Bound;
use crate::drift::Drift;
use crate::fit::Coefficients;
use crate::number::{Batch, float, whole};
use crate::paired::Paired;
use crate::saved::{Reader, Writer};

/// Batches in a block: neighbours resemble each other, so the test is on means of blocks.
const BLOCK: u32 = 8;
/// Blocks between two tests, and at most, after which it begins anew.
const TESTED_EVERY: usize = 16;
const BLOCKS_MAX: usize = 64;
/// The share of the error that it must take away, at least: a model that gains less is not worth the risk.
const GAIN_MIN: f64 = 0.03;
/// Corrections are within a quarter and four times.
const FACTOR_MAX: f64 = 4.0;

/// How a batch was predicted before it ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Prediction {
    pub(crate) ns: f64,
    pub(crate) bound_ns: f64,
}

/// What a block of batches says: means of both errors, and of how much less the second one's are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Block {
    other_error: f64,
    error_gain: f64,
    pinball_gain: f64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contender {
    /// Number of the model.
    pub(crate) model: u64,
    /// What it corrects.
    pub(crate) base: Coefficients,
    pub(crate) corrections: Corrections,
    pub(crate) bound: Bound,
    drift: Drift,
    blocks: Vec<Block>,
    sum: Block,
    batches: u32,
}

/// What a test says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Smaller errors, beyond chance, and bounds no worse.
    Better,
    /// Larger errors or worse bounds, beyond chance.
    Worse,
    /// Neither.
    Open,
}

impl Contender {
    /// Of a model, by its answers; `held_back` are batches that it did not learn from.
    pub(crate) fn new<'a>(
        model: u64,
        base: Coefficients,
        answers: &[f32],
        held_back: impl Iterator<Item = &'a Batch>,
    ) -> Self {
        let mut contender = Self {
            model,
            base,
            corrections: corrections(&base, answers),
            bound: Bound::default(),
            drift: Drift::default(),
            blocks: Vec::new(),
            sum: Block::default(),
            batches: 0,
        };
        for batch in held_back {
            let score = (batch.run_ns / contender.predict_ns(batch)).ln();
            contender.bound.add(score);
        }
        contender
    }

    /// New answers of the same model: circumstances are others.
    pub(crate) fn refresh(&mut self, answers: &[f32]) {
        self.corrections = corrections(&self.base, answers);
    }

    fn predict_ns(&self, batch: &Batch) -> f64 {
        let factor = correction_1024(&self.corrections, whole(batch.tokens), whole(batch.squares));
        self.base.predict(batch) * float(factor) / 1024.0
    }

    pub(crate) fn predict(&self, batch: &Batch) -> Prediction {
        let ns = self.predict_ns(batch);
        Prediction {
            ns,
            bound_ns: ns * self.bound.log_factor().exp(),
        }
    }

    /// Takes in a batch that `other` predicted too; true when the device has changed.
    pub(crate) fn observe(&mut self, batch: &Batch, other: Prediction) -> bool {
        let own = self.predict(batch);
        let error = |ns: f64| (batch.run_ns / ns).ln().abs().min(2.0);
        let loss = |bound_ns: f64| pinball(bound_ns, batch.run_ns) / batch.run_ns;
        self.sum.other_error += error(other.ns);
        self.sum.error_gain += error(other.ns) - error(own.ns);
        self.sum.pinball_gain += loss(other.bound_ns) - loss(own.bound_ns);
        self.batches += 1;
        if self.batches == BLOCK {
            if self.blocks.len() == BLOCKS_MAX {
                self.blocks.clear();
            }
            self.blocks.push(std::mem::take(&mut self.sum));
            self.batches = 0;
        }
        let score = (batch.run_ns / own.ns).ln();
        self.bound.add(score);
        self.drift.add(score, *batch).is_some()
    }

    /// The test, when it is time for one.
    pub(crate) fn verdict(&self) -> Verdict {
        let is_time = self.batches == 0 && self.blocks.len().is_multiple_of(TESTED_EVERY);
        if self.blocks.is_empty() || !is_time {
            return Verdict::Open;
        }
        let all = |of: fn(&Block) -> f64| self.blocks.iter().map(of);
        let gains: Vec<f64> = all(|block| block.error_gain).collect();
        let pinballs: Vec<f64> = all(|block| block.pinball_gain).collect();
        let (Some(gain), Some(pinball)) = (Paired::of(&gains), Paired::of(&pinballs)) else {
            return Verdict::Open;
        };
        let error: f64 = all(|block| block.other_error).sum();
        let enough = gains.iter().sum::<f64>() >= GAIN_MIN * error;
        if gain.is_above_zero() && enough && pinball.mean >= 0.0 {
            Verdict::Better
        } else if gain.is_below_zero() || pinball.is_below_zero() {
            Verdict::Worse
        } else {
            Verdict::Open
        }
    }

    /// Begins to be measured anew, against another one.
    pub(crate) fn begin_anew(&mut self) {
        self.blocks.clear();
        self.sum = Block::default();
        self.batches = 0;
    }

    /// What is measured is not saved: it takes a minute to measure again.
    pub(crate) fn write(&self, to: &mut Writer) {
        to.number(self.model);
        let Coefficients {
            batch_ns,
            token_ns,
            square_ns,
        } = self.base;
        for value in [batch_ns, token_ns, square_ns] {
            to.float(value);
        }
        for factor in self.corrections.iter().flatten() {
            to.bytes(&factor.to_le_bytes());
        }
        self.bound.write(to);
        self.drift.write(to);
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let model = from.number()?;
        let base = Coefficients {
            batch_ns: from.not_negative()?,
            token_ns: from.not_negative()?,
            square_ns: from.not_negative()?,
        };
        let mut corrections: Corrections = Default::default();
        for factor in corrections.iter_mut().flatten() {
            *factor = u16::from_le_bytes(*from.bytes(2)?.first_chunk()?);
        }
        Some(Self {
            model,
            base,
            corrections,
            bound: Bound::read(from)?,
            drift: Drift::read(from)?,
            blocks: Vec::new(),
            sum: Block::default(),
            batches: 0,
        })
    }
}

/// The batches that a table has entries for, as tokens and squared tokens, in the table's order.
pub(crate) fn places() -> impl Iterator<Item = (u64, u64)> {
    (0..CORRECTION_TOKENS).flat_map(|row| {
        (0..CORRECTION_LENGTHS).map(move |column| embedring_policy::correction_place(row, column))
    })
}

/// A table of the logarithms that a model answered. More tokens take no less time, whatever the model
/// says: routing and admission count on that.
fn corrections(base: &Coefficients, answers: &[f32]) -> Corrections {
    let mut table: Corrections = Default::default();
    let mut least_ns = [0.0_f64; CORRECTION_LENGTHS];
    for (at, ((tokens, squares), answer)) in places().zip(answers).enumerate() {
        let (row, column) = (at / CORRECTION_LENGTHS, at % CORRECTION_LENGTHS);
        let batch = Batch {
            tokens: float(tokens),
            squares: float(squares),
            run_ns: 1.0,
        };
        let base_ns = base.predict(&batch);
        let factor = f64::from(*answer).exp().max(least_ns[column] / base_ns);
        let factor = factor.clamp(1.0 / FACTOR_MAX, FACTOR_MAX);
        least_ns[column] = base_ns * factor;
        table[row][column] = u16::try_from(whole(factor * 1024.0)).unwrap_or(u16::MAX);
    }
    table
}

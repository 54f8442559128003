//! How good predictions and bounds were of late, each made before its batch.

use embedring_protocol::Accuracy;

use crate::bound::MISSES;
use crate::number::whole;
use crate::saved::{Reader, Writer};

/// How much each new batch makes older ones count less: a thousand count.
const KEEP: f64 = 0.999;
const MILLION: f64 = 1e6;

/// Forgotten sums of errors, and counts of all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Errors {
    batches: u64,
    beyond: u64,
    weight: f64,
    relative: f64,
    pinball_ns: f64,
    covered: f64,
}

impl Errors {
    /// Takes in a batch.
    pub(crate) fn add(&mut self, predicted_ns: f64, bound_ns: f64, run_ns: f64) {
        let beyond = run_ns > bound_ns;
        // What was restored may be any number.
        self.batches = self.batches.saturating_add(1);
        self.beyond = self.beyond.saturating_add(u64::from(beyond));
        let new = [
            (&mut self.weight, 1.0),
            (&mut self.relative, (run_ns - predicted_ns).abs() / run_ns),
            (&mut self.pinball_ns, pinball(bound_ns, run_ns)),
            (&mut self.covered, if beyond { 0.0 } else { 1.0 }),
        ];
        for (sum, value) in new {
            *sum = *sum * KEEP + value;
        }
    }

    /// For the board; `changes` is how often the device was found to have changed.
    pub(crate) fn published(&self, changes: u64) -> Accuracy {
        let mean = |sum: f64| whole(sum / self.weight.max(1.0));
        Accuracy {
            batches: self.batches,
            beyond: self.beyond,
            error_ppm: mean(self.relative * MILLION),
            pinball_ns: mean(self.pinball_ns),
            covered_ppm: mean(self.covered * MILLION),
            changes,
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.number(self.batches);
        to.number(self.beyond);
        for value in [self.weight, self.relative, self.pinball_ns, self.covered] {
            to.float(value);
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            batches: from.number()?,
            beyond: from.number()?,
            weight: from.not_negative()?,
            relative: from.not_negative()?,
            pinball_ns: from.not_negative()?,
            covered: from.not_negative()?,
        })
    }
}

/// The loss whose least mean is at the quantile that bounds aim at (Koenker and Bassett 1978,
/// "Regression quantiles").
pub(crate) fn pinball(bound_ns: f64, run_ns: f64) -> f64 {
    let over = run_ns - bound_ns;
    (over * (1.0 - MISSES)).max(-over * MISSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_were_restored_may_be_at_their_end() {
        let mut errors = Errors {
            batches: u64::MAX,
            beyond: u64::MAX,
            ..Errors::default()
        };
        errors.add(90.0, 110.0, 200.0);
        assert_eq!(errors.published(0).beyond, u64::MAX);
    }

    #[test]
    fn errors_are_means_of_late() {
        let mut errors = Errors::default();
        assert_eq!(errors.published(0), Accuracy::default());
        for _ in 0..3 {
            errors.add(90.0, 110.0, 100.0);
        }
        errors.add(90.0, 110.0, 200.0);
        let published = errors.published(2);
        assert_eq!((published.batches, published.beyond), (4, 1));
        assert_eq!(published.changes, 2);
        // Errors of 10, 10, 10 and 55 %; losses of .1, .1, .1 and 89.1 ns; the last counts a little more.
        assert!(
            (211_000..213_000).contains(&published.error_ppm),
            "{published:?}"
        );
        assert_eq!(published.pinball_ns, 22);
        assert!(
            (749_000..750_500).contains(&published.covered_ppm),
            "{published:?}"
        );
    }

    #[test]
    fn the_loss_is_least_at_the_quantile() {
        // Of 0, 1, …, 999 a hundredth is above 989.
        let loss = |bound: u32| {
            (0..1_000_u32)
                .map(|t| pinball(f64::from(bound), f64::from(t)))
                .sum::<f64>()
        };
        let best = (0..1_000)
            .min_by(|&a, &b| loss(a).total_cmp(&loss(b)))
            .unwrap();
        assert!((989..=990).contains(&best), "{best}");
    }
}

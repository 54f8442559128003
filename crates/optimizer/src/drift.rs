//! Notices that a device has changed: Page and Hinkley's test on the logarithms of time over predicted
//! time, in both directions (E. S. Page 1954, "Continuous inspection schemes").
//!
//! How much change is let pass and how much evidence is wanted are measured in the noise that there is,
//! with floors. One stray batch, however long, is not evidence enough; a device twice as slow is noticed
//! after five batches when its noise is low.

use crate::number::Batch;
use crate::saved::{Reader, Writer};

/// Change that is let pass, at least, in logarithms and in mean deviations.
const LET_PASS: f64 = 0.1;
const LET_PASS_DEVIATIONS: f64 = 0.6;
/// Evidence wanted, likewise. Noise alone gives it once in some hundred thousand batches.
const WANTED: f64 = 2.5;
const WANTED_DEVIATIONS: f64 = 15.0;
/// What one batch counts for at most, likewise: less than half of the evidence wanted.
const ONE_BATCH: f64 = 1.2;
const ONE_BATCH_DEVIATIONS: f64 = 3.0;
/// How fast mean and deviation follow.
const FOLLOW: f64 = 0.01;
/// Deviation before anything is known.
const FIRST_GUESS: f64 = 0.1;
/// Batches kept of a change that is suspected.
const SUSPECT_MAX: usize = 64;

/// One direction of the test.
#[derive(Clone, Debug, Default, PartialEq)]
struct Side {
    evidence: f64,
    /// Batches since there was none.
    since: Vec<Batch>,
}

impl Side {
    fn add(&mut self, evidence: f64, batch: Batch) {
        self.evidence += evidence;
        if self.evidence <= 0.0 {
            *self = Self::default();
            return;
        }
        if self.since.len() == SUSPECT_MAX {
            self.since.remove(0);
        }
        self.since.push(batch);
    }
}

/// The test's state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drift {
    mean: f64,
    deviation: f64,
    slower: Side,
    faster: Side,
}

impl Default for Drift {
    fn default() -> Self {
        Self {
            mean: 0.0,
            deviation: FIRST_GUESS,
            slower: Side::default(),
            faster: Side::default(),
        }
    }
}

impl Drift {
    /// Takes in a batch and the logarithm of its time over its prediction. When that shows that the device
    /// has changed, gives the batches since it did and begins anew.
    pub(crate) fn add(&mut self, score: f64, batch: Batch) -> Option<Vec<Batch>> {
        let most = ONE_BATCH.max(ONE_BATCH_DEVIATIONS * self.deviation);
        let residual = (score - self.mean).clamp(-most, most);
        let let_pass = LET_PASS.max(LET_PASS_DEVIATIONS * self.deviation);
        let wanted = WANTED.max(WANTED_DEVIATIONS * self.deviation);
        self.slower.add(residual - let_pass, batch);
        self.faster.add(-residual - let_pass, batch);
        self.mean += FOLLOW * residual;
        self.deviation += FOLLOW * (residual.abs() - self.deviation);
        let found = if self.slower.evidence > wanted {
            &mut self.slower
        } else if self.faster.evidence > wanted {
            &mut self.faster
        } else {
            return None;
        };
        let since = std::mem::take(&mut found.since);
        self.begin_anew();
        Some(since)
    }

    /// Forgets what was suspected.
    pub(crate) fn begin_anew(&mut self) {
        self.mean = 0.0;
        self.slower = Side::default();
        self.faster = Side::default();
    }

    /// Variance of the scores, about.
    pub(crate) fn variance(&self) -> f64 {
        // Of normal noise the deviation is 1.25 times the mean absolute one.
        (1.25 * self.deviation).powi(2)
    }

    /// What is suspected is not saved: after a pause it is old.
    pub(crate) fn write(&self, to: &mut Writer) {
        to.float(self.mean);
        to.float(self.deviation);
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            mean: from.float()?,
            deviation: from.not_negative()?,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution as _, StandardNormal};

    const BATCH: Batch = Batch {
        tokens: 1.0,
        squares: 1.0,
        run_ns: 1.0,
    };

    fn noise(random: &mut ChaCha8Rng) -> f64 {
        StandardNormal.sample(random)
    }

    #[test]
    fn noise_alone_raises_no_alarm() {
        for deviation in [0.01, 0.05, 0.2, 0.5] {
            let mut random = ChaCha8Rng::seed_from_u64(1);
            let mut drift = Drift::default();
            let alarms = (0..50_000)
                .filter(|_| drift.add(deviation * noise(&mut random), BATCH).is_some())
                .count();
            assert!(alarms <= 1, "noise of {deviation}: {alarms} alarms");
        }
    }

    #[test]
    fn one_batch_of_any_length_raises_none_and_neither_do_two() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let mut drift = Drift::default();
        for round in 0..2_000 {
            let stray = if round % 100 < 2 { 14.0 } else { 0.0 };
            let score = stray + 0.05 * noise(&mut random);
            assert_eq!(drift.add(score, BATCH), None, "round {round}");
        }
    }

    #[test]
    fn a_change_is_noticed_soon_in_both_directions_and_named_by_its_batches() {
        for (deviation, within) in [(0.02, 6), (0.05, 7), (0.2, 12), (0.4, 30)] {
            for change in [2_f64.ln(), -2_f64.ln()] {
                let mut random = ChaCha8Rng::seed_from_u64(3);
                let mut drift = Drift::default();
                for _ in 0..1_000 {
                    drift.add(deviation * noise(&mut random), BATCH);
                }
                let mut batches = 0;
                let since = loop {
                    batches += 1;
                    assert!(
                        batches <= within,
                        "{deviation} {change}: not after {within}"
                    );
                    let score = change + deviation * noise(&mut random);
                    if let Some(since) = drift.add(score, BATCH) {
                        break since;
                    }
                };
                assert!(since.len() * 2 >= batches, "most of those since the change");
                assert!(since.len() < batches + 30, "{} batches", since.len());
            }
        }
    }

    #[test]
    fn a_bias_that_stays_becomes_what_is_expected() {
        let mut drift = Drift::default();
        let alarms = (0..5_000)
            .filter(|_| drift.add(0.08, BATCH).is_some())
            .count();
        assert_eq!(alarms, 0);
        assert!((drift.mean - 0.08).abs() < 0.001);
    }
}

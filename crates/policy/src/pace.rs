//! How a device's batches compare of late with what is predicted for them.
//!
//! The plan follows a device that has become slower after some dozen batches, and a slow device runs few.
//! Whoever waits for its answers knows sooner: each says how long its batch took. The correction fades, so
//! that one bad moment does not keep a device idle, and it is kept relative to what was predicted when it
//! was measured, so that a plan that catches up is not corrected twice.

use crate::cost::Cost;
use crate::route::PACE_ONE;

/// Weight of an answer, in parts of this.
const PARTS: u64 = 4;
/// After so long without an answer the plan alone counts.
const FADE_NS: u64 = 4_000_000_000;
/// Bounds of the correction in 1/1024: a sixteenth, and sixty-four times.
const LEAST: u64 = PACE_ONE / 16;
const MOST: u64 = PACE_ONE * 64;
/// Size of the batch by which two predictions are compared.
const TOKENS: u64 = 256;

/// The correction for one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    measured: Option<Measured>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Measured {
    /// In 1/1024 of what was predicted.
    ratio_1024: u64,
    /// What a batch of [`TOKENS`] was predicted to take then.
    predicted_ns: u64,
    at_ns: u64,
}

impl Pace {
    /// A batch of `tokens` tokens, for which `cost` predicts a time, took `run_ns`.
    pub fn observe(&mut self, cost: Cost, tokens: u64, run_ns: u64, now_ns: u64) {
        let before = self.factor_1024(cost, now_ns);
        let ratio = ratio_1024(run_ns, cost.batch_ns(tokens)).clamp(LEAST, MOST);
        // Without a measurement there is nothing to forget.
        let parts = if self.measured.is_some() { PARTS } else { 1 };
        self.measured = Some(Measured {
            ratio_1024: (before * (parts - 1) + ratio) / parts,
            predicted_ns: cost.batch_ns(TOKENS),
            at_ns: now_ns,
        });
    }

    /// How much longer batches take than `cost` says, in 1/1024.
    #[must_use]
    pub fn factor_1024(&self, cost: Cost, now_ns: u64) -> u64 {
        let Some(measured) = self.measured else {
            return PACE_ONE;
        };
        let change = ratio_1024(measured.predicted_ns, cost.batch_ns(TOKENS)).clamp(1, MOST * 16);
        let ratio = (measured.ratio_1024 * change / PACE_ONE).clamp(LEAST, MOST);
        let left_ns = FADE_NS.saturating_sub(now_ns.saturating_sub(measured.at_ns));
        let left = left_ns / (FADE_NS / 1024);
        (ratio * left + PACE_ONE * (1024 - left)) / 1024
    }
}

fn ratio_1024(part: u64, whole: u64) -> u64 {
    let ratio = u128::from(part) * 1024 / u128::from(whole.max(1));
    u64::try_from(ratio).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost(ns_per_token: u64) -> Cost {
        Cost {
            ns_per_batch: 0,
            ns_per_token,
            ..Cost::DEFAULT
        }
    }

    #[test]
    fn nothing_measured_changes_nothing() {
        assert_eq!(Pace::default().factor_1024(cost(10), 5), PACE_ONE);
    }

    #[test]
    fn a_few_answers_follow_a_device_and_time_forgets_them() {
        let mut pace = Pace::default();
        for now in 0..10 {
            pace.observe(cost(10), 100, 1_000, now);
        }
        assert_eq!(pace.factor_1024(cost(10), 10), PACE_ONE);
        for now in 10..18 {
            pace.observe(cost(10), 100, 20_000, now);
        }
        let slow = pace.factor_1024(cost(10), 18);
        assert!((15 * PACE_ONE..=20 * PACE_ONE).contains(&slow), "{slow}");
        let later = pace.factor_1024(cost(10), 18 + FADE_NS / 2);
        assert!(later > 7 * PACE_ONE && later < slow, "{later}");
        assert_eq!(pace.factor_1024(cost(10), 18 + FADE_NS), PACE_ONE);
    }

    #[test]
    fn a_plan_that_catches_up_is_not_corrected_twice() {
        let mut pace = Pace::default();
        for now in 0..20 {
            pace.observe(cost(10), 100, 8_000, now);
        }
        let product = |token| token * pace.factor_1024(cost(token), 20) / PACE_ONE;
        for token in [10, 40, 80] {
            assert!((76..=80).contains(&product(token)), "{}", product(token));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_numbers_stay_in_bounds(
            answers in prop::collection::vec(any::<[u64; 5]>(), 0..20),
            fixed: u64, token: u64, now: u64,
        ) {
            let mut pace = Pace::default();
            let cost = |ns_per_batch, ns_per_token| Cost { ns_per_batch, ns_per_token, ..Cost::DEFAULT };
            for [fixed, token, tokens, run, at] in answers {
                pace.observe(cost(fixed, token), tokens, run, at);
            }
            let factor = pace.factor_1024(cost(fixed, token), now);
            prop_assert!((LEAST..=MOST).contains(&factor), "{factor}");
        }
    }
}

//! What a batch takes at most, in 99 of 100 cases: split conformal prediction on the logarithm of time
//! over predicted time, with the level adapted as it goes.
//!
//! The bound is a quantile of the last scores, each made with the prediction from before its batch (Lei
//! et al. 2018, "Distribution-free predictive inference for regression", split form). Which quantile is
//! adaptive conformal inference (Gibbs and Candès 2021, "Adaptive conformal inference under distribution
//! shift"): `α ← α + γ·(1 − target − missed)`. By that rule misses over any stretch differ from their
//! target by the change of α over γ, whatever the device does; α is kept in a range, so that a device
//! that misbehaved for a while is not answered with useless bounds for long.

use std::collections::VecDeque;

use crate::saved::{Reader, Writer};

/// Share of batches that may take longer than their bound.
pub(crate) const MISSES: f64 = 0.01;

/// Scores kept.
const SCORES_MAX: usize = 1_024;

/// With fewer scores than this, those that lack are taken to be [`FIRST_GUESS`]. The hundredth part of a few
/// scores is the largest of them, and one batch during which the process was stopped would make all bounds
/// useless for as long as it takes to see so many.
const SCORES_MIN: usize = 400;

/// γ: how far one miss moves α. Ten times the share aimed at would make bounds jump with every miss.
const STEP: f64 = 0.002;
const ALPHA_MIN: f64 = -0.05;
const ALPHA_MAX: f64 = 0.03;

/// Before anything is known: a sixth more than predicted, ln(1178/1024).
const FIRST_GUESS: f64 = 0.14;

/// More than 64 times the prediction is no bound.
const LARGEST: f64 = 4.16;

/// The last scores and the level.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bound {
    alpha: f64,
    recent: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Default for Bound {
    fn default() -> Self {
        Self {
            alpha: MISSES,
            recent: VecDeque::new(),
            sorted: Vec::new(),
        }
    }
}

impl Bound {
    /// Logarithm of the factor between prediction and bound, not below 0.
    pub(crate) fn log_factor(&self) -> f64 {
        let count = self.sorted.len().max(SCORES_MIN);
        let guessed = count - self.sorted.len();
        // Of all scores, guessed ones included, so many are larger.
        let larger = count - rank(count, self.alpha);
        let above = self.sorted.len() - self.place(FIRST_GUESS);
        let factor = if larger < above {
            self.largest(larger)
        } else if larger < above + guessed {
            FIRST_GUESS
        } else {
            self.largest(larger - guessed)
        };
        factor.clamp(0.0, LARGEST)
    }

    /// The score that so many are larger than.
    fn largest(&self, larger: usize) -> f64 {
        self.sorted[self.sorted.len() - 1 - larger]
    }

    /// Takes in the logarithm of a batch's time over its prediction.
    pub(crate) fn add(&mut self, score: f64) {
        // The first predictions are of few batches, and say more of that than of the level.
        if self.sorted.len() >= SCORES_MIN {
            let missed = if score > self.log_factor() { 1.0 } else { 0.0 };
            self.alpha = (self.alpha + STEP * (MISSES - missed)).clamp(ALPHA_MIN, ALPHA_MAX);
        }
        if self.recent.len() == SCORES_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            self.remove(oldest);
        }
        self.recent.push_back(score);
        self.sorted.insert(self.place(score), score);
    }

    /// Takes the last `count` scores out: they came of a device that had changed unnoticed. The misses
    /// among them still count.
    pub(crate) fn withdraw(&mut self, count: usize) {
        for _ in 0..count {
            if let Some(score) = self.recent.pop_back() {
                self.remove(score);
            }
        }
    }

    fn place(&self, score: f64) -> usize {
        self.sorted
            .partition_point(|other| other.total_cmp(&score).is_lt())
    }

    fn remove(&mut self, score: f64) {
        let at = self.place(score);
        if at < self.sorted.len() {
            self.sorted.remove(at);
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.float(self.alpha);
        to.number(self.recent.len() as u64);
        self.recent.iter().for_each(|&score| to.float(score));
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let alpha = from.float()?;
        if !(ALPHA_MIN..=ALPHA_MAX).contains(&alpha) {
            return None;
        }
        let count = from.count(SCORES_MAX)?;
        let recent: VecDeque<f64> = (0..count).map(|_| from.float()).collect::<Option<_>>()?;
        let mut sorted: Vec<f64> = recent.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self {
            alpha,
            recent,
            sorted,
        })
    }
}

/// Place, counted from 1, of the score of `count` sorted ones that a share `alpha` of new ones exceeds.
fn rank(count: usize, alpha: f64) -> usize {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a thousand scores; a share that is near 0 or below"
    )]
    let rank = ((count + 1) as f64 * (1.0 - alpha)).ceil() as usize;
    rank.clamp(1, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_guess_holds_until_a_hundredth_was_larger() {
        let mut bound = Bound::default();
        assert!((bound.log_factor() - FIRST_GUESS).abs() < 1e-12);
        // One batch that stalls is not what the device does, nor are a few first predictions that were bad.
        for score in [0.01, 0.7, 0.02, 0.8, 1.1] {
            bound.add(score);
            assert!((bound.log_factor() - FIRST_GUESS).abs() < 1e-12);
        }
        bound.add(0.9);
        assert!((bound.log_factor() - 0.7).abs() < 1e-12);
    }

    #[test]
    fn guessed_scores_give_way_to_real_ones() {
        let mut bound = Bound::default();
        for _ in 0..SCORES_MIN - 1 {
            bound.add(0.05);
        }
        assert!((bound.log_factor() - 0.05).abs() < 1e-12);
    }

    #[test]
    fn of_a_thousand_scores_ten_are_larger() {
        let mut bound = Bound::default();
        // All numbers below 1000 in some order.
        for number in 0..1_000_u32 {
            bound.add(f64::from(number * 7 % 1_000) * 1e-3);
        }
        bound.alpha = MISSES;
        assert!((bound.log_factor() - 0.990).abs() < 1e-9);
        bound.alpha = -0.01;
        assert!((bound.log_factor() - 0.999).abs() < 1e-9);
    }

    #[test]
    fn the_oldest_go_and_the_last_can_be_taken_back() {
        let mut bound = Bound::default();
        for number in 0..3_000_u32 {
            bound.add(f64::from(number));
        }
        assert_eq!(bound.sorted.len(), SCORES_MAX);
        assert_eq!(bound.sorted.first(), Some(&1_976.0));
        bound.withdraw(1_000);
        assert_eq!(bound.sorted.last(), Some(&1_999.0));
        bound.withdraw(1_000);
        assert!(bound.sorted.is_empty() && bound.recent.is_empty());
    }
}

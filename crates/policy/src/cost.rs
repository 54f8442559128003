//! What a batch is predicted to cost: a fixed part, a part per token and a part per squared token, all of
//! that corrected by what was learned of batches of its size.

use embedring_protocol::{Corrections, Load, Plan, WorkerIndex, WorkerPlan};

use crate::correction::{NONE, correction_1024};

/// A plan older than this is no longer followed: ten minutes without a scheduler is not a restart.
const PLAN_STALE_NS: u64 = 600 * 1_000_000_000;

/// Predicted time of a batch: `ns_per_batch + tokens × ns_per_token + squares × ps_per_square / 1000`,
/// where `squares` is the sum of the squares of the texts' token counts, times the correction for batches of
/// that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Nanoseconds per batch, whatever is in it.
    pub ns_per_batch: u64,
    /// Nanoseconds per token.
    pub ns_per_token: u64,
    /// Picoseconds per squared token of a text.
    pub ps_per_square: u64,
    /// Squared tokens that a token counts as while its text's length is not known.
    pub squares_per_token: u64,
    /// What a batch takes at most in 99 of 100 cases, in 1/1024 of what is predicted.
    pub worst_1024: u64,
    /// What was learned beside that; see [`WorkerPlan::corrections`].
    pub corrections: Corrections,
}

impl Cost {
    /// Before anything was measured: a small model on two ordinary cores, and a sixth more at most. Equal
    /// for all workers, so that the first requests spread evenly.
    pub const DEFAULT: Self = Self {
        ns_per_batch: 1_000_000,
        ns_per_token: 500_000,
        ps_per_square: 0,
        squares_per_token: 0,
        worst_1024: 1178,
        corrections: NONE,
    };

    /// From the plan, or the default where the plan has no opinion.
    #[must_use]
    pub fn from_plan(plan: Option<&Plan>, worker: WorkerIndex) -> Self {
        Self::planned(plan, worker).unwrap_or(Self::DEFAULT)
    }

    /// The plan, unless it is so old that the scheduler must be gone for good: then nobody has an
    /// opinion and the defaults hold.
    #[must_use]
    pub fn usable(plan: Option<Plan>, now_ns: u64) -> Option<Plan> {
        plan.filter(|plan| now_ns.saturating_sub(plan.published_ns) < PLAN_STALE_NS)
    }

    fn from_entry(entry: WorkerPlan) -> Self {
        Self {
            ns_per_batch: entry.ns_per_batch,
            ns_per_token: entry.ns_per_token,
            ps_per_square: entry.ps_per_square,
            squares_per_token: entry.squares_per_token,
            worst_1024: match entry.worst_1024 {
                0 => Self::DEFAULT.worst_1024,
                worst => worst,
            },
            corrections: entry.corrections,
        }
    }

    /// From the plan, where it has an opinion.
    #[must_use]
    pub fn planned(plan: Option<&Plan>, worker: WorkerIndex) -> Option<Self> {
        plan.map(|plan| plan.workers[worker.get()])
            .filter(|entry| entry.ns_per_token > 0)
            .map(Self::from_entry)
    }

    /// The costs that hold for batches of about this size, as coefficients without a correction: what to add
    /// up a batch with.
    #[must_use]
    pub fn for_batch_of(self, tokens: u64, squares: u64) -> Self {
        if self.corrections == NONE {
            return self;
        }
        let factor = correction_1024(&self.corrections, tokens, squares);
        Self {
            ns_per_batch: scaled(self.ns_per_batch, factor),
            ns_per_token: scaled(self.ns_per_token, factor).max(1),
            ps_per_square: scaled(self.ps_per_square, factor),
            corrections: NONE,
            ..self
        }
    }

    /// [`Cost::for_batch_of`] the next batch of what waits, which may have `tokens_max` tokens: as long as
    /// nobody has chosen it, its texts are taken to be like all of them.
    #[must_use]
    pub fn for_next_batch(self, tokens: u64, squares: u64, tokens_max: u64) -> Self {
        let tokens = tokens.max(1);
        let most = tokens.min(tokens_max.max(1));
        let share = u128::from(squares) * u128::from(most) / u128::from(tokens);
        self.for_batch_of(most, u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// What texts of `tokens` tokens and `squares` squared tokens add to a batch by the coefficients alone, in
    /// nanoseconds.
    #[must_use]
    pub fn work_ns(self, tokens: u64, squares: u64) -> u64 {
        let squares = u128::from(self.ps_per_square) * u128::from(squares) / 1_000;
        self.ns_per_token
            .saturating_mul(tokens)
            .saturating_add(u64::try_from(squares).unwrap_or(u64::MAX))
    }

    /// What `tokens` tokens in texts of the usual lengths add to a batch, in nanoseconds.
    #[must_use]
    pub fn usual_work_ns(self, tokens: u64) -> u64 {
        let squares = tokens.saturating_mul(self.squares_per_token);
        self.corrected(self.work_ns(tokens, squares), tokens, squares)
    }

    /// Time for a batch of `tokens` tokens in texts of the usual lengths, in nanoseconds.
    #[must_use]
    pub fn batch_ns(self, tokens: u64) -> u64 {
        let squares = tokens.saturating_mul(self.squares_per_token);
        self.time_ns(tokens, squares)
    }

    /// Time for a batch of `tokens` tokens and `squares` squared tokens, in nanoseconds.
    #[must_use]
    pub fn time_ns(self, tokens: u64, squares: u64) -> u64 {
        let work_ns = self.work_ns(tokens, squares);
        self.corrected(self.ns_per_batch.saturating_add(work_ns), tokens, squares)
    }

    /// Time until a worker with this load has done `tokens` more tokens, in nanoseconds.
    #[must_use]
    pub fn completion_ns(self, load: &Load, tokens: u64) -> u64 {
        self.batch_ns(load.tokens.saturating_add(tokens))
    }

    /// The most tokens that a batch of the shortest texts may hold to take at most `target_ns`; at least
    /// one.
    #[must_use]
    pub fn tokens_within(self, target_ns: u64) -> u64 {
        let within =
            |ns: u64| (ns.saturating_sub(self.ns_per_batch) / self.ns_per_token.max(1)).max(1);
        if self.corrections == NONE {
            return within(target_ns);
        }
        // No factor is less than 1/1024.
        let (mut low, mut high) = (1, within(target_ns.saturating_mul(1024)));
        while low < high {
            let middle = high - (high - low) / 2;
            if self.shortest_ns(middle) <= target_ns {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low
    }

    /// The inverse of [`Cost::tokens_within`]: time for a batch of so many tokens of the shortest texts,
    /// in nanoseconds.
    #[must_use]
    pub fn shortest_ns(self, tokens: u64) -> u64 {
        self.time_ns(tokens, 0)
    }

    fn corrected(&self, ns: u64, tokens: u64, squares: u64) -> u64 {
        if self.corrections == NONE {
            return ns;
        }
        scaled(ns, correction_1024(&self.corrections, tokens, squares))
    }
}

/// `value` times `factor` over 1024, to the nearest.
fn scaled(value: u64, factor: u64) -> u64 {
    let scaled = (u128::from(value) * u128::from(factor) + 512) / 1024;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_counts_where_it_has_an_opinion() {
        let index = WorkerIndex::new(2).unwrap();
        let mut plan = Plan::default();
        assert_eq!(Cost::from_plan(None, index), Cost::DEFAULT);
        assert_eq!(Cost::from_plan(Some(&plan), index), Cost::DEFAULT);
        plan.workers[2] = WorkerPlan {
            ns_per_token: 7,
            ns_per_batch: 3,
            ..WorkerPlan::default()
        };
        let cost = Cost::from_plan(Some(&plan), index);
        assert_eq!(cost.batch_ns(10), 73);
        assert_eq!(cost.worst_1024, Cost::DEFAULT.worst_1024, "no bound yet");
        plan.workers[2].worst_1024 = 2_048;
        assert_eq!(Cost::from_plan(Some(&plan), index).worst_1024, 2_048);
    }

    #[test]
    fn long_texts_cost_more_than_their_tokens() {
        let cost = Cost {
            ns_per_batch: 1_000,
            ns_per_token: 10,
            ps_per_square: 500,
            squares_per_token: 20,
            ..Cost::DEFAULT
        };
        // One text of 100 tokens, ten of 10, and 100 tokens of nobody knows which.
        assert_eq!(cost.work_ns(100, 10_000), 1_000 + 5_000);
        assert_eq!(cost.work_ns(100, 1_000), 1_000 + 500);
        assert_eq!(cost.batch_ns(100), 1_000 + 1_000 + 1_000);
        assert_eq!(cost.shortest_ns(cost.tokens_within(9_000)), 9_000);
    }

    #[test]
    fn tokens_within_is_the_inverse_of_batch_ns() {
        let cost = Cost {
            ns_per_batch: 1_000,
            ns_per_token: 10,
            ..Cost::DEFAULT
        };
        assert_eq!(cost.tokens_within(2_000), 100);
        assert!(cost.batch_ns(cost.tokens_within(2_000)) <= 2_000);
        assert_eq!(
            cost.tokens_within(0),
            1,
            "one text must always be able to run"
        );
    }

    /// Twice the time for batches of 1,024 tokens and more, half of it for those of up to 512.
    fn corrected() -> Cost {
        let mut corrections = NONE;
        for (at, line) in corrections.iter_mut().enumerate() {
            *line = [if at < 7 { 512 } else { 2_048 }; 4];
        }
        Cost {
            ns_per_batch: 1_000,
            ns_per_token: 10,
            ps_per_square: 100,
            squares_per_token: 20,
            corrections,
            ..Cost::DEFAULT
        }
    }

    #[test]
    fn corrections_apply_to_every_prediction_of_a_batch() {
        let (cost, plain) = (
            corrected(),
            Cost {
                corrections: NONE,
                ..corrected()
            },
        );
        for (tokens, twice) in [(100, 1), (512, 1), (1_024, 4), (5_000, 4)] {
            assert_eq!(cost.batch_ns(tokens) * 2, plain.batch_ns(tokens) * twice);
            assert_eq!(
                cost.usual_work_ns(tokens) * 2,
                plain.usual_work_ns(tokens) * twice
            );
            assert_eq!(
                cost.time_ns(tokens, 0) * 2,
                plain.time_ns(tokens, 0) * twice
            );
            let sized = cost.for_batch_of(tokens, 0);
            assert_eq!(sized.corrections, NONE);
            assert_eq!(
                sized.ns_per_batch + sized.work_ns(tokens, 0),
                cost.time_ns(tokens, 0)
            );
        }
        let mut plan = Plan::default();
        plan.workers[0].ns_per_token = 7;
        plan.workers[0].corrections = cost.corrections;
        let found = Cost::from_plan(Some(&plan), WorkerIndex::new(0).unwrap());
        assert_eq!(found.corrections, cost.corrections);
    }

    #[test]
    fn with_corrections_too_tokens_within_is_the_inverse() {
        let cost = corrected();
        for target_ns in [1, 600, 3_000, 6_000, 10_000, 22_000, 1_000_000] {
            let tokens = cost.tokens_within(target_ns);
            assert!(
                tokens == 1 || cost.shortest_ns(tokens) <= target_ns,
                "{target_ns}"
            );
            assert!(
                cost.shortest_ns(tokens + 1) > target_ns,
                "{target_ns}: {tokens}"
            );
        }
    }

    #[test]
    fn hostile_numbers_saturate() {
        let cost = Cost {
            ns_per_batch: u64::MAX,
            ns_per_token: u64::MAX,
            ps_per_square: u64::MAX,
            squares_per_token: u64::MAX,
            ..Cost::DEFAULT
        };
        assert_eq!(cost.batch_ns(u64::MAX), u64::MAX);
        assert_eq!(cost.work_ns(u64::MAX, u64::MAX), u64::MAX);
    }
}

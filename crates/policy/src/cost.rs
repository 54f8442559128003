//! What a batch is predicted to cost: a fixed part and a part per token.

use embedring_protocol::{Load, Plan, WorkerIndex, WorkerPlan};

/// A plan older than this is no longer followed: ten minutes without a scheduler is not a restart.
const PLAN_STALE_NS: u64 = 600 * 1_000_000_000;

/// Predicted time of a batch: `ns_per_batch + tokens × ns_per_token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Nanoseconds per batch, whatever is in it.
    pub ns_per_batch: u64,
    /// Nanoseconds per token.
    pub ns_per_token: u64,
}

impl Cost {
    /// Before anything was measured: a small model on two ordinary cores. Equal for all workers, so
    /// that the first requests spread evenly.
    pub const DEFAULT: Self = Self {
        ns_per_batch: 1_000_000,
        ns_per_token: 500_000,
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
        }
    }

    /// From the plan, where it has an opinion.
    #[must_use]
    pub fn planned(plan: Option<&Plan>, worker: WorkerIndex) -> Option<Self> {
        plan.map(|plan| plan.workers[worker.get()])
            .filter(|entry| entry.ns_per_token > 0)
            .map(Self::from_entry)
    }

    /// What `tokens` tokens add to a batch, in nanoseconds.
    #[must_use]
    pub fn work_ns(self, tokens: u64) -> u64 {
        self.ns_per_token.saturating_mul(tokens)
    }

    /// Time for a batch of `tokens` tokens, in nanoseconds.
    #[must_use]
    pub fn batch_ns(self, tokens: u64) -> u64 {
        self.ns_per_batch
            .saturating_add(self.ns_per_token.saturating_mul(tokens))
    }

    /// Time until a worker with this load has done `tokens` more tokens, in nanoseconds.
    #[must_use]
    pub fn completion_ns(self, load: &Load, tokens: u64) -> u64 {
        self.batch_ns(load.tokens.saturating_add(tokens))
    }

    /// The most tokens a batch may hold to take at most `target_ns`; at least one.
    #[must_use]
    pub fn tokens_within(self, target_ns: u64) -> u64 {
        (target_ns.saturating_sub(self.ns_per_batch) / self.ns_per_token.max(1)).max(1)
    }
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
        assert_eq!(Cost::from_plan(Some(&plan), index).batch_ns(10), 73);
    }

    #[test]
    fn tokens_within_is_the_inverse_of_batch_ns() {
        let cost = Cost {
            ns_per_batch: 1_000,
            ns_per_token: 10,
        };
        assert_eq!(cost.tokens_within(2_000), 100);
        assert!(cost.batch_ns(cost.tokens_within(2_000)) <= 2_000);
        assert_eq!(
            cost.tokens_within(0),
            1,
            "one text must always be able to run"
        );
    }

    #[test]
    fn hostile_numbers_saturate() {
        let cost = Cost {
            ns_per_batch: u64::MAX,
            ns_per_token: u64::MAX,
        };
        assert_eq!(cost.batch_ns(u64::MAX), u64::MAX);
    }
}

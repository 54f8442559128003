//! From reports to the plan: the scheduler's first, conservative version.
//!
//! Each worker's batches are fitted by `t = a + b·tokens` with exponentially forgotten sums (weighted
//! least squares on a line). The plan carries `a` and `b` for routing and admission, and bounds a
//! batch so that it takes about the configured time: that is how long a newcomer can be kept waiting
//! by a batch that has begun.

use embedring_protocol::limits::WORKERS_MAX;
use embedring_protocol::{Plan, Report, WorkerPlan};

use crate::cost::Cost;

/// How much each new batch makes older ones count less: half is forgotten after 34 batches.
const KEEP: f64 = 0.98;

/// How many times its predicted time a batch counts for at most.
const OUTLIER: u64 = 4;

/// Batches before a worker's measured cost replaces the default.
const REPORTS_MIN: u64 = 3;

/// Texts of the fullest batch a plan allows the queue to hold, in batches.
const QUEUE_BATCHES: u64 = 64;

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct PlanningInput {
    /// How long a batch should take at most, in nanoseconds.
    pub batch_time_target_ns: u64,
    /// When the plan is made, nanoseconds.
    pub now_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Fit {
    reports: u64,
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Fit {
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds and tokens of one batch"
    )]
    fn add(&mut self, report: &Report) {
        // One batch during which the process was stopped says nothing about the next. A device that
        // has really become so slow is believed after a few batches more.
        let believable_ns = self.cost().map_or(u64::MAX, |cost| {
            cost.batch_ns(report.tokens).saturating_mul(OUTLIER)
        });
        let run_ns = report.run_ns.min(believable_ns);
        let (x, y) = (report.tokens as f64, run_ns as f64);
        self.reports += 1;
        self.weight = self.weight * KEEP + 1.0;
        self.x = self.x * KEEP + x;
        self.y = self.y * KEEP + y;
        self.xx = self.xx * KEEP + x * x;
        self.xy = self.xy * KEEP + x * y;
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "both are clamped to be positive; beyond 2^53 ns a cast saturates"
    )]
    fn cost(&self) -> Option<Cost> {
        if self.reports < REPORTS_MIN || self.x <= 0.0 {
            return None;
        }
        let variance = self.xx - self.x * self.x / self.weight;
        // All batches alike: the line through the origin.
        let through_origin = self.y / self.x;
        let slope = if variance > self.xx * 1e-6 {
            (self.xy - self.x * self.y / self.weight) / variance
        } else {
            through_origin
        };
        // A slope that noise turned negative or steeper than the whole cost says nothing.
        let slope = slope.clamp(through_origin * 0.1, through_origin);
        let fixed = ((self.y - slope * self.x) / self.weight).max(0.0);
        Some(Cost {
            ns_per_batch: fixed as u64,
            ns_per_token: (slope as u64).max(1),
        })
    }
}

/// Turns reports into plans. Holds a few numbers per worker and no clock.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    fits: [Fit; WORKERS_MAX],
    epoch: u64,
}

impl Planner {
    /// Takes in how a batch of worker `worker` went.
    pub fn observe(&mut self, worker: usize, report: &Report) {
        if report.tokens == 0 {
            return;
        }
        if let Some(fit) = self.fits.get_mut(worker) {
            fit.add(report);
        }
    }

    /// Forgets a worker: another process, maybe another model, has its place now.
    pub fn forget(&mut self, worker: usize) {
        if let Some(fit) = self.fits.get_mut(worker) {
            *fit = Fit::default();
        }
    }

    /// The next plan.
    pub fn plan(&mut self, input: PlanningInput) -> Plan {
        self.epoch += 1;
        let workers = self.fits.map(|fit| {
            fit.cost().map_or_else(WorkerPlan::default, |cost| {
                let batch_tokens_max = cost.tokens_within(input.batch_time_target_ns);
                WorkerPlan {
                    ns_per_token: cost.ns_per_token,
                    ns_per_batch: cost.ns_per_batch,
                    batch_tokens_max,
                    queue_tokens_max: batch_tokens_max.saturating_mul(QUEUE_BATCHES),
                }
            })
        });
        Plan {
            epoch: self.epoch,
            published_ns: input.now_ns,
            workers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: PlanningInput = PlanningInput {
        batch_time_target_ns: 1_000_000,
        now_ns: 5,
    };

    fn report(tokens: u64, run_ns: u64) -> Report {
        Report {
            tokens,
            run_ns,
            ..Report::default()
        }
    }

    #[test]
    fn no_reports_no_opinion() {
        let plan = Planner::default().plan(INPUT);
        assert_eq!((plan.epoch, plan.published_ns), (1, 5));
        assert_eq!(plan.workers, [WorkerPlan::default(); WORKERS_MAX]);
    }

    #[test]
    fn a_line_is_found_and_bounds_the_batch() {
        let mut planner = Planner::default();
        for tokens in [10, 100, 300, 50, 200, 10, 400] {
            planner.observe(1, &report(tokens, 20_000 + tokens * 1_000));
        }
        let entry = planner.plan(INPUT).workers[1];
        assert!((990..=1_010).contains(&entry.ns_per_token), "{entry:?}");
        assert!((19_000..=21_000).contains(&entry.ns_per_batch), "{entry:?}");
        assert!((960..=1_000).contains(&entry.batch_tokens_max), "{entry:?}");
        assert!(entry.queue_tokens_max > entry.batch_tokens_max);
    }

    #[test]
    fn equal_batches_and_noise_give_a_positive_cost() {
        let mut planner = Planner::default();
        for _ in 0..10 {
            planner.observe(0, &report(16, 160_000));
        }
        assert_eq!(planner.plan(INPUT).workers[0].ns_per_token, 10_000);
        for (tokens, ns) in [(100, 10), (1, 5_000_000), (50, 100)] {
            planner.observe(2, &report(tokens, ns));
        }
        assert!(planner.plan(INPUT).workers[2].ns_per_token > 0);
    }

    #[test]
    fn one_batch_during_a_stop_does_not_count_for_a_minute() {
        let mut planner = Planner::default();
        for _ in 0..50 {
            planner.observe(0, &report(100, 100_000));
        }
        planner.observe(0, &report(100, 60_000_000_000));
        let entry = planner.plan(INPUT).workers[0];
        assert!((1_000..=1_200).contains(&entry.ns_per_token), "{entry:?}");
        for _ in 0..200 {
            planner.observe(0, &report(100, 60_000_000));
        }
        let entry = planner.plan(INPUT).workers[0];
        assert!(entry.ns_per_token > 500_000, "{entry:?}");
    }

    #[test]
    fn a_device_that_slows_down_is_believed_within_a_hundred_batches() {
        let mut planner = Planner::default();
        for round in 0..300u64 {
            planner.observe(
                0,
                &report(100 + round % 7 * 30, (100 + round % 7 * 30) * 1_000),
            );
        }
        for round in 0..100u64 {
            planner.observe(
                0,
                &report(100 + round % 7 * 30, (100 + round % 7 * 30) * 2_000),
            );
        }
        let entry = planner.plan(INPUT).workers[0];
        assert!((1_700..=2_100).contains(&entry.ns_per_token), "{entry:?}");
        planner.forget(0);
        assert_eq!(planner.plan(INPUT).workers[0], WorkerPlan::default());
    }
}

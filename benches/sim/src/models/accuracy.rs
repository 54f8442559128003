//! Predictions of one stream of batches, each made from the plan that stood before it.

use embedring_learned::Library;
use embedring_optimizer::{Planner, PlanningInput};
use embedring_policy::Cost;
use embedring_protocol::{Report, WorkerIndex};
use embedring_traffic::Arrivals;
use serde::Serialize;

use crate::arrivals::requests;
use crate::device::{Device, float};
use crate::ours::{Ours, PLAN_EVERY};
use crate::request::Request;
use crate::run::{Next, Policy, run};
use crate::teacher::Teacher;

/// Batches at the beginning that are learned from and not counted.
const NOT_COUNTED: usize = 1_000;
/// Share of batches that bounds are aimed at.
const QUANTILE: f64 = 0.99;

/// Batches as they ran, on a device that was not always full.
#[derive(Debug)]
pub(crate) struct Stream {
    reports: Vec<Report>,
}

/// How good the predictions were.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Accuracy {
    pub(crate) batches: usize,
    /// Mean of the error's size over the time.
    pub(crate) mape: f64,
    /// Mean pinball loss of the bound at .99, over the time.
    pub(crate) pinball: f64,
    /// Share of batches within their bound.
    pub(crate) coverage: f64,
    /// Share of batches that a learned model predicted.
    pub(crate) learned: f64,
}

/// Notes what ran.
struct Recorder {
    ours: Ours,
    now_ns: u64,
    reports: Vec<Report>,
}

impl Policy for Recorder {
    fn arrive(&mut self, request: Request) {
        self.ours.arrive(request);
    }

    fn next(&mut self, now_ns: u64) -> Next {
        self.now_ns = now_ns;
        self.ours.next(now_ns)
    }

    fn ran(&mut self, batch: &[Request], run_ns: u64) {
        self.reports.push(self.ours.report(batch, run_ns));
        self.ours.ran(batch, run_ns);
    }
}

impl Stream {
    /// Of the analytic model's choices, first half empty, then half as much again as it can do.
    pub(crate) fn record(device: &Device, count: usize) -> Self {
        let mut reports = Vec::new();
        for (load, seed) in [(0.6, 901), (1.5, 902)] {
            let mut recorder = Recorder {
                ours: Ours::learning(device),
                now_ns: 0,
                reports: Vec::new(),
            };
            let requests = requests(&Arrivals::Bursty, device, load, count / 2, seed);
            run(device, &requests, &mut recorder, seed);
            reports.push(recorder.reports);
        }
        // In turns of a hundred batches, as load comes and goes.
        let mut mixed = Vec::new();
        let [low, high] = &reports[..] else {
            return Self { reports: mixed };
        };
        for (low, high) in low.chunks(100).zip(high.chunks(100)) {
            mixed.extend_from_slice(low);
            mixed.extend_from_slice(high);
        }
        let mut end_ns = 0;
        for report in &mut mixed {
            end_ns += report.run_ns + 1_000;
            report.finished_ns = end_ns;
        }
        Self { reports: mixed }
    }

    /// Predicts all of it; gives the milliseconds that each learning took as well.
    pub(crate) fn replay(&self, library: Option<&'static dyn Library>) -> (Accuracy, Vec<f64>) {
        let mut planner = Planner::default();
        let mut teacher = library.map(Teacher::new);
        if teacher.is_some() {
            planner.learn();
        }
        let mut cost = None;
        let mut sum = Accuracy::default();
        for (at, report) in self.reports.iter().enumerate() {
            if let Some(cost) = cost.filter(|_| at >= NOT_COUNTED) {
                sum.add(cost, report, planner.is_learned(0));
            }
            planner.observe(0, report);
            let number = at as u64 + 1;
            if number < PLAN_EVERY || number.is_multiple_of(PLAN_EVERY) {
                if let Some(teacher) = &mut teacher {
                    teacher.teach(&mut planner);
                }
                let plan = planner.plan(PlanningInput {
                    batch_time_target_ns: 100_000_000,
                    now_ns: 0,
                });
                cost = WorkerIndex::new(0).and_then(|at| Cost::planned(Some(&plan), at));
            }
        }
        let took_ms = teacher.map(|teacher| teacher.took_ms).unwrap_or_default();
        (sum.means(), took_ms)
    }
}

impl Accuracy {
    fn add(&mut self, cost: Cost, report: &Report, learned: bool) {
        let run_ns = float(report.run_ns);
        let predicted_ns = float(cost.time_ns(report.tokens, report.tokens_squared));
        let over = run_ns - predicted_ns * float(cost.worst_1024) / 1024.0;
        self.batches += 1;
        self.mape += (run_ns - predicted_ns).abs() / run_ns;
        self.pinball += (over * QUANTILE).max(-over * (1.0 - QUANTILE)) / run_ns;
        self.coverage += if over <= 0.0 { 1.0 } else { 0.0 };
        self.learned += if learned { 1.0 } else { 0.0 };
    }

    fn means(self) -> Self {
        let count = float(self.batches.max(1) as u64);
        Self {
            batches: self.batches,
            mape: self.mape / count,
            pinball: self.pinball / count,
            coverage: self.coverage / count,
            learned: self.learned / count,
        }
    }
}

//! Ours: the schedule of the policy crate, with the true costs or with those that the optimizer's planner learns
//! from the batches that ran.

use embedring_learned::Library;
use embedring_optimizer::{Planner, PlanningInput};
use embedring_policy::{Cost, Limits, Schedule, Trials, Waiting, at_best};
use embedring_protocol::{Report, WorkerIndex};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::device::{Costs, Device, float, whole};
use crate::request::{Kind, Request};
use crate::run::{Next, Policy};
use crate::teacher::Teacher;

/// Batches from one plan to the next; the first ones come as soon as there is something to plan from.
pub(crate) const PLAN_EVERY: u64 = 16;
/// Tokens of a batch at most, before there is a plan.
const TOKENS_MAX: u64 = 8_192;
/// A batch takes at most this part of the tightest time that anybody has.
const BATCH_SHARE: f64 = 0.5;
/// How long a worker tries its device out; see its `trial.rs`.
const TRIAL_NS: u64 = 200_000_000;
/// Of the mix: Σ tokens² / Σ tokens.
const SQUARES_PER_TOKEN: u64 = 170;

/// The worker's and the scheduler's part in one.
#[derive(Debug)]
pub(crate) struct Ours {
    costs: Costs,
    worst_1024: u64,
    /// What clients see of the plan: costs, and tokens that a batch may hold.
    plan: Option<(Cost, u64)>,
    learns: Option<Planner>,
    /// What learns beside the analytic model.
    teacher: Option<Teacher>,
    /// What the plan says, with its corrections.
    planned: Option<Cost>,
    tokens_max: u64,
    began_ns: u64,
    /// When the running batch should be done; 0 when none runs.
    free_ns: u64,
    /// What the operator allows.
    batch_time_target_ns: u64,
    batch_ns_max: u64,
    batches: u64,
    queue: Vec<Request>,
    waiting: Vec<Waiting>,
    schedule: Schedule,
}

impl Ours {
    /// Knows what batches cost.
    pub(crate) fn knowing(device: &Device) -> Self {
        let batch_time_target_ns = whole(float(device.deadline_ns) * BATCH_SHARE);
        let cost = true_cost(&device.costs);
        Self {
            costs: device.costs,
            worst_1024: Cost::DEFAULT.worst_1024,
            plan: Some((cost, cost.tokens_within(batch_time_target_ns))),
            learns: None,
            teacher: None,
            planned: None,
            tokens_max: TOKENS_MAX,
            began_ns: 0,
            free_ns: 0,
            batch_time_target_ns,
            batch_ns_max: batch_time_target_ns,
            batches: 0,
            queue: Vec::new(),
            waiting: Vec::new(),
            schedule: Schedule::default(),
        }
    }

    /// Knows what a few batches before the first request took, as a worker runs them when it begins.
    pub(crate) fn learning(device: &Device) -> Self {
        let mut ours = Self::knowing_nothing(device);
        let mut random = ChaCha8Rng::seed_from_u64(0x7e57);
        let mut trials = Trials::within(TRIAL_NS);
        while let Some((texts, tokens)) = trials.next_shape() {
            let request = Request {
                kind: Kind::Question,
                arrived_ns: 0,
                deadline_ns: 0,
                tokens: tokens as u64,
            };
            let batch = vec![request; texts];
            let run_ns = device.run_ns(&batch, &mut random);
            trials.ran((texts, tokens), run_ns);
            ours.ran(&batch, run_ns);
        }
        ours
    }

    /// Like a worker without a plan: a token counts as a nanosecond, and only order and bounds count.
    fn knowing_nothing(device: &Device) -> Self {
        Self {
            costs: Costs {
                fixed_ns: 0.0,
                token_ns: 1.0,
                square_ns: 0.0,
            },
            plan: None,
            learns: Some(Planner::default()),
            batch_ns_max: TOKENS_MAX,
            ..Self::knowing(device)
        }
    }

    /// The same with a library beside the analytic model.
    pub(crate) fn taught(device: &Device, library: &'static dyn Library) -> Self {
        let mut planner = Planner::default();
        planner.learn();
        Self {
            learns: Some(planner),
            teacher: Some(Teacher::new(library)),
            ..Self::learning(device)
        }
    }

    /// Whether a learned model was promoted.
    pub(crate) fn is_learned(&self) -> bool {
        let planner = self.learns.as_ref();
        planner.is_some_and(|planner| planner.is_learned(0))
    }

    /// What a worker would report of a batch that ran just now.
    pub(crate) fn report(&self, batch: &[Request], run_ns: u64) -> Report {
        let tokens = || batch.iter().map(|request| request.tokens);
        Report {
            batch: self.batches,
            finished_ns: self.began_ns + run_ns,
            texts: batch.len() as u64,
            tokens: tokens().sum(),
            tokens_squared: tokens().map(|tokens| tokens.pow(2)).sum(),
            run_ns,
            longest_tokens: tokens().max().unwrap_or(0),
            waiting_tokens: self.queue.iter().map(|request| request.tokens).sum(),
            ..Report::default()
        }
    }

    /// The costs that hold for the next batch, as the worker takes them.
    fn take_planned(&mut self) {
        let Some(cost) = self.planned else { return };
        let tokens = || self.queue.iter().map(|request| request.tokens);
        let squares = tokens().map(|tokens| tokens.pow(2)).sum();
        let cost = cost.for_next_batch(tokens().sum(), squares, self.tokens_max);
        self.costs.fixed_ns = float(cost.ns_per_batch);
        self.costs.token_ns = float(cost.ns_per_token);
        self.costs.square_ns = float(cost.ps_per_square) / 1e3;
        self.worst_1024 = cost.worst_1024;
    }
}

impl Ours {
    /// Shows what waits to the schedule.
    fn see(&mut self) {
        self.waiting.clear();
        let costs = self.costs;
        self.waiting
            .extend(self.queue.iter().map(|request| seen(&costs, request)));
    }

    fn limits(&self) -> Limits {
        Limits {
            fixed_ns: whole(self.costs.fixed_ns),
            batch_ns_max: self.batch_ns_max,
            worst_1024: self.worst_1024,
        }
    }

    /// As a worker decides when a request arrives.
    fn admits(&mut self, request: &Request) -> bool {
        if self.queue.is_empty() && self.free_ns == 0 {
            return true;
        }
        self.take_planned();
        self.see();
        self.waiting.push(seen(&self.costs, request));
        for waiting in &mut self.waiting {
            waiting.work_ns = at_best(waiting.work_ns);
        }
        let limits = self.limits();
        let limits = Limits {
            fixed_ns: at_best(limits.fixed_ns),
            batch_ns_max: at_best(limits.batch_ns_max),
            ..limits
        };
        let now_ns = request.arrived_ns;
        let free_ns = now_ns + at_best(self.free_ns.saturating_sub(now_ns));
        let place = self.waiting.len() - 1;
        let forecast = self
            .schedule
            .forecast(&self.waiting, place, free_ns, limits);
        !forecast.is_left_out
    }
}

fn seen(costs: &Costs, request: &Request) -> Waiting {
    Waiting {
        due_ns: request.deadline_ns,
        deadline_ns: request.deadline_ns,
        work_ns: whole(costs.work_ns(request.tokens)),
        texts: 1,
        ..Waiting::default()
    }
}

/// What a planner that knows the device would publish; a token of the mix is in a text of about a hundred.
fn true_cost(costs: &Costs) -> Cost {
    Cost {
        ns_per_batch: whole(costs.fixed_ns),
        ns_per_token: whole(costs.token_ns).max(1),
        ps_per_square: whole(costs.square_ns * 1e3),
        squares_per_token: SQUARES_PER_TOKEN,
        ..Cost::DEFAULT
    }
}

impl Ours {
    /// What batches cost and how many tokens one may hold, once there is a plan.
    pub(crate) fn plan(&self) -> Option<(Cost, u64)> {
        self.plan
    }

    /// Those that wait.
    pub(crate) fn queue(&self) -> &[Request] {
        &self.queue
    }
}

impl Policy for Ours {
    fn arrive(&mut self, request: Request) {
        if self.admits(&request) {
            self.queue.push(request);
        }
    }

    fn next(&mut self, now_ns: u64) -> Next {
        self.queue.retain(|request| request.deadline_ns > now_ns);
        if self.queue.is_empty() {
            return Next::Idle;
        }
        self.began_ns = now_ns;
        self.take_planned();
        self.see();
        let limits = self.limits();
        let mut places = self
            .schedule
            .pick(&self.waiting, now_ns, limits)
            .places
            .to_vec();
        let batch: Vec<Request> = places.iter().map(|&place| self.queue[place]).collect();
        let work = batch.iter().map(|it| self.costs.work_ns(it.tokens));
        self.free_ns = now_ns + whole(self.costs.fixed_ns + work.sum::<f64>());
        places.sort_unstable();
        for place in places.into_iter().rev() {
            self.queue.swap_remove(place);
        }
        Next::Run(batch)
    }

    fn ran(&mut self, batch: &[Request], run_ns: u64) {
        self.batches += 1;
        self.free_ns = 0;
        let report = self.report(batch, run_ns);
        let Some(planner) = &mut self.learns else {
            return;
        };
        planner.observe(0, &report);
        if self.batches < PLAN_EVERY || self.batches.is_multiple_of(PLAN_EVERY) {
            let input = PlanningInput {
                batch_time_target_ns: self.batch_time_target_ns,
                now_ns: 0,
            };
            if let Some(teacher) = &mut self.teacher {
                teacher.teach(planner);
            }
            let plan = planner.plan(input);
            let entry = plan.workers[0];
            self.planned = WorkerIndex::new(0).and_then(|at| Cost::planned(Some(&plan), at));
            if let Some(cost) = self.planned {
                self.plan = Some((cost, entry.batch_tokens_max));
                self.batch_ns_max = self.batch_time_target_ns;
                self.tokens_max = entry.batch_tokens_max;
            }
        }
    }
}

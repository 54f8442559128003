//! From reports to the plan.
//!
//! The plan carries each worker's coefficients and bound for routing, admission and batching, and bounds
//! a batch so that it takes about the configured time: that is how long a newcomer can be kept waiting
//! by a batch that has begun.

use embedring_protocol::limits::WORKERS_MAX;
use embedring_protocol::{Accuracies, Plan, Report, WorkerIdentity, WorkerPlan};

use crate::fit::Coefficients;
use crate::learners::{Learners, Models, Questions, TrainingSet};
use crate::model::{Begun, Model};
use crate::saved::{Reader, RestoreError, Writer};

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

/// Turns reports into plans. Holds what is known of each worker and no clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Planner {
    models: [Option<Box<Model>>; WORKERS_MAX],
    /// Where models are learned beside the analytic ones.
    learners: Option<Box<Learners>>,
    epoch: u64,
}

impl Planner {
    /// A worker has begun at place `worker`, or is seen there for the first time. What is known of an
    /// earlier start of it holds on, weakly; what is known of another worker is forgotten. False when this
    /// very start is known already.
    pub fn begin(&mut self, worker: usize, identity: &WorkerIdentity) -> bool {
        let Some(model) = self.models.get_mut(worker) else {
            return false;
        };
        let begun = model.get_or_insert_default().begin(identity);
        if let Some(learners) = self.learners.as_mut().filter(|_| begun == Begun::Anew) {
            learners.forget(worker);
        }
        begun != Begun::Known
    }

    /// Takes in how a batch of worker `worker` went. A report that can not be true is passed over.
    pub fn observe(&mut self, worker: usize, report: &Report) {
        let Some(model) = self.models.get_mut(worker) else {
            return;
        };
        let model = model.get_or_insert_default();
        let learners = self.learners.as_deref();
        let champion = learners.and_then(|learners| learners.champion(worker));
        let observed = model.observe(report, champion);
        if let (Some(learners), Some(observed)) = (&mut self.learners, observed) {
            learners.observe(worker, model.identity(), report, observed);
        }
    }

    /// From now on keeps what models are learned from, and gives it out.
    pub fn learn(&mut self) {
        self.learners.get_or_insert_default();
    }

    /// Whether the predictions of a worker are those of a learned model.
    #[must_use]
    pub fn is_learned(&self, worker: usize) -> bool {
        let learners = self.learners.as_deref();
        learners.is_some_and(|learners| learners.champion(worker).is_some())
    }

    /// Something to learn from and what to ask the model that comes of it, when it is time for one; never
    /// before [`Planner::answer`] was called for the last.
    pub fn training(&mut self) -> Option<(TrainingSet, Questions)> {
        let models = &self.models;
        let base = |at: usize| -> Option<Coefficients> { models[at].as_ref()?.known() };
        self.learners.as_mut()?.training(base)
    }

    /// What each model in use is to be asked, because circumstances change.
    #[must_use]
    pub fn questions(&self) -> Vec<Questions> {
        let learners = self.learners.as_deref();
        learners.map(Learners::questions).unwrap_or_default()
    }

    /// Takes in what a model answered; an empty slice when there is no model, or it failed.
    pub fn answer(&mut self, questions: &Questions, answers: &[f32]) {
        if let Some(learners) = &mut self.learners {
            learners.answer(questions, answers);
        }
    }

    /// What was kept to learn from, and those of `models` that are in use, as bytes for
    /// [`Planner::restore_learned`]; nothing where nothing is learned.
    #[must_use]
    pub fn save_learned(&self, models: &[(u64, Vec<u8>)]) -> Option<Vec<u8>> {
        Some(self.learners.as_deref()?.save(models))
    }

    /// Goes on with what [`Planner::save_learned`] gave, as [`Planner::learn`] does without it; gives the
    /// models.
    ///
    /// # Errors
    /// As [`Planner::restore`].
    pub fn restore_learned(&mut self, saved: &[u8]) -> Result<Models, RestoreError> {
        let (learners, models) = Learners::restore(saved)?;
        self.learners = Some(Box::new(learners));
        Ok(models)
    }

    /// The next plan.
    pub fn plan(&mut self, input: PlanningInput) -> Plan {
        self.epoch = self.epoch.saturating_add(1);
        let learners = self.learners.as_deref();
        let entry = |at: usize| {
            let model = self.models[at].as_ref()?;
            let cost = model.cost(learners.and_then(|learners| learners.champion(at)))?;
            let in_time = cost.tokens_within(input.batch_time_target_ns);
            let in_memory = model.tokens_in_memory().unwrap_or(u64::MAX);
            let batch_tokens_max = in_time.min(in_memory).max(1);
            Some(WorkerPlan {
                ns_per_token: cost.ns_per_token,
                ns_per_batch: cost.ns_per_batch,
                ps_per_square: cost.ps_per_square,
                squares_per_token: cost.squares_per_token,
                worst_1024: cost.worst_1024,
                batch_tokens_max,
                queue_tokens_max: batch_tokens_max.saturating_mul(QUEUE_BATCHES),
                corrections: cost.corrections,
            })
        };
        Plan {
            epoch: self.epoch,
            published_ns: input.now_ns,
            workers: std::array::from_fn(|at| entry(at).unwrap_or_default()),
        }
    }

    /// How good the predictions of each worker's batches were.
    #[must_use]
    pub fn accuracies(&self) -> Accuracies {
        Accuracies {
            workers: std::array::from_fn(|at| {
                let model = self.models[at].as_ref();
                model.map(|model| model.accuracy()).unwrap_or_default()
            }),
        }
    }

    /// All that is known, as bytes for [`Planner::restore`].
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(self.epoch);
        for model in &self.models {
            writer.number(u64::from(model.is_some()));
            if let Some(model) = model {
                model.write(&mut writer);
            }
        }
        writer.finish()
    }

    /// A planner that knows what another one saved. The bytes may be anything.
    ///
    /// # Errors
    /// When the bytes are not whole, of another version, or hold a number that can not be.
    pub fn restore(saved: &[u8]) -> Result<Self, RestoreError> {
        let mut reader = Reader::new(saved)?;
        Self::read(&mut reader)
            .filter(|_| reader.is_at_end())
            .ok_or(RestoreError::Impossible)
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let mut planner = Self {
            epoch: from.number()?,
            ..Self::default()
        };
        for model in &mut planner.models {
            *model = match from.number()? {
                0 => None,
                _ => Some(Box::new(Model::read(from)?)),
            };
        }
        Some(planner)
    }
}

#[cfg(test)]
mod tests;

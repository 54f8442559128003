//! When a model is to be learned, from what, and what its answers are good for.
//!
//! Nothing here learns: rows go out, and answers come back whenever somebody has learned from them, on
//! another thread or in another process. One model is learned for all workers, since what a step in the
//! cost of one device looks like holds for its neighbour too; the worker is a column.

use embedring_protocol::limits::WORKERS_MAX;
use embedring_protocol::{Report, WorkerIdentity};

use crate::contest::{Contender, Prediction, Verdict, places};
use crate::fit::Coefficients;
use crate::history::{FEATURES, History};
use crate::number::{Batch, float};
use crate::saved::{Reader, RestoreError, Writer};

/// Batches of a worker before anything is learned of it.
const ROWS_MIN: usize = 256;
/// New batches before something is learned again, at least; with long histories, a quarter of them.
const FRESH_MIN: usize = 256;
/// Bytes of a saved model at most.
const MODEL_BYTES_MAX: usize = 4 << 20;
/// Models that are kept at most: a worker has two.
const MODELS_MAX: usize = 2 * WORKERS_MAX;
/// First number of what is saved, which tells it from a planner's.
const TAG: u64 = u64::from_le_bytes(*b"learned1");

/// Something to learn from.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingSet {
    /// Rows, one after the other, of [`TrainingSet::WIDTH`] numbers each.
    pub rows: Vec<f32>,
    /// For each row the logarithm of a batch's time over the analytic prediction.
    pub targets: Vec<f32>,
}

impl TrainingSet {
    /// Numbers in a row.
    pub const WIDTH: usize = FEATURES;
}

/// Rows that a model is to answer, like those it learned from.
#[derive(Clone, Debug, PartialEq)]
pub struct Questions {
    /// Number of the model.
    pub model: u64,
    /// Rows, one after the other.
    pub rows: Vec<f32>,
    workers: Vec<usize>,
}

/// Saved models with their numbers.
pub type Models = Vec<(u64, Vec<u8>)>;

/// One worker's.
#[derive(Clone, Debug, Default, PartialEq)]
struct Learner {
    history: History,
    /// Whose predictions are published instead of the analytic ones.
    champion: Option<Contender>,
    /// Who wants to be.
    challenger: Option<Contender>,
    /// What the model that is being learned corrects.
    pending: Option<Coefficients>,
    /// The device has changed and nothing was learned of it since.
    changed: bool,
}

/// All workers'.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Learners {
    workers: Vec<Learner>,
    /// Batches since something was learned last.
    fresh: usize,
    /// Number of the model that is being learned.
    pending: Option<u64>,
    models: u64,
}

/// What became of a batch in the analytic model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observed {
    pub(crate) batch: Batch,
    pub(crate) prediction: Prediction,
    /// The device was found to have changed.
    pub(crate) changed: bool,
}

impl Default for Learners {
    fn default() -> Self {
        Self {
            workers: vec![Learner::default(); WORKERS_MAX],
            fresh: 0,
            pending: None,
            models: 0,
        }
    }
}

impl Learners {
    /// Another worker has the place.
    pub(crate) fn forget(&mut self, worker: usize) {
        if let Some(learner) = self.workers.get_mut(worker) {
            *learner = Learner::default();
        }
    }

    /// Who is published for a worker instead of the analytic model.
    pub(crate) fn champion(&self, worker: usize) -> Option<&Contender> {
        self.workers.get(worker)?.champion.as_ref()
    }

    /// Takes in a batch.
    pub(crate) fn observe(
        &mut self,
        worker: usize,
        identity: Option<&WorkerIdentity>,
        report: &Report,
        observed: Observed,
    ) {
        let Some(learner) = self.workers.get_mut(worker) else {
            return;
        };
        if learner.observe(&observed) {
            // The analytic model, which is quick to learn, takes over at once.
            learner.champion = None;
            learner.challenger = None;
            learner.pending = None;
            learner.history.clear();
            learner.changed = true;
        }
        let score = (observed.batch.run_ns / observed.prediction.ns).ln();
        learner.history.add(worker, identity, report, score);
        self.fresh += 1;
    }

    /// What to learn from, when it is time to: not while something is being learned, and not again before
    /// enough is new. `bases` are the analytic models.
    pub(crate) fn training(
        &mut self,
        bases: impl Fn(usize) -> Option<Coefficients>,
    ) -> Option<(TrainingSet, Questions)> {
        let known = |learner: &Learner| learner.history.len() >= ROWS_MIN;
        let all: usize = self
            .workers
            .iter()
            .map(|learner| learner.history.len())
            .sum();
        let is_changed = self
            .workers
            .iter()
            .any(|learner| learner.changed && known(learner));
        let is_time = self.fresh >= FRESH_MIN.max(all / 4) || is_changed;
        if self.pending.is_some() || !is_time || !self.workers.iter().any(known) {
            return None;
        }
        let mut set = TrainingSet {
            rows: Vec::new(),
            targets: Vec::new(),
        };
        let mut workers = Vec::new();
        for (at, learner) in self.workers.iter_mut().enumerate() {
            let Some(base) = bases(at).filter(|_| known(learner)) else {
                continue;
            };
            learner
                .history
                .lay_out(&base, &mut set.rows, &mut set.targets);
            learner.pending = Some(base);
            learner.changed = false;
            workers.push(at);
        }
        self.fresh = 0;
        self.models = self.models.wrapping_add(1);
        self.pending = Some(self.models);
        let questions = self.ask(self.models, workers);
        Some((set, questions))
    }

    fn ask(&self, model: u64, workers: Vec<usize>) -> Questions {
        let mut rows = Vec::new();
        for &worker in &workers {
            for (tokens, squares) in places() {
                self.workers[worker]
                    .history
                    .asked(tokens, squares, &mut rows);
            }
        }
        Questions {
            model,
            rows,
            workers,
        }
    }

    /// What each model in use is to be asked under the circumstances of now.
    pub(crate) fn questions(&self) -> Vec<Questions> {
        self.models_in_use()
            .into_iter()
            .map(|model| {
                let uses = |learner: &Learner| learner.contenders().any(|it| it.model == model);
                let using = self.workers.iter().enumerate();
                let using = using.filter(|(_, learner)| uses(learner));
                self.ask(model, using.map(|(at, _)| at).collect())
            })
            .collect()
    }

    fn models_in_use(&self) -> Vec<u64> {
        let all = self.workers.iter().flat_map(Learner::contenders);
        let mut models: Vec<u64> = all.map(|contender| contender.model).collect();
        models.sort_unstable();
        models.dedup();
        models
    }

    /// Takes in a model's answers. Answers of another number than there were questions are none.
    pub(crate) fn answer(&mut self, questions: &Questions, answers: &[f32]) {
        let is_new = self.pending == Some(questions.model);
        if is_new {
            self.pending = None;
        }
        let each = places().count();
        if answers.len() != questions.workers.len() * each
            || !answers.iter().all(|answer| answer.is_finite())
        {
            return;
        }
        for (&worker, answers) in questions.workers.iter().zip(answers.chunks(each)) {
            let learner = &mut self.workers[worker];
            if is_new {
                if let Some(base) = learner.pending.take() {
                    let held_back = learner.history.held_back();
                    let challenger = Contender::new(questions.model, base, answers, held_back);
                    learner.challenger = Some(challenger);
                }
                continue;
            }
            let contenders = learner.champion.iter_mut().chain(&mut learner.challenger);
            for contender in contenders.filter(|it| it.model == questions.model) {
                contender.refresh(answers);
            }
        }
    }

    /// All of it, with the models in use, as bytes.
    pub(crate) fn save(&self, models: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(TAG);
        writer.number(self.models);
        for learner in &self.workers {
            learner.history.write(&mut writer);
            for contender in [&learner.champion, &learner.challenger] {
                writer.number(u64::from(contender.is_some()));
                if let Some(contender) = contender {
                    contender.write(&mut writer);
                }
            }
        }
        let in_use = self.models_in_use();
        let kept = || models.iter().filter(|(model, _)| in_use.contains(model));
        writer.number(kept().count() as u64);
        for (model, bytes) in kept() {
            writer.number(*model);
            writer.number(bytes.len() as u64);
            writer.bytes(bytes);
        }
        writer.finish()
    }

    pub(crate) fn restore(saved: &[u8]) -> Result<(Self, Models), RestoreError> {
        let mut reader = Reader::new(saved)?;
        Self::read(&mut reader)
            .filter(|_| reader.is_at_end())
            .ok_or(RestoreError::Impossible)
    }

    fn read(from: &mut Reader<'_>) -> Option<(Self, Models)> {
        let mut learners = Self::default();
        from.number().filter(|tag| *tag == TAG)?;
        learners.models = from.number()?;
        for learner in &mut learners.workers {
            learner.history = History::read(from)?;
            for contender in [&mut learner.champion, &mut learner.challenger] {
                if from.number()? != 0 {
                    *contender = Some(Contender::read(from)?);
                }
            }
        }
        let mut models = Vec::new();
        for _ in 0..from.count(MODELS_MAX)? {
            let model = from.number()?;
            let bytes = from.count(MODEL_BYTES_MAX)?;
            models.push((model, from.bytes(bytes)?.to_vec()));
        }
        Some((learners, models))
    }
}

impl Learner {
    fn contenders(&self) -> impl Iterator<Item = &Contender> {
        self.champion.iter().chain(&self.challenger)
    }

    /// Measures who contends; true when the device has changed.
    fn observe(&mut self, observed: &Observed) -> bool {
        let batch = &observed.batch;
        let published = match &self.champion {
            Some(champion) => champion.predict(batch),
            None => observed.prediction,
        };
        let mut changed = observed.changed;
        if let Some(champion) = &mut self.champion {
            changed |= champion.observe(batch, observed.prediction);
            if champion.verdict() == Verdict::Worse {
                self.champion = None;
            }
        }
        if let Some(challenger) = &mut self.challenger {
            // One that is surprised is no champion; that the device has changed it does not prove.
            let surprised = challenger.observe(batch, published);
            match challenger.verdict() {
                _ if surprised => self.challenger = None,
                Verdict::Better => {
                    challenger.begin_anew();
                    self.champion = self.challenger.take();
                }
                Verdict::Worse => self.challenger = None,
                Verdict::Open => {}
            }
        }
        changed
    }
}

/// What a report says, when it is one of a batch that ran.
pub(crate) fn batch_of(report: &Report) -> Batch {
    Batch {
        tokens: float(report.tokens),
        squares: float(report.tokens_squared),
        run_ns: float(report.run_ns),
    }
}

#[cfg(test)]
mod tests;

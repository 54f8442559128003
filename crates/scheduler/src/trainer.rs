//! Learning beside the plan: a thread of lowest priority that learns models and asks them. The tick hands
//! it work and collects what is done, and never waits for it.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use embedring_ipc::clock::now_ns;
use embedring_learned::{Kind, LearnError, Library, Model, NotBuiltError, Rows};
use embedring_optimizer::{Models, Planner, Questions, TrainingSet};

/// Time between two times that the models in use are asked about the circumstances of now.
const ASK_EVERY_NS: u64 = 1_000_000_000;
/// After learning it rests for so many times as long: a twentieth of a core at most, whatever the number of
/// reports.
const RESTS: u64 = 19;
/// The lowest priority there is.
const NICE: i32 = 19;

enum Job {
    Train(TrainingSet, Questions),
    Ask(Vec<Questions>),
    Load(Models),
}

/// What became of a job.
struct Done {
    questions: Questions,
    /// Empty where it failed.
    answers: Vec<f32>,
    /// The model, where it was learned just now; empty where that failed.
    saved: Option<Vec<u8>>,
    took_ns: u64,
}

/// The thread, and what is kept of it here.
pub(crate) struct Trainer {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    kind: Kind,
    /// Saved models, of which those in use are to be kept.
    pub(crate) models: Models,
    /// Answers that are still to come.
    asked: usize,
    asked_ns: u64,
    rests_until_ns: u64,
}

impl Trainer {
    /// Starts the thread. `models` are of an earlier start.
    pub(crate) fn start(kind: Kind, models: Models) -> Result<Self, NotBuiltError> {
        let library = kind.library()?;
        let (jobs, work) = channel();
        let (report, done) = channel();
        let thread = std::thread::Builder::new()
            .name("learn".to_owned())
            .spawn(move || run(library, &work, &report));
        let thread = match thread {
            Ok(thread) => Some(thread),
            Err(error) => {
                tracing::warn!(%error, "no thread to learn on; planning by the analytic model");
                None
            }
        };
        let trainer = Self {
            jobs: Some(jobs),
            done,
            thread,
            kind,
            models,
            asked: 0,
            asked_ns: 0,
            rests_until_ns: 0,
        };
        trainer.send(Job::Load(trainer.models.clone()));
        Ok(trainer)
    }

    fn send(&self, job: Job) {
        // Without a thread nothing is learned, which was said when it did not start.
        if let Some(jobs) = &self.jobs {
            drop(jobs.send(job));
        }
    }

    /// Collects what is done and hands out what is to do; true when there is a new model.
    pub(crate) fn tick(&mut self, planner: &mut Planner, now_ns: u64) -> bool {
        let mut learned = false;
        while let Ok(done) = self.done.try_recv() {
            planner.answer(&done.questions, &done.answers);
            match done.saved {
                Some(saved) => {
                    self.rests_until_ns = now_ns.saturating_add(RESTS * done.took_ns);
                    if saved.is_empty() {
                        continue;
                    }
                    learned = true;
                    self.models.push((done.questions.model, saved));
                    let (library, model, ms) = (
                        self.kind.name(),
                        done.questions.model,
                        done.took_ns / 1_000_000,
                    );
                    tracing::debug!(library, model, ms, "learned");
                }
                None => self.asked = self.asked.saturating_sub(1),
            }
        }
        if now_ns >= self.rests_until_ns
            && let Some((set, questions)) = planner.training()
        {
            self.send(Job::Train(set, questions));
        }
        if self.asked == 0 && now_ns.saturating_sub(self.asked_ns) >= ASK_EVERY_NS {
            self.asked_ns = now_ns;
            let questions = planner.questions();
            let newest = self.models.last().map(|(model, _)| *model);
            self.models.retain(|(model, _)| {
                Some(*model) == newest || questions.iter().any(|asked| asked.model == *model)
            });
            if !questions.is_empty() {
                self.asked = questions.len();
                self.send(Job::Ask(questions));
            }
        }
        learned
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the learning thread panicked");
        }
    }
}

/// The thread: works until nobody hands it work.
fn run(library: &dyn Library, work: &Receiver<Job>, report: &Sender<Done>) {
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "learning with the priority of planning");
    }
    let mut models: BTreeMap<u64, Box<dyn Model>> = BTreeMap::new();
    while let Ok(job) = work.recv() {
        let done = match job {
            Job::Load(saved) => {
                models = load(library, &saved);
                Vec::new()
            }
            Job::Train(set, questions) => vec![train(library, &set, questions, &mut models)],
            Job::Ask(all) => {
                let newest = models.keys().next_back().copied();
                models.retain(|model, _| {
                    Some(*model) == newest || all.iter().any(|asked| asked.model == *model)
                });
                all.into_iter()
                    .map(|questions| {
                        let answers = models
                            .get(&questions.model)
                            .map(|model| ask(&**model, &questions));
                        Done {
                            // Without a model the answers of before stand.
                            answers: said(answers.transpose()).flatten().unwrap_or_default(),
                            questions,
                            saved: None,
                            took_ns: 0,
                        }
                    })
                    .collect()
            }
        };
        for done in done {
            if report.send(done).is_err() {
                return;
            }
        }
    }
}

fn load(library: &dyn Library, saved: &Models) -> BTreeMap<u64, Box<dyn Model>> {
    let load = |(model, bytes): &(u64, Vec<u8>)| Some((*model, said(library.load(bytes))?));
    saved.iter().filter_map(load).collect()
}

fn train(
    library: &dyn Library,
    set: &TrainingSet,
    questions: Questions,
    models: &mut BTreeMap<u64, Box<dyn Model>>,
) -> Done {
    let begun_ns = now_ns();
    let learned = rows(&set.rows)
        .and_then(|rows| library.train(rows, &set.targets))
        .and_then(|model| Ok((ask(&*model, &questions)?, model.save()?, model)));
    let took_ns = now_ns() - begun_ns;
    let (answers, saved) = match said(learned) {
        Some((answers, saved, model)) => {
            models.insert(questions.model, model);
            (answers, saved)
        }
        None => Default::default(),
    };
    Done {
        questions,
        answers,
        saved: Some(saved),
        took_ns,
    }
}

fn ask(model: &dyn Model, questions: &Questions) -> Result<Vec<f32>, LearnError> {
    model.predict(rows(&questions.rows)?)
}

fn rows(flat: &[f32]) -> Result<Rows<'_>, LearnError> {
    Rows::new(flat, TrainingSet::WIDTH).ok_or(LearnError::Targets {
        rows: flat.len() / TrainingSet::WIDTH,
        targets: 0,
    })
}

/// What there is, or nothing and a warning: planning goes on by the analytic model.
fn said<T>(result: Result<T, LearnError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(%error, "a learned model failed; planning goes on without it");
            None
        }
    }
}

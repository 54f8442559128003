//! The control plane: observe, plan, publish, clean up, once a tick.
//!
//! The decision that shaped this crate: it touches nothing that a request passes through. It reads
//! the board and writes one record of it; killed at any moment it leaves the last plan standing.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use embedring_scheduler::{SchedulerOptions, run};
//!
//! let stop = AtomicBool::new(false);
//! run(&SchedulerOptions::new("demo"), &stop, &mut || println!("planning")).unwrap();
//! ```
#![forbid(unsafe_code)]

mod state;
mod trainer;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use embedring_ipc::clock::{now_ns, to_ns};
use embedring_ipc::{
    BellsMap, BoardMap, Instance, InstanceError, InstanceOptions, MapError, RingLimits,
    clean_up_dead, current_process,
};
use embedring_learned::{Kind, NotBuiltError};
use embedring_optimizer::{Arm, Planner, PlanningInput, Switchback};
use embedring_protocol::limits::WORKERS_MAX;
use embedring_protocol::sync::Ordering;
use embedring_protocol::{BoardHeader, WorkerState};
use thiserror::Error;

use crate::state::StateFile;
use crate::trainer::Trainer;

/// Time between two listings of dead nodes when nobody is known to have died: some processes die
/// without ever having had a place on the board.
const CLEAN_EVERY_NS: u64 = 1_000_000_000;

/// Time between two times that what was learned is saved.
const SAVE_EVERY_NS: u64 = 2_000_000_000;

/// Time between two times that what models are learned from is saved: megabytes.
const SAVE_LEARNED_EVERY_NS: u64 = 60_000_000_000;

/// Everything the scheduler is told.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// Where the instance lies.
    pub instance: InstanceOptions,
    /// Number and size of slots, for the board's header.
    pub limits: RingLimits,
    /// Time between two plans.
    pub tick: Duration,
    /// How long a batch should take at most.
    pub batch_time_target: Duration,
    /// What learns beside the analytic model, and may replace it; `None`: nothing.
    pub learns: Option<Kind>,
}

impl SchedulerOptions {
    /// Default options for an instance of the current user.
    #[must_use]
    pub fn new(instance: &str) -> Self {
        Self {
            instance: InstanceOptions::new(instance),
            limits: RingLimits::default(),
            tick: Duration::from_millis(100),
            batch_time_target: Duration::from_millis(100),
            learns: None,
        }
    }
}

/// Why the scheduler could not run.
#[derive(Debug, Error)]
pub enum SchedulerError {
    /// The instance's directory.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The board or the bells.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The library that is to learn is not part of this build.
    #[error("scheduler.time_model: {0}")]
    Library(#[from] NotBuiltError),
}

/// What is remembered of a worker between two ticks.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    incarnation: u64,
    reports: u64,
}

/// Models that are learned, and their file.
struct Learning {
    trainer: Trainer,
    file: StateFile,
    saved_ns: u64,
}

struct Scheduler<'a> {
    instance: Instance,
    board: BoardMap,
    bells: BellsMap,
    planner: Planner,
    state: StateFile,
    /// Something was learned since it was saved last, and when that was.
    learned: bool,
    saved_ns: u64,
    seen: [Seen; WORKERS_MAX],
    cleaned_ns: u64,
    /// What the planner's own count of plans lacks to be above that of the scheduler before.
    epoch_ahead: u64,
    learning: Option<Learning>,
    options: &'a SchedulerOptions,
}

/// Plans until `stop` is set. `on_ready` is called once, after the first plan.
///
/// # Errors
/// When the instance's directory or board can not be had, or a scheduler runs already.
pub fn run(
    options: &SchedulerOptions,
    stop: &AtomicBool,
    on_ready: &mut dyn FnMut(),
) -> Result<(), SchedulerError> {
    let instance = Instance::create(&options.instance)?;
    let _role = instance.lock_role("scheduler")?;
    let header = BoardHeader {
        version: 0,
        clients_max: options.limits.clients_max as u64,
        requests_in_flight_max: options.limits.requests_in_flight_max as u64,
        request_slot_bytes: options.limits.request_slot_bytes as u64,
        response_slot_bytes: options.limits.response_slot_bytes as u64,
    };
    let board = BoardMap::create(&instance, header)?;
    let bells = BellsMap::create(&instance)?;
    board.scheduler.process.write(&current_process());
    let state = StateFile::of(&instance);
    let mut planner = state.load();
    let learning = options
        .learns
        .map(|kind| Learning::start(kind, &instance, &mut planner))
        .transpose()?;
    let mut scheduler = Scheduler {
        instance,
        board,
        bells,
        planner,
        state,
        // There from the beginning: what can not be written is said at once.
        learned: true,
        saved_ns: 0,
        seen: [Seen::default(); WORKERS_MAX],
        cleaned_ns: 0,
        epoch_ahead: 0,
        learning,
        options,
    };
    scheduler.tick();
    on_ready();
    while !stop.load(Relaxed) {
        std::thread::sleep(options.tick);
        scheduler.tick();
    }
    scheduler.save(now_ns());
    scheduler.save_learned(now_ns());
    Ok(())
}

impl Learning {
    fn start(
        kind: Kind,
        instance: &Instance,
        planner: &mut Planner,
    ) -> Result<Self, NotBuiltError> {
        kind.library()?;
        let file = StateFile::learned_of(instance);
        let models = file.load_learned(planner);
        Ok(Self {
            trainer: Trainer::start(kind, models)?,
            file,
            saved_ns: now_ns(),
        })
    }
}

impl Scheduler<'_> {
    fn tick(&mut self) {
        let now_ns = now_ns();
        self.board
            .scheduler
            .heartbeat_ns
            .store(now_ns, Ordering::Relaxed);
        self.observe();
        self.learn(now_ns);
        let mut plan = self.planner.plan(PlanningInput {
            batch_time_target_ns: self.batch_time_target_ns(now_ns),
            now_ns,
        });
        // What was saved is older than what a killed scheduler published last, and a count of plans
        // that goes back looks like an older plan.
        plan.epoch = plan.epoch.saturating_add(self.epoch_ahead);
        let published = self.board.scheduler.plan.read();
        let behind = published.map_or(0, |before| {
            before.epoch.saturating_add(1).saturating_sub(plan.epoch)
        });
        self.epoch_ahead = self.epoch_ahead.saturating_add(behind);
        plan.epoch = plan.epoch.saturating_add(behind);
        self.board.scheduler.plan.write(&plan);
        let accuracies = self.planner.accuracies();
        self.board.scheduler.accuracies.write(&accuracies);
        self.clean_up(now_ns);
        if now_ns.saturating_sub(self.saved_ns) >= SAVE_EVERY_NS {
            self.save(now_ns);
        }
    }

    fn save(&mut self, now_ns: u64) {
        self.saved_ns = now_ns;
        if std::mem::take(&mut self.learned) && self.instance.still_there() {
            self.state.save(&self.planner, self.instance.free_bytes());
        }
    }

    /// Collects what was learned meanwhile and hands out what is to be learned.
    fn learn(&mut self, now_ns: u64) {
        let Some(learning) = &mut self.learning else {
            return;
        };
        let learned = learning.trainer.tick(&mut self.planner, now_ns);
        if learned || now_ns.saturating_sub(learning.saved_ns) >= SAVE_LEARNED_EVERY_NS {
            self.save_learned(now_ns);
        }
    }

    fn save_learned(&mut self, now_ns: u64) {
        let Some(learning) = &mut self.learning else {
            return;
        };
        learning.saved_ns = now_ns;
        if self.instance.still_there() {
            let (models, free_bytes) = (&learning.trainer.models, self.instance.free_bytes());
            learning
                .file
                .save_learned(&self.planner, models, free_bytes);
        }
    }

    /// The configured one, but in its turns the one that is tried.
    fn batch_time_target_ns(&self, now_ns: u64) -> u64 {
        let trial = self.board.scheduler.trial.read();
        trial
            .filter(|trial| (trial.begun_ns..trial.until_ns).contains(&now_ns))
            .filter(|trial| {
                let turns = Switchback {
                    begun_ns: trial.begun_ns,
                    block_ns: trial.block_ns,
                    settle_ns: trial.settle_ns,
                    seed: trial.seed,
                };
                turns.at(now_ns).arm == Arm::B
            })
            .map_or(to_ns(self.options.batch_time_target), |trial| {
                trial.batch_time_target_ns
            })
    }

    /// Takes in the reports of each worker's current start.
    fn observe(&mut self) {
        for (index, (slot, seen)) in self
            .board
            .workers
            .iter()
            .zip(self.seen.iter_mut())
            .enumerate()
        {
            // One that is not described yet has not run anything.
            let identity = slot.identity.read();
            let Some(identity) =
                identity.filter(|it| slot.state() != WorkerState::Free && it.dimensions > 0)
            else {
                continue;
            };
            if seen.incarnation != identity.incarnation {
                // What a scheduler before this one has learned from must not count twice.
                let is_new = self.planner.begin(index, &identity);
                let reports = if is_new {
                    identity.reports_before
                } else {
                    slot.reports_written()
                };
                *seen = Seen {
                    incarnation: identity.incarnation,
                    reports,
                };
            }
            let (reports, written) = slot.reports_since(seen.reports);
            seen.reports = written;
            self.learned |= !reports.is_empty();
            for report in &reports {
                self.planner.observe(index, report);
            }
        }
    }

    fn clean_up(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.cleaned_ns) < CLEAN_EVERY_NS {
            return;
        }
        self.cleaned_ns = now_ns;
        match clean_up_dead(&self.instance, &self.board, &self.bells) {
            Ok(cleaned) if cleaned.places + cleaned.nodes > 0 => {
                let done = (cleaned.places + cleaned.nodes) as u64;
                self.board
                    .scheduler
                    .cleanups
                    .fetch_add(done, Ordering::Relaxed);
                tracing::info!(
                    places = cleaned.places,
                    nodes = cleaned.nodes,
                    "cleaned up after dead processes"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "dead processes could not be cleaned up after"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedring_ipc::WorkerPlace;
    use embedring_protocol::{Accuracies, Plan, Report};
    use std::sync::Arc;

    /// The plan. A scheduler that is put aside while it writes one makes readers wait.
    fn plan_of(board: &BoardMap) -> Plan {
        loop {
            if let Some(plan) = board.scheduler.plan.read() {
                return plan;
            }
            std::thread::yield_now();
        }
    }

    fn accuracies_of(board: &BoardMap) -> Accuracies {
        loop {
            if let Some(accuracies) = board.scheduler.accuracies.read() {
                return accuracies;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn reports_become_a_plan_and_the_dead_lose_their_places() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut options = SchedulerOptions::new("t");
        options.instance.dir = dir.path().into();
        options.tick = Duration::from_millis(1);
        let stop = AtomicBool::new(false);
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let _stops = Stops(&stop);
            let scheduler =
                scope.spawn(|| run(&options, &stop, &mut || ready.send(()).unwrap()).unwrap());
            wait.recv().unwrap();
            let instance = Instance::open(&options.instance).unwrap();
            let header = *BoardMap::open(&instance).unwrap().header();
            let board = Arc::new(BoardMap::create(&instance, header).unwrap());
            let bells = Arc::new(BellsMap::create(&instance).unwrap());
            let mut place = WorkerPlace::claim(&board, &bells, "cpu").unwrap();
            place.describe(|identity| identity.dimensions = 4);
            let epoch = || plan_of(&board).epoch;
            // The watchdog of the test runner ends a wait that never comes true.
            let wait_ticks = |ticks| {
                let until = epoch() + ticks;
                while epoch() < until {
                    std::thread::yield_now();
                }
            };
            wait_ticks(2);
            for batch in 1..=10 {
                let tokens = batch * 10;
                let run_ns = 1_000 + tokens * 500;
                place.slot().report(&Report {
                    batch,
                    tokens,
                    run_ns,
                    ..Report::default()
                });
            }
            wait_ticks(2);
            let plan = plan_of(&board);
            let entry = plan.workers[place.index().get()];
            assert!((480..=520).contains(&entry.ns_per_token), "{entry:?}");
            assert!(entry.batch_tokens_max > 1_000);
            let accuracies = accuracies_of(&board);
            assert_eq!(accuracies.workers[place.index().get()].batches, 7);
            place.describe(|identity| identity.process.start_ticks += 1);
            while place.slot().state() != WorkerState::Free {
                std::thread::yield_now();
            }
            let error = run(&options, &stop, &mut || ()).unwrap_err();
            assert!(error.to_string().contains("already running"), "{error}");
            stop.store(true, Relaxed);
            scheduler.join().unwrap();
        });
    }

    /// Ends the scheduler when a test ends, also by a panic: the scope would wait for it for ever.
    struct Stops<'a>(&'a AtomicBool);

    impl Drop for Stops<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    /// Runs a scheduler until `until` says so.
    fn run_until(options: &SchedulerOptions, until: impl Fn(&BoardMap) -> bool) {
        let stop = AtomicBool::new(false);
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let _stops = Stops(&stop);
            scope.spawn(|| run(options, &stop, &mut || ready.send(()).unwrap()).unwrap());
            wait.recv().unwrap();
            let board = BoardMap::open(&Instance::open(&options.instance).unwrap()).unwrap();
            while !until(&board) {
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_scheduler_goes_on_with_what_the_one_before_learned() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut options = SchedulerOptions::new("t");
        options.instance.dir = dir.path().into();
        options.tick = Duration::from_millis(1);
        run_until(&options, |board| board.scheduler.plan.read().is_some());
        let instance = Instance::open(&options.instance).unwrap();
        let header = *BoardMap::open(&instance).unwrap().header();
        let board = Arc::new(BoardMap::create(&instance, header).unwrap());
        let bells = Arc::new(BellsMap::create(&instance).unwrap());
        let mut place = WorkerPlace::claim(&board, &bells, "cpu").unwrap();
        place.describe(|identity| identity.dimensions = 4);
        let index = place.index().get();
        let batches = |board: &BoardMap| accuracies_of(board).workers[index].batches;
        let sent = std::cell::Cell::new(0);
        run_until(&options, |board| {
            // One by one, until enough of them were seen by the scheduler.
            sent.set(sent.get() + 1);
            let tokens = 10 + sent.get() % 7 * 10;
            let run_ns = 1_000 + tokens * 500;
            place.slot().report(&Report {
                tokens,
                run_ns,
                ..Report::default()
            });
            batches(board) >= 20
        });
        let known = plan_of(&board);
        let learned = batches(&board);
        // Only what is in the file can be published by the next one: nothing is reported to it.
        board.scheduler.plan.write(&Plan {
            // The dead one published more plans than it saved.
            epoch: known.epoch + 1_000,
            ..Plan::default()
        });
        board.scheduler.accuracies.write(&Accuracies::default());
        run_until(&options, |board| plan_of(board).epoch > known.epoch + 1_000);
        let plan = plan_of(&board);
        assert_eq!(plan.workers, known.workers);
        assert_eq!(batches(&board), learned);
    }

    /// The whole way with a real library: reports, learning on the thread, comparison, plan, file.
    #[cfg(any(feature = "lightgbm", feature = "xgboost"))]
    #[test]
    fn what_the_analytic_model_misses_is_learned_published_and_kept() {
        for kind in Kind::ALL {
            if kind.library().is_err() {
                continue;
            }
            let dir = tempfile::tempdir_in("/dev/shm").unwrap();
            let mut options = SchedulerOptions::new("t");
            options.instance.dir = dir.path().into();
            options.tick = Duration::from_millis(1);
            options.learns = Some(kind);
            run_until(&options, |board| board.scheduler.plan.read().is_some());
            let instance = Instance::open(&options.instance).unwrap();
            let header = *BoardMap::open(&instance).unwrap().header();
            let board = Arc::new(BoardMap::create(&instance, header).unwrap());
            let bells = Arc::new(BellsMap::create(&instance).unwrap());
            let mut place = WorkerPlace::claim(&board, &bells, "cpu").unwrap();
            place.describe(|identity| identity.dimensions = 4);
            let index = place.index().get();
            let entry = |board: &BoardMap| plan_of(board).workers[index];
            let is_learned = |board: &BoardMap| {
                entry(board).corrections != embedring_protocol::Corrections::default()
            };
            let sent = std::cell::Cell::new(0_u64);
            run_until(&options, |board| {
                // In steps of eight a tick, so that none is overwritten before it is seen.
                let epoch = plan_of(board).epoch;
                for _ in 0..8 {
                    let batch = sent.get() + 1;
                    sent.set(batch);
                    // Texts of 20; from 1,024 tokens on a batch takes twice as long.
                    let texts = 1 + batch * 37 % 150;
                    let tokens = texts * 20;
                    let step = if tokens < 1_024 { 1 } else { 2 };
                    place.slot().report(&Report {
                        batch,
                        finished_ns: batch * 1_000_000_000,
                        texts,
                        tokens,
                        tokens_squared: tokens * 20,
                        longest_tokens: 20,
                        run_ns: (1_000_000 + tokens * 5_000) * step,
                        ..Report::default()
                    });
                }
                while plan_of(board).epoch == epoch {
                    std::thread::yield_now();
                }
                is_learned(board)
            });
            let known = plan_of(&board);
            // Only what is in the file can be published by the next one: nothing is reported to it.
            board.scheduler.plan.write(&Plan::default());
            run_until(&options, |board| plan_of(board).epoch > known.epoch);
            assert!(is_learned(&board), "{kind}: the next one goes on with it");
        }
    }

    #[cfg(not(all(feature = "lightgbm", feature = "xgboost")))]
    #[test]
    fn a_library_that_is_not_there_is_an_error_that_names_the_key() {
        for kind in Kind::ALL {
            if kind.library().is_ok() {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let mut options = SchedulerOptions::new("t");
            options.instance.dir = dir.path().into();
            options.learns = Some(kind);
            let error = run(&options, &AtomicBool::new(false), &mut || ()).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("scheduler.time_model"), "{error}");
            assert!(error.contains(kind.name()), "{error}");
        }
    }
}

//! The main loop: waits at the ring while the device is idle, forms a batch when it is ready, runs it,
//! and leaves the ring to the intake thread meanwhile.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use embedring_ipc::clock::{now_ns, to_ns};
use embedring_ipc::{
    BellsMap, BoardMap, Instance, WaitStrategy, Waiter, WorkerPlace, WorkerRing, ring_bell,
};
use embedring_model::{Backend, PackedBatch};
use embedring_policy::Cost;
use embedring_protocol::sync::Ordering;
use embedring_protocol::{
    BoardHeader, Counter, Name, Report, Stage, Status, WorkerIdentity, WorkerState,
};

use crate::intake::{Gate, Host, Intake};
use crate::memory::MemoryGuard;
use crate::model::Served;
use crate::queue::{Batch, BatchLimits, Taken};
use crate::trial::try_out;
use crate::{WorkerError, WorkerOptions};

/// Longest sleep at the ring: how soon a stop or an idle time-out is noticed.
const SLICE: Duration = Duration::from_millis(100);
/// A batch predicted to run shorter than this is not worth waking the intake thread for.
const HAND_OVER_FROM_NS: u64 = 1_000_000;
/// How long a worker that ends goes on answering what it has.
const DRAIN_MAX_NS: u64 = 2_000_000_000;
/// What an instance needs on its tmpfs before a worker starts: board, bells, first slots.
const FREE_BYTES_MIN: u64 = 16 << 20;

/// Why a worker ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// It reached its memory bound and wants to be started again.
    MemoryBound,
}

/// What the engine and the intake thread share.
struct Shared {
    intake: Mutex<Intake>,
    /// True while the engine is busy and the ring is the intake thread's.
    running: Mutex<bool>,
    changed: Condvar,
    ended: AtomicBool,
    place: Arc<WorkerPlace>,
    wait: WaitStrategy,
}

impl Shared {
    /// A thread that panicked with the lock ends the process; the other one must not hang meanwhile.
    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_running(&self, running: bool) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
        self.changed.notify_one();
    }

    /// Does long work of the engine's while the intake thread serves the ring and shows that the worker lives.
    fn with_ring_served<T>(&self, work: impl FnOnce() -> T) -> T {
        self.set_running(true);
        let done = work();
        self.set_running(false);
        // The intake thread may sleep on the ring's bell; it gives the ring back when it wakes.
        ring_bell(self.place.bell());
        done
    }

    fn is_running(&self) -> bool {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heartbeat(&self) {
        self.place
            .slot()
            .heartbeat_ns
            .store(now_ns(), Ordering::Relaxed);
    }
}

struct Engine<'a> {
    options: &'a WorkerOptions,
    stop: &'a AtomicBool,
    shared: &'a Shared,
    served: Arc<Served>,
    backend: Option<Box<dyn Backend>>,
    memory: MemoryGuard,
    batch: Batch,
    pooled: Vec<f32>,
    batches: u64,
    /// What the plan says that batches cost.
    cost: Option<Cost>,
    /// What a token took in the last batch: enough to tell a batch of microseconds from one of
    /// milliseconds without a plan.
    ns_per_token: Option<u64>,
    /// Other workers that computed when the batch was formed.
    neighbours: u64,
}

/// Serves until `stop` is set. `on_ready` is called once, when requests are taken.
///
/// # Errors
/// When the instance, the ring or the model can not be had.
pub fn run(
    options: &WorkerOptions,
    stop: &AtomicBool,
    on_ready: &mut dyn FnMut(&WorkerIdentity),
) -> Result<Ended, WorkerError> {
    let instance = Instance::create(&options.instance)?;
    instance.require_free(FREE_BYTES_MIN)?;
    let _role = instance.lock_role(&format!("worker-{}", options.name))?;
    let board = Arc::new(BoardMap::create(&instance, board_header(options))?);
    let bells = Arc::new(BellsMap::create(&instance)?);
    let mut place = WorkerPlace::claim(&board, &bells, &options.name)?;
    let (served, mut backend) =
        Served::start(&options.model, options.threads, options.simulated.as_ref())?;
    let served = Arc::new(served);
    place.slot().count(Counter::Loads, 1);
    let mut memory = bounded_memory(options, &place)?;
    let identity = describe(&mut place, &served, options);
    let slot = place.slot();
    try_out(&served, &mut *backend, options, &mut memory, slot, stop);
    let ring = ring(&instance, &place, options)?;
    let place = Arc::new(place);
    let intake = Intake::new(
        options,
        ring,
        Host {
            instance,
            board,
            bells,
            place: Arc::clone(&place),
        },
        Arc::clone(&served),
    );
    let shared = Shared {
        intake: Mutex::new(intake),
        running: Mutex::new(false),
        changed: Condvar::new(),
        ended: AtomicBool::new(false),
        place,
        wait: options.wait,
    };
    shared.place.set_state(WorkerState::Serving);
    on_ready(&identity);
    let mut engine = Engine {
        options,
        stop,
        shared: &shared,
        served,
        backend: Some(backend),
        memory,
        batch: Batch::default(),
        pooled: Vec::new(),
        batches: 0,
        cost: None,
        ns_per_token: None,
        neighbours: 0,
    };
    let intake_served = Arc::clone(&engine.served);
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("intake".to_owned())
            .spawn_scoped(scope, || {
                intake_served.untie();
                serve_ring_while_running(&shared);
            })
            .map_err(WorkerError::Thread)?;
        let ended = engine.serve();
        shared.ended.store(true, Relaxed);
        shared.set_running(false);
        ended
    })
}

fn ring(
    instance: &Instance,
    place: &WorkerPlace,
    options: &WorkerOptions,
) -> Result<WorkerRing, WorkerError> {
    WorkerRing::create(instance, place.incarnation(), options.limits).map_err(|source| {
        WorkerError::Ring {
            name: options.name.clone(),
            source,
        }
    })
}

/// The memory guard, once it is known that the bound leaves room beside the loaded model.
fn bounded_memory(
    options: &WorkerOptions,
    place: &WorkerPlace,
) -> Result<MemoryGuard, WorkerError> {
    let mut memory = MemoryGuard::new(options.memory_max_bytes);
    if memory.is_over(place.slot(), now_ns()) {
        let rss_bytes = memory.rss_bytes();
        return Err(WorkerError::MemoryBound {
            name: options.name.clone(),
            max_bytes: options.memory_max_bytes,
            rss_bytes,
            need_bytes: rss_bytes + (64 << 20),
        });
    }
    Ok(memory)
}

/// Bounds of the next batch.
fn planned_limits(intake: &Intake, now_ns: u64) -> BatchLimits {
    let plan = intake.plan(now_ns);
    let cost = Cost::planned(plan.as_ref(), intake.index());
    intake.batch_limits(plan.as_ref(), cost)
}

fn board_header(options: &WorkerOptions) -> BoardHeader {
    BoardHeader {
        version: 0,
        clients_max: options.limits.clients_max as u64,
        requests_in_flight_max: options.limits.requests_in_flight_max as u64,
        request_slot_bytes: options.limits.request_slot_bytes as u64,
        response_slot_bytes: options.limits.response_slot_bytes as u64,
    }
}

fn describe(place: &mut WorkerPlace, served: &Served, options: &WorkerOptions) -> WorkerIdentity {
    let mut described = None;
    place.describe(|identity| {
        identity.device = Name::lossy(&served.device);
        identity.model = Name::lossy(&served.name);
        identity.model_id = served.id;
        identity.dimensions = served.dimensions() as u64;
        identity.max_tokens = served.max_tokens as u64;
        identity.precision = served.precision as u64;
        identity.memory_max_bytes = options.memory_max_bytes;
        identity.text_tokens_max = options.text_tokens_max;
        described = Some(*identity);
    });
    described.unwrap_or_else(|| unreachable!("describe calls its argument"))
}

/// The intake thread: sleeps while the engine has the ring, serves it while a batch runs.
fn serve_ring_while_running(shared: &Shared) {
    while !shared.ended.load(Relaxed) {
        let mut running = shared
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while !*running && !shared.ended.load(Relaxed) {
            running = shared
                .changed
                .wait(running)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(running);
        let wait = || {
            Waiter::new(
                WaitStrategy::Block,
                Duration::from_millis(5),
                shared.place.bell(),
            )
        };
        let mut waiter = wait();
        while shared.is_running() {
            // One at a time, so that the engine, back from its batch, waits for one request at most.
            let taken = shared.intake().poll(u64::MAX, 1, now_ns());
            shared.heartbeat();
            if taken > 0 {
                waiter = wait();
            } else {
                waiter.pause(u64::MAX);
            }
        }
    }
}

impl Engine<'_> {
    fn serve(&mut self) -> Result<Ended, WorkerError> {
        loop {
            self.shared.heartbeat();
            let over = self.memory.is_over(self.shared.place.slot(), now_ns());
            if over || self.stop.load(Relaxed) {
                self.drain(if over { Gate::MemoryFull } else { Gate::Ending });
                return Ok(if over {
                    Ended::MemoryBound
                } else {
                    Ended::Stopped
                });
            }
            self.unload_when_idle();
            if self.wait_for_batch() {
                self.run_batch()?;
            }
        }
    }

    /// Waits at the ring for at most a slice; true when a batch was formed.
    fn wait_for_batch(&mut self) -> bool {
        let mut waiter = Waiter::new(self.shared.wait, SLICE, self.shared.place.bell());
        let mut now = now_ns();
        let until_ns = now + to_ns(SLICE);
        let mut intake = self.shared.intake();
        loop {
            if waiter.before_look() {
                now = now_ns();
                if now >= until_ns || self.stop.load(Relaxed) {
                    return false;
                }
            }
            let enough = self.options.batch_tokens_max;
            intake.poll(enough, usize::MAX, now);
            if intake.was_held_up() {
                // Only here, between two batches: a batch that runs knows its requests by their places.
                intake.drop_lost(now_ns());
                intake.poll(enough, usize::MAX, now);
            }
            let mut wake_ns = until_ns;
            if intake.queue.has_waiting() {
                let now = now_ns();
                intake.drop_lost(now);
                let limits = planned_limits(&intake, now);
                self.cost = limits.cost;
                let taken = intake.queue.take_batch(now, limits, &mut self.batch);
                intake.end_dropped();
                match taken {
                    Taken::Batch => {
                        self.neighbours = intake.neighbours();
                        return true;
                    }
                    Taken::NotBefore(until) => wake_ns = wake_ns.min(until),
                    Taken::Nothing => {}
                }
            }
            waiter.pause(wake_ns);
        }
    }

    fn run_batch(&mut self) -> Result<(), WorkerError> {
        if self.backend.is_none() {
            let loaded = self.shared.with_ring_served(|| self.served.load());
            self.backend = Some(loaded?);
            self.shared.place.slot().count(Counter::Loads, 1);
            self.shared.place.set_state(WorkerState::Serving);
        }
        let texts = self.batch.items.len();
        let tokens = self.batch.ids.len() as u64;
        self.pooled.resize(texts * self.served.dimensions(), 0.0);
        let slot = self.shared.place.slot();
        let hand_over = self.is_worth_a_hand_over(tokens);
        let begun_ns = now_ns();
        slot.running_tokens.store(tokens, Ordering::Relaxed);
        slot.busy_since_ns.store(begun_ns, Ordering::Relaxed);
        let shared = self.shared;
        let ran = if hand_over {
            shared.with_ring_served(|| self.run_model())
        } else {
            self.run_model()
        };
        let finished_ns = now_ns();
        slot.busy_since_ns.store(0, Ordering::Relaxed);
        slot.running_tokens.store(0, Ordering::Relaxed);
        let run_ns = finished_ns - begun_ns;
        self.batches += 1;
        self.ns_per_token = Some(run_ns / tokens.max(1));
        slot.count(Counter::Batches, 1);
        slot.count(Counter::Tokens, tokens);
        slot.histogram(Stage::Run).record(run_ns);
        // Whether the bound is reached is asked before the next batch.
        self.memory.look(slot, finished_ns);
        slot.report(&Report {
            batch: self.batches,
            finished_ns,
            texts: texts as u64,
            tokens,
            tokens_squared: self.batch.tokens_squared,
            run_ns,
            longest_tokens: self.batch.longest,
            waiting_tokens: self.batch.left_waiting,
            rss_bytes: self.memory.rss_bytes(),
            neighbours: self.neighbours,
        });
        self.publish_rows(ran, run_ns);
        Ok(())
    }

    /// True for a batch that runs so long that the ring should be served meanwhile.
    fn is_worth_a_hand_over(&self, tokens: u64) -> bool {
        let planned = self.cost.map(|cost| cost.batch_ns(tokens));
        let measured = || Some(self.ns_per_token?.saturating_mul(tokens));
        planned
            .or_else(measured)
            .is_none_or(|ns| ns >= HAND_OVER_FROM_NS)
    }

    /// Runs the model on the batch; false when it failed.
    fn run_model(&mut self) -> bool {
        let Some(backend) = self.backend.as_mut() else {
            return false;
        };
        let packed = match PackedBatch::new(&self.batch.ids, &self.batch.offsets) {
            Ok(packed) => packed,
            Err(error) => {
                tracing::error!(%error, "a batch could not be packed");
                return false;
            }
        };
        match backend.run(&packed, &mut self.pooled) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "the model failed on a batch");
                self.shared.place.slot().count(Counter::FailedBatches, 1);
                false
            }
        }
    }

    /// Writes the batch's rows into their response slots and sends what is complete.
    fn publish_rows(&mut self, ran: bool, run_ns: u64) {
        let mut intake = self.shared.intake();
        intake.queue.ran(self.batch.items.len(), run_ns);
        let width = self.served.dimensions();
        let texts = u32::try_from(self.batch.items.len()).unwrap_or(u32::MAX);
        let tokens = u32::try_from(self.batch.ids.len()).unwrap_or(u32::MAX);
        let mut last_request = usize::MAX;
        // Asked once: a batch's rows are far fewer bytes than what must be left.
        let ran = ran && intake.has_room(now_ns());
        for (index, item) in self.batch.items.iter().enumerate() {
            let row_tokens = self.batch.offsets[index + 1] - self.batch.offsets[index];
            intake.queue.done(row_tokens as u64);
            // Gone when its deadline passed meanwhile or an earlier text of the batch ended it.
            let Some(request) = intake.queue.get_mut(item.request) else {
                continue;
            };
            if last_request != item.request {
                last_request = item.request;
                request.timing.run_ns += run_ns;
                request.timing.batch = self.batches;
                request.timing.batch_texts = texts;
                request.timing.batch_tokens = tokens;
            }
            let pooled = &self.pooled[index * width..(index + 1) * width];
            let written = ran && request.write_row(item.row, pooled).is_ok();
            let complete = request.open_rows == 0;
            if written && !complete {
                continue;
            }
            if let Some(request) = intake.queue.remove(item.request) {
                if written {
                    intake.answer(request);
                } else {
                    intake.end(request, Status::Internal);
                }
            }
        }
        intake.publish_load();
    }

    fn unload_when_idle(&mut self) {
        let idle_ns = to_ns(self.options.idle_unload);
        if idle_ns == 0 || self.backend.is_none() {
            return;
        }
        let intake = self.shared.intake();
        if intake.queue.is_empty() && now_ns().saturating_sub(intake.taken_ns) >= idle_ns {
            drop(intake);
            self.backend = None;
            self.pooled = Vec::new();
            tracing::info!(
                "unloaded the model after {:?} without requests",
                self.options.idle_unload
            );
            self.shared.place.set_state(WorkerState::Idle);
        }
    }

    /// Finishes what is in the queue, for a bounded time, and refuses everything new.
    fn drain(&mut self, gate: Gate) {
        self.shared.place.set_state(WorkerState::Draining);
        self.shared.intake().gate = gate;
        let until_ns = now_ns() + DRAIN_MAX_NS;
        while now_ns() < until_ns {
            {
                let mut intake = self.shared.intake();
                intake.refuse_all();
                let now = now_ns();
                intake.drop_lost(now);
                let limits = planned_limits(&intake, now);
                let taken = intake.queue.take_batch(now, limits, &mut self.batch);
                if let Taken::NotBefore(until_ns) = taken {
                    // Nobody comes any more who could be waited for.
                    intake.queue.take_batch(until_ns, limits, &mut self.batch);
                }
                intake.end_dropped();
            }
            if self.batch.items.is_empty() {
                break;
            }
            if let Err(error) = self.run_batch() {
                tracing::error!(%error, "the rest of the queue could not be served");
                break;
            }
        }
        let mut intake = self.shared.intake();
        let status = if gate == Gate::MemoryFull {
            Status::MemoryFull
        } else {
            Status::ShuttingDown
        };
        for place in intake.queue.places() {
            if let Some(request) = intake.queue.remove(place) {
                intake.end(request, status);
            }
        }
        // What arrived since the last look; a later one finds nobody and is sent elsewhere.
        intake.refuse_all();
    }
}

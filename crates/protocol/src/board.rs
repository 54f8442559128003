//! The layout of the two segments that every process of an instance maps.
//!
//! *The board* is written by workers and the scheduler and mapped read-only by clients: who serves,
//! how loaded, what is planned, what was counted. *The bells* are written by everybody: words to
//! sleep on, and the list of clients. Nothing in the bells is believed; the worst a hostile client
//! does there is wake somebody for nothing or take a client's place.
//!
//! All fields are atomics or seqlocked records of atomics and zero bytes are a valid empty state, so
//! a segment is born initialised and a process killed at any moment leaves a readable one.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::histogram::Histogram;
use crate::ids::{ModelId, Name, ProcessId};
use crate::limits::{CLIENTS_MAX, WORKERS_MAX};
use crate::plan::{Accuracies, Load, Plan, Report, Trial};
use crate::seqlock::SeqLock;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// First word of a board that is ready.
pub const BOARD_MAGIC: u64 = u64::from_le_bytes(*b"EMBRBRD1");
/// Layout version of board and bells; another one is refused.
pub const BOARD_VERSION: u64 = 5;
/// Reports kept per worker; older ones are overwritten. A thousand batches a second between two looks of
/// a scheduler that comes ten times a second, and as many again.
pub const REPORTS_PER_WORKER: usize = 256;

/// What the processes of an instance must agree on before they talk. Written once by whoever creates
/// the board, before `magic`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct BoardHeader {
    /// [`BOARD_VERSION`].
    pub version: u64,
    /// Clients admitted.
    pub clients_max: u64,
    /// Requests in flight per client and worker.
    pub requests_in_flight_max: u64,
    /// Bytes of a request slot.
    pub request_slot_bytes: u64,
    /// Bytes of a response slot.
    pub response_slot_bytes: u64,
}

/// The scheduler's place on the board.
#[derive(Debug)]
#[repr(C)]
pub struct SchedulerSlot {
    /// Who it is.
    pub process: SeqLock<ProcessId, 2>,
    /// Last sign of life, `CLOCK_MONOTONIC` nanoseconds.
    pub heartbeat_ns: AtomicU64,
    /// Its advice.
    pub plan: SeqLock<Plan, { size_of::<Plan>() / 8 }>,
    /// How good its predictions were.
    pub accuracies: SeqLock<Accuracies, { size_of::<Accuracies>() / 8 }>,
    /// What it is asked to try, written by whoever asks.
    pub trial: SeqLock<Trial, { size_of::<Trial>() / 8 }>,
    /// Dead processes it cleaned up after.
    pub cleanups: AtomicU64,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum WorkerState {
    /// Nobody has this place.
    Free = 0,
    /// Loading its model.
    Starting = 1,
    /// Takes requests.
    Serving = 2,
    /// Takes requests; its model is unloaded and comes back with the next one.
    Idle = 3,
    /// Finishes what it has and takes nothing new.
    Draining = 4,
    /// Can not serve; its log says why.
    Failed = 5,
}

impl WorkerState {
    /// From the board; an unknown number reads as [`WorkerState::Failed`].
    #[must_use]
    pub fn from_wire(value: u32) -> Self {
        match value {
            0 => Self::Free,
            1 => Self::Starting,
            2 => Self::Serving,
            3 => Self::Idle,
            4 => Self::Draining,
            _ => Self::Failed,
        }
    }

    /// The word used in output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Idle => "idle",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }

    /// True when requests sent now are taken.
    #[must_use]
    pub fn takes_requests(self) -> bool {
        matches!(self, Self::Serving | Self::Idle)
    }
}

/// Who a worker is and what it serves.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct WorkerIdentity {
    /// Its process.
    pub process: ProcessId,
    /// Different for each start of a worker: names its ring, so that nobody talks to the ring of a
    /// dead predecessor.
    pub incarnation: u64,
    /// Name from the configuration.
    pub name: Name,
    /// Device, `cpu` for instance.
    pub device: Name,
    /// Name of the model.
    pub model: Name,
    /// Digest of the model's weights.
    pub model_id: ModelId,
    /// Components of a full row.
    pub dimensions: u64,
    /// Tokens of a text at most.
    pub max_tokens: u64,
    /// [`crate::Precision`] as a number.
    pub precision: u64,
    /// Resident bytes at which it takes nothing new; 0 for no bound.
    pub memory_max_bytes: u64,
    /// Tokens of a text at most that this device takes at all; 0 for any. Longer ones fail with
    /// [`crate::TextFault::TooLongForDevice`], and go to another device if there is one.
    pub text_tokens_max: u64,
    /// Reports in its place from before this start: its own come after them.
    pub reports_before: u64,
}

/// Stages of a request that are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// Arrival at the worker to the start of its (first) batch.
    Queue = 0,
    /// Tokenising.
    Tokenize = 1,
    /// Running the model, per batch.
    Run = 2,
    /// Sent by the client to answered by the worker.
    Total = 3,
}

/// Things that are counted, per worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Requests answered with rows.
    Requests = 0,
    /// Texts that got a row.
    Texts = 1,
    /// Tokens run.
    Tokens = 2,
    /// Batches run.
    Batches = 3,
    /// Texts that were truncated.
    Truncated = 4,
    /// Texts that failed.
    FailedTexts = 5,
    /// Requests refused because the queue was full.
    RefusedOverload = 6,
    /// Requests refused because their deadline passed or could not be met.
    RefusedDeadline = 7,
    /// Requests refused at the memory bound.
    RefusedMemory = 8,
    /// Requests refused for any other reason.
    RefusedOther = 9,
    /// Messages that were no requests.
    BadRequests = 10,
    /// Requests dropped because their client no longer waits.
    Cancelled = 11,
    /// Answers that could not be delivered.
    Undelivered = 12,
    /// Batches in which the model failed.
    FailedBatches = 13,
    /// Times the model was loaded.
    Loads = 14,
}

/// Number of counters kept per worker.
const COUNTERS: usize = 16;

/// A worker's place on the board.
#[derive(Debug)]
#[repr(C)]
pub struct WorkerSlot {
    state: AtomicU32,
    padding: AtomicU32,
    /// Who has the place.
    pub identity: SeqLock<WorkerIdentity, { size_of::<WorkerIdentity>() / 8 }>,
    /// Last sign of life, `CLOCK_MONOTONIC` nanoseconds.
    pub heartbeat_ns: AtomicU64,
    /// Texts waiting or running.
    pub load_texts: AtomicU64,
    /// Tokens waiting or running.
    pub load_tokens: AtomicU64,
    /// When the running batch began; 0 when none runs.
    pub busy_since_ns: AtomicU64,
    /// Tokens of the running batch, which are part of the load; 0 when none runs.
    pub running_tokens: AtomicU64,
    /// Resident set in bytes.
    pub rss_bytes: AtomicU64,
    /// Highest resident set in bytes.
    pub rss_peak_bytes: AtomicU64,
    counters: [AtomicU64; COUNTERS],
    histograms: [Histogram; 4],
    reports_written: AtomicU64,
    reports: [SeqLock<Report, { size_of::<Report>() / 8 }>; REPORTS_PER_WORKER],
}

impl WorkerSlot {
    /// What the worker is doing.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        // Partner: `set_state`. Whoever sees `Serving` sees the identity written before it.
        WorkerState::from_wire(self.state.load(Ordering::Acquire))
    }

    /// Says what the worker is doing.
    pub fn set_state(&self, state: WorkerState) {
        // Partner: `state`.
        self.state.store(state as u32, Ordering::Release);
    }

    /// What the worker has to do.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            texts: self.load_texts.load(Ordering::Relaxed),
            tokens: self.load_tokens.load(Ordering::Relaxed),
        }
    }

    /// Adds to a counter.
    pub fn count(&self, counter: Counter, by: u64) {
        self.counters[counter as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Reads a counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }

    /// The histogram of a stage.
    #[must_use]
    pub fn histogram(&self, stage: Stage) -> &Histogram {
        &self.histograms[stage as usize]
    }

    /// Publishes how a batch went, or a trial before the first one. Only the worker itself calls it.
    pub fn report(&self, report: &Report) {
        let number = self.reports_written.load(Ordering::Relaxed);
        self.reports[Self::report_place(number)].write(report);
        // Partner: `reports_since`. Whoever sees the count sees the report.
        self.reports_written.store(number + 1, Ordering::Release);
    }

    /// Reports there were so far, of whoever had the place.
    #[must_use]
    pub fn reports_written(&self) -> u64 {
        // Partner: `report`.
        self.reports_written.load(Ordering::Acquire)
    }

    /// Reports after the first `seen`, oldest first, and the count to ask with next. Reports that
    /// were overwritten meanwhile are left out.
    #[must_use]
    pub fn reports_since(&self, seen: u64) -> (Vec<Report>, u64) {
        // Partner: `report`.
        let written = self.reports_written.load(Ordering::Acquire);
        let first = seen.max(written.saturating_sub(REPORTS_PER_WORKER as u64));
        let reports = (first..written)
            .filter_map(|number| self.reports[Self::report_place(number)].read())
            .collect();
        (reports, written)
    }

    fn report_place(number: u64) -> usize {
        usize::try_from(number % REPORTS_PER_WORKER as u64).unwrap_or(0)
    }
}

/// The board.
#[derive(Debug)]
#[repr(C)]
pub struct BoardLayout {
    /// [`BOARD_MAGIC`] once `header` is written.
    pub magic: AtomicU64,
    /// What all must agree on.
    pub header: SeqLock<BoardHeader, { size_of::<BoardHeader>() / 8 }>,
    /// The scheduler.
    pub scheduler: SchedulerSlot,
    /// The workers, by [`crate::WorkerIndex`].
    pub workers: [WorkerSlot; WORKERS_MAX],
}

/// A word to sleep on.
#[derive(Debug)]
#[repr(C)]
pub struct Bell {
    /// Rises with each ring while somebody sleeps; sleepers wait for it to change.
    pub rings: AtomicU32,
    /// How many sleep, or are about to.
    pub sleepers: AtomicU32,
}

/// A client's place.
#[derive(Debug)]
#[repr(C)]
pub struct ClientSlot {
    /// [`ProcessId::packed`] of the client; 0 when free.
    pub owner: AtomicU64,
    /// Rung when an answer lies in its ring.
    pub bell: Bell,
}

/// The bells.
#[derive(Debug)]
#[repr(C)]
pub struct BellsLayout {
    /// Rung when a request lies in a worker's ring, by [`crate::WorkerIndex`].
    pub workers: [Bell; WORKERS_MAX],
    /// The clients, by [`crate::ClientIndex`].
    pub clients: [ClientSlot; CLIENTS_MAX],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty_slot() -> Box<WorkerSlot> {
        Box::new(WorkerSlot {
            state: AtomicU32::new(0),
            padding: AtomicU32::new(0),
            identity: SeqLock::empty(),
            heartbeat_ns: AtomicU64::new(0),
            load_texts: AtomicU64::new(0),
            load_tokens: AtomicU64::new(0),
            busy_since_ns: AtomicU64::new(0),
            running_tokens: AtomicU64::new(0),
            rss_bytes: AtomicU64::new(0),
            rss_peak_bytes: AtomicU64::new(0),
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            histograms: std::array::from_fn(|_| Histogram::default()),
            reports_written: AtomicU64::new(0),
            reports: std::array::from_fn(|_| SeqLock::empty()),
        })
    }

    #[test]
    fn reports_come_once_and_in_order_and_the_newest_are_kept() {
        let slot = empty_slot();
        let report = |batch| Report {
            batch,
            ..Report::default()
        };
        for batch in 1..=3 {
            slot.report(&report(batch));
        }
        let (reports, seen) = slot.reports_since(1);
        assert_eq!(reports.iter().map(|r| r.batch).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(seen, 3);
        for batch in 4..=403 {
            slot.report(&report(batch));
        }
        let (reports, seen) = slot.reports_since(seen);
        assert_eq!(reports.len(), REPORTS_PER_WORKER);
        assert_eq!((reports[255].batch, seen), (403, 403));
    }

    #[test]
    fn states_survive_the_board() {
        let slot = empty_slot();
        for wire in 0..6 {
            slot.set_state(WorkerState::from_wire(wire));
            assert_eq!(slot.state() as u32, wire);
        }
        assert_eq!(WorkerState::from_wire(77), WorkerState::Failed);
    }
}

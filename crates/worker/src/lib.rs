//! One device: `ring → tokenise → batch → run → ring`.
//!
//! The decision that shaped this crate: a batch is formed when the device is ready, not before, and
//! the ring is served by whichever thread does not compute (see [`run`]).
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use embedring_worker::{WorkerOptions, run};
//!
//! let stop = AtomicBool::new(false);
//! let options = WorkerOptions::null("demo", "cpu", 384);
//! run(&options, &stop, &mut |identity| println!("{} serves", identity.name.to_text())).unwrap();
//! ```
#![forbid(unsafe_code)]

mod bare;
mod engine;
mod intake;
mod memory;
mod model;
mod queue;
mod request;
mod simulated;
mod trial;

use std::time::Duration;

use embedring_ipc::{
    ClaimError, InstanceError, InstanceOptions, MapError, RingError, RingLimits, WaitStrategy,
};
pub use embedring_policy::BatchPolicy;
use embedring_policy::Bounds;
use thiserror::Error;

pub use bare::{BareEngine, BareRunError};
pub use engine::{Ended, run};
pub use model::{ModelError, ModelSource};
pub use simulated::{CostTable, CostTableError, CostTableProblem, Costs, SimulatedDevice};

/// Everything a worker is told.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Its name, unique in the instance.
    pub name: String,
    /// Where the instance lies.
    pub instance: InstanceOptions,
    /// Number and size of slots.
    pub limits: RingLimits,
    /// What it serves.
    pub model: ModelSource,
    /// The device to simulate, with the rows of `model`; `None` for the one that `model` runs on.
    pub simulated: Option<SimulatedDevice>,
    /// Threads that compute; 0 for one per core the process may use.
    pub threads: usize,
    /// Resident bytes at which it takes nothing new and ends, to be restarted; 0 for no bound.
    pub memory_max_bytes: u64,
    /// Time without requests after which the weights are dropped; zero for never.
    pub idle_unload: Duration,
    /// What may wait.
    pub queue: Bounds,
    /// Tokens of a batch at most; the plan may say less.
    pub batch_tokens_max: u64,
    /// Texts of a batch at most.
    pub batch_texts_max: usize,
    /// Who chooses its batches: ours, but for comparisons.
    pub batch_policy: BatchPolicy,
    /// Tokens of a text at most that it takes at all, 0 for any; longer ones are for other devices.
    pub text_tokens_max: u64,
    /// How it waits for requests.
    pub wait: WaitStrategy,
}

impl WorkerOptions {
    /// A worker without a model, whose rows are a cheap function of the text: for measuring the rings
    /// and for tests.
    #[must_use]
    pub fn null(instance: &str, name: &str, hidden: usize) -> Self {
        Self {
            name: name.to_owned(),
            instance: InstanceOptions::new(instance),
            limits: RingLimits::default(),
            model: ModelSource::Null { hidden },
            simulated: None,
            threads: 1,
            memory_max_bytes: 0,
            idle_unload: Duration::ZERO,
            queue: Bounds {
                texts_max: 4096,
                tokens_max: 262_144,
            },
            batch_tokens_max: 8192,
            batch_texts_max: 256,
            batch_policy: BatchPolicy::default(),
            text_tokens_max: 0,
            wait: WaitStrategy::default(),
        }
    }
}

/// Why a worker could not serve.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The instance's directory.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The board or the bells.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Its place on the board.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Its ring.
    #[error("ring of worker '{name}': {source}")]
    Ring {
        /// The worker.
        name: String,
        /// What went wrong.
        source: RingError,
    },
    /// Its model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The memory bound leaves no room to work.
    #[error(
        "workers.{name}.memory_max_bytes is {max_bytes} and the worker holds {rss_bytes} bytes with \
         its model loaded; raise it to at least {need_bytes}"
    )]
    MemoryBound {
        /// The worker.
        name: String,
        /// The bound.
        max_bytes: u64,
        /// What it holds.
        rss_bytes: u64,
        /// What it needs.
        need_bytes: u64,
    },
    /// A thread could not be started.
    #[error("start a thread: {0}")]
    Thread(std::io::Error),
}

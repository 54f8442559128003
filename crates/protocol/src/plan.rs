//! What the scheduler tells (the plan) and what it is told (loads and reports).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::WORKERS_MAX;

/// What the scheduler expects of one worker and allows it. Zero means "no opinion": the worker's
/// and the client's own defaults hold.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct WorkerPlan {
    /// Predicted time per token in nanoseconds.
    pub ns_per_token: u64,
    /// Predicted time per batch beside its tokens, in nanoseconds.
    pub ns_per_batch: u64,
    /// Tokens a batch may hold.
    pub batch_tokens_max: u64,
    /// Tokens that may wait in the worker's queue.
    pub queue_tokens_max: u64,
}

/// The scheduler's advice, published whole.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Plan {
    /// Counts up with each plan.
    pub epoch: u64,
    /// When it was made, `CLOCK_MONOTONIC` nanoseconds.
    pub published_ns: u64,
    /// One entry per place on the board.
    pub workers: [WorkerPlan; WORKERS_MAX],
}

/// What a worker has to do at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Texts waiting or running.
    pub texts: u64,
    /// Tokens waiting or running.
    pub tokens: u64,
}

/// One batch as it went, for whoever predicts the next.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Report {
    /// Number of the batch, counted by the worker from 1.
    pub batch: u64,
    /// When it ended, `CLOCK_MONOTONIC` nanoseconds.
    pub finished_ns: u64,
    /// Texts in it.
    pub texts: u64,
    /// Tokens in it.
    pub tokens: u64,
    /// Sum of the squares of the texts' token counts: what attention costs.
    pub tokens_squared: u64,
    /// How long the model ran, in nanoseconds.
    pub run_ns: u64,
}

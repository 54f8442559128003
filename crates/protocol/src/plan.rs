//! What the scheduler tells (the plan) and what it is told (loads and reports).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::WORKERS_MAX;

/// Sizes of a batch that predictions are corrected at, and lengths of its texts.
pub const CORRECTION_TOKENS: usize = 12;
/// See [`CORRECTION_TOKENS`].
pub const CORRECTION_LENGTHS: usize = 4;

/// By how much batches take longer than their coefficients say, in 1/1024, by tokens and then by length;
/// 0 counts as 1024. All 0: there is nothing to correct.
pub type Corrections = [[u16; CORRECTION_LENGTHS]; CORRECTION_TOKENS];

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
    /// Predicted time per squared token of a text, in picoseconds: what attention costs.
    pub ps_per_square: u64,
    /// Squared tokens per token of late: what a token counts as while its text's length is not known.
    pub squares_per_token: u64,
    /// What a batch takes at most in 99 of 100 cases, in 1/1024 of what is predicted.
    pub worst_1024: u64,
    /// What a learned model says of batches beside that.
    pub corrections: Corrections,
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

/// Another batch time that is tried in turns against the configured one (`embedring ab`). All zero: none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Trial {
    /// When the first block begins, `CLOCK_MONOTONIC` nanoseconds.
    pub begun_ns: u64,
    /// When the last block ends.
    pub until_ns: u64,
    /// Length of a block in nanoseconds.
    pub block_ns: u64,
    /// What does not count at the beginning of a block, in nanoseconds.
    pub settle_ns: u64,
    /// Decides whose turn it is.
    pub seed: u64,
    /// How long a batch should take at most in the other one's turns, in nanoseconds.
    pub batch_time_target_ns: u64,
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
    /// Number of the batch, counted by the worker from 1; 0 for a trial before the first one.
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
    /// Tokens of the longest text in it.
    pub longest_tokens: u64,
    /// Tokens that were left waiting when it began.
    pub waiting_tokens: u64,
    /// Bytes resident after it, as last looked at; 0 when nobody looked.
    pub rss_bytes: u64,
    /// Other workers that computed when it began.
    pub neighbours: u64,
}

/// How good the predictions of one worker's batches were, each made before its batch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Accuracy {
    /// Batches that were predicted.
    pub batches: u64,
    /// Of these, how many took longer than their bound.
    pub beyond: u64,
    /// Mean of the error's size over the time, of the last thousand, in millionths.
    pub error_ppm: u64,
    /// Mean pinball loss of the bound at 99 %, of the last thousand, in nanoseconds.
    pub pinball_ns: u64,
    /// Share of the last thousand within their bound, in millionths.
    pub covered_ppm: u64,
    /// How often the device was found to have changed.
    pub changes: u64,
}

/// The same of all workers, published whole.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Accuracies {
    /// One entry per place on the board.
    pub workers: [Accuracy; WORKERS_MAX],
}

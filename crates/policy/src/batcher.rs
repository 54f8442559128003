//! Who chooses the next batch: ours, or one of those that others ship, for comparison.

use crate::baselines::Baseline;
use crate::schedule::{Limits, Picked, Schedule, Waiting};

/// How a device's next batch is chosen.
///
/// All but the first are what others do, here so that the simulator and real workers can be held against them with
/// everything else the same. None of them knows classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchPolicy {
    /// Ours: as many as can be are in time (see [`Schedule`]).
    #[default]
    Deadlines,
    /// First come, first served, each request by itself.
    OneAtATime,
    /// First come, first served, when there are so many texts or the first of them has waited so long (dynamic
    /// batching as in Triton).
    FixedSize {
        /// Texts of a batch at most.
        texts_max: usize,
        /// How long a batch that is not full waits for more, in nanoseconds.
        wait_ns: u64,
    },
    /// First come, first served, as many as fit, without waiting (text-embeddings-inference).
    TokenBudget {
        /// Tokens of a batch at most.
        tokens_max: u64,
        /// Whether those whose deadline has passed are dropped rather than run.
        expires: bool,
    },
    /// All that waits, sorted by length, in as few batches as the bound allows; whoever comes meanwhile waits for the
    /// next round (TurboTransformers; without padding, the batches of least time are the fullest).
    LengthRounds {
        /// Tokens of a batch at most.
        tokens_max: u64,
    },
    /// First come, first served; a batch may hold one text more after each full one in time, and a tenth less after
    /// each that took longer (Clipper).
    Aimd {
        /// How long a batch may take, in nanoseconds.
        batch_ns_max: u64,
    },
    /// First come, first served, in batches of a fixed size, after dropping from the front whoever such a batch would
    /// be late for (Nexus). Needs predicted costs.
    EarlyDrop {
        /// Texts of a batch at most.
        texts_max: usize,
    },
    /// The shortest first, anew for each batch, but before them whoever has waited too long; what is late is dropped.
    /// Nobody ships it; it is the strongest form of sorting by length.
    ShortestFirst {
        /// Tokens of a batch at most.
        tokens_max: u64,
        /// From when on a request goes before shorter ones, in nanoseconds after its arrival.
        guard_ns: u64,
    },
    /// Earliest deadline first, as many as are predicted to be in time together; what can not be is dropped
    /// (Clockwork). Needs predicted costs.
    EarliestDeadline {
        /// Texts of a batch at most.
        texts_max: usize,
        /// What a batch may take in the worst case, in 1/1024 of what is predicted.
        worst_1024: u64,
        /// Not before one text more would make the batch late (Symphony).
        defers: bool,
    },
}

impl BatchPolicy {
    /// Whether requests are dropped once their deadline has passed, rather than run for nothing.
    #[must_use]
    pub fn drops_late(self) -> bool {
        match self {
            Self::Deadlines
            | Self::EarlyDrop { .. }
            | Self::ShortestFirst { .. }
            | Self::EarliestDeadline { .. } => true,
            Self::TokenBudget { expires, .. } => expires,
            Self::OneAtATime
            | Self::FixedSize { .. }
            | Self::LengthRounds { .. }
            | Self::Aimd { .. } => false,
        }
    }

    /// Whether it is ours, and with it what a worker does beside choosing batches: refusing at arrival what is
    /// predicted to be late, and following the scheduler's advice on how long a batch may be.
    #[must_use]
    pub fn is_ours(self) -> bool {
        self == Self::Deadlines
    }
}

/// What a free device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// It runs these.
    Run(Picked<'a>),
    /// Nothing before this time, unless somebody arrives.
    Wait {
        /// In nanoseconds.
        until_ns: u64,
    },
    /// Nothing until somebody arrives.
    Idle,
}

/// The choice by one policy, and what it remembers.
#[derive(Clone, Debug, Default)]
pub struct Batcher {
    policy: BatchPolicy,
    schedule: Schedule,
    baseline: Baseline,
}

impl Batcher {
    /// By this policy.
    #[must_use]
    pub fn new(policy: BatchPolicy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// Which one it is.
    #[must_use]
    pub fn policy(&self) -> BatchPolicy {
        self.policy
    }

    /// What a free device does with those that wait, given in their order of arrival. Afterwards
    /// [`Batcher::dropped`] says who is to be answered at once.
    pub fn next(&mut self, waiting: &[Waiting], now_ns: u64, limits: Limits) -> Next<'_> {
        if !self.policy.is_ours() {
            return self.baseline.next(self.policy, waiting, now_ns, limits);
        }
        if waiting.is_empty() {
            return Next::Idle;
        }
        Next::Run(self.schedule.pick(waiting, now_ns, limits))
    }

    /// Places of those that the last choice gave up: none of them is in its batch. Ours gives up nobody whose
    /// deadline has not passed, and who that is its caller knows.
    #[must_use]
    pub fn dropped(&self) -> &[usize] {
        self.baseline.dropped()
    }

    /// A batch of so many texts took so long.
    pub fn ran(&mut self, texts: usize, run_ns: u64) {
        self.baseline.ran(self.policy, texts, run_ns);
    }

    /// Texts and tokens of a batch at most, where the policy has bounds of its own: they cut a list of texts.
    #[must_use]
    pub fn bounds(&self) -> (usize, u64) {
        self.baseline.bounds(self.policy)
    }
}

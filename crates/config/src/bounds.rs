//! The default and the range of every number in the configuration, one constant for each.
//!
//! Range checks, error messages, defaults and the reference all read these.

use std::fmt;

use crate::bytes::Bytes;

/// Most workers one instance may have.
pub const MAX_WORKERS: usize = 16;

/// Smallest response slot: a header with its per-text tables (2 KiB) and one row of 4,096
/// components, the widest model accepted. A smaller slot could not answer even a single text.
const RESPONSE_SLOT_BYTES_MIN: u64 = 2 * 1024 + 4096 * 4;

/// An hour, the longest time any key takes; longer ones are typing errors.
const HOUR_MS: u64 = 60 * 60 * 1000;

/// Default and range of one integer key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    /// Path of the key; `*` stands for any worker's name.
    pub(crate) key: &'static str,
    /// `None` where leaving the key out has a meaning of its own.
    pub(crate) default: Option<u64>,
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Bound {
    /// The bound of a key, if it has one; `pattern` has `*` for a worker's name.
    pub(crate) fn find(pattern: &str) -> Option<&'static Self> {
        ALL.iter().find(|bound| bound.key == pattern)
    }

    /// The value given, or the default.
    pub(crate) fn or_default(&self, value: Option<u64>) -> u64 {
        value.or(self.default).unwrap_or(self.min)
    }

    /// Whether the key takes sizes, which may be written with a unit.
    pub(crate) fn is_size(&self) -> bool {
        self.key.ends_with("_bytes")
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_size() {
            write!(f, "{} to {}", Bytes(self.min), Bytes(self.max))
        } else {
            write!(f, "{} to {}", self.min, self.max)
        }
    }
}

/// Default and range of one key that takes a fraction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fraction {
    /// Path of the key.
    pub(crate) key: &'static str,
    pub(crate) default: f64,
    /// Every value is larger than this.
    pub(crate) above: f64,
    pub(crate) max: f64,
}

impl Fraction {
    /// The range of a key, if it has one of this kind.
    pub(crate) fn find(pattern: &str) -> Option<&'static Self> {
        FRACTIONS.iter().find(|fraction| fraction.key == pattern)
    }

    /// Whether the key takes `value`.
    pub(crate) fn contains(&self, value: f64) -> bool {
        value > self.above && value <= self.max
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "above {}, at most {}", self.above, self.max)
    }
}

const fn bound(key: &'static str, default: u64, min: u64, max: u64) -> Bound {
    assert!(min <= default && default <= max);
    Bound {
        key,
        default: Some(default),
        min,
        max,
    }
}

// Each client costs up to 5 ms and 4 MB in the workers, whether it talks or not.
pub(crate) const CLIENTS_MAX: Bound = bound("limits.clients_max", 64, 1, 256);
pub(crate) const REQUESTS_IN_FLIGHT_MAX: Bound = bound("limits.requests_in_flight_max", 8, 1, 64);
pub(crate) const REQUEST_SLOT_BYTES: Bound =
    bound("limits.request_slot_bytes", 64 << 10, 4 << 10, 1 << 20);
pub(crate) const RESPONSE_SLOT_BYTES: Bound = bound(
    "limits.response_slot_bytes",
    64 << 10,
    RESPONSE_SLOT_BYTES_MIN,
    1 << 20,
);
// Two tokens are the marks around a text, so one is left for the text.
pub(crate) const MAX_TOKENS: Bound = Bound {
    key: "model.max_tokens",
    default: None,
    min: 3,
    max: 65_536,
};
pub(crate) const MAX_LOSS: Fraction = Fraction {
    key: "model.max_loss",
    default: 0.001,
    above: 0.0,
    max: 0.1,
};
pub(crate) const THREADS: Bound = bound("workers.*.threads", 0, 0, 1024);
pub(crate) const MEMORY_MAX_BYTES: Bound = bound("workers.*.memory_max_bytes", 0, 0, 1 << 44);
pub(crate) const IDLE_UNLOAD_MS: Bound = bound("workers.*.idle_unload_ms", 0, 0, 30 * 24 * HOUR_MS);
pub(crate) const QUEUE_TEXTS_MAX: Bound = bound("workers.*.queue_texts_max", 4096, 1, 1 << 20);
pub(crate) const QUEUE_TOKENS_MAX: Bound = bound("workers.*.queue_tokens_max", 262_144, 1, 1 << 28);
pub(crate) const BATCH_TOKENS_MAX: Bound = bound("workers.*.batch_tokens_max", 8192, 1, 1 << 20);
pub(crate) const BATCH_TEXTS_MAX: Bound = bound("workers.*.batch_texts_max", 256, 1, 1 << 16);
pub(crate) const BATCH_POLICY_US: Bound = bound("workers.*.batch_policy_us", 5_000, 0, 10_000_000);
pub(crate) const TEXT_TOKENS_MAX: Bound = bound("workers.*.text_tokens_max", 0, 0, 1 << 20);
pub(crate) const SPIN_US: Bound = bound("workers.*.spin_us", 50, 0, 1_000_000);
pub(crate) const NULL_HIDDEN: Bound = bound("workers.*.null_hidden", 384, 1, 4096);
// By default as long as two cores take with a small model.
pub(crate) const SIMULATED_BATCH_NS: Bound =
    bound("workers.*.simulated_batch_ns", 1_000_000, 0, 60_000_000_000);
pub(crate) const SIMULATED_TOKEN_NS: Bound =
    bound("workers.*.simulated_token_ns", 100_000, 1, 60_000_000_000);
pub(crate) const SIMULATED_SQUARE_PS: Bound =
    bound("workers.*.simulated_square_ps", 43_000, 0, 60_000_000_000);
pub(crate) const TICK_MS: Bound = bound("scheduler.tick_ms", 100, 10, 10_000);
pub(crate) const BATCH_TIME_TARGET_MS: Bound =
    bound("scheduler.batch_time_target_ms", 100, 1, 60_000);
pub(crate) const BACKOFF_MIN_MS: Bound = bound("supervisor.backoff_min_ms", 100, 1, HOUR_MS);
pub(crate) const BACKOFF_MAX_MS: Bound = bound("supervisor.backoff_max_ms", 10_000, 1, HOUR_MS);
pub(crate) const STOP_TIMEOUT_MS: Bound = bound("supervisor.stop_timeout_ms", 4000, 100, HOUR_MS);
pub(crate) const HANG_TIMEOUT_MS: Bound =
    bound("supervisor.hang_timeout_ms", 30_000, 1000, HOUR_MS);
pub(crate) const READY_TIMEOUT_MS: Bound =
    bound("supervisor.ready_timeout_ms", 120_000, 1000, HOUR_MS);

/// Every range of a fraction; held like [`ALL`].
pub(crate) const FRACTIONS: [Fraction; 1] = [MAX_LOSS];

/// Every bound; a test holds the list against the keys that [`crate::raw::Raw`] reads.
pub(crate) const ALL: [Bound; 26] = [
    CLIENTS_MAX,
    REQUESTS_IN_FLIGHT_MAX,
    REQUEST_SLOT_BYTES,
    RESPONSE_SLOT_BYTES,
    MAX_TOKENS,
    THREADS,
    MEMORY_MAX_BYTES,
    IDLE_UNLOAD_MS,
    QUEUE_TEXTS_MAX,
    QUEUE_TOKENS_MAX,
    BATCH_TOKENS_MAX,
    BATCH_TEXTS_MAX,
    BATCH_POLICY_US,
    TEXT_TOKENS_MAX,
    SPIN_US,
    NULL_HIDDEN,
    SIMULATED_BATCH_NS,
    SIMULATED_TOKEN_NS,
    SIMULATED_SQUARE_PS,
    TICK_MS,
    BATCH_TIME_TARGET_MS,
    BACKOFF_MIN_MS,
    BACKOFF_MAX_MS,
    STOP_TIMEOUT_MS,
    HANG_TIMEOUT_MS,
    READY_TIMEOUT_MS,
];

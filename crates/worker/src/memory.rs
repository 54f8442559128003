//! The memory bound of a worker.
//!
//! A worker's memory does not depend on the size of requests; what remains is what a model or an
//! allocator does over time. At the bound the worker takes nothing new, finishes what it has and
//! ends, and its supervisor starts it again: a restart of two seconds instead of an out-of-memory
//! kill of whatever the kernel picks. Behind that stands a limit by the kernel on the worker's own
//! data, so that one runaway allocation can not get far past the bound.

use embedring_ipc::resident_bytes;
use embedring_protocol::WorkerSlot;
use embedring_protocol::sync::Ordering;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Time between two looks at the resident set: reading it costs some microseconds.
const LOOK_EVERY_NS: u64 = 50_000_000;

/// Room above the bound before the kernel refuses: stacks and what is mapped but not resident.
const HARD_LIMIT_EXTRA_BYTES: u64 = 512 << 20;

/// Watches the resident set.
#[derive(Debug)]
pub(crate) struct MemoryGuard {
    max_bytes: u64,
    looked_ns: u64,
    rss_bytes: u64,
}

impl MemoryGuard {
    /// `max_bytes` 0 means no bound; the resident set is then only published.
    pub(crate) fn new(max_bytes: u64) -> Self {
        if max_bytes > 0 {
            let limit = max_bytes.saturating_add(HARD_LIMIT_EXTRA_BYTES);
            let limit = Rlimit {
                current: Some(limit),
                maximum: Some(limit),
            };
            if let Err(error) = setrlimit(Resource::Data, limit) {
                tracing::warn!(%error, "the kernel's own limit could not be set; the bound still holds");
            }
        }
        Self {
            max_bytes,
            looked_ns: 0,
            rss_bytes: 0,
        }
    }

    /// Looks, if the last look is long enough ago, and publishes.
    pub(crate) fn look(&mut self, slot: &WorkerSlot, now_ns: u64) {
        if now_ns.saturating_sub(self.looked_ns) >= LOOK_EVERY_NS {
            self.looked_ns = now_ns;
            self.rss_bytes = resident_bytes();
            slot.rss_bytes.store(self.rss_bytes, Ordering::Relaxed);
            slot.rss_peak_bytes
                .fetch_max(self.rss_bytes, Ordering::Relaxed);
        }
    }

    /// Looks. True at or above the bound.
    pub(crate) fn is_over(&mut self, slot: &WorkerSlot, now_ns: u64) -> bool {
        self.look(slot, now_ns);
        self.max_bytes > 0 && self.rss_bytes >= self.max_bytes
    }

    /// What was seen last.
    pub(crate) fn rss_bytes(&self) -> u64 {
        self.rss_bytes
    }
}

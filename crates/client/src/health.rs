//! What a client remembers of each device: whether it fails, how it keeps its pace, and what of our own it
//! has in hand.

use std::sync::{Mutex, MutexGuard, PoisonError};

use embedring_policy::{Breaker, BreakerLimits, BreakerState, Cost, Pace};
use embedring_protocol::limits::WORKERS_MAX;
use embedring_protocol::sync::{AtomicU64, Ordering};
use embedring_protocol::{WorkerIdentity, WorkerIndex};

/// One device, by its worker's place on the board.
#[derive(Clone, Copy, Debug, Default)]
struct Device {
    /// Who is meant: a worker that is started again is the same device.
    of: Option<embedring_protocol::Name>,
    incarnation: u64,
    breaker: Breaker,
    pace: Pace,
}

/// All devices.
#[derive(Debug, Default)]
pub(crate) struct Health {
    devices: Mutex<[Device; WORKERS_MAX]>,
    limits: BreakerLimits,
}

/// What the breakers say about a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    /// When something may be sent to it.
    pub(crate) retry_ns: u64,
    /// Whether one message is all that may.
    pub(crate) is_try: bool,
    /// How much longer its batches take than planned, in 1/1024.
    pub(crate) pace_1024: u64,
}

impl Health {
    pub(crate) fn new(limits: BreakerLimits) -> Self {
        Self {
            devices: Mutex::default(),
            limits,
        }
    }

    fn devices(&self) -> MutexGuard<'_, [Device; WORKERS_MAX]> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(
        &self,
        index: WorkerIndex,
        identity: &WorkerIdentity,
        act: impl FnOnce(&mut Device) -> R,
    ) -> R {
        let mut devices = self.devices();
        let device = &mut devices[index.get()];
        if device.of != Some(identity.name) {
            *device = Device {
                of: Some(identity.name),
                ..Device::default()
            };
        }
        if device.incarnation != identity.incarnation {
            // Another process: what its predecessor's batches took may no longer hold. That it failed
            // does: a device on which each start fails is one that fails.
            device.incarnation = identity.incarnation;
            device.pace = Pace::default();
        }
        act(device)
    }

    /// What is known of a worker.
    pub(crate) fn sight(
        &self,
        index: WorkerIndex,
        identity: &WorkerIdentity,
        cost: Cost,
        now_ns: u64,
    ) -> Sight {
        self.with(index, identity, |device| Sight {
            retry_ns: device.breaker.retry_ns(now_ns),
            is_try: device.breaker.state(now_ns) != BreakerState::Closed,
            pace_1024: device.pace.factor_1024(cost, now_ns),
        })
    }

    pub(crate) fn breaker(
        &self,
        index: WorkerIndex,
        identity: &WorkerIdentity,
        now_ns: u64,
    ) -> BreakerState {
        self.with(index, identity, |device| device.breaker.state(now_ns))
    }

    /// A message is on its way.
    pub(crate) fn sent(&self, index: WorkerIndex, identity: &WorkerIdentity, now_ns: u64) {
        self.with(index, identity, |device| device.breaker.sent(now_ns));
    }

    /// Rows came.
    pub(crate) fn succeeded(&self, index: WorkerIndex, identity: &WorkerIdentity) {
        self.with(index, identity, |device| device.breaker.succeeded());
    }

    /// A refusal came.
    pub(crate) fn answered(&self, index: WorkerIndex, identity: &WorkerIdentity) {
        self.with(index, identity, |device| device.breaker.answered());
    }

    /// A message that was sent at `sent_ns` failed, or its worker did.
    pub(crate) fn failed(
        &self,
        index: WorkerIndex,
        identity: &WorkerIdentity,
        sent_ns: u64,
        now_ns: u64,
    ) {
        let opened = self.with(index, identity, |device| {
            device.breaker.failed(sent_ns, now_ns, self.limits)
        });
        if opened {
            tracing::warn!(
                worker = identity.name.to_text(),
                device = identity.device.to_text(),
                "fails again and again; left alone for a while"
            );
        }
    }

    /// A batch of `tokens` tokens took `run_ns`.
    pub(crate) fn measured(
        &self,
        index: WorkerIndex,
        identity: &WorkerIdentity,
        cost: Cost,
        (tokens, run_ns): (u64, u64),
        now_ns: u64,
    ) {
        self.with(index, identity, |device| {
            device.pace.observe(cost, tokens, run_ns, now_ns);
        });
    }
}

/// Tokens that are on their way to one worker or in its hands.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    tokens: AtomicU64,
    recent: Mutex<Recent>,
}

/// What was sent within one short time.
#[derive(Debug, Default)]
struct Recent {
    since_ns: u64,
    tokens: u64,
}

/// After this time a worker has taken a request off its ring and the board tells of it.
const TAKEN_NS: u64 = 2_000_000;

impl InFlight {
    pub(crate) fn sent(&self, tokens: u64, now_ns: u64) {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ns.saturating_sub(recent.since_ns) > TAKEN_NS {
            *recent = Recent {
                since_ns: now_ns,
                tokens: 0,
            };
        }
        recent.tokens = recent.tokens.saturating_add(tokens);
    }

    pub(crate) fn done(&self, tokens: u64) {
        self.tokens.fetch_sub(tokens, Ordering::Relaxed);
    }

    /// The load of a worker of which the board says that it has `board` tokens: what we sent a moment ago
    /// is not among them yet, what we sent before is.
    pub(crate) fn beside(&self, board: u64, now_ns: u64) -> u64 {
        let own = self.tokens.load(Ordering::Relaxed);
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let untold = if now_ns.saturating_sub(recent.since_ns) <= TAKEN_NS {
            recent.tokens.min(own)
        } else {
            0
        };
        board.saturating_add(untold).max(own)
    }
}

/// Tokens per byte before anything was answered, in 1/1024: English has four bytes a token.
const TOKENS_PER_BYTE_1024: u64 = 256;
/// Bytes that stand for what a tokeniser puts around a text.
const FRAME_BYTES: u64 = 8;
/// Bytes of a text at most that count, per token of the model's window.
const BYTES_PER_TOKEN_MAX: u64 = 8;

/// How texts become tokens, learned from the answers: a client has no tokeniser.
#[derive(Debug)]
pub(crate) struct Density {
    tokens_per_byte_1024: AtomicU64,
}

impl Default for Density {
    fn default() -> Self {
        Self {
            tokens_per_byte_1024: AtomicU64::new(TOKENS_PER_BYTE_1024),
        }
    }
}

/// The weight of a text, in bytes: what is beyond the model's window does not count.
pub(crate) fn weight(text_bytes: usize, max_tokens: u64) -> u64 {
    (text_bytes as u64).min(max_tokens.saturating_mul(BYTES_PER_TOKEN_MAX)) + FRAME_BYTES
}

impl Density {
    /// Tokens of texts of this weight.
    pub(crate) fn tokens(&self, weight: u64) -> u64 {
        let per_byte = self.tokens_per_byte_1024.load(Ordering::Relaxed);
        (weight.saturating_mul(per_byte) / 1024).max(1)
    }

    /// The most that texts of so many tokens weigh.
    pub(crate) fn weight(&self, tokens: u64) -> u64 {
        let per_byte = self.tokens_per_byte_1024.load(Ordering::Relaxed);
        let more = tokens.saturating_add(1).saturating_mul(1024);
        more.div_ceil(per_byte.max(1)) - 1
    }

    /// Texts of this weight had so many tokens.
    pub(crate) fn learn(&self, weight: u64, tokens: u64) {
        let seen = tokens.saturating_mul(1024) / weight.max(1);
        let before = self.tokens_per_byte_1024.load(Ordering::Relaxed);
        let now = (before * 7 + seen.clamp(16, 2048)).div_ceil(8);
        self.tokens_per_byte_1024.store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_a_moment_ago_counts_beside_the_board_and_later_within_it() {
        let in_flight = InFlight::default();
        assert_eq!(in_flight.beside(100, 0), 100);
        in_flight.sent(50, 10);
        assert_eq!(in_flight.beside(100, 20), 150);
        assert_eq!(in_flight.beside(100, 10 + TAKEN_NS + 1), 100);
        // A worker that takes nothing off its ring.
        assert_eq!(in_flight.beside(0, 10 + TAKEN_NS + 1), 50);
        in_flight.done(50);
        assert_eq!(in_flight.beside(100, 20), 100);
    }

    #[test]
    fn the_density_of_texts_is_learned() {
        let density = Density::default();
        assert_eq!(density.tokens(weight(72, 512)), 20);
        for _ in 0..60 {
            density.learn(100, 100);
        }
        assert!((95..=101).contains(&density.tokens(100)));
        for tokens in [1, 7, 100, 511] {
            let weight = density.weight(tokens);
            assert_eq!(density.tokens(weight), tokens);
            assert_eq!(density.tokens(weight + 1), tokens + 1);
        }
        assert_eq!(weight(1 << 20, 512), 512 * 8 + 8);
    }
}

//! How to wait: spin for a moment, then sleep on a bell in slices, or only the one or the other.

use std::time::Duration;

use embedring_protocol::Bell;
use embedring_protocol::sync::Ordering;

use crate::bell::sleep_on;
use crate::clock::now_ns;

/// How a process waits for its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitStrategy {
    /// Spin for this long, then sleep. A peer that answers while we spin costs no wake-up.
    Adaptive {
        /// How long to spin.
        spin: Duration,
    },
    /// Sleep at once.
    Block,
    /// Never sleep: one core for the last microseconds.
    Poll,
}

impl Default for WaitStrategy {
    fn default() -> Self {
        Self::Adaptive {
            spin: Duration::from_micros(50),
        }
    }
}

/// Spins between two looks at the clock: about a microsecond.
const SPINS_PER_LOOK: u32 = 32;

/// One wait for one thing. Make a new one for each; ask [`Waiter::pause`] between two looks.
#[derive(Debug)]
pub struct Waiter {
    strategy: WaitStrategy,
    slice: Duration,
    spin_until_ns: u64,
    seen: Option<u32>,
}

impl Waiter {
    /// `slice` is the longest sleep at a time: after it the caller looks whether its peer lives.
    #[must_use]
    pub fn new(strategy: WaitStrategy, slice: Duration) -> Self {
        Self {
            strategy,
            slice,
            spin_until_ns: 0,
            seen: None,
        }
    }

    /// Call before each look, so that a ring between the look and the sleep is not missed.
    pub fn before_look(&mut self, bell: &Bell) {
        self.seen = Some(bell.rings.load(Ordering::SeqCst));
    }

    /// Passes some time after a look that found nothing, until `deadline_ns` at the latest. True when
    /// it slept, which is the moment to look at the peer's life.
    pub fn pause(&mut self, bell: &Bell, deadline_ns: u64) -> bool {
        match self.strategy {
            WaitStrategy::Poll => {
                spin();
                false
            }
            WaitStrategy::Block => self.sleep(bell, deadline_ns),
            WaitStrategy::Adaptive { spin: time } => {
                let now = now_ns();
                if self.spin_until_ns == 0 {
                    self.spin_until_ns = now + crate::clock::to_ns(time);
                }
                if now < self.spin_until_ns {
                    spin();
                    return false;
                }
                self.sleep(bell, deadline_ns)
            }
        }
    }

    fn sleep(&mut self, bell: &Bell, deadline_ns: u64) -> bool {
        let left = Duration::from_nanos(deadline_ns.saturating_sub(now_ns()));
        let seen = self
            .seen
            .unwrap_or_else(|| bell.rings.load(Ordering::SeqCst));
        sleep_on(bell, seen, self.slice.min(left));
        true
    }
}

fn spin() {
    for _ in 0..SPINS_PER_LOOK {
        std::hint::spin_loop();
    }
}

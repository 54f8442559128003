//! How to wait: spin for a moment, then sleep on a bell in slices, or only the one or the other.

use std::time::Duration;

use embedring_protocol::Bell;

use crate::bell::Sleeper;
use crate::clock::{now_ns, to_ns};

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

/// Looks between two readings of the clock while spinning: reading it costs as much as a look.
const LOOKS_PER_TICK: u32 = 16;

/// One wait for one thing: call [`Waiter::before_look`] before each look and [`Waiter::pause`] after
/// one that found nothing. Make a new one for the next wait.
#[derive(Debug)]
pub struct Waiter<'a> {
    strategy: WaitStrategy,
    slice: Duration,
    bell: &'a Bell,
    spin_until_ns: u64,
    looks_to_tick: u32,
    has_slept: bool,
    sleeper: Option<Sleeper<'a>>,
}

impl<'a> Waiter<'a> {
    /// `slice` is the longest sleep at a time: after it the caller looks whether its peer lives.
    #[must_use]
    pub fn new(strategy: WaitStrategy, slice: Duration, bell: &'a Bell) -> Self {
        Self {
            strategy,
            slice,
            bell,
            spin_until_ns: 0,
            looks_to_tick: 0,
            has_slept: false,
            sleeper: None,
        }
    }

    /// True when the time is worth reading: at the first look, around a sleep, and now and then while
    /// spinning.
    pub fn before_look(&mut self) -> bool {
        let is_tick = self.looks_to_tick == 0;
        self.looks_to_tick = if is_tick {
            LOOKS_PER_TICK
        } else {
            self.looks_to_tick
        } - 1;
        is_tick
    }

    /// Passes some time after a look that found nothing, until `deadline_ns` at the latest. Before a
    /// sleep it returns once without sleeping: somebody may have rung before we were heard to listen.
    pub fn pause(&mut self, deadline_ns: u64) {
        match self.strategy {
            WaitStrategy::Poll => std::hint::spin_loop(),
            WaitStrategy::Block => self.sleep(deadline_ns),
            WaitStrategy::Adaptive { spin } => {
                if self.has_slept || self.sleeper.is_some() || self.has_spun(spin) {
                    self.sleep(deadline_ns);
                } else {
                    std::hint::spin_loop();
                }
            }
        }
    }

    /// True once the time to spin is over; the clock is read once per tick.
    fn has_spun(&mut self, time: Duration) -> bool {
        if self.looks_to_tick != 0 {
            return false;
        }
        let now = now_ns();
        if self.spin_until_ns == 0 {
            self.spin_until_ns = now.saturating_add(to_ns(time));
        }
        now >= self.spin_until_ns
    }

    fn sleep(&mut self, deadline_ns: u64) {
        self.looks_to_tick = 0;
        match self.sleeper.take() {
            None => self.sleeper = Some(Sleeper::announce(self.bell)),
            Some(sleeper) => {
                let left = Duration::from_nanos(deadline_ns.saturating_sub(now_ns()));
                sleeper.sleep(self.slice.min(left));
                self.has_slept = true;
            }
        }
    }
}

//! Ringing and sleeping on a word in shared memory (a futex with a count of sleepers). While nobody
//! sleeps ringing writes nothing and costs no system call: a bell that both sides only read stays in
//! both cores' caches.

use std::time::Duration;

use embedring_protocol::Bell;
use embedring_protocol::sync::{Ordering, fence};
use rustix::thread::futex;

/// Says that something happened. Call it after the thing itself is visible to others.
pub fn ring_bell(bell: &Bell) {
    // Partner: the fence in `Sleeper::announce`. The ringer writes the thing and then reads the count;
    // the sleeper writes the count and then looks for the thing. With a full fence between the two on
    // both sides, at least one of them sees what the other wrote.
    fence(Ordering::SeqCst);
    if bell.sleepers.load(Ordering::Relaxed) > 0 {
        bell.rings.fetch_add(1, Ordering::Release);
        // A wake has no way to fail that anybody could act on.
        let _woken = futex::wake(
            bell.rings.as_std(),
            futex::Flags::empty(),
            i32::MAX.unsigned_abs(),
        );
    }
}

/// Somebody about to sleep. Announce first, look for the thing once more, and only then sleep.
#[derive(Debug)]
pub struct Sleeper<'a> {
    bell: &'a Bell,
    seen: u32,
}

impl<'a> Sleeper<'a> {
    /// From now on a ring is noticed.
    #[must_use]
    pub fn announce(bell: &'a Bell) -> Self {
        let seen = bell.rings.load(Ordering::Relaxed);
        bell.sleepers.fetch_add(1, Ordering::Relaxed);
        // Partner: the fence in `ring_bell`.
        fence(Ordering::SeqCst);
        Self { bell, seen }
    }

    /// Sleeps until the bell has rung since the announcement, or `timeout` is over, or for no reason
    /// at all; the caller looks again in any case.
    pub fn sleep(self, timeout: Duration) {
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // Woken, timed out, interrupted, or the word had changed: the caller looks again.
        let _woken = futex::wait(
            self.bell.rings.as_std(),
            futex::Flags::empty(),
            self.seen,
            Some(&timeout),
        );
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.bell.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedring_protocol::sync::AtomicU32;

    /// Would sleep for an hour if a ring were lost; the test runner's watchdog is faster.
    const LONG: Duration = Duration::from_secs(3600);

    fn bell() -> Bell {
        Bell {
            rings: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
        }
    }

    #[test]
    fn a_ring_after_the_announcement_is_not_lost_and_one_without_a_sleeper_writes_nothing() {
        let bell = bell();
        ring_bell(&bell);
        assert_eq!(bell.rings.load(Ordering::Relaxed), 0);
        let sleeper = Sleeper::announce(&bell);
        ring_bell(&bell);
        sleeper.sleep(LONG);
        assert_eq!(bell.sleepers.load(Ordering::Relaxed), 0);
    }

    /// Waits until `thing` is `want`, by the rule: announce, look, sleep.
    fn wait_for(thing: &AtomicU32, want: u32, bell: &Bell) {
        while thing.load(Ordering::Acquire) != want {
            let sleeper = Sleeper::announce(bell);
            if thing.load(Ordering::Acquire) != want {
                sleeper.sleep(LONG);
            }
        }
    }

    #[test]
    fn no_ring_is_lost_under_load() {
        let (ping, pong) = (bell(), bell());
        let (asked, answered) = (AtomicU32::new(0), AtomicU32::new(0));
        let rounds = 20_000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=rounds {
                    wait_for(&asked, round, &ping);
                    answered.store(round, Ordering::Release);
                    ring_bell(&pong);
                }
            });
            for round in 1..=rounds {
                asked.store(round, Ordering::Release);
                ring_bell(&ping);
                wait_for(&answered, round, &pong);
            }
        });
        assert_eq!(ping.sleepers.load(Ordering::Relaxed), 0);
    }
}

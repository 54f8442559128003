//! Ringing and sleeping on a word in shared memory (a futex with a count of sleepers, so that ringing
//! costs no system call when nobody sleeps).

use std::time::Duration;

use embedring_protocol::Bell;
use embedring_protocol::sync::Ordering;
use rustix::thread::futex;

/// Says that something happened. Wakes all who sleep; no system call when nobody does.
pub fn ring_bell(bell: &Bell) {
    // Partner: `sleep_on`. Both sides write their own word before they read the other's, all in one
    // total order, so either the sleeper sees the new count or the ringer sees the sleeper.
    bell.rings.fetch_add(1, Ordering::SeqCst);
    if bell.sleepers.load(Ordering::SeqCst) > 0 {
        wake_sleepers(bell);
    }
}

/// Wakes all who sleep, whether they are counted or not.
pub fn wake_sleepers(bell: &Bell) {
    // A wake has no way to fail that anybody could act on.
    let _woken = futex::wake(
        bell.rings.as_std(),
        futex::Flags::empty(),
        i32::MAX.unsigned_abs(),
    );
}

/// Sleeps until the bell has rung since `seen` was read from `rings`, or `timeout` is over, or for
/// no reason at all; the caller looks again in any case.
pub fn sleep_on(bell: &Bell, seen: u32, timeout: Duration) {
    // Partner: `ring_bell`.
    bell.sleepers.fetch_add(1, Ordering::SeqCst);
    if bell.rings.load(Ordering::SeqCst) == seen {
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // Woken, timed out, interrupted, or the word had changed: the caller looks again.
        let _woken = futex::wait(
            bell.rings.as_std(),
            futex::Flags::empty(),
            seen,
            Some(&timeout),
        );
    }
    bell.sleepers.fetch_sub(1, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedring_protocol::sync::AtomicU32;

    fn bell() -> Bell {
        Bell {
            rings: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
        }
    }

    #[test]
    fn a_ring_before_the_sleep_is_not_lost() {
        let bell = bell();
        let seen = bell.rings.load(Ordering::SeqCst);
        ring_bell(&bell);
        // Would sleep for an hour if the ring were lost.
        sleep_on(&bell, seen, Duration::from_secs(3600));
    }

    #[test]
    fn no_ring_is_lost_under_load() {
        let (ping, pong) = (bell(), bell());
        let rounds = 20_000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..rounds {
                    while ping.rings.load(Ordering::SeqCst) == round {
                        sleep_on(&ping, round, Duration::from_secs(3600));
                    }
                    ring_bell(&pong);
                }
            });
            for round in 0..rounds {
                ring_bell(&ping);
                while pong.rings.load(Ordering::SeqCst) == round {
                    sleep_on(&pong, round, Duration::from_secs(3600));
                }
            }
        });
        assert_eq!(ping.sleepers.load(Ordering::SeqCst), 0);
    }
}

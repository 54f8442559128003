//! The host-wide monotonic clock: the one all deadlines and time stamps are given in.

use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds since boot, the same in every process of the host.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Sleeps until the clock says `until_ns`; not at all when it does already. Later only by what the kernel
/// takes to wake the thread.
pub fn sleep_until_ns(until_ns: u64) {
    const SECOND_NS: u64 = 1_000_000_000;
    let until = Timespec {
        tv_sec: i64::try_from(until_ns / SECOND_NS).unwrap_or(i64::MAX),
        // Below a billion.
        tv_nsec: i64::try_from(until_ns % SECOND_NS).unwrap_or(0),
    };
    while clock_nanosleep_absolute(ClockId::Monotonic, &until) == Err(Errno::INTR) {}
}

/// `duration` in nanoseconds, at most `u64::MAX`.
#[must_use]
pub fn to_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What is left until `deadline_ns`; zero when it has passed.
#[must_use]
pub fn until(deadline_ns: u64) -> Duration {
    Duration::from_nanos(deadline_ns.saturating_sub(now_ns()))
}

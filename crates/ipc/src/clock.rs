//! The host-wide monotonic clock: the one all deadlines and time stamps are given in.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since boot, the same in every process of the host.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
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

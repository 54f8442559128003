//! A breaker per device: one that fails again and again gets nothing for a while, then one try.

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Failures in a row that open it; at least one.
    pub failures: u32,
    /// How long it stays open the first time, in nanoseconds; twice as long after each try that fails.
    pub pause_ns_min: u64,
    /// How long it stays open at most, in nanoseconds.
    pub pause_ns_max: u64,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        Self {
            failures: 5,
            pause_ns_min: 500_000_000,
            pause_ns_max: 60_000_000_000,
        }
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// One request, to see whether the device works again.
    HalfOpen,
}

impl BreakerState {
    /// The word used in output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// The breaker of one device. Times are nanoseconds of one clock that does not go backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// In a row.
    failures: u32,
    /// When the last one that counts was noticed.
    failed_ns: u64,
    /// Set from the moment it opens until a try succeeds.
    open: Option<Pause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pause {
    until_ns: u64,
    length_ns: u64,
    /// When the one try was sent.
    tried_ns: Option<u64>,
}

impl Breaker {
    /// What it lets through.
    #[must_use]
    pub fn state(&self, now_ns: u64) -> BreakerState {
        match self.open {
            None => BreakerState::Closed,
            Some(pause) if now_ns < pause.until_ns => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// Whether a request may be sent now. A try of which nothing was heard for as long as the pause was
    /// is forgotten.
    #[must_use]
    pub fn allows(&self, now_ns: u64) -> bool {
        self.retry_ns(now_ns) <= now_ns
    }

    /// When a request may be sent: now, or the end of the pause, or of the wait for the one try.
    #[must_use]
    pub fn retry_ns(&self, now_ns: u64) -> u64 {
        self.open.map_or(now_ns, |pause| {
            let tried = pause
                .tried_ns
                .map_or(0, |tried_ns| tried_ns.saturating_add(pause.length_ns));
            pause.until_ns.max(tried).max(now_ns)
        })
    }

    /// A request is on its way.
    pub fn sent(&mut self, now_ns: u64) {
        if let Some(pause) = &mut self.open {
            pause.tried_ns = Some(now_ns);
        }
    }

    /// The device gave rows.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The device refused in good order: it lives, and whether it works is still to be seen.
    pub fn answered(&mut self) {
        if let Some(pause) = &mut self.open {
            pause.tried_ns = None;
        }
    }

    /// The device failed on a request that was sent at `sent_ns`, died of it, or gave no answer in time.
    /// Requests that were on their way together fail together, and count once: what was sent before the
    /// last failure was noticed does not count. True when it opens by this.
    pub fn failed(&mut self, sent_ns: u64, now_ns: u64, limits: BreakerLimits) -> bool {
        if self.failures > 0 && sent_ns < self.failed_ns {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        self.failed_ns = now_ns;
        let length_ns = match self.open {
            Some(pause) => pause.length_ns.saturating_mul(2),
            None if self.failures < limits.failures => return false,
            None => limits.pause_ns_min,
        };
        let length_ns = length_ns.clamp(
            limits.pause_ns_min,
            limits.pause_ns_max.max(limits.pause_ns_min),
        );
        self.open = Some(Pause {
            until_ns: now_ns.saturating_add(length_ns),
            length_ns,
            tried_ns: None,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: BreakerLimits = BreakerLimits {
        failures: 3,
        pause_ns_min: 100,
        pause_ns_max: 350,
    };

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        assert!(!breaker.failed(0, 0, LIMITS));
        assert!(!breaker.failed(0, 0, LIMITS));
        assert!(breaker.failed(0, 0, LIMITS));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_does_not() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.failed(0, 0, LIMITS);
            breaker.failed(0, 0, LIMITS);
            breaker.succeeded();
            assert_eq!(breaker.state(0), BreakerState::Closed);
        }
        let breaker = opened();
        assert_eq!(breaker.state(99), BreakerState::Open);
        assert!(!breaker.allows(99));
        assert_eq!(breaker.retry_ns(50), 100);
    }

    #[test]
    fn after_the_pause_one_try_decides() {
        let mut breaker = opened();
        assert_eq!(breaker.state(100), BreakerState::HalfOpen);
        assert!(breaker.allows(100));
        breaker.sent(100);
        assert!(!breaker.allows(101), "one at a time");
        breaker.succeeded();
        assert_eq!(breaker.state(102), BreakerState::Closed);

        let mut breaker = opened();
        let mut now = 100;
        for pause in [200, 350, 350] {
            breaker.sent(now);
            assert!(breaker.failed(now, now, LIMITS));
            assert!(!breaker.allows(now + pause - 1));
            now += pause;
            assert!(breaker.allows(now));
        }
    }

    #[test]
    fn a_try_that_is_lost_or_refused_does_not_block_the_next() {
        let mut breaker = opened();
        breaker.sent(100);
        breaker.answered();
        assert!(breaker.allows(101));
        breaker.sent(101);
        assert!(!breaker.allows(200));
        assert!(breaker.allows(201));
    }

    #[test]
    fn requests_that_fail_together_count_once() {
        let mut breaker = Breaker::default();
        for now in 50..60 {
            assert!(!breaker.failed(10, now, LIMITS));
        }
        assert_eq!(breaker.state(60), BreakerState::Closed);
        assert!(!breaker.failed(60, 70, LIMITS));
        assert!(breaker.failed(80, 90, LIMITS));
        // Sent before it opened.
        assert!(!breaker.failed(85, 95, LIMITS));
        assert!(breaker.allows(190));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_never_stays_open_for_longer_than_its_limit(
            events in prop::collection::vec((0_u8..4, 0_u64..500), 0..60),
        ) {
            let (mut breaker, mut now) = (Breaker::default(), 0);
            for (event, step) in events {
                now += step;
                match event {
                    0 => breaker.sent(now),
                    1 => breaker.succeeded(),
                    2 => breaker.answered(),
                    _ => { breaker.failed(now, now, LIMITS); }
                }
                prop_assert!(breaker.retry_ns(now) <= now + LIMITS.pause_ns_max);
                prop_assert!(breaker.allows(now + LIMITS.pause_ns_max));
            }
        }
    }
}

//! Log-linear histograms of durations in shared memory: each power of two of nanoseconds is cut in
//! eight, so a quantile is known within 12.5 %.

use crate::sync::{AtomicU64, Ordering};

const SUB_BITS: u32 = 3;
const SUB: usize = 1 << SUB_BITS;
/// Durations below 2^10 ns (about a microsecond) share the first bucket.
const FIRST_EXPONENT: u32 = 10;
/// Durations from 2^37 ns (137 s) on share the last bucket.
const LAST_EXPONENT: u32 = 37;

/// Number of buckets.
pub const BUCKETS: usize = (LAST_EXPONENT - FIRST_EXPONENT) as usize * SUB + 2;

/// The bucket a duration falls into, below [`BUCKETS`].
#[must_use]
pub fn bucket_of(duration_ns: u64) -> usize {
    if duration_ns < 1 << FIRST_EXPONENT {
        return 0;
    }
    let exponent = duration_ns.ilog2();
    if exponent >= LAST_EXPONENT {
        return BUCKETS - 1;
    }
    let fraction = (duration_ns >> (exponent - SUB_BITS)) & (SUB as u64 - 1);
    1 + (exponent - FIRST_EXPONENT) as usize * SUB + usize::try_from(fraction).unwrap_or(SUB - 1)
}

/// The first duration in nanoseconds that no longer falls into `bucket`; `u64::MAX` for the last.
#[must_use]
pub fn bucket_upper_ns(bucket: usize) -> u64 {
    if bucket == 0 {
        return 1 << FIRST_EXPONENT;
    }
    if bucket >= BUCKETS - 1 {
        return u64::MAX;
    }
    let exponent = (bucket - 1) / SUB;
    let fraction = (bucket - 1) % SUB;
    ((SUB + fraction + 1) as u64) << (exponent as u64 + u64::from(FIRST_EXPONENT - SUB_BITS))
}

/// The upper end of the bucket in which quantile `q` (0 to 1) of `counts` lies; `None` when there
/// are no counts.
#[must_use]
pub fn quantile_ns(counts: &[u64; BUCKETS], q: f64) -> Option<u64> {
    // The counts come from another process, so sums saturate.
    let total = counts.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
    if total == 0 {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among counts; f64 is exact far beyond any count seen"
    )]
    let rank = ((total as f64 * q.clamp(0.0, 1.0)).ceil() as u64).clamp(1, total);
    let mut seen = 0u64;
    for (bucket, count) in counts.iter().enumerate() {
        seen = seen.saturating_add(*count);
        if seen >= rank {
            return Some(bucket_upper_ns(bucket));
        }
    }
    None
}

/// Counts per bucket, written by one process, read by any.
#[derive(Debug)]
#[repr(C)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Adds one duration.
    pub fn record(&self, duration_ns: u64) {
        self.counts[bucket_of(duration_ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(duration_ns, Ordering::Relaxed);
    }

    /// A copy of the counts.
    #[must_use]
    pub fn counts(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|bucket| self.counts[bucket].load(Ordering::Relaxed))
    }

    /// Sum of all durations in nanoseconds.
    #[must_use]
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 16 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_duration_lies_in_its_bucket(ns in 0u64..200_000_000_000) {
            let bucket = bucket_of(ns);
            prop_assert!(bucket < BUCKETS);
            prop_assert!(ns < bucket_upper_ns(bucket));
            if bucket > 0 {
                prop_assert!(ns >= bucket_upper_ns(bucket - 1));
            }
        }
    }

    #[test]
    fn quantiles_come_from_the_right_bucket() {
        let mut counts = [0; BUCKETS];
        assert_eq!(quantile_ns(&counts, 0.5), None);
        for ns in (1..=1000u64).map(|i| i * 10_000) {
            counts[bucket_of(ns)] += 1;
        }
        let p99 = quantile_ns(&counts, 0.99).unwrap();
        assert!((9_900_000..=9_900_000 * 9 / 8 + 1).contains(&p99), "{p99}");
    }

    #[test]
    fn hostile_counts_saturate_and_still_have_quantiles() {
        let mut counts = [u64::MAX; BUCKETS];
        assert_eq!(quantile_ns(&counts, 0.5), Some(bucket_upper_ns(0)));
        counts.fill(0);
        // As an f64 this rounds up, so the rank would lie beyond all counts.
        counts[7] = u64::MAX - 1;
        for q in [0.0, 1.0, f64::NAN] {
            assert_eq!(quantile_ns(&counts, q), Some(bucket_upper_ns(7)));
        }
    }
}

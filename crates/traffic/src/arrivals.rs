//! When requests come.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1};

use crate::clients::{self, Profile};
use crate::trace::Trace;

/// How requests come.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// Independent of each other.
    Poisson,
    /// A Markov-modulated Poisson process of two states: on for 2 s on average, off for 4 s, with rates
    /// that give one on average.
    Bursty,
    /// As recorded, stretched to the rate.
    Trace(Trace),
    /// Many clients, few of which send most, stretched to the rate.
    Clients(Profile),
}

/// Rate of the bursty process in its two states, of the mean rate, and how long they last.
const ON: (f64, f64) = (2.2, 2e9);
const OFF: (f64, f64) = (0.4, 4e9);

impl Arrivals {
    /// Its name in results.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Bursty => "bursty",
            Self::Trace(_) => "trace",
            Self::Clients(profile) => profile.name(),
        }
    }

    /// Times of `count` arrivals, in nanoseconds from a beginning at 0, in order, with a mean gap of `gap_ns`. With
    /// many clients the mean of these arrivals is exactly that; with the others it is that of all there could be.
    #[must_use]
    pub fn times_ns(&self, gap_ns: f64, count: usize, seed: u64) -> Vec<u64> {
        if let Self::Clients(profile) = self {
            return stretched(&clients::seconds(*profile, count, seed), gap_ns);
        }
        let mut clock = Clock {
            random: ChaCha8Rng::seed_from_u64(seed ^ 0x5eed),
            at_ns: 0.0,
            on: true,
            until_ns: 0.0,
            place: 0,
        };
        if let Self::Trace(trace) = self {
            // Each seed is another part of the recording.
            clock.place = clock.random.random_range(0..trace.len());
        }
        (0..count)
            .map(|_| whole(clock.next(self, gap_ns)))
            .collect()
    }
}

fn stretched(seconds: &[f64], gap_ns: f64) -> Vec<u64> {
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    let count = seconds.len() as f64;
    let last = seconds.last().copied().unwrap_or(1.0);
    let stretch = gap_ns * count / last.max(f64::MIN_POSITIVE);
    seconds.iter().map(|at| whole(at * stretch)).collect()
}

/// Nanoseconds without a fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time that is not negative; a cast saturates"
)]
pub(crate) fn whole(ns: f64) -> u64 {
    ns as u64
}

struct Clock {
    random: ChaCha8Rng,
    at_ns: f64,
    on: bool,
    until_ns: f64,
    place: usize,
}

impl Clock {
    fn next(&mut self, arrivals: &Arrivals, gap_ns: f64) -> f64 {
        match arrivals {
            Arrivals::Poisson | Arrivals::Clients(_) => self.at_ns += self.unit() * gap_ns,
            Arrivals::Bursty => self.burst(gap_ns),
            Arrivals::Trace(trace) => {
                self.at_ns += trace.gap(self.place) * gap_ns;
                self.place = (self.place + 1) % trace.len();
            }
        }
        self.at_ns
    }

    fn unit(&mut self) -> f64 {
        Exp1.sample(&mut self.random)
    }

    fn burst(&mut self, gap_ns: f64) {
        let mut left = self.unit() * gap_ns;
        loop {
            let (rate, _) = if self.on { ON } else { OFF };
            let next = self.at_ns + left / rate;
            if next <= self.until_ns {
                self.at_ns = next;
                return;
            }
            left -= (self.until_ns - self.at_ns) * rate;
            self.at_ns = self.until_ns;
            self.on = !self.on;
            let (_, stay_ns) = if self.on { ON } else { OFF };
            self.until_ns += self.unit() * stay_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispersion::dispersion;

    const GAP_NS: f64 = 1e7;

    #[test]
    fn rates_are_what_they_say() {
        let trace = Trace::of_seconds(&[0.0, 0.0, 1.0, 3.0]).unwrap();
        for (arrivals, within) in [
            (Arrivals::Poisson, 0.03),
            (Arrivals::Bursty, 0.15),
            (Arrivals::Trace(trace), 0.03),
            (Arrivals::Clients(Profile::Code), 1e-3),
            (Arrivals::Clients(Profile::Conversation), 1e-3),
        ] {
            let times = arrivals.times_ns(GAP_NS, 60_000, 1);
            let mean = *times.last().unwrap() as f64 / 60_000.0;
            let name = arrivals.name();
            assert!((mean / GAP_NS - 1.0).abs() < within, "{name}: {mean}");
            assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "{name}");
        }
    }

    #[test]
    fn bursts_are_bursts() {
        let index = |arrivals: &Arrivals| {
            dispersion(&arrivals.times_ns(GAP_NS, 60_000, 2), 1_000_000_000).unwrap()
        };
        assert!((0.8..1.2).contains(&index(&Arrivals::Poisson)));
        assert!(index(&Arrivals::Bursty) > 10.0);
    }

    #[test]
    fn seeds_give_different_arrivals_and_one_seed_the_same() {
        for arrivals in [
            Arrivals::Poisson,
            Arrivals::Bursty,
            Arrivals::Clients(Profile::Code),
        ] {
            let times = |seed| arrivals.times_ns(GAP_NS, 100, seed);
            assert_eq!(times(1), times(1), "{}", arrivals.name());
            assert_ne!(times(1), times(2), "{}", arrivals.name());
        }
    }
}

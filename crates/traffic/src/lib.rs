//! When requests come and how long their texts are.
//!
//! The decision that shaped this crate: arrivals are made for a mean gap and stretched to it, and texts are
//! drawn from another stream of random numbers, so that one seed gives the same texts and the same bursts at
//! every rate, in the simulator and against real workers.
//!
//! ```
//! use embedring_traffic::{Arrivals, Mix, requests};
//!
//! let (gap_ns, count, seed) = (1e6, 1_000, 7);
//! let made = requests(&Arrivals::Poisson, &Mix::default(), gap_ns, count, seed);
//! assert_eq!(made.len(), 1_000);
//! assert!(made.windows(2).all(|pair| pair[0].due_ns <= pair[1].due_ns));
//! ```
#![forbid(unsafe_code)]

mod arrivals;
mod clients;
mod dispersion;
mod mix;
mod trace;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

pub use arrivals::Arrivals;
pub use clients::Profile;
pub use dispersion::dispersion;
pub use mix::{Drawn, Kind, Mix, PARAGRAPH_TIMES};
pub use trace::{Trace, TraceError};

/// A request that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// When, in nanoseconds since the beginning.
    pub due_ns: u64,
    /// What it asks.
    pub kind: Kind,
    /// Tokens of its one text.
    pub tokens: u64,
}

/// `count` requests with a mean gap of `gap_ns` nanoseconds, in order of arrival.
#[must_use]
pub fn requests(
    arrivals: &Arrivals,
    mix: &Mix,
    gap_ns: f64,
    count: usize,
    seed: u64,
) -> Vec<Request> {
    let mut texts = ChaCha8Rng::seed_from_u64(seed);
    arrivals
        .times_ns(gap_ns, count, seed)
        .into_iter()
        .map(|due_ns| {
            let Drawn { kind, tokens } = mix.draw(&mut texts);
            Request {
                due_ns,
                kind,
                tokens,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_the_same_texts_at_every_rate() {
        let mix = Mix::default();
        let slow = requests(&Arrivals::Poisson, &mix, 1e7, 50, 3);
        let fast = requests(&Arrivals::Poisson, &mix, 1e6, 50, 3);
        for (slow, fast) in slow.iter().zip(&fast) {
            assert_eq!((slow.kind, slow.tokens), (fast.kind, fast.tokens));
            assert!((slow.due_ns / fast.due_ns).abs_diff(10) <= 1);
        }
    }
}

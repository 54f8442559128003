//! Which requests are sent, when, and how soon their answers are wanted.

use std::time::Duration;

use embedring_ipc::clock::to_ns;
use embedring_traffic::{Arrivals, Drawn, Kind, Mix, requests};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::texts::Texts;

/// What is sent, but for how fast and how long.
#[derive(Clone, Debug)]
pub struct Workload {
    /// When requests come.
    pub arrivals: Arrivals,
    /// Questions and paragraphs.
    pub mix: Mix,
    /// Time of a question.
    pub deadline: Duration,
    /// A paragraph has so many times the time of a question.
    pub paragraph_times: u32,
    /// Their texts.
    pub texts: Texts,
}

/// A request to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When, in nanoseconds since the beginning of the run.
    pub due_ns: u64,
    /// What it is.
    pub kind: Kind,
    /// In which time it is to be answered, in nanoseconds.
    pub time_ns: u64,
    /// Its one text.
    pub text: String,
}

impl Workload {
    /// `rate` requests a second for `duration`, on average over all seeds; at least one. The same seed gives the
    /// same texts in the same order at every rate.
    #[must_use]
    pub fn plan(&self, rate: f64, duration: Duration, seed: u64) -> Vec<Planned> {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x7e_47);
        let count = count(rate * duration.as_secs_f64());
        requests(&self.arrivals, &self.mix, 1e9 / rate, count, seed)
            .into_iter()
            .map(|request| Planned {
                due_ns: request.due_ns,
                kind: request.kind,
                time_ns: to_ns(self.time(request.kind)),
                text: self.texts.text(
                    Drawn {
                        kind: request.kind,
                        tokens: request.tokens,
                    },
                    &mut random,
                ),
            })
            .collect()
    }

    /// The time of a kind.
    #[must_use]
    pub fn time(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Question => self.deadline,
            Kind::Paragraph => self.deadline.saturating_mul(self.paragraph_times),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at least one; beyond what memory holds a cast saturates"
)]
fn count(requests: f64) -> usize {
    requests.round().max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_the_rate_and_the_times_that_were_asked_for() {
        let workload = Workload {
            arrivals: Arrivals::Poisson,
            mix: Mix::default(),
            deadline: Duration::from_millis(100),
            paragraph_times: 4,
            texts: Texts::new(None, None).unwrap(),
        };
        let planned = workload.plan(500.0, Duration::from_secs(10), 1);
        assert_eq!(planned.len(), 5_000);
        let seconds = planned.last().unwrap().due_ns as f64 / 1e9;
        assert!((9.0..11.0).contains(&seconds), "{seconds}");
        for request in &planned {
            let times = match request.kind {
                Kind::Question => 1,
                Kind::Paragraph => 4,
            };
            assert_eq!(request.time_ns, times * 100_000_000);
        }
        let faster = workload.plan(1_000.0, Duration::from_secs(5), 1);
        assert!(planned.iter().zip(&faster).all(|(a, b)| a.text == b.text));
    }
}

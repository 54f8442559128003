//! When requests come, and what they ask.
//!
//! Arrivals are made at a mean rate of one and stretched to a load, so that one seed gives the same texts
//! and the same bursts at every load and to every policy (common random numbers).

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1};

use crate::device::{Costs, Device, whole};
use crate::request::{Kind, Request};

/// How requests come.
#[derive(Clone, Debug)]
pub(crate) enum Arrivals {
    /// Independent of each other.
    Poisson,
    /// A Markov-modulated Poisson process of two states: on for 2 s on average, off for 4 s, with rates
    /// that give one on average.
    Bursty,
    /// As recorded: gaps between the requests of a public trace, in units of their mean.
    Trace(Vec<f64>),
}

/// Rate of the bursty process in its two states, of the mean rate, and how long they last.
const ON: (f64, f64) = (2.2, 2e9);
const OFF: (f64, f64) = (0.4, 4e9);

/// Of requests, how many are questions; median and deviation of the logarithm of their tokens.
const QUESTIONS: f64 = 0.75;
const QUESTION_TOKENS: (f64, f64) = (20.0, 0.6);
const PARAGRAPH_TOKENS: (f64, f64) = (180.0, 0.5);
const TOKENS_MIN: u64 = 3;
const TOKENS_MAX: u64 = 512;
/// A paragraph has so many times the time of a question.
const PARAGRAPH_TIMES: u64 = 4;

impl Arrivals {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Bursty => "bursty",
            Self::Trace(_) => "trace",
        }
    }

    /// Gaps of the time stamps in the first column of a CSV file, by their seconds of the day.
    pub(crate) fn trace(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the trace {}", path.display()))?;
        let seconds: Vec<f64> = text
            .lines()
            .skip(1)
            .map(seconds_of_day)
            .collect::<Result<_>>()?;
        ensure!(seconds.len() > 1, "{} holds no trace", path.display());
        let gaps: Vec<f64> = seconds.windows(2).map(|w| (w[1] - w[0]).max(0.0)).collect();
        #[expect(clippy::cast_precision_loss, reason = "lines of a file")]
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        ensure!(mean > 0.0, "the trace {} stands still", path.display());
        Ok(Self::Trace(
            gaps.into_iter().map(|gap| gap / mean).collect(),
        ))
    }

    /// `count` requests at `load`, where load 1 is as much work as the device can do, the fixed time of
    /// batches not counted.
    pub(crate) fn requests(
        &self,
        device: &Device,
        load: f64,
        count: usize,
        seed: u64,
    ) -> Vec<Request> {
        let mut texts = ChaCha8Rng::seed_from_u64(seed);
        let mut clock = Clock {
            random: ChaCha8Rng::seed_from_u64(seed ^ 0x5eed),
            at_ns: 0.0,
            on: true,
            until_ns: 0.0,
            place: 0,
        };
        if let Self::Trace(gaps) = self {
            // Each seed is another part of the recording.
            clock.place = clock.random.random_range(0..gaps.len());
        }
        let gap_ns = mean_work_ns(&device.costs) / load;
        (0..count)
            .map(|_| {
                let (kind, tokens) = text(&mut texts);
                let arrived_ns = whole(clock.next(self, gap_ns));
                let time_ns = match kind {
                    Kind::Question => device.deadline_ns,
                    Kind::Paragraph => device.deadline_ns * PARAGRAPH_TIMES,
                };
                Request {
                    kind,
                    arrived_ns,
                    deadline_ns: arrived_ns + time_ns,
                    tokens,
                }
            })
            .collect()
    }
}

fn seconds_of_day(line: &str) -> Result<f64> {
    let field = line.split(',').next().unwrap_or_default();
    let parse = || {
        let time = field.split_whitespace().nth(1)?;
        let mut parts = time.split(':').map(str::parse::<f64>);
        let mut next = || parts.next()?.ok();
        Some(3600.0 * next()? + 60.0 * next()? + next()?)
    };
    parse().with_context(|| format!("{field:?} is no time stamp"))
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
            Arrivals::Poisson => self.at_ns += self.unit() * gap_ns,
            Arrivals::Bursty => self.burst(gap_ns),
            Arrivals::Trace(gaps) => {
                self.at_ns += gaps[self.place] * gap_ns;
                self.place = (self.place + 1) % gaps.len();
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

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to a text's tokens"
)]
fn text(random: &mut ChaCha8Rng) -> (Kind, u64) {
    let (kind, (median, deviation)) = if random.random_bool(QUESTIONS) {
        (Kind::Question, QUESTION_TOKENS)
    } else {
        (Kind::Paragraph, PARAGRAPH_TOKENS)
    };
    let normal: f64 = rand_distr::StandardNormal.sample(random);
    let tokens = (median * (deviation * normal).exp()).round() as u64;
    (kind, tokens.clamp(TOKENS_MIN, TOKENS_MAX))
}

/// Mean work of a text.
pub(crate) fn mean_work_ns(costs: &Costs) -> f64 {
    const TEXTS: u32 = 100_000;
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let sum: f64 = (0..TEXTS).map(|_| costs.work_ns(text(&mut random).1)).sum();
    sum / f64::from(TEXTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{CPU, float};

    #[test]
    fn loads_are_what_they_say() {
        let trace = Arrivals::Trace(vec![0.0, 1.0, 2.0]);
        for (arrivals, within) in [
            (Arrivals::Poisson, 0.03),
            (Arrivals::Bursty, 0.15),
            (trace, 0.03),
        ] {
            let requests = arrivals.requests(&CPU, 0.5, 60_000, 1);
            let work: f64 = requests.iter().map(|r| CPU.costs.work_ns(r.tokens)).sum();
            let load = work / float(requests.last().unwrap().arrived_ns);
            assert!(
                (load / 0.5 - 1.0).abs() < within,
                "{}: {load}",
                arrivals.name()
            );
        }
    }

    #[test]
    fn bursts_are_bursts() {
        // Variance over mean of the requests of a second, which is 1 for Poisson.
        let dispersion = |arrivals: &Arrivals| {
            let requests = arrivals.requests(&CPU, 0.5, 60_000, 2);
            let seconds = requests.last().unwrap().arrived_ns / 1_000_000_000;
            let mut counts = vec![0.0_f64; usize::try_from(seconds).unwrap() + 1];
            for request in &requests {
                counts[usize::try_from(request.arrived_ns / 1_000_000_000).unwrap()] += 1.0;
            }
            let count = counts.len() as f64;
            let mean = counts.iter().sum::<f64>() / count;
            counts.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count / mean
        };
        assert!((0.8..1.2).contains(&dispersion(&Arrivals::Poisson)));
        assert!(dispersion(&Arrivals::Bursty) > 10.0);
    }

    #[test]
    fn one_seed_gives_the_same_texts_at_every_load() {
        let slow = Arrivals::Poisson.requests(&CPU, 0.1, 50, 3);
        let fast = Arrivals::Poisson.requests(&CPU, 1.0, 50, 3);
        for (slow, fast) in slow.iter().zip(&fast) {
            assert_eq!(slow.tokens, fast.tokens);
            assert!((float(slow.arrived_ns) / float(fast.arrived_ns) - 10.0).abs() < 0.01);
        }
    }

    #[test]
    fn time_stamps_are_read() {
        let line = "2023-11-16 18:15:46.6805900,374,44";
        assert!((seconds_of_day(line).unwrap() - 65_746.680_59).abs() < 1e-6);
        assert!(seconds_of_day("374,44").is_err());
    }
}

//! Arrivals of many clients, few of which send most.
//!
//! Inference services are bursty because of a few large clients (ServeGen, which publishes what it found of 422
//! clients of one provider): 40 clients here, the rate of each in proportion to its rank to the power of −2. In
//! windows of ten minutes a client's gaps are of a Gamma distribution, or of a Weibull distribution for a quarter of the windows,
//! with a shape drawn anew for each window as it was fitted there; its rate follows the time of day, and varies from
//! window to window (lognormal, autoregressive). A tenth of the clients are on and off.
//!
//! What of recorded traffic this reproduces is the index of dispersion of counts of an hour, at five windows from a
//! tenth of a second to five minutes, of the two public traces of Azure's language models of 2023 (`Profile::check`).

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1, Gamma, StandardNormal, Weibull};

use crate::arrivals::whole;
use crate::dispersion::dispersion;

/// Whose traffic the clients together are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Completions in editors: the largest clients are on and off.
    Code,
    /// Conversations: the largest clients are steady, and slowly become more and less busy.
    Conversation,
}

const CLIENTS: usize = 40;
/// Those with the lowest ranks send so evenly that they are never of a Weibull distribution.
const STEADY_RANKS: usize = 4;
/// Of the windows of the other clients; of all of them it is a quarter.
const WEIBULL: f64 = 0.25 * 40.0 / 36.0;
const WINDOW_S: f64 = 600.0;
const DAY_S: f64 = 86_400.0;
/// How much of a window's level is that of the one before.
const LEVEL_KEEP: f64 = 0.5;
/// The lower of the two rates of a client that is on and off, of the higher one.
const OFF_RATE: f64 = 0.001;
/// Windows of the check, in seconds.
const CHECK_S: [f64; 5] = [0.1, 1.0, 10.0, 60.0, 300.0];
/// How far a generated index may be from the recorded one.
const CHECK_WITHIN: f64 = 0.25;

/// What a profile's numbers are.
struct Numbers {
    /// Requests a second of all clients.
    rate: f64,
    /// 10th, 50th and 90th percentile of a window's shape.
    gamma: [f64; 3],
    weibull: [f64; 3],
    /// Of the clients of the lowest ranks, from which to which percentile their shapes are.
    steady: [f64; 2],
    /// Coefficient of variation of a client's rate from window to window.
    level_cv: f64,
    /// Ranks from 0 of those that are on and off, and for how many seconds on average.
    on_and_off: std::ops::Range<usize>,
    on_s: f64,
    off_s: f64,
    /// The index of dispersion of an hour of the recorded trace at the windows of the check.
    recorded: [f64; 5],
}

/// One window of a check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Check {
    /// Its length in seconds.
    pub window_s: f64,
    /// The index of dispersion of the recorded trace.
    pub recorded: f64,
    /// That of what is generated here, the mean over hours.
    pub generated: f64,
}

impl Check {
    /// Whether they are within a quarter of each other.
    #[must_use]
    pub fn holds(&self) -> bool {
        (self.generated / self.recorded - 1.0).abs() <= CHECK_WITHIN
    }
}

impl Profile {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Code, Self::Conversation];

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Code => "clients-code",
            Self::Conversation => "clients-conversation",
        }
    }

    /// Generates `hours` hours at the rate of the recording, without the wave of the day, and holds their index of
    /// dispersion against the recorded hour's.
    #[must_use]
    pub fn check(self, hours: u32, seed: u64) -> Vec<Check> {
        let mut sums = [0.0; CHECK_S.len()];
        let mut counts = [0.0; CHECK_S.len()];
        let mut times = Vec::new();
        let mut arrivals = Superposition::new(self.numbers(), None, seed);
        let mut next_s = arrivals.next();
        for hour in 1..=hours {
            times.clear();
            while next_s < f64::from(hour) * 3600.0 {
                times.push(whole((next_s - f64::from(hour - 1) * 3600.0) * 1e9));
                next_s = arrivals.next();
            }
            for (at, window_s) in CHECK_S.iter().enumerate() {
                if let Some(index) = dispersion(&times, whole(window_s * 1e9)) {
                    sums[at] += index;
                    counts[at] += 1.0;
                }
            }
        }
        let recorded = self.numbers().recorded;
        (0..CHECK_S.len())
            .map(|at| Check {
                window_s: CHECK_S[at],
                recorded: recorded[at],
                generated: sums[at] / counts[at],
            })
            .collect()
    }

    fn numbers(self) -> Numbers {
        match self {
            // Shapes of ServeGen's "m-large"; bursts as long as the trace's own two-state fit says, and further
            // apart, since that fit has half the recorded dispersion.
            Self::Code => Numbers {
                rate: 2.57,
                gamma: [0.24, 0.84, 1.16],
                weibull: [0.22, 0.42, 0.96],
                steady: [0.4, 0.9],
                level_cv: 0.1,
                on_and_off: 0..4,
                on_s: 7.6,
                off_s: 84.0,
                recorded: [2.5, 13.2, 71.6, 164.0, 138.0],
            },
            // Shapes of "deepseek-r1", a service for conversations.
            Self::Conversation => Numbers {
                rate: 5.53,
                gamma: [0.43, 1.0, 2.8],
                weibull: [0.27, 0.35, 0.97],
                steady: [0.15, 0.55],
                level_cv: 0.37,
                on_and_off: 36..40,
                on_s: 7.6,
                off_s: 21.8,
                recorded: [1.06, 1.39, 3.9, 16.0, 56.0],
            },
        }
    }
}

/// Times of `count` arrivals in seconds, from some time of the day on.
pub(crate) fn seconds(profile: Profile, count: usize, seed: u64) -> Vec<f64> {
    let phase_s = ChaCha8Rng::seed_from_u64(seed ^ 0xda_4e).random::<f64>() * DAY_S;
    let mut arrivals = Superposition::new(profile.numbers(), Some(phase_s), seed);
    (0..count).map(|_| arrivals.next()).collect()
}

/// All clients together.
struct Superposition {
    numbers: Numbers,
    phase_s: Option<f64>,
    clients: Vec<Client>,
}

impl Superposition {
    fn new(numbers: Numbers, phase_s: Option<f64>, seed: u64) -> Self {
        let weight = |rank: usize| {
            let rank = f64::from(u32::try_from(rank + 1).unwrap_or(u32::MAX));
            rank.powi(-2)
        };
        let all: f64 = (0..CLIENTS).map(weight).sum();
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|rank| {
                let rate = numbers.rate * weight(rank) / all;
                let stream = (seed ^ 0x5eed).wrapping_mul(CLIENTS as u64 + 1) + rank as u64;
                Client::new(rank, rate, &numbers, stream)
            })
            .collect();
        for client in &mut clients {
            client.advance(&numbers, phase_s);
        }
        Self {
            numbers,
            phase_s,
            clients,
        }
    }

    /// The next arrival, in seconds.
    fn next(&mut self) -> f64 {
        let first = (0..self.clients.len())
            .min_by(|a, b| self.clients[*a].at_s.total_cmp(&self.clients[*b].at_s));
        let Some(first) = first else {
            return f64::INFINITY;
        };
        let client = &mut self.clients[first];
        let at_s = client.at_s;
        client.advance(&self.numbers, self.phase_s);
        at_s
    }
}

/// Gaps of a window, with a mean of 1.
enum Gaps {
    Gamma(Gamma<f64>),
    Weibull(Weibull<f64>),
    Exponential,
}

struct Client {
    random: ChaCha8Rng,
    rank: usize,
    rate: f64,
    at_s: f64,
    window_until_s: f64,
    /// Logarithm of the window's level, in standard deviations.
    level: f64,
    gaps: Gaps,
    on: bool,
    turns_s: f64,
}

impl Client {
    fn new(rank: usize, rate: f64, numbers: &Numbers, stream: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(stream);
        let level = StandardNormal.sample(&mut random);
        // Windows of different clients begin at different times.
        let window_until_s = random.random::<f64>() * WINDOW_S;
        let on = random.random_bool(numbers.on_s / (numbers.on_s + numbers.off_s));
        let mut client = Self {
            random,
            rank,
            rate,
            at_s: 0.0,
            window_until_s,
            level,
            gaps: Gaps::Exponential,
            on,
            turns_s: f64::INFINITY,
        };
        if numbers.on_and_off.contains(&rank) {
            client.turns_s = client.stay(numbers);
        }
        client.gaps = client.window(numbers);
        client
    }

    /// Goes to this client's next arrival. A gap is work that is done at the rate of the time.
    fn advance(&mut self, numbers: &Numbers, phase_s: Option<f64>) {
        let mut left = match &self.gaps {
            Gaps::Gamma(gaps) => gaps.sample(&mut self.random),
            Gaps::Weibull(gaps) => gaps.sample(&mut self.random),
            Gaps::Exponential => Exp1.sample(&mut self.random),
        };
        loop {
            let rate = self.rate_now(numbers, phase_s);
            let until_s = self.window_until_s.min(self.turns_s);
            if left <= (until_s - self.at_s) * rate {
                self.at_s += left / rate;
                return;
            }
            left -= (until_s - self.at_s) * rate;
            self.at_s = until_s;
            if until_s >= self.turns_s {
                self.on = !self.on;
                self.turns_s += self.stay(numbers);
            }
            if until_s >= self.window_until_s {
                self.window_until_s += WINDOW_S;
                let news: f64 = StandardNormal.sample(&mut self.random);
                self.level =
                    LEVEL_KEEP * self.level + (1.0 - LEVEL_KEEP * LEVEL_KEEP).sqrt() * news;
                self.gaps = self.window(numbers);
            }
        }
    }

    fn rate_now(&self, numbers: &Numbers, phase_s: Option<f64>) -> f64 {
        // Of a lognormal level with a mean of 1.
        let variance = numbers.level_cv.powi(2).ln_1p();
        let level = (self.level * variance.sqrt() - variance / 2.0).exp();
        let turns = if self.turns_s.is_infinite() {
            1.0
        } else {
            let on = numbers.on_s / (numbers.on_s + numbers.off_s);
            let high = 1.0 / (on + (1.0 - on) * OFF_RATE);
            if self.on { high } else { high * OFF_RATE }
        };
        self.rate * level * turns * phase_s.map_or(1.0, |phase_s| day(phase_s + self.at_s))
    }

    fn stay(&mut self, numbers: &Numbers) -> f64 {
        let unit: f64 = Exp1.sample(&mut self.random);
        unit * if self.on { numbers.on_s } else { numbers.off_s }
    }

    /// Draws the distribution of a window's gaps.
    fn window(&mut self, numbers: &Numbers) -> Gaps {
        let is_steady = self.rank < STEADY_RANKS;
        let [from, to] = if is_steady {
            numbers.steady
        } else {
            [0.0, 1.0]
        };
        let percentile = from + (to - from) * self.random.random::<f64>();
        // Drawn whether they are used or not, so that nothing else depends on it.
        let is_weibull = self.random.random_bool(WEIBULL) && !is_steady;
        if is_weibull {
            let shape = shape(numbers.weibull, percentile);
            let mean = libm::tgamma(1.0 + 1.0 / shape);
            Weibull::new(1.0 / mean, shape).map_or(Gaps::Exponential, Gaps::Weibull)
        } else {
            let shape = shape(numbers.gamma, percentile);
            Gamma::new(shape, 1.0 / shape).map_or(Gaps::Exponential, Gaps::Gamma)
        }
    }
}

/// The shape at a percentile, by its logarithm between the three that are known; beyond them it is as at them.
fn shape([low, middle, high]: [f64; 3], percentile: f64) -> f64 {
    let from_middle = ((percentile - 0.5) / 0.4).clamp(-1.0, 1.0);
    let end = if from_middle < 0.0 { low } else { high };
    middle * (end / middle).powf(from_middle.abs())
}

/// The wave of a day, with a mean of 1: 2.15 at its highest, .29 at its lowest.
fn day(at_s: f64) -> f64 {
    /// The mean of the exponential of a sine, the modified Bessel function I₀(1).
    const MEAN: f64 = 1.266_065_877_752_008_4;
    (std::f64::consts::TAU * at_s / DAY_S).sin().exp() / MEAN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_as_bursty_as_the_recorded_one() {
        for profile in Profile::ALL {
            for check in profile.check(200, 1) {
                assert!(check.holds(), "{}: {check:?}", profile.name());
            }
        }
    }

    #[test]
    fn the_check_does_not_hold_for_poisson_arrivals() {
        let steady = |window_s, recorded| Check {
            window_s,
            recorded,
            generated: 1.0,
        };
        let numbers = Profile::Code.numbers();
        let held = CHECK_S
            .iter()
            .zip(numbers.recorded)
            .filter(|(window_s, recorded)| steady(**window_s, *recorded).holds());
        assert_eq!(held.count(), 0);
    }

    #[test]
    fn five_clients_send_most() {
        let numbers = Profile::Conversation.numbers();
        let arrivals = Superposition::new(numbers, None, 1);
        let all: f64 = arrivals.clients.iter().map(|client| client.rate).sum();
        let five: f64 = arrivals.clients[..5].iter().map(|client| client.rate).sum();
        assert!((0.8..0.95).contains(&(five / all)), "{}", five / all);
    }

    #[test]
    fn the_wave_of_a_day_has_a_mean_of_one() {
        let mean = (0..86_400).map(|at| day(f64::from(at))).sum::<f64>() / DAY_S;
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
    }

    #[test]
    fn shapes_are_those_that_are_known() {
        let known = [0.2, 1.0, 3.0];
        for (percentile, want) in [(0.1, 0.2), (0.5, 1.0), (0.9, 3.0), (0.0, 0.2), (1.0, 3.0)] {
            assert!((shape(known, percentile) - want).abs() < 1e-9);
        }
    }
}

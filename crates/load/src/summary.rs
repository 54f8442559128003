//! From what became of each request to numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use embedring_ipc::clock::to_ns;
use embedring_traffic::Kind;
use serde::Serialize;

use crate::drive::{End, Outcome};

/// Parts of a run that means are compared over, for an interval.
const BLOCKS: usize = 10;
/// Of the requests, how many may find no free slot before the run is not valid.
const CROWDED_MAX: f64 = 0.001;

/// When a run counts.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// What is due before this time is sent and not counted.
    pub warm_up: Duration,
    /// A generator whose requests are sent later than this after they were due, at the 99th percentile, measures
    /// itself.
    pub lag_p99_max: Duration,
}

/// A mean with its 95 % interval, by Student's distribution over blocks of time (batch means): requests of one
/// moment share a fate, so each of them is not a sample of its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Over all requests.
    pub mean: f64,
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Results of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindSummary {
    /// Its name.
    pub kind: &'static str,
    /// Time it has, in milliseconds.
    pub time_ms: f64,
    /// How many there were.
    pub requests: u64,
    /// Share answered in time.
    pub attainment: f64,
    /// Mean of the tokens of those that were answered.
    pub tokens_mean: f64,
    /// Latency of those that were answered, late or not, from the time they were due.
    pub latency_ms: Option<Latency>,
}

/// One second of a run, by when requests were due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Second {
    /// Requests that were due.
    pub due: u64,
    /// Of them, answered in time.
    pub on_time: u64,
}

/// Results of one run or of several with the same rate.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Requests that count.
    pub requests: u64,
    /// Requests that were due a second.
    pub offered_per_s: f64,
    /// Answered in time.
    pub on_time: u64,
    /// Answered, but too late.
    pub late: u64,
    /// Not answered, by reason.
    pub failed: BTreeMap<String, u64>,
    /// When it was known that there would be no answer, from the time those requests were due.
    pub failed_after_ms: Option<Latency>,
    /// Share answered in time.
    pub attainment: Interval,
    /// Requests answered in time, a second.
    pub goodput_per_s: Interval,
    /// By kind.
    pub kinds: Vec<KindSummary>,
    /// How much later than due requests were sent: of the generator, not of the instance.
    pub lag_ms: Option<Latency>,
    /// Requests whose connection had no free slot.
    pub crowded: u64,
    /// The first run, second by second.
    pub seconds: Vec<Second>,
    /// Whether the generator kept up.
    pub valid: bool,
    /// Why not, in words.
    pub invalid_because: Vec<String>,
}

impl Summary {
    /// Of runs of one rate.
    #[must_use]
    pub fn of(runs: &[Vec<Outcome>], bounds: &Bounds) -> Self {
        let runs: Vec<Run> = runs.iter().map(|run| Run::counted(run, bounds)).collect();
        let all = || runs.iter().flat_map(|run| &run.outcomes);
        let requests = all().count() as u64;
        let on_time = all().filter(|outcome| outcome.is_on_time()).count() as u64;
        let seconds: f64 = runs.iter().map(|run| run.seconds).sum();
        let blocks: Vec<Block> = runs.iter().flat_map(Run::blocks).collect();
        let answered = |end: &End| matches!(end, End::Answered { .. });
        let mut summary = Self {
            requests,
            offered_per_s: ratio(requests, seconds),
            on_time,
            late: all().filter(|o| answered(&o.end)).count() as u64 - on_time,
            failed: failures(all()),
            failed_after_ms: latency(all().filter_map(|outcome| match outcome.end {
                End::Failed { after_ns, .. } => Some(after_ns),
                End::Answered { .. } => None,
            })),
            attainment: interval(
                ratio(on_time, float(requests)),
                blocks
                    .iter()
                    .filter(|block| block.due > 0)
                    .map(|block| (ratio(block.on_time, float(block.due)), float(block.due))),
            )
            .within(0.0, 1.0),
            goodput_per_s: interval(
                ratio(on_time, seconds),
                blocks
                    .iter()
                    .map(|block| (ratio(block.on_time, block.seconds), block.seconds)),
            )
            .within(0.0, f64::INFINITY),
            kinds: Kind::ALL
                .into_iter()
                .filter_map(|kind| kind_summary(kind, all()))
                .collect(),
            lag_ms: latency(all().map(|outcome| outcome.lag_ns)),
            crowded: all().filter(|outcome| outcome.crowded).count() as u64,
            seconds: runs.first().map(Run::by_second).unwrap_or_default(),
            valid: true,
            invalid_because: Vec::new(),
        };
        summary.judge(bounds);
        summary
    }

    fn judge(&mut self, bounds: &Bounds) {
        let lag_max_ms = bounds.lag_p99_max.as_secs_f64() * 1e3;
        if self.requests == 0 {
            self.invalid_because
                .push("nothing was due after the warm-up".to_owned());
        }
        if let Some(lag) = self.lag_ms.filter(|lag| lag.p99 > lag_max_ms) {
            self.invalid_because.push(format!(
                "the generator fell behind: 1 of 100 requests was sent more than {:.1} ms after it was due, allowed \
                 are {lag_max_ms:.1} ms",
                lag.p99
            ));
        }
        if ratio(self.crowded, float(self.requests)) > CROWDED_MAX {
            self.invalid_because.push(format!(
                "{} requests waited in the generator for a free slot; use more --connections, or raise \
                 limits.requests_in_flight_max of the instance",
                self.crowded
            ));
        }
        self.valid = self.invalid_because.is_empty();
    }
}

/// What of a run counts.
struct Run<'a> {
    outcomes: Vec<&'a Outcome>,
    from_ns: u64,
    /// From the end of the warm-up to the last request.
    seconds: f64,
}

struct Block {
    due: u64,
    on_time: u64,
    seconds: f64,
}

impl<'a> Run<'a> {
    fn counted(outcomes: &'a [Outcome], bounds: &Bounds) -> Self {
        let from_ns = to_ns(bounds.warm_up);
        let outcomes: Vec<_> = outcomes
            .iter()
            .filter(|outcome| outcome.due_ns >= from_ns)
            .collect();
        let last_ns = outcomes.iter().map(|outcome| outcome.due_ns).max();
        Self {
            outcomes,
            from_ns,
            seconds: float(last_ns.map_or(0, |last| last - from_ns)) / 1e9,
        }
    }

    fn blocks(&self) -> Vec<Block> {
        let seconds = self.seconds / float(BLOCKS as u64);
        let mut blocks: Vec<_> = (0..BLOCKS)
            .map(|_| Block {
                due: 0,
                on_time: 0,
                seconds,
            })
            .collect();
        for outcome in &self.outcomes {
            let at = float(outcome.due_ns - self.from_ns) / 1e9 / seconds;
            let block = &mut blocks[whole(at).min(BLOCKS - 1)];
            block.due += 1;
            block.on_time += u64::from(outcome.is_on_time());
        }
        blocks
    }

    fn by_second(&self) -> Vec<Second> {
        let mut seconds = vec![Second::default(); whole(self.seconds) + 1];
        for outcome in &self.outcomes {
            let at = float(outcome.due_ns - self.from_ns) / 1e9;
            if let Some(second) = seconds.get_mut(whole(at)) {
                second.due += 1;
                second.on_time += u64::from(outcome.is_on_time());
            }
        }
        seconds
    }
}

fn failures<'a>(outcomes: impl Iterator<Item = &'a &'a Outcome>) -> BTreeMap<String, u64> {
    let mut failed = BTreeMap::new();
    for outcome in outcomes {
        if let End::Failed { kind, detail, .. } = outcome.end {
            let reason = if detail.is_empty() {
                kind.to_owned()
            } else {
                format!("{kind}: {detail}")
            };
            *failed.entry(reason).or_default() += 1;
        }
    }
    failed
}

fn kind_summary<'a>(
    kind: Kind,
    outcomes: impl Iterator<Item = &'a &'a Outcome>,
) -> Option<KindSummary> {
    let of: Vec<&Outcome> = outcomes
        .filter(|outcome| outcome.kind == kind)
        .copied()
        .collect();
    let first = of.first()?;
    let answers = || {
        of.iter().filter_map(|outcome| match outcome.end {
            End::Answered { latency_ns, tokens } => Some((latency_ns, tokens)),
            End::Failed { .. } => None,
        })
    };
    let tokens: u64 = answers().map(|(_, tokens)| u64::from(tokens)).sum();
    let on_time = of.iter().filter(|outcome| outcome.is_on_time()).count() as u64;
    Some(KindSummary {
        kind: kind.name(),
        time_ms: float(first.time_ns) / 1e6,
        requests: of.len() as u64,
        attainment: ratio(on_time, float(of.len() as u64)),
        tokens_mean: ratio(tokens, float(answers().count() as u64)),
        latency_ms: latency(answers().map(|(latency_ns, _)| latency_ns)),
    })
}

/// Quantiles by nearest rank.
fn latency(ns: impl Iterator<Item = u64>) -> Option<Latency> {
    let mut sorted: Vec<u64> = ns.collect();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1)?;
    let at = |per_mille: usize| float(sorted[(sorted.len() * per_mille / 1000).min(last)]) / 1e6;
    Some(Latency {
        p50: at(500),
        p90: at(900),
        p99: at(990),
        p999: at(999),
        max: at(1000),
    })
}

/// The interval of a mean from block means with their weights.
fn interval(mean: f64, blocks: impl Iterator<Item = (f64, f64)>) -> Interval {
    let blocks: Vec<(f64, f64)> = blocks.collect();
    if blocks.len() < 2 {
        return Interval {
            mean,
            low: f64::NEG_INFINITY,
            high: f64::INFINITY,
        };
    }
    let weights: f64 = blocks.iter().map(|(_, weight)| weight).sum();
    let count = float(blocks.len() as u64);
    let variance = blocks
        .iter()
        .map(|(value, weight)| (weight / weights * count) * (value - mean).powi(2))
        .sum::<f64>()
        / (count - 1.0);
    // Student's 97.5 % quantile, within 1 % from 9 degrees of freedom on.
    let student = 1.96 + 2.72 / (count - 1.0);
    let half = student * (variance / count).sqrt();
    Interval {
        mean,
        low: mean - half,
        high: mean + half,
    }
}

impl Interval {
    fn within(self, least: f64, most: f64) -> Self {
        Self {
            low: self.low.max(least),
            high: self.high.min(most),
            ..self
        }
    }
}

fn ratio(part: u64, all: f64) -> f64 {
    if all > 0.0 { float(part) / all } else { 0.0 }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts, and times of a run, far below 2^52"
)]
fn float(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds of a run or a place among blocks; a cast saturates"
)]
fn whole(value: f64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        warm_up: Duration::from_secs(1),
        lag_p99_max: Duration::from_millis(5),
    };

    /// A question due at so many milliseconds that is answered after so many, or refused.
    fn outcome(due_ms: u64, latency_ms: Option<u64>) -> Outcome {
        let end = match latency_ms {
            Some(ms) => End::Answered {
                latency_ns: ms * 1_000_000,
                tokens: 20,
            },
            None => End::Failed {
                kind: "overloaded",
                detail: "",
                after_ns: 1_000_000,
            },
        };
        Outcome {
            due_ns: due_ms * 1_000_000,
            kind: Kind::Question,
            time_ns: 100_000_000,
            lag_ns: 50_000,
            crowded: false,
            end,
        }
    }

    #[test]
    fn what_is_late_or_refused_does_not_count_and_neither_does_the_warm_up() {
        let mut run = vec![outcome(10, None), outcome(999, Some(500))];
        // 1,000 requests in ten seconds: one of ten late, one of ten refused.
        run.extend((0..1_000).map(|at| {
            let latency = match at % 10 {
                0 => Some(150),
                1 => None,
                _ => Some(20),
            };
            outcome(1_000 + at * 10, latency)
        }));
        let summary = Summary::of(&[run], &BOUNDS);
        assert_eq!(
            (summary.requests, summary.on_time, summary.late),
            (1_000, 800, 100)
        );
        assert_eq!(
            summary.failed,
            BTreeMap::from([("overloaded".to_owned(), 100)])
        );
        assert!((summary.attainment.mean - 0.8).abs() < 1e-9);
        assert!(summary.attainment.low <= 0.8 && summary.attainment.high >= 0.8);
        assert!((summary.goodput_per_s.mean - 80.0).abs() < 0.2);
        assert!((summary.offered_per_s - 100.0).abs() < 0.2);
        assert!(summary.valid, "{:?}", summary.invalid_because);
        let latency = summary.kinds[0].latency_ms.unwrap();
        assert_eq!((latency.p50, latency.p99), (20.0, 150.0));
        assert_eq!(summary.seconds.iter().map(|s| s.due).sum::<u64>(), 1_000);
    }

    #[test]
    fn an_interval_is_as_wide_as_the_blocks_differ() {
        // The second half of the run is lost.
        let half = (0..1_000).map(|at| outcome(1_000 + at * 10, (at < 500).then_some(10)));
        let summary = Summary::of(&[half.collect()], &BOUNDS);
        let Interval { mean, low, high } = summary.attainment;
        assert!((mean - 0.5).abs() < 1e-9);
        assert!(low < 0.15 && high > 0.85, "{low} {high}");
        // The same requests mixed are known much better.
        let mixed = (0..1_000).map(|at| outcome(1_000 + at * 10, (at % 2 == 0).then_some(10)));
        let summary = Summary::of(&[mixed.collect()], &BOUNDS);
        assert!(summary.attainment.high - summary.attainment.low < 0.02);
    }

    #[test]
    fn a_generator_that_fell_behind_makes_no_valid_run() {
        let late = |share: u64| {
            let run = (0..1_000).map(|at| Outcome {
                lag_ns: if at % share == 0 { 20_000_000 } else { 0 },
                ..outcome(1_000 + at * 10, Some(10))
            });
            Summary::of(&[run.collect()], &BOUNDS)
        };
        let summary = late(20);
        assert!(!summary.valid);
        assert!(summary.invalid_because[0].contains("fell behind"));
        assert!(late(500).valid);
        let crowded = (0..1_000).map(|at| Outcome {
            crowded: at < 5,
            ..outcome(1_000 + at * 10, Some(10))
        });
        let summary = Summary::of(&[crowded.collect()], &BOUNDS);
        assert!(summary.invalid_because[0].contains("--connections"));
    }

    #[test]
    fn an_empty_run_is_not_valid() {
        let summary = Summary::of(&[vec![outcome(10, Some(1))]], &BOUNDS);
        assert_eq!(summary.requests, 0);
        assert!(!summary.valid);
        assert!(summary.kinds.is_empty());
    }
}

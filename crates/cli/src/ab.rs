//! `embedring ab`: tries another batch time while the instance serves, against the configured one.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use embedring_ipc::clock::{now_ns, to_ns};
use embedring_ipc::{BoardMap, Instance, is_alive};
use embedring_optimizer::{Arm, Paired, Switchback};
use embedring_protocol::sync::Ordering;
use embedring_protocol::{BUCKETS, BoardLayout, Counter, Stage, Trial, quantile_ns};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::context::{Context, instance_options};
use crate::roles::{is_set, stop_flag};

/// Longest sleep at a time: how soon a signal or the end of the scheduler is noticed.
const LOOK_EVERY_NS: u64 = 50_000_000;
/// A scheduler without a sign of life for so long hangs: nobody takes turns any more.
const SILENT_NS_MAX: u64 = 10_000_000_000;

/// Try another batch time against the configured one, in turns, on the load that there is
///
/// The scheduler switches between the two in blocks, each pair of blocks in random order; what happens at
/// the beginning of a block, while the queue is still the other one's, does not count. The differences
/// within pairs are tested (Student's t). Needs a load that goes on for 2 × pairs × block. Ctrl-C ends the
/// trial at once and without a result.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The other value of scheduler.batch_time_target_ms
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    batch_time_target_ms: u64,
    /// Length of a block in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(10..=86_400_000))]
    block_ms: u64,
    /// What does not count at the beginning of a block, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    settle_ms: u64,
    /// Pairs of blocks
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    pairs: u64,
    /// Decides the order within pairs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object for machines
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Outcome {
    a_batch_time_target_ms: u128,
    b_batch_time_target_ms: u64,
    pairs: u64,
    block_ms: u64,
    settle_ms: u64,
    measures: Vec<Measure>,
}

#[derive(Serialize)]
struct Measure {
    name: &'static str,
    a: Option<f64>,
    b: Option<f64>,
    /// B less A, where at least two pairs have both.
    difference: Option<Difference>,
}

#[derive(Serialize)]
struct Difference {
    pairs: usize,
    mean: f64,
    low_95: f64,
    high_95: f64,
}

/// What all workers counted up to a moment.
struct Counts {
    at_ns: u64,
    answered: u64,
    late: u64,
    total: [u64; BUCKETS],
}

/// What is measured in a block, each with the name it is told by.
const MEASURES: [&str; 3] = [
    "requests answered a second",
    "share of requests refused or late",
    "99th percentile of answers, ms",
];

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    ensure!(
        args.settle_ms < args.block_ms,
        "--settle-ms must be below --block-ms"
    );
    let config = context.config()?;
    let instance = Instance::open(&instance_options(&config))?;
    // Two trials at a time would each measure the other one.
    let _role = instance.lock_role("ab")?;
    let header = *BoardMap::open(&instance)?.header();
    let board = BoardMap::create(&instance, header)?;
    // Before there is a trial to be ended.
    let stop = stop_flag()?;
    let plan = Switchback {
        begun_ns: now_ns() + to_ns(config.scheduler.tick * 2),
        block_ns: args.block_ms * 1_000_000,
        settle_ns: args.settle_ms * 1_000_000,
        seed: args.seed,
    };
    let blocks = args.pairs * 2;
    let running = Running::begin(
        &board,
        Trial {
            begun_ns: plan.begun_ns,
            // Without us it ends by itself.
            until_ns: end_of(&plan, blocks - 1),
            block_ns: plan.block_ns,
            settle_ns: plan.settle_ns,
            seed: plan.seed,
            batch_time_target_ns: args.batch_time_target_ms * 1_000_000,
        },
    );
    let bar = bar(blocks, args.block_ms);
    let measured = (0..blocks)
        .map(|block| {
            let measured = block_of(&board, &plan, block, &stop);
            bar.inc(1);
            measured
        })
        .collect::<Result<Vec<_>>>();
    drop(running);
    bar.finish_and_clear();
    let outcome = Outcome {
        a_batch_time_target_ms: config.scheduler.batch_time_target.as_millis(),
        b_batch_time_target_ms: args.batch_time_target_ms,
        pairs: args.pairs,
        block_ms: args.block_ms,
        settle_ms: args.settle_ms,
        measures: compare(&plan, &measured?),
    };
    let text = if args.json {
        serde_json::to_string(&outcome).context("write JSON")?
    } else {
        in_words(&outcome)
    };
    writeln!(std::io::stdout(), "{text}").context("write to stdout")?;
    Ok(ExitCode::SUCCESS)
}

/// A trial on the board, which is taken off whatever happens.
struct Running<'a>(&'a BoardLayout);

impl<'a> Running<'a> {
    fn begin(board: &'a BoardLayout, trial: Trial) -> Self {
        board.scheduler.trial.write(&trial);
        Self(board)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.scheduler.trial.write(&Trial::default());
    }
}

/// It lasts minutes: shows a person how far it is.
fn bar(blocks: u64, block_ms: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(blocks).with_prefix(format!("blocks of {block_ms} ms"));
    bar.enable_steady_tick(Duration::from_millis(200));
    match ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} eta {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn end_of(plan: &Switchback, block: u64) -> u64 {
    plan.begun_ns + (block + 1) * plan.block_ns
}

/// Waits a block out and gives its measures.
fn block_of(
    board: &BoardLayout,
    plan: &Switchback,
    block: u64,
    stop: &AtomicBool,
) -> Result<[Option<f64>; 3]> {
    let end_ns = end_of(plan, block);
    wait_until(end_ns - plan.block_ns + plan.settle_ns, board, stop)?;
    let before = counts(board);
    wait_until(end_ns, board, stop)?;
    let after = counts(board);
    Ok(measures(&before, &after))
}

/// Waits for as long as somebody wants it and somebody does it.
fn wait_until(until_ns: u64, board: &BoardLayout, stop: &AtomicBool) -> Result<()> {
    loop {
        if is_set(stop) {
            bail!("stopped by a signal; the trial is over, without a result");
        }
        let scheduler = board.scheduler.process.read();
        if !scheduler.is_some_and(is_alive) {
            bail!("the scheduler has ended, and with it the trial");
        }
        let now_ns = now_ns();
        let heartbeat_ns = board.scheduler.heartbeat_ns.load(Ordering::Relaxed);
        if now_ns.saturating_sub(heartbeat_ns) > SILENT_NS_MAX {
            bail!("the scheduler hangs, and with it the trial");
        }
        let left_ns = until_ns.saturating_sub(now_ns);
        if left_ns == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_nanos(left_ns.min(LOOK_EVERY_NS)));
    }
}

fn counts(board: &BoardLayout) -> Counts {
    let mut counts = Counts {
        at_ns: now_ns(),
        answered: 0,
        late: 0,
        total: [0; BUCKETS],
    };
    for slot in &board.workers {
        counts.answered += slot.counter(Counter::Requests);
        counts.late += slot.counter(Counter::RefusedOverload);
        counts.late += slot.counter(Counter::RefusedDeadline);
        let total = slot.histogram(Stage::Total).counts();
        for (sum, count) in counts.total.iter_mut().zip(total) {
            *sum = sum.saturating_add(count);
        }
    }
    counts
}

/// One number for each of [`MEASURES`], where there is one.
fn measures(before: &Counts, after: &Counts) -> [Option<f64>; 3] {
    let answered = after.answered.saturating_sub(before.answered);
    let late = after.late.saturating_sub(before.late);
    let seconds = after.at_ns.saturating_sub(before.at_ns) as f64 / 1e9;
    let mut total = [0; BUCKETS];
    for (at, count) in total.iter_mut().enumerate() {
        *count = after.total[at].saturating_sub(before.total[at]);
    }
    let ended = answered + late;
    [
        (ended > 0 && seconds > 0.0).then(|| answered as f64 / seconds),
        (ended > 0).then(|| late as f64 / ended as f64),
        quantile_ns(&total, 0.99).map(|ns| ns as f64 / 1e6),
    ]
}

fn compare(plan: &Switchback, blocks: &[[Option<f64>; 3]]) -> Vec<Measure> {
    let one = |(at, name): (usize, &'static str)| {
        let values: Vec<Option<f64>> = blocks.iter().map(|block| block[at]).collect();
        let mean = |arm| {
            let of_arm = (0..)
                .zip(&values)
                .filter(|(block, _)| plan.arm_of(*block) == arm);
            let own: Vec<f64> = of_arm.filter_map(|(_, value)| *value).collect();
            (!own.is_empty()).then(|| own.iter().sum::<f64>() / own.len() as f64)
        };
        let difference = plan.compare(&values).map(|found: Paired| Difference {
            pairs: found.pairs,
            mean: found.mean,
            low_95: found.low,
            high_95: found.high,
        });
        Measure {
            name,
            a: mean(Arm::A),
            b: mean(Arm::B),
            difference,
        }
    };
    MEASURES.into_iter().enumerate().map(one).collect()
}

fn in_words(outcome: &Outcome) -> String {
    let mut lines = vec![format!(
        "scheduler.batch_time_target_ms {} (A) and {} (B), {} pairs of blocks of {} ms, of which the first {} ms do not count",
        outcome.a_batch_time_target_ms,
        outcome.b_batch_time_target_ms,
        outcome.pairs,
        outcome.block_ms,
        outcome.settle_ms,
    )];
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
    for measure in &outcome.measures {
        let difference = measure.difference.as_ref().map_or_else(
            || "nothing to compare".to_owned(),
            |found| {
                let verdict = if found.low_95 > 0.0 || found.high_95 < 0.0 {
                    "a difference"
                } else {
                    "no difference seen"
                };
                format!(
                    "B less A {:.3}, 95 % between {:.3} and {:.3}: {verdict}",
                    found.mean, found.low_95, found.high_95
                )
            },
        );
        lines.push(format!(
            "  {}: A {}, B {}; {difference}",
            measure.name,
            number(measure.a),
            number(measure.b)
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(at_ns: u64, answered: u64, late: u64, bucket: usize) -> Counts {
        let mut total = [0; BUCKETS];
        total[bucket] = answered;
        Counts {
            at_ns,
            answered,
            late,
            total,
        }
    }

    #[test]
    fn a_block_is_measured_by_what_was_counted_in_it() {
        let [answered, late, p99] = measures(
            &counts(1_000_000_000, 0, 4, 0),
            &counts(3_000_000_000, 6, 6, 20),
        );
        assert_eq!((answered, late), (Some(3.0), Some(0.25)));
        assert!(p99.unwrap() > 0.0);
        let nothing = measures(&counts(1, 5, 5, 3), &counts(2, 5, 5, 3));
        assert_eq!(nothing, [None; 3]);
    }

    #[test]
    fn differences_are_of_b() {
        let plan = Switchback {
            begun_ns: 0,
            block_ns: 10,
            settle_ns: 0,
            seed: 4,
        };
        let blocks: Vec<_> = (0..8)
            .map(|block| match plan.arm_of(block) {
                Arm::A => [Some(10.0), Some(0.5), None],
                Arm::B => [Some(12.0), Some(0.25), None],
            })
            .collect();
        let found = compare(&plan, &blocks);
        assert_eq!((found[0].a, found[0].b), (Some(10.0), Some(12.0)));
        let differences: Vec<_> = found
            .iter()
            .map(|m| m.difference.as_ref().map(|d| d.mean))
            .collect();
        assert_eq!(differences, [Some(2.0), Some(-0.25), None]);
    }
}

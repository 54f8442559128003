//! What the scheduler takes of a core while workers report so many batches a second: the real one, on a
//! real board, with workers that only report.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use embedring_ipc::clock::now_ns;
use embedring_ipc::{BellsMap, BoardMap, Instance, WorkerPlace};
use embedring_protocol::Report;
use embedring_scheduler::{SchedulerOptions, run};
use rustix::time::{ClockId, clock_gettime};

/// Measures the scheduler's share of a core.
#[derive(Debug, Parser)]
struct Args {
    /// Batches a second, of all workers together
    #[arg(long, default_value_t = 1_000)]
    batches: u64,
    /// Workers
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

#[expect(clippy::print_stdout, reason = "its results")]
fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.batches > 0, "--batches must not be 0");
    let folder = tempfile::tempdir_in("/dev/shm").context("make a folder in /dev/shm")?;
    let mut options = SchedulerOptions::new("bench");
    options.instance.dir = folder.path().to_owned();
    let stop = AtomicBool::new(false);
    let mut begun = None;
    let result = std::thread::scope(|scope| {
        let mut reporter = None;
        let ran = run(&options, &stop, &mut || {
            let thread = || {
                let reported = report(&options, &args);
                stop.store(true, Relaxed);
                reported
            };
            reporter = Some(scope.spawn(thread));
            begun = Some((cpu_ns(), now_ns()));
        });
        ran.context("run the scheduler")?;
        let took = (cpu_ns(), now_ns());
        let reporter = reporter.context("the scheduler ended before it planned")?;
        let seen = reporter
            .join()
            .map_err(|_| anyhow!("the reporter panicked"))??;
        anyhow::Ok((took, seen))
    });
    let ((cpu, wall), (sent, seen)) = result?;
    let (cpu_begun, wall_begun) = begun.context("the scheduler never planned")?;
    let share = (cpu - cpu_begun) as f64 / (wall - wall_begun) as f64;
    println!(
        "{} workers, {sent} batches reported in {:.1} s, {seen} of them predicted: {:.2} % of a core, {:.1} us a batch",
        args.workers,
        (wall - wall_begun) as f64 / 1e9,
        100.0 * share,
        (cpu - cpu_begun) as f64 / 1e3 / sent as f64,
    );
    Ok(())
}

/// Reports at the rate asked for; gives how many, and how many the scheduler had predicted by then.
fn report(options: &SchedulerOptions, args: &Args) -> Result<(u64, u64)> {
    let instance = Instance::open(&options.instance)?;
    let header = *BoardMap::open(&instance)?.header();
    let board = Arc::new(BoardMap::create(&instance, header)?);
    let bells = Arc::new(BellsMap::create(&instance)?);
    let places: Vec<WorkerPlace> = (0..args.workers)
        .map(|number| {
            let mut place = WorkerPlace::claim(&board, &bells, &format!("worker-{number}"))?;
            place.describe(|identity| identity.dimensions = 384);
            Ok(place)
        })
        .collect::<Result<_>>()?;
    // Until it has seen them all.
    std::thread::sleep(options.tick * 3);
    let begun_ns = now_ns();
    let gap_ns = 1_000_000_000 / args.batches;
    let mut sent = 0;
    while now_ns() < begun_ns + args.seconds * 1_000_000_000 {
        let due_ns = begun_ns + sent * gap_ns;
        std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(now_ns())));
        let tokens = 20 + sent * 37 % 1_500;
        let noise = sent * 7_919 % 101 * 1_000;
        let number = usize::try_from(sent).unwrap_or(0) % places.len();
        places[number].slot().report(&Report {
            batch: sent,
            finished_ns: now_ns(),
            texts: 1 + tokens / 30,
            tokens,
            tokens_squared: tokens * 40,
            run_ns: 1_000_000 + tokens * 10_000 + noise,
            longest_tokens: 40,
            ..Report::default()
        });
        sent += 1;
    }
    std::thread::sleep(options.tick * 3);
    let accuracies = board.scheduler.accuracies.read().unwrap_or_default();
    let seen = accuracies.workers.iter().map(|worker| worker.batches).sum();
    Ok((sent, seen))
}

/// What this thread has computed so far.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

//! `embedring status`: what is running, read from the board.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use embedring_ipc::clock::now_ns;
use embedring_ipc::{BellsMap, BoardMap, Instance, is_alive};
use embedring_protocol::sync::Ordering;
use embedring_protocol::{
    Accuracy, Corrections, Counter, Precision, ProcessId, Stage, WorkerIdentity, WorkerSlot,
    WorkerState, quantile_ns,
};
use serde::Serialize;

use crate::context::{Context, instance_options};

/// Show what is running.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON object for machines
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    instance: String,
    scheduler: SchedulerStatus,
    workers: Vec<WorkerStatus>,
    clients: usize,
    clients_max: u64,
}

#[derive(Serialize)]
struct SchedulerStatus {
    pid: Option<u64>,
    state: &'static str,
    plan_epoch: u64,
    plan_age_ms: Option<u64>,
    cleanups: u64,
}

#[derive(Serialize)]
struct WorkerStatus {
    name: String,
    device: String,
    pid: u64,
    state: &'static str,
    requests: u64,
    texts: u64,
    tokens: u64,
    rss_bytes: u64,
    rss_peak_bytes: u64,
    model: String,
    dimensions: u64,
    max_tokens: u64,
    precision: &'static str,
    text_tokens_max: u64,
    batches: u64,
    load_texts: u64,
    load_tokens: u64,
    truncated: u64,
    failed_texts: u64,
    refused: Refused,
    bad_requests: u64,
    cancelled: u64,
    undelivered: u64,
    failed_batches: u64,
    loads: u64,
    silent_ms: u64,
    latency_us: Latency,
    plan: PlanStatus,
    accuracy: AccuracyStatus,
}

#[derive(Serialize)]
struct Refused {
    overload: u64,
    deadline: u64,
    memory: u64,
    other: u64,
}

#[derive(Serialize)]
struct Latency {
    queue_p50: Option<u64>,
    queue_p99: Option<u64>,
    tokenize_p50: Option<u64>,
    run_p50: Option<u64>,
    run_p99: Option<u64>,
    total_p50: Option<u64>,
    total_p99: Option<u64>,
}

#[derive(Serialize)]
struct PlanStatus {
    ns_per_token: u64,
    ns_per_batch: u64,
    ps_per_square: u64,
    squares_per_token: u64,
    worst_1024: u64,
    /// A learned model corrects the other numbers.
    learned: bool,
    batch_tokens_max: u64,
    queue_tokens_max: u64,
}

/// How good the scheduler's predictions of this worker's batches were; shares are between 0 and 1.
#[derive(Serialize)]
struct AccuracyStatus {
    batches: u64,
    beyond_bound: u64,
    mape: f64,
    pinball_99_us: f64,
    coverage: f64,
    changes: u64,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    let config = context.config()?;
    let instance = Instance::open(&instance_options(&config))?;
    let board = BoardMap::open(&instance)?;
    let bells = BellsMap::open(&instance)?;
    let status = read(&config.instance, &board, &bells);
    let text = if args.json {
        serde_json::to_string(&status).context("write JSON")?
    } else {
        in_words(&status)
    };
    writeln!(std::io::stdout(), "{text}").context("write to stdout")?;
    Ok(ExitCode::SUCCESS)
}

fn read(instance: &str, board: &BoardMap, bells: &BellsMap) -> Status {
    let plan = board.scheduler.plan.read();
    let accuracies = board.scheduler.accuracies.read().unwrap_or_default();
    let scheduler = board.scheduler.process.read();
    let alive = scheduler.is_some_and(is_alive);
    let workers = board
        .workers
        .iter()
        .enumerate()
        .filter_map(|(index, slot)| {
            let identity = slot.identity.read()?;
            let entry = plan.map(|plan| plan.workers[index]).unwrap_or_default();
            let plan = PlanStatus {
                ns_per_token: entry.ns_per_token,
                ns_per_batch: entry.ns_per_batch,
                ps_per_square: entry.ps_per_square,
                squares_per_token: entry.squares_per_token,
                worst_1024: entry.worst_1024,
                learned: entry.corrections != Corrections::default(),
                batch_tokens_max: entry.batch_tokens_max,
                queue_tokens_max: entry.queue_tokens_max,
            };
            let accuracy = accuracy(&accuracies.workers[index]);
            Some(worker(slot, &identity, plan, accuracy))
        })
        .collect();
    let is_client = |owner: u64| owner != 0 && is_alive(ProcessId::from_packed(owner));
    Status {
        instance: instance.to_owned(),
        scheduler: SchedulerStatus {
            pid: scheduler.filter(|_| alive).map(|process| process.pid),
            state: if alive { "running" } else { "dead" },
            plan_epoch: plan.map_or(0, |plan| plan.epoch),
            plan_age_ms: plan.map(|plan| now_ns().saturating_sub(plan.published_ns) / 1_000_000),
            cleanups: board.scheduler.cleanups.load(Ordering::Relaxed),
        },
        workers,
        clients: bells
            .clients
            .iter()
            .filter(|slot| is_client(slot.owner.load(Ordering::Relaxed)))
            .count(),
        clients_max: board.header().clients_max,
    }
}

fn accuracy(published: &Accuracy) -> AccuracyStatus {
    AccuracyStatus {
        batches: published.batches,
        beyond_bound: published.beyond,
        mape: published.error_ppm as f64 / 1e6,
        pinball_99_us: published.pinball_ns as f64 / 1e3,
        coverage: published.covered_ppm as f64 / 1e6,
        changes: published.changes,
    }
}

fn worker(
    slot: &WorkerSlot,
    identity: &WorkerIdentity,
    plan: PlanStatus,
    accuracy: AccuracyStatus,
) -> WorkerStatus {
    let alive = is_alive(identity.process);
    let state = slot.state();
    let count = |counter| slot.counter(counter);
    WorkerStatus {
        name: identity.name.to_text(),
        device: identity.device.to_text(),
        pid: identity.process.pid,
        state: if alive && state != WorkerState::Free {
            state.name()
        } else {
            "dead"
        },
        requests: count(Counter::Requests),
        texts: count(Counter::Texts),
        tokens: count(Counter::Tokens),
        rss_bytes: slot.rss_bytes.load(Ordering::Relaxed),
        rss_peak_bytes: slot.rss_peak_bytes.load(Ordering::Relaxed),
        model: identity.model.to_text(),
        dimensions: identity.dimensions,
        max_tokens: identity.max_tokens,
        precision: u8::try_from(identity.precision)
            .ok()
            .and_then(Precision::from_wire)
            .map_or("unknown", Precision::name),
        text_tokens_max: identity.text_tokens_max,
        batches: count(Counter::Batches),
        load_texts: slot.load_texts.load(Ordering::Relaxed),
        load_tokens: slot.load_tokens.load(Ordering::Relaxed),
        truncated: count(Counter::Truncated),
        failed_texts: count(Counter::FailedTexts),
        refused: Refused {
            overload: count(Counter::RefusedOverload),
            deadline: count(Counter::RefusedDeadline),
            memory: count(Counter::RefusedMemory),
            other: count(Counter::RefusedOther),
        },
        bad_requests: count(Counter::BadRequests),
        cancelled: count(Counter::Cancelled),
        undelivered: count(Counter::Undelivered),
        failed_batches: count(Counter::FailedBatches),
        loads: count(Counter::Loads),
        silent_ms: now_ns().saturating_sub(slot.heartbeat_ns.load(Ordering::Relaxed)) / 1_000_000,
        latency_us: latency(slot),
        plan,
        accuracy,
    }
}

fn latency(slot: &WorkerSlot) -> Latency {
    let quantile = |stage, q| quantile_ns(&slot.histogram(stage).counts(), q).map(|ns| ns / 1_000);
    Latency {
        queue_p50: quantile(Stage::Queue, 0.5),
        queue_p99: quantile(Stage::Queue, 0.99),
        tokenize_p50: quantile(Stage::Tokenize, 0.5),
        run_p50: quantile(Stage::Run, 0.5),
        run_p99: quantile(Stage::Run, 0.99),
        total_p50: quantile(Stage::Total, 0.5),
        total_p99: quantile(Stage::Total, 0.99),
    }
}

/// What the scheduler expects of a worker's batches, once it does.
fn predictions(worker: &WorkerStatus) -> Option<String> {
    let (plan, accuracy) = (&worker.plan, &worker.accuracy);
    (plan.ns_per_token > 0).then(|| {
        format!(
            "  predicted: {:.3} ms a batch, {:.2} us a token, {:.3} ns a squared token, {:.2} times that at \
             most{}; off by {:.1} %, {:.1} % of {} batches within the bound, {} changes",
            plan.ns_per_batch as f64 / 1e6,
            plan.ns_per_token as f64 / 1e3,
            plan.ps_per_square as f64 / 1e3,
            plan.worst_1024 as f64 / 1024.0,
            if plan.learned { ", corrected by a learned model" } else { "" },
            accuracy.mape * 100.0,
            accuracy.coverage * 100.0,
            accuracy.batches,
            accuracy.changes,
        )
    })
}

fn in_words(status: &Status) -> String {
    let mut lines = vec![format!(
        "instance {}: {} of {} clients",
        status.instance, status.clients, status.clients_max
    )];
    let pid = status
        .scheduler
        .pid
        .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let age = status.scheduler.plan_age_ms.map_or_else(
        || "no plan".to_owned(),
        |ms| format!("plan {} of {ms} ms ago", status.scheduler.plan_epoch),
    );
    lines.push(format!(
        "scheduler {} (pid {pid}), {age}",
        status.scheduler.state
    ));
    for worker in &status.workers {
        let millis = |us: Option<u64>| {
            us.map_or_else(|| "-".to_owned(), |us| format!("{:.2}", us as f64 / 1e3))
        };
        lines.push(format!(
            "worker {} on {} (pid {}) {}: {} [{} components, {} tokens], {} requests, {} texts, \
             {} tokens, {} batches, {} MiB resident ({} at most)",
            worker.name,
            worker.device,
            worker.pid,
            worker.state,
            worker.model,
            worker.dimensions,
            worker.max_tokens,
            worker.requests,
            worker.texts,
            worker.tokens,
            worker.batches,
            worker.rss_bytes >> 20,
            worker.rss_peak_bytes >> 20,
        ));
        lines.push(format!("  rows in {}", worker.precision));
        let latency = &worker.latency_us;
        lines.push(format!(
            "  milliseconds p50/p99: queue {}/{}, run {}/{}, total {}/{}; waiting {} texts, {} tokens",
            millis(latency.queue_p50),
            millis(latency.queue_p99),
            millis(latency.run_p50),
            millis(latency.run_p99),
            millis(latency.total_p50),
            millis(latency.total_p99),
            worker.load_texts,
            worker.load_tokens,
        ));
        lines.extend(predictions(worker));
    }
    lines.join("\n")
}

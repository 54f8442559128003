//! `embedring bench load`: an open-loop load on a running instance.

use std::io::{IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use embedring_client::Client;
use embedring_ipc::clock::{now_ns, to_ns};
use embedring_load::{
    Bounds, Driver, Limit, Outcome, Planned, Probe, Provenance, Search, Summary, Texts, Workload,
    find_limit, plot,
};
use embedring_traffic::{Arrivals, Mix, Profile, Trace};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::command;
use super::report;
use crate::context::{Context, client_builder};
use crate::say;

/// Where the search begins when no rate is given.
const START_RATE: f64 = 50.0;
/// The lag that is allowed, where none is given, of a question's time.
const LAG_PART: u32 = 20;
/// How long an instance may take to work off what a run left.
const SETTLE_MAX: Duration = Duration::from_secs(20);

/// Send requests to a running instance when they are due, and say how many are answered in time.
///
/// The load is open: a request is sent when it is due, whatever became of those before it, and its latency
/// counts from then, not from when it was sent (no coordinated omission). Questions have the time that
/// --deadline-ms says, paragraphs --paragraph-times as much; the worker is told the deadline. What is
/// refused, lost or late does not count. Goodput and shares come with 95 % intervals over ten blocks of time.
///
/// The generator runs in one thread and looks for answers every --step-us, which is how exact latencies are.
/// When it falls behind itself (--lag-max-ms at the 99th percentile), or needs more slots than its
/// connections have, the run is marked as not valid and the command ends with 1.
///
/// With --find-limit the highest rate is searched for at which --on-time of the requests are in time: from
/// --rate in steps that grow until one holds and the next fails, then halved between, each --repeats times
/// with other seeds, and what is found is confirmed with seeds that were not searched with. A run that can not
/// hold any more is ended. A run against an instance that other
/// processes use, or on a machine that does other things, measures those too.
///
/// The same --seed gives the same texts and arrivals at every rate. Data goes to stdout, talk to stderr.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Requests a second; with --find-limit the first rate tried [default: as recorded for a file of arrivals]
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// When requests come: poisson, bursty (on for 2 s, off for 4 s on average), clients-code or
    /// clients-conversation (40 clients as in recorded traffic), or a file with a time in the first
    /// column of each line (seconds, or date and time), which is stretched to --rate
    #[arg(long, default_value = "poisson", value_name = "KIND|FILE")]
    arrivals: String,
    /// How long a run is, the warm-up not counted
    #[arg(long, default_value_t = 30.0, value_name = "S")]
    seconds: f64,
    /// What is sent first and not counted
    #[arg(long, default_value_t = 3.0, value_name = "S")]
    warm_up: f64,
    /// Time of a question
    #[arg(long, default_value_t = 100.0, value_name = "MS")]
    deadline_ms: f64,
    /// A paragraph has so many times the time of a question
    #[arg(hide_short_help = true, long, default_value_t = 4, value_name = "N")]
    paragraph_times: u32,
    /// Of the requests, how many are questions, 0 to 1
    #[arg(
        hide_short_help = true,
        long,
        default_value_t = 0.75,
        value_name = "SHARE"
    )]
    question_share: f64,
    /// File whose lines are the questions [default: words of built-in texts, 20 tokens in the median]
    #[arg(hide_short_help = true, long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// File whose lines are the paragraphs [default: words of built-in texts, 180 tokens in the median]
    #[arg(hide_short_help = true, long, value_name = "FILE")]
    paragraphs: Option<PathBuf>,
    /// Seed of arrivals and texts
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Connections to send on; each may have limits.requests_in_flight_max requests in flight per worker
    #[arg(hide_short_help = true, long, default_value_t = 16, value_name = "N")]
    connections: usize,
    /// Time between two looks for answers, in microseconds
    #[arg(hide_short_help = true, long, default_value_t = 500, value_name = "US")]
    step_us: u64,
    /// Wait so long for an answer where that is longer than its deadline, to see how late it is; the worker
    /// is told this as the deadline
    #[arg(hide_short_help = true, long, default_value_t = 0.0, value_name = "MS")]
    give_up_ms: f64,
    /// Lag of the generator at the 99th percentile above which a run is not valid [default: a 20th of
    /// --deadline-ms]
    #[arg(hide_short_help = true, long, value_name = "MS")]
    lag_max_ms: Option<f64>,
    /// Search for the highest rate at which --on-time of the requests are in time
    #[arg(long)]
    find_limit: bool,
    /// Share that must be in time, for --find-limit
    #[arg(
        hide_short_help = true,
        long,
        default_value_t = 0.99,
        value_name = "SHARE"
    )]
    on_time: f64,
    /// Runs at each rate, with other seeds, for --find-limit
    #[arg(hide_short_help = true, long, default_value_t = 3, value_name = "N")]
    repeats: u64,
    /// How exactly the limit is found, of it, for --find-limit
    #[arg(
        hide_short_help = true,
        long,
        default_value_t = 0.03,
        value_name = "SHARE"
    )]
    precision: f64,
    /// Search only for limits from this rate on: where it does not hold, there is none, for --find-limit
    #[arg(
        hide_short_help = true,
        long,
        default_value_t = 0.0,
        value_name = "PER_SECOND"
    )]
    floor: f64,
    /// Print the result as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Write the result as JSON into this file too
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write latencies and goodput as an SVG file; with --find-limit those of the first run at the limit
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Say nothing on stderr while it runs
    #[arg(long, short)]
    quiet: bool,
}

/// A result: one rate, and how it was found if it was searched for.
pub(super) struct Done {
    pub(super) rate: f64,
    pub(super) limit: Option<Limit>,
    pub(super) summary: Summary,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    check(args)?;
    let config = context.config()?;
    let arrivals = arrivals(&args.arrivals)?;
    let recorded = match &arrivals {
        Arrivals::Trace(trace) => Some(1e9 / trace.mean_gap_ns()),
        Arrivals::Poisson | Arrivals::Bursty | Arrivals::Clients(_) => None,
    };
    let searched = args.find_limit.then_some(START_RATE);
    let Some(rate) = args.rate.or(recorded).or(searched) else {
        bail!("no rate; use --rate PER_SECOND, or --find-limit to search for it");
    };
    let clients = connect(&config, args.connections)?;
    let workers = clients.first().map(Client::workers).unwrap_or_default();
    ensure!(
        !workers.is_empty(),
        "instance '{}' has no worker running; start it with `embedring up`",
        config.instance
    );
    let bench = LoadBench {
        args,
        driver: Driver {
            clients: &clients,
            slots: config.limits.requests_in_flight_max * workers.len(),
            step: Duration::from_micros(args.step_us),
            give_up: millis(args.give_up_ms),
        },
        workload: Workload {
            arrivals,
            mix: Mix {
                question_share: args.question_share,
            },
            deadline: millis(args.deadline_ms),
            paragraph_times: args.paragraph_times,
            texts: Texts::new(args.questions.as_deref(), args.paragraphs.as_deref())?,
        },
        bounds: Bounds {
            warm_up: Duration::from_secs_f64(args.warm_up),
            lag_p99_max: args
                .lag_max_ms
                .map_or(millis(args.deadline_ms) / LAG_PART, millis),
        },
    };
    let (done, outcomes) = bench.measure(rate)?;
    bench.write(&done, &outcomes, &workers)?;
    if !done.summary.valid {
        let why = done.summary.invalid_because.join("; ");
        bail!("the run is not valid: {why}");
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &Args) -> Result<()> {
    let positive = |name: &str, value: f64| {
        ensure!(
            value > 0.0 && value < 1e9,
            "--{name} is {value}; it must be above 0"
        );
        Ok(())
    };
    positive("rate", args.rate.unwrap_or(1.0))?;
    positive("seconds", args.seconds)?;
    positive("deadline-ms", args.deadline_ms)?;
    positive("precision", args.precision)?;
    for (name, value) in [
        ("warm-up", args.warm_up),
        ("give-up-ms", args.give_up_ms),
        ("lag-max-ms", args.lag_max_ms.unwrap_or(0.0)),
        ("floor", args.floor),
    ] {
        ensure!(
            (0.0..1e9).contains(&value),
            "--{name} is {value}; it must be 0 or more"
        );
    }
    for (name, value) in [
        ("question-share", args.question_share),
        ("on-time", args.on_time),
    ] {
        ensure!(
            (0.0..=1.0).contains(&value),
            "--{name} is {value}; it must be from 0 to 1"
        );
    }
    ensure!(args.connections > 0, "--connections must be above 0");
    ensure!(args.repeats > 0, "--repeats must be above 0");
    ensure!(
        args.paragraph_times > 0,
        "--paragraph-times must be above 0"
    );
    Ok(())
}

fn arrivals(name: &str) -> Result<Arrivals> {
    let of_clients = Profile::ALL
        .into_iter()
        .find(|profile| profile.name() == name);
    Ok(match (name, of_clients) {
        ("poisson", _) => Arrivals::Poisson,
        ("bursty", _) => Arrivals::Bursty,
        (_, Some(profile)) => Arrivals::Clients(profile),
        (path, None) => Arrivals::Trace(Trace::read(Path::new(path)).context(
            "--arrivals is neither poisson, bursty, clients-code, clients-conversation nor such a file",
        )?),
    })
}

fn connect(config: &embedring_config::Config, count: usize) -> Result<Vec<Client>> {
    (0..count)
        .map(|_| client_builder(config).connect())
        .collect::<Result<_, _>>()
        .context("connect; fewer --connections, or raise limits.clients_max if that is the reason")
}

fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1e3)
}

/// Requests of a rate that were not answered in time, the warm-up not counted.
struct Misses {
    seen: u64,
    allowed: f64,
}

impl Misses {
    fn any_number() -> Self {
        Self {
            seen: 0,
            allowed: f64::INFINITY,
        }
    }

    fn are_too_many(&self) -> bool {
        self.seen as f64 > self.allowed
    }
}

struct LoadBench<'a> {
    args: &'a Args,
    driver: Driver<'a>,
    workload: Workload,
    bounds: Bounds,
}

impl LoadBench<'_> {
    /// Runs, and gives the result with what became of the requests of its first run.
    fn measure(&self, rate: f64) -> Result<(Done, Vec<Outcome>)> {
        let (rate, limit, runs) = if self.args.find_limit {
            let (limit, runs) = self.search(rate)?;
            (limit.rate, Some(limit), runs)
        } else {
            let plan = self.plan(rate, self.args.seed);
            let run = self.once(&plan, rate, &mut Misses::any_number())?;
            (rate, None, vec![run])
        };
        let summary = Summary::of(&runs, &self.bounds);
        let first = runs.into_iter().next().unwrap_or_default();
        let done = Done {
            rate,
            limit,
            summary,
        };
        Ok((done, first))
    }

    /// The limit, and the runs that confirmed it.
    fn search(&self, start: f64) -> Result<(Limit, Vec<Vec<Outcome>>)> {
        let search = Search {
            wanted: self.args.on_time,
            start,
            precision: self.args.precision,
            floor: self.args.floor,
        };
        let mut held = Vec::new();
        let limit = find_limit(search, &mut |rate, seeds| {
            let (probe, runs) = self.probe(rate, seeds)?;
            if !self.args.quiet {
                let word = if probe.valid { "" } else { ", not valid" };
                let at_most = if probe.ended_early { "at most " } else { "" };
                say(&format!(
                    "{rate:.1} requests/s: {at_most}{:.2} % in time of {}{word}",
                    100.0 * probe.attainment,
                    probe.requests
                ));
            }
            if probe.valid && probe.attainment >= search.wanted {
                held = runs;
            }
            anyhow::Ok(probe)
        })?;
        ensure!(
            limit.rate > 0.0,
            "no rate has {} % in time, not even {:.1} requests/s",
            100.0 * search.wanted,
            limit.failed_at
        );
        Ok((limit, held))
    }

    fn probe(&self, rate: f64, seeds: u64) -> Result<(Probe, Vec<Vec<Outcome>>)> {
        let (mut runs, mut misses, mut planned) = (Vec::new(), Misses::any_number(), 0);
        loop {
            // Far apart, so that sets of seeds never meet.
            let seed = self.args.seed + 10_000 * seeds + runs.len() as u64;
            let plan = self.plan(rate, seed);
            let counted = plan.iter().filter(|request| self.counts(request.due_ns));
            let counted = counted.count() as u64;
            planned += counted;
            misses.allowed = (1.0 - self.args.on_time) * (counted * self.args.repeats) as f64;
            runs.push(self.once(&plan, rate, &mut misses)?);
            let summary = Summary::of(&runs, &self.bounds);
            let ended_early = misses.are_too_many();
            if runs.len() as u64 == self.args.repeats || ended_early || !summary.valid {
                let attainment = if ended_early {
                    1.0 - misses.seen as f64 / planned.max(1) as f64
                } else {
                    summary.attainment.mean
                };
                let probe = Probe {
                    rate,
                    attainment,
                    valid: summary.valid,
                    requests: summary.requests,
                    ended_early,
                };
                return Ok((probe, runs));
            }
        }
    }

    fn plan(&self, rate: f64, seed: u64) -> Vec<Planned> {
        let duration = Duration::from_secs_f64(self.args.seconds + self.args.warm_up);
        self.workload.plan(rate, duration, seed)
    }

    fn counts(&self, due_ns: u64) -> bool {
        due_ns >= to_ns(self.bounds.warm_up)
    }

    /// One run, on an instance that has nothing else to do. It ends early once there are too many misses.
    fn once(&self, planned: &[Planned], rate: f64, misses: &mut Misses) -> Result<Vec<Outcome>> {
        self.settle()?;
        let bar = self.bar(planned.len() as u64, rate);
        let before = misses.seen;
        let missed = |outcomes: &[Outcome]| {
            let missed = outcomes
                .iter()
                .filter(|outcome| self.counts(outcome.due_ns) && !outcome.is_on_time());
            missed.count() as u64
        };
        let outcomes = self.driver.run(planned, &mut |progress| {
            let ended = progress.outcomes.len();
            bar.set_position(ended as u64);
            bar.set_message(format!("{} in flight", progress.sent - ended));
            misses.seen = before + missed(progress.outcomes);
            if misses.are_too_many() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        misses.seen = before + missed(&outcomes);
        bar.finish_and_clear();
        Ok(outcomes)
    }

    fn settle(&self) -> Result<()> {
        let until_ns = now_ns() + to_ns(SETTLE_MAX);
        let is_busy = |client: &Client| client.workers().iter().any(|w| w.load_texts > 0);
        while self.driver.clients.first().is_some_and(is_busy) {
            ensure!(
                now_ns() < until_ns,
                "the instance still has work after {SETTLE_MAX:?}; somebody else uses it"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn bar(&self, requests: u64, rate: f64) -> ProgressBar {
        if self.args.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(requests).with_prefix(format!("{rate:.1}/s"));
        match ProgressStyle::with_template("{prefix} {bar:40} {pos}/{len} {msg} eta {eta}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }

    fn write(
        &self,
        done: &Done,
        outcomes: &[Outcome],
        workers: &[embedring_client::WorkerInfo],
    ) -> Result<()> {
        let args = self.args;
        let workers: Vec<_> = workers
            .iter()
            .map(|worker| {
                json!({
                    "name": worker.name,
                    "device": worker.device,
                    "model": worker.model,
                    "precision": worker.precision.name(),
                })
            })
            .collect();
        let json = json!({
            "version": 1,
            "from": Provenance::here(&command()),
            "workers": workers,
            "workload": {
                "arrivals": self.workload.arrivals.name(),
                "seconds": args.seconds,
                "warm_up_seconds": args.warm_up,
                "question_share": args.question_share,
                "deadline_ms": args.deadline_ms,
                "paragraph_times": args.paragraph_times,
                "seed": args.seed,
                "connections": args.connections,
                "step_us": args.step_us,
            },
            "rate": done.rate,
            "limit": done.limit,
            "summary": done.summary,
        });
        let json = serde_json::to_string_pretty(&json).context("write JSON")? + "\n";
        if let Some(path) = &args.output {
            std::fs::write(path, &json).with_context(|| format!("write {}", path.display()))?;
        }
        if let Some(path) = &args.plot {
            let name = self.workload.arrivals.name();
            let heading = format!("{:.1} requests/s, {name}", done.rate);
            plot(outcomes, &done.summary, self.bounds.warm_up, &heading, path)?;
        }
        let text = if args.json { json } else { report::table(done) };
        std::io::stdout()
            .write_all(text.as_bytes())
            .context("write to stdout")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_names_or_are_files() {
        for name in ["poisson", "bursty", "clients-code", "clients-conversation"] {
            assert_eq!(arrivals(name).unwrap().name(), name);
        }
        let error = format!("{:#}", arrivals("no-such-kind").unwrap_err());
        assert!(error.contains("clients-code") && error.contains("no-such-kind"));
    }
}

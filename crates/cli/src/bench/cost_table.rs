//! `embedring bench cost-table`: what batches of a worker cost, by texts and tokens.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use embedring_ipc::clock::now_ns;
use embedring_load::Provenance;
use embedring_worker::{BareEngine, WorkerOptions};
use serde::Serialize;

use super::command;
use super::fit::{Fit, fit};
use crate::context::{Context, worker_options};
use crate::say;

/// The demo's sentences, whose tokens the batches are made of.
const SENTENCES: &str = include_str!("../../../../demo/sentences.txt");

/// Measure what batches cost, by number and length of texts, and write it as a table.
///
/// Loads the model as the worker of the configuration would, with the same backend, precision, kernels and
/// threads, and runs batches of equal texts in this process; a running instance is neither needed nor asked.
/// Every batch of the table runs once in each round, so that a disturbance falls on all of them; the table
/// holds the median and the 90th percentile over the rounds, and the costs a + b·tokens + c·Σ tokens² that
/// fit the medians best (least squares of the relative errors, none negative). The simulator reads such a
/// table as a device (`cargo xtask bench sim --cost-table FILE`).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Worker of the configuration [default: the first by name]
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
    /// Numbers of texts in a batch
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,2,3,4,6,8,12,16,24,32,48,64"
    )]
    texts: Vec<u32>,
    /// Tokens of each text, the marks around it included; what the model does not take is left out
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "8,16,24,32,64,128,192,256,384,512"
    )]
    tokens: Vec<u32>,
    /// Tokens of a batch at most; batches of more are left out [default: the worker's batch_tokens_max]
    #[arg(long, value_name = "N")]
    batch_tokens_max: Option<u64>,
    /// Rounds that are measured, after one that is not
    #[arg(long, default_value_t = 15, value_name = "N")]
    repeats: u32,
    /// What a reader should know, such as that the machine did other things too
    #[arg(long, default_value = "", value_name = "TEXT")]
    note: String,
    /// Write the table into this file [default: stdout]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Say nothing on stderr
    #[arg(long, short)]
    quiet: bool,
}

/// The file. What the simulator and simulated devices read of it are `rows` and `fit`.
#[derive(Debug, Serialize)]
struct Table {
    version: u32,
    device: String,
    precision: &'static str,
    threads: usize,
    machine: String,
    commit: String,
    command: String,
    model: String,
    kernels: String,
    note: String,
    rows: Vec<Row>,
    fit: Fit,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Row {
    pub(super) texts: u32,
    pub(super) tokens_each: u32,
    pub(super) ns_median: u64,
    pub(super) ns_p90: u64,
    pub(super) repeats: u32,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    ensure!(args.repeats > 0, "--repeats must be above 0");
    let positive = args.texts.iter().chain(&args.tokens).all(|n| *n > 0);
    ensure!(positive, "--texts and --tokens must be above 0");
    let config = context.config()?;
    let first = config.workers.keys().next();
    let name = args
        .worker
        .as_ref()
        .or(first)
        .context("no worker is configured")?;
    let options = worker_options(&config, name)?;
    let mut engine = BareEngine::load(&options.model, options.threads)?;
    let rows = measure(&mut engine, args, &options)?;
    let fit =
        fit(&rows).context("too few batches to fit costs to; give more --texts and --tokens")?;
    let info = engine.info();
    let Provenance {
        machine,
        commit,
        command,
        ..
    } = Provenance::here(&command());
    let table = Table {
        version: 1,
        device: info.device.clone(),
        precision: info.precision.as_str(),
        threads: engine.threads(),
        machine,
        commit,
        command,
        model: engine.model().to_owned(),
        kernels: info.kernels.clone(),
        note: args.note.clone(),
        rows,
        fit,
    };
    if !args.quiet {
        say(&format!("{}", table.fit));
    }
    let json = serde_json::to_string_pretty(&table).context("write JSON")? + "\n";
    match &args.output {
        Some(path) => {
            std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
        }
        None => std::io::stdout()
            .write_all(json.as_bytes())
            .context("write to stdout")?,
    }
    Ok(ExitCode::SUCCESS)
}

struct Cell {
    texts: u32,
    tokens_each: u32,
    offsets: Vec<usize>,
    times_ns: Vec<u64>,
}

fn measure(engine: &mut BareEngine, args: &Args, options: &WorkerOptions) -> Result<Vec<Row>> {
    let tokens_max = args.batch_tokens_max.unwrap_or(options.batch_tokens_max);
    let mut cells = cells(args, tokens_max, engine.info().max_tokens);
    ensure!(
        !cells.is_empty(),
        "no batch of --texts and --tokens fits into {tokens_max} tokens and the model's window of {}",
        engine.info().max_tokens
    );
    let longest = cells.iter().filter_map(|cell| cell.offsets.last()).max();
    let ids = ids(engine, longest.copied().unwrap_or(0))?;
    for round in 0..=args.repeats {
        if !args.quiet {
            say(&format!("round {round} of {}", args.repeats));
        }
        for cell in &mut cells {
            let tokens = cell.offsets.last().copied().unwrap_or(0);
            let begun_ns = now_ns();
            engine.run(&ids[..tokens], &cell.offsets)?;
            // The first round touches memory for the first time.
            if round > 0 {
                cell.times_ns.push(now_ns() - begun_ns);
            }
        }
    }
    Ok(cells
        .into_iter()
        .map(|cell| cell.row(args.repeats))
        .collect())
}

fn cells(args: &Args, tokens_max: u64, text_tokens_max: usize) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &tokens_each in &args.tokens {
        for &texts in &args.texts {
            let each = usize::try_from(tokens_each).unwrap_or(usize::MAX);
            if each > text_tokens_max || u64::from(texts) * u64::from(tokens_each) > tokens_max {
                continue;
            }
            let count = usize::try_from(texts).unwrap_or(usize::MAX);
            cells.push(Cell {
                texts,
                tokens_each,
                offsets: (0..=count).map(|text| text * each).collect(),
                times_ns: Vec::new(),
            });
        }
    }
    cells
}

impl Cell {
    fn row(mut self, repeats: u32) -> Row {
        self.times_ns.sort_unstable();
        let count = self.times_ns.len();
        let at = |percent: usize| self.times_ns[(count * percent / 100).min(count - 1)];
        Row {
            texts: self.texts,
            tokens_each: self.tokens_each,
            ns_median: at(50),
            ns_p90: at(90),
            repeats,
        }
    }
}

/// Tokens of real sentences, again and again, at least `count`.
fn ids(engine: &BareEngine, count: usize) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let before = ids.len();
        for sentence in SENTENCES.lines() {
            engine.tokenize(sentence, &mut ids)?;
        }
        ensure!(ids.len() > before, "the model's tokeniser gives no tokens");
    }
    Ok(ids)
}

//! `embedring demo`: the main job from one command. Starts an instance of its own, embeds sentences
//! from two client processes, shows what happened, and leaves nothing behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use embedring_config::Config;
use serde::Deserialize;

use crate::context::Context;

/// Sentences of the project's own.
const SENTENCES: &str = include_str!("../../../demo/sentences.txt");
/// Texts shown of a file at most; all of them are embedded.
const PAIRS_SHOWN: usize = 12;
/// Lines taken of each file.
const LINES_MAX: usize = 2_000;

/// Start an instance, embed sentences from two processes, show what happened, stop it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Files whose lines are embedded too (the first 2,000 of each)
    files: Vec<PathBuf>,
}

/// A line that `embedring embed --explain` printed.
#[derive(Debug, Deserialize)]
struct Row {
    embedding: Vec<f32>,
    tokens: u32,
    truncated: bool,
    model: String,
    device: String,
    precision: String,
    explain: Explain,
}

#[derive(Debug, Deserialize)]
struct Explain {
    worker: String,
    queue_us: u64,
    tokenize_us: u64,
    run_us: u64,
    rings_us: u64,
    round_trip_us: u64,
    batch: u64,
    batch_texts: u32,
    batch_tokens: u32,
}

/// A text with its row and the client process that asked for it.
struct Embedded {
    text: String,
    client: usize,
    row: Row,
}

/// The instance; stopped when dropped, whatever happened.
struct Instance {
    name: String,
    up: Child,
    args: Vec<std::ffi::OsString>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    let config = context.config()?;
    let texts = gather(&args.files)?;
    let out = &mut std::io::stdout();
    writeln!(
        out,
        "embedring demo: {} texts, two client processes, one worker",
        texts.len()
    )?;
    let instance = Instance::start(context, config)?;
    writeln!(
        out,
        "started instance {} (pid {})",
        instance.name,
        instance.up.id()
    )?;
    let embedded = instance.embed(&texts)?;
    show_neighbours(out, &embedded)?;
    show_times(out, &embedded)?;
    instance.show_memory(out)?;
    let left = instance.stop()?;
    writeln!(out, "\nstopped; left in shared memory: {left}")?;
    Ok(ExitCode::SUCCESS)
}

fn gather(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut texts: Vec<String> = SENTENCES.lines().map(str::to_owned).collect();
    for path in files {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        texts.extend(
            text.lines()
                .filter(|line| !line.trim().is_empty())
                .take(LINES_MAX)
                .map(str::to_owned),
        );
    }
    texts.retain(|text| !text.trim().is_empty());
    Ok(texts)
}

impl Instance {
    fn start(context: &Context, mut config: Config) -> Result<Self> {
        config.instance = format!("demo-{}", std::process::id());
        let name = config.instance.clone();
        let args = context.child_args(&config);
        let mut up = program()?
            .arg("up")
            .args(&args)
            // Somebody who watches a demo wants to hear of trouble only.
            .env(
                "EMBEDRING_LOG",
                std::env::var("EMBEDRING_LOG").unwrap_or_else(|_| "warn".to_owned()),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start embedring up")?;
        let stdout = up
            .stdout
            .take()
            .context("read the output of embedring up")?;
        let instance = Self { name, up, args };
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("read the output of embedring up")?;
        if !line.starts_with("ready") {
            bail!("embedring up ended before it was ready; see its messages above");
        }
        Ok(instance)
    }

    /// Embeds every second text in one process and the others in another, at the same time.
    fn embed(&self, texts: &[String]) -> Result<Vec<Embedded>> {
        let clients: Vec<_> = (0..2)
            .map(|client| {
                let texts: Vec<String> = texts.iter().skip(client).step_by(2).cloned().collect();
                let child = program()?
                    .args(["embed", "--output", "jsonl", "--explain", "--quiet"])
                    .args(&self.args)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .context("start embedring embed")?;
                Ok(thread::spawn(move || client_rows(child, client, texts)))
            })
            .collect::<Result<_>>()?;
        let mut embedded = Vec::new();
        for client in clients {
            match client.join() {
                Ok(rows) => embedded.extend(rows?),
                Err(_) => bail!("a client thread of the demo panicked"),
            }
        }
        Ok(embedded)
    }

    fn show_memory(&self, out: &mut impl Write) -> Result<()> {
        #[derive(Deserialize)]
        struct Status {
            workers: Vec<Worker>,
        }
        #[derive(Deserialize)]
        struct Worker {
            name: String,
            rss_peak_bytes: u64,
            batches: u64,
            texts: u64,
            tokens: u64,
        }
        let output = program()?
            .args(["status", "--json"])
            .args(&self.args)
            .output()
            .context("run embedring status")?;
        let status: Status = serde_json::from_slice(&output.stdout)
            .context("read the output of embedring status")?;
        for worker in status.workers {
            writeln!(
                out,
                "worker {}: {} texts and {} tokens in {} batches ({:.1} texts each), {} MiB at most",
                worker.name,
                worker.texts,
                worker.tokens,
                worker.batches,
                ratio(worker.texts, worker.batches),
                worker.rss_peak_bytes >> 20
            )?;
        }
        Ok(())
    }

    /// Stops it and says what is left of it in shared memory.
    fn stop(mut self) -> Result<&'static str> {
        let status = program()?
            .arg("down")
            .args(&self.args)
            .status()
            .context("run embedring down")?;
        let ended = self.up.wait().context("wait for embedring up")?;
        if !status.success() || !ended.success() {
            bail!("the instance did not stop cleanly; see the messages above");
        }
        let probe = program()?
            .args(["status", "--json"])
            .args(&self.args)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("run embedring status")?;
        Ok(if probe.success() {
            "something; this is a defect"
        } else {
            "nothing"
        })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Ended already after `stop`; otherwise something failed and nothing may be left behind.
        if matches!(self.up.try_wait(), Ok(None)) {
            let pid = rustix::process::Pid::from_child(&self.up);
            if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok() {
                drop(self.up.wait());
            }
        }
    }
}

fn program() -> Result<Command> {
    Ok(Command::new(
        std::env::current_exe().context("find this program")?,
    ))
}

/// Feeds one client process and reads its rows.
fn client_rows(mut child: Child, client: usize, texts: Vec<String>) -> Result<Vec<Embedded>> {
    let mut stdin = child.stdin.take().context("write to embedring embed")?;
    let lines = texts.join("\n");
    let feeder = thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let mut output = String::new();
    let mut stdout = child.stdout.take().context("read from embedring embed")?;
    stdout
        .read_to_string(&mut output)
        .context("read from embedring embed")?;
    let fed = feeder.join();
    let status = child.wait().context("wait for embedring embed")?;
    if !status.success() || !matches!(fed, Ok(Ok(()))) {
        bail!("client process {client} failed ({status}); see its messages above");
    }
    let rows: Vec<Row> = output
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("read the output of embedring embed")?;
    if rows.len() != texts.len() {
        bail!(
            "client process {client} sent {} texts and got {} rows",
            texts.len(),
            rows.len()
        );
    }
    Ok(texts
        .into_iter()
        .zip(rows)
        .map(|(text, row)| Embedded { text, client, row })
        .collect())
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    let norm = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    dot / (norm(a) * norm(b)).max(f32::MIN_POSITIVE)
}

/// The pairs of texts that are nearest neighbours of each other, the closest first.
fn show_neighbours(out: &mut impl Write, embedded: &[Embedded]) -> Result<()> {
    let nearest = |index: usize| {
        (0..embedded.len())
            .filter(|other| *other != index)
            .map(|other| {
                (
                    cosine(
                        &embedded[index].row.embedding,
                        &embedded[other].row.embedding,
                    ),
                    other,
                )
            })
            .max_by(|a, b| a.0.total_cmp(&b.0))
    };
    let neighbours: Vec<_> = (0..embedded.len()).map(nearest).collect();
    let mut pairs: Vec<_> = neighbours
        .iter()
        .enumerate()
        .filter_map(|(index, neighbour)| {
            let (cosine, other) = (*neighbour)?;
            let mutual = neighbours[other].is_some_and(|(_, back)| back == index);
            (mutual && index < other).then_some((cosine, index, other))
        })
        .collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    writeln!(out, "\nnearest neighbours (mutual), by cosine:")?;
    for (cosine, a, b) in pairs.iter().take(PAIRS_SHOWN) {
        writeln!(out, "  {cosine:.4}  {}", shortened(&embedded[*a].text))?;
        writeln!(out, "          {}", shortened(&embedded[*b].text))?;
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    const WIDTH: usize = 88;
    if text.chars().count() <= WIDTH {
        return text.to_owned();
    }
    text.chars()
        .take(WIDTH - 1)
        .chain(std::iter::once('…'))
        .collect()
}

fn ratio(a: u64, b: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts, shown with one decimal")]
    let (a, b) = (a as f64, b.max(1) as f64);
    a / b
}

/// Where the time of each message went, per client process.
fn show_times(out: &mut impl Write, embedded: &[Embedded]) -> Result<()> {
    let Some(first) = embedded.first() else {
        return Ok(());
    };
    let truncated = embedded.iter().filter(|e| e.row.truncated).count();
    let tokens: u64 = embedded.iter().map(|e| u64::from(e.row.tokens)).sum();
    writeln!(
        out,
        "\nmodel {} on {} in {}: {} components, {} texts, {tokens} tokens, {truncated} truncated",
        first.row.model,
        first.row.device,
        first.row.precision,
        first.row.embedding.len(),
        embedded.len()
    )?;
    writeln!(
        out,
        "\nwhere the time of each message went, in milliseconds:"
    )?;
    writeln!(
        out,
        "  client worker  texts  round trip    queue  tokenise    model   rings  last batch"
    )?;
    let mut index = 0;
    while index < embedded.len() {
        let one = &embedded[index];
        let same = embedded[index..]
            .iter()
            .take_while(|e| {
                e.client == one.client && is_same_message(&e.row.explain, &one.row.explain)
            })
            .count();
        let ms = |us: u64| ratio(us, 1000);
        let e = &one.row.explain;
        writeln!(
            out,
            "  {:>6} {:<6} {same:>6} {:>11.2} {:>8.2} {:>9.2} {:>8.2} {:>7.2}  #{}: {} texts, {} tokens",
            one.client,
            e.worker,
            ms(e.round_trip_us),
            ms(e.queue_us),
            ms(e.tokenize_us),
            ms(e.run_us),
            ms(e.rings_us),
            e.batch,
            e.batch_texts,
            e.batch_tokens
        )?;
        index += same;
    }
    writeln!(out)?;
    Ok(())
}

/// Texts of one message share all its times; two messages never have the same round trip and batch.
fn is_same_message(a: &Explain, b: &Explain) -> bool {
    a.batch == b.batch && a.round_trip_us == b.round_trip_us && a.queue_us == b.queue_us
}

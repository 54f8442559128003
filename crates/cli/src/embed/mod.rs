//! `embedring embed`: lines in, rows out, in order and in bounded memory.

mod lines;
mod npy;
mod sink;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use embedring_client::{
    Class, Client, EmbedError, NormalizeOption, Options, Pending, Prompt, Truncation,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::context::{Context, client_builder};
use crate::say;
use lines::{Chunk, LineError, Lines};
use sink::{Sink, open_sink};

/// Texts of one call at most: enough to fill a worker's batches.
const CHUNK_TEXTS: usize = 256;
/// Bytes of one call at most.
const CHUNK_BYTES: usize = 1 << 20;
/// Calls under way at most. Memory is bounded by their product, whatever the size of the input.
const CALLS_MAX: usize = 4;

/// Embed texts given as arguments, as lines of files, or as lines of stdin.
///
/// One object per text goes to stdout, in order. A text that fails is an object with `error` and
/// `kind` in its place, and the exit code is then 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Texts; without any, and without --file, lines are read from stdin
    texts: Vec<String>,

    /// Read lines from this file, `-` for stdin; may be repeated
    #[arg(long, short, value_name = "PATH", conflicts_with = "texts")]
    file: Vec<PathBuf>,

    /// jsonl: an object per line; json: one array of objects; npy: a NumPy array [texts, dimensions]
    #[arg(long, short, value_enum, default_value_t = Output::Jsonl)]
    output: Output,

    /// Write here instead of stdout
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,

    /// Keep this many components of each row (Matryoshka), 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    dimensions: usize,

    /// Put this text before each text
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_name")]
    prompt: Option<String>,

    /// Put the model's prompt of this name before each text
    #[arg(long, value_name = "NAME")]
    prompt_name: Option<String>,

    /// Scale rows to length one: as the model says, always, or never
    #[arg(long, value_enum, default_value_t = Normalize::Model)]
    normalize: Normalize,

    /// What to cut of a text that is longer than the model's window, or `refuse` it
    #[arg(long, value_enum, default_value_t = Truncate::Right)]
    truncate: Truncate,

    /// Name of the model wanted; an instance that serves another one refuses
    #[arg(long, value_name = "NAME")]
    model: Option<String>,

    /// Device to use, as `cuda:0`, or kind of device, as `cuda`; no other is used in its place
    #[arg(long, value_name = "DEVICE")]
    use_device: Option<String>,

    /// Time each call of up to 256 texts may take, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 120_000)]
    timeout_ms: u64,

    /// Give way to interactive requests
    #[arg(long)]
    bulk: bool,

    /// Add worker, times and batch to each object
    #[arg(long)]
    explain: bool,

    /// No progress bar
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Jsonl,
    Json,
    Npy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Normalize {
    Model,
    Yes,
    No,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Truncate {
    Right,
    Left,
    Refuse,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    let config = context.config()?;
    let client = client_builder(&config).connect()?;
    let mut sink = open_sink(args.output, args.out.as_deref(), args.explain)?;
    let options = options(args);
    let progress = progress(args);
    let mut run = Run {
        client: &client,
        options,
        calls: VecDeque::new(),
        failed: 0,
        progress,
    };
    let done = run.inputs(args, sink.as_mut());
    run.progress.finish_and_clear();
    done?;
    sink.finish()?;
    if run.failed > 0 {
        say(&format!(
            "embedring: {} texts failed; see the objects with `error`",
            run.failed
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn options(args: &Args) -> Options {
    Options {
        timeout: Duration::from_millis(args.timeout_ms),
        class: if args.bulk {
            Class::Bulk
        } else {
            Class::Interactive
        },
        dimensions: args.dimensions,
        normalize: match args.normalize {
            Normalize::Model => NormalizeOption::Model,
            Normalize::Yes => NormalizeOption::Yes,
            Normalize::No => NormalizeOption::No,
        },
        truncation: match args.truncate {
            Truncate::Right => Truncation::Right,
            Truncate::Left => Truncation::Left,
            Truncate::Refuse => Truncation::Refuse,
        },
        prompt: match (&args.prompt, &args.prompt_name) {
            (Some(text), _) => Prompt::Text(text.clone()),
            (None, Some(name)) => Prompt::Named(name.clone()),
            (None, None) => Prompt::Default,
        },
        model: args.model.clone(),
        use_device: args.use_device.clone(),
        partial: true,
        ..Options::default()
    }
}

fn progress(args: &Args) -> ProgressBar {
    if args.quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bytes: Option<u64> = (!args.file.is_empty())
        .then(|| {
            args.file
                .iter()
                .map(|path| Some(path.metadata().ok()?.len()))
                .sum()
        })
        .flatten();
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{bar:40} {bytes}/{total_bytes} {msg} eta {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A call under way, and what its lines were.
struct Flight<'c> {
    pending: Option<Pending<'c, String>>,
    /// One entry per line: nothing, or why it was not sent.
    errors: Vec<Option<LineError>>,
    bytes: u64,
}

struct Run<'c> {
    client: &'c Client,
    options: Options,
    calls: VecDeque<Flight<'c>>,
    failed: u64,
    progress: ProgressBar,
}

impl Run<'_> {
    fn inputs(&mut self, args: &Args, sink: &mut dyn Sink) -> Result<()> {
        if !args.texts.is_empty() {
            for texts in args.texts.chunks(CHUNK_TEXTS) {
                let chunk = Chunk::of_texts(texts);
                self.send(chunk, sink)?;
            }
            return self.receive_down_to(0, sink);
        }
        let stdin = PathBuf::from("-");
        let files = if args.file.is_empty() {
            vec![stdin.clone()]
        } else {
            args.file.clone()
        };
        for path in files {
            let input: Box<dyn Read> = if path == stdin {
                Box::new(io::stdin().lock())
            } else {
                Box::new(open(&path)?)
            };
            let mut lines = Lines::new(BufReader::with_capacity(1 << 16, input));
            while let Some(chunk) = lines
                .next_chunk(CHUNK_TEXTS, CHUNK_BYTES)
                .with_context(|| format!("read {}", path.display()))?
            {
                self.send(chunk, sink)?;
            }
        }
        self.receive_down_to(0, sink)
    }

    fn send(&mut self, chunk: Chunk, sink: &mut dyn Sink) -> Result<()> {
        self.receive_down_to(CALLS_MAX - 1, sink)?;
        let pending = if chunk.texts.is_empty() {
            None
        } else {
            Some(
                self.client
                    .start(chunk.texts, &self.options)
                    .map_err(fatal)?,
            )
        };
        self.calls.push_back(Flight {
            pending,
            errors: chunk.errors,
            bytes: chunk.bytes,
        });
        Ok(())
    }

    /// Writes out finished calls, the oldest first, until at most `left` are under way.
    fn receive_down_to(&mut self, left: usize, sink: &mut dyn Sink) -> Result<()> {
        while self.calls.len() > left {
            let Some(flight) = self.calls.pop_front() else {
                break;
            };
            // The ones behind it go on while we wait for the first: they hold slots it may need.
            let behind = &mut self.calls;
            let poll_behind = || {
                for pending in behind.iter_mut().filter_map(|call| call.pending.as_mut()) {
                    pending.poll()?;
                }
                Ok(())
            };
            let answer = flight
                .pending
                .map(|pending| pending.wait_with(poll_behind))
                .transpose()
                .map_err(fatal)?;
            let mut row = 0;
            for error in &flight.errors {
                match (error, &answer) {
                    (Some(error), _) => {
                        self.failed += 1;
                        sink.error(&error.to_string(), error.kind())?;
                    }
                    (None, Some(answer)) => {
                        if let Some(fault) = answer.fault(row) {
                            self.failed += 1;
                            sink.error(&fault.to_string(), fault.kind())?;
                        } else {
                            sink.row(answer, row)?;
                        }
                        row += 1;
                    }
                    (None, None) => bail!("a line was neither sent nor refused"),
                }
            }
            self.progress.inc(flight.bytes);
        }
        Ok(())
    }
}

/// A whole call failed: nothing after it can be right either, so the run ends here.
fn fatal(error: EmbedError) -> anyhow::Error {
    anyhow::Error::new(error).context("embed")
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("open {}", path.display()))
}

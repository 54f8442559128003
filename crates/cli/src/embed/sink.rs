//! Where rows go: an object per line, one array of objects, or a NumPy file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use embedring_client::{Embeddings, PartInfo};
use serde::Serialize;

use super::Output;
use super::npy::Npy;

/// Takes rows and errors, one per text, in order.
pub(super) trait Sink {
    fn row(&mut self, answer: &Embeddings<'_>, index: usize) -> Result<()>;
    fn error(&mut self, error: &str, kind: &str) -> Result<()>;
    fn finish(&mut self) -> Result<()>;
}

pub(super) fn open_sink(
    output: Output,
    path: Option<&Path>,
    explain: bool,
) -> Result<Box<dyn Sink>> {
    if output == Output::Npy {
        return Ok(Box::new(Npy::create(path)?));
    }
    let out: Box<dyn Write> = match path {
        None => Box::new(io::stdout().lock()),
        Some(path) => Box::new(
            File::create(path).with_context(|| format!("create {} (--out)", path.display()))?,
        ),
    };
    Ok(Box::new(Objects {
        out: BufWriter::with_capacity(1 << 16, out),
        array: output == Output::Json,
        explain,
        index: 0,
    }))
}

#[derive(Serialize)]
struct Row<'a> {
    index: u64,
    embedding: &'a [f32],
    tokens: u32,
    truncated: bool,
    model: &'a str,
    device: &'a str,
    precision: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explain<'a>>,
}

#[derive(Serialize)]
struct Explain<'a> {
    worker: &'a str,
    empty: bool,
    queue_us: u64,
    tokenize_us: u64,
    run_us: u64,
    rings_us: u64,
    round_trip_us: u64,
    message_texts: usize,
    sent: u32,
    batch: u64,
    batch_texts: u32,
    batch_tokens: u32,
}

#[derive(Serialize)]
struct Failed<'a> {
    index: u64,
    error: &'a str,
    kind: &'a str,
}

struct Objects<W: Write> {
    out: W,
    array: bool,
    explain: bool,
    index: u64,
}

impl<W: Write> Objects<W> {
    fn object(&mut self, object: &impl Serialize) -> Result<()> {
        self.try_object(object).context("write the output")
    }

    fn try_object(&mut self, object: &impl Serialize) -> io::Result<()> {
        if self.array {
            self.out
                .write_all(if self.index == 0 { b"[\n" } else { b",\n" })?;
        }
        serde_json::to_writer(&mut self.out, object)?;
        if !self.array {
            self.out.write_all(b"\n")?;
        }
        self.index += 1;
        Ok(())
    }
}

impl<W: Write> Sink for Objects<W> {
    fn row(&mut self, answer: &Embeddings<'_>, index: usize) -> Result<()> {
        let part = answer.part_of(index).context("a row without a message")?;
        let explain = self.explain.then(|| explain(answer, index, part));
        let row = Row {
            index: self.index,
            embedding: answer.row(index),
            tokens: answer.tokens(index),
            truncated: answer.truncated(index),
            model: &part.model,
            device: &part.device,
            precision: part.precision.name(),
            explain,
        };
        self.object(&row)
    }

    fn error(&mut self, error: &str, kind: &str) -> Result<()> {
        let failed = Failed {
            index: self.index,
            error,
            kind,
        };
        self.object(&failed)
    }

    fn finish(&mut self) -> Result<()> {
        if self.array {
            let end: &[u8] = if self.index == 0 { b"[]\n" } else { b"\n]\n" };
            self.out.write_all(end).context("write the output")?;
        }
        self.out.flush().context("write the output")
    }
}

fn explain<'a>(answer: &Embeddings<'_>, index: usize, part: &'a PartInfo) -> Explain<'a> {
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Explain {
        worker: &part.worker,
        empty: answer.empty_text(index),
        queue_us: micros(part.queue),
        tokenize_us: micros(part.tokenize),
        run_us: micros(part.run),
        rings_us: micros(part.rings()),
        round_trip_us: micros(part.round_trip),
        message_texts: part.texts.len(),
        sent: part.sent,
        batch: part.batch,
        batch_texts: part.batch_texts,
        batch_tokens: part.batch_tokens,
    }
}

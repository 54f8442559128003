//! Tokens per second of the CPU backend: `cargo run --release --example speed MODEL [QUESTIONS]`,
//! QUESTIONS being a file with a text in each line.
#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use embedring_model::{Backend, CandleCpu, ModelDir, PackedBatch, Tokenizer, TruncationSide};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let dir = ModelDir::open(&arguments.next().ok_or("name a model directory")?)?;
    let tokenizer = Tokenizer::open(&dir)?;
    let questions = match arguments.next() {
        Some(file) => std::fs::read_to_string(file)?
            .lines()
            .map(ToOwned::to_owned)
            .collect(),
        None => (0..32_usize)
            .map(|i| "why was my card payment declined ".repeat(1 + i % 4))
            .collect(),
    };
    let questions: Vec<String> = questions;
    let one = questions.get(..1).ok_or("no questions")?;
    let paragraph = [["A paragraph of some length about nothing in particular."; 14].join(" ")];
    let few = &questions[..questions.len().min(32)];
    let many: Vec<_> = paragraph.iter().cycle().take(200).cloned().collect();

    for threads in [1, 2] {
        let mut backend = CandleCpu::load(&dir, threads)?;
        for (what, texts) in [
            ("one question", one),
            ("32 questions", few),
            ("one paragraph", &paragraph),
        ] {
            let (tokens, times) = measure(&tokenizer, &mut backend, texts, Duration::from_secs(3))?;
            let median = times[times.len() / 2];
            let speed = f64::from(u32::try_from(tokens)?) / median.as_secs_f64();
            println!(
                "{threads} threads, {what}, {tokens} tokens: {median:.2?} (p50 of {}), best {:.2?}, \
                 {speed:.0} tokens/s, peak {}",
                times.len(),
                times[0],
                peak()?,
            );
        }
        measure(&tokenizer, &mut backend, &many[..4], Duration::ZERO)?;
        let before = peak()?;
        let (tokens, _) = measure(&tokenizer, &mut backend, &many, Duration::ZERO)?;
        println!(
            "{threads} threads, {tokens} tokens at once: peak {before}, then {}",
            peak()?
        );
    }
    Ok(())
}

fn measure(
    tokenizer: &Tokenizer,
    backend: &mut CandleCpu,
    texts: &[String],
    time: Duration,
) -> Result<(usize, Vec<Duration>), Error> {
    let (mut ids, mut offsets) = (Vec::new(), vec![0]);
    for text in texts {
        tokenizer.encode("", text, usize::MAX, TruncationSide::Right, false, &mut ids)?;
        offsets.push(ids.len());
    }
    let mut pooled = vec![0.0; texts.len() * backend.info().hidden];
    let batch = PackedBatch::new(&ids, &offsets)?;
    let (start, mut times) = (Instant::now(), Vec::new());
    loop {
        let begin = Instant::now();
        backend.run(&batch, &mut pooled)?;
        times.push(begin.elapsed());
        if start.elapsed() >= time {
            times.sort();
            return Ok((batch.tokens(), times));
        }
    }
}

fn peak() -> Result<String, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.unwrap_or("unknown").trim().to_owned())
}

//! The answers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use embedring_kernels::{Crew, Numbers, multiply_in_registers};
use embedring_model::{
    Backend as _, Level, ModelDir, PackedBatch, PackedCpu, PackedOptions, Precision,
    PrecisionChoice, Tokenizer, TruncationSide, calibration_ids, finish_row,
};
use serde_json::{Value, json};

use crate::Args;

pub(crate) struct Engine {
    tokenizer: Tokenizer,
    backend: PackedCpu,
    level: Level,
    threads: usize,
    workloads: BTreeMap<String, Vec<String>>,
    /// Multiplications and additions that the linear layers do for a token.
    flops_per_token: u64,
    ids: Vec<u32>,
    offsets: Vec<usize>,
    pooled: Vec<f32>,
    rows: Vec<f32>,
}

fn precision(name: &str) -> Result<Precision> {
    Ok(match name {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        "int8" => Precision::Int8,
        other => bail!("no precision {other}"),
    })
}

impl Engine {
    pub(crate) fn load(args: &Args) -> Result<Self> {
        let dir = ModelDir::open(&args.model_dir)?;
        let tokenizer = Tokenizer::open(&dir)?;
        let level = match &args.kernels {
            Some(name) => Level::by_name(name)?,
            None => Level::best(),
        };
        let calibration = calibration_ids(&tokenizer, dir.info().max_tokens)?;
        let options = PackedOptions {
            threads: args.threads,
            pin: false,
            precision: PrecisionChoice::Fixed(precision(&args.precision)?),
            level,
            survey: false,
        };
        let backend = PackedCpu::load(&dir, &calibration, &options)?;
        let workloads = match &args.workloads {
            Some(path) => serde_json::from_reader(
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?,
            )?,
            None => BTreeMap::new(),
        };
        let flops_per_token = dir.info().flops_per_token;
        Ok(Self {
            tokenizer,
            backend,
            level,
            threads: args.threads,
            workloads,
            flops_per_token,
            ids: Vec::new(),
            offsets: Vec::new(),
            pooled: Vec::new(),
            rows: Vec::new(),
        })
    }

    pub(crate) fn ready(&self) -> Value {
        let info = self.backend.info();
        json!({
            "ready": true,
            "versions": { "embedring": env!("CARGO_PKG_VERSION"), "kernels": info.kernels },
            "precision": info.precision.as_str(),
            "weights_bytes": info.weights_bytes,
            "arena_bytes": info.arena_bytes,
            "flops_per_token": self.flops_per_token,
        })
    }

    pub(crate) fn answer(&mut self, request: &Value) -> Result<Value> {
        if let Some(name) = request.get("run").and_then(Value::as_str) {
            // Without padding there is nothing to sort for.
            if let Some(form) = request.get("form").and_then(Value::as_str)
                && form != "as-called"
            {
                bail!("no form {form}: there is only as-called");
            }
            let seconds = request
                .get("seconds")
                .and_then(Value::as_f64)
                .unwrap_or(1.0);
            return self.run(name, Duration::from_secs_f64(seconds));
        }
        if let Some(texts) = request.get("embed") {
            let texts: Vec<String> = serde_json::from_value(texts.clone())?;
            let path = request.get("path").and_then(Value::as_str);
            return self.save(
                &texts,
                Path::new(path.context("\"embed\" needs a \"path\"")?),
            );
        }
        if request.get("memory").is_some() {
            return Ok(json!({ "peak_rss_bytes": peak_rss_bytes()? }));
        }
        if let Some(numbers) = request.get("peak").and_then(Value::as_str) {
            return Ok(json!({ "gflops": self.peak(numbers)? }));
        }
        bail!("\"run\", \"embed\", \"memory\" or \"peak\" is missing")
    }

    /// Embeds the texts of a workload again and again.
    fn run(&mut self, name: &str, time: Duration) -> Result<Value> {
        let texts = self
            .workloads
            .get(name)
            .with_context(|| format!("no workload {name}"))?
            .clone();
        let (begun, mut times) = (now(), Vec::new());
        while times.len() < 3 || begun.elapsed() < time {
            let call = now();
            self.embed(&texts)?;
            times.push(call.elapsed().as_secs_f64());
        }
        Ok(json!({
            "calls": times.len(),
            "seconds_per_call": times,
            "tokens": self.ids.len(),
        }))
    }

    /// From texts to normalised rows.
    fn embed(&mut self, texts: &[String]) -> Result<()> {
        self.ids.clear();
        self.offsets.clear();
        self.offsets.push(0);
        for text in texts {
            let max_tokens = self.backend.info().max_tokens;
            self.tokenizer.encode(
                "",
                text,
                max_tokens,
                TruncationSide::Right,
                false,
                &mut self.ids,
            )?;
            self.offsets.push(self.ids.len());
        }
        let hidden = self.backend.info().hidden;
        self.pooled.resize(texts.len() * hidden, 0.0);
        self.rows.resize(texts.len() * hidden, 0.0);
        self.backend.run(
            &PackedBatch::new(&self.ids, &self.offsets)?,
            &mut self.pooled,
        )?;
        for (pooled, row) in self
            .pooled
            .chunks_exact(hidden)
            .zip(self.rows.chunks_exact_mut(hidden))
        {
            finish_row(pooled, true, row)?;
        }
        Ok(())
    }

    fn save(&mut self, texts: &[String], path: &Path) -> Result<Value> {
        self.embed(texts)?;
        let hidden = self.backend.info().hidden;
        let mut file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        // Version 1 of NumPy's format: magic, length of the header, header, numbers.
        let mut header = format!(
            "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {hidden}), }}",
            texts.len()
        );
        header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
        header.push('\n');
        file.write_all(b"\x93NUMPY\x01\x00")?;
        file.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let bytes: Vec<u8> = self.rows.iter().flat_map(|x| x.to_le_bytes()).collect();
        file.write_all(&bytes)?;
        Ok(json!({ "texts": texts.len(), "tokens": self.ids.len() }))
    }

    /// GFLOP/s of all threads at once.
    fn peak(&self, numbers: &str) -> Result<f64> {
        let numbers = match precision(numbers)? {
            Precision::F32 => Numbers::F32,
            Precision::Bf16 if self.level.multiplies_bf16() => Numbers::Bf16,
            Precision::Bf16 => Numbers::Bf16Weights,
            Precision::Int8 => Numbers::Int8,
            Precision::F16 => unreachable!("no such engine on a CPU"),
        };
        let mut crew = Crew::new(self.threads, false)?;
        let mut best = f64::INFINITY;
        let rounds = 2_000_000;
        let operations = multiply_in_registers(self.level, numbers, 1) * rounds;
        for _ in 0..5 {
            let begun = now();
            crew.each(self.threads, |_, _| {
                std::hint::black_box(multiply_in_registers(self.level, numbers, rounds));
            });
            best = best.min(begun.elapsed().as_secs_f64());
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let operations = operations as f64 * self.threads as f64;
        Ok(operations / best / 1e9)
    }
}

#[expect(clippy::disallowed_methods, reason = "durations within this process")]
fn now() -> Instant {
    Instant::now()
}

fn peak_rss_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.context("no VmHWM")?.parse::<u64>()? * 1024)
}

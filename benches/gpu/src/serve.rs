//! The requests, a JSON object a line:
//!
//! * `{"load": NAME, "ids": [[…], …]}`: a batch of token ids;
//! * `{"run": NAME, "times": N}`: answers the seconds of each run;
//! * `{"rows": NAME, "path": FILE}`: writes its pooled rows, f32 little endian.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use embedring_model::cuda_device::{Device, Tuning};
use embedring_model::{Backend as _, Cuda, ModelDir, PackedBatch, Precision};
use serde_json::{Value, json};

use crate::Args;

#[derive(Default)]
struct Batch {
    ids: Vec<u32>,
    offsets: Vec<usize>,
}

pub(crate) fn serve(args: &Args) -> Result<()> {
    let precision = match args.precision.as_str() {
        "f16" => Precision::F16,
        "bf16" => Precision::Bf16,
        other => bail!("no precision {other} on a GPU: f16 or bf16"),
    };
    let begun = Instant::now();
    let device = Device::gpu(&args.device)?;
    let dir = ModelDir::open(&args.model_dir)?;
    let tuning = Tuning {
        chunk_tokens: args.chunk_tokens,
        lanes: args.lanes,
        tile: args.tile,
    };
    let name = format!("cuda:{}", args.device);
    let mut backend = Cuda::load(&dir, &device, &name, precision, tuning)?;
    let info = backend.info();
    say(&json!({
        "ready": true,
        "device": device.name(),
        "precision": info.precision.as_str(),
        "weights_bytes": info.weights_bytes,
        "arena_bytes": info.arena_bytes,
        "flops_per_token": dir.info().flops_per_token,
        "load_seconds": begun.elapsed().as_secs_f64(),
    }));
    let hidden = info.hidden;
    let mut batches = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = answer(&mut backend, hidden, &mut batches, &request);
        say(&answer.unwrap_or_else(|error| json!({ "error": format!("{error:#}") })));
    }
    Ok(())
}

fn say(answer: &Value) {
    println!("{answer}");
}

fn answer(
    backend: &mut Cuda,
    hidden: usize,
    batches: &mut BTreeMap<String, Batch>,
    request: &Value,
) -> Result<Value> {
    let text = |key: &str| request.get(key).and_then(Value::as_str);
    if let Some(name) = text("load") {
        let lists: Vec<Vec<u32>> = serde_json::from_value(request["ids"].clone())?;
        let mut batch = Batch::default();
        batch.offsets.push(0);
        for ids in lists {
            batch.ids.extend(ids);
            batch.offsets.push(batch.ids.len());
        }
        batches.insert(name.to_owned(), batch);
        return Ok(json!({}));
    }
    let Some(name) = text("run").or(text("rows")) else {
        bail!("neither load, run nor rows: {request}");
    };
    let batch = batches
        .get(name)
        .with_context(|| format!("no batch {name}"))?;
    let packed = PackedBatch::new(&batch.ids, &batch.offsets)?;
    let mut pooled = vec![0.0; packed.len() * hidden];
    if let Some(path) = text("path") {
        backend.run(&packed, &mut pooled)?;
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for number in &pooled {
            file.write_all(&number.to_le_bytes())?;
        }
        file.flush()?;
        return Ok(json!({ "rows": packed.len() }));
    }
    let times = request.get("times").and_then(Value::as_u64).unwrap_or(1);
    let mut seconds = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        backend.run(&packed, &mut pooled)?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    Ok(json!({ "seconds": seconds }))
}

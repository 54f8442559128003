//! What tests of several devices have in common.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use embedring_client::{Client, Embeddings, Options};

use crate::expected::{bits, null_row};
use crate::instance::Instance;
use crate::process::{WATCHDOG, eventually};

/// Options of a call that waits for as long as a test may take.
#[must_use]
pub fn patient() -> Options {
    Options {
        timeout: WATCHDOG,
        ..Options::default()
    }
}

/// Texts of very different lengths, none like another; `mark` keeps lists apart.
#[must_use]
pub fn mixed_texts(count: usize, mark: &str) -> Vec<String> {
    (0..count)
        .map(|at| {
            let pad = if at % 7 == 0 { 300 } else { 10 + at * 13 % 40 };
            format!("{mark} {at} {}", "x".repeat(pad))
        })
        .collect()
}

/// Fails unless each text has the row that is its own.
#[track_caller]
pub fn expect_rows(texts: &[String], answer: &Embeddings<'_>) {
    assert_eq!(answer.len(), texts.len());
    for (at, text) in texts.iter().enumerate() {
        assert_eq!(
            bits(answer.row(at)),
            bits(&null_row(text)),
            "text {at}, by {:?}",
            answer.part_of(at).map(|part| part.worker.clone())
        );
    }
}

/// Tokens that each worker ran of an answer.
#[must_use]
pub fn tokens_by_worker(answer: &Embeddings<'_>) -> BTreeMap<String, u64> {
    let mut tokens = BTreeMap::new();
    for part in answer.parts() {
        let sum: u64 = part
            .texts
            .iter()
            .map(|&at| u64::from(answer.tokens(at)))
            .sum();
        *tokens.entry(part.worker.to_string()).or_default() += sum;
    }
    tokens
}

/// The part of an answer's tokens that a worker ran.
#[must_use]
pub fn share_of(worker: &str, answer: &Embeddings<'_>) -> f64 {
    let tokens = tokens_by_worker(answer);
    let all: u64 = tokens.values().sum();
    tokens.get(worker).copied().unwrap_or(0) as f64 / all.max(1) as f64
}

/// Embeds lists until the plan knows what each worker costs.
#[track_caller]
pub fn warm_up(instance: &Instance, client: &Client, workers: &[&str]) {
    let mut round = 0;
    eventually("the plan knows all workers", WATCHDOG, || {
        round += 1;
        // By turns, so that a slow one is measured too.
        for worker in workers {
            let options = Options {
                use_device: Some(format!("simulated:{worker}")),
                ..patient()
            };
            let texts = mixed_texts(3 + round % 5, &format!("warm {round}"));
            client.embed_with(&texts, &options).unwrap();
        }
        workers.iter().all(|worker| {
            let plan = &instance.worker(worker)["plan"];
            plan["ns_per_token"].as_u64().unwrap() > 0
        })
    });
}

/// A file with the costs of a simulated device, which can be changed while it runs.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
}

impl Table {
    /// Nanoseconds per batch and per token.
    #[must_use]
    pub fn new(dir: &Path, ns_per_batch: u64, ns_per_token: u64) -> Self {
        let table = Self {
            path: dir.join("table.json"),
        };
        table.costs(ns_per_batch, ns_per_token);
        table
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on batches cost so much.
    pub fn costs(&self, ns_per_batch: u64, ns_per_token: u64) {
        self.write(ns_per_batch, ns_per_token, 0);
    }

    /// From now on all batches fail.
    pub fn fails(&self) {
        self.write(1_000_000, 1_000, 1);
    }

    fn write(&self, ns_per_batch: u64, ns_per_token: u64, fail_every: u64) {
        let fit = serde_json::json!({
            "ns_per_batch": ns_per_batch, "ns_per_token": ns_per_token, "ns_per_square": 0,
        });
        let file = serde_json::json!({ "version": 1, "fail_every": fail_every, "fit": fit });
        // In one step: a device that looked at half a file would keep its costs.
        let new = self.path.with_extension("new");
        std::fs::write(&new, file.to_string()).unwrap();
        std::fs::rename(&new, &self.path).unwrap();
    }
}

//! A few batches before the first request: whoever plans and routes knows what this device costs before
//! anybody's request finds out.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use embedring_ipc::clock::now_ns;
use embedring_model::{Backend, PackedBatch};
use embedring_policy::Trials;
use embedring_protocol::{Report, WorkerSlot};

use crate::WorkerOptions;
use crate::memory::MemoryGuard;
use crate::model::Served;

/// A slow device should not keep its users waiting for its measurement.
const LONG_ENOUGH_NS: u64 = 200_000_000;

/// Runs and reports them. A batch that fails ends it: the requests that come will say why.
pub(crate) fn try_out(
    served: &Served,
    backend: &mut dyn Backend,
    options: &WorkerOptions,
    memory: &mut MemoryGuard,
    slot: &WorkerSlot,
    stop: &AtomicBool,
) {
    let mut trials = Trials::within(LONG_ENOUGH_NS);
    let mut is_warm = false;
    while let Some((texts, tokens)) = trials.next_shape() {
        if stop.load(Relaxed) {
            return;
        }
        let tokens = match options.text_tokens_max {
            0 => tokens,
            most => tokens.min(usize::try_from(most).unwrap_or(usize::MAX)),
        }
        .min(served.max_tokens);
        let all = texts * tokens;
        if texts > options.batch_texts_max || all as u64 > options.batch_tokens_max {
            continue;
        }
        // What the tokens are does not matter: the model computes the same.
        let ids = vec![0; all];
        let offsets: Vec<usize> = (0..=texts).map(|text| text * tokens).collect();
        let Ok(batch) = PackedBatch::new(&ids, &offsets) else {
            return;
        };
        let mut pooled = vec![0.0; texts * served.dimensions()];
        // The first one pays for memory that all others use, so it runs twice.
        if !std::mem::replace(&mut is_warm, true) {
            drop(backend.run(&batch, &mut pooled));
        }
        let begun_ns = now_ns();
        if let Err(error) = backend.run(&batch, &mut pooled) {
            tracing::warn!(%error, "the model failed on a batch that was to measure it");
            return;
        }
        let finished_ns = now_ns();
        let run_ns = finished_ns - begun_ns;
        trials.ran((texts, tokens), run_ns);
        memory.look(slot, finished_ns);
        slot.report(&Report {
            finished_ns,
            texts: texts as u64,
            tokens: all as u64,
            tokens_squared: (all * tokens) as u64,
            run_ns,
            longest_tokens: tokens as u64,
            rss_bytes: memory.rss_bytes(),
            ..Report::default()
        });
    }
}

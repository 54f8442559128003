//! A few batches before the first request: whoever plans and routes knows what this device costs before
//! anybody's request finds out.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use embedring_ipc::clock::now_ns;
use embedring_model::{Backend, PackedBatch};
use embedring_protocol::{Report, WorkerSlot};

use crate::WorkerOptions;
use crate::memory::MemoryGuard;
use crate::model::Served;

/// Texts and tokens of each: enough different ones to tell fixed time, tokens and squared lengths apart. The
/// first is not reported, it pays for the memory that all others use.
const SHAPES: [(usize, usize); 9] = [
    (8, 32),
    (1, 8),
    (4, 64),
    (1, 64),
    (16, 16),
    (1, 256),
    (2, 8),
    (8, 32),
    (1, 128),
];
/// No batch is begun after so long: a slow device should not keep its users waiting for its measurement.
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
    let begun_ns = now_ns();
    for (place, (texts, tokens)) in SHAPES.into_iter().enumerate() {
        if stop.load(Relaxed) || now_ns() - begun_ns > LONG_ENOUGH_NS {
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
        let batch_ns = now_ns();
        if let Err(error) = backend.run(&batch, &mut pooled) {
            tracing::warn!(%error, "the model failed on a batch that was to measure it");
            return;
        }
        let finished_ns = now_ns();
        memory.look(slot, finished_ns);
        if place > 0 {
            slot.report(&Report {
                finished_ns,
                texts: texts as u64,
                tokens: all as u64,
                tokens_squared: (all * tokens) as u64,
                run_ns: finished_ns - batch_ns,
                longest_tokens: tokens as u64,
                rss_bytes: memory.rss_bytes(),
                ..Report::default()
            });
        }
    }
}

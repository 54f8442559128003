//! The reference backend: every family in f32 on the CPU, on candle's tensors.

mod forward;
mod ops;

use std::sync::Mutex;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::weights::Weights;
use crate::{Backend, BackendError, BackendInfo, ModelDir, ModelLoadError, PackedBatch, Precision};
use forward::Encoder;

/// A model on the CPU.
///
/// Sequences are computed one by one. With at least as many sequences as threads, each thread
/// takes the next one (longest first) and works alone on it; with fewer, all threads work together
/// on one after the other. Either way at most one sequence for each thread is under way, which is
/// what bounds memory, and each number is computed in the same order, so the row is the same.
pub struct CandleCpu {
    info: BackendInfo,
    encoder: Encoder,
    /// All threads, for one sequence.
    wide: ThreadPool,
    /// Pools of one thread, for one sequence each. They are separate pools because within one,
    /// a thread that waits for its part of a product would begin another sequence meanwhile.
    lanes: Vec<ThreadPool>,
}

/// More threads than any machine this is meant for.
const THREADS_MAX: usize = 1024;

impl CandleCpu {
    /// Loads the weights of a model, to be run on `threads` threads.
    ///
    /// # Errors
    /// [`ModelLoadError`] when the weights are broken, not those that `dir` describes, or the
    /// threads cannot be started.
    pub fn load(dir: &ModelDir, threads: usize) -> Result<Self, ModelLoadError> {
        let failed = |reason: String| ModelLoadError::Threads { threads, reason };
        if threads == 0 || threads > THREADS_MAX {
            return Err(failed(format!("choose 1 to {THREADS_MAX}")));
        }
        let pool = |size, name: &'static str| {
            ThreadPoolBuilder::new()
                .num_threads(size)
                .thread_name(move |index| format!("{name}-{index}"))
                .build()
                .map_err(|e| failed(e.to_string()))
        };
        let wide = pool(threads, "model-wide")?;
        let lanes = (0..threads)
            .map(|_| pool(1, "model-lane"))
            .collect::<Result<_, _>>()?;
        let weights = Weights::load(dir)?;
        let info = BackendInfo {
            device: "cpu".to_owned(),
            precision: Precision::F32,
            hidden: dir.info().hidden,
            max_tokens: dir.info().max_tokens,
            kernels: "candle".to_owned(),
            weights_bytes: weights.bytes,
            arena_bytes: 0,
        };
        let architecture = dir.architecture().clone();
        let encoder = Encoder::new(weights, architecture, dir.info().pooling)?;
        Ok(Self {
            info,
            encoder,
            wide,
            lanes,
        })
    }
}

impl Backend for CandleCpu {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn run(&mut self, batch: &PackedBatch<'_>, pooled: &mut [f32]) -> Result<(), BackendError> {
        batch.check(&self.info, pooled)?;
        self.encoder.embeddings.check(batch, self.info.hidden)?;
        let rows = pooled.chunks_exact_mut(self.info.hidden);
        let mut work: Vec<_> = batch.sequences().zip(rows).collect();
        let threads = self.lanes.len();
        let encoder = &self.encoder;
        let result = if work.len() < threads {
            self.wide.install(|| {
                work.into_iter()
                    .try_for_each(|(ids, row)| encoder.row(ids, threads, row))
            })
        } else {
            // Longest last, since work is taken from the end.
            work.sort_by_key(|(ids, _)| ids.len());
            let (work, failure) = (Mutex::new(work), Mutex::new(None));
            on_all(&self.lanes, &|| {
                loop {
                    // Not `while let`, which would hold the lock for the length of its body.
                    let Some((ids, row)) = lock(&work).pop() else {
                        break;
                    };
                    if let Err(e) = encoder.row(ids, 1, row) {
                        lock(&work).clear();
                        *lock(&failure) = Some(e);
                    }
                }
            });
            let failure = lock(&failure).take();
            failure.map_or(Ok(()), Err)
        };
        result.map_err(|e| BackendError::Compute(Box::new(e)))
    }
}

/// Runs `work` once in every pool, at the same time, and waits for all.
fn on_all(pools: &[ThreadPool], work: &(impl Fn() + Sync)) {
    if let Some((pool, others)) = pools.split_first() {
        pool.in_place_scope(|scope| {
            scope.spawn(|_| work());
            on_all(others, work);
        });
    }
}

/// A panic elsewhere is passed on by rayon; what the lock guards stays sound.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl std::fmt::Debug for CandleCpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CandleCpu")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

//! The CPU backend: encoders on packed kernels, without padding, in f32, bf16 or int8.
//!
//! Batches are cut into chunks of whole sequences ([`plan`]); a chunk goes through all layers in one
//! [`arena`] while it is in the caches ([`encoder`]). Memory is taken at load.

mod arena;
mod encoder;
mod int8;
mod plan;
mod survey;

use std::sync::{Mutex, PoisonError};

use embedring_kernels::{Crew, Level, Tables, Team, pool};

use crate::arch::Architecture;
use crate::weights::{Embeddings, Weights};
use crate::{Backend, BackendError, BackendInfo, ModelDir, ModelLoadError, PackedBatch, Precision};
use arena::Arena;
use encoder::{Encoder, takes_first};
use int8::Int8Scheme;
use plan::{Limits, Plan, SEQUENCES_MAX, Split};
pub use survey::{Survey, SurveyRow};

/// Tokens of a chunk, unless one sequence has more: its rows stay in the second-level cache.
const CHUNK_TOKENS: usize = 256;

/// How a packed backend is made.
#[derive(Clone, Debug)]
pub struct PackedOptions {
    /// Threads that compute, the calling one included.
    pub threads: usize,
    /// Whether each thread is tied to a core of its own.
    pub pin: bool,
    /// The numbers to compute with.
    pub precision: PrecisionChoice,
    /// The instructions to use.
    pub level: Level,
    /// Whether to measure at load what the other precisions would gain and lose.
    pub survey: bool,
}

/// Which precision to run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PrecisionChoice {
    /// This one.
    Fixed(Precision),
    /// The fastest whose loss is small enough.
    Auto {
        /// 1 minus the mean cosine to the rows of f32, over the calibration texts, at most.
        max_loss: f64,
    },
}

/// An encoder on the CPU.
///
/// Rows of one precision and level are the same to the last bit whatever the batch and the number of
/// threads.
#[derive(Debug)]
pub struct PackedCpu {
    info: BackendInfo,
    embeddings: Embeddings,
    first_row: bool,
    encoder: Encoder,
    crew: Crew,
    /// One for each thread; the first is also that of all threads together.
    arenas: Vec<Mutex<Arena>>,
    plan: Plan,
    survey: Survey,
}

impl PackedCpu {
    /// Loads the weights of `dir`.
    ///
    /// `calibration` holds token ids of texts like those to come ([`calibration_ids`]): int8 takes
    /// its scales from them, and losses are measured on them. Not needed for f32 or bf16 without a
    /// survey.
    ///
    /// [`calibration_ids`]: crate::calibration_ids
    ///
    /// # Errors
    /// [`ModelLoadError`] when the weights cannot be read or do not fit their description, when
    /// calibration texts are needed and there are none, or when threads cannot be started.
    pub fn load(
        dir: &ModelDir,
        calibration: &[Vec<u32>],
        options: &PackedOptions,
    ) -> Result<Self, ModelLoadError> {
        if options.precision == PrecisionChoice::Fixed(Precision::F16) {
            return Err(ModelLoadError::Precision {
                device: "cpu".to_owned(),
                precision: Precision::F16,
                supported: "f32, bf16, int8",
            });
        }
        let crew =
            Crew::new(options.threads, options.pin).map_err(|source| ModelLoadError::Threads {
                threads: options.threads,
                reason: source.to_string(),
            })?;
        let weights = Weights::load(dir)?;
        let mut candidates = Candidates {
            level: options.level,
            architecture: dir.architecture(),
            max_tokens: dir.info().max_tokens,
            first_row: takes_first(dir.info().pooling),
            weights: &weights,
            calibration,
            crew,
        };
        let (encoder, survey) = survey::choose(&mut candidates, options)?;
        let (crew, first_row) = (candidates.crew, candidates.first_row);
        let arenas = arenas(&encoder, crew.threads());
        let memory: usize = arenas.iter().map(|arena| lock(arena).bytes()).sum();
        let embeddings = weights.embeddings;
        let info = BackendInfo {
            device: "cpu".to_owned(),
            kernels: options.level.name().to_owned(),
            precision: encoder.precision(),
            hidden: encoder.hidden(),
            max_tokens: encoder.max_tokens(),
            weights_bytes: to_u64(encoder.bytes() + embeddings.bytes()),
            arena_bytes: to_u64(memory),
        };
        Ok(Self {
            info,
            embeddings,
            first_row,
            encoder,
            crew,
            arenas,
            plan: Plan::new(),
            survey,
        })
    }

    /// What was measured at load.
    #[must_use]
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Runs up to [`SEQUENCES_MAX`] sequences.
    fn run_slice(&mut self, ids: &[u32], offsets: &[usize], pooled: &mut [f32]) {
        let limits = Limits {
            threads: self.crew.threads(),
            chunk_tokens_max: chunk_tokens_max(self.encoder.max_tokens()),
            hidden: self.encoder.hidden(),
        };
        let sequences = offsets.len() - 1;
        self.plan.cut(
            sequences,
            |place| offsets[place + 1] - offsets[place],
            limits,
        );
        let work = Work {
            encoder: &self.encoder,
            tables: tables(&self.embeddings),
            first_row: self.first_row,
            ids,
            offsets,
            pooled: Mutex::new(pooled),
        };
        let (plan, arenas, level) = (&self.plan, &self.arenas, self.encoder.level());
        match plan.split() {
            Split::Together => {
                let mut arena = lock(&arenas[0]);
                for chunk in 0..plan.len() {
                    let mut team = Team::of(level, &mut self.crew);
                    work.run(&mut team, plan.chunk(chunk), &mut arena);
                }
            }
            Split::Apart => self.crew.each(plan.len(), |thread, chunk| {
                let mut arena = lock(&arenas[thread]);
                work.run(&mut Team::alone(level), plan.chunk(chunk), &mut arena);
            }),
        }
    }
}

impl Backend for PackedCpu {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn run(&mut self, batch: &PackedBatch<'_>, pooled: &mut [f32]) -> Result<(), BackendError> {
        batch.check(&self.info, pooled)?;
        self.embeddings.check(batch, self.info.hidden)?;
        let (offsets, hidden) = (batch.offsets(), self.info.hidden);
        for (index, sequences) in (0..batch.len()).step_by(SEQUENCES_MAX).enumerate() {
            let end = (sequences + SEQUENCES_MAX).min(batch.len());
            let out = &mut pooled[index * SEQUENCES_MAX * hidden..end * hidden];
            self.run_slice(batch.ids(), &offsets[sequences..=end], out);
        }
        Ok(())
    }
}

/// One batch under way.
struct Work<'a> {
    encoder: &'a Encoder,
    tables: Tables<'a>,
    first_row: bool,
    ids: &'a [u32],
    offsets: &'a [usize],
    pooled: Mutex<&'a mut [f32]>,
}

impl Work<'_> {
    /// Runs the sequences at `places` of the batch.
    fn run(&self, team: &mut Team<'_>, places: &[usize], arena: &mut Arena) {
        arena.ids.clear();
        arena.offsets.clear();
        arena.offsets.push(0);
        for &place in places {
            let ids = &self.ids[self.offsets[place]..self.offsets[place + 1]];
            arena.ids.extend_from_slice(ids);
            arena.offsets.push(arena.ids.len());
        }
        self.encoder.forward(team, self.tables, arena, None);
        let hidden = self.encoder.hidden();
        for (index, &place) in places.iter().enumerate() {
            let rows = arena.offsets[index]..arena.offsets[index + 1];
            pool(
                team.level(),
                &arena.x,
                rows,
                self.first_row,
                &mut arena.pooled,
            );
            lock(&self.pooled)[place * hidden..(place + 1) * hidden].copy_from_slice(&arena.pooled);
        }
    }
}

/// What encoders of several precisions are made from and measured with.
struct Candidates<'a> {
    level: Level,
    architecture: &'a Architecture,
    max_tokens: usize,
    first_row: bool,
    weights: &'a Weights,
    calibration: &'a [Vec<u32>],
    crew: Crew,
}

impl Candidates<'_> {
    fn encoder(&self, precision: Precision, scheme: Option<&Int8Scheme>) -> Encoder {
        Encoder::new(
            self.level,
            precision,
            self.architecture,
            self.max_tokens,
            self.weights,
            scheme,
        )
    }
}

fn tables(embeddings: &Embeddings) -> Tables<'_> {
    Tables {
        words: &embeddings.words,
        positions: &embeddings.positions,
    }
}

fn chunk_tokens_max(max_tokens: usize) -> usize {
    CHUNK_TOKENS.max(max_tokens)
}

fn arenas(encoder: &Encoder, threads: usize) -> Vec<Mutex<Arena>> {
    let tokens_max = chunk_tokens_max(encoder.max_tokens());
    (0..threads)
        .map(|thread| {
            let together = if thread == 0 { threads } else { 1 };
            Mutex::new(Arena::new(encoder, tokens_max, together))
        })
        .collect()
}

/// A task that panicked leaves nothing behind that the next batch reads.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

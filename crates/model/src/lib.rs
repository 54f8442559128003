//! Models: from a directory and a list of token ids to one row for each sequence.
//!
//! The decision that shaped this crate: **a sequence never meets its neighbours**. A batch is flat
//! token ids with offsets ([`PackedBatch`]), there is no padding and no mask, and a backend
//! computes each sequence by itself. So a row is the same to the last bit whatever it was batched
//! with, and mixing lengths costs nothing.
//!
//! ```
//! use embedring_model::{
//!     AnyTokenizer, Backend, ByteTokenizer, NullBackend, PackedBatch, TruncationSide, finish_row,
//! };
//!
//! // With a real model: ModelDir::open, Tokenizer::open and CandleCpu::load.
//! let tokenizer = AnyTokenizer::Bytes(ByteTokenizer);
//! let mut backend = NullBackend::new(8, 256);
//!
//! let (mut ids, mut offsets) = (Vec::new(), vec![0]);
//! for text in ["one text", "another"] {
//!     tokenizer.encode("", text, 256, TruncationSide::Right, false, &mut ids)?;
//!     offsets.push(ids.len());
//! }
//! let mut pooled = vec![0.0; 2 * 8];
//! backend.run(&PackedBatch::new(&ids, &offsets)?, &mut pooled)?;
//!
//! let mut row = [0.0; 4]; // `dimensions` 4: cut, then normalised
//! finish_row(&pooled[8..], true, &mut row)?;
//! assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod arch;
mod dir;
mod raw;
mod tokenizer;
mod window;

mod backend;
mod row;

mod weights;

mod calibration;
mod candle_cpu;
#[cfg(any(feature = "cuda", feature = "emulated-cuda"))]
mod cuda;
mod null;
mod packed;

pub use backend::{Backend, BackendError, BackendInfo, PackError, PackedBatch, Precision};
pub use calibration::calibration_ids;
pub use candle_cpu::CandleCpu;
#[cfg(any(feature = "cuda", feature = "emulated-cuda"))]
pub use cuda::Cuda;
pub use dir::{ModelDir, ModelInfo, ModelOpenError, ModelOverrides, Pooling};
#[cfg(any(feature = "cuda", feature = "emulated-cuda"))]
pub use embedring_cuda::{self as cuda_device};
pub use embedring_kernels::{Level, LevelError};
pub use embedring_quant::Loss;
pub use null::NullBackend;
pub use packed::{PackedCpu, PackedOptions, PrecisionChoice, Survey, SurveyRow};
pub use row::{RowError, finish_row};
pub use tokenizer::{
    AnyTokenizer, ByteTokenizer, Encoded, TokenizeError, Tokenizer, TokenizerOpenError,
    TruncationSide,
};
pub use weights::ModelLoadError;

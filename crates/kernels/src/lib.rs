//! Packed CPU kernels for transformer encoders, and the threads that run them.
//!
//! The decision that shaped this crate: **a row never sees its neighbours**. Every number of a result is
//! one chain of additions in a fixed order, so rows are the same to the last bit however they are
//! batched and whatever the number of threads.
//!
//! ```
//! use embedring_kernels::{
//!     Activation, Input, Level, Matrix, Numbers, Output, Panels, Team, product,
//! };
//!
//! let level = Level::best();
//! // A linear layer of three inputs and two outputs, packed once.
//! let layer = Panels::new(level, Numbers::F32, &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0], &[0.5, 0.0]);
//! let mut x = Matrix::new(1, 3);
//! x.row_mut(0)[..3].copy_from_slice(&[2.0, 3.0, 4.0]);
//! let mut y = Matrix::new(1, 2);
//!
//! let team = &mut Team::alone(level);
//! product(team, 1, Input::F32(&x), &layer, Activation::None, Output::F32(&mut y));
//! assert_eq!(y.row(0)[..2], [2.5, 7.0]);
//! ```
#![deny(missing_docs)]

mod attention;
mod crew;
mod level;
mod math;
mod memory;
mod panels;
mod peak;
mod product;
mod rows;
mod simd;
mod tile;

pub use attention::{Heads, Qkv, Scratch, attention};
pub use crew::{Crew, CrewError, THREADS_MAX, Team};
pub use level::{Level, LevelError};
pub use memory::{Matrix, Word};
pub use panels::{Numbers, Panels};
pub use peak::multiply_in_registers;
pub use product::{Activation, Input, Output, RowScale, product};
pub use rows::{Norm, Packed, Tables, add_norm, embed, pack, pool};

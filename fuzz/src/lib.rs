//! What the fuzz targets share: reading a recipe from bytes, and a small model on a memory disk.

mod bytes;
mod guard;
mod model;
mod scratch;

pub use bytes::{Bytes, inside};
pub use guard::Guard;
pub use model::{FILES, TOKENIZERS, file, tokenizer};
pub use scratch::scratch;

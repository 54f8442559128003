//! Decisions as pure functions: where a request goes, whether it is taken, and what runs together.
//!
//! The decision that shaped this crate: time, load and plan come in as arguments, so that client,
//! worker, scheduler and a simulator run the same code and every decision can be tested as a table.
//!
//! ```
//! use embedring_policy::{Candidate, Cost, route};
//! use embedring_protocol::{Load, WorkerIndex};
//!
//! let worker = |index, tokens| Candidate {
//!     index: WorkerIndex::new(index).unwrap(),
//!     cost: Cost::DEFAULT,
//!     load: Load { tokens, ..Load::default() },
//! };
//! let chosen = route(&[worker(0, 5_000), worker(1, 100)], 20).unwrap();
//! assert_eq!(chosen.get(), 1);
//! ```
#![forbid(unsafe_code)]

mod admit;
mod baselines;
mod batcher;
mod cost;
mod route;
mod schedule;

pub use admit::{Admission, Bounds, Refusal, admit};
pub use batcher::{BatchPolicy, Batcher, Next};
pub use cost::Cost;
pub use route::{Candidate, route};
pub use schedule::{Limits, Picked, Schedule, Waiting, due_ns};

//! Decisions as pure functions: where a request goes, whether it is taken, and what runs together.
//!
//! The decision that shaped this crate: time, load and plan come in as arguments, so that client,
//! worker, scheduler and a simulator run the same code and every decision can be tested as a table.
//!
//! ```
//! use embedring_policy::{Candidate, Cost, Errand, route};
//! use embedring_protocol::{Load, WorkerIndex};
//!
//! let worker = |index, tokens| Candidate {
//!     load: Load { tokens, ..Load::default() },
//!     ..Candidate::idle(WorkerIndex::new(index).unwrap(), Cost::DEFAULT)
//! };
//! let routed = route(&[worker(0, 5_000), worker(1, 100)], Errand::text(20), 0).unwrap();
//! assert_eq!(routed.index.get(), 1);
//! ```
#![forbid(unsafe_code)]

mod admit;
mod baselines;
mod batcher;
mod breaker;
mod correction;
mod cost;
mod fair;
mod pace;
mod route;
mod schedule;
mod trial;

pub use admit::{Admission, Bounds, Late, Newcomer, Refusal, admit, at_best};
pub use batcher::{BatchPolicy, Batcher, Next};
pub use breaker::{Breaker, BreakerLimits, BreakerState};
pub use correction::{correction_1024, correction_place};
pub use cost::Cost;
pub use fair::Share;
pub use pace::Pace;
pub use route::{Candidate, Errand, PACE_ONE, Routed, Running, is_overdue, route, share};
pub use schedule::{Forecast, Limits, Picked, Schedule, Waiting, due_ns};
pub use trial::Trials;

//! Sends requests to an instance when they are due and says how many were answered in time.
//!
//! The decision that shaped this crate: the load is *open*. A request is sent when it is due, whatever became of
//! those before it, and its latency counts from then, so that a stalled service can not slow down what measures it
//! (coordinated omission). Where the generator itself falls behind, the run says so and is not valid.
#![forbid(unsafe_code)]

mod drive;
mod limit;
mod plot;
mod provenance;
mod summary;
mod texts;
mod workload;

pub use drive::{DriveError, Driver, End, Outcome, Progress};
pub use limit::{Limit, Probe, Search, find_limit};
pub use plot::{PlotError, plot};
pub use provenance::Provenance;
pub use summary::{Bounds, Interval, KindSummary, Latency, Second, Summary};
pub use texts::{Texts, TextsError};
pub use workload::{Planned, Workload};

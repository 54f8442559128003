//! What is learned of workers: how long a batch takes, how long at most, how much memory, and when all
//! of that has changed.
//!
//! The decision that shaped this crate: learning never stands on a request's path. Reports come in,
//! plans go out, and a plan holds a few coefficients per worker, so that using a prediction costs a
//! multiplication. Times are arguments and saved knowledge is bytes: no clock, no file, no process.
//!
//! ```
//! use embedring_optimizer::{Planner, PlanningInput};
//! use embedring_protocol::Report;
//!
//! let mut planner = Planner::default();
//! for tokens in [20, 80, 40, 160, 25] {
//!     let run_ns = 1_000_000 + tokens * 100_000;
//!     planner.observe(0, &Report { tokens, run_ns, ..Report::default() });
//! }
//! let plan = planner.plan(PlanningInput { batch_time_target_ns: 50_000_000, now_ns: 0 });
//! assert!(plan.workers[0].ns_per_token.abs_diff(100_000) < 5_000);
//! assert!(plan.workers[0].batch_tokens_max > 400);
//! ```
#![forbid(unsafe_code)]

mod accuracy;
mod bound;
mod contest;
mod drift;
mod fit;
mod history;
mod learners;
mod memory;
mod model;
mod number;
mod paired;
mod planner;
mod saved;
mod switchback;

pub use learners::{Models, Questions, TrainingSet};
pub use paired::Paired;
pub use planner::{Planner, PlanningInput};
pub use saved::RestoreError;
pub use switchback::{Arm, Switchback, Turn};

//! The atomics of shared memory. Everything that another process can see goes through these names,
//! so that a model checker can replace them in one place.

#[expect(
    clippy::disallowed_types,
    reason = "this is the one place that names the standard types"
)]
pub use std::sync::atomic::{AtomicU32, AtomicU64};
pub use std::sync::atomic::{Ordering, fence};

//! What the end-to-end tests stand on: instances of the real binary, the right answers, a client that
//! keeps no rule, and watchdogs.
//!
//! The decision that shaped this crate: nothing is faked. Every test starts `embedring up` as a user
//! would, in an instance of its own name, talks to it through the public client or the command line,
//! and looks afterwards whether anything was left behind. No test sleeps for a time and hopes; each
//! waits on a condition under a watchdog ([`eventually`]).
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a harness that can not go on fails the test that uses it"
)]

mod devices;
mod expected;
mod hostile;
mod instance;
mod load;
mod places;
mod process;
mod random;

pub use devices::{Table, expect_rows, mixed_texts, patient, share_of, tokens_by_worker, warm_up};
pub use expected::{NULL_HIDDEN, NULL_TOKENS_MAX, bits, distance, null_row};
pub use hostile::{Hostile, good_message};
pub use instance::{Instance, Setup, allocated_bytes};
pub use load::LoadClient;
pub use places::{MINILM, TINY, binary, models};
pub use process::{
    Ran, WATCHDOG, eventually, is_root, is_running, kill, kill_all_of, processes_of, run, signal,
    skip,
};
pub use random::Random;
pub use rustix::process::Signal;

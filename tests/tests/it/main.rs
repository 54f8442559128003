//! End-to-end tests: the real binary, real processes, one module per theme.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod async_api;
mod bad_input;
mod contract;
mod death;
mod facts;
mod full;
mod hostile;
mod kills;
mod leaks;
mod limits;
mod load;
mod memory;
mod users;
mod wrong_use;

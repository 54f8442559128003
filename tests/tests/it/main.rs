//! End-to-end tests: the real binary, real processes, one module per theme.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod async_api;
mod bad_input;
mod contract;
mod death;
mod devices;
mod facts;
mod failing;
mod fairness;
mod full;
mod hostile;
mod kills;
mod leaks;
mod limits;
mod load;
mod memory;
mod originals;
mod overload;
mod random_load;
mod trial;
mod users;
mod wrong_use;

//! Tests of the model crate as others use it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod conformance;
#[cfg(feature = "emulated-cuda")]
mod emulated;
mod facts;
mod golden;
mod models;
mod naive;
mod random;
mod refused;
mod scratch;
mod tokens;

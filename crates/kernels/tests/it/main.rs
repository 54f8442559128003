//! Every kernel against its naive twin, on every level of this machine.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test may fail, and its numbers are small"
)]

mod attention;
mod naive;
mod product;
mod rows;
mod support;

//! Numbers of batches as floating point and back.

/// A count or a time as a number to calculate with.
#[expect(
    clippy::cast_precision_loss,
    reason = "tokens, bytes and nanoseconds far below 2^52; above, the last digits do not matter"
)]
pub(crate) fn float(value: u64) -> f64 {
    value as f64
}

/// The nearest whole number; what is negative or no number is 0, what is too large the largest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from floating point saturates, and not-a-number becomes 0"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// One batch in numbers: what was in it and what it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Batch {
    /// Tokens.
    pub(crate) tokens: f64,
    /// Sum of the squares of the texts' token counts.
    pub(crate) squares: f64,
    /// Nanoseconds.
    pub(crate) run_ns: f64,
}

//! The right answers.

use embedring_model::{ByteTokenizer, NullBackend, TruncationSide, finish_row};

/// Components of a row of the null backend, by default.
pub const NULL_HIDDEN: usize = 384;
/// Tokens of a text that the null backend reads.
pub const NULL_TOKENS_MAX: usize = 512;

/// The row that a null worker must give for this text: a pure function of its bytes.
#[must_use]
pub fn null_row(text: &str) -> Vec<f32> {
    let mut ids = Vec::new();
    ByteTokenizer
        .encode(
            "",
            text,
            NULL_TOKENS_MAX,
            TruncationSide::Right,
            false,
            &mut ids,
        )
        .unwrap();
    let mut pooled = [0.0; NULL_HIDDEN];
    NullBackend::row(&ids, &mut pooled);
    let mut row = vec![0.0; NULL_HIDDEN];
    finish_row(&pooled, true, &mut row).unwrap();
    row
}

/// A row to compare to the last bit.
#[must_use]
pub fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|value| value.to_bits()).collect()
}

/// Largest difference of two rows, infinite when their lengths differ.
#[must_use]
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

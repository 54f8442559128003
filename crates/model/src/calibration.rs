//! Token ids of the calibration texts.

use crate::{TokenizeError, Tokenizer, TruncationSide};

/// The project's own calibration texts ([`embedring_quant::calibration_texts`]) as `tokenizer` cuts
/// them, each up to `max_tokens` ids: what [`PackedCpu::load`] takes its scales from.
///
/// [`PackedCpu::load`]: crate::PackedCpu::load
///
/// # Errors
/// [`TokenizeError`] when the tokeniser cannot cut them.
pub fn calibration_ids(
    tokenizer: &Tokenizer,
    max_tokens: usize,
) -> Result<Vec<Vec<u32>>, TokenizeError> {
    embedring_quant::calibration_texts()
        .map(|text| {
            let mut ids = Vec::new();
            tokenizer.encode("", text, max_tokens, TruncationSide::Right, false, &mut ids)?;
            Ok(ids)
        })
        .collect()
}

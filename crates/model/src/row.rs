//! From a pooled row to the vector the client gets.

/// Why a pooled row gives no vector. Neither happens with a sound model; a client must not get
/// such a row as if it were an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The row holds an infinity or not-a-number.
    #[error("the model gave a row with a number that is not finite")]
    NotFinite,
    /// The row is zero where it was to be normalised, so it has no direction.
    #[error("the model gave a zero row, which cannot be normalised")]
    Zero,
    /// More dimensions were asked for than the model has, or none.
    #[error("dimensions {got} is outside 1..={hidden}")]
    Dimensions {
        /// Dimensions asked for.
        got: usize,
        /// Dimensions of the model.
        hidden: usize,
    },
}

/// Cuts `pooled` to the length of `out` (Matryoshka: cut first, then normalise) and, with
/// `normalize`, scales it to L2 norm 1.
///
/// # Errors
/// [`RowError`] when the row is not finite or zero, or shorter than `out`; `out` is then not
/// written.
pub fn finish_row(pooled: &[f32], normalize: bool, out: &mut [f32]) -> Result<(), RowError> {
    if out.is_empty() || out.len() > pooled.len() {
        return Err(RowError::Dimensions {
            got: out.len(),
            hidden: pooled.len(),
        });
    }
    // The whole row is checked, not only the part kept: a broken row is broken everywhere.
    if !pooled.iter().all(|x| x.is_finite()) {
        return Err(RowError::NotFinite);
    }
    let kept = &pooled[..out.len()];
    let norm = sum_of_squares(kept).sqrt();
    if norm == 0.0 {
        return Err(RowError::Zero);
    }
    let scale = if normalize { norm.recip() } else { 1.0 };
    for (out, &x) in out.iter_mut().zip(kept) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounding to f32 is the point"
        )]
        let scaled = (f64::from(x) * scale) as f32;
        *out = scaled;
    }
    Ok(())
}

/// Partial sums side by side: one long chain of additions would take four times as long as the rest.
const LANES: usize = 8;

/// In f64 neither the squares of large numbers overflow nor those of small ones vanish. The order of
/// the additions depends on the length alone, so equal rows have equal sums.
fn sum_of_squares(row: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += square(x);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| square(x)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        pooled: &[f32],
        normalize: bool,
        dimensions: usize,
        expected: Result<&[f32], RowError>,
    ) {
        let mut out = vec![9.0; dimensions];
        match (finish_row(pooled, normalize, &mut out), expected) {
            (Ok(()), Ok(row)) => assert_eq!(out, row),
            (got, expected) => {
                assert_eq!(got, expected.map(|_| ()));
                assert!(
                    out.iter().all(|&x| x == 9.0),
                    "written in spite of the error"
                );
            }
        }
    }

    #[test]
    fn rows_are_cut_then_normalised() {
        check(&[3.0, 4.0, 12.0], true, 2, Ok(&[0.6, 0.8]));
        check(&[3.0, 4.0, 12.0], false, 2, Ok(&[3.0, 4.0]));
        check(&[3.0, 4.0, 12.0], false, 3, Ok(&[3.0, 4.0, 12.0]));
        check(&[3e30, 3e30], true, 1, Ok(&[1.0]));
        check(&[3e-40, 4e-40], true, 1, Ok(&[1.0]));
    }

    #[test]
    fn broken_rows_are_errors() {
        check(&[0.0, 0.0], true, 2, Err(RowError::Zero));
        check(&[0.0, 0.0], false, 2, Err(RowError::Zero));
        check(&[0.0, 1.0], true, 1, Err(RowError::Zero));
        check(&[1.0, f32::NAN], true, 1, Err(RowError::NotFinite));
        check(&[f32::INFINITY, 1.0], false, 2, Err(RowError::NotFinite));
        check(
            &[1.0],
            true,
            2,
            Err(RowError::Dimensions { got: 2, hidden: 1 }),
        );
        check(
            &[1.0],
            true,
            0,
            Err(RowError::Dimensions { got: 0, hidden: 1 }),
        );
    }
}

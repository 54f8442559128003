//! How much rows changed.

/// How far rows are from the ones that they stand for: statistics of 1 - cosine, so 0 is the same
/// direction and 2 the opposite one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Pairs of rows compared.
    pub rows: usize,
    /// The mean.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// The most: the row that fared worst.
    pub max: f64,
}

impl Loss {
    /// Compares `rows` with `reference`, both `[rows, width]`. Two rows of zeros are the same; a row of
    /// zeros against another counts 1, and one with a value that is not finite counts 2.
    ///
    /// # Panics
    /// When the lengths differ, or are not whole rows of `width`.
    #[must_use]
    pub fn between(reference: &[f32], rows: &[f32], width: usize) -> Self {
        assert_eq!(reference.len(), rows.len(), "a row for each row");
        assert!(
            width > 0 && rows.len().is_multiple_of(width),
            "rows are whole"
        );
        let mut loss = Self {
            rows: rows.len() / width,
            mean: 0.0,
            min: f64::INFINITY,
            max: 0.0,
        };
        if loss.rows == 0 {
            return Self::default();
        }
        for (reference, row) in reference.chunks_exact(width).zip(rows.chunks_exact(width)) {
            let lost = lost(reference, row);
            loss.mean += lost;
            loss.min = loss.min.min(lost);
            loss.max = loss.max.max(lost);
        }
        #[expect(clippy::cast_precision_loss, reason = "far fewer rows than 2^52")]
        let count = loss.rows as f64;
        loss.mean /= count;
        loss
    }
}

/// 1 - cosine of two rows.
fn lost(left: &[f32], right: &[f32]) -> f64 {
    let dot = |left: &[f32], right: &[f32]| -> f64 {
        left.iter()
            .zip(right)
            .map(|(left, right)| f64::from(*left) * f64::from(*right))
            .sum()
    };
    let (left_square, right_square) = (dot(left, left), dot(right, right));
    if !(left_square + right_square).is_finite() {
        return 2.0;
    }
    if left_square == 0.0 || right_square == 0.0 {
        return if left_square == right_square {
            0.0
        } else {
            1.0
        };
    }
    (1.0 - dot(left, right) / (left_square.sqrt() * right_square.sqrt())).clamp(0.0, 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_angles() {
        let reference = [1.0, 0.0, 0.0, 2.0, 3.0, 0.0];
        let rows = [5.0, 0.0, 1.0, 0.0, -1.0, 0.0];
        let loss = Loss::between(&reference, &rows, 2);
        assert_eq!(
            (loss.rows, loss.mean, loss.min, loss.max),
            (3, 1.0, 0.0, 2.0)
        );
    }

    #[test]
    fn rows_without_direction() {
        let lost = |left: [f32; 2], right: [f32; 2]| Loss::between(&left, &right, 2).max;
        assert_eq!(lost([0.0, 0.0], [0.0, 0.0]), 0.0);
        assert_eq!(lost([0.0, 0.0], [0.0, 1.0]), 1.0);
        assert_eq!(lost([1.0, 0.0], [f32::NAN, 1.0]), 2.0);
        assert_eq!(Loss::between(&[], &[], 2), Loss::default());
    }

    proptest! {
        #[test]
        fn length_does_not_count(row in prop::collection::vec(-1.0_f32..1.0, 8), by in 0.1_f32..10.0) {
            prop_assume!(row.iter().any(|value| value.abs() > 0.01));
            let longer: Vec<_> = row.iter().map(|value| value * by).collect();
            prop_assert!(Loss::between(&row, &longer, 8).max < 1e-9);
        }
    }
}

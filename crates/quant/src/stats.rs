//! What a product reads, channel by channel.

/// Statistics of the rows that a product reads, by channel: what [`smoothing_factors`] and
/// [`corrected_bias`] need. Values that are not finite are left out.
///
/// [`smoothing_factors`]: crate::smoothing_factors
/// [`corrected_bias`]: crate::corrected_bias
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelStats {
    rows: usize,
    abs_max: Vec<f32>,
    sum: Vec<f64>,
}

impl ChannelStats {
    /// Of no rows yet, each of which will have `channels` values.
    ///
    /// # Panics
    /// When `channels` is 0.
    #[must_use]
    pub fn new(channels: usize) -> Self {
        assert!(channels > 0, "a row has at least one channel");
        Self {
            rows: 0,
            abs_max: vec![0.0; channels],
            sum: vec![0.0; channels],
        }
    }

    /// Takes in `rows`, `[tokens, channels]`.
    ///
    /// # Panics
    /// When `rows` does not end with a whole row.
    pub fn add(&mut self, rows: &[f32]) {
        let channels = self.abs_max.len();
        assert!(rows.len().is_multiple_of(channels), "rows are whole");
        for row in rows.chunks_exact(channels) {
            for ((value, most), sum) in row.iter().zip(&mut self.abs_max).zip(&mut self.sum) {
                if value.is_finite() {
                    *most = most.max(value.abs());
                    *sum += f64::from(*value);
                }
            }
        }
        self.rows += rows.len() / channels;
    }

    /// Rows taken in so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The largest magnitude, `[channels]`.
    #[must_use]
    pub fn abs_max(&self) -> &[f32] {
        &self.abs_max
    }

    /// The mean, `[channels]`; zeros if there were no rows.
    #[must_use]
    pub fn mean(&self) -> Vec<f32> {
        #[expect(clippy::cast_precision_loss, reason = "far fewer rows than 2^52")]
        let rows = self.rows.max(1) as f64;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a mean of f32 is within their range"
        )]
        self.sum.iter().map(|sum| (sum / rows) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_kept_apart() {
        let mut stats = ChannelStats::new(2);
        stats.add(&[1.0, -4.0, 3.0, 2.0]);
        stats.add(&[]);
        stats.add(&[-5.0, 5.0]);
        assert_eq!(stats.rows(), 3);
        assert_eq!(stats.abs_max(), [5.0, 5.0]);
        assert_eq!(stats.mean(), [-1.0 / 3.0, 1.0]);
    }

    #[test]
    fn no_rows_and_no_numbers_count_as_zeros() {
        let mut stats = ChannelStats::new(2);
        assert_eq!(stats.mean(), [0.0, 0.0]);
        stats.add(&[f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY]);
        assert_eq!(stats.abs_max(), [0.0, 1.0]);
        assert_eq!(stats.mean(), [0.0, 0.5]);
    }

    #[test]
    #[should_panic(expected = "rows are whole")]
    fn part_of_a_row_is_refused() {
        ChannelStats::new(3).add(&[1.0; 4]);
    }
}

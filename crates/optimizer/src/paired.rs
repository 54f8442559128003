//! Two ways of doing something, held against each other pair by pair.

/// The mean of paired differences and the interval that holds it with 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Pairs.
    pub pairs: usize,
    /// Mean difference.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Paired {
    /// Of the differences within pairs, by Student's t (W. S. Gosset 1908, "The probable error of a mean");
    /// `None` for fewer than two.
    #[must_use]
    pub fn of(differences: &[f64]) -> Option<Self> {
        let pairs = differences.len();
        if pairs < 2 {
            return None;
        }
        let count = crate::number::float(pairs as u64);
        let mean = differences.iter().sum::<f64>() / count;
        let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
        let error = (squares / (count - 1.0) / count).sqrt();
        let half = student_975(pairs - 1) * error;
        Some(Self {
            pairs,
            mean,
            low: mean - half,
            high: mean + half,
        })
    }

    /// True when the interval lies above 0.
    #[must_use]
    pub fn is_above_zero(&self) -> bool {
        self.low > 0.0
    }

    /// True when the interval lies below 0.
    #[must_use]
    pub fn is_below_zero(&self) -> bool {
        self.high < 0.0
    }
}

/// The 97.5th percentile of Student's distribution.
fn student_975(freedom: usize) -> f64 {
    const TABLE: [f64; 10] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    ];
    if let Some(&value) = freedom.checked_sub(1).and_then(|at| TABLE.get(at)) {
        return value;
    }
    // The first two terms of the expansion around the normal percentile z: (z³ + z)/4ν, and of 1/ν².
    const Z: f64 = 1.959_964;
    let freedom = crate::number::float(freedom as u64);
    let first = (Z.powi(3) + Z) / 4.0 / freedom;
    let second = (5.0 * Z.powi(5) + 16.0 * Z.powi(3) + 3.0 * Z) / 96.0 / freedom.powi(2);
    Z + first + second
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution as _, StandardNormal};

    #[test]
    fn percentiles_are_those_of_the_tables() {
        for (freedom, expected) in [
            (1, 12.706),
            (10, 2.228),
            (11, 2.201),
            (30, 2.042),
            (1_000, 1.962),
        ] {
            let found = student_975(freedom);
            assert!((found - expected).abs() < 0.003, "{freedom}: {found}");
        }
    }

    #[test]
    fn a_known_example() {
        let paired = Paired::of(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((paired.mean - 2.5).abs() < 1e-12);
        // Deviation 1.291, error .6455, times 3.182.
        assert!((paired.high - 2.5 - 2.054).abs() < 0.001, "{paired:?}");
        assert!(paired.is_above_zero() && !paired.is_below_zero());
        assert_eq!(Paired::of(&[1.0]), None);
    }

    #[test]
    fn where_there_is_no_difference_one_in_twenty_sees_one() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let wrong = (0..4_000)
            .filter(|_| {
                let differences: Vec<f64> = (0..15)
                    .map(|_| StandardNormal.sample(&mut random))
                    .collect();
                let paired = Paired::of(&differences).unwrap();
                paired.is_above_zero() || paired.is_below_zero()
            })
            .count();
        assert!((150..=250).contains(&wrong), "{wrong} of 4,000");
    }
}

//! Moving the difficulty of rounding from activations to weights.

/// How far a factor may be from 1, either way: more would only come from a channel that calibration
/// hardly saw, and such a channel must still be read right when a text uses it.
const FACTOR_MAX: f32 = 256.0;

/// Factors, `[inputs]`, that a product's input is multiplied with before its rows are rounded; the
/// weight is divided by them ([`fold`]), so the exact product stays the same. A row has one scale for
/// all its channels, hence a few large channels cost all others their precision: the factors make the
/// large ones smaller.
///
/// This is `SmoothQuant` (Xiao, Lin, Seznec, Wu, Demouth and Han 2023): for a channel of largest
/// activation `a` (`activation_max`) and largest weight `w` (`weight_max`, see [`column_abs_max`]) the
/// factor is `w^(1 - exponent) / a^exponent`, here over the geometric mean of that over all channels,
/// which changes no rounding. A channel that is always zero, or not finite, on one of the two sides
/// has factor 1; all factors are between 1/256 and 256.
///
/// # Panics
/// When the two lengths differ, or `exponent` is not between 0 and 1.
#[must_use]
pub fn smoothing_factors(activation_max: &[f32], weight_max: &[f32], exponent: f32) -> Vec<f32> {
    assert_eq!(
        activation_max.len(),
        weight_max.len(),
        "both are by input channel"
    );
    assert!((0.0..=1.0).contains(&exponent), "the exponent is a share");
    let usable = |value: f32| value.is_finite() && value > 0.0;
    let exponent = f64::from(exponent);
    let logarithms: Vec<Option<f64>> = activation_max
        .iter()
        .zip(weight_max)
        .map(|(&activation, &weight)| {
            (usable(activation) && usable(weight)).then(|| {
                (1.0 - exponent) * f64::from(weight).ln() - exponent * f64::from(activation).ln()
            })
        })
        .collect();
    let (sum, count) = logarithms
        .iter()
        .flatten()
        .fold((0.0, 0.0), |(sum, count), logarithm| {
            (sum + logarithm, count + 1.0)
        });
    let mean: f64 = if count > 0.0 { sum / count } else { 0.0 };
    logarithms
        .into_iter()
        .map(|logarithm| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "too large becomes infinite"
            )]
            let factor = logarithm.map_or(1.0, |logarithm| (logarithm - mean).exp() as f32);
            factor.clamp(1.0 / FACTOR_MAX, FACTOR_MAX)
        })
        .collect()
}

/// The largest magnitude in each column of `weight`, `[outputs, inputs]` in row order: `[inputs]`.
///
/// # Panics
/// When `inputs` is 0 or `weight` does not end with a whole row.
#[must_use]
pub fn column_abs_max(weight: &[f32], inputs: usize) -> Vec<f32> {
    assert!(
        inputs > 0 && weight.len().is_multiple_of(inputs),
        "rows are whole"
    );
    let mut most = vec![0.0_f32; inputs];
    for row in weight.chunks_exact(inputs) {
        for (most, value) in most.iter_mut().zip(row) {
            *most = most.max(value.abs());
        }
    }
    most
}

/// `weight`, `[outputs, inputs]` in row order, with each column over its factor: what belongs to an
/// input that was multiplied with `factors`, `[inputs]`.
///
/// # Panics
/// When there are no factors or `weight` does not end with a whole row.
#[must_use]
pub fn fold(weight: &[f32], factors: &[f32]) -> Vec<f32> {
    assert!(
        !factors.is_empty() && weight.len().is_multiple_of(factors.len()),
        "rows are whole"
    );
    weight
        .chunks_exact(factors.len())
        .flat_map(|row| {
            row.iter()
                .zip(factors)
                .map(|(value, factor)| value / factor)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_large_channel_gets_a_small_factor() {
        let factors = smoothing_factors(&[16.0, 1.0], &[1.0, 1.0], 0.5);
        assert!(
            (factors[0] - 0.5).abs() < 1e-6 && (factors[1] - 2.0).abs() < 1e-6,
            "{factors:?}"
        );
        let untouched = smoothing_factors(&[16.0, 1.0], &[1.0, 1.0], 0.0);
        assert_eq!(untouched, [1.0, 1.0]);
    }

    #[test]
    fn a_dead_channel_stays_as_it_is() {
        let dead = [0.0, f32::NAN, f32::INFINITY, 1.0];
        assert_eq!(smoothing_factors(&dead, &[1.0; 4], 0.7), [1.0; 4]);
        assert_eq!(smoothing_factors(&[1.0; 4], &dead, 0.7), [1.0; 4]);
    }

    #[test]
    fn columns_are_found_and_divided() {
        let weight = [1.0, -2.0, 3.0, -4.0, 5.0, 0.5];
        assert_eq!(column_abs_max(&weight, 3), [4.0, 5.0, 3.0]);
        assert_eq!(
            fold(&weight, &[2.0, 1.0, 0.5]),
            [0.5, -2.0, 6.0, -2.0, 5.0, 1.0]
        );
    }

    proptest! {
        #[test]
        fn factors_are_usable_and_keep_the_product(
            channels in prop::collection::vec((any::<f32>(), any::<f32>(), -9.0_f32..9.0, -9.0_f32..9.0), 1..40),
            exponent in 0.0_f32..=1.0,
        ) {
            let (activation, weight): (Vec<_>, Vec<_>) = channels.iter().map(|c| (c.0, c.1)).unzip();
            let factors = smoothing_factors(&activation, &weight, exponent);
            prop_assert!(factors.iter().all(|f| (1.0 / FACTOR_MAX..=FACTOR_MAX).contains(f)));
            let (x, row): (Vec<_>, Vec<_>) = channels.iter().map(|c| (c.2, c.3)).unzip();
            let folded = fold(&row, &factors);
            for ((x, w), (f, folded)) in x.iter().zip(&row).zip(factors.iter().zip(&folded)) {
                prop_assert!((x * w - x * f * folded).abs() <= 1e-5 * (x * w).abs());
            }
        }
    }
}

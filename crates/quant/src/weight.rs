//! The rounding of weights.

/// A weight in bytes: output `o` is worth `scales[o]` a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelInt8 {
    /// `[outputs, inputs]` in row order, each within -127..=127.
    pub values: Vec<i8>,
    /// `[outputs]`; 0 for an output whose weights are all 0.
    pub scales: Vec<f32>,
}

/// Rounds `weight`, `[outputs, inputs]` in row order, to bytes with one scale for each output: the
/// smallest that holds the output's largest weight.
///
/// # Panics
/// When `inputs` is 0 or `weight` does not end with a whole row.
#[must_use]
pub fn quantise_weight(weight: &[f32], inputs: usize) -> ChannelInt8 {
    assert!(
        inputs > 0 && weight.len().is_multiple_of(inputs),
        "rows are whole"
    );
    let mut rounded = ChannelInt8::default();
    for row in weight.chunks_exact(inputs) {
        let most = row
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        let scale = most / 127.0;
        rounded.scales.push(scale);
        #[expect(clippy::cast_possible_truncation, reason = "within -127..=127")]
        let byte = |value: &f32| (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
        // A quotient by a scale of 0 is no number, and that is 0 as a byte.
        rounded.values.extend(row.iter().map(byte));
    }
    rounded
}

/// The bias that makes up for what rounding the weight changes on average: `bias` plus, for each
/// output, the weight's error times the mean input.
///
/// `weight` (`[outputs, inputs]`, smoothed as `rounded` was) and `mean` (`[inputs]`, times the same
/// factors) are what [`quantise_weight`] and the product see.
///
/// # Panics
/// When sizes do not fit together.
#[must_use]
pub fn corrected_bias(
    bias: &[f32],
    weight: &[f32],
    rounded: &ChannelInt8,
    mean: &[f32],
) -> Vec<f32> {
    assert_eq!(weight.len(), bias.len() * mean.len(), "[outputs, inputs]");
    assert_eq!(weight.len(), rounded.values.len(), "the same weight");
    let rows = weight
        .chunks_exact(mean.len())
        .zip(rounded.values.chunks_exact(mean.len()));
    bias.iter()
        .zip(&rounded.scales)
        .zip(rows)
        .map(|((&bias, &scale), (exact, bytes))| {
            let error: f64 = exact
                .iter()
                .zip(bytes)
                .zip(mean)
                .map(|((&exact, &byte), &mean)| {
                    let error = f64::from(exact) - f64::from(scale) * f64::from(byte);
                    error * f64::from(mean)
                })
                .sum();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "rounding to f32 is the point"
            )]
            let corrected = (f64::from(bias) + error) as f32;
            corrected
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_output_has_its_own_scale() {
        let rounded = quantise_weight(&[1.0, -2.0, 0.0, 0.0, 127.0, 1.4], 2);
        assert_eq!(rounded.values, [64, -127, 0, 0, 127, 1]);
        assert_eq!(rounded.scales, [2.0 / 127.0, 0.0, 1.0]);
    }

    #[test]
    fn the_mean_input_gives_the_exact_output() {
        let (weight, mean) = ([0.31, -0.77, 0.013, 1.0], [3.0, -5.0]);
        let rounded = quantise_weight(&weight, 2);
        let bias = corrected_bias(&[0.5, -0.25], &weight, &rounded, &mean);
        for output in 0..2 {
            let dot =
                |w: &dyn Fn(usize) -> f32| w(2 * output) * mean[0] + w(2 * output + 1) * mean[1];
            let exact = dot(&|at| weight[at]) + [0.5, -0.25][output];
            let got =
                dot(&|at| f32::from(rounded.values[at]) * rounded.scales[output]) + bias[output];
            assert!((exact - got).abs() < 1e-5, "{exact} or {got}");
        }
    }

    proptest! {
        #[test]
        fn no_weight_is_off_by_more_than_half_a_step(
            weight in prop::collection::vec(-3.0_f32..3.0, 1..60),
            outputs in 1..4_usize,
        ) {
            let inputs = weight.len();
            let weight = weight.repeat(outputs);
            let rounded = quantise_weight(&weight, inputs);
            for (at, (exact, byte)) in weight.iter().zip(&rounded.values).enumerate() {
                let scale = rounded.scales[at / inputs];
                prop_assert!((exact - f32::from(*byte) * scale).abs() <= scale * 0.5001);
            }
        }
    }
}

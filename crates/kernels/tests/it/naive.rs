//! The twins: one loop for each definition, in f64.

use embedring_kernels::{Activation, RowScale};

pub(crate) fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::GeluErf => 0.5 * x * (1.0 + libm::erf(x / 2.0_f64.sqrt())),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Relu => x.max(0.0),
    }
}

/// `x · weightᵀ + bias`, `x` `[rows, inputs]` and `weight` `[outputs, inputs]`.
pub(crate) fn linear(x: &[f64], weight: &[f64], bias: &[f32]) -> Vec<f64> {
    let inputs = weight.len() / bias.len();
    x.chunks_exact(inputs)
        .flat_map(|x| {
            weight
                .chunks_exact(inputs)
                .zip(bias)
                .map(move |(weight, &bias)| {
                    x.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>() + f64::from(bias)
                })
        })
        .collect()
}

/// The bytes of a row and what they are worth.
pub(crate) fn quantise(row: &[f32]) -> (Vec<u8>, RowScale) {
    let low = row.iter().copied().fold(0.0, f32::min);
    let high = row.iter().copied().fold(0.0, f32::max);
    let range = high - low;
    let inverse = if range > 0.0 { 255.0 / range } else { 0.0 };
    let zero = (-low * inverse).round_ties_even();
    let bytes = row
        .iter()
        .map(|&x| (f64::from(x) * f64::from(inverse) + f64::from(zero)).round_ties_even())
        .map(|x| x.clamp(0.0, 255.0) as u8)
        .collect();
    let scale = range / 255.0;
    (
        bytes,
        RowScale {
            scale,
            zero: zero as i32,
        },
    )
}

pub(crate) fn normalise(row: &[f64], weight: &[f32], bias: &[f32], eps: f64) -> Vec<f64> {
    let count = row.len() as f64;
    let mean = row.iter().sum::<f64>() / count;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    row.iter()
        .zip(weight.iter().zip(bias))
        .map(|(x, (&w, &b))| (x - mean) / (variance + eps).sqrt() * f64::from(w) + f64::from(b))
        .collect()
}

/// One sequence: `q`, `k`, `v` are `[tokens, width]`, `bias` of key minus query.
pub(crate) fn attention(
    q: &[Vec<f64>],
    k: &[Vec<f64>],
    v: &[Vec<f64>],
    bias: impl Fn(i64) -> f64,
) -> Vec<Vec<f64>> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    (0..)
        .zip(q)
        .map(|(query, q)| {
            let scores: Vec<f64> = (0..)
                .zip(k)
                .map(|(key, k)| dot(q, k) + bias(key - query))
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            (0..v[0].len())
                .map(|at| weights.iter().zip(v).map(|(w, v)| w * v[at]).sum::<f64>() / sum)
                .collect()
        })
        .collect()
}

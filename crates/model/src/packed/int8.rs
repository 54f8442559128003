//! How an encoder is rounded to bytes: factors and scales taken from calibration texts.

use embedring_kernels::Team;
use embedring_quant::{
    ChannelInt8, ChannelStats, column_abs_max, corrected_bias, fold, quantise_weight,
    smoothing_factors,
};

use super::arena::Arena;
use super::encoder::{Encoder, Site};
use super::{Candidates, chunk_tokens_max, tables};
use crate::weights::Linear;

/// Sequences that scales are taken from. More do not change the loss.
const SEQUENCES: usize = 64;

/// What each product read when the calibration texts ran in f32, by layer and [`Site`].
#[derive(Debug)]
pub(super) struct Int8Scheme(Vec<[ChannelStats; 4]>);

/// How far size is moved from the activations to the weights. Only rows out of a LayerNorm have
/// channels that are large for every text; moving more, or elsewhere, loses more than it gains.
fn exponent(site: Site) -> Option<f32> {
    match site {
        Site::Qkv => Some(0.7),
        Site::Up => Some(0.45),
        Site::Attention | Site::Down => None,
    }
}

impl Int8Scheme {
    /// The factors that the input is multiplied with before it is rounded (none for 1), the rounded
    /// weight, which takes them back, and the bias.
    pub(super) fn quantise(
        &self,
        layer: usize,
        site: Site,
        linear: &Linear,
    ) -> (Vec<f32>, ChannelInt8, Vec<f32>) {
        let stats = &self.0[layer][site as usize];
        let inputs = stats.abs_max().len();
        let Some(exponent) = exponent(site) else {
            let rounded = quantise_weight(&linear.weight, inputs);
            let bias = corrected_bias(&linear.bias, &linear.weight, &rounded, &stats.mean());
            return (Vec::new(), rounded, bias);
        };
        let largest = column_abs_max(&linear.weight, inputs);
        let factors = smoothing_factors(stats.abs_max(), &largest, exponent);
        let weight = fold(&linear.weight, &factors);
        let rounded = quantise_weight(&weight, inputs);
        let mean: Vec<f32> = stats
            .mean()
            .iter()
            .zip(&factors)
            .map(|(m, f)| m * f)
            .collect();
        let bias = corrected_bias(&linear.bias, &weight, &rounded, &mean);
        (factors, rounded, bias)
    }
}

/// Runs the calibration texts through `exact`, which computes in f32.
pub(super) fn calibrate(candidates: &mut Candidates<'_>, exact: &Encoder) -> Int8Scheme {
    let channels = |site| match site {
        Site::Down => exact.intermediate(),
        Site::Qkv | Site::Attention | Site::Up => exact.hidden(),
    };
    let layers = candidates.architecture.layers;
    let none = Site::ALL.map(|site| ChannelStats::new(channels(site)));
    let mut stats = vec![none; layers];
    let tokens_max = chunk_tokens_max(exact.max_tokens());
    let mut arena = Arena::new(exact, tokens_max, candidates.crew.threads());
    let tables = tables(&candidates.weights.embeddings);
    for sequence in candidates.calibration.iter().take(SEQUENCES) {
        arena.ids.clear();
        arena.ids.extend(sequence.iter().take(exact.max_tokens()));
        arena.offsets.clear();
        arena.offsets.extend([0, arena.ids.len()]);
        let mut observe =
            |layer: usize, site: Site, rows: &embedring_kernels::Matrix<f32>, count| {
                for row in 0..count {
                    stats[layer][site as usize].add(&rows.row(row)[..rows.columns()]);
                }
            };
        let mut team = Team::of(candidates.level, &mut candidates.crew);
        exact.forward(&mut team, tables, &mut arena, Some(&mut observe));
    }
    Int8Scheme(stats)
}

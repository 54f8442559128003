//! Which precision to run: what each gains and loses on the calibration texts.

use std::time::Duration;

use super::encoder::Encoder;
use super::int8::{self, Int8Scheme};
use super::{Candidates, PackedOptions, PrecisionChoice, Work, arenas, lock, tables};
use crate::{ModelLoadError, Precision};
use embedring_quant::Loss;

/// What precisions gain and lose, measured at load on the calibration texts.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The precisions measured, from the most exact on.
    pub rows: Vec<SurveyRow>,
}

/// One precision measured.
#[derive(Clone, Debug)]
pub struct SurveyRow {
    /// Which.
    pub precision: Precision,
    /// Tokens of calibration texts a second, on all threads.
    pub tokens_per_s: f64,
    /// Against the rows of f32.
    pub loss: Loss,
}

/// A precision must be this many times as fast as a more exact one for `auto` to take it: less is
/// within what a busy machine makes of two equal ones, and the choice must not change from start to
/// start.
const WORTH: f64 = 1.2;
/// Sequences that speed and loss are measured on, and how often.
const SEQUENCES: usize = 96;
const ROUNDS: usize = 2;

/// Makes the encoder that `options` asks for, and measures what it takes to choose.
pub(super) fn choose(
    candidates: &mut Candidates<'_>,
    options: &PackedOptions,
) -> Result<(Encoder, Survey), ModelLoadError> {
    let fixed = match options.precision {
        PrecisionChoice::Fixed(precision) => Some(precision),
        PrecisionChoice::Auto { .. } => None,
    };
    let measure = options.survey || fixed.is_none();
    let needs_texts = measure || fixed == Some(Precision::Int8);
    if needs_texts && candidates.calibration.is_empty() {
        return Err(ModelLoadError::NoCalibration);
    }
    if !needs_texts {
        let encoder = candidates.encoder(fixed.unwrap_or(Precision::F32), None);
        return Ok((encoder, Survey::default()));
    }
    let exact = candidates.encoder(Precision::F32, None);
    let scheme = int8::calibrate(candidates, &exact);
    if !measure {
        return Ok((
            candidates.encoder(Precision::Int8, Some(&scheme)),
            Survey::default(),
        ));
    }
    Ok(measured(candidates, options.precision, exact, &scheme))
}

/// Measures all three precisions and keeps the encoder of the one chosen.
fn measured(
    candidates: &mut Candidates<'_>,
    choice: PrecisionChoice,
    exact: Encoder,
    scheme: &Int8Scheme,
) -> (Encoder, Survey) {
    let (reference, tokens_per_s) = trial(candidates, &exact);
    let row = |precision, tokens_per_s, rows: &[f32]| SurveyRow {
        precision,
        tokens_per_s,
        loss: Loss::between(&reference, rows, exact.hidden()),
    };
    let mut survey = Survey {
        rows: vec![row(Precision::F32, tokens_per_s, &reference)],
    };
    let mut others = Vec::new();
    for precision in [Precision::Bf16, Precision::Int8] {
        let encoder = candidates.encoder(precision, Some(scheme));
        let (rows, tokens_per_s) = trial(candidates, &encoder);
        survey.rows.push(row(precision, tokens_per_s, &rows));
        others.push(encoder);
    }
    let precision = match choice {
        PrecisionChoice::Fixed(precision) => precision,
        PrecisionChoice::Auto { max_loss } => survey.best(max_loss),
    };
    others.push(exact);
    let index = others
        .iter()
        .position(|encoder| encoder.precision() == precision)
        .unwrap_or(others.len() - 1);
    (others.swap_remove(index), survey)
}

impl Survey {
    /// The fastest precision that loses at most `max_loss`; f32 if none is worth it.
    fn best(&self, max_loss: f64) -> Precision {
        let mut best = (Precision::F32, 0.0);
        for row in &self.rows {
            let exact = row.precision == Precision::F32;
            if exact || (row.loss.mean <= max_loss && row.tokens_per_s >= best.1 * WORTH) {
                best = (row.precision, row.tokens_per_s);
            }
        }
        best.0
    }
}

/// Rows of calibration sequences, and tokens a second.
fn trial(candidates: &mut Candidates<'_>, encoder: &Encoder) -> (Vec<f32>, f64) {
    let sequences = &candidates.calibration[..SEQUENCES.min(candidates.calibration.len())];
    let (mut ids, mut offsets) = (Vec::new(), vec![0]);
    for sequence in sequences {
        ids.extend_from_slice(&sequence[..sequence.len().min(encoder.max_tokens())]);
        offsets.push(ids.len());
    }
    let mut rows = vec![0.0; sequences.len() * encoder.hidden()];
    let arenas = arenas(encoder, candidates.crew.threads());
    let places: Vec<usize> = (0..sequences.len()).collect();
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let work = Work {
            encoder,
            tables: tables(&candidates.weights.embeddings),
            first_row: candidates.first_row,
            ids: &ids,
            offsets: &offsets,
            pooled: std::sync::Mutex::new(&mut rows),
        };
        #[expect(clippy::disallowed_methods, reason = "a duration within this function")]
        let begun = std::time::Instant::now();
        candidates.crew.each(places.len(), |thread, place| {
            let mut arena = lock(&arenas[thread]);
            let mut team = embedring_kernels::Team::alone(encoder.level());
            work.run(&mut team, &places[place..=place], &mut arena);
        });
        best = best.min(begun.elapsed());
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let tokens = ids.len() as f64;
    (rows, tokens / best.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(max_loss: f64, measured: [(f64, f64); 3], expected: Precision) {
        let rows = [Precision::F32, Precision::Bf16, Precision::Int8]
            .into_iter()
            .zip(measured)
            .map(|(precision, (tokens_per_s, mean))| SurveyRow {
                precision,
                tokens_per_s,
                loss: Loss {
                    mean,
                    ..Loss::default()
                },
            })
            .collect();
        assert_eq!(Survey { rows }.best(max_loss), expected);
    }

    #[test]
    fn auto_takes_the_fastest_that_loses_little() {
        let usual = [(10.0, 0.0), (20.0, 1e-5), (30.0, 5e-4)];
        check(1e-3, usual, Precision::Int8);
        check(1e-4, usual, Precision::Bf16);
        check(1e-6, usual, Precision::F32);
    }

    #[test]
    fn auto_takes_no_loss_for_a_gain_that_may_be_noise() {
        check(
            1e-3,
            [(10.0, 0.0), (11.0, 1e-5), (11.5, 5e-4)],
            Precision::F32,
        );
        check(
            1e-3,
            [(10.0, 0.0), (11.0, 1e-5), (30.0, 5e-4)],
            Precision::Int8,
        );
        check(
            1e-3,
            [(10.0, 0.0), (28.0, 1e-5), (30.0, 5e-4)],
            Precision::Bf16,
        );
    }
}

//! The analytic model of a batch's time, `a + b·tokens + c·Σlen²`, fitted as batches come.
//!
//! Sums of weighted products are forgotten exponentially, and the three coefficients are the
//! non-negative least squares of what is left: the eight sets of coefficients that may differ from
//! their bound are all tried, which is exact and takes less than a microsecond.
//!
//! A batch counts by the inverse of its predicted time: the noise of a batch grows with its length, yet a
//! long batch still says more than a short one about the next long one. What the batches do not tell
//! apart is settled by a weak prior: the line through the origin, so that batches that are all alike
//! give no fixed time out of noise and promise nothing free for larger ones.

use crate::number::Batch;
use crate::saved::{Reader, Writer};

/// How much each new batch makes older ones count less: half is forgotten after 138 batches.
const KEEP: f64 = 0.995;

/// After a change that was noticed, what came before counts as this many batches.
const LEFT_AFTER_CHANGE: f64 = 3.0;

/// A token's own time is at least this part of the time of all per token: noise must not make tokens free.
const TOKEN_SHARE_MIN: f64 = 0.02;

/// Length of a text at which the squares are expected to matter as much as the tokens: six times the width
/// of a small model, where attention has as many products as the rest of a layer.
const SQUARE_LENGTH: f64 = 1_000.0;

/// Bounds of the prior's weight, in batches of unit variance.
const PRIOR_MIN: f64 = 0.002;
const PRIOR_MAX: f64 = 0.2;

/// Coefficients of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Coefficients {
    /// Nanoseconds of a batch whatever is in it.
    pub(crate) batch_ns: f64,
    /// Nanoseconds of a token.
    pub(crate) token_ns: f64,
    /// Nanoseconds of a squared token.
    pub(crate) square_ns: f64,
}

impl Coefficients {
    /// Predicted nanoseconds, at least one.
    pub(crate) fn predict(&self, batch: &Batch) -> f64 {
        let work = self.token_ns * batch.tokens + self.square_ns * batch.squares;
        (self.batch_ns + work).max(1.0)
    }
}

/// Forgotten sums over the batches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fit {
    /// Batches, forgotten like the rest.
    batches: f64,
    /// Weighted products of 1, tokens and squares with each other.
    products: [[f64; 3]; 3],
    /// The same with the time.
    times: [f64; 3],
}

impl Fit {
    /// Takes in a batch that was predicted to take `predicted_ns`.
    pub(crate) fn add(&mut self, batch: &Batch, predicted_ns: f64) {
        let weight = 1.0 / predicted_ns.max(1.0);
        let row = [1.0, batch.tokens, batch.squares];
        self.scale(KEEP);
        self.batches += 1.0;
        for (i, x) in row.into_iter().enumerate() {
            for (j, y) in row.into_iter().enumerate() {
                self.products[i][j] += weight * x * y;
            }
            self.times[i] += weight * x * batch.run_ns;
        }
    }

    /// Makes all that was seen count for little: it changed, or may have.
    pub(crate) fn soften(&mut self) {
        if self.batches > LEFT_AFTER_CHANGE {
            self.scale(LEFT_AFTER_CHANGE / self.batches);
        }
    }

    /// Makes all that was seen take `factor` times as long.
    pub(crate) fn stretch(&mut self, factor: f64) {
        // The weights are inverse times: products shrink, and products with times stay.
        for row in &mut self.products {
            row.iter_mut().for_each(|value| *value /= factor);
        }
    }

    fn scale(&mut self, factor: f64) {
        self.batches *= factor;
        self.times.iter_mut().for_each(|value| *value *= factor);
        let products = self.products.iter_mut().flatten();
        products.for_each(|value| *value *= factor);
    }

    /// Squares per token of late: what a token counts as whose text is not known.
    pub(crate) fn squares_per_token(&self) -> f64 {
        let [_, tokens, squares] = self.products[0];
        if tokens > 0.0 { squares / tokens } else { 0.0 }
    }

    /// The coefficients; nothing when nothing was seen. `variance` is that of a batch's time over its
    /// prediction, squared.
    pub(crate) fn solve(&self, variance: f64) -> Option<Coefficients> {
        let [weight, tokens, _] = self.products[0];
        let (time, tokens) = (self.times[0] / weight, tokens / weight);
        if !(time.is_finite() && tokens.is_finite() && time > 0.0 && tokens > 0.0) {
            return None;
        }
        // In units in which each coefficient is expected to be 1 at most.
        let units = [time, time / tokens, time / tokens / SQUARE_LENGTH];
        let prior = variance.clamp(PRIOR_MIN, PRIOR_MAX) / self.batches.max(1.0);
        let scale = weight * time * time;
        let mut matrix = [[0.0; 3]; 3];
        let mut vector = [0.0; 3];
        for i in 0..3 {
            for j in 0..3 {
                matrix[i][j] = self.products[i][j] * units[i] * units[j] / scale;
            }
            matrix[i][i] += prior;
            vector[i] = self.times[i] * units[i] / scale;
        }
        vector[1] += prior;
        // The token's part is at least its share: solve for what is above it.
        for i in 0..3 {
            vector[i] -= TOKEN_SHARE_MIN * matrix[i][1];
        }
        let solution = non_negative_least_squares(&matrix, vector);
        Some(Coefficients {
            batch_ns: solution[0] * units[0],
            token_ns: (solution[1] + TOKEN_SHARE_MIN) * units[1],
            square_ns: solution[2] * units[2],
        })
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.float(self.batches);
        self.products.iter().flatten().for_each(|&v| to.float(v));
        self.times.iter().for_each(|&value| to.float(value));
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let mut fit = Self {
            batches: from.not_negative()?,
            ..Self::default()
        };
        for value in fit.products.iter_mut().flatten() {
            *value = from.not_negative()?;
        }
        for value in &mut fit.times {
            *value = from.not_negative()?;
        }
        Some(fit)
    }
}

/// The vector without a negative component with the least `x·Mx − 2·v·x`, for a positive definite `M`.
fn non_negative_least_squares(matrix: &[[f64; 3]; 3], vector: [f64; 3]) -> [f64; 3] {
    let (mut best, mut least) = ([0.0; 3], 0.0);
    for set in 1_usize..8 {
        let free = [0, 1, 2].map(|at| set >> at & 1 == 1);
        let Some(solution) = solve(matrix, vector, free) else {
            continue;
        };
        if solution.iter().any(|&value| value < 0.0) {
            continue;
        }
        // At the solution of its own equations the value is −v·x.
        let value: f64 = -(0..3).map(|at| vector[at] * solution[at]).sum::<f64>();
        if value < least {
            (best, least) = (solution, value);
        }
    }
    best
}

/// Solves for the components that are `free`, the others being 0; Gauss's elimination without pivots,
/// since the matrix is positive definite.
fn solve(matrix: &[[f64; 3]; 3], vector: [f64; 3], free: [bool; 3]) -> Option<[f64; 3]> {
    let (mut matrix, mut vector) = (*matrix, vector);
    for at in 0..3 {
        if !free[at] {
            matrix[at] = [0.0; 3];
            matrix.iter_mut().for_each(|row| row[at] = 0.0);
            matrix[at][at] = 1.0;
            vector[at] = 0.0;
        }
    }
    for pivot in 0..3 {
        let upper = matrix[pivot];
        if upper[pivot].is_nan() || upper[pivot] <= 0.0 {
            return None;
        }
        for row in pivot + 1..3 {
            let factor = matrix[row][pivot] / upper[pivot];
            for (value, above) in matrix[row].iter_mut().zip(upper) {
                *value -= factor * above;
            }
            vector[row] -= factor * vector[pivot];
        }
    }
    let mut solution = [0.0; 3];
    for row in (0..3).rev() {
        let known: f64 = (row + 1..3).map(|at| matrix[row][at] * solution[at]).sum();
        solution[row] = (vector[row] - known) / matrix[row][row];
    }
    solution
        .iter()
        .all(|value| value.is_finite())
        .then_some(solution)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution as _, StandardNormal};

    fn batch(tokens: f64, squares: f64, run_ns: f64) -> Batch {
        Batch {
            tokens,
            squares,
            run_ns,
        }
    }

    /// Batches of random texts on a device of these coefficients, with noise.
    fn fitted(truth: Coefficients, noise: f64, lengths: std::ops::Range<u64>, count: usize) -> Fit {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut fit = Fit::default();
        for _ in 0..count {
            let texts = random.random_range(1..20);
            let lengths: Vec<f64> = (0..texts)
                .map(|_| random.random_range(lengths.clone()) as f64)
                .collect();
            let mut b = batch(
                lengths.iter().sum(),
                lengths.iter().map(|l| l * l).sum(),
                0.0,
            );
            let normal: f64 = StandardNormal.sample(&mut random);
            b.run_ns = truth.predict(&b) * (noise * normal).exp();
            fit.add(&b, truth.predict(&b));
        }
        fit
    }

    const DEVICE: Coefficients = Coefficients {
        batch_ns: 1e6,
        token_ns: 1e5,
        square_ns: 43.0,
    };

    #[test]
    fn all_three_coefficients_are_found() {
        let found = fitted(DEVICE, 0.05, 5..500, 1_000).solve(0.0025).unwrap();
        let near = |a: f64, b: f64, part: f64| (a / b - 1.0).abs() < part;
        assert!(near(found.token_ns, DEVICE.token_ns, 0.05), "{found:?}");
        assert!(near(found.square_ns, DEVICE.square_ns, 0.35), "{found:?}");
        // A few seldom batches are as short as to show it.
        assert!(found.batch_ns < 4e6, "{found:?}");
        let exact = fitted(DEVICE, 0.0, 5..500, 1_000).solve(0.0025).unwrap();
        assert!(near(exact.square_ns, DEVICE.square_ns, 0.02), "{exact:?}");
        assert!(near(exact.batch_ns, DEVICE.batch_ns, 0.02), "{exact:?}");
    }

    #[test]
    fn short_texts_promise_nothing_strange_for_long_ones() {
        // Ten to twenty tokens a text only: squares and tokens can not be told apart.
        let found = fitted(DEVICE, 0.05, 10..20, 200).solve(0.0025).unwrap();
        for length in [100.0, 500.0] {
            let long = batch(length, length * length, 0.0);
            let ratio = found.predict(&long) / DEVICE.predict(&long);
            assert!((0.7..1.6).contains(&ratio), "{length}: {ratio}");
        }
    }

    #[test]
    fn batches_all_alike_give_the_line_through_the_origin() {
        let mut fit = Fit::default();
        for _ in 0..50 {
            fit.add(&batch(16.0, 256.0, 160_000.0), 160_000.0);
        }
        let found = fit.solve(0.0025).unwrap();
        assert!((found.token_ns - 10_000.0).abs() < 1.0, "{found:?}");
        assert!(found.batch_ns < 100.0, "{found:?}");
    }

    #[test]
    fn one_large_batch_shows_what_many_small_ones_hid() {
        // A device that starts slowly and then is quick.
        let truth = Coefficients {
            batch_ns: 3e6,
            token_ns: 3e3,
            square_ns: 0.0,
        };
        let small = batch(20.0, 400.0, truth.predict(&batch(20.0, 400.0, 0.0)));
        let mut fit = Fit::default();
        for _ in 0..500 {
            fit.add(&small, small.run_ns);
        }
        let mut large = batch(1_000.0, 20_000.0, 0.0);
        large.run_ns = truth.predict(&large);
        let before = fit.solve(0.0025).unwrap();
        assert!(before.predict(&large) > 10.0 * large.run_ns, "{before:?}");
        fit.add(&large, before.predict(&large));
        let after = fit.solve(0.0025).unwrap();
        let ratio = after.predict(&large) / large.run_ns;
        assert!((0.6..1.5).contains(&ratio), "{ratio}");
        let ratio = after.predict(&small) / small.run_ns;
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn nothing_seen_is_no_opinion() {
        assert_eq!(Fit::default().solve(0.01), None);
    }

    /// What is minimised.
    fn value(matrix: &[[f64; 3]; 3], vector: &[f64; 3], x: &[f64; 3]) -> f64 {
        let mut sum = 0.0;
        for i in 0..3 {
            for j in 0..3 {
                sum += x[i] * matrix[i][j] * x[j];
            }
            sum -= 2.0 * vector[i] * x[i];
        }
        sum
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_neighbour_is_better(
            rows in prop::collection::vec([-1.0..1.0_f64, -1.0..1.0, -1.0..1.0], 3..6),
            vector in [-1.0..1.0_f64, -1.0..1.0, -1.0..1.0],
        ) {
            let mut matrix = [[0.0; 3]; 3];
            for i in 0..3 {
                for j in 0..3 {
                    matrix[i][j] = rows.iter().map(|row| row[i] * row[j]).sum();
                }
                matrix[i][i] += 0.01;
            }
            let found = non_negative_least_squares(&matrix, vector);
            prop_assert!(found.iter().all(|&component| component >= 0.0));
            let least = value(&matrix, &vector, &found);
            // The function is convex: a minimum among its neighbours is the minimum.
            for at in 0..3 {
                for step in [1e-3, -1e-3] {
                    let mut other = found;
                    other[at] = (other[at] + step).max(0.0);
                    prop_assert!(value(&matrix, &vector, &other) >= least - 1e-9);
                }
            }
        }
    }
}

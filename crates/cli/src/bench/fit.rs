//! The costs that fit a table best.

use std::fmt;

use serde::Serialize;

use super::cost_table::Row;

/// A batch takes `ns_per_batch + ns_per_token · Σ tokens + ns_per_square · Σ tokens²`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Fit {
    pub(super) ns_per_batch: f64,
    pub(super) ns_per_token: f64,
    pub(super) ns_per_square: f64,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} ns a batch, {:.1} a token, {:.3} a square of a text's tokens",
            self.ns_per_batch, self.ns_per_token, self.ns_per_square
        )
    }
}

/// The costs with the least sum of squared relative errors, none of them negative; `None` where the rows leave them
/// open. With three costs the non-negative least squares are the best of the ordinary ones over all subsets of them.
pub(super) fn fit(rows: &[Row]) -> Option<Fit> {
    let lines: Vec<[f64; 3]> = rows.iter().map(line).collect();
    let (_, [ns_per_batch, ns_per_token, ns_per_square]) = (1..8_u8)
        .filter_map(|subset| {
            let costs = least_squares(&lines, subset)?;
            let is_cost = costs.iter().all(|cost| *cost >= 0.0 && cost.is_finite());
            is_cost.then(|| (error(&lines, &costs), costs))
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
    (rows.len() >= 3).then_some(Fit {
        ns_per_batch,
        ns_per_token,
        ns_per_square,
    })
}

/// What the costs are multiplied with, divided by the time: the sum is then to be 1.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a batch")]
fn line(row: &Row) -> [f64; 3] {
    let (texts, each) = (f64::from(row.texts), f64::from(row.tokens_each));
    let time = row.ns_median.max(1) as f64;
    [1.0 / time, texts * each / time, texts * each * each / time]
}

fn error(lines: &[[f64; 3]], costs: &[f64; 3]) -> f64 {
    lines
        .iter()
        .map(|line| {
            let predicted: f64 = line.iter().zip(costs).map(|(x, cost)| x * cost).sum();
            (predicted - 1.0).powi(2)
        })
        .sum()
}

/// Least squares over the costs of `subset`, one bit for each; the others are 0. By the normal equations, with
/// columns scaled to length 1, and Gauss's elimination.
fn least_squares(lines: &[[f64; 3]], subset: u8) -> Option<[f64; 3]> {
    let chosen: Vec<usize> = (0..3).filter(|at| subset & (1 << at) != 0).collect();
    let length = |at: usize| {
        lines
            .iter()
            .map(|line| line[at].powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let lengths: Vec<f64> = chosen.iter().map(|&at| length(at)).collect();
    let size = chosen.len();
    let mut system = vec![vec![0.0; size + 1]; size];
    for (row, &a) in chosen.iter().enumerate() {
        for (column, &b) in chosen.iter().enumerate() {
            let product: f64 = lines.iter().map(|line| line[a] * line[b]).sum();
            system[row][column] = product / lengths[row] / lengths[column];
        }
        system[row][size] = lines.iter().map(|line| line[a]).sum::<f64>() / lengths[row];
    }
    let solution = eliminate(system)?;
    let mut costs = [0.0; 3];
    for ((&at, value), length) in chosen.iter().zip(solution).zip(lengths) {
        costs[at] = value / length;
    }
    Some(costs)
}

fn eliminate(mut system: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let size = system.len();
    for column in 0..size {
        let pivot = (column..size).max_by(|a, b| {
            system[*a][column]
                .abs()
                .total_cmp(&system[*b][column].abs())
        })?;
        system.swap(column, pivot);
        // Columns have length 1: less than this is two columns that are alike.
        if system[column][column].abs() < 1e-9 {
            return None;
        }
        for row in 0..size {
            if row == column {
                continue;
            }
            let factor = system[row][column] / system[column][column];
            let above = system[column].clone();
            for (cell, above) in system[row].iter_mut().zip(above) {
                *cell -= factor * above;
            }
        }
    }
    Some(
        (0..size)
            .map(|at| system[at][size] / system[at][at])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "nanoseconds of a batch"
    )]
    fn rows(cost: impl Fn(f64, f64) -> f64) -> Vec<Row> {
        let mut rows = Vec::new();
        for tokens_each in [8, 32, 128, 512] {
            for texts in [1, 4, 16, 64] {
                let ns = cost(f64::from(texts), f64::from(tokens_each));
                rows.push(Row {
                    texts,
                    tokens_each,
                    ns_median: ns as u64,
                    ns_p90: ns as u64,
                    repeats: 1,
                });
            }
        }
        rows
    }

    #[test]
    fn costs_are_found_again() {
        let found = fit(&rows(|texts, each| {
            1e6 + 1e5 * texts * each + 43.0 * texts * each * each
        }))
        .unwrap();
        assert!((found.ns_per_batch / 1e6 - 1.0).abs() < 1e-3, "{found}");
        assert!((found.ns_per_token / 1e5 - 1.0).abs() < 1e-3, "{found}");
        assert!((found.ns_per_square / 43.0 - 1.0).abs() < 1e-2, "{found}");
    }

    #[test]
    fn no_cost_is_negative() {
        // Cheaper a token where texts are long: a negative square would fit best.
        let found = fit(&rows(|texts, each| texts * each.powf(0.8) * 1e4)).unwrap();
        assert!(
            found.ns_per_batch >= 0.0 && found.ns_per_token > 0.0,
            "{found}"
        );
        assert_eq!(found.ns_per_square, 0.0);
    }

    #[test]
    fn too_little_gives_no_costs() {
        assert_eq!(fit(&[]), None);
        assert_eq!(fit(&rows(|_, _| 5.0)[..2]), None);
    }
}

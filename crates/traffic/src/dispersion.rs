//! How bursty arrivals are.

/// Index of dispersion of counts: variance over mean of the number of arrivals in windows of `window_ns`, which is
/// 1 for Poisson arrivals at every window, and grows with the window where arrivals come in bursts. Whole windows
/// only; `None` where fewer than two of them fit, or nobody comes.
#[must_use]
pub fn dispersion(times_ns: &[u64], window_ns: u64) -> Option<f64> {
    let windows = times_ns.last()?.checked_div(window_ns)?;
    if windows < 2 {
        return None;
    }
    let mut counts = vec![0_u32; usize::try_from(windows).ok()?];
    for time_ns in times_ns {
        let window = usize::try_from(time_ns / window_ns).ok()?;
        if let Some(count) = counts.get_mut(window) {
            *count += 1;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a number of windows")]
    let windows = counts.len() as f64;
    let mean = counts.iter().copied().map(f64::from).sum::<f64>() / windows;
    let square = |count: &u32| (f64::from(*count) - mean).powi(2);
    let variance = counts.iter().map(square).sum::<f64>() / (windows - 1.0);
    (mean > 0.0).then(|| variance / mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_arrivals_have_none_and_pairs_have_two_of_one() {
        let even: Vec<u64> = (0..1_000).map(|at| at * 10).collect();
        assert_eq!(dispersion(&even, 100), Some(0.0));
        // Counts of 4 and 0 in turns: mean 2, variance 4.
        let pairs: Vec<u64> = (0..4_000).map(|at| at / 4 * 200 + at % 4).collect();
        let index = dispersion(&pairs, 100).unwrap();
        assert!((index - 2.0).abs() < 0.01, "{index}");
    }

    #[test]
    fn too_little_says_nothing() {
        assert_eq!(dispersion(&[], 10), None);
        assert_eq!(dispersion(&[5, 15], 10), None);
        assert_eq!(dispersion(&[5, 15], 0), None);
    }
}

//! Recorded arrivals.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a file is no trace.
#[derive(Debug, Error)]
pub enum TraceError {
    /// It can not be read.
    #[error("cannot read the trace {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line begins with no time.
    #[error(
        "{path}:{line}: {got:?} is neither seconds nor a time stamp such as 2023-11-16 18:15:46.68"
    )]
    Time {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What it begins with.
        got: String,
    },
    /// It holds fewer than two times, or all are the same.
    #[error("the trace {path} holds no two different times")]
    Still {
        /// The file.
        path: PathBuf,
    },
}

/// Gaps between recorded arrivals, in units of their mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    gaps: Vec<f64>,
    mean_gap_ns: f64,
}

impl Trace {
    /// Reads a text file with a time in the first column of each line: seconds, or a date and a time of day. A
    /// first line that begins with neither is a heading.
    ///
    /// # Errors
    /// See [`TraceError`].
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        let text = std::fs::read_to_string(path).map_err(|source| TraceError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut seconds = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let field = line.split(',').next().unwrap_or_default().trim();
            match seconds_of(field) {
                Some(time) => seconds.push(time),
                None if index == 0 || field.is_empty() => {}
                None => {
                    return Err(TraceError::Time {
                        path: path.to_owned(),
                        line: index + 1,
                        got: field.to_owned(),
                    });
                }
            }
        }
        Self::of_seconds(&seconds).ok_or_else(|| TraceError::Still {
            path: path.to_owned(),
        })
    }

    /// From times in seconds; `None` without two different ones. A step backwards, as at midnight, counts as none.
    #[must_use]
    pub fn of_seconds(seconds: &[f64]) -> Option<Self> {
        let gaps: Vec<f64> = seconds
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).max(0.0))
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "lines of a file")]
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        (mean > 0.0 && mean.is_finite()).then(|| Self {
            gaps: gaps.into_iter().map(|gap| gap / mean).collect(),
            mean_gap_ns: mean * 1e9,
        })
    }

    /// The mean gap as recorded, in nanoseconds.
    #[must_use]
    pub fn mean_gap_ns(&self) -> f64 {
        self.mean_gap_ns
    }

    /// Number of gaps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.gaps.len()
    }

    /// Never true: a trace has gaps.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Gap `place`, in units of the mean; the recording begins again at its end.
    pub(crate) fn gap(&self, place: usize) -> f64 {
        self.gaps[place % self.gaps.len()]
    }
}

/// Seconds, or seconds of the day of a time stamp.
fn seconds_of(field: &str) -> Option<f64> {
    if let Ok(seconds) = field.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let time = field.split_whitespace().nth(1)?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    Some(3600.0 * next()? + 60.0 * next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_time_stamps_are_read() {
        let stamp = seconds_of("2023-11-16 18:15:46.6805900").unwrap();
        assert!((stamp - 65_746.680_59).abs() < 1e-6);
        assert_eq!(seconds_of("12.5"), Some(12.5));
        assert_eq!(seconds_of("TIMESTAMP"), None);
        assert_eq!(seconds_of("nan"), None);
    }

    #[test]
    fn gaps_are_in_units_of_their_mean() {
        let trace = Trace::of_seconds(&[0.0, 1.0, 1.0, 4.0, 2.0]).unwrap();
        assert_eq!(trace.len(), 4);
        assert!((trace.mean_gap_ns() - 1e9).abs() < 1.0);
        assert_eq!([trace.gap(2), trace.gap(3), trace.gap(4)], [3.0, 0.0, 1.0]);
        assert_eq!(Trace::of_seconds(&[1.0, 1.0]), None);
        assert_eq!(Trace::of_seconds(&[1.0]), None);
    }
}

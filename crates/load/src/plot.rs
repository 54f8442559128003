//! Latencies and goodput of a run, as a picture.

use std::path::{Path, PathBuf};
use std::time::Duration;

use embedring_ipc::clock::to_ns;
use embedring_traffic::Kind;
use plotters::prelude::*;
use thiserror::Error;

use crate::drive::{End, Outcome};
use crate::summary::{Bounds, Summary};

const SIZE: (u32, u32) = (1_120, 420);
/// Points of a curve.
const POINTS: usize = 400;

/// The picture could not be written.
#[derive(Debug, Error)]
#[error("cannot draw {path}: {why}")]
pub struct PlotError {
    path: PathBuf,
    why: String,
}

/// Writes an SVG file: on the left the share of each kind answered within a time from when it was due (what is never
/// answered keeps the curve below 1) with the deadlines, on the right requests due and answered in time by second.
///
/// # Errors
/// When the file can not be written.
pub fn plot(
    run: &[Outcome],
    summary: &Summary,
    warm_up: Duration,
    heading: &str,
    path: &Path,
) -> Result<(), PlotError> {
    let bounds = Bounds {
        warm_up,
        lag_p99_max: Duration::MAX,
    };
    draw(run, summary, &bounds, heading, path).map_err(|error| PlotError {
        path: path.to_owned(),
        why: error.to_string(),
    })
}

fn draw(
    run: &[Outcome],
    summary: &Summary,
    bounds: &Bounds,
    heading: &str,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(heading, ("sans-serif", 16))?;
    let areas = root.split_evenly((1, 2));
    if let [left, right] = areas.as_slice() {
        curves(run, bounds, left)?;
        by_second(summary, right)?;
    }
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn curves(
    run: &[Outcome],
    bounds: &Bounds,
    area: &Area<'_>,
) -> Result<(), Box<dyn std::error::Error>> {
    let from_ns = to_ns(bounds.warm_up);
    let counted: Vec<&Outcome> = run.iter().filter(|o| o.due_ns >= from_ns).collect();
    let most_ms = counted
        .iter()
        .filter_map(|o| latency_ms(o))
        .fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("latency from the time due", ("sans-serif", 14))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d((0.1..most_ms * 1.2).log_scale(), 0.0..1.0)?;
    chart
        .configure_mesh()
        .x_desc("ms")
        .y_desc("share answered within")
        .draw()?;
    for (index, kind) in Kind::ALL.into_iter().enumerate() {
        let of: Vec<&Outcome> = counted.iter().filter(|o| o.kind == kind).copied().collect();
        let Some(first) = of.first() else { continue };
        let mut latencies: Vec<f64> = of.iter().filter_map(|o| latency_ms(o)).collect();
        latencies.sort_by(f64::total_cmp);
        let colour = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(
                curve(&latencies, of.len()),
                colour.stroke_width(2),
            ))?
            .label(kind.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
        let deadline_ms = ms(first.time_ns);
        chart.draw_series(LineSeries::new(
            [(deadline_ms, 0.0), (deadline_ms, 1.0)],
            colour.mix(0.4),
        ))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.7))
        .draw()?;
    Ok(())
}

/// Some points of a distribution of sorted values, as shares of `all`.
fn curve(sorted: &[f64], all: usize) -> Vec<(f64, f64)> {
    let step = sorted.len().div_ceil(POINTS).max(1);
    let point = |at: usize| (sorted[at], share(at + 1, all));
    let last = sorted.len().checked_sub(1);
    (0..sorted.len())
        .step_by(step)
        .chain(last)
        .map(point)
        .collect()
}

fn by_second(summary: &Summary, area: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    // The last second is not a whole one.
    let whole = summary.seconds.len().saturating_sub(1).max(1);
    let seconds = &summary.seconds[..whole.min(summary.seconds.len())];
    let most = seconds.iter().map(|second| second.due).max().unwrap_or(1);
    let mut chart = ChartBuilder::on(area)
        .caption("requests by second", ("sans-serif", 14))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d(0..whole, 0..most.max(1) + most / 10)?;
    chart.configure_mesh().x_desc("s").draw()?;
    for (index, name) in ["due", "answered in time"].into_iter().enumerate() {
        let colour = Palette99::pick(index + 2).to_rgba();
        let value = |at: usize| {
            let second = seconds[at];
            (
                at,
                if index == 0 {
                    second.due
                } else {
                    second.on_time
                },
            )
        };
        chart
            .draw_series(LineSeries::new(
                (0..seconds.len()).map(value),
                colour.stroke_width(2),
            ))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.7))
        .draw()?;
    Ok(())
}

fn latency_ms(outcome: &Outcome) -> Option<f64> {
    match outcome.end {
        End::Answered { latency_ns, .. } => Some(ms(latency_ns)),
        End::Failed { .. } => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "times of a run")]
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests")]
fn share(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_at_the_share_that_was_answered() {
        let sorted: Vec<f64> = (0..1_000).map(f64::from).collect();
        let points = curve(&sorted, 2_000);
        assert!(points.len() <= POINTS + 1);
        assert_eq!(points.last(), Some(&(999.0, 0.5)));
        assert!(curve(&[], 10).is_empty());
    }

    #[test]
    fn a_picture_is_written() {
        let run: Vec<_> = (0..3_000)
            .map(|at| Outcome {
                due_ns: at * 1_000_000,
                kind: Kind::ALL[usize::from(at % 4 == 0)],
                time_ns: 100_000_000,
                lag_ns: 0,
                crowded: false,
                end: End::Answered {
                    latency_ns: 1_000_000 * (1 + at % 200),
                    tokens: 20,
                },
            })
            .collect();
        let bounds = Bounds {
            warm_up: Duration::ZERO,
            lag_p99_max: Duration::from_secs(1),
        };
        let path = std::env::temp_dir().join(format!("embedring-plot-{}.svg", std::process::id()));
        let runs = [run];
        let summary = Summary::of(&runs, &bounds);
        plot(&runs[0], &summary, Duration::ZERO, "a run", &path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(svg.contains("question") && svg.contains("answered in time"));
        let nowhere = path.join("below-a-file.svg");
        assert!(plot(&runs[0], &summary, Duration::ZERO, "a run", &nowhere).is_err());
    }
}

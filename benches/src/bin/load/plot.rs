//! Goodput over the rate, a picture for each kind of arrivals.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::*;

use crate::policies::Group;
use crate::study::Panel;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 420;

/// Writes an SVG file.
pub(crate) fn write(panels: &[Panel], path: &Path) -> Result<()> {
    draw(panels, path).with_context(|| format!("cannot draw {}", path.display()))
}

fn draw(panels: &[Panel], path: &Path) -> Result<()> {
    let size = (WIDTH * u32::try_from(panels.len().max(1))?, HEIGHT);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, area) in panels.iter().zip(root.split_evenly((1, panels.len()))) {
        let points = || panel.rows.iter().flat_map(|row| &row.curve);
        let most_rate = points().map(|point| point.rate).fold(1.0, f64::max);
        let most = points().map(|point| point.high).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(&panel.arrivals, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..most_rate, 0.0..most * 1.05)?;
        chart
            .configure_mesh()
            .x_desc("requests/s")
            .y_desc("in time, requests/s")
            .draw()?;
        for (index, row) in panel.rows.iter().enumerate() {
            let width = if row.group == Group::Ours { 3 } else { 1 };
            let style = Palette99::pick(index).to_rgba().stroke_width(width);
            chart
                .draw_series(LineSeries::new(
                    row.curve.iter().map(|point| (point.rate, point.goodput)),
                    style,
                ))?
                .label(row.policy)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
            let bars = row.curve.iter().map(|point| {
                let (low, high) = ((point.rate, point.low), (point.rate, point.high));
                PathElement::new([low, high], style)
            });
            chart.draw_series(bars)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(("sans-serif", 10))
            .background_style(WHITE.mix(0.7))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

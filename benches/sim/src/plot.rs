//! Goodput over load, a picture for each device and kind of arrivals.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::*;

use crate::contenders::Group;
use crate::study::{LOADS, Panel};

const WIDTH: u32 = 560;
const HEIGHT: u32 = 380;
const COLUMNS: usize = 5;

/// Writes an SVG file.
pub(crate) fn write(panels: &[Panel], path: &Path) -> Result<()> {
    draw(panels, path).with_context(|| format!("cannot draw {}", path.display()))
}

fn draw(panels: &[Panel], path: &Path) -> Result<()> {
    let columns = panels.len().clamp(1, COLUMNS);
    let rows = panels.len().div_ceil(columns);
    let size = (
        WIDTH * u32::try_from(columns)?,
        HEIGHT * u32::try_from(rows)?,
    );
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, area) in panels.iter().zip(root.split_evenly((rows, columns))) {
        let loads = LOADS[0]..LOADS[LOADS.len() - 1];
        let mut chart = ChartBuilder::on(&area)
            .caption(
                format!("{}, {}", panel.device.name, panel.arrivals),
                ("sans-serif", 18),
            )
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d(loads, 0.0..2.05)?;
        chart
            .configure_mesh()
            .x_desc("load")
            .y_desc("goodput")
            .draw()?;
        for (index, row) in panel.rows.iter().enumerate() {
            let ours = matches!(row.group, Group::Ours | Group::OursKnowing);
            let colour = Palette99::pick(index).to_rgba();
            let style = colour.stroke_width(if ours { 3 } else { 1 });
            chart
                .draw_series(LineSeries::new(
                    row.curve.iter().map(|p| (p.load, p.goodput)),
                    style,
                ))?
                .label(row.policy)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
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

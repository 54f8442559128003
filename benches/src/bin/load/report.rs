//! The tables.

use std::fmt::{self, Write as _};

use anyhow::{Context as _, Result};
use embedring_load::Provenance;
use serde_json::json;

use crate::policies::Group;
use crate::study::{Panel, Row, Study};

/// JSON of all panels.
pub(crate) fn json(panels: &[Panel], study: &Study, command: &str, note: &str) -> Result<String> {
    let json = json!({
        "version": 1,
        "from": Provenance::here(command),
        "note": note,
        "study": study,
        "panels": panels,
    });
    Ok(serde_json::to_string_pretty(&json).context("write JSON")? + "\n")
}

/// Markdown of all panels.
pub(crate) fn markdown(
    panels: &[Panel],
    study: &Study,
    command: &str,
    note: &str,
) -> Result<String, fmt::Error> {
    let mut text = String::from("# Real workers under load\n\n");
    let from = Provenance::here(command);
    writeln!(
        text,
        "Written by `{command}` at {} on {}; {}, D = {} ms, {} rounds of {} × {} s a rate.",
        from.commit,
        from.machine,
        study.precision,
        study.deadline_ms,
        study.extent.rounds,
        study.extent.repeats,
        study.extent.seconds
    )?;
    if !note.is_empty() {
        writeln!(text, "\n{note}")?;
    }
    text.push_str(
        "\n| arrivals | requests/s at 99 %, ours | the best shipped | ratio |\n|---|---|---|---|\n",
    );
    for panel in panels {
        if let Some((ours, shipped)) = ours_and_best(panel) {
            let rounds = ratios(ours, shipped);
            writeln!(
                text,
                "| {} | {:.0} | {:.0} ({}) | {:.2} × ({}) |",
                panel.arrivals,
                ours.limit(),
                shipped.limit(),
                shipped.policy,
                ours.limit() / shipped.limit(),
                rounds.join(", ")
            )?;
        }
    }
    for panel in panels {
        table(&mut text, panel)?;
    }
    Ok(text)
}

fn ours_and_best(panel: &Panel) -> Option<(&Row, &Row)> {
    let ours = panel.rows.iter().find(|row| row.group == Group::Ours)?;
    let shipped = panel
        .rows
        .iter()
        .filter(|row| row.group == Group::Shipped)
        .max_by(|a, b| a.limit().total_cmp(&b.limit()))?;
    Some((ours, shipped))
}

/// Round by round.
fn ratios(ours: &Row, other: &Row) -> Vec<String> {
    ours.limits
        .iter()
        .zip(&other.limits)
        .map(|(ours, other)| format!("{:.2}", ours / other))
        .collect()
}

fn table(text: &mut String, panel: &Panel) -> fmt::Result {
    let Some(first) = panel.rows.first() else {
        return Ok(());
    };
    write!(
        text,
        "\n## {}\n\nGoodput in requests/s at a rate; in brackets the share of questions and of paragraphs in time; \
         * where the generator fell behind.\n\n| policy | numbers | requests/s at 99 % (rounds) |",
        panel.arrivals
    )?;
    for point in &first.curve {
        write!(text, " {:.0} |", point.rate)?;
    }
    writeln!(text, "\n|---|---|---|{}", "---|".repeat(first.curve.len()))?;
    for row in &panel.rows {
        let rounds: Vec<String> = row
            .limits
            .iter()
            .map(|limit| format!("{limit:.0}"))
            .collect();
        let at_least = if row.is_of_the_generator { "≥ " } else { "" };
        write!(
            text,
            "| {} | {} | {at_least}{:.0} ({}) |",
            row.policy,
            row.numbers,
            row.limit(),
            rounds.join(", ")
        )?;
        for point in &row.curve {
            let mark = if point.valid { "" } else { "*" };
            write!(
                text,
                " {:.0}{mark} ({:.2} {:.2}) |",
                point.goodput, point.questions, point.paragraphs
            )?;
        }
        text.push('\n');
    }
    Ok(())
}

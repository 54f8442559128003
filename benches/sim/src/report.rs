//! The tables.

use std::fmt::{self, Write as _};

use crate::ClientsCheck;
use crate::contenders::Group;
use crate::decision::Decision;
use crate::study::{Panel, Row};

/// What a panel is held against.
struct Targets<'a> {
    ours: &'a Row,
    knowing: &'a Row,
    shipped: &'a Row,
    /// The least of our goodput over that of the best of all others, and at which load.
    worst: (f64, f64, &'a str),
}

/// Markdown of all panels.
pub(crate) fn markdown(
    panels: &[Panel],
    decisions: &[Decision],
    checks: &[ClientsCheck],
    heading: &str,
) -> Result<String, fmt::Error> {
    let mut text = format!("# Simulator\n\n{heading}\n\n");
    targets(&mut text, panels)?;
    text.push_str(
        "## One choice\n\n| device | requests queued | p50 µs | p99 µs |\n|---|---|---|---|\n",
    );
    for decision in decisions {
        let Decision {
            device,
            queued,
            p50_us,
            p99_us,
        } = decision;
        writeln!(text, "| {device} | {queued} | {p50_us:.1} | {p99_us:.1} |")?;
    }
    text.push('\n');
    clients(&mut text, checks)?;
    for panel in panels {
        table(&mut text, panel)?;
    }
    Ok(text)
}

fn clients(text: &mut String, checks: &[ClientsCheck]) -> fmt::Result {
    text.push_str(
        "## Many clients\n\nIndex of dispersion of counts of an hour, recorded and generated; the bench ends where they differ by more than a quarter.\n\n| arrivals | window, s | recorded | generated |\n|---|---|---|---|\n",
    );
    for check in checks {
        writeln!(
            text,
            "| {} | {} | {} | {:.2} |",
            check.arrivals, check.window_s, check.recorded, check.generated
        )?;
    }
    text.push('\n');
    Ok(())
}

fn find(panel: &Panel, group: Group) -> impl Iterator<Item = &Row> {
    panel.rows.iter().filter(move |row| row.group == group)
}

fn read(panel: &Panel) -> Option<Targets<'_>> {
    let ours = find(panel, Group::Ours).next()?;
    let shipped =
        find(panel, Group::Shipped).max_by(|a, b| a.load_at_99.total_cmp(&b.load_at_99))?;
    let others = || find(panel, Group::Shipped).chain(find(panel, Group::Stronger));
    let worst = ours
        .curve
        .iter()
        .enumerate()
        .filter_map(|(at, point)| {
            let best =
                others().max_by(|a, b| a.curve[at].goodput.total_cmp(&b.curve[at].goodput))?;
            Some((
                point.goodput / best.curve[at].goodput,
                point.load,
                best.policy,
            ))
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(Targets {
        ours,
        knowing: find(panel, Group::OursKnowing).next()?,
        shipped,
        worst,
    })
}

fn targets(text: &mut String, panels: &[Panel]) -> fmt::Result {
    text.push_str("## What is held against what\n\n");
    text.push_str("| device, arrivals | load at 99 %, ours | the best shipped | ratio | least of ours over the best of all others, over loads | of ours with the true costs | goodput at 2 × overload, of its peak | kinds apart at 99 % |\n|---|---|---|---|---|---|---|---|\n");
    for panel in panels {
        let Some(targets) = read(panel) else { continue };
        let Targets {
            ours,
            knowing,
            shipped,
            worst,
        } = targets;
        let peak = ours
            .curve
            .iter()
            .map(|point| point.goodput)
            .fold(0.0, f64::max);
        let last = ours.curve.last().map_or(0.0, |point| point.goodput);
        let [questions, paragraphs] = ours.kinds_at_99;
        writeln!(
            text,
            "| {}, {} | {:.2} | {:.2} ({}) | {:.2} × | {:.1} % (at {}, {}) | {:.0} % | {:.0} % | {:.1} points |",
            panel.device.name,
            panel.arrivals,
            ours.load_at_99,
            shipped.load_at_99,
            shipped.policy,
            ours.load_at_99 / shipped.load_at_99,
            100.0 * worst.0,
            worst.1,
            worst.2,
            100.0 * ours.load_at_99 / knowing.load_at_99,
            100.0 * last / peak,
            100.0 * (questions - paragraphs).abs(),
        )?;
    }
    text.push('\n');
    Ok(())
}

fn table(text: &mut String, panel: &Panel) -> fmt::Result {
    let Some(first) = panel.rows.first() else {
        return Ok(());
    };
    write!(
        text,
        "## {}, {}\n\nGoodput; in brackets the share of questions and of paragraphs in time. D is a question's deadline, {} ms.\n\n| policy | numbers | load at 99 % |",
        panel.device.name,
        panel.arrivals,
        panel.device.deadline_ns / 1_000_000,
    )?;
    for point in &first.curve {
        write!(text, " {} |", point.load)?;
    }
    writeln!(text, "\n|---|---|---|{}", "---|".repeat(first.curve.len()))?;
    for row in &panel.rows {
        write!(
            text,
            "| {} | {} | {:.2} |",
            row.policy, row.numbers, row.load_at_99
        )?;
        for point in &row.curve {
            write!(
                text,
                " {:.2} ({:.2} {:.2}) |",
                point.goodput, point.questions, point.paragraphs
            )?;
        }
        text.push('\n');
    }
    text.push('\n');
    Ok(())
}

//! The table.

use std::fmt::{self, Write as _};

use super::Panel;
use super::cost::{Asked, Decision};
use crate::provenance::Provenance;

pub(super) fn markdown(
    panels: &[Panel],
    decisions: &[Decision],
    asked: &[Asked],
    from: &Provenance,
    seeds: u64,
) -> Result<String, fmt::Error> {
    let mut text = format!(
        "# Models of batch time\n\nWritten by `cargo xtask bench models` ({from}).\n\nErrors are of one stream of batches \
         per device, the first 1,000 not counted; goodput is of {seeds} seeds, from knowing \
         nothing, the same requests and noise for every model, with the difference to the analytic model and its paired \
         95 % interval, and the number of runs at whose end a learned model was published. \"Learned\" is the share of batches that a learned model predicted: it has to win on later \
         batches first. Simulated devices are made up; a recorded one takes what was measured, with its spread.\n\n"
    );
    text.push_str(&verdict(panels));
    for panel in panels {
        table(&mut text, panel)?;
    }
    costs(&mut text, decisions, asked)?;
    Ok(text)
}

fn table(text: &mut String, panel: &Panel) -> fmt::Result {
    write!(
        text,
        "## {}: {}\n\nA question has {} ms; {} requests a run, {} batches predicted.\n\n| model | MAPE | pinball .99, of the time | coverage | learned | trainings | training, ms |",
        panel.device,
        panel.kind,
        panel.deadline_ms,
        panel.requests,
        panel.rows.first().map_or(0, |row| row.accuracy.batches),
    )?;
    for load in panel.loads {
        write!(text, " goodput at {load} |")?;
    }
    writeln!(
        text,
        "\n|---|---|---|---|---|---|---|{}",
        "---|".repeat(panel.loads.len())
    )?;
    for row in &panel.rows {
        let accuracy = &row.accuracy;
        write!(
            text,
            "| {} | {:.2} % | {:.3} % | {:.2} % | {:.0} % | {} | {:.0} |",
            row.model,
            100.0 * accuracy.mape,
            100.0 * accuracy.pinball,
            100.0 * accuracy.coverage,
            100.0 * accuracy.learned,
            row.trainings,
            row.train_ms,
        )?;
        for goodput in &row.goodput {
            if row.model == "analytic" {
                write!(text, " {:.4} |", goodput.mean)?;
            } else {
                write!(
                    text,
                    " {:.4} ({:+.2} %, {:+.2} to {:+.2}; {} of {}) |",
                    goodput.mean,
                    goodput.gain_percent,
                    goodput.low_percent,
                    goodput.high_percent,
                    goodput.promoted,
                    panel.seeds,
                )?;
            }
        }
        text.push('\n');
    }
    text.push('\n');
    Ok(())
}

fn costs(text: &mut String, decisions: &[Decision], asked: &[Asked]) -> fmt::Result {
    text.push_str("## What they cost\n\nA choice among 96 requests that wait, under overload, from tokens to batch:\n\n| device | with a table | p50 µs | p99 µs |\n|---|---|---|---|\n");
    for decision in decisions {
        let corrected = if decision.corrected { "yes" } else { "no" };
        writeln!(
            text,
            "| {} | {corrected} | {:.1} | {:.1} |",
            decision.device, decision.p50_us, decision.p99_us
        )?;
    }
    text.push_str("\nAsking a model, which no request waits for:\n\n| model | table of a worker, µs | one row, µs |\n|---|---|---|\n");
    for asked in asked {
        writeln!(
            text,
            "| {} | {:.0} | {:.0} |",
            asked.model, asked.table_us, asked.row_us
        )?;
    }
    Ok(())
}

/// Which differences in goodput are beyond chance, in words.
fn verdict(panels: &[Panel]) -> String {
    let (mut better, mut worse, mut open) = (Vec::new(), Vec::new(), 0);
    for panel in panels {
        for row in panel.rows.iter().filter(|row| row.model != "analytic") {
            for goodput in &row.goodput {
                let place = format!("{} on {} at {}", row.model, panel.device, goodput.load);
                if goodput.low_percent > 0.0 {
                    better.push(place);
                } else if goodput.high_percent < 0.0 {
                    worse.push(place);
                } else {
                    open += 1;
                }
            }
        }
    }
    let list = |places: &[String]| match places {
        [] => "none".to_owned(),
        places => places.join("; "),
    };
    format!(
        "**Goodput beside the analytic model.** Higher, with the whole interval above 0: {}. Lower, with the whole \
         interval below 0: {}. No difference beyond chance in {open} comparisons.\n\n",
        list(&better),
        list(&worse),
    )
}

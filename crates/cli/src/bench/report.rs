//! Results of a load as people read them.

use std::fmt::{self, Write as _};

use embedring_load::{Interval, Latency, Summary};

use super::load::Done;

/// The result as text.
pub(super) fn table(done: &Done) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    write_table(&mut out, done).unwrap_or_default();
    out
}

fn write_table(out: &mut String, done: &Done) -> fmt::Result {
    let summary = &done.summary;
    if let Some(limit) = &done.limit {
        let whose = if limit.is_of_the_generator {
            "at least, since beyond it the generator fell behind"
        } else {
            "at most"
        };
        writeln!(
            out,
            "limit: {:.1} requests/s ({whose}; {:.1} failed), {} rates tried",
            limit.rate,
            limit.failed_at,
            limit.probes.len()
        )?;
    }
    writeln!(
        out,
        "offered {:.1} requests/s ({} requests at a mean rate of {:.1})",
        summary.offered_per_s, summary.requests, done.rate
    )?;
    let Interval { mean, low, high } = summary.goodput_per_s;
    writeln!(
        out,
        "goodput {mean:.1} requests/s in time (95 %: {low:.1} to {high:.1})"
    )?;
    let Interval { mean, low, high } = summary.attainment;
    writeln!(
        out,
        "in time {:.2} % (95 %: {:.2} to {:.2}), {} late, {} without an answer",
        100.0 * mean,
        100.0 * low,
        100.0 * high,
        summary.late,
        summary.failed.values().sum::<u64>()
    )?;
    kinds(out, summary)?;
    for (reason, count) in &summary.failed {
        writeln!(out, "without an answer, {reason}: {count}")?;
    }
    if let Some(after) = &summary.failed_after_ms {
        writeln!(
            out,
            "known after {:.1} ms (p50), {:.1} ms (p99)",
            after.p50, after.p99
        )?;
    }
    if let Some(lag) = &summary.lag_ms {
        writeln!(
            out,
            "generator's lag {:.2} ms (p50), {:.2} ms (p99), {:.2} ms (max)",
            lag.p50, lag.p99, lag.max
        )?;
    }
    Ok(())
}

fn kinds(out: &mut String, summary: &Summary) -> fmt::Result {
    writeln!(
        out,
        "{:<10} {:>8} {:>9} {:>9} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "kind",
        "requests",
        "time, ms",
        "in time",
        "tokens",
        "p50, ms",
        "p90",
        "p99",
        "p99.9",
        "max"
    )?;
    for kind in &summary.kinds {
        write!(
            out,
            "{:<10} {:>8} {:>9.0} {:>7.2} % {:>7.0}",
            kind.kind,
            kind.requests,
            kind.time_ms,
            100.0 * kind.attainment,
            kind.tokens_mean
        )?;
        match kind.latency_ms {
            Some(Latency {
                p50,
                p90,
                p99,
                p999,
                max,
            }) => writeln!(
                out,
                " {p50:>8.1} {p90:>8.1} {p99:>8.1} {p999:>8.1} {max:>8.1}"
            )?,
            None => writeln!(out, " none was answered")?,
        }
    }
    Ok(())
}

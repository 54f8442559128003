//! `ci`: what stands between a change and the main branch, the cheap part first.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::learned::{FEATURES, learned_setup};
use crate::run::{Failed, cargo, command, output, root, run, seconds, timed, works};
use crate::{suite, tidy};

/// How long each fuzz target runs. Long enough to replay what is known and to find a blunder.
const FUZZ_SECONDS: u32 = 20;

/// For clippy, as if its warnings were errors.
const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];

const NOT_INSTALLED: &str = "not installed";

/// How a step ended.
#[derive(Debug)]
enum Outcome {
    Passed,
    Skipped(&'static str),
    Failed {
        why: String,
        /// The end of what the program printed that failed.
        last_lines: Vec<String>,
    },
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

type Check = fn() -> Result<Outcome>;

/// Minutes at most, and every one reports before the run ends.
const GATE: [(&str, Check); 4] = [
    ("fmt", fmt),
    ("clippy", clippy),
    ("tidy", tidy_check),
    ("docs", docs),
];

/// Only after a green gate.
const REST: [(&str, Check); 4] = [
    ("test", test),
    ("fuzz smoke", fuzz),
    ("miri", miri),
    ("deny", deny),
];

/// Runs everything and prints what became of each step.
pub(crate) fn ci() -> Result<()> {
    let mut rows = run_all(&GATE);
    let gate_failed = rows
        .iter()
        .any(|row| matches!(row.outcome, Outcome::Failed { .. }));
    if gate_failed {
        println!("ci: the gate failed, so the tests are not started");
    } else {
        rows.extend(run_all(&REST));
    }
    // Whoever sees only the end of this sees what to mend.
    for row in &rows {
        if let Outcome::Failed { last_lines, .. } = &row.outcome {
            println!("\n=== ci: the end of {}", row.name);
            for line in last_lines {
                println!("{line}");
            }
        }
    }
    println!("\n{}", table(&rows));
    let failed: Vec<&str> = rows
        .iter()
        .filter(|row| matches!(row.outcome, Outcome::Failed { .. }))
        .map(|row| row.name)
        .collect();
    if !failed.is_empty() {
        bail!("ci failed at: {}", failed.join(", "));
    }
    Ok(())
}

fn run_all(checks: &[(&'static str, Check)]) -> Vec<Row> {
    let one = |(name, check): &(&'static str, Check)| {
        println!("\n=== ci: {name}");
        let (result, took) = timed(check);
        let outcome = result.unwrap_or_else(failed);
        println!("=== ci: {name}: {} in {}", words(&outcome), seconds(took));
        Row {
            name,
            outcome,
            took,
        }
    };
    checks.iter().map(one).collect()
}

fn failed(error: anyhow::Error) -> Outcome {
    let why = format!("{error:#}");
    let last_lines = error
        .downcast::<Failed>()
        .map_or_else(|_| Vec::new(), |failed| failed.last_lines);
    Outcome::Failed { why, last_lines }
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed => "ok".to_owned(),
        Outcome::Skipped(why) => format!("skipped: {why}"),
        Outcome::Failed { why, .. } => format!("FAILED: {why}"),
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = format!("{:<12}{:>10}  result\n", "step", "time");
    for row in rows {
        let line = format!(
            "{:<12}{:>10}  {}",
            row.name,
            seconds(row.took),
            words(&row.outcome)
        );
        table.push_str(&line);
        table.push('\n');
    }
    table
}

fn passed(command: &mut Command) -> Result<Outcome> {
    run(command)?;
    Ok(Outcome::Passed)
}

fn fmt() -> Result<Outcome> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    // The fuzz targets are a workspace of their own, as cargo-fuzz wants it.
    passed(
        cargo()
            .args(["fmt", "--check", "--manifest-path"])
            .arg(fuzz_manifest()),
    )
}

fn fuzz_manifest() -> PathBuf {
    root().join("fuzz/Cargo.toml")
}

fn clippy() -> Result<Outcome> {
    // `-D warnings` behind `--` reaches our own crates only; in RUSTFLAGS it would be part of the
    // fingerprint of every dependency, and all of them would be compiled again for the next step.
    learned_setup()?;
    run(cargo()
        .args(["clippy", "--workspace", "--all-targets"])
        .args(["--features", FEATURES])
        .args(DENY_WARNINGS))?;
    // Here rather than when they are run: a change that the fuzz targets do not follow is told before
    // the tests, and also where there is no nightly compiler.
    passed(
        cargo()
            .args(["clippy", "--all-targets", "--manifest-path"])
            .arg(fuzz_manifest())
            .args(DENY_WARNINGS),
    )
}

fn tidy_check() -> Result<Outcome> {
    tidy::tidy()?;
    Ok(Outcome::Passed)
}

fn docs() -> Result<Outcome> {
    passed(
        cargo()
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

fn test() -> Result<Outcome> {
    suite::test(&[])?;
    Ok(Outcome::Passed)
}

/// `cargo` of the nightly toolchain, if there is one. By `rustup run`, since the `cargo` on our
/// path may be a toolchain's own, which knows no `+nightly`.
fn nightly() -> Option<fn() -> Command> {
    fn cargo_nightly() -> Command {
        let mut rustup = command("rustup");
        rustup.args(["run", "nightly", "cargo"]);
        rustup
    }
    works(cargo_nightly().arg("--version")).then_some(cargo_nightly as fn() -> Command)
}

fn fuzz() -> Result<Outcome> {
    let Some(nightly) = nightly() else {
        return Ok(Outcome::Skipped(NOT_INSTALLED));
    };
    if !works(nightly().args(["fuzz", "--version"])) {
        return Ok(Outcome::Skipped(NOT_INSTALLED));
    }
    let folder = root().join("fuzz");
    let targets = output(nightly().args(["fuzz", "list"]).current_dir(&folder))?;
    let targets: Vec<&str> = targets.split_whitespace().collect();
    if targets.is_empty() {
        bail!("`cargo fuzz list` names no target");
    }
    // A fuzzer ends without cleaning up; what it leaves goes with this folder.
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let scratch = parent.join(format!("embedring-fuzz-ci-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let done = targets.iter().try_for_each(|target| {
        let mut cargo = nightly();
        cargo.env("EMBEDRING_FUZZ_SCRATCH", &scratch);
        fuzz_one(cargo, &folder, target)
    });
    std::fs::remove_dir_all(&scratch)?;
    done.map(|()| Outcome::Passed)
}

fn fuzz_one(mut cargo: Command, folder: &Path, target: &str) -> Result<()> {
    // The first folder takes what is found, and is not tracked; the seeds, if any, are.
    let corpus = folder.join("corpus").join(target);
    std::fs::create_dir_all(&corpus)?;
    cargo
        .current_dir(folder)
        .args(["fuzz", "run", target])
        .arg(&corpus);
    let seeds = folder.join("seeds").join(target);
    if seeds.is_dir() {
        cargo.arg(seeds);
    }
    // A fixed seed: what a smoke run finds, the next one finds again. Finding more is what long runs
    // with other seeds are for.
    run(cargo
        .arg("--")
        .arg("-seed=1")
        .arg(format!("-max_total_time={FUZZ_SECONDS}")))
}

fn miri() -> Result<Outcome> {
    let Some(nightly) = nightly() else {
        return Ok(Outcome::Skipped(NOT_INSTALLED));
    };
    if !works(nightly().args(["miri", "--version"])) {
        return Ok(Outcome::Skipped(NOT_INSTALLED));
    }
    // The kernels in their portable form, which is all that Miri's machine has.
    passed(nightly().args([
        "miri",
        "test",
        "-p",
        "embedring-protocol",
        "-p",
        "embedring-kernels",
    ]))
}

fn deny() -> Result<Outcome> {
    if !works(cargo().args(["deny", "--version"])) {
        return Ok(Outcome::Skipped(NOT_INSTALLED));
    }
    // Not the advisories: their database has to be fetched, and a run without a network is a run.
    passed(cargo().args([
        "deny",
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails() -> Result<Outcome> {
        bail!("it broke")
    }

    fn is_skipped() -> Result<Outcome> {
        Ok(Outcome::Skipped(NOT_INSTALLED))
    }

    #[test]
    fn every_step_is_in_the_table_with_its_outcome() {
        let rows = run_all(&[("one", fails), ("two", is_skipped)]);
        let table = table(&rows);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(
            lines[1].starts_with("one ") && lines[1].ends_with("FAILED: it broke"),
            "{table}"
        );
        assert!(lines[2].ends_with("skipped: not installed"), "{table}");
    }
}

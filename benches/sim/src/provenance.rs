//! Where the results are from.

use std::process::Command;

use serde::Serialize;

/// Machine, commit and command.
#[derive(Debug, Serialize)]
pub(crate) struct Provenance {
    machine: String,
    commit: String,
    command: String,
}

impl std::fmt::Display for Provenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            machine,
            commit,
            command,
        } = self;
        write!(f, "{machine}; commit {commit}; `{command}`")
    }
}

/// Of this process, which `cargo xtask` starts in the root of the repository.
pub(crate) fn here() -> Provenance {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let commit = output("git", &["rev-parse", "HEAD"]);
    let changed = output("git", &["status", "--porcelain", "--untracked-files=no"]);
    let args: Vec<String> = std::env::args().skip(1).collect();
    Provenance {
        machine: format!("{cpu}, {cores} cores"),
        commit: if changed.is_empty() {
            commit
        } else {
            commit + "-dirty"
        },
        command: match args.split_first() {
            Some((first, rest)) if first == "models" => shown("models", rest),
            _ => shown("sim", &args),
        },
    }
}

fn shown(bench: &str, args: &[String]) -> String {
    format!("cargo xtask bench {bench} -- {}", args.join(" "))
        .trim_end_matches([' ', '-'])
        .to_owned()
}

fn output(program: &str, args: &[&str]) -> String {
    Command::new(program)
        .args(args)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

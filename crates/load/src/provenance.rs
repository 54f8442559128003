//! Where a result is from.

use std::process::Command;

use serde::{Deserialize, Serialize};

/// Machine, commit and command of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Processor, cores this process may use, and kernel.
    pub machine: String,
    /// Commit of the checkout that this was built in, with `-dirty` when it is changed; empty when it is not there.
    pub commit: String,
    /// The command, as given.
    pub command: String,
    /// Version of this package.
    pub version: String,
}

impl Provenance {
    /// Of this process.
    #[must_use]
    pub fn here(command: &str) -> Self {
        Self {
            machine: machine(),
            commit: commit(),
            command: command.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpu}, {cores} cores, Linux {}", kernel.trim())
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(env!("CARGO_MANIFEST_DIR"))
            .args(args)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else {
        return String::new();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + "-dirty",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_cores_and_a_kernel() {
        let here = Provenance::here("embedring bench load");
        assert!(here.machine.contains(" cores, Linux "), "{here:?}");
        assert_eq!(here.command, "embedring bench load");
    }
}

//! Starting other programs: from the repository root, with what they are doing and took in sight.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The repository's root folder.
pub(crate) fn root() -> &'static Path {
    // Compiled in: the program is built and run by `cargo xtask` in the same checkout.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("."))
}

/// `cargo`, to be run in the repository root.
pub(crate) fn cargo() -> Command {
    command("cargo")
}

/// `program`, to be run in the repository root, without the variables that `cargo run` put into
/// our environment: build scripts that watch such a variable would run again on every change
/// between a plain `cargo build` and ours, and all that depends on them would be compiled twice.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_cargo_run) {
            command.env_remove(name);
        }
    }
    command
}

fn is_of_cargo_run(name: &str) -> bool {
    const EXACT: [&str; 6] = [
        "CARGO",
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PRIMARY_PACKAGE",
    ];
    EXACT.contains(&name) || name.starts_with("CARGO_PKG_")
}

/// Lines of a failed program that are kept: a test runner's list of what failed, with the output of
/// a few tests.
const KEPT_LINES: usize = 200;

/// A program that ended with another exit code than 0.
#[derive(Debug, thiserror::Error)]
#[error("`{line}` ended with {status}")]
pub(crate) struct Failed {
    line: String,
    status: ExitStatus,
    /// The end of what it printed; empty where it printed to a terminal.
    pub(crate) last_lines: Vec<String>,
}

/// Runs `command` with our standard streams; an exit code other than 0 is an error ([`Failed`]).
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    println!("$ {line}");
    let (status, last_lines) = if std::io::stdout().is_terminal() {
        (command.status(), Vec::new())
    } else {
        copied(command)
    };
    let status = status.with_context(|| format!("could not start `{line}`"))?;
    if !status.success() {
        return Err(Failed {
            line,
            status,
            last_lines,
        }
        .into());
    }
    Ok(())
}

/// Runs `command`, prints what it prints and keeps the end of it.
fn copied(command: &mut Command) -> (std::io::Result<ExitStatus>, Vec<String>) {
    let started = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return (Err(error), Vec::new()),
    };
    let (sender, lines) = channel();
    if let Some(stdout) = child.stdout.take() {
        send_lines(stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        send_lines(stderr, sender);
    }
    let last_lines = print_lines(&lines, || !matches!(child.try_wait(), Ok(None)));
    (child.wait(), last_lines)
}

fn send_lines(stream: impl Read + Send + 'static, sender: Sender<String>) {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        // What is no UTF-8 is printed as well as can be.
        while stream
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// Prints `lines` until all their senders are gone, or until none came for a while after `ended`: a
/// process that the program left behind may hold its output open.
fn print_lines(lines: &Receiver<String>, mut ended: impl FnMut() -> bool) -> Vec<String> {
    let mut last = VecDeque::with_capacity(KEPT_LINES);
    loop {
        let line = match lines.recv_timeout(Duration::from_millis(500)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) if !ended() => continue,
            Err(_) => return last.into(),
        };
        println!("{line}");
        if last.len() == KEPT_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
}

/// What `command` printed on its standard output, its standard error going to ours.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("could not start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed invalid UTF-8"))
}

/// Whether `command` starts and ends with exit code 0; it prints nothing.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Announces a step, runs it, says how long it took.
pub(crate) fn step<T>(name: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {name}");
    let (result, took) = timed(body);
    let word = if result.is_ok() { "done" } else { "failed" };
    println!("<== {name}: {word} in {}", seconds(took));
    result.with_context(|| format!("step {name}"))
}

/// Runs `body` and measures it.
pub(crate) fn timed<T>(body: impl FnOnce() -> T) -> (T, Duration) {
    #[expect(
        clippy::disallowed_methods,
        reason = "times steps for a person to read; linking embedring-ipc for its clock would make \
                  every chore wait for iceoryx2 to compile"
    )]
    let start = Instant::now();
    let result = body();
    (result, start.elapsed())
}

/// A duration as people read it.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// `cargo metadata` for this kind of machine; without dependencies when `members_only`.
pub(crate) fn metadata(members_only: bool) -> Result<Value> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1"]);
    if members_only {
        command.arg("--no-deps");
    } else {
        // Without the filter cargo would fetch the crates of every other platform too.
        command.args(["--filter-platform", &host_triple()?]);
    }
    serde_json::from_str(&output(&mut command)?).context("cargo metadata is not JSON")
}

fn host_triple() -> Result<String> {
    let version = output(command("rustc").arg("-vV"))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("`rustc -vV` names no host")
}

/// The folder that cargo builds into.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = metadata(true)?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("no target_directory")?;
    Ok(PathBuf::from(folder))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cargo_run_sets_is_removed() {
        assert!(is_of_cargo_run("CARGO"));
        assert!(is_of_cargo_run("CARGO_PKG_VERSION"));
        for kept in [
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_TERM_COLOR",
            "PATH",
            "RUSTFLAGS",
        ] {
            assert!(!is_of_cargo_run(kept), "{kept}");
        }
    }

    #[test]
    fn a_failing_program_is_an_error_that_names_it() {
        let error = run(command("rustc").arg("--no-such-flag")).unwrap_err();
        assert!(
            error.to_string().contains("rustc --no-such-flag"),
            "{error}"
        );
        // Also from under the name of a step, which is how `ci` gets it.
        let error = step("a step", || Err::<(), _>(error)).unwrap_err();
        let failed = error.downcast_ref::<Failed>().unwrap();
        let terminal = std::io::stdout().is_terminal();
        assert!(
            terminal
                || failed
                    .last_lines
                    .iter()
                    .any(|line| line.contains("no-such-flag")),
            "{failed:?}"
        );
        let error = run(&mut command("embedring-no-such-program")).unwrap_err();
        assert!(error.to_string().contains("could not start"), "{error}");
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("Cargo.lock").is_file());
        assert!(root().join("xtask/Cargo.toml").is_file());
    }
}

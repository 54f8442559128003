//! Processes: run one under a watchdog, find those of an instance, end them.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use embedring_ipc::clock::{now_ns, to_ns};
use rustix::process::{Pid, Signal, kill_process};

/// After this, what was waited for never comes. Long, because two copies of all tests may share two
/// cores.
pub const WATCHDOG: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `is_true`, looking again and again.
#[track_caller]
pub fn eventually(what: &str, timeout: Duration, mut is_true: impl FnMut() -> bool) {
    let until_ns = now_ns() + to_ns(timeout);
    while !is_true() {
        assert!(now_ns() < until_ns, "not within {timeout:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// What became of a process.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Ran {
    /// stdout as text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// stdout as JSON, an object per line.
    #[must_use]
    pub fn objects(&self) -> Vec<serde_json::Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// Fails unless it ended with this code.
    #[track_caller]
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stderr: {}\nstdout: {}",
            self.stderr,
            String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(2000)])
        );
        self
    }

    /// Fails unless it ended with code 1 and said all of this on stderr.
    #[track_caller]
    pub fn expect_failure(self, parts: &[&str]) {
        self.expect_failure_code(1, parts);
    }

    /// As [`Ran::expect_failure`] with another code.
    #[track_caller]
    pub fn expect_failure_code(self, code: i32, parts: &[&str]) {
        let ran = self.expect_code(code);
        for part in parts {
            assert!(ran.stderr.contains(part), "no {part:?} in: {}", ran.stderr);
        }
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        all
    })
}

/// Runs a command to its end with this stdin.
#[track_caller]
pub fn run(command: &mut Command, stdin: &[u8]) -> Ran {
    let begun_ns = now_ns();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to_child = child.stdin.take().unwrap();
    let input = stdin.to_vec();
    // That the child does not read to the end is the child's right.
    let writer = thread::spawn(move || drop(to_child.write_all(&input)));
    let stdout = read_all(child.stdout.take().unwrap());
    let stderr = read_all(child.stderr.take().unwrap());
    let Some(status) = wait_in_time(&mut child) else {
        let stderr = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
        panic!("{command:?} did not end; stderr: {stderr}");
    };
    writer.join().unwrap();
    Ran {
        code: status.code(),
        stdout: stdout.join().unwrap(),
        stderr: String::from_utf8_lossy(&stderr.join().unwrap()).into_owned(),
        took: Duration::from_nanos(now_ns() - begun_ns),
    }
}

/// Waits for the end of a process; after the watchdog's time kills it and gives `None`.
pub(crate) fn wait_in_time(child: &mut Child) -> Option<ExitStatus> {
    let until_ns = now_ns() + to_ns(WATCHDOG);
    while now_ns() < until_ns {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(LOOK_EVERY);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// All living processes that were started with this instance's name in their environment: `up` and
/// its children and their children, whoever their parent is by now.
#[must_use]
pub fn processes_of(instance: &str) -> Vec<u32> {
    let wanted = format!("EMBEDRING_INSTANCE={instance}");
    let entries = fs::read_dir("/proc").unwrap();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            // Empty for a zombie, an error for one that is gone.
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
                environ
                    .split(|byte| *byte == 0)
                    .any(|variable| variable == wanted.as_bytes())
            })
        })
        .collect()
}

/// True for a process that is there and no zombie.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat[stat.rfind(')').unwrap() + 1..].trim_start();
    !state.starts_with(['Z', 'X'])
}

/// Sends a signal; false when there is no such process.
pub fn signal(pid: u32, signal: Signal) -> bool {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).is_ok()
}

/// Ends a process as `kill -9` does and waits until it is dead; false when there is no such process.
#[track_caller]
pub fn kill(pid: u32) -> bool {
    let sent = signal(pid, Signal::KILL);
    eventually("a killed process is dead", WATCHDOG, || !is_running(pid));
    sent
}

/// Ends all processes of an instance as `kill -9` does, until there are none.
#[track_caller]
pub fn kill_all_of(instance: &str) {
    eventually("all processes of the instance end", WATCHDOG, || {
        let left = processes_of(instance);
        left.iter().filter(|pid| kill(**pid)).count() == 0
    });
}

/// True for root, who can make users and mount file systems.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test did not test, and why.
#[expect(clippy::print_stderr, reason = "the reader of the test's output")]
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

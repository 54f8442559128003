//! A client in a process of its own, that can be killed: see `bin/load.rs` for what it does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::instance::Instance;
use crate::process::{WATCHDOG, eventually, wait_in_time};

/// A running load client and what it said.
#[derive(Debug)]
pub struct LoadClient {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl LoadClient {
    /// Starts one. `program` is `embedring-test-load`; its path is known to integration tests only.
    #[must_use]
    pub fn start(program: &Path, instance: &Instance, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        instance.environment(&mut command);
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let place = Arc::clone(&lines);
        let stdout = child.stdout.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut lines = place.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push(line);
            }
        });
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
        }
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Calls it has made that ended in the right rows.
    #[must_use]
    pub fn good_calls(&self) -> u64 {
        self.last("good")
    }

    /// Its longest call in milliseconds.
    #[must_use]
    pub fn slowest_ms(&self) -> u64 {
        self.last("slowest_ms")
    }

    fn last(&self, key: &str) -> u64 {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = |line: &String| {
            let mut words = line.split(' ').skip_while(|word| *word != key);
            words.nth(1)?.parse().ok()
        };
        lines.iter().rev().find_map(numbers).unwrap_or(0)
    }

    /// Calls that ended in an error, by kind.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<String, u64> {
        let mut errors = BTreeMap::new();
        for line in self.lines() {
            if let Some(rest) = line.strip_prefix("error ") {
                let kind = rest.split(' ').next().unwrap_or_default();
                *errors.entry(kind.to_owned()).or_default() += 1;
            }
        }
        errors
    }

    /// Lines that must never be: a wrong row, a call far beyond its deadline.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| line.starts_with("VIOLATION"));
        lines
    }

    /// Waits until it has made this many more good calls.
    #[track_caller]
    pub fn wait_for_calls(&self, more: u64) {
        let until = self.good_calls() + more;
        eventually("a load client goes on", WATCHDOG, || {
            self.good_calls() >= until
        });
    }

    /// Ends it as `kill -9` does and waits.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Has it end after its current call.
    #[track_caller]
    pub fn finish(&mut self) {
        let mut stdin = self.stdin.take().unwrap();
        stdin.flush().unwrap();
        drop(stdin);
        let status = wait_in_time(&mut self.child).expect("a load client ends");
        assert!(status.success(), "{status:?}: {:?}", self.lines());
    }
}

impl Drop for LoadClient {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

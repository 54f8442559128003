//! `init` in processes of its own, because it is for a whole process.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};

use embedring_telemetry::{LogFormat, init};

/// Set for the children: without it the tests below that are only their bodies do nothing.
const CHILD: &str = "EMBEDRING_TELEMETRY_TEST_CHILD";

/// Runs `test`, one of the last ones below, in a child process.
fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this test"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command
        .env(CHILD, "1")
        .env_remove("EMBEDRING_LOG")
        .stdin(Stdio::null());
    command
}

/// How the child ended, and its stderr.
fn run(mut command: Command) -> (ExitStatus, String) {
    let output = command.output().expect("a child process");
    (
        output.status,
        String::from_utf8(output.stderr).expect("UTF-8"),
    )
}

#[test]
fn lines_go_to_stderr_once_however_often_it_is_set_up() {
    let (status, stderr) = run(child("child_logs"));
    assert!(status.success(), "{stderr}");
    let ours: Vec<_> = stderr
        .lines()
        .filter(|line| line.contains("process: "))
        .collect();
    assert_eq!(ours.len(), 1, "{stderr}");
    assert!(
        ours[0].ends_with("Z  INFO first process: begun n=1"),
        "{stderr}"
    );
}

#[test]
fn the_variable_overrides_the_level() {
    let mut command = child("child_logs");
    command.env("EMBEDRING_LOG", "debug");
    let (status, stderr) = run(command);
    assert!(status.success(), "{stderr}");
    assert!(
        stderr.contains("DEBUG first process: in detail"),
        "{stderr}"
    );

    let mut command = child("child_logs");
    command.env("EMBEDRING_LOG", "loud");
    let (status, stderr) = run(command);
    assert!(
        !status.success() && stderr.contains("EMBEDRING_LOG"),
        "{stderr}"
    );
}

#[test]
fn a_reader_of_stderr_that_went_away_stops_nothing() {
    let mut command = child("child_logs_into_a_closed_pipe");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before the child logs: it waits for the end of its stdin.
    drop(child.stderr.take());
    drop(child.stdin.take());
    let mut stdout = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut stdout)
        .unwrap();
    let status = child.wait().unwrap();
    assert!(
        status.success() && stdout.contains("still here"),
        "{status}: {stdout}"
    );
}

#[test]
fn child_logs() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    init("info", LogFormat::Text, "first").unwrap();
    init("trace", LogFormat::Json, "second").unwrap();
    tracing::info!(n = 1, "begun");
    tracing::debug!("in detail");
}

#[test]
fn child_logs_into_a_closed_pipe() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    init("info", LogFormat::Json, "child").unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    for n in 0..100 {
        tracing::info!(n, "nobody reads this");
    }
    println!("still here");
}

//! `embedring ab`: another batch time is tried while the instance serves, and the trial ends with it.

use std::process::{Child, Output, Stdio};

use embedring_ipc::BoardMap;
use embedring_ipc::clock::now_ns;
use embedring_protocol::Trial;
use embedring_tests::{Instance, Setup, Signal, WATCHDOG, eventually, kill, patient, signal};
use serde_json::Value;

/// An instance whose plan follows at once, and whose scheduler stays away once it is killed.
fn quick() -> Instance {
    let setup = Setup::null().set("SCHEDULER__TICK_MS", "10");
    setup.no_restarts().up()
}

fn begin(instance: &Instance, args: &[&str]) -> Child {
    let mut trial = instance.command(&["ab", "--batch-time-target-ms", "1", "--json"]);
    trial.args(args).stdin(Stdio::null());
    trial.stdout(Stdio::piped()).stderr(Stdio::piped());
    trial.spawn().unwrap()
}

fn end(trial: Child) -> (Output, String) {
    let output = trial.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stderr)
}

/// 0 while there is no plan.
fn tokens_max(board: &BoardMap) -> u64 {
    let plan = board.scheduler.plan.read();
    plan.map_or(0, |plan| plan.workers[0].batch_tokens_max)
}

fn trial_of(board: &BoardMap) -> Trial {
    board.scheduler.trial.read().unwrap_or_default()
}

#[test]
fn another_batch_time_is_tried_in_turns() {
    let instance = quick();
    let (client, board) = (instance.client(), instance.board());
    let embed = || drop(client.embed_with(&["x", "y z"], &patient()).unwrap());
    eventually("there is a plan", WATCHDOG, || {
        embed();
        tokens_max(&board) > 0
    });
    let args = ["--pairs", "4", "--block-ms", "500", "--settle-ms", "100"];
    let mut trial = begin(&instance, &args);
    let mut seen = Vec::new();
    while trial.try_wait().unwrap().is_none() {
        embed();
        seen.push(tokens_max(&board));
    }
    let (output, stderr) = end(trial);
    assert!(output.status.success(), "{stderr}");
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    let answered = &outcome["measures"][0];
    // A machine with much else to do may have answered nothing in one block or another.
    let pairs = answered["difference"]["pairs"].as_u64();
    assert!((2..=4).contains(&pairs.unwrap()), "{outcome}");
    assert!(answered["a"].as_f64() > Some(0.0) && answered["b"].as_f64() > Some(0.0));
    // Batches of 1 ms hold a hundredth of the tokens of those of 100 ms.
    let (least, most) = (seen.iter().min(), seen.iter().max());
    assert!(least.unwrap() * 10 < *most.unwrap(), "{least:?} {most:?}");
    assert_eq!(trial_of(&board), Trial::default());
}

#[test]
fn a_signal_ends_the_trial_and_says_so() {
    let instance = quick();
    let board = instance.board();
    for how in [Signal::INT, Signal::TERM] {
        let trial = begin(&instance, &["--pairs", "9", "--block-ms", "600000"]);
        eventually("it has begun", WATCHDOG, || {
            trial_of(&board) != Trial::default()
        });
        instance
            .run(&["ab", "--batch-time-target-ms", "1"])
            .expect_failure(&["already running"]);
        assert!(signal(trial.id(), how));
        let (output, stderr) = end(trial);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("stopped by a signal"), "{stderr}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert_eq!(trial_of(&board), Trial::default());
    }
}

#[test]
fn a_trial_ends_with_the_scheduler_and_without_its_owner() {
    let instance = quick();
    let (client, board) = (instance.client(), instance.board());
    // Killed: nobody takes it off the board, and yet it is over at its time.
    let mut trial = begin(
        &instance,
        &["--pairs", "2", "--block-ms", "300", "--settle-ms", "0"],
    );
    eventually("it has begun", WATCHDOG, || {
        trial_of(&board) != Trial::default()
    });
    assert!(kill(trial.id()));
    trial.wait().unwrap();
    let until_ns = trial_of(&board).until_ns;
    eventually("it is over", WATCHDOG, || now_ns() > until_ns);
    let epoch = || instance.plan().epoch;
    let over = epoch();
    eventually("the plan is as configured", WATCHDOG, || {
        client.embed_with(&["x", "y z"], &patient()).unwrap();
        epoch() > over + 1 && tokens_max(&board) > 1
    });
    // The next one finds the way free, until the scheduler ends.
    let trial = begin(&instance, &["--pairs", "9", "--block-ms", "600000"]);
    eventually("the next has begun", WATCHDOG, || {
        trial_of(&board).until_ns > until_ns
    });
    assert!(kill(instance.scheduler_pid()));
    let (output, stderr) = end(trial);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the scheduler has ended"), "{stderr}");
    assert_eq!(trial_of(&board), Trial::default());
}

//! One process at a time dies, hangs or goes away; the others go on.

use std::path::Path;
use std::time::Duration;

use embedring_client::{Client, EmbedError, Options};
use embedring_ipc::clock::now_ns;
use embedring_optimizer::Planner;
use embedring_tests::{
    Instance, LoadClient, Setup, Signal, TINY, WATCHDOG, bits, eventually, is_running, kill,
    kill_all_of, null_row, processes_of, signal,
};

const LOAD: &str = env!("CARGO_BIN_EXE_embedring-test-load");

fn patient() -> Options {
    Options {
        timeout: WATCHDOG,
        ..Options::default()
    }
}

/// A null worker answers before one can kill it in between; so this is a call of so many messages
/// that it is under way for a while.
fn many_texts() -> Vec<String> {
    (0..60_000)
        .map(|index| format!("text number {index}"))
        .collect()
}

#[track_caller]
fn check_call_while(client: &Client, disturb: impl FnOnce()) {
    let texts = many_texts();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.embed_with(&texts, &patient()).unwrap());
        disturb();
        let answer = call.join().unwrap();
        assert_eq!(answer.len(), texts.len());
        for (index, text) in texts.iter().enumerate() {
            assert_eq!(bits(answer.row(index)), bits(&null_row(text)), "{text}");
        }
    });
}

fn texts_done(instance: &Instance) -> u64 {
    use embedring_protocol::Counter;
    let board = instance.board();
    board
        .workers
        .iter()
        .map(|slot| slot.counter(Counter::Texts))
        .sum()
}

fn wait_until_under_way(instance: &Instance) {
    eventually("the call is under way", WATCHDOG, || {
        texts_done(instance) > 100
    });
}

#[test]
fn the_only_worker_dies_and_the_answer_comes_after_its_restart() {
    let instance = Setup::null().quick_restarts().up();
    let client = instance.client();
    let first = instance.worker_pid("cpu");
    check_call_while(&client, || {
        wait_until_under_way(&instance);
        assert!(kill(first));
    });
    assert_ne!(instance.worker_pid("cpu"), first);
}

#[test]
fn a_worker_dies_and_another_one_answers() {
    // The dead one does not come back while the call lasts.
    let instance = Setup::null_workers(&["a", "b"])
        .set("SUPERVISOR__BACKOFF_MIN_MS", "600000")
        .set("SUPERVISOR__BACKOFF_MAX_MS", "600000")
        .up();
    let client = instance.client();
    let a = instance.worker_pid("a");
    check_call_while(&client, || {
        wait_until_under_way(&instance);
        assert!(kill(a));
    });
    let answer = client.embed(&["x"]).unwrap();
    assert_eq!(&*answer.parts()[0].worker, "b");
    eventually("the dead one is cleaned up after", WATCHDOG, || {
        instance.status()["scheduler"]["cleanups"].as_u64().unwrap() > 0
    });
}

#[test]
fn a_hanging_worker_is_given_up_for_another_one() {
    let instance = Setup::null_workers(&["a", "b"]).up();
    let client = instance.client();
    // Both have a connection, so that the hanging one is known.
    client.embed_with(&many_texts(), &patient()).unwrap();
    let pid = instance.worker_pid("a");
    check_call_while(&client, || {
        assert!(signal(pid, Signal::STOP));
    });
    for round in 0..20 {
        let text = format!("round {round}");
        let answer = client.embed(&[&text]).unwrap();
        assert_eq!(&*answer.parts()[0].worker, "b");
        assert_eq!(bits(answer.row(0)), bits(&null_row(&text)));
    }
    assert!(signal(pid, Signal::CONT));
    eventually("it shows life again", WATCHDOG, || {
        let workers = client.workers();
        let a = workers.iter().find(|worker| worker.name == "a").unwrap();
        a.silent < Duration::from_secs(1)
    });
    assert!(kill(instance.worker_pid("b")));
    let answer = client.embed(&["x"]).unwrap();
    assert_eq!(bits(answer.row(0)), bits(&null_row("x")));
}

#[test]
fn a_worker_that_hangs_for_good_is_killed_and_replaced() {
    let instance = Setup::null()
        .quick_restarts()
        .set("SUPERVISOR__HANG_TIMEOUT_MS", "1000")
        .up();
    let client = instance.client();
    client.embed(&["x"]).unwrap();
    let pid = instance.worker_pid("cpu");
    assert!(signal(pid, Signal::STOP));
    let answer = client.embed_with(&["y"], &patient()).unwrap();
    assert_eq!(bits(answer.row(0)), bits(&null_row("y")));
    assert_ne!(instance.worker_pid("cpu"), pid);
    assert!(!is_running(pid));
}

#[test]
fn a_hanging_worker_without_another_is_an_error_in_time() {
    let instance = Setup::null().up();
    let client = instance.client();
    client.embed(&["x"]).unwrap();
    let pid = instance.worker_pid("cpu");
    assert!(signal(pid, Signal::STOP));
    let options = Options {
        timeout: Duration::from_millis(500),
        ..Options::default()
    };
    let begun_ns = now_ns();
    let error = client.embed_with(&["y"], &options).unwrap_err();
    assert_eq!(error.kind(), "deadline", "{error}");
    let took = Duration::from_nanos(now_ns() - begun_ns);
    assert!(took < options.timeout + Duration::from_secs(1), "{took:?}");
    assert!(signal(pid, Signal::CONT));
    client.embed_with(&["z"], &patient()).unwrap();
}

#[test]
fn the_scheduler_dies_and_nobody_notices() {
    let instance = Setup::null().quick_restarts().up();
    let client = instance.client();
    for _ in 0..5 {
        let pid = instance.scheduler_pid();
        assert!(kill(pid));
        for _ in 0..50 {
            client.embed(&["x"]).unwrap();
        }
        assert_ne!(instance.scheduler_pid(), pid);
    }
    eventually("the new one plans", WATCHDOG, || {
        // None where each of them was killed before its first plan.
        let age_ms = instance.status()["scheduler"]["plan_age_ms"].as_u64();
        age_ms.is_some_and(|age_ms| age_ms < 1000)
    });
}

#[test]
fn a_new_scheduler_knows_what_the_dead_one_learned() {
    let instance = Setup::null().quick_restarts().up();
    let client = instance.client();
    let batches = || {
        instance.status()["workers"][0]["accuracy"]["batches"]
            .as_u64()
            .unwrap()
    };
    eventually("batches are predicted", WATCHDOG, || {
        client.embed(&["x"]).unwrap();
        batches() > 0
    });
    let learned = batches();
    let file = instance.path().join("models");
    eventually("it is saved", WATCHDOG, || {
        let saved = Planner::restore(&std::fs::read(&file).unwrap()).unwrap();
        saved.accuracies().workers[0].batches >= learned
    });
    let pid = instance.scheduler_pid();
    assert!(kill(pid));
    eventually("another one", WATCHDOG, || instance.scheduler_pid() != pid);
    let epoch = || instance.status()["scheduler"]["plan_epoch"].as_u64();
    for _ in 0..2 {
        let seen = epoch();
        eventually("it plans", WATCHDOG, || epoch() != seen);
    }
    // Nothing ran since: whoever knows of these batches has it from the file.
    assert!(batches() >= learned);
}

#[test]
fn everybody_dies_and_the_call_ends_in_an_error() {
    let mut instance = Setup::null_workers(&["a", "b"]).up();
    let client = instance.client();
    let texts = many_texts();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let begun_ns = now_ns();
            let error = loop {
                match client.embed_with(&texts, &patient()) {
                    Ok(answer) => assert_eq!(answer.len(), texts.len()),
                    Err(error) => break error,
                }
            };
            (error, Duration::from_nanos(now_ns() - begun_ns))
        });
        wait_until_under_way(&instance);
        instance.kill_up();
        kill_all_of(&instance.name);
        let (error, took) = call.join().unwrap();
        assert!(matches!(error, EmbedError::NoWorker { .. }), "{error}");
        assert!(error.to_string().contains("embedring up"), "{error}");
        assert!(
            took < WATCHDOG,
            "it did not wait for its deadline: {took:?}"
        );
    });
    instance
        .run(&["embed", "x"])
        .expect_failure(&["embedring up"]);
    // What they left does not hinder the next start.
    instance.start();
    instance.wait_ready();
    let answer = client.embed(&["again"]).unwrap();
    assert_eq!(bits(answer.row(0)), bits(&null_row("again")));
}

#[test]
fn a_killed_supervisor_takes_its_children_with_it() {
    let mut instance = Setup::null_workers(&["a", "b"]).up();
    let children = [
        instance.worker_pid("a"),
        instance.worker_pid("b"),
        instance.scheduler_pid(),
    ];
    instance.kill_up();
    eventually("all children end", WATCHDOG, || {
        !children.iter().any(|pid| is_running(*pid))
    });
    assert!(processes_of(&instance.name).is_empty());
    // What is left is said to be dead, and what to do.
    let status = instance.status();
    assert_eq!(status["scheduler"]["state"], "dead");
    for worker in status["workers"].as_array().unwrap() {
        assert_eq!(worker["state"], "dead", "{status}");
    }
    for args in [&["down"][..], &["embed", "x"]] {
        instance.run(args).expect_failure(&["embedring up"]);
    }
}

#[test]
fn the_same_client_goes_on_when_the_instance_is_started_again() {
    let mut instance = Setup::null().up();
    let client = instance.client();
    for round in 0..3 {
        let text = format!("round {round}");
        let answer = client.embed(&[&text]).unwrap();
        assert_eq!(bits(answer.row(0)), bits(&null_row(&text)));
        instance.stop();
        let error = client.embed(&["nobody there"]).unwrap_err();
        assert!(error.to_string().contains("embedring up"), "{error}");
        instance.start();
        instance.wait_ready();
    }
}

#[test]
fn a_client_waits_for_an_instance_that_is_not_there_yet() {
    let mut instance = Setup::null().prepare();
    let builder = instance.builder().wait_for_instance(WATCHDOG);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| builder.connect().unwrap());
        instance.start();
        let client = client.join().unwrap();
        client.embed_with(&["x"], &patient()).unwrap();
    });
    instance.wait_ready();
}

#[test]
fn a_killed_client_frees_its_place_and_disturbs_nobody() {
    let instance = Setup::null().set("LIMITS__CLIENTS_MAX", "2").up();
    let client = instance.client();
    // More deaths than places in the rings, each with requests in flight.
    for seed in 0..8 {
        let seed = seed.to_string();
        let mut other = LoadClient::start(Path::new(LOAD), &instance, &[&seed, "60000"]);
        eventually("the other client works", WATCHDOG, || {
            assert_eq!(other.violations(), Vec::<String>::new());
            other.good_calls() > 3
        });
        other.kill();
        let answer = client.embed(&["still here"]).unwrap();
        assert_eq!(bits(answer.row(0)), bits(&null_row("still here")));
    }
    let last = instance.client();
    last.embed(&["x"]).unwrap();
    drop((last, client));
    eventually("no client is counted any more", WATCHDOG, || {
        instance.status()["clients"] == 0
    });
}

#[test]
fn a_stopping_worker_finishes_what_it_has() {
    // `down` while a call is under way: rows, or an error that says why. Never a wrong row.
    let mut instance = Setup::model(TINY).set("WORKERS__CPU__THREADS", "1").up();
    let client = instance.client();
    let expected = client.embed(&["a text"]).unwrap().to_vec();
    let texts = vec!["a text"; 20_000];
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.embed_with(&texts, &patient()));
        wait_until_under_way(&instance);
        instance.stop();
        match call.join().unwrap() {
            Ok(answer) => answer
                .iter()
                .for_each(|row| assert_eq!(bits(row), bits(&expected))),
            Err(error) => assert_eq!(error.kind(), "no_worker", "{error}"),
        }
    });
}

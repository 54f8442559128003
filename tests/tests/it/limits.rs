//! Bounds that are reached, and what is said then.

use std::time::Duration;

use embedring_client::{Client, EmbedError, OnOverload, Options};
use embedring_tests::{Setup, TINY, allocated_bytes, bits, null_row};

#[test]
fn the_client_beyond_the_bound_is_told_which_key_it_is() {
    let instance = Setup::null().set("LIMITS__CLIENTS_MAX", "4").up();
    let clients: Vec<Client> = (0..4).map(|_| instance.client()).collect();
    let error = instance.builder().connect().unwrap_err().to_string();
    assert!(error.contains("limits.clients_max"), "{error}");
    assert!(error.contains('4'), "{error}");
    instance
        .run(&["embed", "x"])
        .expect_failure(&["limits.clients_max"]);
    for client in &clients {
        client.embed(&["x"]).unwrap();
    }
    let status = instance.status();
    assert_eq!(
        (&status["clients"], &status["clients_max"]),
        (&4.into(), &4.into())
    );
    // A place is free again at once, over and over: the rings' places as well as the bells'.
    drop(clients);
    for round in 0..12 {
        let client = instance.client();
        client.embed(&[format!("round {round}")]).unwrap();
    }
}

#[test]
fn sixty_four_clients_connect_and_embed() {
    let instance = Setup::null().up();
    let clients: Vec<Client> = (0..64).map(|_| instance.client()).collect();
    assert!(instance.builder().connect().is_err());
    // All at the same time.
    std::thread::scope(|scope| {
        for (number, client) in clients.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..3 {
                    let text = format!("client {number} round {round}");
                    let answer = client.embed(&[&text]).unwrap();
                    assert_eq!(bits(answer.row(0)), bits(&null_row(&text)));
                }
            });
        }
    });
}

#[test]
fn a_client_touches_a_bounded_part_of_the_shared_memory() {
    // What docs and issue promise: at most 4 MB each, whatever they send.
    const BYTES_MAX: u64 = 4 << 20;
    let instance = Setup::null().up();
    let before = allocated_bytes(&instance.path());
    let texts: Vec<String> = (0..2000).map(|index| "x".repeat(index % 500)).collect();
    let clients: Vec<Client> = (0..16)
        .map(|_| {
            let client = instance.client();
            client.embed(&texts).unwrap();
            client
        })
        .collect();
    let each = (allocated_bytes(&instance.path()) - before) / clients.len() as u64;
    assert!(each <= BYTES_MAX, "{each} bytes a client");
    assert!(
        each > 64 << 10,
        "{each} bytes a client: this does not measure the rings"
    );
}

/// A worker that is slow and has little room: a few long texts, one batch of them at a time.
fn small_queue() -> Setup {
    Setup::model(TINY)
        .set("WORKERS__CPU__BACKEND", "candle")
        .set("WORKERS__CPU__THREADS", "1")
        .set("WORKERS__CPU__QUEUE_TEXTS_MAX", "8")
        .set("WORKERS__CPU__BATCH_TEXTS_MAX", "4")
}

#[test]
fn a_full_queue_is_said_at_once_with_a_hint_or_waited_for() {
    let instance = small_queue().up();
    let client = instance.client();
    let text = "a long text about nothing at all ".repeat(30);
    let busy = Options {
        timeout: embedring_tests::WATCHDOG,
        ..Options::default()
    };
    let expected = client.embed_with(&[&text], &busy).unwrap().to_vec();
    std::thread::scope(|scope| {
        // Others keep the queue full. By default a full queue is waited for, and all succeed.
        let others: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let client = instance.client();
                    let texts = vec![text.as_str(); 24];
                    let answer = client.embed_with(&texts, &busy).unwrap();
                    answer
                        .iter()
                        .for_each(|row| assert_eq!(bits(row), bits(&expected)));
                })
            })
            .collect();
        let fail = Options {
            on_overload: OnOverload::Fail,
            ..busy.clone()
        };
        let mut hint = None;
        embedring_tests::eventually("an overload", embedring_tests::WATCHDOG, || {
            match client.embed_with(&[&text, &text, &text], &fail) {
                Ok(_) => assert!(
                    !others
                        .iter()
                        .all(std::thread::ScopedJoinHandle::is_finished),
                    "six clients did not fill a queue of eight texts"
                ),
                Err(EmbedError::Overloaded { retry_after }) => hint = Some(retry_after),
                Err(other) => panic!("{other}"),
            }
            hint.is_some()
        });
        let hint = hint.unwrap();
        assert!(
            hint > Duration::ZERO && hint < Duration::from_secs(60),
            "{hint:?}"
        );
    });
    let refused = &instance.worker("cpu")["refused"]["overload"];
    assert!(refused.as_u64().unwrap() > 0, "{refused}");
}

#[test]
fn a_deadline_that_can_not_be_kept_is_an_error_in_time() {
    let instance = Setup::null().up();
    let client = instance.client();
    for timeout in [Duration::ZERO, Duration::from_nanos(1)] {
        let options = Options {
            timeout,
            ..Options::default()
        };
        let error = client.embed_with(&["x"], &options).unwrap_err();
        assert_eq!(error.kind(), "deadline", "{error}");
    }
    // And the client is none the worse for it.
    client.embed(&["x"]).unwrap();
}

#[test]
fn other_limits_than_the_instance_runs_with_are_refused() {
    let instance = Setup::null().up();
    let mut other = instance.command(&["scheduler"]);
    other.env("EMBEDRING_LIMITS__CLIENTS_MAX", "5");
    embedring_tests::run(&mut other, b"").expect_failure(&["already running"]);
    // A client takes them from the board, whatever its own configuration says.
    let mut other = instance.command(&["embed", "x"]);
    other.env("EMBEDRING_LIMITS__REQUEST_SLOT_BYTES", "8KiB");
    let _ran = embedring_tests::run(&mut other, b"").expect_code(0);
}

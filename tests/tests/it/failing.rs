//! Devices that fail while their worker lives: fallback, breaker, and the errors when nobody is left.

use std::time::Duration;

use embedring_client::{BreakerLimits, BreakerState, Client, OnOverload, Options};
use embedring_ipc::clock::now_ns;
use embedring_tests::{
    Instance, Setup, Table, WATCHDOG, eventually, expect_rows, mixed_texts, patient,
    tokens_by_worker,
};

const MS: u64 = 1_000_000;

const BREAKER: BreakerLimits = BreakerLimits {
    failures: 3,
    pause_ns_min: 300 * MS,
    pause_ns_max: 600 * MS,
};

fn breaker_of(client: &Client, worker: &str) -> BreakerState {
    let workers = client.workers();
    let found = workers.iter().find(|info| info.name == worker);
    found.unwrap().breaker
}

fn failed_batches(instance: &Instance, worker: &str) -> u64 {
    instance.worker(worker)["failed_batches"].as_u64().unwrap()
}

/// Two equal devices; batches of the second cost what the table says.
struct Pool {
    table: Table,
    instance: Instance,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Pool {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let table = Table::new(dir.path(), MS, 10_000);
        let instance = Setup::simulated(&[("a", MS, 10_000), ("b", MS, 10_000)])
            .table("b", table.path())
            .up();
        let client = instance.builder().breaker(BREAKER).connect().unwrap();
        Self {
            table,
            instance,
            client,
            _dir: dir,
        }
    }

    /// Embeds lists, all of which must be right, until something is true.
    #[track_caller]
    fn embed_until(&self, what: &str, mut is_true: impl FnMut() -> bool) {
        let mut round = 0;
        eventually(what, WATCHDOG, || {
            round += 1;
            let texts = mixed_texts(100, &format!("{what} {round}"));
            let answer = self.client.embed_with(&texts, &patient()).unwrap();
            expect_rows(&texts, &answer);
            is_true()
        });
    }
}

#[test]
fn a_failing_device_is_replaced_left_alone_tried_and_used_again() {
    let pool = Pool::new();
    pool.embed_until("both work", || {
        pool.instance.worker("b")["texts"].as_u64().unwrap() > 0
    });
    assert_eq!(breaker_of(&pool.client, "b"), BreakerState::Closed);
    // It fails, nobody notices but the breaker.
    pool.table.fails();
    pool.embed_until("its breaker opens", || {
        breaker_of(&pool.client, "b") == BreakerState::Open
    });
    assert_eq!(breaker_of(&pool.client, "a"), BreakerState::Closed);
    // After its pause one message at a time finds out that it still fails.
    eventually("it may be tried", WATCHDOG, || {
        breaker_of(&pool.client, "b") == BreakerState::HalfOpen
    });
    let failed = failed_batches(&pool.instance, "b");
    pool.embed_until("it was tried and failed", || {
        breaker_of(&pool.client, "b") == BreakerState::Open
    });
    let tries = failed_batches(&pool.instance, "b") - failed;
    assert!((1..=2).contains(&tries), "{tries} batches for one try");
    // It works again, and is used.
    pool.table.costs(MS, 10_000);
    pool.embed_until("its breaker closes", || {
        breaker_of(&pool.client, "b") == BreakerState::Closed
    });
    let texts = pool.instance.worker("b")["texts"].as_u64().unwrap();
    pool.embed_until("it is used", || {
        pool.instance.worker("b")["texts"].as_u64().unwrap() > texts + 50
    });
}

#[test]
fn while_it_is_open_a_device_gets_nothing() {
    let pool = Pool::new();
    pool.table.fails();
    pool.embed_until("its breaker opens", || {
        breaker_of(&pool.client, "b") == BreakerState::Open
    });
    let texts = mixed_texts(100, "open");
    let answer = pool.client.embed_with(&texts, &patient()).unwrap();
    expect_rows(&texts, &answer);
    let tokens = tokens_by_worker(&answer);
    assert_eq!(tokens.into_keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn when_all_fail_the_error_says_so_in_time_and_when_to_come_back() {
    let pool = Pool::new();
    pool.table.fails();
    let options = |timeout_ms, on_overload| Options {
        timeout: Duration::from_millis(timeout_ms),
        use_device: Some("simulated:b".to_owned()),
        on_overload,
        ..Options::default()
    };
    // Asked for by name there is no other in its place.
    let mut kinds = Vec::new();
    eventually("all fail", WATCHDOG, || {
        let options = options(20_000, OnOverload::Fail);
        let error = pool.client.embed_with(&["x"], &options).unwrap_err();
        kinds.push(error.kind());
        error.kind() == "devices_failing"
    });
    assert!(kinds.contains(&"worker_failed"), "{kinds:?}");
    // A deadline before the next try: refused at once, with the reason.
    let breaker_opens = || {
        eventually("it is open", WATCHDOG, || {
            let options = options(20_000, OnOverload::Fail);
            drop(pool.client.embed_with(&["x"], &options));
            breaker_of(&pool.client, "b") == BreakerState::Open
        });
    };
    eventually("a deadline within the pause", WATCHDOG, || {
        breaker_opens();
        let begun_ns = now_ns();
        let short = options(50, OnOverload::Retry);
        let error = pool.client.embed_with(&["x"], &short).unwrap_err();
        assert!(now_ns() - begun_ns < 1_050 * MS);
        let text = error.to_string();
        if error.kind() != "devices_failing" {
            // The pause was nearly over.
            return false;
        }
        assert!(text.contains("b on simulated:b"), "{text}");
        assert!(text.contains("try again in"), "{text}");
        true
    });
    // A longer deadline waits for the try, and that one works.
    breaker_opens();
    pool.table.costs(MS, 10_000);
    eventually("it is answered again", WATCHDOG, || {
        let long = options(20_000, OnOverload::Retry);
        pool.client.embed_with(&["x"], &long).is_ok()
    });
}

#[test]
fn a_full_queue_sends_the_rest_to_the_other_device() {
    // The first one has room for a message, and takes long for it.
    let instance = Setup::simulated(&[("a", 200 * MS, 1_000), ("b", MS, 10_000)])
        .set("WORKERS__A__QUEUE_TEXTS_MAX", "4")
        .set("WORKERS__A__BATCH_TEXTS_MAX", "4")
        .up();
    let client = instance.client();
    let texts = mixed_texts(300, "full");
    let answer = client.embed_with(&texts, &patient()).unwrap();
    expect_rows(&texts, &answer);
    assert!(tokens_by_worker(&answer).contains_key("b"));
}

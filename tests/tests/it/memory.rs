//! Memory: given back when idle, and bounded by a cap.

use embedring_client::Options;
use embedring_tests::{Instance, MINILM, Setup, TINY, WATCHDOG, bits, eventually};

fn rss(instance: &Instance) -> u64 {
    instance.worker("cpu")["rss_bytes"].as_u64().unwrap()
}

#[test]
fn an_idle_worker_gives_its_model_back_and_loads_it_again() {
    let instance = Setup::model(MINILM)
        .set("WORKERS__CPU__IDLE_UNLOAD_MS", "300")
        .up();
    let client = instance.client();
    let first = client.embed(&["some text"]).unwrap().to_vec();
    let loads = instance.worker("cpu")["loads"].as_u64().unwrap();
    let board = instance.board();
    let slot_rss = || {
        let slot = board
            .workers
            .iter()
            .find(|slot| slot.identity.read().is_some());
        slot.unwrap()
            .rss_bytes
            .load(embedring_protocol::sync::Ordering::Relaxed)
    };
    // The weights have 90 MB; the tokeniser stays.
    let with_model = instance.worker("cpu")["rss_peak_bytes"].as_u64().unwrap();
    eventually("the model is unloaded", WATCHDOG, || {
        instance.worker("cpu")["state"] == "idle"
    });
    eventually("its memory is given back", WATCHDOG, || {
        slot_rss() + (60 << 20) < with_model
    });
    let again = client.embed(&["some text"]).unwrap();
    assert_eq!(bits(again.as_slice()), bits(&first));
    let worker = instance.worker("cpu");
    assert!(worker["loads"].as_u64().unwrap() > loads, "{worker}");
}

#[test]
fn idle_and_busy_again_and_again_is_always_right() {
    let instance = Setup::model(TINY)
        .set("WORKERS__CPU__IDLE_UNLOAD_MS", "20")
        .up();
    let client = instance.client();
    let first = client.embed(&["some text"]).unwrap().to_vec();
    for _ in 0..5 {
        eventually("the model is unloaded", WATCHDOG, || {
            instance.worker("cpu")["state"] == "idle"
        });
        let again = client.embed(&["some text"]).unwrap();
        assert_eq!(bits(again.as_slice()), bits(&first));
    }
}

#[test]
fn a_cap_below_the_need_is_refused_with_the_key_and_the_need() {
    let instance = Setup::model(TINY)
        .set("WORKERS__CPU__MEMORY_MAX_BYTES", "8MiB")
        .prepare();
    instance
        .run(&["up"])
        .expect_failure(&["workers.cpu.memory_max_bytes", "raise it to at least"]);
    instance.expect_nothing_left();
}

#[test]
fn a_cap_above_the_need_is_never_felt() {
    let need = {
        let instance = Setup::model(TINY).up();
        rss(&instance)
    };
    // The sum of what is configured: one batch's activations and one client's slots fit into it.
    let cap = need + (192 << 20);
    let instance = Setup::model(TINY)
        .set("WORKERS__CPU__MEMORY_MAX_BYTES", &cap.to_string())
        .up();
    let pid = instance.worker_pid("cpu");
    let client = instance.client();
    let texts: Vec<String> = (0..300)
        .map(|index| format!("{index} words ").repeat(20))
        .collect();
    let options = Options {
        timeout: WATCHDOG,
        ..Options::default()
    };
    let first = client.embed_with(&texts, &options).unwrap().to_vec();
    for _ in 0..5 {
        let again = client.embed_with(&texts, &options).unwrap();
        assert_eq!(bits(again.as_slice()), bits(&first));
    }
    let worker = instance.worker("cpu");
    assert_eq!(worker["pid"], pid, "it was restarted");
    assert!(worker["rss_peak_bytes"].as_u64().unwrap() < cap, "{worker}");
}

#[test]
fn at_the_cap_the_worker_is_replaced_and_clients_are_answered() {
    // Just above what a fresh worker holds, so that serving reaches it sooner or later; on the reference
    // backend, since the packed one takes all its memory at load. The trial of a fresh worker has texts of half
    // the window at most, these fill it.
    let setup = || Setup::model(TINY).set("WORKERS__CPU__BACKEND", "candle");
    let need = {
        let instance = setup().up();
        rss(&instance)
    };
    let cap = need + (1 << 20);
    let instance = setup()
        .quick_restarts()
        .set("WORKERS__CPU__MEMORY_MAX_BYTES", &cap.to_string())
        .up();
    let pid = instance.worker_pid("cpu");
    let client = instance.client();
    let texts: Vec<String> = (0..40)
        .map(|index| format!("{index} words ").repeat(300))
        .collect();
    let options = Options {
        timeout: WATCHDOG,
        ..Options::default()
    };
    eventually("the worker is replaced", WATCHDOG, || {
        // Rows, or an error that says that it is memory: nothing else, and no hang.
        match client.embed_with(&texts, &options) {
            Ok(answer) => assert_eq!(answer.len(), texts.len()),
            Err(error) => assert!(
                ["no_memory", "worker_died"].contains(&error.kind()),
                "{error}"
            ),
        }
        instance.worker_pid("cpu") != pid
    });
    client.embed_with(&["short"], &options).unwrap();
    assert!(
        instance.stderr().contains("memory bound"),
        "{}",
        instance.stderr()
    );
}

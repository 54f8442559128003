//! Defects that the service this one replaces has in batching and distribution: that we have none of them.

use embedring_client::Options;
use embedring_protocol::Counter;
use embedring_tests::{
    Setup, Table, WATCHDOG, eventually, expect_rows, mixed_texts, patient, share_of,
    tokens_by_worker, warm_up,
};

const MS: u64 = 1_000_000;

/// It put long texts first into one device's half, so that rows came back in another order, and closed its
/// pool after the first list of two devices.
#[test]
fn defect_3_a_list_on_two_devices_keeps_its_order_again_and_again() {
    let instance = Setup::simulated(&[("a", MS, 10_000), ("b", MS, 10_000)]).up();
    let client = instance.client();
    warm_up(&instance, &client, &["a", "b"]);
    for round in 0..5 {
        // Long ones last, first, in the middle and between the others.
        let mut texts = mixed_texts(150, &format!("round {round}"));
        match round {
            0 => texts.sort_by_key(String::len),
            1 => texts.sort_by_key(|text| usize::MAX - text.len()),
            2 => texts.rotate_left(75),
            _ => {}
        }
        let answer = client.embed_with(&texts, &patient()).unwrap();
        expect_rows(&texts, &answer);
        assert_eq!(tokens_by_worker(&answer).len(), 2, "round {round}");
    }
}

/// It took every device to need a tenth of a second for a text at least, so that all were equal. Here one of
/// which a text takes a tenth as long gets most, though both take less than that.
#[test]
fn defect_4_a_faster_device_gets_more_however_fast_both_are() {
    let instance = Setup::simulated(&[("fast", MS, 5_000), ("slow", MS, 50_000)]).up();
    let client = instance.client();
    warm_up(&instance, &client, &["fast", "slow"]);
    let mut lists = 0;
    eventually("less than a quarter for the slow one", WATCHDOG, || {
        lists += 1;
        let texts = mixed_texts(300, &format!("list {lists}"));
        let answer = client.embed_with(&texts, &patient()).unwrap();
        expect_rows(&texts, &answer);
        let share = share_of("slow", &answer);
        share > 0.0 && share < 0.25
    });
}

/// It made an empty list of every error, so that no device was ever replaced, left empty texts out, so that
/// the rows behind them shifted, and cut lists to a thousand texts.
#[test]
fn defect_5_errors_are_said_and_no_text_is_left_out() {
    let home = tempfile::tempdir().unwrap();
    let table = Table::new(home.path(), MS, 1_000);
    let instance = Setup::simulated(&[("a", MS, 1_000), ("b", MS, 1_000)])
        .table("b", table.path())
        .up();
    let client = instance.client();
    let mut texts = mixed_texts(2_500, "long list");
    for at in [0, 1, 700, 1_001, 2_499] {
        texts[at].clear();
    }
    let answer = client.embed_with(&texts, &patient()).unwrap();
    expect_rows(&texts, &answer);
    for (at, text) in texts.iter().enumerate() {
        assert_eq!(answer.empty_text(at), text.is_empty(), "{at}");
    }
    table.fails();
    let options = Options {
        use_device: Some("simulated:b".to_owned()),
        ..patient()
    };
    // The device reads its table now and then.
    eventually("it fails, and says so", WATCHDOG, || {
        let answer = client.embed_with(&["x"], &options);
        match answer {
            Ok(answer) => assert_eq!(answer.len(), 1),
            Err(error) => {
                let kinds = ["worker_failed", "devices_failing"];
                assert!(kinds.contains(&error.kind()), "{error}");
                return true;
            }
        }
        false
    });
    // Whoever does not insist on it is served by the other one.
    let answer = client.embed_with(&texts, &patient()).unwrap();
    expect_rows(&texts, &answer);
    assert!(tokens_by_worker(&answer).contains_key("a"));
}

/// It computed batch sizes and predictions that nothing used. Here what is predicted bounds what runs: a
/// quarter of the time allowed, a quarter of the tokens in a batch.
#[test]
fn defect_8_what_is_predicted_is_what_batches_are_made_by() {
    let mut largest = Vec::new();
    for target_ms in ["80", "20"] {
        let instance = Setup::simulated(&[("a", MS, 50_000)])
            .set("SCHEDULER__BATCH_TIME_TARGET_MS", target_ms)
            .up();
        let client = instance.client();
        warm_up(&instance, &client, &["a"]);
        // The plan of the moment is not the plan of the batch; that of a settled device hardly changes.
        let mut tokens = 0;
        eventually("full batches", WATCHDOG, || {
            let texts = mixed_texts(400, target_ms);
            let answer = client.embed_with(&texts, &patient()).unwrap();
            expect_rows(&texts, &answer);
            let planned = &instance.worker("a")["plan"]["batch_tokens_max"];
            let planned = planned.as_u64().unwrap();
            let parts = answer.parts().iter();
            tokens = parts
                .map(|part| u64::from(part.batch_tokens))
                .max()
                .unwrap();
            planned > 0 && tokens > planned / 2 && tokens <= planned * 3 / 2
        });
        largest.push(tokens);
    }
    assert!(largest[0] > largest[1] * 2, "{largest:?}");
}

/// Its device scheduler took every estimate for a tenth of a second, kept a load that never fell while a
/// device was idle, and asked again for a choice to learn which device it had used.
#[test]
fn defect_9_loads_fall_when_idle_and_counts_are_of_the_device_that_ran() {
    let instance = Setup::simulated(&[("a", MS, 20_000), ("b", MS, 20_000)]).up();
    let client = instance.client();
    warm_up(&instance, &client, &["a", "b"]);
    let board = instance.board();
    let ran = |name: &str| {
        let mut slots = board.workers.iter();
        let slot = slots.find(|slot| {
            let identity = slot.identity.read();
            identity.is_some_and(|identity| identity.name.to_text() == name)
        });
        slot.unwrap().counter(Counter::Tokens)
    };
    let before = ["a", "b"].map(ran);
    let mut told = [0, 0];
    for round in 0..10 {
        let texts = mixed_texts(100, &format!("round {round}"));
        let answer = client.embed_with(&texts, &patient()).unwrap();
        expect_rows(&texts, &answer);
        let tokens = tokens_by_worker(&answer);
        for (told, name) in told.iter_mut().zip(["a", "b"]) {
            *told += tokens.get(name).copied().unwrap_or(0);
        }
        // A message that was taken back may have been run by both.
        assert!(answer.parts().iter().all(|part| part.sent <= 3));
    }
    let after = ["a", "b"].map(ran);
    for at in 0..2 {
        assert!(told[at] > 0, "{told:?}");
        assert!(
            after[at] - before[at] >= told[at],
            "{before:?} {after:?} {told:?}"
        );
    }
    eventually("no load without requests", WATCHDOG, || {
        let status = instance.status();
        let workers = status["workers"].as_array().unwrap();
        workers
            .iter()
            .all(|worker| worker["load_tokens"] == 0 && worker["load_texts"] == 0)
    });
    // What a device is taken to cost is what it costs: twenty microseconds a token, not a constant.
    for name in ["a", "b"] {
        let plan = &instance.worker(name)["plan"];
        let token_ns = plan["ns_per_token"].as_u64().unwrap();
        assert!((10_000..60_000).contains(&token_ns), "{plan}");
    }
}

/// Once its history was full it trained its model again on every request. Here plans come by the clock: as
/// many in a second under load as without.
#[test]
fn defect_10_plans_come_by_the_clock_and_not_by_the_request() {
    let instance = Setup::null().set("SCHEDULER__TICK_MS", "100").up();
    let client = instance.client();
    let plan = || instance.plan();
    let first = plan();
    let mut requests = 0_u64;
    eventually("a thousand requests and some plans", WATCHDOG, || {
        for _ in 0..50 {
            client.embed(&["x"]).unwrap();
            requests += 1;
        }
        requests > 1_200 && plan().epoch >= first.epoch + 3
    });
    let last = plan();
    let plans = last.epoch - first.epoch;
    let ticks = (last.published_ns - first.published_ns) / (100 * MS);
    assert!(
        plans <= ticks + 1,
        "{plans} plans in {ticks} ticks, {requests} requests"
    );
    let reports = instance.worker("cpu")["batches"].as_u64().unwrap();
    assert!(reports > plans, "{reports} batches, {plans} plans");
}

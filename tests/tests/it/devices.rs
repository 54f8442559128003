//! Several unequal devices in one pool, simulated: who gets what, and that it is right whoever did it.

use std::sync::Barrier;
use std::time::Duration;

use embedring_client::{Client, Options};
use embedring_protocol::Counter;
use embedring_tests::{
    Instance, Setup, Signal, Table, WATCHDOG, bits, eventually, expect_rows, kill, mixed_texts,
    null_row, patient, share_of, signal, tokens_by_worker, warm_up,
};

const MS: u64 = 1_000_000;

/// Texts that one worker has answered.
fn texts_of(instance: &Instance, name: &str) -> u64 {
    instance.worker(name)["texts"].as_u64().unwrap()
}

/// Texts that all workers together have answered.
fn texts_done(instance: &Instance) -> u64 {
    let board = instance.board();
    let slots = board.workers.iter();
    slots.map(|slot| slot.counter(Counter::Texts)).sum()
}

#[test]
fn a_list_over_two_devices_keeps_its_order_and_says_who_did_what() {
    let instance = Setup::simulated(&[("fast", MS, 5_000), ("slow", MS, 15_000)]).up();
    let client = instance.client();
    for round in 0..5 {
        let texts = mixed_texts(400, &format!("round {round}"));
        let answer = client.embed_with(&texts, &patient()).unwrap();
        expect_rows(&texts, &answer);
        assert_eq!(tokens_by_worker(&answer).len(), 2, "both take part");
        let mut places: Vec<usize> = Vec::new();
        for part in answer.parts() {
            assert_eq!(*part.device, format!("simulated:{}", part.worker));
            assert_eq!(part.precision.name(), "simulated");
            assert!(part.texts.windows(2).all(|pair| pair[0] < pair[1]));
            places.extend(part.texts.iter());
        }
        places.sort_unstable();
        assert_eq!(places, (0..400).collect::<Vec<_>>(), "each text once");
    }
    for name in ["fast", "slow"] {
        let worker = instance.worker(name);
        assert_eq!(worker["device"], format!("simulated:{name}"));
        assert_eq!(worker["precision"], "simulated");
    }
}

/// Splits lists between two devices of which one takes `ratio` times as long for a token; the slow one's
/// part must be its part of the speeds, within half of it.
fn check_split(ratio: u64) {
    let devices = [("fast", MS, 20_000), ("slow", MS, 20_000 * ratio)];
    let instance = Setup::simulated(&devices).up();
    let client = instance.client();
    warm_up(&instance, &client, &["fast", "slow"]);
    let wanted = 1.0 / (1.0 + ratio as f64);
    let mut shares = Vec::new();
    // Plans and what clients measured settle within some lists.
    eventually("a split that follows the speeds", WATCHDOG, || {
        let texts = mixed_texts(300, &format!("list {}", shares.len()));
        let answer = client.embed_with(&texts, &patient()).unwrap();
        expect_rows(&texts, &answer);
        shares.push(share_of("slow", &answer));
        let last = &shares[shares.len().saturating_sub(4)..];
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        assert!(shares.len() < 60, "1:{ratio}: {shares:?}, wanted {wanted}");
        last.len() == 4 && (wanted / 1.5..wanted * 1.5).contains(&mean)
    });
}

#[test]
fn equal_devices_share_a_list_evenly() {
    check_split(1);
}

#[test]
fn a_device_four_times_as_slow_gets_a_fifth() {
    check_split(4);
}

#[test]
fn a_device_twenty_times_as_slow_gets_a_twenty_first() {
    check_split(20);
}

#[test]
fn a_single_text_waits_for_the_fast_device_rather_than_be_late_on_the_slow_one() {
    let instance = Setup::simulated(&[("fast", MS, 10_000), ("slow", 300 * MS, 10_000)]).up();
    let client = instance.client();
    warm_up(&instance, &client, &["fast", "slow"]);
    let before = texts_of(&instance, "slow");
    for round in 0..40 {
        client
            .embed_with(&[format!("round {round}")], &patient())
            .unwrap();
    }
    let after = texts_of(&instance, "slow");
    // A moment in which the host stops the fast one may send one or another to the slow one.
    assert!(after - before <= 5, "{} of 40", after - before);
}

#[test]
fn a_device_dies_in_the_middle_of_a_list_and_the_other_one_does_its_part() {
    for (killed, other) in [("a", "b"), ("b", "a")] {
        let devices = [("a", 2 * MS, 20_000), ("b", 2 * MS, 60_000)];
        let instance = Setup::simulated(&devices).no_restarts().up();
        let client = instance.client();
        let texts = mixed_texts(1_500, killed);
        let pid = instance.worker_pid(killed);
        let answer = std::thread::scope(|scope| {
            let call = scope.spawn(|| client.embed_with(&texts, &patient()).unwrap());
            eventually("it has done a part", WATCHDOG, || {
                texts_of(&instance, killed) > 20
            });
            assert!(kill(pid));
            call.join().unwrap()
        });
        expect_rows(&texts, &answer);
        let tokens = tokens_by_worker(&answer);
        assert!(
            tokens[other] > 0 && tokens.contains_key(killed),
            "{tokens:?}"
        );
        assert!(
            answer.parts().iter().any(|part| part.sent > 1),
            "nothing was sent again"
        );
        let next = client.embed_with(&texts[..50], &patient()).unwrap();
        expect_rows(&texts[..50], &next);
        assert_eq!(
            tokens_by_worker(&next).len(),
            1,
            "the dead one is not asked"
        );
    }
}

#[test]
fn a_stopped_device_is_given_up_within_the_time_of_the_call() {
    let instance = Setup::simulated(&[("a", MS, 20_000), ("b", MS, 20_000)]).up();
    let client = instance.client();
    warm_up(&instance, &client, &["a", "b"]);
    let pid = instance.worker_pid("a");
    let texts = mixed_texts(800, "stopped");
    let options = Options {
        timeout: Duration::from_secs(20),
        ..Options::default()
    };
    let answer = std::thread::scope(|scope| {
        let done = texts_done(&instance);
        let call = scope.spawn(|| client.embed_with(&texts, &options));
        eventually("the list is under way", WATCHDOG, || {
            texts_done(&instance) > done + 50
        });
        assert!(signal(pid, Signal::STOP));
        let answer = call.join().unwrap();
        assert!(signal(pid, Signal::CONT));
        answer.unwrap()
    });
    expect_rows(&texts, &answer);
    assert!(tokens_by_worker(&answer)["b"] > 0);
    eventually("it is used again", WATCHDOG, || {
        let answer = client.embed_with(&texts, &patient()).unwrap();
        expect_rows(&texts, &answer);
        tokens_by_worker(&answer).contains_key("a")
    });
}

#[test]
fn weights_follow_a_device_that_becomes_slower_and_faster_again() {
    let dir = tempfile::tempdir().unwrap();
    let table = Table::new(dir.path(), MS, 20_000);
    let instance = Setup::simulated(&[("a", MS, 20_000), ("b", MS, 20_000)])
        .table("b", table.path())
        .up();
    let client = instance.client();
    warm_up(&instance, &client, &["a", "b"]);
    let mut lists = 0;
    let mut until = |what: &str, most: usize, is_right: &dyn Fn(f64) -> bool| {
        let first = lists;
        eventually(what, WATCHDOG, || {
            lists += 1;
            assert!(lists - first <= most, "{what}: not within {most} lists");
            let texts = mixed_texts(200, &format!("list {lists}"));
            let answer = client.embed_with(&texts, &patient()).unwrap();
            expect_rows(&texts, &answer);
            is_right(share_of("b", &answer))
        });
    };
    until("an even split", 50, &|share| (0.35..0.65).contains(&share));
    table.costs(10 * MS, 200_000);
    // A list of this size takes .1 s: within seconds.
    until("the slower one gets less", 50, &|share| share < 0.22);
    table.costs(MS, 20_000);
    until("it gets as much again", 150, &|share| share > 0.35);
}

#[test]
fn many_clients_at_one_moment_do_not_all_choose_the_same_device() {
    const CLIENTS: usize = 12;
    let instance = Setup::simulated(&[("a", 5 * MS, 50_000), ("b", 5 * MS, 50_000)]).up();
    let barrier = Barrier::new(CLIENTS);
    let by_a: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (instance, barrier) = (&instance, &barrier);
                scope.spawn(move || {
                    let client = instance.client();
                    let mut by_a = 0;
                    for round in 0..10 {
                        barrier.wait();
                        let text = format!("client {number} round {round}");
                        let answer = client.embed_with(&[&text], &patient()).unwrap();
                        assert_eq!(bits(answer.row(0)), bits(&null_row(&text)));
                        by_a += usize::from(&*answer.parts()[0].worker == "a");
                    }
                    by_a
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    });
    let all = CLIENTS * 10;
    assert!((all / 8..=all * 7 / 8).contains(&by_a), "{by_a} of {all}");
}

fn workers_of(client: &Client, device: &str) -> Vec<String> {
    let options = Options {
        use_device: Some(device.to_owned()),
        ..patient()
    };
    let texts = mixed_texts(60, device);
    let answer = client.embed_with(&texts, &options).unwrap();
    expect_rows(&texts, &answer);
    tokens_by_worker(&answer).into_keys().collect()
}

#[test]
fn a_request_may_say_which_device() {
    // Beside simulated devices a worker on the CPU: one pool, one kind of rows.
    let instance = Setup::simulated(&[("a", MS, 20_000), ("b", MS, 20_000)])
        .set("WORKERS__C__DEVICE", "cpu")
        .set("WORKERS__C__BACKEND", "null")
        .up();
    let client = instance.client();
    assert_eq!(workers_of(&client, "simulated:a"), ["a"]);
    assert_eq!(workers_of(&client, "simulated:b"), ["b"]);
    assert_eq!(workers_of(&client, "cpu"), ["c"]);
    let both = workers_of(&client, "simulated");
    assert!(
        !both.is_empty() && !both.contains(&"c".to_owned()),
        "{both:?}"
    );
    let options = Options {
        use_device: Some("cuda:0".to_owned()),
        ..patient()
    };
    let error = client.embed_with(&["x"], &options).unwrap_err();
    assert_eq!(error.kind(), "no_device");
    for part in ["cuda:0", "cpu", "simulated:a", "simulated:b"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let ran = instance
        .run(&["embed", "--use-device", "simulated:b", "x"])
        .expect_code(0);
    assert_eq!(ran.objects()[0]["device"], "simulated:b");
    assert_eq!(ran.objects()[0]["precision"], "simulated");
    instance
        .run(&["embed", "--use-device", "cuda", "x"])
        .expect_failure(&["cuda", "simulated:a"]);
}

#[test]
fn a_text_too_long_for_one_device_goes_to_the_other() {
    let instance = Setup::simulated(&[("fast", MS, 5_000), ("large", MS, 50_000)])
        .set("WORKERS__FAST__TEXT_TOKENS_MAX", "100")
        .up();
    let client = instance.client();
    for round in 0..5 {
        let texts = mixed_texts(200, &format!("round {round}"));
        let answer = client.embed_with(&texts, &patient()).unwrap();
        expect_rows(&texts, &answer);
        for at in 0..texts.len() {
            let worker = &*answer.part_of(at).unwrap().worker;
            assert!(
                answer.tokens(at) <= 100 || worker == "large",
                "{at}: {worker}"
            );
        }
        assert_eq!(tokens_by_worker(&answer).len(), 2);
    }
    let long = ["y".repeat(300)];
    let alone = client.embed_with(&long, &patient()).unwrap();
    expect_rows(&long, &alone);
    let options = Options {
        use_device: Some("simulated:fast".to_owned()),
        ..patient()
    };
    let error = client.embed_with(&long, &options).unwrap_err();
    assert_eq!(error.kind(), "too_long_for_device");
    assert!(error.to_string().contains("text_tokens_max"), "{error}");
}

#[test]
fn a_device_that_is_no_device_of_this_build_is_refused_with_its_key() {
    let refused = |setup: Setup, parts: &[&str]| {
        let instance = setup.prepare();
        instance.run(&["check-config"]).expect_failure(parts);
        instance.run(&["up"]).expect_failure(parts);
        instance.expect_nothing_left();
    };
    refused(
        Setup::null().set("WORKERS__G__DEVICE", "cuda:0"),
        &["workers.g.device", "cuda:0"],
    );
    let simulated = || Setup::simulated(&[("s", MS, 1_000)]);
    refused(
        simulated().set("WORKERS__S__SIMULATED_TABLE", "/nonexistent.json"),
        &["workers.s.simulated_table", "/nonexistent.json"],
    );
    refused(
        simulated().set("WORKERS__S__SIMULATED_TOKEN_NS", "0"),
        &["workers.s.simulated_token_ns", "allowed: 1 to"],
    );
    refused(
        simulated().set("WORKERS__C__DEVICE", "cpu"),
        &["workers.c.backend", "workers.s.backend"],
    );
}

//! The load driver, the table of costs, and the batch policies of others, on real processes.

use embedring_client::Options;
use embedring_tests::{Instance, Setup, bits, null_row};
use serde_json::Value;

/// Runs `bench load` for a second and gives its result. Machines that do other things make the generator late and
/// answers slow, which is not what is tested here: any lag is allowed, and there are slots for all requests at once.
#[track_caller]
fn load(instance: &Instance, args: &[&str]) -> Value {
    let fixed = [
        "bench",
        "load",
        "--json",
        "--seconds",
        "1",
        "--warm-up",
        "0.2",
        "--connections",
        "32",
        "--lag-max-ms",
        "60000",
    ];
    let all: Vec<&str> = fixed.iter().chain(args).copied().collect();
    let ran = instance.run(&all).expect_code(0);
    serde_json::from_slice(&ran.stdout).unwrap()
}

#[test]
fn every_request_of_a_load_is_counted_once() {
    let instance = Setup::null().up();
    let folder = instance.home();
    let (output, plot) = (folder.join("load.json"), folder.join("load.svg"));
    let files = [output.to_str().unwrap(), plot.to_str().unwrap()];
    let result = load(
        &instance,
        &[
            "--rate",
            "200",
            "--deadline-ms",
            "20000",
            "--output",
            files[0],
            "--plot",
            files[1],
        ],
    );
    let summary = &result["summary"];
    let number = |value: &Value| value.as_u64().unwrap();
    let requests = number(&summary["requests"]);
    // 240 in all, 40 of them in the warm-up, give or take what Poisson does.
    assert!((120..=235).contains(&requests), "{result}");
    assert_eq!(number(&summary["on_time"]), requests, "{result}");
    assert_eq!(
        (number(&summary["late"]), summary["valid"].as_bool()),
        (0, Some(true))
    );
    let kinds = summary["kinds"].as_array().unwrap();
    assert_eq!(
        kinds
            .iter()
            .map(|kind| number(&kind["requests"]))
            .sum::<u64>(),
        requests
    );
    assert_eq!(kinds[1]["time_ms"], 80_000.0);
    assert!(kinds[0]["tokens_mean"].as_f64() < kinds[1]["tokens_mean"].as_f64());
    assert_eq!(result["workers"][0]["name"], "cpu");
    let written: Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
    assert_eq!(written, result);
    assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg"));
    // As many as the worker says it served, the warm-up included.
    assert_eq!(number(&instance.worker("cpu")["texts"]), 240);
}

#[test]
fn what_can_not_be_in_time_is_late_or_has_a_reason() {
    let instance = Setup::null().up();
    // A microsecond: no round trip is that short.
    let result = load(&instance, &["--rate", "100", "--deadline-ms", "0.001"]);
    let summary = &result["summary"];
    let failed: u64 = summary["failed"]
        .as_object()
        .unwrap()
        .values()
        .map(|count| count.as_u64().unwrap())
        .sum();
    let late = summary["late"].as_u64().unwrap();
    assert_eq!(summary["on_time"], 0, "{result}");
    assert_eq!(
        late + failed,
        summary["requests"].as_u64().unwrap(),
        "{result}"
    );
    assert_eq!(summary["goodput_per_s"]["mean"], 0.0);
    // Waited for, the same are answered, too late.
    let args = [
        "--rate",
        "100",
        "--deadline-ms",
        "0.001",
        "--give-up-ms",
        "20000",
    ];
    let result = load(&instance, &args);
    let summary = &result["summary"];
    assert_eq!(summary["late"], summary["requests"], "{result}");
}

#[test]
fn arrivals_of_a_file_come_as_recorded() {
    let instance = Setup::null().up();
    let path = instance.home().join("times");
    std::fs::write(&path, "0\n0.02\n0.03\n0.07\n").unwrap();
    let arrivals = path.to_str().unwrap();
    let result = load(
        &instance,
        &["--arrivals", arrivals, "--deadline-ms", "20000"],
    );
    // Three gaps in .07 s.
    let rate = result["rate"].as_f64().unwrap();
    assert!((rate - 3.0 / 0.07).abs() < 1e-6, "{rate}");
    assert_eq!(result["workload"]["arrivals"], "trace");
    std::fs::write(&path, "0\nsoon\n").unwrap();
    instance
        .run(&["bench", "load", "--arrivals", arrivals])
        .expect_failure(&["times:2", "soon"]);
}

#[test]
fn a_load_that_can_not_be_says_what_to_do() {
    let instance = Setup::null().up();
    let run = |args: &[&str]| {
        let all: Vec<&str> = ["bench", "load"].iter().chain(args).copied().collect();
        instance.run(&all)
    };
    run(&[]).expect_failure(&["--rate", "--find-limit"]);
    run(&["--rate", "0"]).expect_failure(&["--rate is 0"]);
    run(&["--rate", "5", "--connections", "1000"]).expect_failure(&["limits.clients_max"]);
    run(&["--rate", "5", "--arrivals", "tides"]).expect_failure(&["clients-code", "tides"]);
    // No generator is that punctual.
    let args = [
        "--rate",
        "50",
        "--seconds",
        "0.5",
        "--warm-up",
        "0",
        "--lag-max-ms",
        "0",
    ];
    run(&args).expect_failure(&["not valid", "fell behind"]);
}

#[test]
fn a_table_of_costs_holds_the_batches_that_were_asked_for() {
    let instance = Setup::null().prepare();
    let args = [
        "--texts",
        "1,4",
        "--tokens",
        "8,64",
        "--repeats",
        "3",
        "--note",
        "a test",
    ];
    let all: Vec<&str> = ["bench", "cost-table"]
        .iter()
        .chain(&args)
        .copied()
        .collect();
    let ran = instance.run(&all).expect_code(0);
    let table: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(
        (&table["version"], &table["note"]),
        (&1.into(), &"a test".into())
    );
    let rows = table["rows"].as_array().unwrap();
    let batches: Vec<_> = rows
        .iter()
        .map(|row| (&row["texts"], &row["tokens_each"]))
        .collect();
    let of = |texts: u64, tokens: u64| (Value::from(texts), Value::from(tokens));
    let want = [of(1, 8), of(4, 8), of(1, 64), of(4, 64)];
    assert_eq!(
        batches,
        want.iter().map(|(a, b)| (a, b)).collect::<Vec<_>>()
    );
    for row in rows {
        assert!(row["ns_median"].as_u64() <= row["ns_p90"].as_u64());
        assert_eq!(row["repeats"], 3);
    }
    for cost in ["ns_per_batch", "ns_per_token", "ns_per_square"] {
        assert!(table["fit"][cost].as_f64().unwrap() >= 0.0, "{table}");
    }
    let none = ["bench", "cost-table", "--tokens", "100000"];
    instance.run(&none).expect_failure(&["--tokens"]);
}

#[test]
fn lists_are_answered_in_order_under_every_batch_policy() {
    for policy in [
        "deadlines",
        "one-at-a-time",
        "fixed-size",
        "token-budget",
        "token-budget-expiry",
        "length-rounds",
        "aimd",
        "early-drop",
        "earliest-deadline",
    ] {
        let instance = Setup::null()
            .set("WORKERS__CPU__BATCH_POLICY", policy)
            .set("WORKERS__CPU__BATCH_TEXTS_MAX", "7")
            .set("WORKERS__CPU__BATCH_TOKENS_MAX", "600")
            .up();
        let client = instance.client();
        let texts: Vec<String> = (0..300)
            .map(|at| format!("{policy} {at} {}", "x".repeat(at % 90)))
            .collect();
        let answer = client.embed_with(&texts, &Options::default()).unwrap();
        for (at, text) in texts.iter().enumerate() {
            assert_eq!(bits(answer.row(at)), bits(&null_row(text)), "{policy} {at}");
        }
        let most = answer.parts().iter().map(|part| part.batch_texts).max();
        let allowed = if policy == "one-at-a-time" { 1 } else { 7 };
        assert!(most <= Some(allowed), "{policy}: {most:?}");
    }
}

#[test]
fn a_fixed_size_waits_for_its_batch_to_fill() {
    // Long enough that the four below come within it, whatever else the machine does.
    let instance = Setup::null()
        .set("WORKERS__CPU__BATCH_POLICY", "fixed-size")
        .set("WORKERS__CPU__BATCH_TEXTS_MAX", "4")
        .set("WORKERS__CPU__BATCH_POLICY_US", "10000000")
        .up();
    let client = instance.client();
    let pending: Vec<_> = (0..4)
        .map(|at| {
            client
                .start(vec![format!("text {at}")], &Options::default())
                .unwrap()
        })
        .collect();
    for one in pending {
        let answer = one.wait().unwrap();
        assert_eq!(answer.parts()[0].batch_texts, 4);
    }
}

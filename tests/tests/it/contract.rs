//! What scripts build on.

use std::time::Duration;

use embedring_tests::{NULL_HIDDEN, Ran, Setup, bits, eventually, null_row};
use serde_json::Value;

fn row_of(object: &Value) -> Vec<f32> {
    serde_json::from_value(object["embedding"].clone()).unwrap()
}

/// Embeds these lines in some way and checks everything that is promised of the output.
#[track_caller]
fn check_jsonl(ran: Ran, texts: &[&str]) {
    let ran = ran.expect_code(0);
    assert_eq!(ran.stderr, "", "talk without need");
    let objects = ran.objects();
    assert_eq!(objects.len(), texts.len());
    for (index, (object, text)) in objects.iter().zip(texts).enumerate() {
        let mut keys: Vec<_> = object.as_object().unwrap().keys().collect();
        keys.sort();
        let promised = [
            "device",
            "embedding",
            "index",
            "model",
            "precision",
            "tokens",
            "truncated",
        ];
        assert_eq!(keys, promised);
        assert_eq!(object["index"], index);
        assert_eq!(object["tokens"], (text.len() + 2).min(512));
        assert_eq!(object["truncated"], text.len() > 510);
        assert_eq!(object["model"], "null");
        assert_eq!(object["device"], "cpu");
        assert_eq!(object["precision"], "f32");
        assert_eq!(bits(&row_of(object)), bits(&null_row(text)), "{text:?}");
    }
}

#[test]
fn one_line_says_that_all_workers_serve() {
    let mut instance = Setup::null_workers(&["a", "b"]).prepare();
    instance.start();
    let line = instance.wait_ready();
    assert!(
        line.contains(&format!("instance={}", instance.name)),
        "{line}"
    );
    let status = instance.status();
    for worker in status["workers"].as_array().unwrap() {
        assert_eq!(worker["state"], "serving", "{status}");
    }
    assert_eq!(instance.lines().len(), 1, "one line");
    instance.stop();
    assert_eq!(instance.lines().len(), 1, "one line until the end");
}

#[test]
fn arguments_stdin_and_files_give_the_same_objects_in_order() {
    let instance = Setup::null().up();
    let long = "long ".repeat(200);
    let texts = ["one", "two words", "", "drei Wörter ß", &long];
    let lines = texts.join("\n") + "\n";
    let args: Vec<&str> = ["embed", "--output", "jsonl", "--"]
        .into_iter()
        .chain(texts)
        .collect();
    check_jsonl(instance.run(&args), &texts);
    check_jsonl(
        instance.run_with(&["embed", "--output", "jsonl"], lines.as_bytes()),
        &texts,
    );
    let file = instance.home().join("lines.txt");
    std::fs::write(&file, &lines).unwrap();
    let file = file.to_str().unwrap();
    check_jsonl(instance.run(&["embed", "--file", file]), &texts);
    let twice: Vec<&str> = texts.iter().chain(&texts).copied().collect();
    check_jsonl(instance.run(&["embed", "-f", file, "-f", file]), &twice);
    check_jsonl(
        instance.run_with(&["embed"], b"no end of line"),
        &["no end of line"],
    );
    check_jsonl(instance.run_with(&["embed"], b""), &[]);
}

#[test]
fn many_lines_are_pipelined_and_keep_their_order() {
    let instance = Setup::null().up();
    let lines: String = (0..20_000).map(|index| format!("{index}\n")).collect();
    // More messages than slots, so that calls of the pipeline wait for each other's: several times,
    // since it is a matter of chance who gets which slot.
    for _ in 0..5 {
        let ran = instance
            .run_with(
                &["embed", "--dimensions", "4", "--normalize", "no"],
                lines.as_bytes(),
            )
            .expect_code(0);
        let objects = ran.objects();
        assert_eq!(objects.len(), 20_000);
        for (index, object) in objects.iter().enumerate().step_by(37) {
            assert_eq!(object["index"], index);
            assert_eq!(object["tokens"], index.to_string().len() + 2);
        }
    }
}

#[test]
fn json_is_one_array_and_npy_an_array_of_rows() {
    let instance = Setup::null().up();
    let ran = instance
        .run(&["embed", "--output", "json", "a", "b"])
        .expect_code(0);
    let array: Vec<Value> = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(array.len(), 2);
    assert_eq!(row_of(&array[1]), null_row("b"));

    let path = instance.home().join("rows.npy");
    let _quiet = instance
        .run(&[
            "embed",
            "-o",
            "npy",
            "--out",
            path.to_str().unwrap(),
            "a",
            "b",
            "c",
        ])
        .expect_code(0);
    let to_file = std::fs::read(&path).unwrap();
    let to_stdout = instance
        .run(&["embed", "-o", "npy", "a", "b", "c"])
        .expect_code(0)
        .stdout;
    assert_eq!(to_file, to_stdout);
    // NumPy's format, version 1.0: magic, version, length of the header, the header, the data.
    assert_eq!(&to_file[..8], b"\x93NUMPY\x01\x00");
    let header_bytes = usize::from(u16::from_le_bytes([to_file[8], to_file[9]]));
    let data_start = 10 + header_bytes;
    assert_eq!(data_start % 64, 0);
    let header = std::str::from_utf8(&to_file[10..data_start]).unwrap();
    for part in [
        "'descr': '<f4'",
        "'fortran_order': False",
        &format!("'shape': (3, {NULL_HIDDEN})"),
    ] {
        assert!(header.contains(part), "{header}");
    }
    assert!(header.ends_with('\n'));
    let rows: Vec<f32> = to_file[data_start..]
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect();
    let expected = ["a", "b", "c"].map(null_row).concat();
    assert_eq!(bits(&rows), bits(&expected));
}

#[test]
fn options_of_embed_reach_the_worker() {
    let instance = Setup::null().up();
    let ran = instance
        .run(&["embed", "--dimensions", "8", "--normalize", "no", "x"])
        .expect_code(0);
    let short = row_of(&ran.objects()[0]);
    assert_eq!(short.len(), 8);
    let whole = row_of(&instance.run(&["embed", "--normalize", "no", "x"]).objects()[0]);
    assert_eq!(bits(&short), bits(&whole[..8]));
    let ran = instance
        .run(&["embed", "--prompt", "query: ", "x"])
        .expect_code(0);
    assert_eq!(row_of(&ran.objects()[0]), null_row("query: x"));
    let ran = instance
        .run(&["embed", "--bulk", "--explain", ""])
        .expect_code(0);
    let object = &ran.objects()[0];
    assert_eq!(object["explain"]["empty"], true, "{object}");
    assert_eq!(object["explain"]["worker"], "cpu");
}

#[test]
fn status_says_what_is_running() {
    let instance = Setup::null_workers(&["a", "b"]).up();
    // One text: two would be shared out among the workers.
    let _done = instance.run(&["embed", "x"]).expect_code(0);
    let status = instance.status();
    assert_eq!(status["scheduler"]["pid"], instance.scheduler_pid());
    assert_eq!(status["scheduler"]["state"], "running");
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    for worker in workers {
        let name = worker["name"].as_str().unwrap();
        assert_eq!(worker["pid"], instance.worker_pid(name));
        assert_eq!(worker["device"], "cpu");
        assert_eq!(worker["state"], "serving");
        for number in ["requests", "texts", "tokens", "rss_bytes"] {
            assert!(worker[number].is_u64(), "{number}: {worker}");
        }
        assert!(worker["rss_bytes"].as_u64().unwrap() > 1_000_000);
    }
    let sum = |key: &str| {
        workers
            .iter()
            .map(|w| w[key].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((sum("requests"), sum("texts"), sum("tokens")), (1, 1, 3));
    let words = instance.run(&["status"]).expect_code(0);
    assert!(words.text().contains("worker a on cpu"), "{}", words.text());
}

#[test]
fn down_and_signals_end_everything() {
    for how in ["TERM", "INT", "down"] {
        let mut instance = Setup::null_workers(&["a", "b"]).up();
        let client = instance.client();
        client.embed(&["x"]).unwrap();
        match how {
            "down" => {
                let ran = instance.run(&["down"]).expect_code(0);
                assert!(ran.took < Duration::from_secs(5), "{:?}", ran.took);
                instance.expect_nothing_left();
            }
            "INT" => {
                assert!(embedring_tests::signal(
                    instance.up_pid(),
                    embedring_tests::Signal::INT
                ));
            }
            _ => {
                // Checks that it takes less than five seconds, with a client connected.
                instance.stop();
                continue;
            }
        }
        assert_eq!(instance.wait_up(), Some(0), "{how}\n{}", instance.stderr());
        instance.expect_nothing_left();
    }
}

#[test]
fn two_instances_do_not_meet() {
    let one = Setup::null().up();
    let two = Setup::null().set("WORKERS__CPU__NULL_HIDDEN", "16").up();
    let (a, b) = (one.client(), two.client());
    assert_eq!(a.embed(&["x"]).unwrap().dimensions(), NULL_HIDDEN);
    assert_eq!(b.embed(&["x"]).unwrap().dimensions(), 16);
    assert_eq!(two.worker("cpu")["texts"], 1, "its own text only");
    assert_ne!(one.worker("cpu")["pid"], two.worker("cpu")["pid"]);
    // The flag is stronger than the variable.
    let ran = one
        .run(&["--instance", &two.name, "embed", "x"])
        .expect_code(0);
    assert_eq!(row_of(&ran.objects()[0]).len(), 16);
    drop(one);
    assert_eq!(b.embed(&["still there"]).unwrap().len(), 1);
}

#[test]
fn every_way_of_waiting_gives_the_same_rows() {
    use embedring_client::WaitStrategy;
    for wait in ["adaptive", "block", "poll"] {
        let instance = Setup::null().set("WORKERS__CPU__WAIT", wait).up();
        for strategy in [
            WaitStrategy::default(),
            WaitStrategy::Block,
            WaitStrategy::Poll,
        ] {
            let client = instance.builder().wait(strategy).connect().unwrap();
            for round in 0..20 {
                let text = format!("round {round}");
                let answer = client.embed(&[&text]).unwrap();
                assert_eq!(bits(answer.row(0)), bits(&null_row(&text)));
            }
        }
    }
}

#[test]
fn a_service_manager_is_told_what_happens() {
    use std::os::unix::net::UnixDatagram;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(embedring_tests::WATCHDOG))
        .unwrap();
    let mut instance = Setup::null()
        .variable("NOTIFY_SOCKET", path.to_str().unwrap())
        .up();
    let wait_for = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).expect(wanted);
            let message = std::str::from_utf8(&buffer[..length]).unwrap();
            if message.lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    wait_for("READY=1");
    wait_for("WATCHDOG=1");
    instance.stop();
    wait_for("STOPPING=1");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    use std::process::Stdio;
    let instance = Setup::null().up();
    let file = instance.home().join("lines");
    std::fs::write(&file, "line\n".repeat(20_000)).unwrap();
    for output in ["jsonl", "json", "npy"] {
        let mut command = instance.command(&["embed", "-o", output, "-f", file.to_str().unwrap()]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(stderr.contains("write the output"), "{stderr}");
        assert_eq!(ended.status.code(), Some(1));
    }
}

#[test]
fn a_gigabyte_is_read_as_it_comes() {
    // Not a gigabyte, but a pipe that never ends until rows have come out at the other end: an
    // `embed` that read all of its input first would hang here.
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let instance = Setup::null().up();
    let mut child = instance
        .command(&["embed"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let reader = std::thread::spawn(move || lines.next().unwrap().unwrap());
    let line = "line\n".repeat(100);
    eventually("the first object", embedring_tests::WATCHDOG, || {
        drop(stdin.write_all(line.as_bytes()));
        reader.is_finished()
    });
    assert!(reader.join().unwrap().starts_with("{\"index\":0,"));
    child.kill().unwrap();
    child.wait().unwrap();
}

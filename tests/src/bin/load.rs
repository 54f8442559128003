//! `embedring-test-load SEED TIMEOUT_MS [REFERENCE]`: embeds lists of texts of the instance that the
//! environment names, one call after the other, until stdin ends, and compares every row to what it
//! must be, to the last bit.
//!
//! Without REFERENCE the rows are those of a null worker, a pure function of the text, and no text
//! comes twice. With it, texts and rows are taken from that file (see `Reference`).
//!
//! Says on stdout how it goes: `good N slowest_ms M` now and then, `error KIND MESSAGE` for each
//! call that ended in an error, `VIOLATION …` for what must never be.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "part of the tests: it fails loudly and speaks on stdout"
)]

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use embedring_client::{Client, Options};
use embedring_ipc::clock::now_ns;
use embedring_tests::{Random, bits, distance, null_row};

/// Texts with the rows they had when nobody was killed.
struct Reference {
    texts: Vec<String>,
    rows: Vec<Vec<f32>>,
}

impl Reference {
    /// A JSON array of `[text, [numbers]]`, written by a test. JSON keeps f32 exactly.
    fn read(path: &str) -> Self {
        let file: Vec<(String, Vec<f32>)> =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let (texts, rows) = file.into_iter().unzip();
        Self { texts, rows }
    }
}

/// A list of texts and the rows it must get.
fn list(
    random: &mut Random,
    reference: Option<&Reference>,
    serial: u64,
) -> (Vec<String>, Vec<Vec<f32>>) {
    // Mostly short lists, and some that travel as many messages.
    let count = match random.below(20) {
        0 => 100 + random.below(200),
        1..=5 => 10 + random.below(50),
        _ => 1 + random.below(8),
    };
    let one = |index: usize| match reference {
        Some(reference) => {
            let place = random.below(reference.texts.len());
            (
                reference.texts[place].clone(),
                reference.rows[place].clone(),
            )
        }
        None => {
            let pad = "x".repeat(random.below(60));
            let text = format!("{} {serial} {index} {pad}", std::process::id());
            let row = null_row(&text);
            (text, row)
        }
    };
    (0..count).map(one).unzip()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut random = Random::new(args[0].parse().unwrap());
    let timeout = Duration::from_millis(args[1].parse().unwrap());
    let reference = args.get(2).map(|path| Reference::read(path));
    // What the client warns of goes to the test's own stderr.
    embedring_telemetry::init("warn", embedring_telemetry::LogFormat::Text, "load").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    std::thread::spawn(move || {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        seen.store(true, Relaxed);
    });
    let client = match Client::from_env() {
        Ok(client) => client,
        Err(error) => {
            println!("VIOLATION no connection: {error}");
            return;
        }
    };
    let options = Options {
        timeout,
        ..Options::default()
    };
    let (mut good, mut slowest_ms, mut said_ns, mut serial) = (0_u64, 0, 0, 0);
    while !stop.load(Relaxed) {
        serial += 1;
        let (texts, rows) = list(&mut random, reference.as_ref(), serial);
        let begun_ns = now_ns();
        let answer = client.embed_with(&texts, &options);
        let took = Duration::from_nanos(now_ns() - begun_ns);
        slowest_ms = slowest_ms.max(took.as_millis());
        if took > timeout + Duration::from_secs(1) {
            println!("VIOLATION a call took {took:?}, its time-out is {timeout:?}");
        }
        match answer {
            Ok(answer) if answer.len() != texts.len() => {
                println!("VIOLATION {} rows for {} texts", answer.len(), texts.len());
            }
            Ok(answer) => {
                let wrong = (0..texts.len()).find(|at| bits(answer.row(*at)) != bits(&rows[*at]));
                match wrong {
                    Some(at) => println!(
                        "VIOLATION a wrong row for text {at}, by {}: {:?}",
                        distance(answer.row(at), &rows[at]),
                        texts[at]
                    ),
                    None => good += 1,
                }
            }
            Err(error) => println!("error {} {error}", error.kind()),
        }
        if now_ns() - said_ns > 10_000_000 || stop.load(Relaxed) {
            said_ns = now_ns();
            println!("good {good} slowest_ms {slowest_ms}");
        }
    }
    println!("good {good} slowest_ms {slowest_ms}");
}

//! Clients of one device: who asks for little does not wait for who asks for much, and who is in a hurry not for who
//! has time.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use embedring_client::{OnOverload, Options};
use embedring_protocol::Counter;
use embedring_tests::{Setup, expect_rows, mixed_texts, patient, warm_up};

const MS: u64 = 1_000_000;
/// Lists that the one client always has on their way, and texts of each.
const LISTS: usize = 8;
const TEXTS: usize = 60;
/// Texts of the other client, one after the other.
const ASKED: u64 = 20;

#[test]
fn a_client_with_one_text_does_not_wait_for_the_lists_of_another() {
    let instance = Setup::simulated(&[("only", MS, 20_000)])
        .set("SCHEDULER__BATCH_TIME_TARGET_MS", "20")
        .up();
    let modest = instance.client();
    warm_up(&instance, &modest, &["only"]);
    let texts_done = || instance.board().workers[0].counter(Counter::Texts);
    let done = AtomicBool::new(false);
    let meanwhile = std::thread::scope(|scope| {
        let greedy = instance.client();
        for list in 0..LISTS {
            let (greedy, done) = (greedy.clone(), &done);
            scope.spawn(move || {
                for round in 0.. {
                    if done.load(Relaxed) {
                        return;
                    }
                    let texts = mixed_texts(TEXTS, &format!("list {list} {round}"));
                    expect_rows(&texts, &greedy.embed_with(&texts, &patient()).unwrap());
                }
            });
        }
        // All lists are on their way.
        let begun = texts_done();
        while texts_done() < begun + (2 * LISTS * TEXTS) as u64 {
            std::thread::yield_now();
        }
        let before = texts_done();
        for nth in 0..ASKED {
            let text = [format!("one text {nth}")];
            expect_rows(&text, &modest.embed_with(&text, &patient()).unwrap());
        }
        let meanwhile = texts_done() - before;
        done.store(true, Relaxed);
        meanwhile
    });
    // By arrival each of them would wait for most of the lists; in turn it waits for what runs.
    let all = ASKED * (LISTS * TEXTS) as u64;
    assert!(
        meanwhile < all / 4,
        "{meanwhile} texts of the lists, of {all}"
    );
}

#[test]
fn a_question_is_taken_though_paragraphs_that_have_time_wait() {
    // A paragraph of 200 bytes takes 40 ms.
    let instance = Setup::simulated(&[("only", MS, 200_000)])
        .set("SCHEDULER__BATCH_TIME_TARGET_MS", "50")
        .set("LIMITS__REQUESTS_IN_FLIGHT_MAX", "64")
        .up();
    let client = instance.client();
    warm_up(&instance, &client, &["only"]);
    let paragraphs: Vec<_> = (0..40)
        .map(|nth| vec![format!("{nth:03}{}", "p".repeat(195))])
        .collect();
    let waiting: Vec<_> = paragraphs
        .iter()
        .map(|paragraph| client.start(paragraph.clone(), &patient()).unwrap())
        .collect();
    // 1.6 s of work wait, but it is due later.
    let hurry = Options {
        timeout: Duration::from_millis(400),
        on_overload: OnOverload::Fail,
        ..Options::default()
    };
    for nth in 0..3 {
        let question = [format!("a question {nth}")];
        expect_rows(&question, &client.embed_with(&question, &hurry).unwrap());
    }
    for (paragraph, pending) in paragraphs.iter().zip(waiting) {
        expect_rows(paragraph, &pending.wait().unwrap());
    }
}

#[test]
fn a_client_that_gives_up_again_and_again_holds_nobody_up() {
    // A paragraph of 200 bytes takes 20 ms, so the worker holds what the client gave up long ago.
    let instance = Setup::simulated(&[("only", MS, 100_000)])
        .set("SCHEDULER__BATCH_TIME_TARGET_MS", "20")
        .up();
    let (fickle, other) = (instance.client(), instance.client());
    warm_up(&instance, &other, &["only"]);
    for round in 0..20 {
        for nth in 0..30 {
            let paragraph = format!("{round:02}{nth:02}{}", "p".repeat(196));
            drop(fickle.start(vec![paragraph], &patient()));
        }
        let text = [format!("one text {round}")];
        expect_rows(&text, &other.embed_with(&text, &patient()).unwrap());
    }
    let text = ["in the end".to_owned()];
    expect_rows(&text, &fickle.embed_with(&text, &patient()).unwrap());
    let said = instance.stderr();
    assert!(!said.contains("could not be served"), "{said}");
}

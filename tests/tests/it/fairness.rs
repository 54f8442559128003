//! Two clients of one device: who asks for little does not wait for who asks for much.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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

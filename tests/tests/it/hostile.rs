//! Clients that keep no rule, while another one gets right answers throughout.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use embedring_protocol::{Status, TextFault};
use embedring_tests::{Hostile, Instance, Random, Setup, bits, good_message, is_running, null_row};

/// Runs `attack` while a good client embeds and checks; then looks whether the worker is the same.
#[track_caller]
fn check_nobody_else_is_disturbed(attack: impl FnOnce(&Instance, &Hostile, &mut Random)) {
    let instance = Setup::null().up();
    let pid = instance.worker_pid("cpu");
    let hostile = Hostile::connect(&instance);
    let stop = AtomicBool::new(false);
    let good = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let client = instance.client();
            while !stop.load(Relaxed) {
                let number = good.fetch_add(1, Relaxed);
                let texts = [format!("good {number}"), format!("also good {number}")];
                let answer = client.embed(&texts).unwrap();
                for (index, text) in texts.iter().enumerate() {
                    assert_eq!(bits(answer.row(index)), bits(&null_row(text)));
                }
            }
        });
        let wait_for_good = || {
            let until = good.load(Relaxed) + 5;
            embedring_tests::eventually(
                "the good client goes on",
                embedring_tests::WATCHDOG,
                || client.is_finished() || good.load(Relaxed) >= until,
            );
        };
        wait_for_good();
        // If the attack panics the good client must end all the same, or the scope waits for ever.
        let attacked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            attack(&instance, &hostile, &mut Random::new(7));
            wait_for_good();
        }));
        stop.store(true, Relaxed);
        client.join().unwrap();
        if let Err(panic) = attacked {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(is_running(pid), "the worker was brought down");
    assert_eq!(instance.worker_pid("cpu"), pid);
    // The hostile one itself is served as soon as it keeps the rules.
    let answer = hostile.ask(&good_message(5, &[b"now good"]));
    assert_eq!((answer.id, answer.status), (5, Status::Ok));
    assert_eq!(answer.rows, null_row("now good"));
}

#[test]
fn random_bytes_are_refused() {
    check_nobody_else_is_disturbed(|instance, hostile, random| {
        let before = instance.worker("cpu")["bad_requests"].as_u64().unwrap();
        for round in 0..200 {
            let length = match round {
                0 => 1,
                1 => hostile.slot_bytes(),
                _ => 1 + random.below(2000),
            };
            let bytes: Vec<u8> = (0..length).map(|_| random.byte()).collect();
            assert_eq!(hostile.ask(&bytes).status, Status::BadRequest);
        }
        let after = instance.worker("cpu")["bad_requests"].as_u64().unwrap();
        assert_eq!(after - before, 200, "counted");
    });
}

#[test]
fn a_wrong_version_and_wrong_numbers_are_refused() {
    check_nobody_else_is_disturbed(|_, hostile, random| {
        let good = good_message(1, &[b"one", b"two"]);
        let refused = |at: usize, value: &[u8]| {
            let mut broken = good.clone();
            broken[at..at + value.len()].copy_from_slice(value);
            let answer = hostile.ask(&broken);
            assert_eq!(answer.status, Status::BadRequest, "{value:?} at {at}");
        };
        // Magic, version, class, truncation.
        refused(0, b"HTTP");
        refused(4, &[99, 0]);
        refused(6, &[9]);
        refused(7, &[9]);
        let table = embedring_protocol::REQUEST_HEADER_BYTES;
        // Offset and length of the first text: outside, before the texts, and around the end of u32.
        for offset in [0, 4, u32::MAX, u32::MAX - 2, 1 << 20] {
            refused(table, &offset.to_le_bytes());
        }
        for bytes in [u32::MAX, 1 << 20] {
            refused(table + 4, &bytes.to_le_bytes());
        }
        // Any one byte changed: refused, or answered as what it then says, within its bounds.
        for at in 0..good.len() {
            let mut broken = good.clone();
            broken[at] ^= 1 << random.below(8);
            let answer = hostile.ask(&broken);
            assert_ne!(answer.status, Status::Internal, "byte {at}");
            assert!(answer.metas.len() <= 2, "byte {at}");
        }
        // Cut off anywhere.
        for length in 1..good.len() {
            let answer = hostile.ask(&good[..length]);
            assert_eq!(answer.status, Status::BadRequest, "{length} bytes");
        }
    });
}

#[test]
fn a_message_that_changes_while_it_is_read_is_answered_or_refused() {
    check_nobody_else_is_disturbed(|_, hostile, random| {
        let texts: Vec<String> = (0..40)
            .map(|index| format!("text {index} ").repeat(30))
            .collect();
        let texts: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        for id in 0..100 {
            let message = good_message(id, &texts);
            let answer = hostile.ask_and_scribble(&message, random);
            assert_ne!(answer.status, Status::Internal);
            assert_eq!(answer.rows.is_empty(), answer.status != Status::Ok);
        }
    });
}

#[test]
fn a_text_that_is_no_utf8_fails_alone() {
    check_nobody_else_is_disturbed(|_, hostile, _| {
        let answer = hostile.ask(&good_message(3, &[b"good", b"\xff\xfe", b"", b"caf\xc3"]));
        assert_eq!((answer.id, answer.status), (3, Status::Ok));
        let faults: Vec<_> = answer
            .metas
            .iter()
            .map(|meta| meta.flags().fault_of())
            .collect();
        let bad = Some(TextFault::InvalidUtf8);
        assert_eq!(faults, [None, bad, None, bad]);
        let rows: Vec<_> = answer.rows.chunks_exact(answer.rows.len() / 4).collect();
        assert_eq!(rows[0], null_row("good"));
        assert_eq!(rows[2], null_row(""));
        assert!(rows[1].iter().chain(rows[3]).all(|value| *value == 0.0));
    });
}

#[test]
fn a_client_that_never_takes_its_answers_harms_itself_alone() {
    check_nobody_else_is_disturbed(|_, hostile, _| {
        let message = good_message(9, &[b"kept waiting"]);
        let kept: Vec<_> = (0..8).map(|_| hostile.send(&message)).collect();
        assert!(hostile.try_send(&message).is_none(), "more than its share");
        drop(kept);
        // Sent and given up at once, again and again.
        for _ in 0..200 {
            drop(hostile.send(&message));
        }
    });
}

#[test]
fn nonsense_in_the_bells_wakes_somebody_for_nothing_at_most() {
    let instance = Setup::null().up();
    let hostile = Hostile::connect(&instance);
    let client = instance.client();
    let mut random = Random::new(11);
    for round in 0..200 {
        hostile.scribble_bells(&mut random);
        let text = format!("round {round}");
        let answer = client.embed(&[&text]).unwrap();
        assert_eq!(bits(answer.row(0)), bits(&null_row(&text)));
    }
}

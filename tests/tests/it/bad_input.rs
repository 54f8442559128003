//! Input that is empty, huge, or no text.

use std::fmt::Write as _;

use embedring_client::{EmbedError, Options, TextFault, Truncation};
use embedring_tests::{Instance, Setup, TINY, bits, null_row};

const TEN_MB: usize = 10 << 20;

#[test]
fn an_empty_list_is_an_error_and_an_empty_text_has_a_row() {
    let instance = Setup::null().up();
    let client = instance.client();
    let none: [&str; 0] = [];
    assert!(matches!(client.embed(&none), Err(EmbedError::EmptyList)));
    let answer = client.embed(&["a", "", "b"]).unwrap();
    for (index, text) in ["a", "", "b"].into_iter().enumerate() {
        assert_eq!(bits(answer.row(index)), bits(&null_row(text)));
        assert_eq!(answer.empty_text(index), text.is_empty());
        assert!(!answer.truncated(index));
    }
}

#[test]
fn a_model_gives_an_empty_text_the_row_of_its_special_tokens() {
    let instance = Setup::model(TINY).up();
    let client = instance.client();
    let answer = client.embed(&["", "word", ""]).unwrap();
    assert!(answer.empty_text(0) && answer.empty_text(2) && !answer.empty_text(1));
    assert_eq!(answer.tokens(0), 2);
    assert_eq!(bits(answer.row(0)), bits(answer.row(2)));
    assert_ne!(bits(answer.row(0)), bits(answer.row(1)));
}

/// A text of this size made of words.
fn words(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    let mut number = 0;
    while text.len() < bytes {
        write!(text, "word{number} ").unwrap();
        number += 1;
    }
    text
}

fn refuse() -> Options {
    Options {
        truncation: Truncation::Refuse,
        ..Options::default()
    }
}

#[test]
fn ten_megabytes_are_cut_with_a_flag_or_refused() {
    for setup in [Setup::null(), Setup::model(TINY)] {
        let instance = setup.up();
        let client = instance.client();
        let huge = words(TEN_MB);
        // What lies in the window and a good deal more, short enough to travel whole.
        let head = &huge[..60_000];
        let tail = &huge[huge.len() - 60_000..];
        for truncation in [Truncation::Right, Truncation::Left] {
            let options = Options {
                truncation,
                ..Options::default()
            };
            let part = if truncation == Truncation::Right {
                head
            } else {
                tail
            };
            let texts = ["before", &huge, "after", part];
            let answer = client.embed_with(&texts, &options).unwrap();
            assert!(answer.truncated(1) && answer.truncated(3));
            assert!(!answer.truncated(0) && !answer.truncated(2));
            assert_eq!(bits(answer.row(1)), bits(answer.row(3)), "{truncation:?}");
        }
        let texts = ["before", &huge, "after"];
        match client.embed_with(&texts, &refuse()) {
            Err(EmbedError::Text { index, fault }) => {
                assert_eq!((index, fault), (1, TextFault::TooLong));
            }
            other => panic!("{other:?}"),
        }
        let partial = Options {
            partial: true,
            ..refuse()
        };
        let answer = client.embed_with(&texts, &partial).unwrap();
        assert_eq!(answer.fault(1), Some(TextFault::TooLong));
        assert!(answer.row(1).iter().all(|value| *value == 0.0));
        let alone = client.embed(&["before", "after"]).unwrap();
        assert_eq!(bits(answer.row(0)), bits(alone.row(0)));
        assert_eq!(bits(answer.row(2)), bits(alone.row(1)));
    }
}

#[test]
fn ten_megabytes_on_the_command_line() {
    let instance = Setup::null().up();
    let mut lines = words(TEN_MB).into_bytes();
    lines.extend_from_slice(b"\nshort\n");
    let ran = instance.run_with(&["embed"], &lines).expect_code(0);
    let objects = ran.objects();
    assert_eq!(objects[0]["truncated"], true);
    assert_eq!(objects[1]["truncated"], false);
    let ran = instance
        .run_with(&["embed", "--truncate", "refuse"], &lines)
        .expect_code(1);
    let objects = ran.objects();
    assert_eq!(objects[0]["index"], 0);
    assert_eq!(objects[0]["kind"], "too_long");
    assert!(objects[0]["error"].is_string() && objects[0]["embedding"].is_null());
    assert_eq!(objects[1]["index"], 1);
    assert!(objects[1]["embedding"].is_array());
}

#[test]
fn ten_megabytes_of_white_space_give_no_wrong_row() {
    // The text travels cut, and what is left says nothing about what was behind it: here a word. A
    // row for "nothing" would be silently wrong.
    let instance = Setup::model(TINY).up();
    let client = instance.client();
    let blank = " ".repeat(TEN_MB) + "word";
    match client.embed(&["a", &blank]) {
        Err(EmbedError::Text { index, fault }) => {
            assert_eq!((index, fault), (1, TextFault::CutTooShort));
        }
        Ok(answer) => {
            let word = client.embed(&["word"]).unwrap();
            assert_eq!(bits(answer.row(1)), bits(word.row(0)), "silently wrong");
        }
        Err(other) => panic!("{other:?}"),
    }
    // Short enough to travel whole, it has the row of its word.
    let short = " ".repeat(20_000) + "word";
    let answer = client.embed(&[short.as_str(), "word"]).unwrap();
    assert_eq!(bits(answer.row(0)), bits(answer.row(1)));
    let ran = instance
        .run_with(&["embed"], (blank + "\nfine\n").as_bytes())
        .expect_code(1);
    assert!(ran.objects()[0]["error"].is_string());
    assert!(ran.objects()[1]["embedding"].is_array());
}

#[test]
fn a_line_that_is_no_utf8_is_an_error_in_its_place() {
    let instance = Setup::null().up();
    let file = instance.home().join("lines");
    std::fs::write(&file, b"one\ntw\xffo\nthree\n\xc3\n").unwrap();
    let ran = instance
        .run(&["embed", "--file", file.to_str().unwrap()])
        .expect_code(1);
    let objects = ran.objects();
    assert_eq!(objects.len(), 4);
    for (index, object) in objects.iter().enumerate() {
        assert_eq!(object["index"], index);
        let bad = index % 2 == 1;
        assert_eq!(object["kind"] == "invalid_utf8", bad, "{object}");
        assert_eq!(object["error"].is_string(), bad);
        assert_eq!(object["embedding"].is_array(), !bad);
    }
    assert!(ran.stderr.contains("2 texts failed"), "{}", ran.stderr);
    // An array has no place for errors.
    instance
        .run(&["embed", "-o", "npy", "--file", file.to_str().unwrap()])
        .expect_failure(&["text 1", "jsonl"]);
    instance
        .run(&["embed", "--file", "no-such-file"])
        .expect_failure(&["no-such-file"]);
}

/// The worker's highest resident set so far, in bytes.
fn peak(instance: &Instance) -> u64 {
    instance.worker("cpu")["rss_peak_bytes"].as_u64().unwrap()
}

/// Resident bytes that a worker may need more for a huge list than for one text: the shared memory of
/// one client's slots in both directions, what may wait as configured, one batch, and the
/// allocator's slack. Nothing in it depends on the length of the list.
const MORE_MAX: u64 = 96 << 20;

#[test]
fn a_hundred_thousand_texts_keep_their_order_in_bounded_memory() {
    let instance = Setup::null().up();
    let client = instance.client();
    client.embed(&["one"]).unwrap();
    let before = peak(&instance);
    let texts: Vec<String> = (0..100_000).map(|index| format!("text {index}")).collect();
    let options = Options {
        timeout: embedring_tests::WATCHDOG,
        ..Options::default()
    };
    let answer = client.embed_with(&texts, &options).unwrap();
    assert_eq!(answer.len(), texts.len());
    for (index, text) in texts.iter().enumerate() {
        assert_eq!(answer.row(index), null_row(text), "{text}");
    }
    let covered: usize = answer.parts().iter().map(|part| part.texts.len()).sum();
    assert_eq!(covered, texts.len());
    let more = peak(&instance) - before;
    assert!(more < MORE_MAX, "{more} bytes more for 100,000 texts");
}

#[test]
fn a_models_memory_does_not_depend_on_the_length_of_the_list() {
    let instance = Setup::model(TINY).up();
    let client = instance.client();
    let options = Options {
        timeout: embedring_tests::WATCHDOG,
        ..Options::default()
    };
    let texts = |count: usize| -> Vec<String> {
        (0..count)
            .map(|index| format!("question {index}: where is my card and why"))
            .collect()
    };
    // Enough to fill batches and queue as far as they are allowed to fill.
    let some = texts(1_000);
    let few = client.embed_with(&some, &options).unwrap().to_vec();
    let before = peak(&instance);
    let answer = client.embed_with(&texts(6_000), &options).unwrap();
    assert_eq!(bits(&answer.as_slice()[..few.len()]), bits(&few));
    let more = peak(&instance) - before;
    assert!(more < MORE_MAX, "{more} bytes more for six times the texts");
}

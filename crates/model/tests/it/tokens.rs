//! Tokenising: windows, sides, prompts, and texts cut by the sender.

use std::sync::LazyLock;

use embedring_model::TruncationSide::{self, Left, Right};
use embedring_model::{ByteTokenizer, Encoded, ModelDir, TokenizeError, Tokenizer};
use proptest::prelude::*;

use crate::models::{self, MINILM};

static MODEL: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::open(&ModelDir::open(&models::path(MINILM)).unwrap()).unwrap());

/// The library itself, on whole texts.
static WHOLE: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| {
    let path = models::path(MINILM).join("tokenizer.json");
    let mut whole = tokenizers::Tokenizer::from_file(path).unwrap();
    whole.with_padding(None).with_truncation(None).unwrap();
    whole
});

fn encode(
    prompt: &str,
    text: &str,
    max_tokens: usize,
    side: TruncationSide,
    cut: bool,
) -> Result<(Vec<u32>, bool), TokenizeError> {
    let mut ids = vec![9];
    let result = MODEL.encode(prompt, text, max_tokens, side, cut, &mut ids);
    assert_eq!(ids[0], 9, "ids are appended");
    let Encoded { tokens, truncated } = result.inspect_err(|_| assert_eq!(ids.len(), 1))?;
    assert_eq!(ids.len(), tokens + 1);
    Ok((ids.split_off(1), truncated))
}

/// What the window of the whole tokenisation holds.
fn expected(text: &str, max_tokens: usize, side: TruncationSide) -> (Vec<u32>, bool) {
    let whole = WHOLE.encode_fast(text, false).unwrap();
    let (ids, room) = (whole.get_ids(), max_tokens - 2);
    let kept = match side {
        Right => &ids[..ids.len().min(room)],
        Left => &ids[ids.len().saturating_sub(room)..],
    };
    ([&[101], kept, &[102]].concat(), ids.len() > room)
}

#[test]
fn special_tokens_stand_around_every_text() {
    assert_eq!(
        encode("", "", 256, Right, false).unwrap(),
        (vec![101, 102], false)
    );
    assert_eq!(
        encode("", "hello world", 256, Right, false).unwrap(),
        (vec![101, 7592, 2088, 102], false)
    );
    assert_eq!(
        encode("", "hello world", 3, Right, false).unwrap(),
        (vec![101, 7592, 102], true)
    );
    assert_eq!(
        encode("", "hello world", 3, Left, false).unwrap(),
        (vec![101, 2088, 102], true)
    );
    assert_eq!(
        encode("hello ", "world", 256, Right, false).unwrap(),
        (vec![101, 7592, 2088, 102], false)
    );
    let error = encode("", "hello", 2, Right, false).unwrap_err();
    assert!(matches!(
        error,
        TokenizeError::WindowTooSmall {
            max_tokens: 2,
            least: 3
        }
    ));
}

#[test]
fn the_file_s_own_truncation_and_padding_are_not_used() {
    let (ids, truncated) = encode("", &"word ".repeat(200), 256, Right, false).unwrap();
    assert_eq!((ids.len(), truncated), (202, false));
    let (ids, truncated) = encode("", &"word ".repeat(300), usize::MAX, Right, false).unwrap();
    assert_eq!((ids.len(), truncated), (256, true));
}

#[test]
fn a_cut_text_needs_a_margin() {
    let text = |words| "go ".repeat(words);
    for side in [Right, Left] {
        let error = encode("", &text(353), 256, side, true).unwrap_err();
        assert!(matches!(
            error,
            TokenizeError::CutTooShort {
                max_tokens: 256,
                bytes: 1059
            }
        ));
        let (ids, truncated) = encode("", &text(354), 256, side, true).unwrap();
        assert_eq!((ids.len(), truncated), (256, true));
    }
}

#[test]
fn a_cut_head_loses_the_prompt_and_a_cut_tail_keeps_it() {
    let text = "go ".repeat(400);
    let (ids, _) = encode("hello ", &text, 256, Right, true).unwrap();
    assert_eq!(ids[1], 7592);
    let (ids, _) = encode("hello ", &text, 256, Left, true).unwrap();
    assert!(ids[1..255].iter().all(|&id| id == 2175));
}

#[test]
fn bytes_behave_alike() {
    let run = |prompt: &str, text: &str, max, side, cut| {
        let mut ids = Vec::new();
        ByteTokenizer
            .encode(prompt, text, max, side, cut, &mut ids)
            .map(|encoded| (ids, encoded.tokens, encoded.truncated))
    };
    assert_eq!(
        run("", "", 9, Right, false).unwrap(),
        (vec![256, 257], 2, false)
    );
    assert_eq!(
        run("a", "bc", 9, Left, false).unwrap(),
        (vec![256, 97, 98, 99, 257], 5, false)
    );
    assert_eq!(
        run("a", "bc", 4, Right, false).unwrap(),
        (vec![256, 97, 98, 257], 4, true)
    );
    assert_eq!(
        run("a", "bc", 4, Left, false).unwrap(),
        (vec![256, 98, 99, 257], 4, true)
    );
    let long = "x".repeat(107);
    assert!(matches!(
        run("", &long[1..], 9, Right, true),
        Err(TokenizeError::CutTooShort {
            bytes: 106,
            max_tokens: 9
        })
    ));
    assert_eq!(run("", &long, 9, Right, true).unwrap().1, 9);
    assert!(matches!(
        run("", "x", 2, Right, false),
        Err(TokenizeError::WindowTooSmall { .. })
    ));
}

/// Words, long words, punctuation, odd white space, accents, ideographs, and special tokens.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => "[a-z]{1,9}",
        1 => "[a-zA-Z0-9]{1,150}",
        2 => "[.,;!?'\"$%-]{1,4}",
        8 => Just(" ".to_owned()),
        1 => "[ \t\r\n\u{a0}\u{b}\u{3000}\u{200b}\u{0}]{1,4}",
        1 => "[éöüñçÅ\u{301}\u{308}İΣς]{1,6}",
        1 => "[中文字符語漢한국어かな]{1,8}",
        1 => prop_oneof![Just("[SEP]".to_owned()), Just("[CLS]".to_owned()), Just("[SE".to_owned())],
        1 => "\\PC{0,8}",
    ];
    // Tens of times the window, so that a part of the text often suffices and often does not.
    (prop::collection::vec(piece, 0..120), 1..6usize)
        .prop_map(|(pieces, times)| pieces.concat().repeat(times))
}

fn sides() -> impl Strategy<Value = TruncationSide> {
    prop_oneof![Just(Right), Just(Left)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn a_window_is_that_of_the_whole_text(text in texts(), max in 3..24usize, side in sides()) {
        prop_assert_eq!(encode("", &text, max, side, false).unwrap(), expected(&text, max, side));
    }

    #[test]
    fn a_prompt_is_as_if_written_before_the_text(
        prompt in "[a-z: ]{0,12}", text in texts(), max in 3..24usize, side in sides(),
    ) {
        let whole = format!("{prompt}{text}");
        prop_assert_eq!(
            encode(&prompt, &text, max, side, false).unwrap(),
            expected(&whole, max, side)
        );
    }

    /// Whatever place the sender cut at, an answer is that of the whole text.
    #[test]
    fn a_cut_text_gives_the_whole_text_s_window_or_none(
        text in texts(), max in 3..24usize, side in sides(), at in 0..1000usize,
    ) {
        let at = text.floor_char_boundary(text.len() * at / 1000);
        let part = match side { Right => &text[..at], Left => &text[at..] };
        match encode("", part, max, side, true) {
            Ok((ids, truncated)) => {
                prop_assert!(truncated);
                prop_assert_eq!(ids, expected(&text, max, side).0);
            }
            Err(error) => prop_assert!(
                matches!(error, TokenizeError::CutTooShort { .. }), "{}", error
            ),
        }
    }
}

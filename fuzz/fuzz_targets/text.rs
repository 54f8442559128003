//! Any text through the tokeniser's window: always what truncating the whole would give.
//!
//! Input: kind of tokeniser (1 byte), side and cut and repetitions (1), tokens (1), where a client
//! cuts the text (2), the prompt (length in 1 byte), the text (the rest, repeated).

#![no_main]

use std::sync::OnceLock;

use embedring_fuzz::{Bytes, FILES, TOKENIZERS, file, scratch, tokenizer};
use embedring_model::{ModelDir, TokenizeError, Tokenizer, TruncationSide};
use libfuzzer_sys::fuzz_target;

/// Special tokens around a text.
const FRAME: usize = 2;
/// As the model's `sentence_bert_config.json` says.
const MODEL_MAX: usize = 40;

struct Pair {
    ours: Tokenizer,
    reference: tokenizers::Tokenizer,
    lowercase: bool,
}

fuzz_target!(|data: &[u8]| {
    let mut input = Bytes::new(data);
    let pair = &pairs()[usize::from(input.u8()) % pairs().len()];
    let options = input.u8();
    let side = if options & 1 == 0 {
        TruncationSide::Right
    } else {
        TruncationSide::Left
    };
    let (max_tokens, cut_at) = (usize::from(input.u8() % 48), usize::from(input.u16()));
    let prompt = input.text();
    let text = String::from_utf8_lossy(input.rest()).repeat(1 + usize::from(options >> 4));
    let full = pair.full(&format!("{prompt}{text}"));

    let (result, ids) = pair.encode(&prompt, &text, max_tokens, side, false);
    let room = max_tokens.min(MODEL_MAX).saturating_sub(FRAME);
    if room == 0 {
        assert!(matches!(result, Err(TokenizeError::WindowTooSmall { .. })));
        return;
    }
    let truncated = result.expect("any text has tokens");
    assert_eq!(ids, window(&full, room, side), "{prompt:?} {text:?}");
    assert_eq!(truncated, full.len() > room);

    // The same from a part of the text: refused, or exactly that.
    if options & 2 != 0 {
        let mut at = cut_at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let part = match side {
            TruncationSide::Right => &text[..at],
            TruncationSide::Left => &text[at..],
        };
        let (result, ids) = pair.encode(&prompt, part, max_tokens, side, true);
        match result {
            Ok(truncated) => {
                assert!(truncated);
                assert_eq!(
                    ids,
                    window(&full, room, side),
                    "{prompt:?} {part:?} of {text:?}"
                );
            }
            Err(error) => assert!(matches!(error, TokenizeError::CutTooShort { .. })),
        }
    }
});

fn window(full: &[u32], room: usize, side: TruncationSide) -> Vec<u32> {
    let kept = full.len().min(room);
    let text = match side {
        TruncationSide::Right => &full[..kept],
        TruncationSide::Left => &full[full.len() - kept..],
    };
    [&[2], text, &[3]].concat()
}

impl Pair {
    /// A tokeniser of this kind, with `do_lower_case` in twice as many kinds.
    fn new(kind: u8) -> Self {
        let folder = scratch().join(kind.to_string());
        std::fs::create_dir_all(folder.join("1_Pooling")).expect("a folder");
        let json = tokenizer(kind % TOKENIZERS).to_string();
        let lowercase = kind >= TOKENIZERS;
        for (index, name) in FILES.iter().enumerate() {
            let bytes = match *name {
                "tokenizer.json" => json.clone().into_bytes(),
                "sentence_bert_config.json" => {
                    format!("{{\"max_seq_length\":{MODEL_MAX},\"do_lower_case\":{lowercase}}}")
                        .into_bytes()
                }
                _ => file(index),
            };
            std::fs::write(folder.join(name), bytes).expect("a file");
        }
        let dir = ModelDir::open(&folder).expect("a good model");
        Self {
            ours: Tokenizer::open(&dir).expect("a good tokeniser"),
            reference: json.parse().expect("a good tokeniser"),
            lowercase,
        }
    }

    /// All tokens of a text, without special ones.
    fn full(&self, text: &str) -> Vec<u32> {
        let lower = text.to_lowercase();
        let text = if self.lowercase { &lower } else { text };
        let encoding = self.reference.encode_fast(text, false);
        encoding.expect("any text has tokens").get_ids().to_vec()
    }

    fn encode(
        &self,
        prompt: &str,
        text: &str,
        max_tokens: usize,
        side: TruncationSide,
        cut: bool,
    ) -> (Result<bool, TokenizeError>, Vec<u32>) {
        let mut ids = Vec::new();
        let result = self
            .ours
            .encode(prompt, text, max_tokens, side, cut, &mut ids);
        match result {
            Ok(encoded) => {
                assert_eq!(encoded.tokens, ids.len());
                assert!(ids.len() <= max_tokens.min(MODEL_MAX));
                (Ok(encoded.truncated), ids)
            }
            Err(error) => {
                assert!(ids.is_empty(), "an error leaves the ids as they were");
                (Err(error), ids)
            }
        }
    }
}

fn pairs() -> &'static [Pair] {
    static PAIRS: OnceLock<Vec<Pair>> = OnceLock::new();
    PAIRS.get_or_init(|| (0..2 * TOKENIZERS).map(Pair::new).collect())
}

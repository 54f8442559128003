//! Tokens of the part of a text that can lie in the window, without tokenising the rest.
//!
//! A BERT tokeniser treats words one by one, so the tokens of a text cut at white space are
//! exactly a prefix (or suffix) of the tokens of the whole. A part is tried, and doubled until it
//! gives more tokens than the window holds.

use serde_json::Value;

use crate::TruncationSide;

/// Tokens that must lie beyond the window before a text whose far end is missing counts as whole.
///
/// The word broken at the cut can be wrong: a WordPiece model makes at most 100 tokens of a word
/// (it gives up on longer ones), so nothing nearer than that is touched.
pub(crate) const MARGIN_TOKENS: usize = 100;

/// First try, in bytes for each token of the window. English has 4 to 5; more are markup.
const BYTES_PER_TOKEN: usize = 16;

/// Tokens found, and which of them count.
pub(crate) struct Found {
    encoding: tokenizers::Encoding,
    room: usize,
    side: TruncationSide,
    /// Whether tokens of the text are missing.
    pub(crate) truncated: bool,
}

impl Found {
    /// The tokens inside the window.
    pub(crate) fn kept(&self) -> &[u32] {
        let ids = self.encoding.get_ids();
        let count = ids.len().min(self.room);
        match self.side {
            TruncationSide::Right => &ids[..count],
            TruncationSide::Left => &ids[ids.len() - count..],
        }
    }
}

/// The tokens of `text` for a window of `room`; `None` if the text was cut too short to tell.
pub(crate) fn tokens(
    tokenizer: &tokenizers::Tokenizer,
    boundaries: &Boundaries,
    text: &str,
    room: usize,
    side: TruncationSide,
    cut: bool,
) -> tokenizers::Result<Option<Found>> {
    let mut bytes = room.saturating_mul(BYTES_PER_TOKEN);
    while let Some(part) = boundaries.part(text, bytes, side) {
        let encoding = tokenizer.encode_fast(part, false)?;
        // One token more than the window proves that something is missing, and a part that ends at
        // a boundary holds no broken word.
        if encoding.len() > room {
            return Ok(Some(Found {
                encoding,
                room,
                side,
                truncated: true,
            }));
        }
        bytes = bytes.saturating_mul(2);
    }
    let encoding = tokenizer.encode_fast(text, false)?;
    if cut && encoding.len() < room.saturating_add(MARGIN_TOKENS) {
        return Ok(None);
    }
    let truncated = cut || encoding.len() > room;
    Ok(Some(Found {
        encoding,
        room,
        side,
        truncated,
    }))
}

/// Where this tokeniser's texts may be cut without changing a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Boundaries {
    /// ASCII white space parts words.
    spaces: bool,
    /// Chinese characters are words of their own.
    ideographs: bool,
}

impl Boundaries {
    /// Reads from `tokenizer.json` what is certain; no boundary where in doubt.
    pub(crate) fn of(tokenizer_json: &[u8]) -> Self {
        let Ok(json) = serde_json::from_slice::<Value>(tokenizer_json) else {
            return Self::default();
        };
        let is = |part: &str, kind: &str| json[part]["type"] == kind;
        let longest_word = json["model"]["max_input_chars_per_word"].as_u64();
        let word_by_word = is("normalizer", "BertNormalizer")
            && is("pre_tokenizer", "BertPreTokenizer")
            && is("model", "WordPiece")
            && longest_word.is_some_and(|chars| chars <= 100);
        // An added token is looked for in the raw text, before words are parted.
        let added = json["added_tokens"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let no_added = |inside: fn(char) -> bool| {
            added.iter().all(|token| {
                token["content"]
                    .as_str()
                    .is_some_and(|s| !s.contains(inside))
            })
        };
        Self {
            spaces: word_by_word && no_added(is_space),
            ideographs: word_by_word
                && json["normalizer"]["handle_chinese_chars"] == true
                && no_added(is_ideograph),
        }
    }

    /// The longest part of at most `bytes` at the kept side of `text` that may be tokenised
    /// alone; `None` if there is none shorter than the text.
    fn part<'t>(&self, text: &'t str, bytes: usize, side: TruncationSide) -> Option<&'t str> {
        let splits = |c| (self.spaces && is_space(c)) || (self.ideographs && is_ideograph(c));
        if bytes >= text.len() {
            return None;
        }
        match side {
            TruncationSide::Right => {
                // The last boundary character stays outside.
                let head = &text[..text.floor_char_boundary(bytes)];
                let end = head.rfind(splits).filter(|&end| end > 0)?;
                Some(&head[..end])
            }
            TruncationSide::Left => {
                // The first boundary character stays inside.
                let tail = &text[text.ceil_char_boundary(text.len() - bytes)..];
                let start = tail.find(splits)?;
                Some(&tail[start..])
            }
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Boundaries = Boundaries {
        spaces: true,
        ideographs: true,
    };

    #[track_caller]
    fn check(bytes: usize, text: &str, right: Option<&str>, left: Option<&str>) {
        assert_eq!(ALL.part(text, bytes, TruncationSide::Right), right);
        assert_eq!(ALL.part(text, bytes, TruncationSide::Left), left);
    }

    #[test]
    fn parts_end_at_boundaries() {
        check(11, "one two six", None, None);
        check(6, "one two six", Some("one"), Some(" six"));
        check(8, "one two six", Some("one two"), Some(" two six"));
        check(3, "one two six", None, None);
        check(7, "中文字符", Some("中"), Some("字符"));
        check(4, "ééééé", None, None);
    }

    #[test]
    fn a_tokeniser_that_is_not_word_by_word_has_no_boundaries() {
        assert_eq!(Boundaries::of(b"{}"), Boundaries::default());
        assert_eq!(Boundaries::of(b"not json"), Boundaries::default());
        let json = |added: &str| {
            format!(
                r#"{{"normalizer":{{"type":"BertNormalizer","handle_chinese_chars":true}},
                "pre_tokenizer":{{"type":"BertPreTokenizer"}},
                "model":{{"type":"WordPiece","max_input_chars_per_word":100}},
                "added_tokens":[{{"content":"{added}"}}]}}"#
            )
        };
        assert_eq!(Boundaries::of(json("[SEP]").as_bytes()), ALL);
        assert!(!Boundaries::of(json("two words").as_bytes()).spaces);
        assert!(!Boundaries::of(json("中").as_bytes()).ideographs);
    }
}

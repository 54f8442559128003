//! Texts to send.

use std::path::{Path, PathBuf};

use embedring_quant::calibration_texts;
use embedring_traffic::{Drawn, Kind};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

/// Tokens of an English word, with its share of the punctuation, and of the marks around a text.
const TOKENS_PER_WORD: f64 = 1.25;
const MARKS: f64 = 2.0;
/// The shortest of the project's own texts that words are taken from: paragraphs of prose.
const PROSE_BYTES_MIN: usize = 300;

/// Why a file of texts can not be used.
#[derive(Debug, Error)]
pub enum TextsError {
    /// It can not be read.
    #[error("cannot read the texts {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It has only empty lines.
    #[error("{path} holds no text; each line that is not empty is one")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Where texts are drawn from.
#[derive(Clone, Debug)]
pub struct Texts {
    /// Lines of files, in the order of [`Kind::ALL`].
    lines: [Option<Vec<String>>; 2],
    words: Vec<&'static str>,
}

impl Texts {
    /// Lines of these files; without one, running words of the project's own paragraphs, as many as the tokens that
    /// were drawn make.
    ///
    /// # Errors
    /// When a file can not be read or holds no text.
    pub fn new(questions: Option<&Path>, paragraphs: Option<&Path>) -> Result<Self, TextsError> {
        Ok(Self {
            lines: [lines(questions)?, lines(paragraphs)?],
            words: words(),
        })
    }

    /// A text of this kind.
    pub(crate) fn text(&self, drawn: Drawn, random: &mut ChaCha8Rng) -> String {
        let place = match drawn.kind {
            Kind::Question => 0,
            Kind::Paragraph => 1,
        };
        if let Some(lines) = &self.lines[place] {
            return lines[random.random_range(0..lines.len())].clone();
        }
        let start = random.random_range(0..self.words.len());
        let words = self.words.iter().cycle().skip(start);
        let words: Vec<&str> = words.take(word_count(drawn.tokens)).copied().collect();
        words.join(" ")
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "tokens of one text"
)]
fn word_count(tokens: u64) -> usize {
    ((tokens as f64 - MARKS) / TOKENS_PER_WORD).round().max(1.0) as usize
}

fn words() -> Vec<&'static str> {
    calibration_texts()
        .filter(|text| text.len() >= PROSE_BYTES_MIN && is_prose(text))
        .flat_map(str::split_whitespace)
        .collect()
}

/// Letters and spaces, but for a tenth.
fn is_prose(text: &str) -> bool {
    let plain = text
        .chars()
        .filter(|c| c.is_ascii_alphabetic() || *c == ' ')
        .count();
    plain * 10 >= text.chars().count() * 9
}

fn lines(path: Option<&Path>) -> Result<Option<Vec<String>>, TextsError> {
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|source| TextsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let lines: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if lines.is_empty() {
        return Err(TextsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(Some(lines))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn drawn(kind: Kind, tokens: u64) -> Drawn {
        Drawn { kind, tokens }
    }

    #[test]
    fn built_in_texts_have_the_words_asked_for() {
        let texts = Texts::new(None, None).unwrap();
        assert!(texts.words.len() > 1_000, "{}", texts.words.len());
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for (tokens, words) in [(1, 1), (3, 1), (20, 14), (512, 408)] {
            let text = texts.text(drawn(Kind::Question, tokens), &mut random);
            assert_eq!(text.split(' ').count(), words, "{text}");
        }
    }

    #[test]
    fn a_file_gives_its_lines_and_an_empty_one_is_an_error() {
        let folder = std::env::temp_dir().join(format!("embedring-texts-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("questions");
        std::fs::write(&path, "who?\n\n  why? \n").unwrap();
        let texts = Texts::new(Some(&path), None).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut seen: Vec<_> = (0..50)
            .map(|_| texts.text(drawn(Kind::Question, 20), &mut random))
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["who?", "why?"]);
        assert!(texts.text(drawn(Kind::Paragraph, 20), &mut random).len() > 20);
        std::fs::write(&path, "\n \n").unwrap();
        let empty = Texts::new(Some(&path), None).err();
        assert!(matches!(empty, Some(TextsError::Empty { .. })), "{empty:?}");
        std::fs::remove_dir_all(&folder).unwrap();
        let missing = Texts::new(None, Some(&path)).err();
        assert!(
            matches!(missing, Some(TextsError::Read { .. })),
            "{missing:?}"
        );
    }
}

//! Questions and paragraphs.

use rand::Rng;
use rand_distr::{Distribution as _, StandardNormal};

/// Kind of a text, by which results are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Short, with a tight deadline.
    Question,
    /// Long, with [`PARAGRAPH_TIMES`] as much time.
    Paragraph,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Question, Self::Paragraph];

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Question => "question",
            Self::Paragraph => "paragraph",
        }
    }
}

/// A paragraph has so many times the time of a question.
pub const PARAGRAPH_TIMES: u64 = 4;

/// Median and deviation of the logarithm of a text's tokens. No public trace of an embedding service was found:
/// these are lengths of search queries and of passages as they are cut for retrieval.
const QUESTION_TOKENS: (f64, f64) = (20.0, 0.6);
const PARAGRAPH_TOKENS: (f64, f64) = (180.0, 0.5);
const TOKENS_MIN: u64 = 3;
const TOKENS_MAX: u64 = 512;

/// What comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Of the requests, how many are questions, 0 to 1.
    pub question_share: f64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            question_share: 0.75,
        }
    }
}

/// A text that was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// What it is.
    pub kind: Kind,
    /// How long, 3 to 512.
    pub tokens: u64,
}

impl Mix {
    /// Draws a text: its kind, and tokens by a lognormal distribution of that kind.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to a text's tokens"
    )]
    pub fn draw(&self, random: &mut impl Rng) -> Drawn {
        let (kind, (median, deviation)) = if random.random_bool(self.question_share.clamp(0.0, 1.0))
        {
            (Kind::Question, QUESTION_TOKENS)
        } else {
            (Kind::Paragraph, PARAGRAPH_TOKENS)
        };
        let normal: f64 = StandardNormal.sample(random);
        let tokens = (median * (deviation * normal).exp()).round() as u64;
        Drawn {
            kind,
            tokens: tokens.clamp(TOKENS_MIN, TOKENS_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn three_quarters_are_questions_and_medians_are_as_said() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<_> = (0..20_000)
            .map(|_| Mix::default().draw(&mut random))
            .collect();
        for (kind, share, median) in [(Kind::Question, 0.75, 20), (Kind::Paragraph, 0.25, 180)] {
            let mut tokens: Vec<_> = drawn
                .iter()
                .filter(|drawn| drawn.kind == kind)
                .map(|drawn| drawn.tokens)
                .collect();
            assert!((tokens.len() as f64 / 20_000.0 - share).abs() < 0.02);
            tokens.sort_unstable();
            let middle = tokens[tokens.len() / 2];
            assert!(middle.abs_diff(median) * 20 <= median, "{middle}");
        }
        let none = Mix {
            question_share: 0.0,
        };
        assert_eq!(none.draw(&mut random).kind, Kind::Paragraph);
    }
}

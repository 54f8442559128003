//! From a text to token ids, with the model's limit and the client's choice of side.

use std::borrow::Cow;
use std::path::PathBuf;

use serde_json::Value;

use crate::ModelDir;
use crate::window::{self, Boundaries};

/// The tokeniser of a model, shared by threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Special tokens before and after a text.
    before: Vec<u32>,
    after: Vec<u32>,
    max_tokens: usize,
    lowercase: bool,
    boundaries: Boundaries,
}

/// Which end of a text that is too long is kept away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TruncationSide {
    /// The end is dropped.
    Right,
    /// The beginning is dropped.
    Left,
}

/// What became of one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids appended, special ones included.
    pub tokens: usize,
    /// Whether tokens of the text are missing.
    pub truncated: bool,
}

/// Why a model has no tokeniser.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerOpenError {
    /// `tokenizer.json` is missing, unreadable or broken.
    #[error("cannot load {}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What the tokeniser library said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It gives ids that the word embedding does not have, so the files do not belong together.
    #[error("{} has token id {id}, vocab_size in config.json is {vocabulary}", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Its largest id.
        id: u32,
        /// The model's vocabulary.
        vocabulary: usize,
    },
    /// Its special tokens are not a fixed frame around the text, or the frame fills the window.
    #[error("{} puts no fixed special tokens around a text", path.display())]
    SpecialTokens {
        /// The file.
        path: PathBuf,
    },
}

/// Why one text has no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// The text was cut to fit a slot, and what is left is not enough to fill the window for
    /// certain. Send it in larger slots, or truncate it.
    #[error("the text was cut to {bytes} bytes, which may not fill {max_tokens} tokens")]
    CutTooShort {
        /// Bytes that came.
        bytes: usize,
        /// The window.
        max_tokens: usize,
    },
    /// The window has no room for the special tokens and one of the text.
    #[error("max_tokens {max_tokens} is too small, {least} is the least")]
    WindowTooSmall {
        /// The window.
        max_tokens: usize,
        /// Special tokens and one.
        least: usize,
    },
    /// The tokeniser library failed.
    #[error("the tokeniser failed")]
    Library(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Tokenizer {
    /// Loads the tokeniser of a model. Truncation and padding that its file asks for are not
    /// used: they are whoever saved the file's, not the model's.
    ///
    /// # Errors
    /// [`TokenizerOpenError`] when the file is missing, broken or of another model.
    pub fn open(dir: &ModelDir) -> Result<Self, TokenizerOpenError> {
        let path = dir.tokenizer().to_owned();
        let load = |source| TokenizerOpenError::Load {
            path: path.clone(),
            source,
        };
        let bytes = std::fs::read(&path).map_err(|e| load(Box::new(e)))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(load)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(load)?;
        let vocabulary = dir.architecture().vocabulary;
        if let Some(id) = inner.get_vocab(true).into_values().max()
            && usize::try_from(id).is_ok_and(|id| id >= vocabulary)
        {
            return Err(TokenizerOpenError::Vocabulary {
                path,
                id,
                vocabulary,
            });
        }
        if !has_its_special_tokens(&inner) {
            return Err(TokenizerOpenError::SpecialTokens { path });
        }
        let boundaries = Boundaries::of(&bytes);
        let max_tokens = dir.info().max_tokens;
        let frame = frame(&inner).map_err(load)?;
        let Some((before, after)) = frame.filter(|(b, a)| b.len() + a.len() < max_tokens) else {
            return Err(TokenizerOpenError::SpecialTokens { path });
        };
        let lowercase = dir.lowercase();
        Ok(Self {
            inner,
            before,
            after,
            max_tokens,
            lowercase,
            boundaries,
        })
    }

    /// Appends the ids of `prompt` followed by `text`, special tokens included, to `ids`: at most
    /// `max_tokens`, and never more than the model takes. An empty text is the special tokens
    /// alone.
    ///
    /// `cut` says that `text` is only the part of a longer one nearest the side that is kept: its
    /// tail is missing for [`TruncationSide::Right`], its head for [`TruncationSide::Left`]. The
    /// answer is then always `truncated`, and given only where the missing part cannot matter.
    ///
    /// # Errors
    /// [`TokenizeError`]; `ids` is then as it was.
    pub fn encode(
        &self,
        prompt: &str,
        text: &str,
        max_tokens: usize,
        side: TruncationSide,
        cut: bool,
        ids: &mut Vec<u32>,
    ) -> Result<Encoded, TokenizeError> {
        let max_tokens = max_tokens.min(self.max_tokens);
        let frame = self.before.len() + self.after.len();
        let room = room(max_tokens, frame)?;
        let mut whole = match (prompt, cut, side) {
            // The prompt stands before the missing head, so it lies outside the window too.
            ("", ..) | (_, true, TruncationSide::Left) => Cow::Borrowed(text),
            _ => Cow::Owned([prompt, text].concat()),
        };
        if self.lowercase {
            // Whether a sigma becomes a final one depends on letters any distance away, which the
            // part that was cut off may have held.
            if cut && whole.contains('Σ') {
                return Err(TokenizeError::CutTooShort {
                    bytes: text.len(),
                    max_tokens,
                });
            }
            whole = Cow::Owned(whole.to_lowercase());
        }
        let found = window::tokens(&self.inner, &self.boundaries, &whole, room, side, cut)
            .map_err(TokenizeError::Library)?
            .ok_or(TokenizeError::CutTooShort {
                bytes: text.len(),
                max_tokens,
            })?;
        let kept = found.kept();
        ids.extend_from_slice(&self.before);
        ids.extend_from_slice(kept);
        ids.extend_from_slice(&self.after);
        Ok(Encoded {
            tokens: frame + kept.len(),
            truncated: found.truncated,
        })
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The library's own output is the whole vocabulary.
        f.debug_struct("Tokenizer")
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
    }
}

fn room(max_tokens: usize, frame: usize) -> Result<usize, TokenizeError> {
    if max_tokens <= frame {
        return Err(TokenizeError::WindowTooSmall {
            max_tokens,
            least: frame + 1,
        });
    }
    Ok(max_tokens - frame)
}

/// Whether each special token that a template puts around a text is one that the template explains: the library
/// looks it up without asking, and panics.
fn has_its_special_tokens(inner: &tokenizers::Tokenizer) -> bool {
    let Ok(processor) = serde_json::to_value(inner.get_post_processor()) else {
        return false;
    };
    let several = processor.get("processors").and_then(Value::as_array);
    let all = several.map_or_else(|| std::slice::from_ref(&processor), Vec::as_slice);
    all.iter().all(|processor| {
        let pieces = ["single", "pair"]
            .into_iter()
            .filter_map(|form| processor.get(form)?.as_array());
        let mut ids = pieces
            .flatten()
            .filter_map(|piece| piece.pointer("/SpecialToken/id"));
        ids.all(|id| {
            let known = processor.get("special_tokens").zip(id.as_str());
            known.is_some_and(|(known, id)| known.get(id).is_some())
        })
    })
}

type Frame = (Vec<u32>, Vec<u32>);

/// The special tokens before and after a text, found by encoding one with and without them.
fn frame(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Option<Frame>> {
    let bare = inner.encode_fast("a", false)?;
    let framed = inner.encode_fast("a", true)?;
    let (bare, framed) = (bare.get_ids(), framed.get_ids());
    let at = framed
        .windows(bare.len().max(1))
        .position(|part| part == bare);
    Ok(at.map(|at| (framed[..at].to_vec(), framed[at + bare.len()..].to_vec())))
}

/// One token for each byte of a text, between two special ones: the tokeniser for
/// [`NullBackend`](crate::NullBackend).
#[derive(Clone, Copy, Debug, Default)]
pub struct ByteTokenizer;

impl ByteTokenizer {
    /// The special token before a text.
    pub const CLS: u32 = 256;
    /// The special token after a text.
    pub const SEP: u32 = 257;

    /// As [`Tokenizer::encode`].
    ///
    /// # Errors
    /// [`TokenizeError`]; `ids` is then as it was.
    pub fn encode(
        self,
        prompt: &str,
        text: &str,
        max_tokens: usize,
        side: TruncationSide,
        cut: bool,
        ids: &mut Vec<u32>,
    ) -> Result<Encoded, TokenizeError> {
        let room = room(max_tokens, 2)?;
        let prompt = if cut && side == TruncationSide::Left {
            ""
        } else {
            prompt
        };
        let total = prompt.len() + text.len();
        if cut && total < room.saturating_add(window::MARGIN_TOKENS) {
            return Err(TokenizeError::CutTooShort {
                bytes: text.len(),
                max_tokens,
            });
        }
        let kept = total.min(room);
        let skipped = match side {
            TruncationSide::Right => 0,
            TruncationSide::Left => total - kept,
        };
        ids.push(Self::CLS);
        ids.extend(
            prompt
                .bytes()
                .chain(text.bytes())
                .skip(skipped)
                .take(kept)
                .map(u32::from),
        );
        ids.push(Self::SEP);
        Ok(Encoded {
            tokens: kept + 2,
            truncated: cut || total > kept,
        })
    }
}

/// The tokeniser of a model, or the one that needs none.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a worker has one, and a box would only add a hop"
)]
pub enum AnyTokenizer {
    /// A model's.
    Model(Tokenizer),
    /// Bytes.
    Bytes(ByteTokenizer),
}

impl AnyTokenizer {
    /// As [`Tokenizer::encode`].
    ///
    /// # Errors
    /// [`TokenizeError`]; `ids` is then as it was.
    pub fn encode(
        &self,
        prompt: &str,
        text: &str,
        max_tokens: usize,
        side: TruncationSide,
        cut: bool,
        ids: &mut Vec<u32>,
    ) -> Result<Encoded, TokenizeError> {
        match self {
            Self::Model(model) => model.encode(prompt, text, max_tokens, side, cut, ids),
            Self::Bytes(bytes) => bytes.encode(prompt, text, max_tokens, side, cut, ids),
        }
    }
}

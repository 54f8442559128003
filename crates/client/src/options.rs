//! What a caller can ask of one call.

use std::time::Duration;

use embedring_protocol::{Class, NormalizeOption, Truncation};

/// What goes before each text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Prompt {
    /// What the instance is configured with, or the model's own default; for most models nothing.
    #[default]
    Default,
    /// This text; empty for nothing at all.
    Text(String),
    /// The model's prompt of this name, `query` for instance.
    Named(String),
}

/// What to do when the workers have no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOverload {
    /// Wait as long as the worker says and try again, until the deadline.
    #[default]
    Retry,
    /// Return [`crate::EmbedError::Overloaded`] at once.
    Fail,
}

/// Options of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Time the whole call may take. Default 30 s. Every call ends by then, in rows or in an error.
    pub timeout: Duration,
    /// How urgent it is. Default interactive.
    pub class: Class,
    /// Components per row, 0 for all. Fewer are cut off and the rest is normalised again
    /// (Matryoshka representations, Kusupati et al. 2022).
    pub dimensions: usize,
    /// Whether rows have length one. Default as the model's description says.
    pub normalize: NormalizeOption,
    /// What happens to texts longer than the model's window. Default cut at the end, and flagged.
    pub truncation: Truncation,
    /// What goes before each text.
    pub prompt: Prompt,
    /// Name of the model wanted; `None` for whatever the instance serves.
    pub model: Option<String>,
    /// The device to use: by its name (`cuda:0`), or by its kind (`cuda`) for any of that kind. `None` for
    /// whichever answers first. No other device is used in its place.
    pub use_device: Option<String>,
    /// What to do when the workers have no room.
    pub on_overload: OnOverload,
    /// Return rows although some texts failed; [`crate::Embeddings::fault`] then says which. Default
    /// false: one failed text fails the call.
    pub partial: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            class: Class::Interactive,
            dimensions: 0,
            normalize: NormalizeOption::Model,
            truncation: Truncation::Right,
            prompt: Prompt::Default,
            model: None,
            use_device: None,
            on_overload: OnOverload::Retry,
            partial: false,
        }
    }
}

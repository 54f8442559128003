//! What a caller can choose for a request, as small numbers on the wire.

/// How urgent a request is. On the wire a `u8`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Somebody waits for it.
    #[default]
    Interactive = 0,
    /// Throughput matters, the moment does not.
    Bulk = 1,
}

/// What happens to a text with more tokens than the model takes. On the wire a `u8`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Truncation {
    /// The end is cut off, and the row is flagged.
    #[default]
    Right = 0,
    /// The beginning is cut off, and the row is flagged.
    Left = 1,
    /// The text fails.
    Refuse = 2,
}

/// Whether rows are scaled to length one. On the wire a `u8`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NormalizeOption {
    /// As the model's own description says.
    #[default]
    Model = 0,
    /// Always.
    Yes = 1,
    /// Never.
    No = 2,
}

/// What the prompt bytes of a request are. On the wire a `u8`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PromptKind {
    /// No bytes; the worker puts its configured default prompt, if any, before each text.
    #[default]
    Default = 0,
    /// The bytes themselves go before each text (none at all: no prompt).
    Text = 1,
    /// The bytes name one of the model's prompts.
    Name = 2,
}

macro_rules! from_wire {
    ($type:ty, $($value:literal => $variant:expr),+) => {
        impl $type {
            /// From the wire; `None` for an unknown number.
            #[must_use]
            pub fn from_wire(value: u8) -> Option<Self> {
                match value {
                    $($value => Some($variant),)+
                    _ => None,
                }
            }
        }
    };
}
from_wire!(Class, 0 => Self::Interactive, 1 => Self::Bulk);
from_wire!(Truncation, 0 => Self::Right, 1 => Self::Left, 2 => Self::Refuse);
from_wire!(NormalizeOption, 0 => Self::Model, 1 => Self::Yes, 2 => Self::No);
from_wire!(PromptKind, 0 => Self::Default, 1 => Self::Text, 2 => Self::Name);

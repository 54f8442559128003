//! What arrives.

use serde::Serialize;

/// Kind of a text, by which results are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Short, with a tight deadline.
    Question,
    /// Long, with four times as much time.
    Paragraph,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Question, Self::Paragraph];
}

/// A request of one text. Times are nanoseconds since the beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) arrived_ns: u64,
    pub(crate) deadline_ns: u64,
    pub(crate) tokens: u64,
}

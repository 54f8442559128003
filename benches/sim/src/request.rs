//! What arrives.

pub(crate) use embedring_traffic::Kind;

/// A request of one text. Times are nanoseconds since the beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) arrived_ns: u64,
    pub(crate) deadline_ns: u64,
    pub(crate) tokens: u64,
}

//! Identifiers: small numbers and short names that must not be mixed up.

use std::fmt;

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::{CLIENTS_MAX, NAME_BYTES, WORKERS_MAX};

/// Place of a worker on the board, below [`WORKERS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerIndex(u16);

impl WorkerIndex {
    /// `None` when `index` is not below [`WORKERS_MAX`].
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        u16::try_from(index)
            .ok()
            .filter(|_| index < WORKERS_MAX)
            .map(Self)
    }

    /// The index as a number for slices.
    #[must_use]
    pub fn get(self) -> usize {
        usize::from(self.0)
    }

    /// All indices in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..WORKERS_MAX).filter_map(Self::new)
    }
}

/// Place of a client among the bells, below [`CLIENTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientIndex(u16);

impl ClientIndex {
    /// `None` when `index` is not below [`CLIENTS_MAX`].
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        u16::try_from(index)
            .ok()
            .filter(|_| index < CLIENTS_MAX)
            .map(Self)
    }

    /// The index as a number for slices.
    #[must_use]
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

/// A process that cannot be confused with a later one of the same number: its id and its start time
/// in clock ticks since boot. All zero means nobody.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ProcessId {
    /// Process id as the kernel numbers it.
    pub pid: u64,
    /// Field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

impl ProcessId {
    /// Both numbers in one word, so that a place can be claimed with one compare-and-swap: the pid
    /// in the upper 22 bits (the kernel's own maximum), the start time in the lower 42 (a thousand
    /// years of ticks).
    #[must_use]
    pub fn packed(self) -> u64 {
        (self.pid << 42) | (self.start_ticks & ((1 << 42) - 1))
    }

    /// Back from [`ProcessId::packed`].
    #[must_use]
    pub fn from_packed(word: u64) -> Self {
        Self {
            pid: word >> 42,
            start_ticks: word & ((1 << 42) - 1),
        }
    }

    /// True for the all-zero value, which stands for no process.
    #[must_use]
    pub fn is_nobody(self) -> bool {
        self.pid == 0
    }
}

/// The first 16 bytes of the SHA-256 of a model's weights. All zero in a request means "whatever
/// the instance serves".
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct ModelId(pub [u8; 16]);

impl ModelId {
    /// Any model.
    pub const ANY: Self = Self([0; 16]);

    /// From a full SHA-256.
    #[must_use]
    pub fn from_digest(digest: &[u8; 32]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A short UTF-8 name, zero padded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Name([u8; NAME_BYTES]);

/// Why a string is no [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a name may have {NAME_BYTES} bytes at most and no zero byte; this one has {bytes} bytes")]
pub struct NameError {
    /// Length of the string given.
    pub bytes: usize,
}

impl Name {
    /// The empty name.
    pub const EMPTY: Self = Self([0; NAME_BYTES]);

    /// # Errors
    /// When the string is longer than [`NAME_BYTES`] or holds a zero byte.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.len() > NAME_BYTES || name.bytes().any(|byte| byte == 0) {
            return Err(NameError { bytes: name.len() });
        }
        let mut bytes = [0; NAME_BYTES];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self(bytes))
    }

    /// The name, cut at a character boundary when it is too long. For names that only inform.
    #[must_use]
    pub fn lossy(name: &str) -> Self {
        let clean: String = name.chars().filter(|c| *c != '\0').collect();
        let mut end = clean.len().min(NAME_BYTES);
        while !clean.is_char_boundary(end) {
            end -= 1;
        }
        Self::new(&clean[..end]).unwrap_or(Self::EMPTY)
    }

    /// The bytes before the padding as text; bytes that are no UTF-8 read as `?`, because a name
    /// comes from another process.
    #[must_use]
    pub fn to_text(&self) -> String {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(NAME_BYTES);
        std::str::from_utf8(&self.0[..end]).map_or_else(|_| "?".to_owned(), str::to_owned)
    }
}

impl Default for Name {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_refuse_what_does_not_fit() {
        assert_eq!(Name::new("cpu").unwrap().to_text(), "cpu");
        assert!(Name::new(&"x".repeat(65)).is_err());
        assert!(Name::new("a\0b").is_err());
        assert_eq!(Name::lossy(&"é".repeat(40)).to_text(), "é".repeat(32));
        assert_eq!(Name([0xff; NAME_BYTES]).to_text(), "?");
    }

    #[test]
    fn indices_are_bounded() {
        assert!(WorkerIndex::new(WORKERS_MAX).is_none());
        assert!(ClientIndex::new(CLIENTS_MAX).is_none());
        assert_eq!(WorkerIndex::all().count(), WORKERS_MAX);
    }
}

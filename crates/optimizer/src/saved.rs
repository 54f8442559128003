//! A planner's knowledge as bytes: a head, the numbers, and a checksum of both.
//!
//! Who reads it back trusts nothing: a file can be cut, damaged, of another version or made by
//! somebody else. Numbers are read with their bounds.

use thiserror::Error;

/// First bytes of what this module writes.
const MAGIC: [u8; 8] = *b"EMBRMODL";
/// Version of the numbers' order; raised with every change of it.
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
const CHECK_BYTES: usize = 4;

/// Why saved knowledge can not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// It is not what a planner saves.
    #[error("it is no saved model")]
    Foreign,
    /// It was saved by another version.
    #[error("it has version {found}; this one reads {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// It is shorter or longer than it says.
    #[error("it has {bytes} bytes and says that it has {said}")]
    Length {
        /// Bytes there are.
        bytes: usize,
        /// Bytes there should be.
        said: usize,
    },
    /// The checksum is another one.
    #[error("its checksum does not fit its content")]
    Damaged,
    /// The checksum fits and a number is impossible.
    #[error("a number in it is impossible")]
    Impossible,
}

/// Puts numbers one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    payload: Vec<u8>,
}

impl Writer {
    pub(crate) fn number(&mut self, value: u64) {
        self.payload.extend(value.to_le_bytes());
    }

    pub(crate) fn float(&mut self, value: f64) {
        self.number(value.to_bits());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.payload.extend(value);
    }

    /// Head, numbers and checksum.
    pub(crate) fn finish(self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let mut saved = Vec::with_capacity(HEAD_BYTES + self.payload.len() + CHECK_BYTES);
        saved.extend(MAGIC);
        saved.extend(VERSION.to_le_bytes());
        saved.extend(length.to_le_bytes());
        saved.extend(self.payload);
        let check = checksum(&saved);
        saved.extend(check.to_le_bytes());
        saved
    }
}

/// Takes the numbers out again, in the same order. `None` where there is no such number.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// After head and checksum were found right.
    pub(crate) fn new(saved: &'a [u8]) -> Result<Self, RestoreError> {
        let Some((head, rest)) = saved.split_at_checked(HEAD_BYTES) else {
            return Err(RestoreError::Foreign);
        };
        let word = |at: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&head[at..at + 4]);
            u32::from_le_bytes(four)
        };
        if head[..8] != MAGIC {
            return Err(RestoreError::Foreign);
        }
        if word(8) != VERSION {
            return Err(RestoreError::Version { found: word(8) });
        }
        let said = usize::try_from(word(12)).unwrap_or(usize::MAX);
        let said = said.saturating_add(HEAD_BYTES + CHECK_BYTES);
        if said != saved.len() {
            return Err(RestoreError::Length {
                bytes: saved.len(),
                said,
            });
        }
        let (payload, check) = rest.split_at(rest.len() - CHECK_BYTES);
        // A fuzzer finds no checksums, and what is behind them must not rely on them.
        let is_right = checksum(&saved[..saved.len() - CHECK_BYTES]).to_le_bytes() == check;
        if !is_right && !cfg!(fuzzing) {
            return Err(RestoreError::Damaged);
        }
        Ok(Self { rest: payload })
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut eight = [0; 8];
        eight.copy_from_slice(self.bytes(8)?);
        Some(u64::from_le_bytes(eight))
    }

    /// A number that is one.
    pub(crate) fn float(&mut self) -> Option<f64> {
        let value = f64::from_bits(self.number()?);
        value.is_finite().then_some(value)
    }

    /// A number of 0 or more.
    pub(crate) fn not_negative(&mut self) -> Option<f64> {
        self.float().filter(|value| *value >= 0.0)
    }

    /// A number of things, of which there are `max` at most.
    pub(crate) fn count(&mut self, max: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= max).then_some(count)
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }
}

/// CRC-32 with the polynomial of IEEE 802.3: no change of up to 32 neighbouring bits goes unseen.
fn checksum(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let start = !0_u32;
    !bytes.iter().fold(start, |sum, byte| {
        let [low, ..] = sum.to_le_bytes();
        TABLE[usize::from(low ^ byte)] ^ (sum >> 8)
    })
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    let mut value = 0_u32;
    while byte < 256 {
        let mut sum = value;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 {
                0xedb8_8320 ^ (sum >> 1)
            } else {
                sum >> 1
            };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
        value += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_common_one() {
        // The check value of CRC-32 that its descriptions give.
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn numbers_come_back_and_bounds_hold() {
        let mut writer = Writer::default();
        writer.number(7);
        writer.float(-0.5);
        writer.float(f64::NAN);
        writer.number(9);
        let saved = writer.finish();
        let mut reader = Reader::new(&saved).unwrap();
        assert_eq!(reader.number(), Some(7));
        assert_eq!(reader.float(), Some(-0.5));
        assert_eq!(reader.float(), None, "not a number is none");
        assert_eq!(reader.count(8), None);
        assert!(reader.is_at_end());
        assert_eq!(reader.number(), None);
    }

    #[test]
    fn another_version_is_named() {
        let mut saved = Writer::default().finish();
        saved[8] = 9;
        assert_eq!(
            Reader::new(&saved).unwrap_err(),
            RestoreError::Version { found: 9 }
        );
    }
}

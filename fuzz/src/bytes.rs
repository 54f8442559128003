//! Numbers, slices and texts out of the fuzzer's bytes.
//!
//! By hand and not by the `arbitrary` crate, so that `examples/seeds.rs` can write what is read here.

use std::borrow::Cow;

/// Reads from the front. What is asked for beyond the end is zero or empty.
#[derive(Debug)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// Over all of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let have = self.take(N);
        array[..have.len()].copy_from_slice(have);
        array
    }

    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// Two bytes, the lower one first.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Eight bytes, the lowest one first.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A length in one byte, then as many bytes.
    pub fn slice(&mut self) -> &'a [u8] {
        let length = usize::from(self.u8());
        self.take(length)
    }

    /// As [`Bytes::slice`], what is not UTF-8 replaced.
    pub fn text(&mut self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.slice())
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }
}

/// Whether `part` lies in the memory of `whole`.
pub fn inside(whole: &[u8], part: &[u8]) -> bool {
    part.is_empty() || {
        let (whole, part) = (whole.as_ptr_range(), part.as_ptr_range());
        whole.start <= part.start && part.end <= whole.end
    }
}

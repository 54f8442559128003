//! What a worker holds in memory, by the largest batch it ran: a table, and a bound beyond it.
//!
//! Memory once taken is seldom given back, so a small batch after a large one says nothing: an entry is
//! the most that was resident while no batch was larger. Beyond the largest batch memory is expected
//! to grow as steeply as between the smallest and the largest seen, and half as steeply again.

use crate::number::{float, whole};
use crate::saved::{Reader, Writer};

/// Entries, by the power of two that a batch's tokens reach.
const ENTRIES: usize = 32;
/// How much steeper memory may grow than it did.
const MARGIN: f64 = 1.5;

/// The table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Bytes; 0 for batches of sizes that were not seen before larger ones.
    peak_bytes: [u64; ENTRIES],
    smallest: Option<usize>,
    largest: usize,
}

impl Memory {
    /// Takes in what was resident after a batch of `tokens` tokens.
    pub(crate) fn add(&mut self, tokens: u64, resident_bytes: u64) {
        if tokens == 0 || resident_bytes == 0 {
            return;
        }
        let entry = entry_of(tokens);
        if self.smallest.is_none() {
            self.smallest = Some(entry);
        } else if entry < self.largest {
            return;
        }
        self.largest = entry;
        self.peak_bytes[entry] = self.peak_bytes[entry].max(resident_bytes);
    }

    /// The most tokens for a batch so that no more than `max_bytes` should be resident; nothing when
    /// nothing was seen. What was run already with room to spare is always allowed.
    pub(crate) fn tokens_within(&self, max_bytes: u64) -> Option<u64> {
        let smallest = self.smallest?;
        let seen = self.peak_bytes[self.largest];
        let fits = |entry: &usize| (1..=max_bytes).contains(&self.peak_bytes[*entry]);
        if seen > max_bytes {
            // The largest that fitted, to its upper end; else batches as small as were ever seen.
            let entry = (0..=self.largest).rev().find(fits).unwrap_or(smallest);
            return Some(upper_end(entry));
        }
        let grown = float(seen.saturating_sub(self.peak_bytes[smallest]));
        let tokens = float(upper_end(self.largest).saturating_sub(upper_end(smallest)));
        if grown <= 0.0 || tokens <= 0.0 {
            return Some(u64::MAX);
        }
        let more = float(max_bytes - seen) * tokens / grown / MARGIN;
        Some(upper_end(self.largest).saturating_add(whole(more)))
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.number(self.smallest.map_or(u64::MAX, |entry| entry as u64));
        to.number(self.largest as u64);
        self.peak_bytes.iter().for_each(|&bytes| to.number(bytes));
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let smallest = match from.number()? {
            u64::MAX => None,
            entry => Some(usize::try_from(entry).ok().filter(|at| *at < ENTRIES)?),
        };
        let mut memory = Self {
            smallest,
            largest: from.count(ENTRIES - 1)?,
            ..Self::default()
        };
        for bytes in &mut memory.peak_bytes {
            *bytes = from.number()?;
        }
        Some(memory)
    }
}

fn entry_of(tokens: u64) -> usize {
    usize::try_from(tokens.max(1).ilog2()).map_or(ENTRIES - 1, |entry| entry.min(ENTRIES - 1))
}

/// The most tokens of an entry.
fn upper_end(entry: usize) -> u64 {
    (2_u64 << entry) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(batches: &[(u64, u64)]) -> Memory {
        let mut memory = Memory::default();
        for &(tokens, bytes) in batches {
            memory.add(tokens, bytes);
        }
        memory
    }

    #[test]
    fn nothing_seen_is_no_opinion_and_no_growth_no_bound() {
        assert_eq!(Memory::default().tokens_within(100), None);
        let memory = seen(&[(10, 500), (1_000, 500), (20, 500)]);
        assert_eq!(memory.tokens_within(600), Some(u64::MAX));
    }

    #[test]
    fn growth_is_carried_on_with_a_margin() {
        // 1 byte a token: 100 bytes are left above 2,047 tokens, of which two thirds are given.
        let memory = seen(&[(1, 1_001), (2_000, 3_047), (3, 3_047)]);
        assert_eq!(memory.tokens_within(3_147), Some(2_047 + 67));
        assert_eq!(memory.tokens_within(3_047), Some(2_047));
    }

    #[test]
    fn what_was_too_much_is_not_allowed_again() {
        let memory = seen(&[(10, 1_000), (100, 1_500), (5_000, 9_000)]);
        assert_eq!(memory.tokens_within(2_000), Some(127));
        assert_eq!(memory.tokens_within(1_200), Some(15));
        // Over the bound from the first: batches as small as those that were run.
        assert_eq!(memory.tokens_within(10), Some(15));
    }

    #[test]
    fn a_small_batch_after_a_large_one_says_nothing() {
        let memory = seen(&[(10, 1_000), (5_000, 9_000), (10, 9_000)]);
        assert_eq!(memory, seen(&[(10, 1_000), (5_000, 9_000)]));
    }
}

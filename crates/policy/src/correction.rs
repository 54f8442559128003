//! What a learned model says of a batch beside its coefficients: a factor, from a small table by tokens and
//! by length, between whose entries it is interpolated. Nothing else of a learned model is ever on a
//! request's path.

use embedring_protocol::{CORRECTION_LENGTHS, CORRECTION_TOKENS, Corrections};

/// No correction.
pub(crate) const NONE: Corrections = [[0; CORRECTION_LENGTHS]; CORRECTION_TOKENS];
/// A factor of 1.
const ONE: u64 = 1024;

/// The first entry, for tokens and for lengths: 2³. Each further one is for twice the tokens, and for four
/// times the length.
const FIRST_LOG: u64 = 3;
const TOKENS_LOG: u64 = 1;
const LENGTHS_LOG: u64 = 2;

/// Tokens of the batch and squared tokens that stand for a table's entry. A batch of fewer tokens than the
/// entry's length is one text.
#[must_use]
pub fn correction_place(tokens_at: usize, length_at: usize) -> (u64, u64) {
    let power = |at: usize, log: u64| 1 << (FIRST_LOG + at as u64 * log).min(32);
    let tokens: u64 = power(tokens_at, TOKENS_LOG);
    (tokens, tokens * power(length_at, LENGTHS_LOG).min(tokens))
}

/// The factor of a batch, in 1/1024. Its length is squared tokens over tokens: the length of the text that a
/// token is in, on average.
#[must_use]
pub fn correction_1024(corrections: &Corrections, tokens: u64, squares: u64) -> u64 {
    let tokens = tokens.max(1);
    let (row, row_part) = place(tokens, TOKENS_LOG, CORRECTION_TOKENS);
    let (column, column_part) = place(squares / tokens, LENGTHS_LOG, CORRECTION_LENGTHS);
    let entry = |row: usize, column: usize| match corrections[row][column] {
        0 => ONE,
        factor => u64::from(factor),
    };
    let between = |low: u64, high: u64, part: u64| (low * (PARTS - part) + high * part) / PARTS;
    let line = |row: usize| {
        let next = (column + 1).min(CORRECTION_LENGTHS - 1);
        between(entry(row, column), entry(row, next), column_part)
    };
    let next = (row + 1).min(CORRECTION_TOKENS - 1);
    between(line(row), line(next), row_part)
}

/// Into how many parts the way from one entry to the next is cut.
const PARTS: u64 = 256;

/// The entry at or below a value, and how far it is from there to the next.
fn place(value: u64, log: u64, entries: usize) -> (usize, u64) {
    let above = log2(value).saturating_sub(FIRST_LOG * PARTS) / log;
    let last = entries as u64 - 1;
    if above >= last * PARTS {
        return (entries - 1, 0);
    }
    (usize::try_from(above / PARTS).unwrap_or(0), above % PARTS)
}

/// The logarithm in 1/256, straight between powers of two.
fn log2(value: u64) -> u64 {
    let value = value.max(1);
    let whole = value.ilog2();
    let rest = match whole.checked_sub(8) {
        Some(shift) => value >> shift,
        None => value << (8 - whole),
    };
    u64::from(whole) * PARTS + (rest & (PARTS - 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_are_met_and_between_them_it_is_straight() {
        let mut table = NONE;
        for (row, line) in table.iter_mut().enumerate() {
            for (column, entry) in line.iter_mut().enumerate() {
                *entry = u16::try_from(1_000 + 100 * row + 10 * column).unwrap();
            }
        }
        for (row, line) in table.iter().enumerate() {
            for (column, &entry) in line.iter().enumerate() {
                let (tokens, squares) = correction_place(row, column);
                if squares / tokens == 8 << (2 * column) {
                    let found = correction_1024(&table, tokens, squares);
                    assert_eq!(found, u64::from(entry), "{tokens} {squares}");
                }
            }
        }
        // 24 tokens of texts of 8 are halfway from 16 to 32; beyond the ends it is as at the ends.
        assert_eq!(correction_1024(&table, 24, 24 * 8), 1_150);
        assert_eq!(correction_1024(&table, 1, 1), 1_000);
        assert_eq!(correction_1024(&table, u64::MAX, 8), 2_100);
        assert_eq!(correction_1024(&table, 1 << 20, 1 << 30), 2_130);
    }

    #[test]
    fn no_table_is_a_factor_of_one() {
        assert_eq!(correction_1024(&NONE, 100, 1_000), ONE);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn factors_are_within_those_of_the_table(tokens: u64, squares: u64, entries: [u16; CORRECTION_TOKENS]) {
            let table = entries.map(|entry| [entry; CORRECTION_LENGTHS]);
            let all = || entries.iter().map(|&entry| if entry == 0 { ONE } else { u64::from(entry) });
            let found = correction_1024(&table, tokens, squares);
            prop_assert!(found >= all().min().unwrap_or(0));
            prop_assert!(found <= all().max().unwrap_or(0));
        }
    }
}

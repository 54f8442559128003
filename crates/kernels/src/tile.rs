//! The innermost loop: a few rows times one panel of two vectors of columns, held in registers.
//!
//! Every number is one chain of additions over the words of a row, first to last. So it does not
//! depend on how many rows share a tile, which is what makes rows independent of their batch.

use crate::memory::LINE;
use crate::simd::Simd;

/// What the words hold, and how they are multiplied.
pub(crate) trait Dot {
    /// Sums are i32, else f32.
    const BYTES: bool;
    /// Words of `a` for each word of `b`: 1 or 2.
    const WORDS: usize = 1;
    type Acc<S: Simd>: Copy;
    fn sums_of<S: Simd>(simd: S, bits: S::W) -> Self::Acc<S>;
    fn to_bits<S: Simd>(simd: S, acc: Self::Acc<S>) -> S::W;
    /// What each of the words of `a` is multiplied with.
    #[inline(always)]
    fn unpack<S: Simd>(_: S, b: S::W) -> [S::W; 2] {
        [b, b]
    }
    /// `acc + a · b`, by words.
    fn dot<S: Simd>(simd: S, acc: Self::Acc<S>, a: S::W, b: S::W) -> Self::Acc<S>;
}

/// One f32 in a word.
pub(crate) struct DotF32;
/// Two bf16 in a word.
pub(crate) struct DotBf16;
/// One f32 in a word of `a`, two bf16 in a word of `b`.
pub(crate) struct DotBf16Weights;
/// Four bytes in a word, unsigned times signed.
pub(crate) struct DotU8;

macro_rules! sums_in_f32 {
    () => {
        const BYTES: bool = false;
        type Acc<S: Simd> = S::F;
        #[inline(always)]
        fn sums_of<S: Simd>(simd: S, bits: S::W) -> S::F {
            simd.floats(bits)
        }
        #[inline(always)]
        fn to_bits<S: Simd>(simd: S, acc: S::F) -> S::W {
            simd.words(acc)
        }
    };
}

impl Dot for DotF32 {
    sums_in_f32!();
    #[inline(always)]
    fn dot<S: Simd>(simd: S, acc: S::F, a: S::W, b: S::W) -> S::F {
        simd.dot_f32(acc, a, b)
    }
}

impl Dot for DotBf16 {
    sums_in_f32!();
    #[inline(always)]
    fn dot<S: Simd>(simd: S, acc: S::F, a: S::W, b: S::W) -> S::F {
        simd.dot_bf16(acc, a, b)
    }
}

impl Dot for DotBf16Weights {
    const WORDS: usize = 2;
    sums_in_f32!();
    #[inline(always)]
    fn unpack<S: Simd>(simd: S, b: S::W) -> [S::W; 2] {
        simd.unpack_bf16(b)
    }
    #[inline(always)]
    fn dot<S: Simd>(simd: S, acc: S::F, a: S::W, b: S::W) -> S::F {
        simd.dot_f32(acc, a, b)
    }
}

impl Dot for DotU8 {
    const BYTES: bool = true;
    type Acc<S: Simd> = S::W;
    #[inline(always)]
    fn sums_of<S: Simd>(_: S, bits: S::W) -> S::W {
        bits
    }
    #[inline(always)]
    fn to_bits<S: Simd>(_: S, acc: S::W) -> S::W {
        acc
    }
    #[inline(always)]
    fn dot<S: Simd>(simd: S, acc: S::W, a: S::W, b: S::W) -> S::W {
        simd.dot_u8(acc, a, b)
    }
}

/// Rows of words in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    /// The first word.
    pub(crate) at: *const u32,
    /// Words from one row to the next.
    pub(crate) stride: usize,
}

/// Columns of a panel: two vectors.
pub(crate) const fn panel_columns<S: Simd>() -> usize {
    2 * S::LANES
}

/// How `rows` rows are cut into tiles of at most `S::TILE_ROWS`, as evenly as can be: the first row
/// and the rows of each tile.
#[inline(always)]
pub(crate) fn each_tile<S: Simd>(rows: usize, mut f: impl FnMut(usize, usize)) {
    let tiles = rows.div_ceil(S::TILE_ROWS);
    let (mut at, mut left) = (0, rows);
    for tile in 0..tiles {
        let count = left.div_ceil(tiles - tile);
        f(at, count);
        at += count;
        left -= count;
    }
}

/// Writes the bits of `a · b` for `rows` rows of `a` and one panel `b` of which each step has a row of
/// `panel_columns` words to `out`, rows of `panel_columns` that are `out.1` words apart; with `go_on`,
/// adds to what is there. With `AHEAD`, asks for what lies behind `b`, as many words as `b` has.
///
/// # Safety
/// `rows` is 1..=`S::TILE_ROWS`; `a` has that many rows of `D::WORDS * steps` readable words, `b` has
/// `steps` rows of `panel_columns` readable words, `out` `rows` rows of `panel_columns` initialised and
/// writable words.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, D: Dot, const AHEAD: bool>(
    simd: S,
    rows: usize,
    a: Rows,
    b: Rows,
    steps: usize,
    go_on: bool,
    out: (*mut u32, usize),
) {
    macro_rules! by_rows {
        ($($rows:literal)*) => {
            match rows {
                // SAFETY: as the caller promised.
                $($rows if S::TILE_ROWS >= $rows => unsafe {
                    fixed::<S, D, AHEAD, $rows>(simd, a, b, steps, go_on, out)
                },)*
                _ => unreachable!("{rows} rows in a tile of {}", S::TILE_ROWS),
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12)
}

/// # Safety
/// As [`tile`], for `ROWS` rows.
#[inline(always)]
unsafe fn fixed<S: Simd, D: Dot, const AHEAD: bool, const ROWS: usize>(
    simd: S,
    a: Rows,
    b: Rows,
    steps: usize,
    go_on: bool,
    (out, out_stride): (*mut u32, usize),
) {
    let zero = D::sums_of(simd, simd.splat_word(0));
    let mut acc = [[zero; 2]; ROWS];
    if go_on {
        for (row, acc) in acc.iter_mut().enumerate() {
            for (half, acc) in acc.iter_mut().enumerate() {
                let at = out.wrapping_add(row * out_stride + half * S::LANES);
                // SAFETY: row `row` of `out` has two vectors.
                *acc = D::sums_of(simd, unsafe { simd.load_words_at(at) });
            }
        }
    }
    let mut panel = b.at;
    for step in 0..steps {
        // SAFETY: step `step` of the panel has two vectors of words.
        let b0 = D::unpack(simd, unsafe { simd.load_words_at(panel) });
        // SAFETY: as above.
        let b1 = D::unpack(simd, unsafe {
            simd.load_words_at(panel.wrapping_add(S::LANES))
        });
        if AHEAD {
            let ahead = panel.wrapping_add(steps * b.stride);
            simd.prefetch(ahead);
            if S::LANES * 2 > LINE {
                simd.prefetch(ahead.wrapping_add(LINE));
            }
        }
        for (row, acc) in acc.iter_mut().enumerate() {
            for word in 0..D::WORDS {
                let at = a.at.wrapping_add(row * a.stride + step * D::WORDS + word);
                // SAFETY: row `row` of `a` has `D::WORDS * steps` words.
                let x = simd.splat_word(unsafe { *at });
                acc[0] = D::dot(simd, acc[0], x, b0[word]);
                acc[1] = D::dot(simd, acc[1], x, b1[word]);
            }
        }
        panel = panel.wrapping_add(b.stride);
    }
    for (row, acc) in acc.into_iter().enumerate() {
        for (half, acc) in acc.into_iter().enumerate() {
            let at = out.wrapping_add(row * out_stride + half * S::LANES);
            // SAFETY: row `row` of `out` has room for two vectors.
            unsafe { simd.store_words_at(D::to_bits(simd, acc), at) };
        }
    }
}

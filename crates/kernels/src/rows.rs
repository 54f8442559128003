//! What is done to whole rows: looking up embeddings, adding and normalising, packing, pooling.

use crate::crew::Team;
use crate::level::dispatch;
use crate::memory::{Matrix, Parts};
use crate::product::RowScale;
use crate::simd::Simd;

/// Rows that are worth a meeting of threads, which takes about a microsecond.
const ROWS_LEAST: usize = 16;

/// A layer normalisation (Ba, Kiros and Hinton 2016).
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[width]`.
    pub weight: Vec<f32>,
    /// `[width]`.
    pub bias: Vec<f32>,
    /// Added to the variance.
    pub eps: f32,
}

/// Where rows go that the next product reads, beside the f32 of them.
#[derive(Debug)]
pub enum Packed<'a> {
    /// Nowhere: the product reads f32.
    None,
    /// As words of two bf16.
    Bf16(&'a mut Matrix<u32>),
    /// Times `factors` (none for 1), as words of four bytes and what they are worth.
    Int8 {
        /// `[rows, width]`, packed.
        words: &'a mut Matrix<u32>,
        /// By row.
        scales: &'a mut [RowScale],
        /// `[width]`, or empty.
        factors: &'a [f32],
    },
}

/// Tables of embeddings, each `[_, width]` in row order.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// By token id.
    pub words: &'a [f32],
    /// By place in the sequence.
    pub positions: &'a [f32],
}

/// Writes to `x` the normalised sum of word and position of each token: `ids` end to end, cut into
/// sequences at `offsets` (from 0 to the number of ids).
///
/// # Panics
/// When an id, a place or a size is outside its table.
pub fn embed(
    team: &mut Team<'_>,
    ids: &[u32],
    offsets: &[usize],
    tables: Tables<'_>,
    norm: &Norm,
    x: &mut Matrix<f32>,
    packed: Packed<'_>,
) {
    let level = team.level();
    let width = norm.weight.len();
    assert!(x.rows() >= ids.len() && x.columns() == width, "no room");
    let x = Parts::of(x);
    let packed = PackedParts::of(packed, ids.len());
    team.each_run(offsets.len() - 1, 1, |_, sequences| {
        for sequence in sequences {
            for (place, token) in (offsets[sequence]..offsets[sequence + 1]).enumerate() {
                let word = &tables.words[ids[token] as usize * width..][..width];
                let position = &tables.positions[place * width..][..width];
                // SAFETY: a token belongs to one sequence, and that to one thread.
                let row = unsafe { x.slice(token, 0..width) };
                dispatch!(level, simd => {
                    sum(simd, word, position, row);
                    normalise(simd, norm, row);
                    packed.pack(simd, token, row);
                });
            }
        }
    });
}

/// `x = norm(x + y)` for the first `rows` rows.
///
/// # Panics
/// When sizes do not fit together.
pub fn add_norm(
    team: &mut Team<'_>,
    rows: usize,
    y: &Matrix<f32>,
    norm: &Norm,
    x: &mut Matrix<f32>,
    packed: Packed<'_>,
) {
    let level = team.level();
    let width = norm.weight.len();
    assert!(x.rows() >= rows && x.columns() == width, "no room");
    assert!(y.rows() >= rows && y.columns() == width, "no such rows");
    let x = Parts::of(x);
    let packed = PackedParts::of(packed, rows);
    team.each_run(rows, ROWS_LEAST, |_, run| {
        for index in run {
            // SAFETY: a row belongs to one thread.
            let row = unsafe { x.slice(index, 0..width) };
            dispatch!(level, simd => {
                add(simd, &y.row(index)[..width], row);
                normalise(simd, norm, row);
                packed.pack(simd, index, row);
            });
        }
    });
}

/// Packs the first `rows` rows of `x`.
///
/// # Panics
/// When sizes do not fit together.
pub fn pack(team: &mut Team<'_>, rows: usize, x: &Matrix<f32>, packed: Packed<'_>) {
    let level = team.level();
    let packed = PackedParts::of(packed, rows);
    team.each_run(rows, ROWS_LEAST, |_, run| {
        for index in run {
            let row = &x.row(index)[..x.columns()];
            dispatch!(level, simd => packed.pack(simd, index, row));
        }
    });
}

/// The mean over the rows `from..to` of `x`, or with `first` the first of them.
///
/// # Panics
/// When there is no row, or `out` is not as long as a row.
pub fn pool(
    level: crate::Level,
    x: &Matrix<f32>,
    rows: std::ops::Range<usize>,
    first: bool,
    out: &mut [f32],
) {
    let width = x.columns();
    assert_eq!(out.len(), width, "no room for a row");
    assert!(!rows.is_empty(), "no row to pool");
    let count = rows.len();
    let mut rows = rows;
    out.copy_from_slice(&x.row(rows.start)[..width]);
    if first {
        return;
    }
    rows.start += 1;
    for row in rows {
        dispatch!(level, simd => add(simd, &x.row(row)[..width], out));
    }
    #[expect(clippy::cast_precision_loss, reason = "tokens are fewer than 2^24")]
    let count = count as f32;
    out.iter_mut().for_each(|x| *x /= count);
}

/// [`Packed`] for several threads at once.
enum PackedParts<'a> {
    None,
    Bf16(Parts<'a, u32>),
    Int8 {
        words: Parts<'a, u32>,
        scales: ScaleParts<'a>,
        factors: &'a [f32],
    },
}

/// Scales of rows, of which each thread writes its own.
struct ScaleParts<'a>(
    *mut RowScale,
    usize,
    std::marker::PhantomData<&'a mut RowScale>,
);

// SAFETY: it stands for an exclusive borrow, shared under the contract of `set`.
unsafe impl Sync for ScaleParts<'_> {}

impl ScaleParts<'_> {
    /// # Safety
    /// No other thread uses this row's scale.
    unsafe fn set(&self, row: usize, scale: RowScale) {
        assert!(row < self.1, "a scale for each row");
        let at = self.0.wrapping_add(row);
        // SAFETY: within the borrow, and the caller's promise.
        unsafe { at.write(scale) }
    }
}

impl<'a> PackedParts<'a> {
    fn of(packed: Packed<'a>, rows: usize) -> Self {
        match packed {
            Packed::None => Self::None,
            Packed::Bf16(words) => {
                assert!(words.rows() >= rows, "no room");
                Self::Bf16(Parts::of(words))
            }
            Packed::Int8 {
                words,
                scales,
                factors,
            } => {
                assert!(words.rows() >= rows, "no room");
                Self::Int8 {
                    words: Parts::of(words),
                    scales: ScaleParts(scales.as_mut_ptr(), scales.len(), std::marker::PhantomData),
                    factors,
                }
            }
        }
    }

    #[inline(always)]
    fn pack<S: Simd>(&self, simd: S, row: usize, x: &[f32]) {
        match self {
            Self::None => {}
            Self::Bf16(words) => {
                // SAFETY: a row belongs to one thread.
                let out = unsafe { words.slice(row, 0..x.len().div_ceil(2)) };
                round(simd, x, out);
            }
            Self::Int8 {
                words,
                scales,
                factors,
            } => {
                // SAFETY: a row belongs to one thread.
                let out = unsafe { words.slice(row, 0..x.len().div_ceil(4)) };
                let scale = quantise(simd, x, factors, out);
                // SAFETY: as above.
                unsafe { scales.set(row, scale) };
            }
        }
    }
}

/// `out = a + b`.
#[inline(always)]
fn sum<S: Simd>(simd: S, a: &[f32], b: &[f32], out: &mut [f32]) {
    let chunks = a.chunks(S::LANES).zip(b.chunks(S::LANES));
    for ((a, b), out) in chunks.zip(out.chunks_mut(S::LANES)) {
        let sum = simd.add(simd.load_part(a, 0.0), simd.load_part(b, 0.0));
        simd.store_part(sum, out);
    }
}

/// `x += y`.
#[inline(always)]
fn add<S: Simd>(simd: S, y: &[f32], x: &mut [f32]) {
    for (y, x) in y.chunks(S::LANES).zip(x.chunks_mut(S::LANES)) {
        let sum = simd.add(simd.load_part(x, 0.0), simd.load_part(y, 0.0));
        simd.store_part(sum, x);
    }
}

/// Mean 0 and variance 1, then weight and bias.
#[inline(always)]
fn normalise<S: Simd>(simd: S, norm: &Norm, x: &mut [f32]) {
    #[expect(clippy::cast_precision_loss, reason = "rows are shorter than 2^24")]
    let width = x.len() as f32;
    let mut total = simd.splat(0.0);
    for x in x.chunks(S::LANES) {
        total = simd.add(total, simd.load_part(x, 0.0));
    }
    let mean = simd.sum(total) / width;
    let means = simd.splat(mean);
    let mut squares = simd.splat(0.0);
    for x in x.chunks(S::LANES) {
        // What is missing of a last vector is the mean, so it adds nothing.
        let off = simd.sub(simd.load_part(x, mean), means);
        squares = simd.mul_add(off, off, squares);
    }
    let scale = simd.splat(1.0 / (simd.sum(squares) / width + norm.eps).sqrt());
    let parameters = norm.weight.chunks(S::LANES).zip(norm.bias.chunks(S::LANES));
    for (x, (weight, bias)) in x.chunks_mut(S::LANES).zip(parameters) {
        let off = simd.sub(simd.load_part(x, mean), means);
        let weight = simd.mul(scale, simd.load_part(weight, 0.0));
        simd.store_part(simd.mul_add(off, weight, simd.load_part(bias, 0.0)), x);
    }
}

/// To bf16.
#[inline(always)]
fn round<S: Simd>(simd: S, x: &[f32], out: &mut [u32]) {
    for (x, out) in x.chunks(2 * S::LANES).zip(out.chunks_mut(S::LANES)) {
        let (low, high) = x.split_at(x.len().min(S::LANES));
        let words = simd.to_bf16(simd.load_part(low, 0.0), simd.load_part(high, 0.0));
        simd.store_words_part(words, out);
    }
}

/// One vector of `x` times `factors`; `fill` where `x` has ended.
#[inline(always)]
fn scaled<S: Simd>(simd: S, x: &[f32], factors: &[f32], at: usize, fill: f32) -> S::F {
    let x = x.get(at..).unwrap_or_default();
    let value = simd.load_part(x, fill);
    if factors.is_empty() {
        return value;
    }
    simd.mul(
        value,
        simd.load_part(factors.get(at..).unwrap_or_default(), 1.0),
    )
}

/// To bytes of which 0 is one: `byte = round(x / scale) + zero`, with the scale that just holds the row
/// and 0. A row of zeros has scale 0.
#[inline(always)]
fn quantise<S: Simd>(simd: S, x: &[f32], factors: &[f32], out: &mut [u32]) -> RowScale {
    let (mut low, mut high) = (simd.splat(0.0), simd.splat(0.0));
    for at in (0..x.len()).step_by(S::LANES) {
        let value = scaled(simd, x, factors, at, 0.0);
        low = simd.min(value, low);
        high = simd.max(value, high);
    }
    let low = -simd.largest(simd.sub(simd.splat(0.0), low));
    let range = simd.largest(high) - low;
    let inverse = if range > 0.0 { 255.0 / range } else { 0.0 };
    let zero = (-low * inverse).round_ties_even();
    let (scale, zeros) = (simd.splat(inverse), simd.splat(zero));
    for (index, out) in out.chunks_mut(S::LANES).enumerate() {
        let at = index * 4 * S::LANES;
        let mut bytes = [simd.splat_word(0); 4];
        for (part, bytes) in bytes.iter_mut().enumerate() {
            let value = scaled(simd, x, factors, at + part * S::LANES, 0.0);
            let byte = simd.mul_add(value, scale, zeros);
            let byte = simd.max(simd.min(byte, simd.splat(255.0)), simd.splat(0.0));
            *bytes = simd.to_i32(byte);
        }
        simd.store_words_part(simd.to_bytes(bytes), out);
    }
    #[expect(clippy::cast_possible_truncation, reason = "0..=255")]
    let zero = zero as i32;
    RowScale {
        scale: range / 255.0,
        zero,
    }
}

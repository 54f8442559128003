//! One vector unit behind one trait, so that every kernel is written once.
//!
//! A value of a type that implements [`Simd`] is a *proof* that the machine has the instructions:
//! it can only be had through [`Level`](crate::Level), which looked. That is what makes the methods
//! safe to call. They are inlined into a function that was compiled for those instructions (see
//! [`Simd::run`]); called from elsewhere they would be right but slow.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// Lanes of the widest unit: buffers for one vector on the stack have this many.
pub(crate) const LANES_MAX: usize = 16;

/// A vector unit of `LANES` lanes of 32 bits.
///
/// A *word* is 32 bits that hold one f32, two bf16 (the first in the low half) or four bytes.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Lanes of a vector.
    const LANES: usize;
    /// Rows of the tile that fits the registers beside two vectors of weights.
    const TILE_ROWS: usize;
    /// `LANES` f32.
    type F: Copy;
    /// `LANES` words.
    type W: Copy;

    /// Runs `f` compiled for this unit.
    fn run<R>(self, f: impl FnOnce() -> R) -> R;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// All lanes `x`.
    fn splat_word(self, x: u32) -> Self::W;
    /// The first `LANES` of `x`, which has at least as many.
    fn load(self, x: &[f32]) -> Self::F;
    /// The first `LANES` of `x`, which has at least as many.
    fn load_words(self, x: &[u32]) -> Self::W;
    /// Writes the first `LANES` of `out`, which has at least as many.
    fn store(self, x: Self::F, out: &mut [f32]);
    /// Writes the first `LANES` of `out`, which has at least as many.
    fn store_words(self, x: Self::W, out: &mut [u32]);
    /// # Safety
    /// `x` points at `LANES` readable words.
    unsafe fn load_words_at(self, x: *const u32) -> Self::W;
    /// # Safety
    /// `out` points at `LANES` writable words.
    unsafe fn store_words_at(self, x: Self::W, out: *mut u32);

    /// The same bits.
    fn words(self, x: Self::F) -> Self::W;
    /// The same bits.
    fn floats(self, x: Self::W) -> Self::F;
    /// Each i32 as an f32, rounded to nearest.
    fn float_of_i32(self, x: Self::W) -> Self::F;
    /// Each f32 as an i32, rounded to nearest, ties to even. The lanes must be within i32.
    fn to_i32(self, x: Self::F) -> Self::W;
    /// Each f32 rounded to nearest, ties to even. The lanes must be within i32.
    fn round(self, x: Self::F) -> Self::F;

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the unit can.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The smaller; `b` where one is not a number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` where one is not a number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`, to within 2 units in the last place, for normal `b`.
    fn quotient(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`, to within one part in 10,000.
    #[inline(always)]
    fn rough_quotient(self, a: Self::F, b: Self::F) -> Self::F {
        self.quotient(a, b)
    }
    /// `x * 2^n` for integral `n` in -126..=127.
    fn scale_by_power(self, x: Self::F, n: Self::F) -> Self::F;
    /// Sum of the lanes, in an order of the unit's own, always the same.
    fn sum(self, x: Self::F) -> f32;
    /// The largest lane.
    fn largest(self, x: Self::F) -> f32;

    /// `acc + a * b`, by f32 lanes.
    fn dot_f32(self, acc: Self::F, a: Self::W, b: Self::W) -> Self::F;
    /// `acc + a0 * b0 + a1 * b1`, by words of two bf16.
    fn dot_bf16(self, acc: Self::F, a: Self::W, b: Self::W) -> Self::F;
    /// `acc + Σ a[i] * b[i]`, by words of four bytes, `a` unsigned and `b` signed, exact.
    fn dot_u8(self, acc: Self::W, a: Self::W, b: Self::W) -> Self::W;
    /// Words of two bf16 as f32: first those in the low halves, then those in the high ones.
    fn unpack_bf16(self, x: Self::W) -> [Self::W; 2];

    /// `2 * LANES` bf16, rounded to nearest even: those of `a` first.
    fn to_bf16(self, a: Self::F, b: Self::F) -> Self::W;
    /// The low bytes of `4 * LANES` words, those of `x[0]` first.
    fn to_bytes(self, x: [Self::W; 4]) -> Self::W;
    /// From rows of `2 * LANES` bf16 each, the words of pairs `(a[i], b[i])`: first those of the
    /// first `LANES` columns, then the rest.
    fn pair_columns(self, a: Self::W, b: Self::W) -> (Self::W, Self::W);

    /// Transposes the first `LANES * LANES` words of `block`, rows of `LANES`.
    #[inline(always)]
    fn transpose(self, block: &mut [u32; LANES_MAX * LANES_MAX]) {
        for row in 0..Self::LANES {
            for column in 0..row {
                block.swap(row * Self::LANES + column, column * Self::LANES + row);
            }
        }
    }

    /// Asks for the line of `x` to be brought into the second-level cache. Any address will do.
    #[inline(always)]
    fn prefetch(self, _x: *const u32) {}

    /// As many of `x` as there are, the rest `fill`.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::F {
        if x.len() >= Self::LANES {
            return self.load(x);
        }
        let mut lanes = [fill; LANES_MAX];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// As many lanes as `out` has room for.
    #[inline(always)]
    fn store_part(self, x: Self::F, out: &mut [f32]) {
        if out.len() >= Self::LANES {
            return self.store(x, out);
        }
        let mut lanes = [0.0; LANES_MAX];
        self.store(x, &mut lanes);
        let count = out.len();
        out.copy_from_slice(&lanes[..count]);
    }

    /// As many lanes as `out` has room for.
    #[inline(always)]
    fn store_words_part(self, x: Self::W, out: &mut [u32]) {
        if out.len() >= Self::LANES {
            return self.store_words(x, out);
        }
        let mut lanes = [0; LANES_MAX];
        self.store_words(x, &mut lanes);
        let count = out.len();
        out.copy_from_slice(&lanes[..count]);
    }
}

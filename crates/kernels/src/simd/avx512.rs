//! AVX-512: 16 lanes, 32 registers. VNNI is required, BF16 used where it is.

use std::arch::x86_64::*;

use super::Simd;

/// Exists only where AVX-512 F, BW, DQ, VL and VNNI were found, and with `BF16` also that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512<const BF16: bool>(());

/// Evaluates intrinsics of a unit whose existence the `self` at hand proves.
macro_rules! unit {
    ($e:expr) => {
        // SAFETY: a value of this type exists only where the instructions do (see `new`), and
        // these intrinsics have no other precondition.
        unsafe { $e }
    };
}

impl<const BF16: bool> Avx512<BF16> {
    /// # Safety
    /// The machine has AVX-512 F, BW, DQ, VL, VNNI and, with `BF16`, BF16.
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }

    /// The even numbers of words of two.
    #[inline(always)]
    fn low_bf16(self, x: __m512i) -> __m512 {
        unit!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(x)))
    }

    /// The odd numbers of words of two.
    #[inline(always)]
    fn high_bf16(self, x: __m512i) -> __m512 {
        let high = self.splat_word(0xffff_0000);
        unit!(_mm512_castsi512_ps(_mm512_and_si512(x, high)))
    }

    /// The nearest bf16 of each lane, in its low half.
    #[inline(always)]
    fn rounded_bf16(self, x: __m512) -> __m512i {
        let x = self.words(x);
        let even = unit!(_mm512_and_si512(
            _mm512_srli_epi32::<16>(x),
            _mm512_set1_epi32(1)
        ));
        let bias = unit!(_mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
        unit!(_mm512_srli_epi32::<16>(_mm512_add_epi32(x, bias)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
    fn run_with_bf16<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn run_without_bf16<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;
    type F = __m512;
    type W = __m512i;

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        if BF16 {
            unit!(Self::run_with_bf16(f))
        } else {
            unit!(Self::run_without_bf16(f))
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unit!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn splat_word(self, x: u32) -> __m512i {
        unit!(_mm512_set1_epi32(x.cast_signed()))
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m512 {
        assert!(x.len() >= Self::LANES);
        // SAFETY: 16 numbers are there, and the instructions (see `unit`).
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn load_words(self, x: &[u32]) -> __m512i {
        assert!(x.len() >= Self::LANES);
        // SAFETY: 16 words are there.
        unsafe { self.load_words_at(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, x: __m512, out: &mut [f32]) {
        assert!(out.len() >= Self::LANES);
        // SAFETY: there is room for 16 numbers, and the instructions (see `unit`).
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
    }
    #[inline(always)]
    fn store_words(self, x: __m512i, out: &mut [u32]) {
        assert!(out.len() >= Self::LANES);
        // SAFETY: there is room for 16 words.
        unsafe { self.store_words_at(x, out.as_mut_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_words_at(self, x: *const u32) -> __m512i {
        // SAFETY: the caller's promise, and the instructions (see `unit`).
        unsafe { _mm512_loadu_si512(x.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words_at(self, x: __m512i, out: *mut u32) {
        // SAFETY: the caller's promise, and the instructions (see `unit`).
        unsafe { _mm512_storeu_si512(out.cast(), x) }
    }

    #[inline(always)]
    fn words(self, x: __m512) -> __m512i {
        unit!(_mm512_castps_si512(x))
    }
    #[inline(always)]
    fn floats(self, x: __m512i) -> __m512 {
        unit!(_mm512_castsi512_ps(x))
    }
    #[inline(always)]
    fn float_of_i32(self, x: __m512i) -> __m512 {
        unit!(_mm512_cvtepi32_ps(x))
    }
    #[inline(always)]
    fn to_i32(self, x: __m512) -> __m512i {
        unit!(_mm512_cvtps_epi32(x))
    }
    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        unit!(_mm512_roundscale_ps::<0>(x))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unit!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unit!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unit!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unit!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unit!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unit!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn quotient(self, a: __m512, b: __m512) -> __m512 {
        // One step of Newton takes the 14 bits of the estimate to all 24; a division proper would
        // take four times as long.
        let estimate = unit!(_mm512_rcp14_ps(b));
        let error = unit!(_mm512_fnmadd_ps(b, estimate, _mm512_set1_ps(1.0)));
        let inverse = self.mul_add(estimate, error, estimate);
        self.mul(a, inverse)
    }
    #[inline(always)]
    fn rough_quotient(self, a: __m512, b: __m512) -> __m512 {
        self.mul(a, unit!(_mm512_rcp14_ps(b)))
    }
    #[inline(always)]
    fn scale_by_power(self, x: __m512, n: __m512) -> __m512 {
        unit!(_mm512_scalef_ps(x, n))
    }
    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        unit!(_mm512_reduce_add_ps(x))
    }
    #[inline(always)]
    fn largest(self, x: __m512) -> f32 {
        unit!(_mm512_reduce_max_ps(x))
    }

    #[inline(always)]
    fn dot_f32(self, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        self.mul_add(self.floats(a), self.floats(b), acc)
    }
    #[inline(always)]
    fn dot_bf16(self, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        if BF16 {
            unit!(_mm512_dpbf16_ps(acc, as_bf16(a), as_bf16(b)))
        } else {
            let even = self.mul_add(self.low_bf16(a), self.low_bf16(b), acc);
            self.mul_add(self.high_bf16(a), self.high_bf16(b), even)
        }
    }
    #[inline(always)]
    fn dot_u8(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unit!(_mm512_dpbusd_epi32(acc, a, b))
    }
    #[inline(always)]
    fn unpack_bf16(self, x: __m512i) -> [__m512i; 2] {
        [self.words(self.low_bf16(x)), self.words(self.high_bf16(x))]
    }

    #[inline(always)]
    fn to_bf16(self, a: __m512, b: __m512) -> __m512i {
        if BF16 {
            as_words(unit!(_mm512_cvtne2ps_pbh(b, a)))
        } else {
            let low = unit!(_mm512_cvtepi32_epi16(self.rounded_bf16(a)));
            let high = unit!(_mm512_cvtepi32_epi16(self.rounded_bf16(b)));
            unit!(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
        }
    }
    #[inline(always)]
    fn to_bytes(self, x: [__m512i; 4]) -> __m512i {
        let low = unit!(_mm256_set_m128i(
            _mm512_cvtepi32_epi8(x[1]),
            _mm512_cvtepi32_epi8(x[0])
        ));
        let high = unit!(_mm256_set_m128i(
            _mm512_cvtepi32_epi8(x[3]),
            _mm512_cvtepi32_epi8(x[2])
        ));
        unit!(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
    }
    #[inline(always)]
    fn prefetch(self, x: *const u32) {
        unit!(_mm_prefetch::<_MM_HINT_T1>(x.cast()));
    }
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> __m512 {
        // SAFETY: lanes without a number are not read; instructions as for `unit`.
        unsafe { _mm512_mask_loadu_ps(self.splat(fill), first_lanes(x.len()), x.as_ptr()) }
    }
    #[inline(always)]
    fn store_part(self, x: __m512, out: &mut [f32]) {
        // SAFETY: lanes without room are not written; instructions as for `unit`.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), first_lanes(out.len()), x) }
    }
    #[inline(always)]
    fn store_words_part(self, x: __m512i, out: &mut [u32]) {
        let lanes = first_lanes(out.len());
        // SAFETY: lanes without room are not written; instructions as for `unit`.
        unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), lanes, x) }
    }
    #[inline(always)]
    fn transpose(self, block: &mut [u32; 256]) {
        // Four rounds, each of which swaps one bit of the row's number with one of the column's.
        for (bit, low, high) in [
            (
                8,
                [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23],
                8,
            ),
            (
                4,
                [0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27],
                4,
            ),
            (
                2,
                [0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29],
                2,
            ),
            (
                1,
                [0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30],
                1,
            ),
        ] {
            let low = self.load_words(&low);
            let high = unit!(_mm512_add_epi32(low, _mm512_set1_epi32(high)));
            for row in (0..16).filter(|row| row & bit == 0) {
                let a = self.load_words(&block[row * 16..]);
                let b = self.load_words(&block[(row | bit) * 16..]);
                let first = unit!(_mm512_permutex2var_epi32(a, low, b));
                let second = unit!(_mm512_permutex2var_epi32(a, high, b));
                self.store_words(first, &mut block[row * 16..]);
                self.store_words(second, &mut block[(row | bit) * 16..]);
            }
        }
    }
    #[inline(always)]
    fn pair_columns(self, a: __m512i, b: __m512i) -> (__m512i, __m512i) {
        // Unpacking works within quarters: low has columns 0-3, 8-11, 16-19, 24-27 of 32.
        let low = unit!(_mm512_unpacklo_epi16(a, b));
        let high = unit!(_mm512_unpackhi_epi16(a, b));
        let first = unit!(_mm512_permutex2var_epi64(
            low,
            _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
            high
        ));
        let second = unit!(_mm512_permutex2var_epi64(
            low,
            _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15),
            high
        ));
        (first, second)
    }
}

/// A bit for each of the first `count` lanes, all for 16 and more.
#[inline(always)]
fn first_lanes(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// The same bits.
#[inline(always)]
fn as_bf16(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of which any are allowed.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(x) }
}

/// The same bits.
#[inline(always)]
fn as_words(x: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes of which any are allowed.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(x) }
}

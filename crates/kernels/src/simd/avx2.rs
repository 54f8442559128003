//! AVX2 with FMA: 8 lanes, 16 registers. AVX-VNNI is used where it is.

use std::arch::x86_64::*;

use super::Simd;

/// Exists only where AVX2 and FMA were found, and with `VNNI` also AVX-VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2<const VNNI: bool>(());

/// Evaluates intrinsics of a unit whose existence the `self` at hand proves.
macro_rules! unit {
    ($e:expr) => {
        // SAFETY: a value of this type exists only where the instructions do (see `new`), and
        // these intrinsics have no other precondition.
        unsafe { $e }
    };
}

impl<const VNNI: bool> Avx2<VNNI> {
    /// # Safety
    /// The machine has AVX2, FMA and, with `VNNI`, AVX-VNNI.
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }

    /// The even numbers of words of two.
    #[inline(always)]
    fn low_bf16(self, x: __m256i) -> __m256 {
        unit!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(x)))
    }

    /// The odd numbers of words of two.
    #[inline(always)]
    fn high_bf16(self, x: __m256i) -> __m256 {
        let high = self.splat_word(0xffff_0000);
        unit!(_mm256_castsi256_ps(_mm256_and_si256(x, high)))
    }

    /// The nearest bf16 of each lane, in its low half.
    #[inline(always)]
    fn rounded_bf16(self, x: __m256) -> __m256i {
        let x = self.words(x);
        let even = unit!(_mm256_and_si256(
            _mm256_srli_epi32::<16>(x),
            _mm256_set1_epi32(1)
        ));
        let bias = unit!(_mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
        unit!(_mm256_srli_epi32::<16>(_mm256_add_epi32(x, bias)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,avxvnni")]
    fn run_with_vnni<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn run_without_vnni<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;
    type F = __m256;
    type W = __m256i;

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        if VNNI {
            unit!(Self::run_with_vnni(f))
        } else {
            unit!(Self::run_without_vnni(f))
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unit!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn splat_word(self, x: u32) -> __m256i {
        unit!(_mm256_set1_epi32(x.cast_signed()))
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m256 {
        assert!(x.len() >= Self::LANES);
        // SAFETY: 8 numbers are there, and the instructions (see `unit`).
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn load_words(self, x: &[u32]) -> __m256i {
        assert!(x.len() >= Self::LANES);
        // SAFETY: 8 words are there.
        unsafe { self.load_words_at(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, x: __m256, out: &mut [f32]) {
        assert!(out.len() >= Self::LANES);
        // SAFETY: there is room for 8 numbers, and the instructions (see `unit`).
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) }
    }
    #[inline(always)]
    fn store_words(self, x: __m256i, out: &mut [u32]) {
        assert!(out.len() >= Self::LANES);
        // SAFETY: there is room for 8 words.
        unsafe { self.store_words_at(x, out.as_mut_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_words_at(self, x: *const u32) -> __m256i {
        // SAFETY: the caller's promise, and the instructions (see `unit`).
        unsafe { _mm256_loadu_si256(x.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words_at(self, x: __m256i, out: *mut u32) {
        // SAFETY: the caller's promise, and the instructions (see `unit`).
        unsafe { _mm256_storeu_si256(out.cast(), x) }
    }

    #[inline(always)]
    fn words(self, x: __m256) -> __m256i {
        unit!(_mm256_castps_si256(x))
    }
    #[inline(always)]
    fn floats(self, x: __m256i) -> __m256 {
        unit!(_mm256_castsi256_ps(x))
    }
    #[inline(always)]
    fn float_of_i32(self, x: __m256i) -> __m256 {
        unit!(_mm256_cvtepi32_ps(x))
    }
    #[inline(always)]
    fn to_i32(self, x: __m256) -> __m256i {
        unit!(_mm256_cvtps_epi32(x))
    }
    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        unit!(_mm256_round_ps::<
            { _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC },
        >(x))
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unit!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unit!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unit!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unit!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        unit!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unit!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn quotient(self, a: __m256, b: __m256) -> __m256 {
        unit!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn scale_by_power(self, x: __m256, n: __m256) -> __m256 {
        let exponent = unit!(_mm256_add_epi32(self.to_i32(n), _mm256_set1_epi32(127)));
        self.mul(x, self.floats(unit!(_mm256_slli_epi32::<23>(exponent))))
    }
    #[inline(always)]
    fn sum(self, x: __m256) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(x, &mut lanes);
        super::Portable.sum(lanes)
    }
    #[inline(always)]
    fn largest(self, x: __m256) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(x, &mut lanes);
        super::Portable.largest(lanes)
    }

    #[inline(always)]
    fn dot_f32(self, acc: __m256, a: __m256i, b: __m256i) -> __m256 {
        self.mul_add(self.floats(a), self.floats(b), acc)
    }
    #[inline(always)]
    fn dot_bf16(self, acc: __m256, a: __m256i, b: __m256i) -> __m256 {
        let even = self.mul_add(self.low_bf16(a), self.low_bf16(b), acc);
        self.mul_add(self.high_bf16(a), self.high_bf16(b), even)
    }
    #[inline(always)]
    fn dot_u8(self, acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
        if VNNI {
            return unit!(_mm256_dpbusd_avx_epi32(acc, a, b));
        }
        // The instruction made for it adds pairs in 16 bits and saturates; two products of 16-bit
        // halves are exact.
        let a_even = unit!(_mm256_and_si256(a, _mm256_set1_epi16(0xff)));
        let a_odd = unit!(_mm256_srli_epi16::<8>(a));
        let b_even = unit!(_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)));
        let b_odd = unit!(_mm256_srai_epi16::<8>(b));
        let even = unit!(_mm256_madd_epi16(a_even, b_even));
        let odd = unit!(_mm256_madd_epi16(a_odd, b_odd));
        unit!(_mm256_add_epi32(acc, _mm256_add_epi32(even, odd)))
    }
    #[inline(always)]
    fn unpack_bf16(self, x: __m256i) -> [__m256i; 2] {
        [self.words(self.low_bf16(x)), self.words(self.high_bf16(x))]
    }

    #[inline(always)]
    fn to_bf16(self, a: __m256, b: __m256) -> __m256i {
        // Packing works within halves; the permutation puts the quarters in order.
        let packed = unit!(_mm256_packus_epi32(
            self.rounded_bf16(a),
            self.rounded_bf16(b)
        ));
        unit!(_mm256_permute4x64_epi64::<0b11_01_10_00>(packed))
    }
    #[inline(always)]
    fn to_bytes(self, x: [__m256i; 4]) -> __m256i {
        let low_byte = unit!(_mm256_set1_epi32(0xff));
        let first = unit!(_mm256_packus_epi32(
            _mm256_and_si256(x[0], low_byte),
            _mm256_and_si256(x[1], low_byte)
        ));
        let second = unit!(_mm256_packus_epi32(
            _mm256_and_si256(x[2], low_byte),
            _mm256_and_si256(x[3], low_byte)
        ));
        let bytes = unit!(_mm256_packus_epi16(first, second));
        // Words are now those of the low halves of x[0], x[1], x[2], x[3], then of the high ones.
        let order = unit!(_mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        unit!(_mm256_permutevar8x32_epi32(bytes, order))
    }
    #[inline(always)]
    fn prefetch(self, x: *const u32) {
        unit!(_mm_prefetch::<_MM_HINT_T1>(x.cast()));
    }
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> __m256 {
        let lanes = first_lanes(x.len());
        // SAFETY: lanes without a number are not read; instructions as for `unit`.
        let x = unsafe { _mm256_maskload_ps(x.as_ptr(), lanes) };
        unit!(_mm256_blendv_ps(
            _mm256_set1_ps(fill),
            x,
            _mm256_castsi256_ps(lanes)
        ))
    }
    #[inline(always)]
    fn store_part(self, x: __m256, out: &mut [f32]) {
        // SAFETY: lanes without room are not written; instructions as for `unit`.
        unsafe { _mm256_maskstore_ps(out.as_mut_ptr(), first_lanes(out.len()), x) }
    }
    #[inline(always)]
    fn pair_columns(self, a: __m256i, b: __m256i) -> (__m256i, __m256i) {
        let low = unit!(_mm256_unpacklo_epi16(a, b));
        let high = unit!(_mm256_unpackhi_epi16(a, b));
        let first = unit!(_mm256_permute2x128_si256::<0x20>(low, high));
        let second = unit!(_mm256_permute2x128_si256::<0x31>(low, high));
        (first, second)
    }
}

/// All bits of each of the first `count` lanes, of all for 8 and more.
#[inline(always)]
fn first_lanes(count: usize) -> __m256i {
    const BITS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    let bits = &BITS[8 - count.min(8)..];
    // SAFETY: 8 numbers or more are left of the 16, and the instructions are there as for `unit`.
    unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) }
}

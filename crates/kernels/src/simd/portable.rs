//! No instructions in particular: arrays of 8, which the compiler vectorises as far as it can.

use std::array::from_fn;

use super::Simd;

const LANES: usize = 8;

/// Exists everywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// `a * b + c`. Where the processor has no fused form the library's is a hundred times slower than
/// two instructions.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// Low and high half of a word as f32.
#[inline(always)]
fn bf16_pair(word: u32) -> (f32, f32) {
    (
        f32::from_bits(word << 16),
        f32::from_bits(word & 0xffff_0000),
    )
}

#[inline(always)]
fn bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16
}

impl Simd for Portable {
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 4;
    type F = [f32; LANES];
    type W = [u32; LANES];

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn splat_word(self, x: u32) -> Self::W {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::F {
        from_fn(|i| x[i])
    }
    #[inline(always)]
    fn load_words(self, x: &[u32]) -> Self::W {
        from_fn(|i| x[i])
    }
    #[inline(always)]
    fn store(self, x: Self::F, out: &mut [f32]) {
        out[..LANES].copy_from_slice(&x);
    }
    #[inline(always)]
    fn store_words(self, x: Self::W, out: &mut [u32]) {
        out[..LANES].copy_from_slice(&x);
    }
    #[inline(always)]
    unsafe fn load_words_at(self, x: *const u32) -> Self::W {
        // SAFETY: the caller's promise; an array of words needs the alignment of a word.
        unsafe { x.cast::<Self::W>().read() }
    }
    #[inline(always)]
    unsafe fn store_words_at(self, x: Self::W, out: *mut u32) {
        // SAFETY: as above.
        unsafe { out.cast::<Self::W>().write(x) }
    }

    #[inline(always)]
    fn words(self, x: Self::F) -> Self::W {
        x.map(f32::to_bits)
    }
    #[inline(always)]
    fn floats(self, x: Self::W) -> Self::F {
        x.map(f32::from_bits)
    }
    #[inline(always)]
    fn float_of_i32(self, x: Self::W) -> Self::F {
        #[expect(clippy::cast_precision_loss, reason = "rounding to f32 is the point")]
        x.map(|x| x.cast_signed() as f32)
    }
    #[inline(always)]
    fn to_i32(self, x: Self::F) -> Self::W {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the caller keeps lanes within i32"
        )]
        x.map(|x| (x.round_ties_even() as i32).cast_unsigned())
    }
    #[inline(always)]
    fn round(self, x: Self::F) -> Self::F {
        x.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| mul_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn quotient(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn scale_by_power(self, x: Self::F, n: Self::F) -> Self::F {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "n is integral and within -126..=127"
        )]
        from_fn(|i| x[i] * f32::from_bits(((n[i] + 127.0) as u32) << 23))
    }
    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }
    #[inline(always)]
    fn largest(self, x: Self::F) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    fn dot_f32(self, acc: Self::F, a: Self::W, b: Self::W) -> Self::F {
        self.mul_add(self.floats(a), self.floats(b), acc)
    }
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, a: Self::W, b: Self::W) -> Self::F {
        from_fn(|i| {
            let ((a0, a1), (b0, b1)) = (bf16_pair(a[i]), bf16_pair(b[i]));
            mul_add(a1, b1, mul_add(a0, b0, acc[i]))
        })
    }
    #[inline(always)]
    fn dot_u8(self, acc: Self::W, a: Self::W, b: Self::W) -> Self::W {
        from_fn(|i| {
            let (a, b) = (a[i].to_le_bytes(), b[i].to_le_bytes());
            let sum: i32 = (0..4)
                .map(|j| i32::from(a[j]) * i32::from(b[j].cast_signed()))
                .sum();
            acc[i].wrapping_add(sum.cast_unsigned())
        })
    }
    #[inline(always)]
    fn unpack_bf16(self, x: Self::W) -> [Self::W; 2] {
        [x.map(|x| x << 16), x.map(|x| x & 0xffff_0000)]
    }

    #[inline(always)]
    fn to_bf16(self, a: Self::F, b: Self::F) -> Self::W {
        from_fn(|i| {
            let from = if i < LANES / 2 { &a } else { &b };
            let at = 2 * (i % (LANES / 2));
            bf16(from[at]) | bf16(from[at + 1]) << 16
        })
    }
    #[inline(always)]
    fn to_bytes(self, x: [Self::W; 4]) -> Self::W {
        from_fn(|i| {
            let at = 4 * (i % 2);
            let from = &x[i / 2];
            u32::from_le_bytes(from_fn(|j| from[at + j].to_le_bytes()[0]))
        })
    }
    #[inline(always)]
    fn pair_columns(self, a: Self::W, b: Self::W) -> (Self::W, Self::W) {
        let column = |x: &Self::W, at: usize| x[at / 2] >> (16 * (at % 2)) & 0xffff;
        let pairs = |first: usize| from_fn(|i| column(&a, first + i) | column(&b, first + i) << 16);
        (pairs(0), pairs(LANES))
    }
}

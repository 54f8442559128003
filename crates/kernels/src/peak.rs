//! What the arithmetic unit could do at most: the measure of the kernels.

use crate::Level;
use crate::level::dispatch;
use crate::panels::Numbers;
use crate::simd::Simd;
use crate::tile::{Dot, DotBf16, DotBf16Weights, DotF32, DotU8};

/// Sums that are under way at once: as many as hide the latency of the instruction.
const SUMS: usize = 24;

/// Multiplies and adds in registers, without memory, `rounds` times; the number of operations (a
/// product and an addition are two). Divide by the time it takes for the limit of one thread.
#[must_use]
pub fn multiply_in_registers(level: Level, numbers: Numbers, rounds: u64) -> u64 {
    dispatch!(level, simd => match numbers {
        Numbers::F32 => rounds_of::<_, DotF32>(simd, rounds, 2),
        // f32 arithmetic, two for each word of weights.
        Numbers::Bf16Weights => rounds_of::<_, DotBf16Weights>(simd, rounds, 2),
        Numbers::Bf16 => rounds_of::<_, DotBf16>(simd, rounds, 4),
        Numbers::Int8 => rounds_of::<_, DotU8>(simd, rounds, 8),
    })
}

#[inline(always)]
fn rounds_of<S: Simd, D: Dot>(simd: S, rounds: u64, operations: u64) -> u64 {
    let one = simd.splat_word(std::hint::black_box(0x0101_0101));
    let mut sums = [D::sums_of(simd, simd.splat_word(0)); SUMS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = D::dot(simd, *sum, one, one);
        }
    }
    let mut out = [0; crate::simd::LANES_MAX];
    for sum in sums {
        simd.store_words(D::to_bits(simd, sum), &mut out);
        std::hint::black_box(&out);
    }
    rounds * SUMS as u64 * S::LANES as u64 * operations
}

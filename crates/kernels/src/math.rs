//! Functions of one vector.

use crate::simd::Simd;

/// `exp(x)` for `x` up to 88; below -87 it gives a number around 1e-38. Relative error below 2e-7.
///
/// `x = n ln 2 + r`, and a polynomial for `exp(r)` on `|r| <= ln 2 / 2`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    const TERMS: [f32; 7] = [
        1.388_888_9e-3,
        8.333_334e-3,
        4.166_666_6e-2,
        1.666_666_7e-1,
        0.5,
        1.0,
        1.0,
    ];
    let x = simd.max(x, simd.splat(-87.0));
    let n = simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, of which the first times n is exact.
    let r = simd.mul_add(n, simd.splat(-0.693_359_4), x);
    let r = simd.mul_add(n, simd.splat(2.121_944_4e-4), r);
    simd.scale_by_power(polynomial(simd, &TERMS, r), n)
}

/// `x Φ(x)`, to within 4e-7 of `|x|`.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(simd: S, x: S::F) -> S::F {
    let half = simd.mul(x, simd.splat(0.5));
    let z = simd.mul(x, simd.splat(std::f32::consts::FRAC_1_SQRT_2));
    simd.mul_add(half, erf(simd, z), half)
}

/// The error function, to within 4e-7.
///
/// A quotient of polynomials in `z²`, fitted by weighted least squares to within 3e-8 on
/// `|z| <= 3.8`; beyond, what is missing from 1 is less than 8e-8.
#[inline(always)]
fn erf<S: Simd>(simd: S, z: S::F) -> S::F {
    const ABOVE: [f32; 7] = [
        2.124_056_6e-8,
        -2.019_905_5e-6,
        1.406_253_1e-4,
        3.531_923_8e-3,
        4.996_585_5e-2,
        1.951_457e-1,
        1.128_378_9,
    ];
    const BELOW: [f32; 5] = [
        9.242_845e-4,
        1.397_378_1e-2,
        1.130_514_7e-1,
        5.062_734_6e-1,
        1.0,
    ];
    let z = simd.min(simd.max(z, simd.splat(-3.8)), simd.splat(3.8));
    let square = simd.mul(z, z);
    let above = polynomial(simd, &ABOVE, square);
    let below = polynomial(simd, &BELOW, square);
    simd.quotient(simd.mul(z, above), below)
}

/// `x Φ(x)`, to within 1e-4 of `|x|`: a thirtieth of what rounding to bytes costs afterwards.
#[inline(always)]
pub(crate) fn gelu_erf_rough<S: Simd>(simd: S, x: S::F) -> S::F {
    // Fitted like those of `erf`, to within 5e-5 on |z| <= 3.
    const ABOVE: [f32; 3] = [3.061_803_8e-2, 2.040_981e-1, 1.128_096_8];
    const BELOW: [f32; 4] = [3.457_924e-3, 1.012_712_8e-1, 5.124_845_5e-1, 1.0];
    let half = simd.mul(x, simd.splat(0.5));
    let z = simd.mul(x, simd.splat(std::f32::consts::FRAC_1_SQRT_2));
    let z = simd.min(simd.max(z, simd.splat(-3.0)), simd.splat(3.0));
    let square = simd.mul(z, z);
    let above = simd.mul(z, polynomial(simd, &ABOVE, square));
    let erf = simd.rough_quotient(above, polynomial(simd, &BELOW, square));
    simd.mul_add(half, erf, half)
}

/// `x / (1 + exp(-2 √(2/π) (x + 0.044715 x³)))`, which is GELU's form with a hyperbolic tangent
/// (Hendrycks and Gimpel 2016).
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(simd: S, x: S::F) -> S::F {
    let cube = simd.mul(simd.mul(x, x), x);
    let inner = simd.mul_add(cube, simd.splat(0.044_715), x);
    let power = simd.mul(inner, simd.splat(-1.595_769));
    // Above 87 the quotient is as good as zero.
    let power = simd.min(power, simd.splat(87.0));
    let below = simd.add(exp(simd, power), simd.splat(1.0));
    simd.quotient(x, below)
}

/// Horner's scheme, the highest power first.
#[inline(always)]
fn polynomial<S: Simd>(simd: S, terms: &[f32], x: S::F) -> S::F {
    let mut sum = simd.splat(terms[0]);
    for term in &terms[1..] {
        sum = simd.mul_add(sum, x, simd.splat(*term));
    }
    sum
}

//! The steps of the forward pass that candle does not have in the form needed here.
//!
//! * [`Product`]: candle's own product asks the system for the number of cores at every call (it
//!   reads `/proc/cpuinfo`) and uses all of them. Here the caller says how many threads there are.
//! * the others work in place on whole rows, each row by itself.

use candle_core::{CpuStorage, CustomOp2, InplaceOp1, InplaceOp2, Layout, Result, Shape, bail};
use rayon::prelude::*;

use crate::arch::Activation;
use crate::weights::Norm;

/// `scale * a·b` for `[m, k]·[k, n]`, or the same for each of several heads in `[heads, ..]`.
pub(super) struct Product {
    pub(super) scale: f32,
    /// Threads of the pool this runs in; 1 never leaves the calling thread.
    pub(super) threads: usize,
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let a = Matrices::new(a.as_slice()?, a_layout)?;
        let b = Matrices::new(b.as_slice()?, b_layout)?;
        if a.columns != b.rows || a.count != b.count {
            bail!(
                "product of {:?} and {:?}",
                a_layout.shape(),
                b_layout.shape()
            );
        }
        let (m, n) = (a.rows, b.columns);
        let mut out = vec![0.0; a.count * m * n];
        let each = |(index, out): (usize, &mut [f32]), threads| {
            multiply(&a.at(index), &b.at(index), self.scale, threads, out);
        };
        // Heads are small: one thread for each head beats many for one.
        if a.count == 1 || self.threads == 1 {
            out.chunks_exact_mut(m * n)
                .enumerate()
                .for_each(|part| each(part, self.threads));
        } else {
            out.par_chunks_exact_mut(m * n)
                .enumerate()
                .for_each(|part| each(part, 1));
        }
        let shape = match a_layout.dims().len() {
            2 => Shape::from((m, n)),
            _ => Shape::from((a.count, m, n)),
        };
        Ok((CpuStorage::F32(out), shape))
    }
}

/// One or several matrices of one shape in one slice, with any strides.
struct Matrices<'a> {
    data: &'a [f32],
    count: usize,
    count_stride: usize,
    rows: usize,
    row_stride: usize,
    columns: usize,
    column_stride: usize,
}

impl<'a> Matrices<'a> {
    fn new(data: &'a [f32], layout: &Layout) -> Result<Self> {
        let (dims, strides) = (layout.dims(), layout.stride());
        let (count, count_stride, at) = match dims.len() {
            2 => (1, 0, 0),
            3 => (dims[0], strides[0], 1),
            rank => bail!("a product takes rank 2 or 3, not {rank}"),
        };
        let data = &data[layout.start_offset()..];
        let (rows, row_stride) = (dims[at], strides[at]);
        let (columns, column_stride) = (dims[at + 1], strides[at + 1]);
        Ok(Self {
            data,
            count,
            count_stride,
            rows,
            row_stride,
            columns,
            column_stride,
        })
    }

    /// The matrix `index`, with no element outside its slice.
    fn at(&self, index: usize) -> Self {
        let start = index * self.count_stride;
        let last = (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride;
        Self {
            data: &self.data[start..=start + last],
            count: 1,
            ..*self
        }
    }
}

/// `out = scale * a·b`, `out` dense in rows.
#[expect(unsafe_code, reason = "the product has no safe interface")]
fn multiply(a: &Matrices<'_>, b: &Matrices<'_>, scale: f32, threads: usize, out: &mut [f32]) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert!(
        b.rows == k && out.len() == m * n,
        "shapes are checked by the caller"
    );
    let parallelism = match threads {
        1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    let stride = |stride: usize| isize::try_from(stride).unwrap_or(isize::MAX);
    // SAFETY: `out` holds m·n numbers in dense rows and is borrowed alone. `a` and `b` come from
    // `Matrices::at`, which slices (and so checks) up to the last element that their shape and
    // strides reach; the shapes agree by the assertion above. Strides of a slice fit isize.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride(n),
            false,
            a.data.as_ptr(),
            stride(a.column_stride),
            stride(a.row_stride),
            b.data.as_ptr(),
            stride(b.column_stride),
            stride(b.row_stride),
            0.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Runs `each` on every row of a dense tensor.
fn for_rows(
    storage: &mut CpuStorage,
    layout: &Layout,
    threads: usize,
    each: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<()> {
    let (Some((start, end)), Some(&width)) = (layout.contiguous_offsets(), layout.dims().last())
    else {
        bail!("rows must be dense");
    };
    let CpuStorage::F32(data) = storage else {
        bail!("rows must be f32")
    };
    let rows = &mut data[start..end];
    if threads == 1 {
        rows.chunks_exact_mut(width)
            .enumerate()
            .for_each(|(i, row)| each(i, row));
    } else {
        rows.par_chunks_exact_mut(width)
            .enumerate()
            .for_each(|(i, row)| each(i, row));
    }
    Ok(())
}

/// Adds a bias to every row.
pub(super) struct Bias<'a> {
    pub(super) bias: &'a [f32],
    /// Applied after the bias.
    pub(super) activation: Option<Activation>,
    pub(super) threads: usize,
}

impl InplaceOp1 for Bias<'_> {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        for_rows(storage, layout, self.threads, |_, row| {
            for (x, b) in row.iter_mut().zip(self.bias) {
                *x += b;
            }
            match self.activation {
                None => {}
                Some(Activation::GeluErf) => row.iter_mut().for_each(|x| *x = gelu_erf(*x)),
                Some(Activation::GeluTanh) => row.iter_mut().for_each(|x| *x = gelu_tanh(*x)),
                Some(Activation::Relu) => row.iter_mut().for_each(|x| *x = x.max(0.0)),
            }
        })
    }
}

/// The exact GELU. The error function is formula 7.1.26 of Abramowitz and Stegun, off by at most
/// 1.5e-7 (about one unit in the last place near 1). Unlike the library's it has no branches, so
/// the compiler can compute several at once.
fn gelu_erf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let series = 1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4);
    let erf = 1.0 - t * (0.254_829_6 + t * (-0.284_496_74 + t * series)) * exp(-z * z);
    0.5 * x * (1.0 + erf.copysign(x))
}

/// `e^x` for `x <= 0`, to a few units in the last place; what would be below 1e-37 is about that.
/// Free of branches and calls, so that the compiler can compute several at once.
fn exp(x: f32) -> f32 {
    // Adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Not `max`, which would hide a NaN.
    let x = if x < -86.0 { -86.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let tail = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)));
    let power = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * tail)));
    f32::from_bits(power.to_bits().wrapping_add(rounded.to_bits() << 23))
}

fn gelu_tanh(x: f32) -> f32 {
    // sqrt(2 / pi)
    const SCALE: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (SCALE * (x + 0.044_715 * x * x * x)).tanh())
}

/// Adds a bias and the residual to every row, then normalises it.
pub(super) struct AddNorm<'a> {
    pub(super) bias: &'a [f32],
    pub(super) norm: &'a Norm,
    pub(super) eps: f32,
    pub(super) threads: usize,
}

impl InplaceOp2 for AddNorm<'_> {
    fn name(&self) -> &'static str {
        "add-norm"
    }

    fn cpu_fwd(
        &self,
        storage: &mut CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<()> {
        let Some((start, end)) = residual_layout.contiguous_offsets() else {
            bail!("the residual must be dense");
        };
        let residual = &residual.as_slice::<f32>()?[start..end];
        for_rows(storage, layout, self.threads, |index, row| {
            let width = row.len();
            let residual = &residual[index * width..(index + 1) * width];
            for ((x, b), r) in row.iter_mut().zip(self.bias).zip(residual) {
                *x += b + r;
            }
            normalise(row, self.norm, self.eps);
        })
    }
}

/// Layer normalisation of one row.
pub(super) fn normalise(row: &mut [f32], norm: &Norm, eps: f32) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a row has far fewer than 2^24 numbers"
    )]
    let count = row.len() as f32;
    // Two passes: the mean of the squares less the square of the mean loses digits.
    let mean = sum(row.iter().copied()) / count;
    let variance = sum(row.iter().map(|x| (x - mean) * (x - mean))) / count;
    let scale = (variance + eps).sqrt().recip();
    for ((x, w), b) in row.iter_mut().zip(&norm.weight).zip(&norm.bias) {
        *x = (*x - mean) * scale * w + b;
    }
}

/// A sum over eight interleaved parts, which the compiler can keep in vector registers: the order
/// of additions is fixed by the length alone.
fn sum(numbers: impl ExactSizeIterator<Item = f32>) -> f32 {
    let mut parts = [0.0; 8];
    for (i, x) in numbers.enumerate() {
        parts[i % 8] += x;
    }
    parts.iter().sum()
}

/// Softmax of every row of scores, `[heads, tokens, tokens]`.
pub(super) struct Softmax<'a> {
    /// Added before, by head and distance: `[heads, 2 * tokens - 1]`, at `key - query + tokens - 1`.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) threads: usize,
}

impl InplaceOp1 for Softmax<'_> {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        for_rows(storage, layout, self.threads, |index, row| {
            if let Some(bias) = self.bias {
                let tokens = row.len();
                let (head, query) = (index / tokens, index % tokens);
                let run = &bias[head * (2 * tokens - 1) + tokens - 1 - query..][..tokens];
                for (x, b) in row.iter_mut().zip(run) {
                    *x += b;
                }
            }
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for x in row.iter_mut() {
                *x = exp(*x - max);
            }
            let scale = sum(row.iter().copied()).recip();
            for x in row.iter_mut() {
                *x *= scale;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_gelu_are_exact_to_f32() {
        for step in i16::MIN..=i16::MAX {
            let x = f32::from(step) / 2500.0;
            let want = f64::from(-x.abs()).exp();
            assert!(
                (f64::from(exp(-x.abs())) - want).abs() <= 3e-7 * want,
                "exp at {x}"
            );
            let wide = f64::from(x);
            let want = 0.5 * wide * (1.0 + libm::erf(wide / 2f64.sqrt()));
            assert!(
                (f64::from(gelu_erf(x)) - want).abs() <= 4e-7 * (1.0 + want.abs()),
                "at {x}"
            );
        }
        assert!(exp(-1e30) < 1e-36 && exp(f32::NEG_INFINITY) < 1e-36);
        assert!(exp(f32::NAN).is_nan() && gelu_erf(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }
}

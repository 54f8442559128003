//! Linear layers: packed rows times packed weights, with what follows done while the numbers are at
//! hand.

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::crew::Team;
use crate::level::dispatch;
use crate::math;
use crate::memory::{Matrix, Parts};
use crate::panels::{Numbers, Panels};
use crate::simd::{LANES_MAX, Simd};
use crate::tile::{self, Dot, DotBf16, DotBf16Weights, DotF32, DotU8, Rows, each_tile};

/// What is done to each number after the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `x Φ(x)`.
    GeluErf,
    /// The form of GELU with a hyperbolic tangent.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// What a byte of a row is worth: `scale * (byte - zero)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowScale {
    /// Worth of one step.
    pub scale: f32,
    /// The byte that stands for 0.
    pub zero: i32,
}

/// Rows that a product reads.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// `[rows, inputs]`.
    F32(&'a Matrix<f32>),
    /// `[rows, inputs]` as words of two.
    Bf16(&'a Matrix<u32>),
    /// `[rows, inputs]` as words of four, and what they are worth, by row.
    Int8(&'a Matrix<u32>, &'a [RowScale]),
}

/// Rows that a product writes.
#[derive(Debug)]
pub enum Output<'a> {
    /// `[rows, outputs]`.
    F32(&'a mut Matrix<f32>),
    /// `[rows, outputs]` as words of two.
    Bf16(&'a mut Matrix<u32>),
}

/// Writes `activation(input · weightᵀ + bias)` for the first `rows` rows.
///
/// A row of the result depends on that row of the input alone, to the last bit, and not on the
/// threads.
///
/// # Panics
/// When sizes, kinds of numbers or levels do not fit together.
pub fn product(
    team: &mut Team<'_>,
    rows: usize,
    input: Input<'_>,
    weights: &Panels,
    activation: Activation,
    output: Output<'_>,
) {
    let (words, row_scales) = check(team, rows, input, weights);
    let output = match output {
        Output::F32(matrix) => {
            assert!(
                matrix.rows() >= rows && matrix.columns() >= weights.outputs,
                "no room"
            );
            Target::F32(Parts::of(matrix))
        }
        Output::Bf16(matrix) => {
            assert!(
                matrix.rows() >= rows && 2 * matrix.columns() >= weights.outputs,
                "no room"
            );
            Target::Bf16(Parts::of(matrix))
        }
    };
    let job = Job {
        words,
        row_scales,
        weights,
        activation,
        output,
    };
    let level = team.level();
    // With rows enough, each thread has rows of its own, the same in every product of a layer, so that
    // it reads what it wrote itself; with few, each has columns of its own, so that weights are read once.
    let blocks = (rows / ROWS_OF_OWN_MIN).clamp(1, team.threads());
    team.each_pair(blocks, weights.words.rows(), |block, panels| {
        let rows = rows * block / blocks..rows * (block + 1) / blocks;
        dispatch!(level, simd => job.run(simd, rows.clone(), panels.clone()));
    });
}

fn check<'a>(
    team: &Team<'_>,
    rows: usize,
    input: Input<'a>,
    weights: &Panels,
) -> (Rows, &'a [RowScale]) {
    assert_eq!(
        team.level(),
        weights.level,
        "weights packed for another level"
    );
    let (words, stride, have, columns, numbers, scales): (_, _, _, _, _, &[RowScale]) = match input
    {
        Input::F32(m) => (
            m.words(),
            m.stride(),
            m.rows(),
            m.columns(),
            Numbers::F32,
            &[],
        ),
        Input::Bf16(m) => (
            m.words(),
            m.stride(),
            m.rows(),
            m.columns(),
            Numbers::Bf16,
            &[],
        ),
        Input::Int8(m, scales) => {
            assert!(scales.len() >= rows, "a scale for each row");
            (
                m.words(),
                m.stride(),
                m.rows(),
                m.columns(),
                Numbers::Int8,
                scales,
            )
        }
    };
    let (wanted, words_each) = match weights.numbers {
        Numbers::Bf16Weights => (Numbers::F32, 2),
        numbers @ (Numbers::F32 | Numbers::Bf16 | Numbers::Int8) => (numbers, 1),
    };
    assert_eq!(numbers, wanted, "input of other numbers than the weights");
    // Padding included: a row has whole vectors.
    assert!(
        have >= rows && columns.div_ceil(words_each) >= weights.steps,
        "the input is too small"
    );
    let at = words.as_ptr();
    (Rows { at, stride }, scales)
}

enum Target<'a> {
    F32(Parts<'a, f32>),
    Bf16(Parts<'a, u32>),
}

struct Job<'a> {
    words: Rows,
    row_scales: &'a [RowScale],
    weights: &'a Panels,
    activation: Activation,
    output: Target<'a>,
}

// SAFETY: `words` points at rows that are borrowed, unchanging, for longer than the job lives; all
// else may be shared as it is.
unsafe impl Sync for Job<'_> {}

/// Rows that go through all panels of a task before the next ones: so many that weights are read
/// seldom, so few that what is read and written stays in the second-level cache.
const BLOCK_ROWS: usize = 192;
/// Words of a row that are multiplied before the next ones: such a part of a panel, 12 to 24 KiB,
/// stays in the first-level cache while the rows of a block pass by.
const BLOCK_STEPS: usize = 192;
/// Rows from which on a thread reads all weights for rows of its own.
const ROWS_OF_OWN_MIN: usize = 48;
const WIDTH_MAX: usize = 2 * LANES_MAX;

/// Room for the sums of one block of rows and one panel.
#[repr(C, align(64))]
struct Sums([MaybeUninit<u32>; BLOCK_ROWS * WIDTH_MAX]);

impl Sums {
    /// The first `count` of them, zero. No more is touched: clearing all would take longer than the
    /// products of a short text.
    #[inline(always)]
    fn first(&mut self, count: usize) -> &mut [u32] {
        let part = &mut self.0[..count];
        part.fill(MaybeUninit::new(0));
        // SAFETY: all of the part has just been written.
        unsafe { &mut *(std::ptr::from_mut(part) as *mut [u32]) }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, rows: Range<usize>, panels: Range<usize>) {
        match self.weights.numbers {
            Numbers::F32 => self.panels::<S, DotF32>(simd, rows, panels),
            Numbers::Bf16 => self.panels::<S, DotBf16>(simd, rows, panels),
            Numbers::Bf16Weights => self.panels::<S, DotBf16Weights>(simd, rows, panels),
            Numbers::Int8 => self.panels::<S, DotU8>(simd, rows, panels),
        }
    }

    #[inline(always)]
    fn panels<S: Simd, D: Dot>(&self, simd: S, rows: Range<usize>, panels: Range<usize>) {
        let mut sums = Sums([MaybeUninit::uninit(); BLOCK_ROWS * WIDTH_MAX]);
        let width = tile::panel_columns::<S>();
        let mut first = rows.start;
        while first < rows.end {
            let count = BLOCK_ROWS.min(rows.end - first);
            let sums = sums.first(count * width);
            for panel in panels.clone() {
                self.multiply::<S, D>(simd, first, count, panel, sums);
                self.finish::<S, D>(simd, first, panel, sums);
            }
            first += count;
        }
    }

    /// Sums of rows `first..first + count` and one panel.
    #[inline(always)]
    fn multiply<S: Simd, D: Dot>(
        &self,
        simd: S,
        first: usize,
        count: usize,
        panel: usize,
        sums: &mut [u32],
    ) {
        let width = tile::panel_columns::<S>();
        let (steps, stride) = (self.weights.steps, self.words.stride);
        let panel = self.weights.words.row(panel).as_ptr();
        let mut step = 0;
        while step < steps {
            let block = BLOCK_STEPS.min(steps - step);
            // Both in bounds: see below.
            let b = Rows {
                at: panel.wrapping_add(step * width),
                stride: width,
            };
            let words = self.words.at.wrapping_add(first * stride + step * D::WORDS);
            each_tile::<S>(
                count,
                #[inline(always)]
                |row, rows| {
                    let a = Rows {
                        at: words.wrapping_add(row * stride),
                        stride,
                    };
                    let out = (sums[row * width..(row + rows) * width].as_mut_ptr(), width);
                    let go_on = step > 0;
                    if row == 0 {
                        // The weights of the next block lie behind these, or at the beginning of the
                        // next panel, which is almost there. The first tile asks for them as it goes:
                        // all of a model's weights are larger than a cache, and without this every
                        // block begins with a wait.
                        // SAFETY: `check` saw that the rows are there with the words that the weights
                        // have; the panel has `steps * width` words; the slice above has room.
                        unsafe { tile::tile::<S, D, true>(simd, rows, a, b, block, go_on, out) };
                    } else {
                        // SAFETY: as above.
                        unsafe { tile::tile::<S, D, false>(simd, rows, a, b, block, go_on, out) };
                    }
                },
            );
            step += block;
        }
    }

    /// From sums to the output.
    #[inline(always)]
    fn finish<S: Simd, D: Dot>(&self, simd: S, first: usize, panel: usize, sums: &[u32]) {
        let width = tile::panel_columns::<S>();
        let column = panel * width;
        let columns = [
            Columns::load(simd, self.weights, column),
            Columns::load(simd, self.weights, column + S::LANES),
        ];
        let end = (column + width).min(self.weights.outputs);
        for (row, bits) in sums.chunks_exact(width).enumerate() {
            let row = first + row;
            let scale = if D::BYTES {
                self.row_scales[row]
            } else {
                RowScale::default()
            };
            let bits = [simd.load_words(bits), simd.load_words(&bits[S::LANES..])];
            let values = [
                columns[0].value::<D>(simd, bits[0], scale),
                columns[1].value::<D>(simd, bits[1], scale),
            ];
            let values = [
                activate::<S, D>(simd, self.activation, values[0]),
                activate::<S, D>(simd, self.activation, values[1]),
            ];
            match &self.output {
                Target::F32(parts) => {
                    // SAFETY: a panel's columns belong to the thread that has the panel.
                    let out = unsafe { parts.slice(row, column..end) };
                    let half = out.len().min(S::LANES);
                    let (low, high) = out.split_at_mut(half);
                    simd.store_part(values[0], low);
                    if !high.is_empty() {
                        simd.store_part(values[1], high);
                    }
                }
                Target::Bf16(parts) => {
                    // SAFETY: as above; a panel's columns are whole words.
                    let out = unsafe { parts.slice(row, column / 2..end.div_ceil(2)) };
                    simd.store_words_part(simd.to_bf16(values[0], values[1]), out);
                }
            }
        }
    }
}

/// What belongs to one vector of columns.
struct Columns<S: Simd> {
    bias: S::F,
    worth: S::F,
    sums: S::F,
}

impl<S: Simd> Columns<S> {
    #[inline(always)]
    fn load(simd: S, weights: &Panels, column: usize) -> Self {
        let bytes = weights.numbers == Numbers::Int8;
        let zero = simd.splat(0.0);
        Self {
            bias: simd.load(&weights.bias[column..]),
            worth: if bytes {
                simd.load(&weights.scales[column..])
            } else {
                zero
            },
            sums: if bytes {
                simd.load(&weights.sums[column..])
            } else {
                zero
            },
        }
    }

    /// The output before the activation.
    ///
    /// For bytes `scale · worth · (Σ byte · weight - zero · Σ weight) + bias`, in f32 from the sums on.
    #[inline(always)]
    fn value<D: Dot>(&self, simd: S, bits: S::W, row: RowScale) -> S::F {
        if D::BYTES {
            let worth = simd.mul(self.worth, simd.splat(row.scale));
            #[expect(clippy::cast_precision_loss, reason = "0..=255")]
            let zero = simd.splat(-row.zero as f32);
            let sum = simd.mul_add(zero, self.sums, simd.float_of_i32(bits));
            simd.mul_add(sum, worth, self.bias)
        } else {
            simd.add(simd.floats(bits), self.bias)
        }
    }
}

#[inline(always)]
fn activate<S: Simd, D: Dot>(simd: S, activation: Activation, x: S::F) -> S::F {
    match activation {
        Activation::None => x,
        Activation::GeluErf if D::BYTES => math::gelu_erf_rough(simd, x),
        Activation::GeluErf => math::gelu_erf(simd, x),
        Activation::GeluTanh => math::gelu_tanh(simd, x),
        Activation::Relu => simd.max(x, simd.splat(0.0)),
    }
}

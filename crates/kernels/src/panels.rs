//! The weights of a linear layer, packed for the tile once at load.

use crate::Level;
use crate::level::dispatch;
use crate::memory::{Fixed, Matrix};
use crate::simd::Simd;
use crate::tile::panel_columns;

/// The numbers a product multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// f32 times f32.
    F32,
    /// bf16 times bf16, added up in f32.
    Bf16,
    /// f32 times bf16, for processors that do not multiply bf16 faster: half the weights' memory.
    Bf16Weights,
    /// u8 times i8, added up in i32.
    Int8,
}

impl Numbers {
    /// Weights in a word of 32 bits.
    #[must_use]
    pub fn per_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 | Self::Bf16Weights => 2,
            Self::Int8 => 4,
        }
    }
}

/// A linear layer: `y = x · weightᵀ + bias`.
///
/// Columns (outputs) are cut into panels of two vectors. A panel lies in memory in the order the tile
/// reads it: for each word of the input, that word of each of its columns.
#[derive(Debug)]
pub struct Panels {
    pub(crate) level: Level,
    pub(crate) numbers: Numbers,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Words of an input row.
    pub(crate) steps: usize,
    /// Columns of a panel.
    pub(crate) width: usize,
    /// One row for each panel: `steps * width` words.
    pub(crate) words: Fixed,
    /// Padded to whole panels, as are the next two.
    pub(crate) bias: Vec<f32>,
    /// For bytes: what a step of a weight is worth, by output.
    pub(crate) scales: Vec<f32>,
    /// For bytes: sum of the weights, by output.
    pub(crate) sums: Vec<f32>,
}

impl Panels {
    /// Packs `weight`, `[outputs, inputs]` in row order, as f32 or bf16.
    ///
    /// # Panics
    /// When the sizes do not fit together, or for [`Numbers::Int8`].
    #[must_use]
    pub fn new(level: Level, numbers: Numbers, weight: &[f32], bias: &[f32]) -> Self {
        let mut panels = Self::empty(level, numbers, weight.len(), bias);
        let inputs = panels.inputs;
        match numbers {
            Numbers::F32 => panels.fill(|output, step| weight[output * inputs + step].to_bits()),
            Numbers::Bf16 | Numbers::Bf16Weights => panels.fill(|output, step| {
                let row = &weight[output * inputs..(output + 1) * inputs];
                let of = |at: usize| row.get(at).map_or(0, |&x| bf16_bits(x));
                of(2 * step) | of(2 * step + 1) << 16
            }),
            Numbers::Int8 => panic!("weights of bytes come with scales: Panels::int8"),
        }
        panels
    }

    /// Packs `weight`, `[outputs, inputs]` in row order, whose steps are worth `scales[output]`.
    ///
    /// # Panics
    /// When the sizes do not fit together.
    #[must_use]
    pub fn int8(level: Level, weight: &[i8], scales: &[f32], bias: &[f32]) -> Self {
        assert_eq!(scales.len(), bias.len(), "one scale for each output");
        let mut panels = Self::empty(level, Numbers::Int8, weight.len(), bias);
        let inputs = panels.inputs;
        panels.fill(|output, step| {
            let row = &weight[output * inputs..(output + 1) * inputs];
            u32::from_le_bytes(std::array::from_fn(|i| {
                row.get(4 * step + i).map_or(0, |x| x.cast_unsigned())
            }))
        });
        let padded = panels.bias.len();
        panels.scales = scales.to_vec();
        panels.scales.resize(padded, 0.0);
        panels.sums = weight
            .chunks_exact(inputs)
            .map(|row| row.iter().map(|&x| f32::from(x)).sum())
            .collect();
        panels.sums.resize(padded, 0.0);
        panels
    }

    fn empty(level: Level, numbers: Numbers, weights: usize, bias: &[f32]) -> Self {
        let outputs = bias.len();
        assert!(
            outputs > 0 && weights > 0 && weights.is_multiple_of(outputs),
            "no linear layer"
        );
        let inputs = weights / outputs;
        let width = dispatch!(level, simd => columns(simd));
        let steps = inputs.div_ceil(numbers.per_word());
        let panels = outputs.div_ceil(width);
        let mut bias = bias.to_vec();
        bias.resize(panels * width, 0.0);
        Self {
            level,
            numbers,
            inputs,
            outputs,
            steps,
            width,
            words: Fixed::Own(Matrix::new(0, 0)),
            bias,
            scales: Vec::new(),
            sums: Vec::new(),
        }
    }

    fn fill(&mut self, word: impl Fn(usize, usize) -> u32) {
        let (steps, width, outputs) = (self.steps, self.width, self.outputs);
        let mut words = Matrix::new(outputs.div_ceil(width), steps * width);
        for panel in 0..words.rows() {
            let row = words.row_mut(panel);
            for step in 0..steps {
                for column in 0..width.min(outputs - panel * width) {
                    row[step * width + column] = word(panel * width + column, step);
                }
            }
        }
        self.words = Fixed::Own(words);
    }

    /// Moves the words of several layers, all of a model's, to huge pages, where the system has them.
    pub fn share<'a>(layers: impl IntoIterator<Item = &'a mut Self>) {
        let mut words: Vec<_> = layers.into_iter().map(|layer| &mut layer.words).collect();
        Fixed::share(&mut words);
    }

    /// Bytes they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.words.bytes() + 4 * (self.bias.len() + self.scales.len() + self.sums.len())
    }

    /// Length of an input row.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of an output row.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The numbers it multiplies.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        self.numbers
    }
}

#[inline(always)]
fn columns<S: Simd>(_: S) -> usize {
    panel_columns::<S>()
}

/// Nearest bf16, ties to even.
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16
}

//! The memory a thread works in, taken at load.

use embedring_kernels::{Matrix, Numbers, RowScale, Scratch};

use super::encoder::Encoder;

/// Rows of one chunk on their way through the layers.
#[derive(Debug)]
pub(super) struct Arena {
    /// Token ids of the chunk, and where its sequences begin.
    pub(super) ids: Vec<u32>,
    pub(super) offsets: Vec<usize>,
    /// `[tokens, hidden]`: what goes from layer to layer.
    pub(super) x: Matrix<f32>,
    /// The same packed for the next product, or the attention's output.
    pub(super) packed: Matrix<u32>,
    /// `[tokens, 3 * hidden]`, in f32 or in words of bf16.
    pub(super) qkv: Matrix<f32>,
    pub(super) qkv_words: Matrix<u32>,
    /// `[tokens, hidden]`: the attention's output.
    pub(super) context: Matrix<f32>,
    /// `[tokens, hidden]`: what is added to `x`.
    pub(super) y: Matrix<f32>,
    /// `[tokens, intermediate]`.
    pub(super) inner: Matrix<f32>,
    pub(super) inner_packed: Matrix<u32>,
    /// What the bytes of a row are worth.
    pub(super) scales: Vec<RowScale>,
    pub(super) scratch: Scratch,
    /// One row.
    pub(super) pooled: Vec<f32>,
}

impl Arena {
    /// For chunks of up to `tokens_max` tokens that `threads` threads work at together.
    pub(super) fn new(encoder: &Encoder, tokens_max: usize, threads: usize) -> Self {
        let (hidden, inner) = (encoder.hidden(), encoder.intermediate());
        let numbers = encoder.numbers();
        // A matrix that this precision has no use for has no row.
        let rows = |used: bool| if used { tokens_max } else { 0 };
        let words = |columns: usize| columns.div_ceil(numbers.per_word());
        let packs = matches!(numbers, Numbers::Bf16 | Numbers::Int8);
        let rounds = numbers == Numbers::Bf16;
        Self {
            ids: Vec::with_capacity(tokens_max),
            offsets: Vec::with_capacity(tokens_max + 1),
            x: Matrix::new(tokens_max, hidden),
            packed: Matrix::new(rows(packs), words(hidden)),
            qkv: Matrix::new(rows(!encoder.attends_in_bf16()), 3 * hidden),
            qkv_words: Matrix::new(rows(encoder.attends_in_bf16()), (3 * hidden).div_ceil(2)),
            context: Matrix::new(rows(!(rounds && encoder.attends_in_bf16())), hidden),
            y: Matrix::new(tokens_max, hidden),
            inner: Matrix::new(rows(!rounds), inner),
            inner_packed: Matrix::new(rows(packs), words(inner)),
            scales: vec![RowScale::default(); rows(numbers == Numbers::Int8)],
            scratch: Scratch::new(threads, encoder.max_tokens(), encoder.head_width()),
            pooled: vec![0.0; hidden],
        }
    }

    /// Bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let floats = [&self.x, &self.qkv, &self.context, &self.y, &self.inner];
        let words = [&self.packed, &self.qkv_words, &self.inner_packed];
        floats.iter().map(|m| m.bytes()).sum::<usize>()
            + words.iter().map(|m| m.bytes()).sum::<usize>()
            + self.scratch.bytes()
            + size_of_val(self.scales.as_slice())
    }
}

//! An encoder on a device: weights, the memory that a chunk goes through, and the recordings that make
//! short chunks cheap.

use crate::chunk::{Bound, Staging};
use crate::device::{Buffer, Device, DeviceError, Pinned};
use crate::kernels::{Kernels, Recorded, Work};
use crate::weights::{Activation, Linear, Norm, Numbers, Relative, Tables};

/// What an encoder computes: the sizes that all layers share.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Numbers of a row: a multiple of 64, at most 1024.
    pub hidden: usize,
    /// Heads of attention, of 32 or 64 numbers each.
    pub heads: usize,
    /// Words of the vocabulary.
    pub vocabulary: usize,
    /// Tokens of the longest sequence.
    pub positions: usize,
    /// Added to variances.
    pub epsilon: f32,
    /// Of the feed-forward layers.
    pub activation: Activation,
    /// Whether a sequence's row is that of its first token, or the mean of all.
    pub first_row: bool,
}

/// A linear layer in the host's memory.
#[derive(Clone, Copy, Debug)]
pub struct HostLinear<'a> {
    /// `[outputs, inputs]`.
    pub weight: &'a [f32],
    /// `[outputs]`.
    pub bias: &'a [f32],
}

/// A layer normalisation in the host's memory.
#[derive(Clone, Copy, Debug)]
pub struct HostNorm<'a> {
    /// `[hidden]`.
    pub weight: &'a [f32],
    /// `[hidden]`.
    pub bias: &'a [f32],
}

/// One encoder layer in the host's memory.
#[derive(Clone, Copy, Debug)]
pub struct HostLayer<'a> {
    /// Query, key and value below each other: `[3 hidden, hidden]`.
    pub qkv: HostLinear<'a>,
    /// `[hidden, hidden]`.
    pub attention: HostLinear<'a>,
    /// After attention.
    pub attention_norm: HostNorm<'a>,
    /// `[intermediate, hidden]`.
    pub up: HostLinear<'a>,
    /// `[hidden, intermediate]`.
    pub down: HostLinear<'a>,
    /// After the feed-forward block.
    pub down_norm: HostNorm<'a>,
}

/// All weights in the host's memory.
#[derive(Clone, Debug)]
pub struct HostWeights<'a> {
    /// `[vocabulary, hidden]`.
    pub words: &'a [f32],
    /// `[positions, hidden]`.
    pub positions: &'a [f32],
    /// Of the embeddings.
    pub norm: HostNorm<'a>,
    /// The layers.
    pub layers: Vec<HostLayer<'a>>,
    /// Biases of attention scores by distance, `[heads, 2 positions - 1]`, at
    /// key - query + positions - 1.
    pub relative: Option<&'a [f32]>,
}

/// How an encoder uses its device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tuning {
    /// Tokens of a chunk at most; by default as many as fill all multiprocessors evenly.
    pub chunk_tokens: Option<usize>,
    /// Chunks under way at a time; by default as many as the device has lanes.
    pub lanes: Option<usize>,
    /// The size of tile of all linear layers, by number; by default the best for each.
    pub tile: Option<usize>,
}

/// Chunks of at most so many tokens are recorded, by powers of two from [`RECORDED_MIN`] on.
const RECORDED_MAX: usize = 512;
const RECORDED_MIN: usize = 16;

/// Rows and columns of the largest tile of a linear layer, and blocks of it that a multiprocessor has
/// at a time.
const TILE: usize = 128;
const BLOCKS_AT_A_TIME: usize = 2;

/// Chunks that a lane has been asked for at a time: while one is computed, the rows of the last are taken
/// and the next is filled in.
const CHUNKS_A_LANE: usize = 2;

#[derive(Debug)]
struct Layer {
    qkv: Linear,
    attention: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    down_norm: Norm,
}

/// The memory of the device that the chunks of a lane go through, one after the other.
#[derive(Debug)]
struct Arena {
    /// `[tokens, hidden]`.
    rows: Buffer<u16>,
    attended: Buffer<u16>,
    change: Buffer<u16>,
    /// `[tokens, 3 hidden]`, then `[tokens, intermediate]`.
    wide: Buffer<u16>,
}

/// A chunk on its way: what goes in and what comes out.
#[derive(Debug)]
struct Slot {
    lane: usize,
    staging: Staging,
    /// `[tokens, hidden]` at most: a sequence has a token at least.
    pooled: Pinned<f32>,
    /// Places of the batch whose rows it will hold.
    under_way: Option<std::ops::Range<usize>>,
}

/// An encoder on a device.
///
/// Memory is taken when it is made; a batch of any size takes no more.
#[derive(Debug)]
pub struct Encoder {
    // Fields are dropped in order: recordings before what they use.
    /// Of chunks in the first slot, by power of two of the tokens.
    recorded: Vec<(Bound, Recorded)>,
    slots: Vec<Slot>,
    weights: Weights,
    chunk_tokens: usize,
}

#[derive(Debug)]
struct Weights {
    device: Device,
    kernels: Kernels,
    shape: Shape,
    tables: Tables,
    norm: Norm,
    layers: Vec<Layer>,
    relative: Option<Relative>,
    /// One for each lane.
    arenas: Vec<Arena>,
}

impl Encoder {
    /// Brings weights to a device.
    ///
    /// # Errors
    /// [`DeviceError`] when the kernels do not compute such a shape, a weight has no place in the
    /// range of `numbers`, or there is not enough memory.
    pub fn new(
        device: &Device,
        numbers: Numbers,
        shape: Shape,
        weights: &HostWeights<'_>,
        tuning: Tuning,
    ) -> Result<Self, DeviceError> {
        let hidden = shape.hidden;
        let mut kernels = Kernels::new(
            device,
            numbers,
            shape.activation,
            hidden,
            hidden / shape.heads,
        )?;
        kernels.force_tile(tuning.tile);
        let linear = |host: HostLinear<'_>| Linear::upload(device, numbers, host.weight, host.bias);
        let norm = |host: HostNorm<'_>| Norm::upload(device, host.weight, host.bias, shape.epsilon);
        let layer = |host: &HostLayer<'_>| {
            Ok::<_, DeviceError>(Layer {
                qkv: linear(host.qkv)?,
                attention: linear(host.attention)?,
                attention_norm: norm(host.attention_norm)?,
                up: linear(host.up)?,
                down: linear(host.down)?,
                down_norm: norm(host.down_norm)?,
            })
        };
        let even = device.multiprocessors() * BLOCKS_AT_A_TIME / hidden.div_ceil(TILE) * TILE;
        let chunk_tokens = tuning
            .chunk_tokens
            .unwrap_or(even)
            .max(shape.positions)
            .max(RECORDED_MAX);
        let lanes = tuning.lanes.unwrap_or(device.lanes());
        let lanes = lanes.clamp(1, device.lanes());
        let layers: Vec<_> = weights.layers.iter().map(layer).collect::<Result<_, _>>()?;
        let inner = layers.iter().map(|layer| layer.up.outputs()).max();
        let wide = (3 * hidden).max(inner.unwrap_or(0));
        let weights = Weights {
            kernels,
            shape,
            tables: Tables::upload(device, numbers, weights.words, weights.positions)?,
            norm: norm(weights.norm)?,
            layers,
            relative: weights
                .relative
                .map(|biases| Relative::upload(device, biases, shape.positions))
                .transpose()?,
            arenas: (0..lanes)
                .map(|_| Arena::new(device, chunk_tokens, hidden, wide))
                .collect::<Result<_, _>>()?,
            device: device.clone(),
        };
        let slot = |index| Slot::new(&weights, chunk_tokens, index % lanes);
        let slots = (0..lanes * CHUNKS_A_LANE).map(slot);
        let mut encoder = Self {
            recorded: Vec::new(),
            slots: slots.collect::<Result<_, _>>()?,
            weights,
            chunk_tokens,
        };
        encoder.record()?;
        Ok(encoder)
    }

    /// Bytes of the weights on the device.
    #[must_use]
    pub fn weights_bytes(&self) -> usize {
        let weights = &self.weights;
        let layers = weights.layers.iter().map(|layer| {
            let linears = [&layer.qkv, &layer.attention, &layer.up, &layer.down];
            let norms = [&layer.attention_norm, &layer.down_norm];
            linears.iter().map(|linear| linear.bytes()).sum::<usize>()
                + norms.iter().map(|norm| norm.bytes()).sum::<usize>()
        });
        weights.tables.bytes()
            + weights.norm.bytes()
            + weights.relative.as_ref().map_or(0, Relative::bytes)
            + layers.sum::<usize>()
    }

    /// Bytes beside the weights on the device.
    #[must_use]
    pub fn arena_bytes(&self) -> usize {
        let arenas = self.weights.arenas.iter().map(Arena::bytes);
        let stagings = self.slots.iter().map(|slot| slot.staging.bytes());
        arenas.sum::<usize>() + stagings.sum::<usize>()
    }

    /// Computes one row for each sequence, `[sequences, hidden]`, into `pooled`: sequence `i` is
    /// `ids[offsets[i]..offsets[i + 1]]`.
    ///
    /// # Errors
    /// [`DeviceError`]; `pooled` then holds nothing of use.
    ///
    /// # Panics
    /// When an id is outside the vocabulary, a sequence is empty or too long, or `pooled` has another
    /// size: mistakes of the caller.
    pub fn run(
        &mut self,
        ids: &[u32],
        offsets: &[usize],
        pooled: &mut [f32],
    ) -> Result<(), DeviceError> {
        let sequences = offsets.len().saturating_sub(1);
        assert_eq!(pooled.len(), sequences * self.weights.shape.hidden);
        let done = self.run_chunks(ids, offsets, pooled);
        if done.is_err() {
            // What is still under way must not be taken for a later batch's.
            for slot in &mut self.slots {
                slot.under_way = None;
                drop(self.weights.device.wait(slot.lane));
            }
        }
        done
    }

    fn run_chunks(
        &mut self,
        ids: &[u32],
        offsets: &[usize],
        pooled: &mut [f32],
    ) -> Result<(), DeviceError> {
        let slots = self.slots.len();
        let mut chunks = 0;
        for places in Chunks::new(offsets, self.chunk_tokens) {
            let slot = chunks % slots;
            self.collect(slot, pooled)?;
            let offsets = &offsets[places.start..=places.end];
            let ids = &ids[offsets[0]..offsets[offsets.len() - 1]];
            self.begin(slot, ids, offsets)?;
            self.slots[slot].under_way = Some(places);
            chunks += 1;
        }
        (0..slots).try_for_each(|after| self.collect((chunks + after) % slots, pooled))
    }

    /// Waits for a chunk and takes its rows.
    fn collect(&mut self, index: usize, pooled: &mut [f32]) -> Result<(), DeviceError> {
        let slot = &mut self.slots[index];
        if let Some(places) = slot.under_way.take() {
            self.weights.device.wait_for_mark(index)?;
            let hidden = self.weights.shape.hidden;
            let rows = &slot.pooled.as_slice()[..places.len() * hidden];
            pooled[places.start * hidden..places.end * hidden].copy_from_slice(rows);
        }
        Ok(())
    }

    fn begin(&mut self, index: usize, ids: &[u32], offsets: &[usize]) -> Result<(), DeviceError> {
        let slot = &mut self.slots[index];
        let holds = |(bound, _): &&(Bound, Recorded)| ids.len() <= bound.tokens;
        match self.recorded.iter().find(holds) {
            Some((bound, recorded)) if index == 0 => {
                slot.staging.fill(*bound, ids, offsets);
                // SAFETY: a recording uses the weights, the kernels, the first arena and the first slot,
                // all of which live as long as this encoder.
                unsafe { recorded.replay()? };
            }
            _ => {
                let bound = Bound::of(offsets);
                slot.staging.fill(bound, ids, offsets);
                self.weights.forward(slot, bound)?;
            }
        }
        self.weights.device.mark(slot.lane, index)
    }

    /// Records chunks of every size that is worth it, where the device can.
    fn record(&mut self) -> Result<(), DeviceError> {
        let (weights, slot) = (&self.weights, &self.slots[0]);
        let mut tokens = RECORDED_MIN;
        while tokens <= RECORDED_MAX {
            let bound = Bound::any(tokens);
            let forward = || weights.forward(slot, bound);
            let recorded = weights.kernels.record(slot.lane, forward)?;
            self.recorded
                .extend(recorded.map(|recorded| (bound, recorded)));
            tokens *= 2;
        }
        Ok(())
    }
}

impl Weights {
    /// Asks for everything that a chunk within `bound` needs.
    fn forward(&self, slot: &Slot, bound: Bound) -> Result<(), DeviceError> {
        let (kernels, arena) = (&self.kernels, &self.arenas[slot.lane]);
        let work = Work {
            lane: slot.lane,
            staging: &slot.staging,
            bound,
        };
        slot.staging.copy(&self.device, slot.lane, bound)?;
        kernels.embed(work, &self.tables, &self.norm, &arena.rows)?;
        for layer in &self.layers {
            kernels.linear(work, &layer.qkv, false, &arena.rows, &arena.wide)?;
            let relative = self.relative.as_ref();
            kernels.attention(work, relative, &arena.wide, &arena.attended)?;
            kernels.linear(
                work,
                &layer.attention,
                false,
                &arena.attended,
                &arena.change,
            )?;
            kernels.add_norm(work, &layer.attention_norm, &arena.rows, &arena.change)?;
            kernels.linear(work, &layer.up, true, &arena.rows, &arena.wide)?;
            kernels.linear(work, &layer.down, false, &arena.wide, &arena.change)?;
            kernels.add_norm(work, &layer.down_norm, &arena.rows, &arena.change)?;
        }
        kernels.pool(work, self.shape.first_row, &arena.rows, &slot.pooled)
    }
}

impl Arena {
    fn new(
        device: &Device,
        tokens: usize,
        hidden: usize,
        wide: usize,
    ) -> Result<Self, DeviceError> {
        Ok(Self {
            rows: device.buffer(tokens * hidden)?,
            attended: device.buffer(tokens * hidden)?,
            change: device.buffer(tokens * hidden)?,
            wide: device.buffer(tokens * wide)?,
        })
    }

    fn bytes(&self) -> usize {
        let buffers = [&self.rows, &self.attended, &self.change, &self.wide];
        buffers.iter().map(|buffer| buffer.bytes()).sum()
    }
}

impl Slot {
    fn new(weights: &Weights, tokens: usize, lane: usize) -> Result<Self, DeviceError> {
        let (device, shape) = (&weights.device, weights.shape);
        Ok(Self {
            lane,
            staging: Staging::new(device, tokens, shape.vocabulary, shape.positions)?,
            pooled: device.pinned(tokens * shape.hidden)?,
            under_way: None,
        })
    }
}

/// Cuts a batch into runs of whole sequences of about equal size, none of more than `limit` tokens.
struct Chunks<'a> {
    offsets: &'a [usize],
    limit: usize,
    next: usize,
}

impl<'a> Chunks<'a> {
    fn new(offsets: &'a [usize], limit: usize) -> Self {
        Self {
            offsets,
            limit,
            next: 0,
        }
    }
}

impl Iterator for Chunks<'_> {
    type Item = std::ops::Range<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        let (start, last) = (self.next, self.offsets.len().saturating_sub(1));
        if start >= last {
            return None;
        }
        let left = self.offsets[last] - self.offsets[start];
        let share = left.div_ceil(left.div_ceil(self.limit));
        let tokens = |end: usize| self.offsets[end] - self.offsets[start];
        let mut end = start + 1;
        while end < last && tokens(end) < share && tokens(end + 1) <= self.limit {
            end += 1;
        }
        self.next = end;
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(lengths: &[usize], limit: usize) -> Vec<(usize, usize)> {
        let mut offsets = vec![0];
        for length in lengths {
            offsets.push(offsets.last().unwrap_or(&0) + length);
        }
        Chunks::new(&offsets, limit)
            .map(|places| (places.start, places.end))
            .collect()
    }

    #[test]
    fn a_batch_is_cut_evenly_and_nothing_is_lost() {
        assert_eq!(cut(&[], 8), []);
        assert_eq!(cut(&[3], 8), [(0, 1)]);
        assert_eq!(cut(&[4, 4], 8), [(0, 2)]);
        assert_eq!(cut(&[4, 4, 2, 2], 8), [(0, 2), (2, 4)]);
        assert_eq!(cut(&[3, 3, 3, 3], 8), [(0, 2), (2, 4)]);
        assert_eq!(cut(&[8, 8, 1], 8), [(0, 1), (1, 2), (2, 3)]);
    }

    #[test]
    fn no_chunk_is_larger_than_the_limit() {
        let lengths: Vec<_> = (0..500).map(|i| 1 + i * 7919 % 97).collect();
        for limit in [97, 100, 333, 5_000, 100_000] {
            let mut next = 0;
            for chunk in cut(&lengths, limit) {
                assert_eq!(chunk.0, next);
                assert!(lengths[chunk.0..chunk.1].iter().sum::<usize>() <= limit);
                next = chunk.1;
            }
            assert_eq!(next, lengths.len());
        }
    }
}

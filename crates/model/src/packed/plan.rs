//! How a batch is cut: which sequences run together, and on how many threads.

use std::ops::Range;

/// How the chunks of a batch are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// One chunk after the other, all threads at each.
    Together,
    /// Each thread takes the next chunk and works alone at it, without waiting for the others in
    /// between.
    Apart,
}

/// The cut of one batch. Its memory is kept from batch to batch.
#[derive(Debug)]
pub(super) struct Plan {
    /// Places of the sequences in the batch, longest first.
    order: Vec<usize>,
    /// Parts of `order`.
    chunks: Vec<Range<usize>>,
    split: Split,
}

/// What the machine and the model allow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) threads: usize,
    /// Tokens of a chunk at most; at least those of the longest sequence.
    pub(super) chunk_tokens_max: usize,
    /// Length of a row, which says what a token costs in the linear layers.
    pub(super) hidden: usize,
}

/// Sequences that are planned at once.
pub(super) const SEQUENCES_MAX: usize = 4096;
/// Tokens of a chunk at least, where there are as many: with fewer, reading the weights costs more
/// than multiplying with them.
const CHUNK_TOKENS_MIN: usize = 64;
/// Chunks left to each thread while there is more work: the last ones are small, so that threads end
/// at about the same time (guided self-scheduling, Polychronopoulos and Kuck 1987).
const CHUNKS_AHEAD: usize = 2;
/// When the busiest thread would have this many hundredths of a fair share, threads that wait for
/// each other at every step are done sooner.
const UNEVEN_HUNDREDTHS: usize = 112;

impl Plan {
    pub(super) fn new() -> Self {
        Self {
            order: Vec::with_capacity(SEQUENCES_MAX),
            chunks: Vec::with_capacity(SEQUENCES_MAX),
            split: Split::Together,
        }
    }

    /// The chunks, and how to run them.
    pub(super) fn split(&self) -> Split {
        self.split
    }

    /// Number of chunks.
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Places in the batch of the sequences of chunk `index`.
    pub(super) fn chunk(&self, index: usize) -> &[usize] {
        &self.order[self.chunks[index].clone()]
    }

    /// Cuts sequences of these lengths, at most [`SEQUENCES_MAX`] of them.
    pub(super) fn cut(
        &mut self,
        sequences: usize,
        length: impl Fn(usize) -> usize,
        limits: Limits,
    ) {
        self.order.clear();
        self.order.extend(0..sequences);
        // By place as well, so that equal lengths keep their order.
        self.order
            .sort_unstable_by_key(|&place| (std::cmp::Reverse(length(place)), place));
        if limits.threads == 1 {
            self.split = Split::Apart;
            self.fill(&length, limits, |_| limits.chunk_tokens_max);
            return;
        }
        let tokens: usize = self.order.iter().map(|&place| length(place)).sum();
        let threads = limits.threads;
        self.split = Split::Apart;
        self.fill(&length, limits, |left| {
            left.div_ceil(threads * CHUNKS_AHEAD).max(CHUNK_TOKENS_MIN)
        });
        if tokens <= limits.chunk_tokens_max * threads && self.is_uneven(&length, limits) {
            self.split = Split::Together;
            self.fill(&length, limits, |_| limits.chunk_tokens_max);
        }
    }

    /// Puts the next sequences together up to as many tokens as `wanted` says of those left.
    fn fill(
        &mut self,
        length: &impl Fn(usize) -> usize,
        limits: Limits,
        wanted: impl Fn(usize) -> usize,
    ) {
        self.chunks.clear();
        let mut left: usize = self.order.iter().map(|&place| length(place)).sum();
        let mut begin = 0;
        while begin < self.order.len() {
            let target = wanted(left).min(limits.chunk_tokens_max);
            let (mut end, mut tokens) = (begin, 0);
            while end < self.order.len() {
                let next = length(self.order[end]);
                if end > begin && tokens + next > target {
                    break;
                }
                tokens += next;
                end += 1;
            }
            self.chunks.push(begin..end);
            left -= tokens;
            begin = end;
        }
    }

    /// Whether threads that take one chunk after the other would end far apart.
    fn is_uneven(&self, length: &impl Fn(usize) -> usize, limits: Limits) -> bool {
        // More threads than this are not told apart: the busiest decides, and it is among the first.
        let mut loads = [0_usize; 64];
        let loads = &mut loads[..limits.threads.min(64)];
        for chunk in &self.chunks {
            let cost: usize = self.order[chunk.clone()]
                .iter()
                .map(|&place| cost(length(place), limits.hidden))
                .sum();
            if let Some(load) = loads.iter_mut().min() {
                *load += cost;
            }
        }
        let busiest = loads.iter().max().copied().unwrap_or(0);
        busiest * loads.len() * 100 > loads.iter().sum::<usize>() * UNEVEN_HUNDREDTHS
    }
}

/// What a sequence costs, in products: of a token, `12 hidden²` in the linear layers (with an inner
/// width of four times hidden) and `2 length hidden` in the attention.
fn cost(length: usize, hidden: usize) -> usize {
    length * (6 * hidden + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(threads: usize) -> Limits {
        Limits {
            threads,
            chunk_tokens_max: 256,
            hidden: 384,
        }
    }

    #[track_caller]
    fn check(lengths: &[usize], threads: usize, split: Split) -> Plan {
        let mut plan = Plan::new();
        plan.cut(lengths.len(), |place| lengths[place], limits(threads));
        assert_eq!(plan.split(), split);
        let mut seen: Vec<usize> = (0..plan.len())
            .flat_map(|c| plan.chunk(c).to_vec())
            .collect();
        for chunk in 0..plan.len() {
            let tokens: usize = plan.chunk(chunk).iter().map(|&place| lengths[place]).sum();
            assert!(!plan.chunk(chunk).is_empty() && tokens <= 256);
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..lengths.len()));
        plan
    }

    #[test]
    fn each_sequence_is_in_one_chunk() {
        check(&[16], 1, Split::Apart);
        check(&[16], 2, Split::Together);
        check(&[256], 2, Split::Together);
        check(&[100, 100], 2, Split::Apart);
        check(&[200, 16, 16], 2, Split::Together);
        check(&[1; 4096], 3, Split::Apart);
        let mixed: Vec<usize> = (0..128)
            .map(|i| if i % 4 == 0 { 156 } else { 16 })
            .collect();
        let plan = check(&mixed, 2, Split::Apart);
        // The last chunk is small.
        assert!(plan.chunk(plan.len() - 1).len() * 16 <= 80);
    }
}

//! Attention of each sequence to itself, by sequence and head, without padding.

use std::sync::{Mutex, PoisonError};

use crate::crew::Team;
use crate::level::dispatch;
use crate::math;
use crate::memory::{Matrix, Parts};
use crate::product::Output;
use crate::simd::{LANES_MAX, Simd};
use crate::tile::{self, Dot, DotBf16, DotF32, Rows, each_tile};

/// Queries, keys and values side by side, `[tokens, 3 * heads * width]`; the queries hold the factor
/// of the scores already.
#[derive(Clone, Copy, Debug)]
pub enum Qkv<'a> {
    /// f32.
    F32(&'a Matrix<f32>),
    /// Words of two bf16; the width of a head must be even.
    Bf16(&'a Matrix<u32>),
}

/// Heads of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Number of them.
    pub count: usize,
    /// Numbers of a query, key or value of one head.
    pub width: usize,
    /// What is added to the score of a key by its distance, `[count, 2 * reach - 1]`, distance 0 in
    /// the middle; or empty.
    pub bias: &'a [f32],
}

/// What a thread needs beside its input and output. One for each thread, made for the longest
/// sequence.
#[derive(Debug)]
pub struct Scratch(Vec<Mutex<Room>>);

#[derive(Debug)]
struct Room {
    /// Keys of one head, transposed into panels.
    keys: Matrix<u32>,
    /// Values of one head in panels, for bf16 in pairs of tokens.
    values: Matrix<u32>,
    /// A square of keys on its way into a panel.
    square: Box<[u32; LANES_MAX * LANES_MAX]>,
    /// Scores of a tile of rows.
    scores: Matrix<f32>,
    /// For bf16: the same, rounded.
    rounded: Matrix<u32>,
    sums: Matrix<u32>,
}

/// Rows of the largest tile, columns of the widest panel.
const TILE_MAX: usize = 12;
const PANEL_MAX: usize = 2 * LANES_MAX;

impl Scratch {
    /// For `threads` threads, sequences of up to `tokens_max` tokens and heads of `width` numbers.
    #[must_use]
    pub fn new(threads: usize, tokens_max: usize, width: usize) -> Self {
        let room = || Room {
            keys: Matrix::new(1, tokens_max.next_multiple_of(PANEL_MAX) * width),
            values: Matrix::new(1, tokens_max * width.next_multiple_of(PANEL_MAX)),
            square: Box::new([0; _]),
            scores: Matrix::new(TILE_MAX, tokens_max.next_multiple_of(PANEL_MAX)),
            rounded: Matrix::new(TILE_MAX, tokens_max.next_multiple_of(PANEL_MAX)),
            sums: Matrix::new(1, TILE_MAX * PANEL_MAX),
        };
        Self((0..threads).map(|_| Mutex::new(room())).collect())
    }

    /// Bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let one = |room: &Mutex<Room>| {
            let room = room.lock().unwrap_or_else(PoisonError::into_inner);
            room.keys.bytes()
                + size_of_val(&*room.square)
                + room.values.bytes()
                + room.scores.bytes()
                + room.rounded.bytes()
                + room.sums.bytes()
        };
        self.0.iter().map(one).sum()
    }
}

/// Writes `softmax(q kᵀ + bias) v` of each sequence and head to `output`, `[tokens, heads * width]`.
/// `offsets` cuts the tokens into sequences.
///
/// # Panics
/// When sizes do not fit together.
pub fn attention(
    team: &mut Team<'_>,
    qkv: Qkv<'_>,
    offsets: &[usize],
    heads: Heads<'_>,
    scratch: &Scratch,
    output: Output<'_>,
) {
    let job = Job::new(qkv, offsets, heads, output);
    let level = team.level();
    team.each_run((offsets.len() - 1) * heads.count, 1, |thread, run| {
        let mut room = scratch.0[thread]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for index in run {
            let (sequence, head) = (index / heads.count, index % heads.count);
            let task = Task {
                first: offsets[sequence],
                tokens: offsets[sequence + 1] - offsets[sequence],
                head,
            };
            dispatch!(level, simd => job.run(simd, &task, &mut room));
        }
    });
}

enum Target<'a> {
    F32(Parts<'a, f32>),
    Bf16(Parts<'a, u32>),
}

struct Job<'a> {
    at: *const u32,
    /// Words from one token to the next, and of one head's query, key or value.
    stride: usize,
    words: usize,
    bf16: bool,
    heads: Heads<'a>,
    /// Longest sequence the bias is for.
    reach: usize,
    output: Target<'a>,
}

// SAFETY: `at` points at a matrix that is borrowed, unchanging, for longer than the job lives.
unsafe impl Sync for Job<'_> {}

/// One head of one sequence.
struct Task {
    first: usize,
    tokens: usize,
    head: usize,
}

impl<'a> Job<'a> {
    fn new(qkv: Qkv<'a>, offsets: &[usize], heads: Heads<'a>, output: Output<'a>) -> Self {
        let tokens = offsets.last().copied().unwrap_or(0);
        let width = heads.count * heads.width;
        let (at, stride, rows, columns, bf16) = match qkv {
            Qkv::F32(m) => (m.words().as_ptr(), m.stride(), m.rows(), m.columns(), false),
            Qkv::Bf16(m) => (
                m.words().as_ptr(),
                m.stride(),
                m.rows(),
                2 * m.columns(),
                true,
            ),
        };
        assert!(
            rows >= tokens && columns >= 3 * width,
            "queries, keys and values are missing"
        );
        assert!(offsets.is_sorted(), "offsets do not ascend");
        let output = match output {
            Output::F32(m) => {
                assert!(m.rows() >= tokens && m.columns() >= width, "no room");
                Target::F32(Parts::of(m))
            }
            Output::Bf16(m) => {
                assert!(m.rows() >= tokens && 2 * m.columns() >= width, "no room");
                assert!(heads.width.is_multiple_of(2), "words of two heads");
                Target::Bf16(Parts::of(m))
            }
        };
        assert!(!bf16 || heads.width.is_multiple_of(2), "words of two heads");
        let reach = heads.bias.len() / heads.count / 2 + 1;
        let longest = offsets.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        assert!(
            heads.bias.is_empty() || longest <= reach,
            "the bias does not reach"
        );
        Self {
            at,
            stride,
            words: if bf16 { heads.width / 2 } else { heads.width },
            bf16,
            heads,
            reach,
            output,
        }
    }

    /// The query (0), key (1) or value (2) of a token. In bounds for the tokens that `new` counted.
    #[inline(always)]
    fn part(&self, task: &Task, token: usize, part: usize) -> *const u32 {
        let column = (part * self.heads.count + task.head) * self.words;
        self.at
            .wrapping_add((task.first + token) * self.stride + column)
    }

    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, task: &Task, room: &mut Room) {
        assert!(
            task.tokens <= room.scores.columns(),
            "the scratch is for shorter sequences"
        );
        if self.bf16 {
            self.pair_values(simd, task, room);
            self.head::<S, DotBf16>(simd, task, room);
        } else {
            self.copy_values(simd, task, room);
            self.head::<S, DotF32>(simd, task, room);
        }
    }

    #[inline(always)]
    fn head<S: Simd, D: Dot>(&self, simd: S, task: &Task, room: &mut Room) {
        self.transpose_keys(simd, task, room);
        each_tile::<S>(
            task.tokens,
            #[inline(always)]
            |first, rows| {
                self.scores::<S, D>(simd, task, first, rows, room);
                // Not the weights but their sums of values are divided: fewer numbers.
                let mut divisors = [1.0; TILE_MAX];
                for (row, divisor) in divisors[..rows].iter_mut().enumerate() {
                    *divisor = self.softmax(simd, task, first + row, row, room);
                }
                self.mix::<S, D>(simd, task, first, &divisors[..rows], room);
            },
        );
    }

    /// Keys by panels of tokens: for each word of a key, that word of each of the panel's tokens. Where
    /// the last panel has no more tokens, it holds anything.
    #[inline(always)]
    fn transpose_keys<S: Simd>(&self, simd: S, task: &Task, room: &mut Room) {
        let width = tile::panel_columns::<S>();
        let Room { keys, square, .. } = room;
        for (panel, keys) in keys
            .row_mut(0)
            .chunks_exact_mut(width * self.words)
            .enumerate()
        {
            let first = panel * width;
            if first >= task.tokens {
                break;
            }
            let tokens = width.min(task.tokens - first);
            for (block, token) in (0..tokens).step_by(S::LANES).enumerate() {
                for word in (0..self.words).step_by(S::LANES) {
                    let key = self.part(task, first + token, 1).wrapping_add(word);
                    let rows = (tokens - token).min(S::LANES);
                    // SAFETY: `rows` keys are there, and the matrix goes on for two vectors behind its
                    // last number.
                    unsafe { transpose(simd, key, self.stride, rows, square) };
                    let out = keys.chunks_exact_mut(width).skip(word);
                    for (out, column) in out.zip(square.chunks_exact(S::LANES)) {
                        let column = simd.load_words(column);
                        simd.store_words(column, &mut out[block * S::LANES..]);
                    }
                }
            }
        }
    }

    /// Values by panels of columns. Where they are, each token's lie on another page, and the tile
    /// would read them once for every few queries.
    #[inline(always)]
    fn copy_values<S: Simd>(&self, simd: S, task: &Task, room: &mut Room) {
        let width = tile::panel_columns::<S>();
        let panels = self.heads.width.div_ceil(width);
        let values = room.values.row_mut(0);
        for (panel, values) in values
            .chunks_exact_mut(task.tokens * width)
            .take(panels)
            .enumerate()
        {
            for (token, out) in values.chunks_exact_mut(width).enumerate() {
                let value = self.part(task, token, 2).wrapping_add(panel * width);
                // SAFETY: the matrix goes on for two vectors behind its last number.
                let low = unsafe { simd.load_words_at(value) };
                // SAFETY: as above.
                let high = unsafe { simd.load_words_at(value.wrapping_add(S::LANES)) };
                simd.store_words(low, out);
                simd.store_words(high, &mut out[S::LANES..]);
            }
        }
    }

    /// Values as the tile wants them: by panels of columns, for each pair of tokens a word of each
    /// column. An odd last token is paired with zeros.
    #[inline(always)]
    fn pair_values<S: Simd>(&self, simd: S, task: &Task, room: &mut Room) {
        let width = tile::panel_columns::<S>();
        let pairs = task.tokens.div_ceil(2);
        let panels = self.heads.width.div_ceil(width);
        let values = room.values.row_mut(0);
        for (panel, values) in values
            .chunks_exact_mut(pairs * width)
            .take(panels)
            .enumerate()
        {
            for (pair, out) in values.chunks_exact_mut(width).enumerate() {
                let at = panel * S::LANES;
                let even = self.part(task, 2 * pair, 2).wrapping_add(at);
                // SAFETY: the matrix goes on for two vectors behind its last number.
                let even = unsafe { simd.load_words_at(even) };
                let odd = if 2 * pair + 1 < task.tokens {
                    let odd = self.part(task, 2 * pair + 1, 2).wrapping_add(at);
                    // SAFETY: as above.
                    unsafe { simd.load_words_at(odd) }
                } else {
                    simd.splat_word(0)
                };
                let (low, high) = simd.pair_columns(even, odd);
                simd.store_words(low, out);
                simd.store_words(high, &mut out[S::LANES..]);
            }
        }
    }

    /// Scores of a tile of queries with all keys.
    #[inline(always)]
    fn scores<S: Simd, D: Dot>(
        &self,
        simd: S,
        task: &Task,
        first: usize,
        rows: usize,
        room: &mut Room,
    ) {
        let width = tile::panel_columns::<S>();
        let queries = Rows {
            at: self.part(task, first, 0),
            stride: self.stride,
        };
        for panel in 0..task.tokens.div_ceil(width) {
            let keys = Rows {
                at: room.keys.row(0)[panel * width * self.words..][..width * self.words].as_ptr(),
                stride: width,
            };
            let stride = room.scores.stride();
            let out = &mut room.scores.words_mut()[panel * width..];
            assert!(
                out.len() >= (rows - 1) * stride + width,
                "the scratch is for shorter sequences"
            );
            let out = (out.as_mut_ptr(), stride);
            // SAFETY: `rows` queries of `words` words are there; the panel of keys has as many steps;
            // `out` has room, as just checked.
            unsafe { tile::tile::<S, D, false>(simd, rows, queries, keys, self.words, false, out) };
        }
    }

    /// Replaces the scores of row `row`, which is query `query`, by `exp(score - largest)`, and gives
    /// the sum of those.
    #[inline(always)]
    fn softmax<S: Simd>(
        &self,
        simd: S,
        task: &Task,
        query: usize,
        row: usize,
        room: &mut Room,
    ) -> f32 {
        let tokens = task.tokens;
        let scores = &mut room.scores.row_mut(row)[..tokens];
        if !self.heads.bias.is_empty() {
            let span = 2 * self.reach - 1;
            let bias = &self.heads.bias[task.head * span + self.reach - 1 - query..][..tokens];
            for (scores, bias) in scores.chunks_mut(S::LANES).zip(bias.chunks(S::LANES)) {
                let sum = simd.add(simd.load_part(scores, 0.0), simd.load_part(bias, 0.0));
                simd.store_part(sum, scores);
            }
        }
        // Whole vectors from here on: what is behind the last token is as far below the largest as can
        // be, adds exp(-87) to a sum of at least exp(0), and is not read by the tile.
        let whole = tokens.next_multiple_of(S::LANES);
        let scores = &mut room.scores.row_mut(row)[..whole];
        scores[tokens..].fill(f32::NEG_INFINITY);
        let mut largest = simd.splat(f32::NEG_INFINITY);
        for scores in scores.chunks_exact(S::LANES) {
            largest = simd.max(simd.load(scores), largest);
        }
        let largest = simd.splat(simd.largest(largest));
        let mut sum = simd.splat(0.0);
        for scores in scores.chunks_exact_mut(S::LANES) {
            let x = math::exp(simd, simd.sub(simd.load(scores), largest));
            sum = simd.add(sum, x);
            simd.store(x, scores);
        }
        if self.bf16 {
            // The tile reads whole pairs: behind an odd last token there must be nothing.
            let whole = tokens.next_multiple_of(2 * S::LANES);
            let scores = &mut room.scores.row_mut(row)[..whole];
            scores[tokens..].fill(0.0);
            let rounded = room.rounded.row_mut(row).chunks_exact_mut(S::LANES);
            for (x, out) in scores.chunks_exact(2 * S::LANES).zip(rounded) {
                let words = simd.to_bf16(simd.load(x), simd.load(&x[S::LANES..]));
                simd.store_words(words, out);
            }
        }
        simd.sum(sum)
    }

    /// Weighted sums of the values of a tile of queries.
    #[inline(always)]
    fn mix<S: Simd, D: Dot>(
        &self,
        simd: S,
        task: &Task,
        first: usize,
        divisors: &[f32],
        room: &mut Room,
    ) {
        let (width, rows) = (tile::panel_columns::<S>(), divisors.len());
        let (weights, steps) = if self.bf16 {
            (room.rounded.words().as_ptr(), task.tokens.div_ceil(2))
        } else {
            (room.scores.words().as_ptr(), task.tokens)
        };
        let weights = Rows {
            at: weights,
            stride: room.scores.stride(),
        };
        let sums = &mut room.sums.row_mut(0)[..TILE_MAX * PANEL_MAX];
        for panel in 0..self.heads.width.div_ceil(width) {
            let values = Rows {
                at: room.values.row(0)[panel * steps * width..][..steps * width].as_ptr(),
                stride: width,
            };
            // SAFETY: `rows` rows of scores have `steps` words; the panel has `steps` rows of two vectors;
            // `sums` has room for the largest tile.
            unsafe {
                tile::tile::<S, D, false>(
                    simd,
                    rows,
                    weights,
                    values,
                    steps,
                    false,
                    (sums.as_mut_ptr(), width),
                );
            };
            for (row, divisor) in divisors.iter().enumerate() {
                let sums = &sums[row * width..(row + 1) * width];
                let inverse = simd.splat(divisor.recip());
                let low = simd.mul(simd.floats(simd.load_words(sums)), inverse);
                let high = simd.mul(simd.floats(simd.load_words(&sums[S::LANES..])), inverse);
                self.store(simd, task, first + row, panel * width, [low, high]);
            }
        }
    }

    #[inline(always)]
    fn store<S: Simd>(
        &self,
        simd: S,
        task: &Task,
        query: usize,
        column: usize,
        [low, high]: [S::F; 2],
    ) {
        let begin = task.head * self.heads.width + column;
        let end = (begin + 2 * S::LANES).min((task.head + 1) * self.heads.width);
        let token = task.first + query;
        match &self.output {
            Target::F32(parts) => {
                // SAFETY: a head's columns of a sequence's tokens belong to one thread.
                let out = unsafe { parts.slice(token, begin..end) };
                let (first, second) = out.split_at_mut(out.len().min(S::LANES));
                simd.store_part(low, first);
                if !second.is_empty() {
                    simd.store_part(high, second);
                }
            }
            Target::Bf16(parts) => {
                // SAFETY: as above; a head's columns are whole words, as `new` saw.
                let out = unsafe { parts.slice(token, begin / 2..end / 2) };
                simd.store_words_part(simd.to_bf16(low, high), out);
            }
        }
    }
}

/// Makes `block` `LANES` columns of `rows` rows, up to `LANES`, of `LANES` words each; of rows that are
/// missing it keeps what was there.
///
/// # Safety
/// At `at` there are `rows` rows of `LANES` readable words, `stride` apart.
#[inline(always)]
unsafe fn transpose<S: Simd>(
    simd: S,
    at: *const u32,
    stride: usize,
    rows: usize,
    block: &mut [u32; LANES_MAX * LANES_MAX],
) {
    for (row, out) in block.chunks_exact_mut(S::LANES).take(rows).enumerate() {
        // SAFETY: as the caller promised.
        let words = unsafe { simd.load_words_at(at.wrapping_add(row * stride)) };
        simd.store_words(words, out);
    }
    simd.transpose(block);
}

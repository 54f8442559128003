//! The kernels on the emulated device against the plainest way to compute the same in f64.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::Copies;
use crate::chunk::{Bound, Staging};
use crate::device::{Buffer, Device};
use crate::emulated::{contents, sizes_agree};
use crate::kernels::{Kernels, Work};
use crate::weights::{Activation, Linear, Norm, Numbers, Relative, Tables};

const VOCABULARY: usize = 50;
const POSITIONS: usize = 200;

/// Numbers between -1 and 1 that any run gives again.
fn random(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        #[expect(clippy::cast_precision_loss, reason = "24 bits")]
        let number = (state >> 40) as f32 / (1_u32 << 23) as f32;
        number - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn widen(numbers: Numbers, bits: &[u16]) -> Vec<f64> {
    let one: fn(u16) -> f64 = match numbers {
        Numbers::F16 => |x| half::f16::from_bits(x).to_f64(),
        Numbers::Bf16 => |x| half::bf16::from_bits(x).to_f64(),
    };
    bits.iter().map(|&x| one(x)).collect()
}

/// Rounded to `numbers` and back, as the device sees them.
fn seen(numbers: Numbers, of: &[f32]) -> Vec<f64> {
    widen(numbers, &numbers.round(of))
}

/// How far rounding to `numbers` may move a number of size 1.
fn rounding(numbers: Numbers) -> f64 {
    match numbers {
        Numbers::F16 => 1.0 / 2048.0,
        Numbers::Bf16 => 1.0 / 256.0,
    }
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64], slack: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (got - want).abs();
        assert!(
            off <= slack * want.abs().max(1.0),
            "{what} at {at}: {got} instead of {want}"
        );
    }
}

fn offsets(lengths: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets.last().unwrap_or(&0) + length);
    }
    offsets
}

/// A chunk with sequences of these lengths, on a device of its own.
struct Chunk {
    device: Device,
    staging: Staging,
    bound: Bound,
    ids: Vec<u32>,
    offsets: Vec<usize>,
}

impl Chunk {
    fn new(device: Device, lengths: &[usize], spare: usize) -> Self {
        let offsets = offsets(lengths);
        let tokens = offsets[lengths.len()];
        let ids: Vec<_> = (0..tokens)
            .map(|i| u32::try_from(i * 31 % VOCABULARY).unwrap())
            .collect();
        let bound = if spare > 0 {
            Bound::any(tokens + spare)
        } else {
            Bound::of(&offsets)
        };
        let mut staging = Staging::new(&device, tokens + spare, VOCABULARY, POSITIONS).unwrap();
        staging.fill(bound, &ids, &offsets);
        staging.copy(&device, 0, bound).unwrap();
        Self {
            device,
            staging,
            bound,
            ids,
            offsets,
        }
    }

    fn work(&self) -> Work<'_> {
        Work {
            lane: 0,
            staging: &self.staging,
            bound: self.bound,
        }
    }

    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn buffer(&self, columns: usize) -> Buffer<u16> {
        self.device.buffer(self.bound.tokens * columns).unwrap()
    }

    /// Rows of `numbers`, with room for the whole bound.
    fn upload(&self, numbers: Numbers, rows: &[f32], columns: usize) -> Buffer<u16> {
        let mut bits = numbers.round(rows);
        bits.resize(self.bound.tokens * columns, u16::MAX);
        self.device.upload(&bits).unwrap()
    }
}

#[test]
fn rust_and_the_kernels_agree_about_arguments() {
    assert!(sizes_agree());
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + (0.797_884_560_802_865 * (x + 0.044_715 * x * x * x)).tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + libm::erf(x / 2_f64.sqrt())),
    }
}

/// One linear layer of every tile size: the bits of the first rows, and what they should be. The other
/// tiles are held against the first.
fn linear(
    (copies, groups): (Copies, bool),
    numbers: Numbers,
    activation: Activation,
    rows: usize,
    (inputs, outputs): (usize, usize),
    spare: usize,
) {
    let chunk = Chunk::new(Device::emulated(copies, groups), &vec![1; rows], spare);
    let input = random(rows * inputs, 1);
    let weight = random(inputs * outputs, 2);
    let bias = random(outputs, 3);
    let layer = Linear::upload(&chunk.device, numbers, &weight, &bias).unwrap();
    let mut kernels = Kernels::new(&chunk.device, numbers, activation, 64, 32).unwrap();
    let from = chunk.upload(numbers, &input, inputs);
    let (input, weight) = (seen(numbers, &input), seen(numbers, &weight));
    let mut want = Vec::new();
    for row in input.chunks(inputs) {
        for (column, bias) in weight.chunks(inputs).zip(&bias) {
            let sum: f64 = row.iter().zip(column).map(|(x, w)| x * w).sum();
            want.push(activate(activation, sum + f64::from(*bias)));
        }
    }
    let mut first: Option<Vec<u16>> = None;
    for tile in 0..kernels.tiles() {
        kernels.force_tile(Some(tile));
        let output = chunk.buffer(outputs);
        let active = activation != Activation::None;
        kernels
            .linear(chunk.work(), &layer, active, &from, &output)
            .unwrap();
        let what = format!(
            "{numbers:?}, {activation:?}, {rows} rows, {inputs} to {outputs}, tile {tile}, {copies:?}, \
             groups {groups}"
        );
        let mut got = contents(&output);
        // What is behind the last row belongs to nobody.
        assert!(
            got[rows * outputs..].iter().all(|&bits| bits == u16::MAX),
            "{what}"
        );
        got.truncate(rows * outputs);
        close(&what, &widen(numbers, &got), &want, rounding(numbers));
        let first = first.get_or_insert_with(|| got.clone());
        assert_eq!(first, &got, "{what}: every tile gives the same bits");
    }
}

const DEVICES: [(Copies, bool); 4] = [
    (Copies::Early, false),
    (Copies::Late, false),
    (Copies::Early, true),
    (Copies::Late, true),
];

#[test]
fn linear_layers_of_every_tile_size() {
    let shapes = [(64, 64), (192, 192), (448, 128)];
    for numbers in [Numbers::F16, Numbers::Bf16] {
        for (rows, shape) in [1, 17, 131].into_iter().zip(shapes) {
            for device in DEVICES {
                linear(device, numbers, Activation::None, rows, shape, 0);
            }
        }
    }
}

#[test]
fn activations_are_what_their_names_say() {
    for activation in [Activation::GeluErf, Activation::GeluTanh, Activation::Relu] {
        for numbers in [Numbers::F16, Numbers::Bf16] {
            linear((Copies::Late, true), numbers, activation, 9, (64, 64), 0);
        }
    }
}

#[test]
fn rows_that_a_bound_allows_and_a_chunk_lacks_are_left_alone() {
    for groups in [false, true] {
        let device = (Copies::Late, groups);
        linear(device, Numbers::F16, Activation::None, 5, (64, 64), 300);
    }
}

/// Attention of one head of one sequence, in f64.
fn attend(
    qkv: &[f64],
    rows: std::ops::Range<usize>,
    (hidden, head, index): (usize, usize, usize),
    bias: impl Fn(usize, usize) -> f64,
    out: &mut [f64],
) {
    let part = |row: usize, which: usize| {
        let at = row * 3 * hidden + which * hidden + index * head;
        &qkv[at..at + head]
    };
    for query in rows.clone() {
        let scores: Vec<f64> = rows
            .clone()
            .map(|key| {
                let dot: f64 = part(query, 0)
                    .iter()
                    .zip(part(key, 1))
                    .map(|(a, b)| a * b)
                    .sum();
                #[expect(clippy::cast_precision_loss, reason = "32 or 64")]
                let scale = (head as f64).sqrt();
                dot / scale + bias(query - rows.start, key - rows.start)
            })
            .collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
        let all: f64 = weights.iter().sum();
        for column in 0..head {
            let sum: f64 = rows
                .clone()
                .zip(&weights)
                .map(|(key, weight)| weight * part(key, 2)[column])
                .sum();
            out[query * hidden + index * head + column] = sum / all;
        }
    }
}

fn attention(
    numbers: Numbers,
    copies: Copies,
    head: usize,
    lengths: &[usize],
    relative: bool,
    spare: usize,
) -> Vec<u16> {
    let hidden = 64;
    let chunk = Chunk::new(Device::emulated(copies, false), lengths, spare);
    let kernels = Kernels::new(&chunk.device, numbers, Activation::None, hidden, head).unwrap();
    // Scores of some size, so that the weights differ.
    let numbers_in: Vec<_> = random(chunk.tokens() * 3 * hidden, 5)
        .iter()
        .map(|x| 2.0 * x)
        .collect();
    let heads = hidden / head;
    let biases = random(heads * (2 * POSITIONS - 1), 6);
    let device_biases = relative
        .then(|| Relative::upload(&chunk.device, &biases, POSITIONS))
        .transpose()
        .unwrap();
    let qkv = chunk.upload(numbers, &numbers_in, 3 * hidden);
    let output = chunk.buffer(hidden);
    kernels
        .attention(chunk.work(), device_biases.as_ref(), &qkv, &output)
        .unwrap();

    let seen = seen(numbers, &numbers_in);
    let mut want = vec![0.0; chunk.tokens() * hidden];
    for pair in chunk.offsets.windows(2) {
        for index in 0..heads {
            let bias = |query: usize, key: usize| {
                let at = index * (2 * POSITIONS - 1) + key + POSITIONS - 1 - query;
                if relative { f64::from(biases[at]) } else { 0.0 }
            };
            attend(
                &seen,
                pair[0]..pair[1],
                (hidden, head, index),
                bias,
                &mut want,
            );
        }
    }
    let mut got = contents(&output);
    assert!(got[want.len()..].iter().all(|&bits| bits == u16::MAX));
    got.truncate(want.len());
    let what = format!("{numbers:?}, heads of {head}, {lengths:?}, relative {relative}");
    // Weights are rounded as well as values.
    close(&what, &widen(numbers, &got), &want, 4.0 * rounding(numbers));
    got
}

#[test]
fn attention_of_sequences_short_and_long() {
    let lengths = [1, 2, 15, 16, 17, 33, 64, 65, 3, 128, 130, 63, 7];
    for (numbers, copies) in [(Numbers::F16, Copies::Early), (Numbers::Bf16, Copies::Late)] {
        for head in [32, 64] {
            for relative in [false, true] {
                attention(numbers, copies, head, &lengths, relative, 0);
            }
        }
    }
}

#[test]
fn attention_does_not_depend_on_the_neighbours() {
    let run =
        |lengths: &[usize], spare| attention(Numbers::F16, Copies::Late, 32, lengths, false, spare);
    for length in [7, 64, 70] {
        // The first rows of the input are the same in all.
        let alone = run(&[length], 0);
        for (neighbours, spare) in [(vec![length, 3, 90], 0), (vec![length, 64, 1, 1, 1], 77)] {
            assert_eq!(
                run(&neighbours, spare)[..alone.len()],
                alone,
                "{neighbours:?}"
            );
        }
    }
}

fn normalised(rows: &[f64], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let hidden = weight.len();
    let mut out = Vec::new();
    for row in rows.chunks(hidden) {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        let count = hidden as f64;
        let mean = row.iter().sum::<f64>() / count;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let scale = (variance + 1e-5).sqrt().recip();
        for ((x, w), b) in row.iter().zip(weight).zip(bias) {
            out.push((x - mean) * scale * f64::from(*w) + f64::from(*b));
        }
    }
    out
}

#[test]
fn rows_are_embedded_normalised_and_pooled() {
    for hidden in [64, 384, 832, 1024] {
        for numbers in [Numbers::F16, Numbers::Bf16] {
            rows(hidden, numbers);
        }
    }
}

fn rows(hidden: usize, numbers: Numbers) {
    let what = format!("{hidden} numbers, {numbers:?}");
    let device = Device::emulated(Copies::Early, false);
    let chunk = Chunk::new(device, &[1, 5, 2, 9], 0);
    let device = &chunk.device;
    let kernels = Kernels::new(device, numbers, Activation::None, hidden, 32).unwrap();
    let (words, positions) = (
        random(VOCABULARY * hidden, 1),
        random(POSITIONS * hidden, 2),
    );
    let (weight, bias) = (random(hidden, 3), random(hidden, 4));
    let tables = Tables::upload(device, numbers, &words, &positions).unwrap();
    let norm = Norm::upload(device, &weight, &bias, 1e-5).unwrap();
    let rows = chunk.buffer(hidden);
    kernels.embed(chunk.work(), &tables, &norm, &rows).unwrap();

    let (words, positions) = (seen(numbers, &words), seen(numbers, &positions));
    let mut sums = Vec::new();
    for pair in chunk.offsets.windows(2) {
        for token in pair[0]..pair[1] {
            let word = &words[usize::try_from(chunk.ids[token]).unwrap() * hidden..][..hidden];
            let position = &positions[(token - pair[0]) * hidden..][..hidden];
            sums.extend(word.iter().zip(position).map(|(a, b)| a + b));
        }
    }
    let slack = 2.0 * rounding(numbers);
    let embedded = widen(numbers, &contents(&rows));
    close(
        &format!("embed, {what}"),
        &embedded,
        &normalised(&sums, &weight, &bias),
        slack,
    );

    let change = random(chunk.tokens() * hidden, 7);
    let on_device = chunk.upload(numbers, &change, hidden);
    kernels
        .add_norm(chunk.work(), &norm, &rows, &on_device)
        .unwrap();
    let change = seen(numbers, &change);
    let sums: Vec<_> = embedded.iter().zip(&change).map(|(a, b)| a + b).collect();
    let normed = widen(numbers, &contents(&rows));
    close(
        &format!("add_norm, {what}"),
        &normed,
        &normalised(&sums, &weight, &bias),
        slack,
    );

    for first_row in [false, true] {
        let pooled = device.pinned::<f32>(4 * hidden).unwrap();
        kernels
            .pool(chunk.work(), first_row, &rows, &pooled)
            .unwrap();
        let mut want = Vec::new();
        for pair in chunk.offsets.windows(2) {
            let last = if first_row { pair[0] + 1 } else { pair[1] };
            #[expect(clippy::cast_precision_loss, reason = "a few tokens")]
            let count = (last - pair[0]) as f64;
            for column in 0..hidden {
                let sum: f64 = (pair[0]..last)
                    .map(|row| normed[row * hidden + column])
                    .sum();
                want.push(sum / count);
            }
        }
        let got: Vec<_> = pooled.as_slice().iter().map(|&x| f64::from(x)).collect();
        close(
            &format!("pool, {what}, first row {first_row}"),
            &got,
            &want,
            1e-6,
        );
    }
}

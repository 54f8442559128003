use embedring_kernels::{
    Activation, Input, Level, Matrix, Numbers, Output, Panels, RowScale, Team, product,
};
use proptest::prelude::*;

use crate::naive;
use crate::support::{
    Random, assert_close, bf16, bits, cases, floats_of_words, matrix, numbers, on_every_level,
    words_of_bf16,
};

const ACTIVATIONS: [Activation; 4] = [
    Activation::None,
    Activation::GeluErf,
    Activation::GeluTanh,
    Activation::Relu,
];

type Round = fn(f32) -> f64;

struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    activation: Activation,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(rows: usize, inputs: usize, outputs: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        Self {
            rows,
            inputs,
            outputs,
            activation: ACTIVATIONS[seed as usize % 4],
            x: random.floats(rows * inputs),
            weight: random.floats(inputs * outputs),
            bias: random.floats(outputs),
        }
    }

    fn want(&self, round_x: impl Fn(f32) -> f64, round_weight: impl Fn(f32) -> f64) -> Vec<f64> {
        let x: Vec<f64> = self.x.iter().map(|&x| round_x(x)).collect();
        let weight: Vec<f64> = self.weight.iter().map(|&x| round_weight(x)).collect();
        naive::linear(&x, &weight, &self.bias)
            .into_iter()
            .map(|x| naive::activate(self.activation, x))
            .collect()
    }

    fn run(&self, team: &mut Team<'_>, input: Input<'_>, weights: &Panels) -> Vec<f32> {
        let mut out = Matrix::new(self.rows, self.outputs);
        product(
            team,
            self.rows,
            input,
            weights,
            self.activation,
            Output::F32(&mut out),
        );
        let floats = numbers(&out, self.rows);
        let mut rounded = Matrix::new(self.rows, self.outputs.div_ceil(2));
        product(
            team,
            self.rows,
            input,
            weights,
            self.activation,
            Output::Bf16(&mut rounded),
        );
        let words = numbers(&rounded, self.rows);
        let per_row = self.outputs.div_ceil(2);
        for (row, (floats, words)) in floats
            .chunks_exact(self.outputs)
            .zip(words.chunks_exact(per_row))
            .enumerate()
        {
            for (at, (&x, y)) in floats.iter().zip(floats_of_words(words)).enumerate() {
                // Subnormal results may be rounded to zero by the processor's own conversion.
                let want = bf16(x);
                assert!(
                    want == y || want.abs() < 1e-37,
                    "row {row}, {at}: {x} as {y}"
                );
            }
        }
        floats
    }

    fn floats(&self, numbers: Numbers) {
        let (round_x, round_weight, tolerance): (Round, Round, _) = match numbers {
            Numbers::F32 => (f64::from, f64::from, 2e-5),
            // Subnormals are dropped by the processor, and the two products are not rounded alike.
            Numbers::Bf16 => (|x| f64::from(bf16(x)), |x| f64::from(bf16(x)), 5e-5),
            Numbers::Bf16Weights => (f64::from, |x| f64::from(bf16(x)), 2e-5),
            Numbers::Int8 => unreachable!("see `bytes`"),
        };
        let want = self.want(round_x, round_weight);
        let plain = matrix(self.rows, self.inputs, &self.x);
        let rounded = matrix(
            self.rows,
            self.inputs.div_ceil(2),
            &words_of_bf16(self.inputs, &self.x),
        );
        on_every_level(|team| {
            let weights = Panels::new(team.level(), numbers, &self.weight, &self.bias);
            let input = match numbers {
                Numbers::Bf16 => Input::Bf16(&rounded),
                Numbers::F32 | Numbers::Bf16Weights | Numbers::Int8 => Input::F32(&plain),
            };
            let got = self.run(team, input, &weights);
            assert_close(
                &got,
                &want,
                tolerance,
                &format!("{} {numbers:?}", team.level()),
            );
            bits(&got)
        });
    }

    fn bytes(&self) {
        let mut random = Random(self.x.len() as u64);
        let weight: Vec<i8> = (0..self.weight.len())
            .map(|_| (random.next() % 255) as i8)
            .collect();
        let worth: Vec<f32> = (0..self.outputs)
            .map(|_| 0.001 + 0.001 * random.unit().abs())
            .collect();
        let mut words = Vec::new();
        let mut scales = Vec::new();
        let mut x = Vec::new();
        for row in self.x.chunks_exact(self.inputs) {
            let (bytes, scale) = naive::quantise(row);
            x.extend(
                bytes
                    .iter()
                    .map(|&b| f64::from(scale.scale) * (f64::from(b) - f64::from(scale.zero))),
            );
            words.extend(bytes.chunks(4).map(|four| {
                let mut word = [0; 4];
                word[..four.len()].copy_from_slice(four);
                u32::from_le_bytes(word)
            }));
            scales.push(scale);
        }
        let exact: Vec<f64> = weight
            .chunks_exact(self.inputs)
            .zip(&worth)
            .flat_map(|(row, &worth)| row.iter().map(move |&w| f64::from(w) * f64::from(worth)))
            .collect();
        let want: Vec<f64> = naive::linear(&x, &exact, &self.bias)
            .into_iter()
            .map(|x| naive::activate(self.activation, x))
            .collect();
        let input = matrix(self.rows, self.inputs.div_ceil(4), &words);
        on_every_level(|team| {
            let weights = Panels::int8(team.level(), &weight, &worth, &self.bias);
            let got = self.run(team, Input::Int8(&input, &scales), &weights);
            // The rough form of GELU is off by 1e-4 of its argument, which is up to 20 here.
            assert_close(&got, &want, 2e-3, &format!("{} bytes", team.level()));
            bits(&got)
        });
    }

    fn all(&self) {
        self.floats(Numbers::F32);
        self.floats(Numbers::Bf16);
        self.floats(Numbers::Bf16Weights);
        self.bytes();
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn odd_shapes(rows in 1..40_usize, inputs in 1..90_usize, outputs in 1..90_usize, seed: u64) {
        let shrink = if cfg!(miri) { 8 } else { 1 };
        Case::new(rows.div_ceil(shrink), inputs.div_ceil(shrink), outputs.div_ceil(shrink), seed).all();
    }
}

/// Several blocks of rows and of steps, every height of a tile.
#[test]
fn large_shapes() {
    for (rows, inputs, outputs) in if cfg!(miri) {
        [(13, 5, 3), (1, 9, 40)].as_slice()
    } else {
        [(1, 384, 70), (97, 384, 33), (207, 400, 64), (13, 1536, 96)].as_slice()
    } {
        Case::new(*rows, *inputs, *outputs, 4).all();
        Case::new(*rows, *inputs, *outputs, 5).all();
    }
}

/// A row is the same whatever is above and below it.
#[test]
fn rows_do_not_see_each_other() {
    let case = Case::new(if cfg!(miri) { 7 } else { 61 }, 50, 70, 8);
    for level in Level::available() {
        for kind in [Numbers::F32, Numbers::Bf16Weights] {
            let weights = Panels::new(level, kind, &case.weight, &case.bias);
            let run = |x: &[f32]| {
                let rows = x.len() / case.inputs;
                let x = matrix(rows, case.inputs, x);
                let mut out = Matrix::new(rows, case.outputs);
                let team = &mut Team::alone(level);
                product(
                    team,
                    rows,
                    Input::F32(&x),
                    &weights,
                    Activation::GeluErf,
                    Output::F32(&mut out),
                );
                bits(&numbers(&out, rows))
            };
            let all = run(&case.x);
            for (row, x) in case.x.chunks_exact(case.inputs).enumerate() {
                assert_eq!(
                    run(x),
                    all[row * case.outputs..(row + 1) * case.outputs],
                    "{level}, row {row}"
                );
            }
        }
    }
}

#[test]
#[should_panic(expected = "another level")]
fn weights_of_another_level_are_refused() {
    let levels = Level::available();
    // With one level only there is nothing to confuse.
    assert!(levels.len() > 1, "another level");
    let weights = Panels::new(levels[0], Numbers::F32, &[1.0; 4], &[0.0; 2]);
    let (x, mut out) = (Matrix::new(1, 2), Matrix::new(1, 2));
    let team = &mut Team::alone(levels[1]);
    product(
        team,
        1,
        Input::F32(&x),
        &weights,
        Activation::None,
        Output::F32(&mut out),
    );
}

#[test]
#[should_panic(expected = "too small")]
fn a_short_input_is_refused() {
    let level = Level::best();
    let weights = Panels::int8(level, &[1; 400], &[1.0; 4], &[0.0; 4]);
    let (x, mut out) = (Matrix::new(1, 24), Matrix::new(1, 4));
    let scales = [RowScale::default()];
    let team = &mut Team::alone(level);
    product(
        team,
        1,
        Input::Int8(&x, &scales),
        &weights,
        Activation::None,
        Output::F32(&mut out),
    );
}

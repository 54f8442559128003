use embedring_kernels::{Heads, Matrix, Output, Qkv, Scratch, attention};
use proptest::prelude::*;

use crate::naive;
use crate::support::{
    Random, assert_close, bf16, bits, cases, floats_of_words, matrix, numbers, on_every_level,
    words_of_bf16,
};

struct Case {
    lengths: Vec<usize>,
    heads: usize,
    width: usize,
    bias: Vec<f32>,
    reach: usize,
    qkv: Vec<f32>,
}

impl Case {
    fn new(lengths: Vec<usize>, heads: usize, width: usize, biased: bool, seed: u64) -> Self {
        let mut random = Random(seed);
        let tokens: usize = lengths.iter().sum();
        let reach = lengths.iter().max().unwrap() + 2;
        let bias = if biased {
            random.floats(heads * (2 * reach - 1))
        } else {
            Vec::new()
        };
        // Scores of some size, so that weights differ.
        let size = 4.0 / (width as f32).sqrt();
        let qkv = random
            .floats(tokens * 3 * heads * width)
            .into_iter()
            .map(|x| size * x)
            .collect();
        Self {
            lengths,
            heads,
            width,
            bias,
            reach,
            qkv,
        }
    }

    fn offsets(&self) -> Vec<usize> {
        let ends = self.lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    fn want(&self, round: impl Fn(f32) -> f32) -> Vec<f64> {
        let all = self.heads * self.width;
        let offsets = self.offsets();
        let mut want = vec![0.0; offsets.last().unwrap() * all];
        for (span, head) in offsets
            .windows(2)
            .flat_map(|w| (0..self.heads).map(move |h| (w[0]..w[1], h)))
        {
            let part = |part: usize| -> Vec<Vec<f64>> {
                let row = |token: usize| {
                    let at = token * 3 * all + part * all + head * self.width;
                    self.qkv[at..at + self.width]
                        .iter()
                        .map(|&x| f64::from(round(x)))
                        .collect()
                };
                span.clone().map(row).collect()
            };
            let bias = |distance: i64| {
                let middle = i64::try_from(self.reach - 1).unwrap();
                let at = usize::try_from(distance + middle).unwrap();
                self.bias
                    .get(head * (2 * self.reach - 1) + at)
                    .map_or(0.0, |&x| f64::from(x))
            };
            let rows = naive::attention(&part(0), &part(1), &part(2), bias);
            for (token, row) in span.zip(rows) {
                want[token * all + head * self.width..][..self.width].copy_from_slice(&row);
            }
        }
        want
    }

    fn check(&self) {
        let (offsets, all) = (self.offsets(), self.heads * self.width);
        let tokens = *offsets.last().unwrap();
        let heads = Heads {
            count: self.heads,
            width: self.width,
            bias: &self.bias,
        };
        let longest = *self.lengths.iter().max().unwrap();
        let scratch = Scratch::new(3, longest, self.width);
        let plain = matrix(tokens, 3 * all, &self.qkv);
        let want = self.want(|x| x);
        on_every_level(|team| {
            let mut out = Matrix::new(tokens, all);
            attention(
                team,
                Qkv::F32(&plain),
                &offsets,
                heads,
                &scratch,
                Output::F32(&mut out),
            );
            let got = numbers(&out, tokens);
            assert_close(&got, &want, 1e-5, &format!("{}", team.level()));
            bits(&got)
        });
        if !self.width.is_multiple_of(2) {
            return;
        }
        let words = matrix(tokens, 3 * all / 2, &words_of_bf16(3 * all, &self.qkv));
        let want = self.want(bf16);
        on_every_level(|team| {
            let mut out = Matrix::new(tokens, all);
            attention(
                team,
                Qkv::Bf16(&words),
                &offsets,
                heads,
                &scratch,
                Output::F32(&mut out),
            );
            let got = numbers(&out, tokens);
            // Weights are rounded to 8 bits.
            assert_close(&got, &want, 8e-3, &format!("{} bf16", team.level()));
            let mut rounded = Matrix::new(tokens, all / 2);
            attention(
                team,
                Qkv::Bf16(&words),
                &offsets,
                heads,
                &scratch,
                Output::Bf16(&mut rounded),
            );
            let rounded = floats_of_words(&numbers(&rounded, tokens));
            for (x, y) in got.iter().zip(rounded) {
                assert!(bf16(*x) == y || x.abs() < 1e-37, "{x} as {y}");
            }
            bits(&got)
        });
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn odd_shapes(
        lengths in prop::collection::vec(1..50_usize, 1..5),
        heads in 1..5_usize,
        width in 1..70_usize,
        biased: bool,
        seed: u64,
    ) {
        let shrink = if cfg!(miri) { 12 } else { 1 };
        let lengths = lengths.into_iter().map(|l| l.div_ceil(shrink)).collect();
        Case::new(lengths, heads.div_ceil(shrink), width.div_ceil(shrink), biased, seed).check();
    }
}

#[test]
fn shapes_of_models() {
    if cfg!(miri) {
        return Case::new(vec![5, 2], 2, 4, true, 1).check();
    }
    Case::new(vec![512, 1, 16, 255], 2, 64, true, 1).check();
    Case::new(vec![33, 156, 7], 12, 32, false, 2).check();
}

use embedring_kernels::{
    Level, Matrix, Norm, Packed, RowScale, Tables, Team, add_norm, embed, pack, pool,
};
use proptest::prelude::*;

use crate::naive;
use crate::support::{
    Random, assert_close, bf16, bits, cases, floats_of_words, matrix, numbers, on_every_level,
};

fn norm(random: &mut Random, width: usize) -> Norm {
    Norm {
        weight: random.floats(width),
        bias: random.floats(width),
        eps: 1e-5,
    }
}

fn check_norms(rows: usize, width: usize, seed: u64) {
    let mut random = Random(seed);
    let norm = norm(&mut random, width);
    let (x, y) = (random.floats(rows * width), random.floats(rows * width));
    let want: Vec<f64> = x
        .chunks_exact(width)
        .zip(y.chunks_exact(width))
        .flat_map(|(x, y)| {
            let sum: Vec<f64> = x
                .iter()
                .zip(y)
                .map(|(x, y)| f64::from(*x) + f64::from(*y))
                .collect();
            naive::normalise(&sum, &norm.weight, &norm.bias, 1e-5)
        })
        .collect();
    let y = matrix(rows, width, &y);
    on_every_level(|team| {
        let mut sum = matrix(rows, width, &x);
        let mut words = Matrix::new(rows, width.div_ceil(2));
        add_norm(team, rows, &y, &norm, &mut sum, Packed::Bf16(&mut words));
        let got = numbers(&sum, rows);
        assert_close(&got, &want, 1e-4, &format!("{}", team.level()));
        let words = numbers(&words, rows);
        for (row, words) in got
            .chunks_exact(width)
            .zip(words.chunks_exact(width.div_ceil(2)))
        {
            for (x, y) in row.iter().zip(floats_of_words(words)) {
                assert!(bf16(*x) == y || x.abs() < 1e-37, "{x} as {y}");
            }
        }
        bits(&got)
    });
}

fn check_bytes(rows: usize, width: usize, with_factors: bool, seed: u64) {
    let mut random = Random(seed);
    let mut x = random.floats(rows * width);
    // A row of zeros, and one without a negative number.
    x[..width].fill(0.0);
    x[(rows - 1) * width..]
        .iter_mut()
        .for_each(|x| *x = x.abs());
    let factors = if with_factors {
        random.floats(width)
    } else {
        Vec::new()
    };
    let matrix = matrix(rows, width, &x);
    on_every_level(|team| {
        let mut words = Matrix::new(rows, width.div_ceil(4));
        let mut scales = vec![RowScale::default(); rows];
        let into = Packed::Int8 {
            words: &mut words,
            scales: &mut scales,
            factors: &factors,
        };
        pack(team, rows, &matrix, into);
        for (row, x) in x.chunks_exact(width).enumerate() {
            let scaled: Vec<f32> = x
                .iter()
                .enumerate()
                .map(|(at, x)| x * factors.get(at).unwrap_or(&1.0))
                .collect();
            let (want, scale) = naive::quantise(&scaled);
            assert_eq!(scales[row].zero, scale.zero, "{} row {row}", team.level());
            assert!((scales[row].scale - scale.scale).abs() <= scale.scale * 1e-6);
            let got: Vec<u8> = words.row(row)[..width.div_ceil(4)]
                .iter()
                .flat_map(|w| w.to_le_bytes())
                .collect();
            for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                // A tie may fall to either side when it is rounded once more on the way.
                assert!(
                    got.abs_diff(*want) <= 1,
                    "{} row {row}, {at}: {got} or {want}",
                    team.level()
                );
            }
        }
        numbers(&words, rows)
    });
}

fn check_embedding(lengths: &[usize], width: usize, seed: u64) {
    let mut random = Random(seed);
    let vocabulary = 30;
    let longest = *lengths.iter().max().unwrap();
    let (words, positions) = (
        random.floats(vocabulary * width),
        random.floats(longest * width),
    );
    let norm = norm(&mut random, width);
    let mut offsets = vec![0];
    offsets.extend(lengths.iter().scan(0, |end, l| {
        *end += l;
        Some(*end)
    }));
    let tokens = *offsets.last().unwrap();
    let ids: Vec<u32> = (0..tokens).map(|_| (random.next() % 30) as u32).collect();
    let mut want = Vec::new();
    for span in offsets.windows(2) {
        for (place, &id) in ids[span[0]..span[1]].iter().enumerate() {
            let word = &words[id as usize * width..][..width];
            let position = &positions[place * width..][..width];
            let sum: Vec<f64> = word
                .iter()
                .zip(position)
                .map(|(a, b)| f64::from(*a) + f64::from(*b))
                .collect();
            want.extend(naive::normalise(&sum, &norm.weight, &norm.bias, 1e-5));
        }
    }
    on_every_level(|team| {
        let tables = Tables {
            words: &words,
            positions: &positions,
        };
        let mut x = Matrix::new(tokens, width);
        embed(team, &ids, &offsets, tables, &norm, &mut x, Packed::None);
        let got = numbers(&x, tokens);
        assert_close(&got, &want, 1e-4, &format!("{}", team.level()));
        bits(&got)
    });
    check_pooling(&want, &offsets, width);
}

fn check_pooling(rows: &[f64], offsets: &[usize], width: usize) {
    let tokens = rows.len() / width;
    let floats: Vec<f32> = rows.iter().map(|&x| x as f32).collect();
    let x = matrix(tokens, width, &floats);
    for (level, span) in Level::available()
        .into_iter()
        .flat_map(|l| offsets.windows(2).map(move |s| (l, s)))
    {
        let mut out = vec![f32::NAN; width];
        pool(level, &x, span[0]..span[1], true, &mut out);
        assert_eq!(out, floats[span[0] * width..][..width]);
        pool(level, &x, span[0]..span[1], false, &mut out);
        let mean: Vec<f64> = (0..width)
            .map(|at| {
                (span[0]..span[1])
                    .map(|row| rows[row * width + at])
                    .sum::<f64>()
                    / (span[1] - span[0]) as f64
            })
            .collect();
        assert_close(&out, &mean, 1e-5, &format!("{level}"));
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn norms(rows in 1..20_usize, width in 2..120_usize, seed: u64) {
        check_norms(rows, width, seed);
    }

    #[test]
    fn bytes(rows in 1..20_usize, width in 1..200_usize, factors: bool, seed: u64) {
        check_bytes(rows, width, factors, seed);
    }

    #[test]
    fn embeddings(lengths in prop::collection::vec(1..9_usize, 1..5), width in 2..100_usize, seed: u64) {
        check_embedding(&lengths, width, seed);
    }
}

/// A number that is none must not become one that is.
#[test]
fn what_is_not_a_number_stays_so() {
    for level in Level::available() {
        let norm = Norm {
            weight: vec![1.0; 20],
            bias: vec![0.0; 20],
            eps: 1e-5,
        };
        let mut x = Matrix::new(2, 20);
        x.row_mut(0)[3] = f32::NAN;
        let y = Matrix::new(2, 20);
        add_norm(&mut Team::alone(level), 2, &y, &norm, &mut x, Packed::None);
        assert!(x.row(0)[..20].iter().all(|x| x.is_nan()), "{level}");
        assert!(x.row(1)[..20].iter().all(|&x| x == 0.0), "{level}");
    }
}

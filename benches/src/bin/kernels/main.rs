//! Where a token's time goes: each kernel alone, at the sizes of all-MiniLM-L6-v2, on one thread,
//! beside the limit of the arithmetic unit in the same run.

use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use embedring_kernels::{
    Activation, Heads, Input, Level, Matrix, Norm, Numbers, Output, Packed, Panels, Qkv, RowScale,
    Scratch, Team, add_norm, attention, multiply_in_registers, pack, product,
};

/// Measures each kernel of the engine.
#[derive(Debug, Parser)]
struct Args {
    /// The instructions to use; the best ones of the machine unless given.
    #[arg(long)]
    kernels: Option<String>,
}

const TOKENS: usize = 256;
const HIDDEN: usize = 384;
const INNER: usize = 1536;
const LAYERS: usize = 6;
const ROUNDS: usize = 40;

/// The products of a layer: name, outputs, inputs, what follows.
const PRODUCTS: [(&str, usize, usize, Activation); 4] = [
    (
        "queries, keys, values",
        3 * HIDDEN,
        HIDDEN,
        Activation::None,
    ),
    ("attention output", HIDDEN, HIDDEN, Activation::None),
    ("up, with GELU", INNER, HIDDEN, Activation::GeluErf),
    ("down", HIDDEN, INNER, Activation::None),
];

#[expect(clippy::print_stdout, reason = "its results")]
fn main() -> Result<()> {
    let level = match Args::parse().kernels {
        Some(name) => Level::by_name(&name)?,
        None => Level::best(),
    };
    println!("one thread, {level}, {TOKENS} tokens of {HIDDEN}, best of {ROUNDS} rounds\n");
    println!("| one layer | ns a token | GFLOP/s | of the limit |\n|---|---|---|---|");
    let bf16 = if level.multiplies_bf16() {
        Numbers::Bf16
    } else {
        Numbers::Bf16Weights
    };
    for numbers in [Numbers::F32, bf16, Numbers::Int8] {
        products(level, numbers);
    }
    attentions(level, Numbers::F32);
    if bf16 == Numbers::Bf16 {
        attentions(level, bf16);
    }
    rows(level);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "its results")]
fn print(what: &str, seconds: f64, operations: usize, limit: f64) {
    let nanoseconds = seconds * 1e9 / as_float(TOKENS);
    if operations == 0 {
        return println!("| {what} | {nanoseconds:.0} | | |");
    }
    let rate = as_float(operations) / seconds;
    println!(
        "| {what} | {nanoseconds:.0} | {:.0} | {:.0} % |",
        rate / 1e9,
        100.0 * rate / limit
    );
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

/// The shortest time of several runs.
fn best(mut f: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        #[expect(clippy::disallowed_methods, reason = "a duration within this function")]
        let begun = Instant::now();
        f();
        best = best.min(begun.elapsed().as_secs_f64());
    }
    best
}

/// Operations a second at most.
fn limit(level: Level, numbers: Numbers) -> f64 {
    let rounds = 200_000;
    let mut operations = 0;
    let seconds = best(|| operations = multiply_in_registers(level, numbers, rounds));
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let operations = operations as f64;
    operations / seconds
}

fn products(level: Level, numbers: Numbers) {
    let limit = limit(level, numbers);
    let scales = vec![
        RowScale {
            scale: 0.1,
            zero: 3
        };
        TOKENS
    ];
    for (name, outputs, inputs, activation) in PRODUCTS {
        let bias = vec![0.1; outputs];
        // As many as there are layers, in turns, so that weights come from where they do in a model.
        let layers: Vec<Panels> = (0..LAYERS)
            .map(|_| match numbers {
                Numbers::Int8 => Panels::int8(
                    level,
                    &vec![3; outputs * inputs],
                    &vec![0.01; outputs],
                    &bias,
                ),
                Numbers::F32 | Numbers::Bf16 | Numbers::Bf16Weights => {
                    Panels::new(level, numbers, &vec![0.01; outputs * inputs], &bias)
                }
            })
            .collect();
        let (floats, words) = (Matrix::new(TOKENS, inputs), Matrix::new(TOKENS, inputs / 4));
        let pairs = Matrix::new(TOKENS, inputs / 2);
        let mut out = Matrix::new(TOKENS, outputs);
        let mut turn = layers.iter().cycle();
        let seconds = best(|| {
            let input = match numbers {
                Numbers::Int8 => Input::Int8(&words, &scales),
                Numbers::Bf16 => Input::Bf16(&pairs),
                Numbers::F32 | Numbers::Bf16Weights => Input::F32(&floats),
            };
            if let Some(layer) = turn.next() {
                let team = &mut Team::alone(level);
                product(
                    team,
                    TOKENS,
                    input,
                    layer,
                    activation,
                    Output::F32(&mut out),
                );
            }
        });
        let what = format!("{name}, {numbers:?}");
        print(&what, seconds, 2 * TOKENS * outputs * inputs, limit);
    }
}

fn attentions(level: Level, numbers: Numbers) {
    let limit = limit(level, numbers);
    let mut floats = Matrix::new(TOKENS, 3 * HIDDEN);
    let mut pairs = Matrix::new(TOKENS, 3 * HIDDEN / 2);
    for row in 0..TOKENS {
        for (at, x) in (0_u16..).zip(floats.row_mut(row).iter_mut()) {
            *x = f32::from(at % 17) * 0.02 - 0.1;
        }
    }
    let alone = &mut Team::alone(level);
    pack(alone, TOKENS, &floats, Packed::Bf16(&mut pairs));
    let heads = Heads {
        count: 12,
        width: 32,
        bias: &[],
    };
    let mut out = Matrix::new(TOKENS, HIDDEN);
    let scratch = Scratch::new(1, TOKENS, 32);
    for length in [16, 128, 256] {
        let offsets: Vec<usize> = (0..=TOKENS / length).map(|at| at * length).collect();
        let seconds = best(|| {
            let qkv = if numbers == Numbers::Bf16 {
                Qkv::Bf16(&pairs)
            } else {
                Qkv::F32(&floats)
            };
            let output = Output::F32(&mut out);
            attention(alone, qkv, &offsets, heads, &scratch, output);
        });
        let what = format!("attention, {numbers:?}, texts of {length} tokens");
        print(&what, seconds, 4 * length * HIDDEN * TOKENS, limit);
    }
}

fn rows(level: Level) {
    let norm = Norm {
        weight: vec![1.0; HIDDEN],
        bias: vec![0.0; HIDDEN],
        eps: 1e-12,
    };
    let (mut x, y) = (Matrix::new(TOKENS, HIDDEN), Matrix::new(TOKENS, HIDDEN));
    let mut scales = vec![RowScale::default(); TOKENS];
    let mut words = Matrix::new(TOKENS, HIDDEN / 4);
    let seconds = best(|| {
        add_norm(
            &mut Team::alone(level),
            TOKENS,
            &y,
            &norm,
            &mut x,
            Packed::None,
        );
    });
    print(
        "residual and LayerNorm (two of them)",
        2.0 * seconds,
        0,
        1.0,
    );
    let seconds = best(|| {
        let (words, scales, factors) = (&mut words, &mut scales[..], &[1.0; HIDDEN][..]);
        let into = Packed::Int8 {
            words,
            scales,
            factors,
        };
        add_norm(&mut Team::alone(level), TOKENS, &y, &norm, &mut x, into);
    });
    print("the same, and rounded to bytes", 2.0 * seconds, 0, 1.0);
    let inner = Matrix::new(TOKENS, INNER);
    let mut words = Matrix::new(TOKENS, INNER / 4);
    let seconds = best(|| {
        let into = Packed::Int8 {
            words: &mut words,
            scales: &mut scales,
            factors: &[],
        };
        pack(&mut Team::alone(level), TOKENS, &inner, into);
    });
    print("inner rows rounded to bytes", seconds, 0, 1.0);
}

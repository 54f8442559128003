//! The forward pass against a plain one: loops over f64, written from the definitions of the
//! families.

use embedring_model::ModelDir;
use safetensors::tensor::Dtype;
use serde_json::json;

use crate::models::{self, Loaded, backends, rows};
use crate::scratch::{Checkpoint, FAMILIES, RELATIVE_BIAS, Scratch};

type Rows = Vec<Vec<f64>>;

pub(crate) struct Naive<'a>(pub(crate) &'a Checkpoint);

impl Naive<'_> {
    fn tensor(&self, name: &str) -> (&[usize], &[f32]) {
        let (shape, numbers) = &self.0.tensors[name];
        (shape, numbers)
    }

    fn lookup(&self, name: &str, row: usize) -> Vec<f64> {
        let (shape, numbers) = self.tensor(&format!("embeddings.{name}.weight"));
        numbers[row * shape[1]..(row + 1) * shape[1]]
            .iter()
            .map(|&x| f64::from(x))
            .collect()
    }

    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let (shape, weight) = self.tensor(&format!("{name}.weight"));
        let (_, bias) = self.tensor(&format!("{name}.bias"));
        let dot = |row: &[f64], out: usize| {
            let weight = &weight[out * shape[1]..];
            row.iter()
                .zip(weight)
                .map(|(x, &w)| x * f64::from(w))
                .sum::<f64>()
        };
        x.iter()
            .map(|row| {
                (0..shape[0])
                    .map(|out| dot(row, out) + f64::from(bias[out]))
                    .collect()
            })
            .collect()
    }

    fn add_norm(&self, name: &str, x: &Rows, y: &Rows) -> Rows {
        let (_, weight) = self.tensor(&format!("{name}.weight"));
        let (_, bias) = self.tensor(&format!("{name}.bias"));
        let eps = self.0.config["layer_norm_eps"].as_f64().unwrap_or(1e-12);
        let one = |x: &Vec<f64>, y: &Vec<f64>| {
            let row: Vec<f64> = x.iter().zip(y).map(|(x, y)| x + y).collect();
            let count = row.len() as f64;
            let mean = row.iter().sum::<f64>() / count;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let scale = 1.0 / (variance + eps).sqrt();
            row.iter()
                .zip(weight.iter().zip(bias))
                .map(|(x, (&w, &b))| (x - mean) * scale * f64::from(w) + f64::from(b))
                .collect()
        };
        x.iter().zip(y).map(|(x, y)| one(x, y)).collect()
    }

    fn attention(&self, q: &Rows, k: &Rows, v: &Rows) -> Rows {
        let sizes = self.0.sizes();
        let width = sizes.hidden / sizes.heads;
        let mut out = vec![vec![0.0; q[0].len()]; q.len()];
        for ((place, query), out) in q.iter().enumerate().zip(&mut out) {
            for head in 0..sizes.heads {
                let range = head * width..(head + 1) * width;
                let score = |(of_key, key): (usize, &Vec<f64>)| {
                    let pairs = query[range.clone()].iter().zip(&key[range.clone()]);
                    let score = pairs.map(|(a, b)| a * b).sum::<f64>() / (width as f64).sqrt();
                    (score + self.bias(head, place, of_key)).exp()
                };
                let scores: Vec<f64> = k.iter().enumerate().map(score).collect();
                let total: f64 = scores.iter().sum();
                for (value, score) in v.iter().zip(&scores) {
                    for at in range.clone() {
                        out[at] += score / total * value[at];
                    }
                }
            }
        }
        out
    }

    /// What the distance from a query to a key adds to their score.
    fn bias(&self, head: usize, query: usize, key: usize) -> f64 {
        let sizes = self.0.sizes();
        if !sizes.relative {
            return 0.0;
        }
        // Eight buckets of one distance each, then seven that begin at 8 times a power of the
        // root of two, squared here to stay whole; the last has no end.
        let far = key.abs_diff(query);
        let wide = |step: &u32| far * far >= 64 << step;
        let bucket = far.min(8) + (1..=7).take_while(wide).count();
        let side = if key > query { 16 } else { 0 };
        let (_, table) = self.tensor(RELATIVE_BIAS);
        f64::from(table[(side + bucket) * sizes.heads + head])
    }

    fn activate(&self, x: f64) -> f64 {
        let config = &self.0.config;
        let name = config["hidden_act"]
            .as_str()
            .or(config["activation"].as_str());
        match name.unwrap() {
            "gelu" => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
            "relu" => x.max(0.0),
            "gelu_new" => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            other => panic!("no activation {other}"),
        }
    }

    pub(crate) fn pooled(&self, ids: &[u32]) -> Vec<f64> {
        let (sizes, names) = (self.0.sizes(), self.0.names());
        let zero = vec![vec![0.0; sizes.hidden]; ids.len()];
        let embed = |(place, &id): (usize, &u32)| {
            let mut row = self.lookup("word_embeddings", id.try_into().unwrap());
            let mut add = |other: Vec<f64>| row.iter_mut().zip(other).for_each(|(x, y)| *x += y);
            add(self.lookup("position_embeddings", place + sizes.first_position));
            if sizes.types.is_some() {
                add(self.lookup("token_type_embeddings", 0));
            }
            row
        };
        let x: Rows = ids.iter().enumerate().map(embed).collect();
        let mut x = self.add_norm("embeddings.LayerNorm", &x, &zero);
        for layer in 0..sizes.layers {
            let name = |part| names.at(layer, part);
            let [q, k, v] =
                [names.query, names.key, names.value].map(|n| self.linear(&name(n), &x));
            let y = self.linear(&name(names.attention), &self.attention(&q, &k, &v));
            x = self.add_norm(&name(names.attention_norm), &x, &y);
            let mut inner = self.linear(&name(names.up), &x);
            inner
                .iter_mut()
                .flatten()
                .for_each(|x| *x = self.activate(*x));
            let y = self.linear(&name(names.down), &inner);
            x = self.add_norm(&name(names.down_norm), &x, &y);
        }
        if self.0.cls {
            return x.swap_remove(0);
        }
        let count = x.len() as f64;
        (0..x[0].len())
            .map(|at| x.iter().map(|row| row[at]).sum::<f64>() / count)
            .collect()
    }
}

#[track_caller]
fn check(checkpoint: &Checkpoint) {
    let scratch = Scratch::new(checkpoint);
    let dir = ModelDir::open(scratch.path()).unwrap();
    let longest = u32::try_from(checkpoint.sizes().tokens()).unwrap();
    let sequences: Vec<Vec<u32>> = [1, 2, 3, 11, 17, longest]
        .iter()
        .map(|&length| {
            (0..length)
                .map(|at| (length * 13 + at * 29) % 100)
                .collect()
        })
        .collect();
    let naive: Vec<_> = sequences
        .iter()
        .map(|ids| Naive(checkpoint).pooled(ids))
        .collect();
    for tested in backends() {
        for threads in [1, 2, 8] {
            let mut backend = tested.load(&dir, threads);
            for (row, naive) in rows(&mut *backend, &sequences).iter().zip(&naive) {
                check_row(row, naive, tested.tolerance, &tested.name);
            }
        }
    }
}

#[track_caller]
pub(crate) fn check_row(row: &[f32], naive: &[f64], tolerance: f64, what: &str) {
    assert_eq!(row.len(), naive.len());
    for (at, (&got, want)) in row.iter().zip(naive).enumerate() {
        let off = (f64::from(got) - want).abs();
        assert!(off <= tolerance, "{what}, number {at}: {got} or {want}");
    }
}

/// Length of the difference, of the length of what is right.
pub(crate) fn relative_error(row: &[f32], naive: &[f64]) -> f64 {
    assert_eq!(row.len(), naive.len());
    let pairs = row.iter().zip(naive);
    let squares: f64 = pairs
        .map(|(&got, want)| (f64::from(got) - want).powi(2))
        .sum();
    (squares / naive.iter().map(|x| x * x).sum::<f64>()).sqrt()
}

#[test]
fn mean_and_cls_pooling_in_several_shapes() {
    let shapes = [
        json!({}),
        json!({ "num_attention_heads": 1, "num_hidden_layers": 1 }),
        json!({ "hidden_size": 64, "num_attention_heads": 8, "intermediate_size": 256 }),
        json!({ "hidden_size": 20, "num_attention_heads": 5, "intermediate_size": 33 }),
        json!({ "num_hidden_layers": 4, "layer_norm_eps": 1e-5, "type_vocab_size": 1 }),
    ];
    for (seed, changes) in (1..).zip(&shapes) {
        for cls in [false, true] {
            check(&Checkpoint {
                cls,
                ..Checkpoint::new("bert", changes, seed)
            });
        }
    }
}

#[test]
fn every_family() {
    for (seed, family) in (10..).zip(FAMILIES) {
        check(&Checkpoint::new(family, &json!({}), seed));
        let old_names = true;
        check(&Checkpoint {
            old_names,
            ..Checkpoint::of(family)
        });
    }
    let far = json!({ "pad_token_id": 5, "type_vocab_size": 2 });
    check(&Checkpoint::new("xlm-roberta", &far, 20));
    // Far enough for every bucket of distances.
    let long = json!({ "max_position_embeddings": 202, "layer_norm_eps": 1e-5 });
    check(&Checkpoint::new("mpnet", &long, 21));
    let other = json!({ "dim": 20, "n_heads": 5, "hidden_dim": 33, "activation": "relu" });
    check(&Checkpoint::new("distilbert", &other, 22));
}

#[test]
fn every_activation() {
    for activation in ["gelu", "gelu_new", "relu"] {
        let changes = json!({ "hidden_act": activation });
        check(&Checkpoint::new("bert", &changes, 5));
    }
}

#[test]
fn half_precision_files_are_converted() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let mut checkpoint = Checkpoint {
            dtype,
            ..Checkpoint::default()
        };
        // The expected numbers come from what the file can hold.
        for x in checkpoint
            .tensors
            .values_mut()
            .flat_map(|(_, numbers)| numbers)
        {
            *x = if dtype == Dtype::F16 {
                half::f16::from_f32(*x).to_f32()
            } else {
                half::bf16::from_f32(*x).to_f32()
            };
        }
        check(&checkpoint);
    }
}

/// The real weights have channels far larger than random ones, which is where f32 could suffer.
#[test]
fn minilm() {
    let checkpoint = Checkpoint::read(&models::path(models::MINILM));
    for tested in backends() {
        let mut model = Loaded::on(&tested, models::MINILM, 2);
        for text in ["What is Deep Learning?", "test"] {
            let naive = Naive(&checkpoint).pooled(&model.encode(text));
            // Its numbers are a third of those of the random ones.
            let tolerance = tested.tolerance / 2.0;
            let what = format!("{}, {text:?}", tested.name);
            check_row(&model.rows(&[text])[0], &naive, tolerance, &what);
        }
    }
}

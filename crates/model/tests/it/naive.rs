//! The forward pass against a plain one: loops over f64, written from the definition of BERT.

use embedring_model::{CandleCpu, ModelDir};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::json;

use crate::models::{self, Loaded, rows};
use crate::scratch::{Checkpoint, Scratch};

type Rows = Vec<Vec<f64>>;

struct Naive<'a>(&'a Checkpoint);

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
        let eps = self.0.config["layer_norm_eps"].as_f64().unwrap();
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
        let width = self.0.size("hidden_size") / self.0.size("num_attention_heads");
        let mut out = vec![vec![0.0; q[0].len()]; q.len()];
        for (query, out) in q.iter().zip(&mut out) {
            for head in (0..query.len()).step_by(width) {
                let range = head..head + width;
                let score = |key: &Vec<f64>| {
                    let pairs = query[range.clone()].iter().zip(&key[range.clone()]);
                    (pairs.map(|(a, b)| a * b).sum::<f64>() / (width as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = k.iter().map(score).collect();
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

    fn activate(&self, x: f64) -> f64 {
        match self.0.config["hidden_act"].as_str().unwrap() {
            "gelu" => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
            "relu" => x.max(0.0),
            "gelu_new" => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            other => panic!("no activation {other}"),
        }
    }

    fn pooled(&self, ids: &[u32]) -> Vec<f64> {
        let zero = vec![vec![0.0; self.0.size("hidden_size")]; ids.len()];
        let embed = |(position, &id): (usize, &u32)| {
            let word = self.lookup("word_embeddings", id.try_into().unwrap());
            let place = self.lookup("position_embeddings", position);
            let kind = self.lookup("token_type_embeddings", 0);
            word.iter()
                .zip(place)
                .zip(kind)
                .map(|((a, b), c)| a + b + c)
                .collect()
        };
        let x: Rows = ids.iter().enumerate().map(embed).collect();
        let mut x = self.add_norm("embeddings.LayerNorm", &x, &zero);
        for layer in 0..self.0.size("num_hidden_layers") {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            let [q, k, v] = ["query", "key", "value"]
                .map(|part| self.linear(&name(&format!("attention.self.{part}")), &x));
            let y = self.linear(&name("attention.output.dense"), &self.attention(&q, &k, &v));
            x = self.add_norm(&name("attention.output.LayerNorm"), &x, &y);
            let mut inner = self.linear(&name("intermediate.dense"), &x);
            inner
                .iter_mut()
                .flatten()
                .for_each(|x| *x = self.activate(*x));
            let y = self.linear(&name("output.dense"), &inner);
            x = self.add_norm(&name("output.LayerNorm"), &x, &y);
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
fn check(checkpoint: &Checkpoint, tolerance: f64) {
    let scratch = Scratch::new(checkpoint);
    let dir = ModelDir::open(scratch.path()).unwrap();
    let sequences: Vec<Vec<u32>> = [1, 2, 3, 11, 17, 40]
        .iter()
        .map(|&length| {
            (0..length)
                .map(|at| (length * 13 + at * 29) % 100)
                .collect()
        })
        .collect();
    for threads in [1, 2, 8] {
        let mut backend = CandleCpu::load(&dir, threads).unwrap();
        for (row, ids) in rows(&mut backend, &sequences).iter().zip(&sequences) {
            for (at, (&got, want)) in row.iter().zip(Naive(checkpoint).pooled(ids)).enumerate() {
                let off = (f64::from(got) - want).abs();
                assert!(
                    off <= tolerance,
                    "{} tokens, number {at}: {got} or {want}",
                    ids.len()
                );
            }
        }
    }
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
            check(
                &Checkpoint {
                    cls,
                    ..Checkpoint::new(changes, seed)
                },
                2e-5,
            );
        }
    }
}

#[test]
fn every_activation() {
    for activation in ["gelu", "gelu_new", "relu"] {
        check(
            &Checkpoint::new(&json!({ "hidden_act": activation }), 5),
            2e-5,
        );
    }
}

#[test]
fn old_tensor_names() {
    check(
        &Checkpoint {
            old_names: true,
            ..Checkpoint::default()
        },
        2e-5,
    );
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
        check(&checkpoint, 2e-5);
    }
}

/// The real weights have channels far larger than random ones, which is where f32 could suffer.
#[test]
fn minilm() {
    let path = models::path(models::MINILM);
    let config = std::fs::read(path.join("config.json")).unwrap();
    let weights = std::fs::read(path.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&weights)
        .unwrap()
        .iter()
        .filter(|(_, view)| view.dtype() == Dtype::F32)
        .map(|(name, view)| {
            let (numbers, _) = view.data().as_chunks();
            let numbers = numbers.iter().map(|&x| f32::from_le_bytes(x)).collect();
            (name.to_owned(), (view.shape().to_vec(), numbers))
        })
        .collect();
    let config = serde_json::from_slice(&config).unwrap();
    let checkpoint = Checkpoint {
        config,
        tensors,
        ..Checkpoint::default()
    };
    let mut model = Loaded::new(models::MINILM, 2);
    for text in ["What is Deep Learning?", "test"] {
        let naive = Naive(&checkpoint).pooled(&model.encode(text));
        for (at, (got, want)) in model.rows(&[text])[0].iter().zip(&naive).enumerate() {
            let off = (f64::from(*got) - want).abs();
            assert!(off <= 1e-5, "{text}, number {at}: {got} or {want}");
        }
    }
}

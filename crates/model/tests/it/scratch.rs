//! Small random models in temporary directories.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What to write.
#[derive(Clone)]
pub(crate) struct Checkpoint {
    pub(crate) config: Value,
    pub(crate) cls: bool,
    /// `bert.`, gamma and beta.
    pub(crate) old_names: bool,
    pub(crate) dtype: Dtype,
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self::new(&json!({}), 7)
    }
}

impl Checkpoint {
    /// Hidden 48 in 3 heads, 2 layers, vocabulary 100, 40 positions, and `changes` to the config.
    pub(crate) fn new(changes: &Value, seed: u64) -> Self {
        let mut config = json!({
            "model_type": "bert", "hidden_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 3, "intermediate_size": 112, "hidden_act": "gelu",
            "vocab_size": 100, "max_position_embeddings": 40, "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let mut random = Random(seed);
        let tensors = shapes(&config)
            .into_iter()
            .map(|(name, shape)| {
                let count: usize = shape.iter().product();
                // Around 1 for the weights of a LayerNorm, else around 0.
                let centre = if name.ends_with("LayerNorm.weight") {
                    1.0
                } else {
                    0.0
                };
                let numbers = (0..count).map(|_| centre + random.next() * 0.3).collect();
                (name, (shape, numbers))
            })
            .collect();
        Self {
            config,
            cls: false,
            old_names: false,
            dtype: Dtype::F32,
            tensors,
        }
    }

    pub(crate) fn size(&self, key: &str) -> usize {
        usize::try_from(self.config[key].as_u64().unwrap()).unwrap()
    }

    fn encode(&self, x: f32) -> Vec<u8> {
        if self.dtype == Dtype::F16 {
            half::f16::from_f32(x).to_le_bytes().to_vec()
        } else if self.dtype == Dtype::BF16 {
            half::bf16::from_f32(x).to_le_bytes().to_vec()
        } else if self.dtype == Dtype::F64 {
            f64::from(x).to_le_bytes().to_vec()
        } else {
            x.to_le_bytes().to_vec()
        }
    }

    fn safetensors(&self) -> Vec<u8> {
        let bytes: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, (shape, numbers))| {
                let bytes = numbers
                    .iter()
                    .flat_map(|&x| self.encode(x))
                    .collect::<Vec<u8>>();
                let mut name = name.clone();
                if self.old_names {
                    name = format!("bert.{name}")
                        .replace("LayerNorm.weight", "LayerNorm.gamma")
                        .replace("LayerNorm.bias", "LayerNorm.beta");
                }
                (name, shape.clone(), bytes)
            })
            .collect();
        let ids = vec![0; 8 * self.size("max_position_embeddings")];
        let views = bytes
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(self.dtype, shape.clone(), bytes).unwrap();
                (name.clone(), view)
            })
            .chain(std::iter::once((
                "embeddings.position_ids".to_owned(),
                TensorView::new(Dtype::I64, vec![1, ids.len() / 8], &ids).unwrap(),
            )));
        safetensors::serialize(views, None).unwrap()
    }
}

fn shapes(config: &Value) -> Vec<(String, Vec<usize>)> {
    let size = |key: &str| usize::try_from(config[key].as_u64().unwrap()).unwrap();
    let (hidden, inner) = (size("hidden_size"), size("intermediate_size"));
    let mut shapes = vec![
        (
            "embeddings.word_embeddings.weight".to_owned(),
            vec![size("vocab_size"), hidden],
        ),
        (
            "embeddings.position_embeddings.weight".to_owned(),
            vec![size("max_position_embeddings"), hidden],
        ),
        (
            "embeddings.token_type_embeddings.weight".to_owned(),
            vec![size("type_vocab_size"), hidden],
        ),
    ];
    let norm = |shapes: &mut Vec<_>, name: String| {
        shapes.push((format!("{name}.weight"), vec![hidden]));
        shapes.push((format!("{name}.bias"), vec![hidden]));
    };
    norm(&mut shapes, "embeddings.LayerNorm".to_owned());
    for layer in 0..size("num_hidden_layers") {
        let linear = [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ];
        for (name, outputs, inputs) in linear {
            let name = format!("encoder.layer.{layer}.{name}");
            shapes.push((format!("{name}.weight"), vec![outputs, inputs]));
            shapes.push((format!("{name}.bias"), vec![outputs]));
        }
        norm(
            &mut shapes,
            format!("encoder.layer.{layer}.attention.output.LayerNorm"),
        );
        norm(
            &mut shapes,
            format!("encoder.layer.{layer}.output.LayerNorm"),
        );
    }
    shapes
}

/// Numbers in `[-1, 1)`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        f32::from(u16::try_from(self.0 >> 48).unwrap()) / 32768.0 - 1.0
    }
}

/// A model directory that goes away with this.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new(checkpoint: &Checkpoint) -> Self {
        let scratch = Self(TempDir::new().unwrap());
        scratch.write("config.json", checkpoint.config.to_string());
        scratch.write("model.safetensors", checkpoint.safetensors());
        scratch.write(
            "modules.json",
            json!([
                { "path": "", "type": "sentence_transformers.models.Transformer" },
                { "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
            ])
            .to_string(),
        );
        scratch.write(
            "1_Pooling/config.json",
            json!({
                "pooling_mode_cls_token": checkpoint.cls,
                "pooling_mode_mean_tokens": !checkpoint.cls,
            })
            .to_string(),
        );
        scratch
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(crate) fn remove(&self, file: &str) {
        std::fs::remove_file(self.path().join(file)).unwrap();
    }

    pub(crate) fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path().join(file)).unwrap()
    }
}

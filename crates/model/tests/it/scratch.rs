//! Small random models in temporary directories.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A `model_type` of each family.
pub(crate) const FAMILIES: [&str; 4] = ["bert", "xlm-roberta", "mpnet", "distilbert"];

/// What to write.
#[derive(Clone)]
pub(crate) struct Checkpoint {
    pub(crate) config: Value,
    pub(crate) cls: bool,
    /// The prefix of files with a head; gamma and beta.
    pub(crate) old_names: bool,
    pub(crate) dtype: Dtype,
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self::of("bert")
    }
}

impl Checkpoint {
    pub(crate) fn of(family: &str) -> Self {
        Self::new(family, &json!({}), 7)
    }

    /// Hidden 48 in 3 heads, 2 layers, vocabulary 100, texts of 40 tokens, and `changes` to the
    /// config.
    pub(crate) fn new(family: &str, changes: &Value, seed: u64) -> Self {
        let mut config = default_config(family);
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let mut random = Random(seed);
        let tensors = shapes(&Sizes::of(&config), &Names::of(family))
            .into_iter()
            .map(|(name, shape)| {
                let count: usize = shape.iter().product();
                // Around 1 for the weights of a LayerNorm, else around 0.
                let norm = name.to_lowercase().ends_with("norm.weight");
                let centre = if norm { 1.0 } else { 0.0 };
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

    /// What a model's directory holds in f32.
    pub(crate) fn read(path: &Path) -> Self {
        let config = std::fs::read(path.join("config.json")).unwrap();
        let weights = std::fs::read(path.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&weights)
            .unwrap()
            .iter()
            .filter(|(_, view)| view.dtype() == Dtype::F32)
            .map(|(name, view)| {
                let (numbers, _) = view.data().as_chunks();
                let numbers = numbers.iter().map(|&x| f32::from_le_bytes(x)).collect();
                // Files with a head have a prefix, old ones gamma and beta.
                let name = name.strip_prefix("bert.").unwrap_or(name);
                let name = name
                    .replace("LayerNorm.gamma", "LayerNorm.weight")
                    .replace("LayerNorm.beta", "LayerNorm.bias");
                (name, (view.shape().to_vec(), numbers))
            })
            .collect();
        Self {
            config: serde_json::from_slice(&config).unwrap(),
            tensors,
            ..Self::default()
        }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        Sizes::of(&self.config)
    }

    pub(crate) fn names(&self) -> Names {
        Names::of(self.config["model_type"].as_str().unwrap())
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
                    name = format!("{}.{name}", self.names().prefix)
                        .replace("LayerNorm.weight", "LayerNorm.gamma")
                        .replace("LayerNorm.bias", "LayerNorm.beta");
                }
                (name, shape.clone(), bytes)
            })
            .collect();
        let ids = vec![0; 8 * self.sizes().positions];
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

fn default_config(family: &str) -> Value {
    if family == "distilbert" {
        return json!({
            "model_type": family, "dim": 48, "n_layers": 2, "n_heads": 3, "hidden_dim": 112,
            "activation": "gelu", "vocab_size": 100, "max_position_embeddings": 40,
        });
    }
    let mut config = json!({
        "model_type": family, "hidden_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 3, "intermediate_size": 112, "hidden_act": "gelu",
        "vocab_size": 100, "max_position_embeddings": 40, "layer_norm_eps": 1e-12,
    });
    match family {
        "bert" => config["type_vocab_size"] = 2.into(),
        "xlm-roberta" => {
            config["type_vocab_size"] = 1.into();
            config["pad_token_id"] = 1.into();
            config["max_position_embeddings"] = 42.into();
        }
        "mpnet" => {
            config["relative_attention_num_buckets"] = 32.into();
            config["max_position_embeddings"] = 42.into();
        }
        other => panic!("no family {other}"),
    }
    config
}

/// The sizes in a config, whatever they are called there.
pub(crate) struct Sizes {
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    inner: usize,
    vocabulary: usize,
    /// Rows of the table of positions.
    positions: usize,
    /// The row that a text begins at.
    pub(crate) first_position: usize,
    /// Rows of the table of token types, if there is one.
    pub(crate) types: Option<usize>,
    /// Whether distances have a bias.
    pub(crate) relative: bool,
}

impl Sizes {
    fn of(config: &Value) -> Self {
        let get = |key: &str| config[key].as_u64().map(|n| usize::try_from(n).unwrap());
        let any = |a: &str, b: &str| get(a).or_else(|| get(b)).unwrap();
        let first_position = match config["model_type"].as_str().unwrap() {
            "bert" | "distilbert" => 0,
            "mpnet" => 2,
            _ => get("pad_token_id").unwrap() + 1,
        };
        Self {
            hidden: any("hidden_size", "dim"),
            layers: any("num_hidden_layers", "n_layers"),
            heads: any("num_attention_heads", "n_heads"),
            inner: any("intermediate_size", "hidden_dim"),
            vocabulary: get("vocab_size").unwrap(),
            positions: get("max_position_embeddings").unwrap(),
            first_position,
            types: get("type_vocab_size"),
            relative: get("relative_attention_num_buckets").is_some(),
        }
    }

    /// The longest sequence.
    pub(crate) fn tokens(&self) -> usize {
        self.positions - self.first_position
    }
}

/// What a family calls its tensors.
pub(crate) struct Names {
    prefix: &'static str,
    layer: &'static str,
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) attention: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) down_norm: &'static str,
}

impl Names {
    fn of(family: &str) -> Self {
        let bert = Self {
            prefix: "bert",
            layer: "encoder.layer",
            query: "attention.self.query",
            key: "attention.self.key",
            value: "attention.self.value",
            attention: "attention.output.dense",
            attention_norm: "attention.output.LayerNorm",
            up: "intermediate.dense",
            down: "output.dense",
            down_norm: "output.LayerNorm",
        };
        match family {
            "distilbert" => Self {
                prefix: "distilbert",
                layer: "transformer.layer",
                query: "attention.q_lin",
                key: "attention.k_lin",
                value: "attention.v_lin",
                attention: "attention.out_lin",
                attention_norm: "sa_layer_norm",
                up: "ffn.lin1",
                down: "ffn.lin2",
                down_norm: "output_layer_norm",
            },
            "mpnet" => Self {
                prefix: "mpnet",
                query: "attention.attn.q",
                key: "attention.attn.k",
                value: "attention.attn.v",
                attention: "attention.attn.o",
                attention_norm: "attention.LayerNorm",
                ..bert
            },
            "bert" => bert,
            _ => Self {
                prefix: "roberta",
                ..bert
            },
        }
    }

    /// A tensor or module of one layer.
    pub(crate) fn at(&self, layer: usize, part: &str) -> String {
        format!("{}.{layer}.{part}", self.layer)
    }
}

pub(crate) const RELATIVE_BIAS: &str = "encoder.relative_attention_bias.weight";

fn shapes(sizes: &Sizes, names: &Names) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (sizes.hidden, sizes.inner);
    let mut shapes = Vec::new();
    let mut table = |name: &str, rows| {
        let name = format!("embeddings.{name}_embeddings.weight");
        shapes.push((name, vec![rows, hidden]));
    };
    table("word", sizes.vocabulary);
    table("position", sizes.positions);
    if let Some(types) = sizes.types {
        table("token_type", types);
    }
    if sizes.relative {
        shapes.push((RELATIVE_BIAS.to_owned(), vec![32, sizes.heads]));
    }
    let norm = |shapes: &mut Vec<_>, name: String| {
        shapes.push((format!("{name}.weight"), vec![hidden]));
        shapes.push((format!("{name}.bias"), vec![hidden]));
    };
    norm(&mut shapes, "embeddings.LayerNorm".to_owned());
    for layer in 0..sizes.layers {
        let linear = [
            (names.query, hidden, hidden),
            (names.key, hidden, hidden),
            (names.value, hidden, hidden),
            (names.attention, hidden, hidden),
            (names.up, inner, hidden),
            (names.down, hidden, inner),
        ];
        for (name, outputs, inputs) in linear {
            let name = names.at(layer, name);
            shapes.push((format!("{name}.weight"), vec![outputs, inputs]));
            shapes.push((format!("{name}.bias"), vec![outputs]));
        }
        norm(&mut shapes, names.at(layer, names.attention_norm));
        norm(&mut shapes, names.at(layer, names.down_norm));
    }
    shapes
}

/// A generator that begins at one number, so that a failure can be repeated.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.0 >> 16
    }

    /// In `[-1, 1)`.
    fn next(&mut self) -> f32 {
        f32::from(u16::try_from(self.bits() >> 32).unwrap()) / 32768.0 - 1.0
    }

    /// In `0..end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.bits() >> 8).unwrap() % end
    }

    /// In `0..end`, each size about as often as its double, and the ends for sure now and then.
    pub(crate) fn mostly_small(&mut self, end: usize) -> usize {
        match self.below(10) {
            0 => 0,
            1 => end - 1,
            _ => {
                let bits = self.below(usize::try_from(end.ilog2()).unwrap() + 1);
                self.below(end.min(2 << bits))
            }
        }
    }
}

/// A model directory that goes away with this.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new(checkpoint: &Checkpoint) -> Self {
        let scratch = Self(TempDir::new().unwrap());
        scratch.write("config.json", checkpoint.config.to_string());
        scratch.write("model.safetensors", checkpoint.safetensors());
        scratch.write_modules(checkpoint.cls);
        scratch
    }

    /// The configuration and the weights that lie in `folder`.
    pub(crate) fn of_files(folder: &Path, cls: bool) -> Self {
        let scratch = Self(TempDir::new().unwrap());
        for file in ["config.json", "model.safetensors"] {
            scratch.write(file, std::fs::read(folder.join(file)).unwrap());
        }
        scratch.write_modules(cls);
        scratch
    }

    fn write_modules(&self, cls: bool) {
        let modules = json!([
            { "path": "", "type": "sentence_transformers.models.Transformer" },
            { "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
        ]);
        self.write("modules.json", modules.to_string());
        let pooling = json!({ "pooling_mode_cls_token": cls, "pooling_mode_mean_tokens": !cls });
        self.write("1_Pooling/config.json", pooling.to_string());
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

//! The model families, as one table: what their `config.json` and their tensors call things, and
//! the few places where they compute something else.
//!
//! All of them are a BERT: a table of words and one of positions, then layers of attention and a
//! feed-forward block, each followed by a LayerNorm. A family that fits needs a line in
//! [`FAMILIES`] and no code.

use std::path::Path;

use crate::ModelOpenError;
use crate::raw::RawConfig;

/// The non-linearity of the feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    GeluErf,
    GeluTanh,
    Relu,
}

/// A learned number for each head and bucket of distances, added to the attention scores of every
/// layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RelativeBias {
    pub(crate) buckets: usize,
    /// From here on all distances share the last bucket.
    pub(crate) max_distance: usize,
}

/// What is computed, checked for sense.
#[derive(Clone, Debug)]
pub(crate) struct Architecture {
    pub(crate) family: &'static Family,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) vocabulary: usize,
    /// Longest sequence: rows of the position table that a text can reach.
    pub(crate) positions: usize,
    /// Row of the file's position table that the first token of a text uses.
    pub(crate) position_offset: usize,
    /// Rows of the token-type table; 0 where there is none.
    pub(crate) token_types: usize,
    pub(crate) relative: Option<RelativeBias>,
    pub(crate) norm_eps: f32,
    pub(crate) activation: Activation,
}

/// One family: everything that is not the same in all.
#[derive(Debug)]
pub(crate) struct Family {
    /// Values of `model_type`.
    model_types: &'static [&'static str],
    keys: Keys,
    first_position: FirstPosition,
    /// Whether there is a table of them.
    token_types: bool,
    relative: Option<RelativeBias>,
    pub(crate) names: Names,
}

/// What `config.json` calls the sizes; those not here are called the same in all families.
#[derive(Debug)]
struct Keys {
    hidden: &'static str,
    layers: &'static str,
    heads: &'static str,
    intermediate: &'static str,
    activation: &'static str,
    /// `None` where the reference implementation does not ask: [`NORM_EPS`].
    norm_eps: Option<&'static str>,
}

/// Where the first token stands in the table of positions.
///
/// The families with an offset number the positions from behind that of padding. Their reference
/// gives a padding token *inside* a text that row and the next token no new one, which the
/// numbering here does not: it takes somebody to write `<pad>` in a text.
#[derive(Debug)]
enum FirstPosition {
    Zero,
    /// One behind `pad_token_id`.
    BehindPadding,
    /// One behind padding, which is 1 whatever the configuration says.
    Two,
}

/// What the tensors are called. The embeddings are `embeddings.*` in all families.
#[derive(Debug)]
pub(crate) struct Names {
    /// In front of every name, in files that hold a model with a head.
    pub(crate) prefix: &'static str,
    /// In front of the number of a layer.
    pub(crate) layer: &'static str,
    /// Query, key and value.
    pub(crate) qkv: [&'static str; 3],
    pub(crate) attention: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) down_norm: &'static str,
}

/// The table with a number for each bucket of distances and head, `[buckets, heads]`.
pub(crate) const RELATIVE_BIAS: &str = "encoder.relative_attention_bias.weight";

const BERT_KEYS: Keys = Keys {
    hidden: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    intermediate: "intermediate_size",
    activation: "hidden_act",
    norm_eps: Some("layer_norm_eps"),
};

const BERT_NAMES: Names = Names {
    prefix: "bert.",
    layer: "encoder.layer.",
    qkv: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ],
    attention: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    down_norm: "output.LayerNorm",
};

static FAMILIES: [Family; 4] = [
    Family {
        model_types: &["bert"],
        keys: BERT_KEYS,
        first_position: FirstPosition::Zero,
        token_types: true,
        relative: None,
        names: BERT_NAMES,
    },
    Family {
        model_types: &["roberta", "xlm-roberta", "camembert"],
        keys: BERT_KEYS,
        first_position: FirstPosition::BehindPadding,
        token_types: true,
        relative: None,
        names: Names {
            prefix: "roberta.",
            ..BERT_NAMES
        },
    },
    Family {
        model_types: &["mpnet"],
        keys: BERT_KEYS,
        first_position: FirstPosition::Two,
        token_types: false,
        relative: Some(RelativeBias {
            buckets: 32,
            max_distance: 128,
        }),
        names: Names {
            prefix: "mpnet.",
            qkv: ["attention.attn.q", "attention.attn.k", "attention.attn.v"],
            attention: "attention.attn.o",
            attention_norm: "attention.LayerNorm",
            ..BERT_NAMES
        },
    },
    Family {
        model_types: &["distilbert"],
        keys: Keys {
            hidden: "dim",
            layers: "n_layers",
            heads: "n_heads",
            intermediate: "hidden_dim",
            activation: "activation",
            norm_eps: None,
        },
        first_position: FirstPosition::Zero,
        token_types: false,
        relative: None,
        names: Names {
            prefix: "distilbert.",
            layer: "transformer.layer.",
            qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
            attention: "attention.out_lin",
            attention_norm: "sa_layer_norm",
            up: "ffn.lin1",
            down: "ffn.lin2",
            down_norm: "output_layer_norm",
        },
    },
];

/// All `model_types` of [`FAMILIES`], which a test holds it to.
const MODEL_TYPES: &str = "bert, roberta, xlm-roberta, camembert, mpnet, distilbert";

/// What the reference implementations assume where `config.json` is silent.
const NORM_EPS: f64 = 1e-12;

const CONFIG: &str = "config.json";
const POSITIONS: &str = "max_position_embeddings";
const TOKEN_TYPES: &str = "type_vocab_size";
const BUCKETS: &str = "relative_attention_num_buckets";

/// Sizes above this are not a model but a mistake or an attack: products of sizes must not
/// overflow.
const SIZE_MAX: usize = 1 << 24;

impl Architecture {
    /// Multiplications and additions of the linear layers for one token.
    pub(crate) fn flops_per_token(&self) -> u64 {
        let layer = self.hidden * (4 * self.hidden + 2 * self.intermediate);
        u64::try_from(2 * self.layers * layer).unwrap_or(u64::MAX)
    }

    /// `path` is where `raw` was read, for errors.
    pub(crate) fn check(raw: &RawConfig, path: &Path) -> Result<Self, ModelOpenError> {
        let is_of = |family: &&Family| family.model_types.contains(&raw.model_type.as_str());
        let Some(family) = FAMILIES.iter().find(is_of) else {
            return Err(unsupported("model_type", &raw.model_type, MODEL_TYPES));
        };
        if raw.is_decoder {
            return Err(unsupported("is_decoder", "true", "false"));
        }
        if let Some(kind) = raw.position_embedding_type.as_deref()
            && kind != "absolute"
        {
            return Err(unsupported("position_embedding_type", kind, "absolute"));
        }
        let bad = |source| ModelOpenError::Parse {
            path: path.to_owned(),
            source,
        };
        let keys = &family.keys;
        let position_offset = family.first_position.read(raw).map_err(bad)?;
        let rows: usize = raw.need(POSITIONS).map_err(bad)?;
        #[expect(clippy::cast_possible_truncation, reason = "the forward pass is f32")]
        let norm_eps = match keys.norm_eps {
            Some(key) => raw.get(key).map_err(bad)?.unwrap_or(NORM_EPS),
            None => NORM_EPS,
        } as f32;
        let activation_name: String = raw.need(keys.activation).map_err(bad)?;
        check_buckets(family, raw.get(BUCKETS).map_err(bad)?)?;
        let architecture = Self {
            family,
            hidden: raw.need(keys.hidden).map_err(bad)?,
            layers: raw.need(keys.layers).map_err(bad)?,
            heads: raw.need(keys.heads).map_err(bad)?,
            intermediate: raw.need(keys.intermediate).map_err(bad)?,
            vocabulary: raw.need("vocab_size").map_err(bad)?,
            positions: rows.saturating_sub(position_offset),
            position_offset,
            token_types: if family.token_types {
                raw.get(TOKEN_TYPES).map_err(bad)?.unwrap_or(2)
            } else {
                0
            },
            relative: family.relative,
            norm_eps,
            activation: activation(keys.activation, &activation_name)?,
        };
        architecture.check_sizes(rows)?;
        Ok(architecture)
    }

    /// `rows` is the size of the table of positions.
    fn check_sizes(&self, rows: usize) -> Result<(), ModelOpenError> {
        let keys = &self.family.keys;
        let sizes = [
            (keys.hidden, self.hidden),
            (keys.layers, self.layers),
            (keys.heads, self.heads),
            (keys.intermediate, self.intermediate),
            ("vocab_size", self.vocabulary),
            (POSITIONS, rows),
            // A family without them has none to check.
            (
                TOKEN_TYPES,
                self.token_types.max(usize::from(!self.family.token_types)),
            ),
        ];
        for (key, size) in sizes {
            if size == 0 || size > SIZE_MAX {
                return Err(inconsistent(format!("{key} is {size}")));
            }
        }
        if self.positions == 0 {
            return Err(inconsistent(format!(
                "{POSITIONS} is {rows}, a text begins at {}",
                self.position_offset
            )));
        }
        if !self.hidden.is_multiple_of(self.heads) {
            let (key, hidden, heads) = (keys.hidden, self.hidden, self.heads);
            return Err(inconsistent(format!(
                "{key} {hidden} is not a multiple of {heads} heads"
            )));
        }
        Ok(())
    }
}

impl FirstPosition {
    fn read(&self, raw: &RawConfig) -> Result<usize, serde_json::Error> {
        Ok(match self {
            Self::Zero => 0,
            Self::BehindPadding => raw
                .get("pad_token_id")?
                .unwrap_or(1_usize)
                .saturating_add(1),
            Self::Two => 2,
        })
    }
}

/// The reference makes a table of the size that the configuration says, and fills the buckets that
/// the family has always had.
fn check_buckets(family: &Family, configured: Option<usize>) -> Result<(), ModelOpenError> {
    match (family.relative, configured) {
        (Some(relative), Some(buckets)) if buckets != relative.buckets => {
            Err(unsupported(BUCKETS, &buckets.to_string(), "32"))
        }
        _ => Ok(()),
    }
}

/// The bucket of a distance (key's place minus query's), as Raffel et al. 2020 (T5) divide them
/// when looking both ways: half of the buckets for keys behind the query; in each half, half for
/// single distances, the rest growing geometrically up to `max_distance`.
pub(crate) fn relative_bucket(distance: i64, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let side = if distance > 0 { half } else { 0 };
    let far = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX);
    let exact = half / 2;
    if far < exact {
        return side + far;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few buckets, and distances whose logarithm matters to three digits"
    )]
    let beyond = {
        let of = |x: usize| (x as f64 / exact as f64).ln();
        let steps = of(far) / of(max_distance) * (half - exact) as f64;
        // Where a step begins at a whole distance, the quotient must not fall short of it by
        // rounding. No other distance comes this near to one.
        (steps + 1e-9) as usize
    };
    side + (exact.saturating_add(beyond)).min(half - 1)
}

/// The bias of every distance in a sequence of `tokens`, from a table `[heads, buckets]`:
/// `[heads, 2 * tokens - 1]`, at `key - query + tokens - 1`. What the keys of one query get is a
/// run of `tokens` numbers that begins at `tokens - 1 - query`.
pub(crate) fn bias_by_distance(
    table: &[f32],
    heads: usize,
    buckets: usize,
    max_distance: usize,
    tokens: usize,
) -> Vec<f32> {
    let reach = i64::try_from(tokens).unwrap_or(i64::MAX) - 1;
    let bucket: Vec<_> = (-reach..=reach)
        .map(|distance| relative_bucket(distance, buckets, max_distance))
        .collect();
    let of_head = |head: &[f32]| bucket.iter().map(|&at| head[at]).collect::<Vec<_>>();
    table
        .chunks_exact(buckets)
        .take(heads)
        .flat_map(of_head)
        .collect()
}

fn activation(key: &'static str, name: &str) -> Result<Activation, ModelOpenError> {
    match name {
        "gelu" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        other => Err(unsupported(
            key,
            other,
            "gelu, gelu_new, gelu_pytorch_tanh, relu",
        )),
    }
}

fn unsupported(key: &'static str, value: &str, supported: &'static str) -> ModelOpenError {
    ModelOpenError::Unsupported {
        file: CONFIG,
        key,
        value: value.to_owned(),
        supported,
    }
}

fn inconsistent(reason: String) -> ModelOpenError {
    ModelOpenError::Inconsistent {
        file: CONFIG,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_in_the_error_is_that_of_the_table() {
        let types: Vec<_> = FAMILIES
            .iter()
            .flat_map(|family| family.model_types)
            .copied()
            .collect();
        assert_eq!(types.join(", "), MODEL_TYPES);
        let buckets: Vec<_> = FAMILIES
            .iter()
            .filter_map(|family| family.relative)
            .collect();
        assert!(
            buckets.iter().all(|relative| relative.buckets == 32),
            "{buckets:?}"
        );
    }

    /// The first distance of each bucket, from the reference implementation.
    #[test]
    fn buckets_begin_where_those_of_the_reference_do() {
        let behind = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        for distance in 0..100_000 {
            let bucket = behind.iter().filter(|&&first| first <= distance).count();
            let got = |distance| relative_bucket(distance, 32, 128);
            assert_eq!(got(-distance), bucket, "-{distance}");
            let ahead = if distance == 0 { 0 } else { 16 + bucket };
            assert_eq!(got(distance), ahead, "{distance}");
        }
        assert_eq!(relative_bucket(i64::MIN, 32, 128), 15);
    }

    #[test]
    fn the_bias_of_a_query_is_a_run_of_the_table() {
        let table: Vec<f32> = (0..64u8).map(f32::from).collect();
        let bias = bias_by_distance(&table, 2, 32, 128, 3);
        assert_eq!(bias, [2., 1., 0., 17., 18., 34., 33., 32., 49., 50.]);
    }
}

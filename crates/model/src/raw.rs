//! The JSON files of a model directory as they are written, with only the keys that matter here.
//!
//! Unknown keys are ignored: these files are other programs' and carry much that is not ours.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `config.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct RawConfig {
    pub(crate) model_type: String,
    pub(crate) hidden_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) hidden_act: String,
    pub(crate) vocab_size: usize,
    pub(crate) max_position_embeddings: usize,
    #[serde(default = "default_type_vocab_size")]
    pub(crate) type_vocab_size: usize,
    #[serde(default = "default_layer_norm_eps")]
    pub(crate) layer_norm_eps: f64,
    #[serde(default)]
    pub(crate) position_embedding_type: Option<String>,
    #[serde(default)]
    pub(crate) is_decoder: bool,
}

fn default_type_vocab_size() -> usize {
    2
}

fn default_layer_norm_eps() -> f64 {
    1e-12
}

/// One entry of `modules.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct RawModule {
    pub(crate) path: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// `1_Pooling/config.json`. Older files have a flag for each mode, newer ones `pooling_mode`.
#[derive(Debug, Deserialize)]
pub(crate) struct RawPooling {
    #[serde(default)]
    pub(crate) pooling_mode: Option<String>,
    #[serde(default = "default_include_prompt")]
    pub(crate) include_prompt: bool,
    #[serde(flatten)]
    pub(crate) others: BTreeMap<String, serde_json::Value>,
}

fn default_include_prompt() -> bool {
    true
}

/// `sentence_bert_config.json`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RawSentenceBert {
    #[serde(default)]
    pub(crate) max_seq_length: Option<usize>,
    #[serde(default)]
    pub(crate) do_lower_case: Option<bool>,
}

/// `config_sentence_transformers.json`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RawPrompts {
    #[serde(default)]
    pub(crate) prompts: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) default_prompt_name: Option<String>,
}

/// `tokenizer_config.json`. The limit is a float because 1e30 is a common way to write "none".
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RawTokenizerConfig {
    #[serde(default)]
    pub(crate) model_max_length: Option<f64>,
}

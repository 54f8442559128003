//! The JSON files of a model directory as they are written, with only the keys that matter here.
//!
//! Unknown keys are ignored: these files are other programs' and carry much that is not ours.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Error};

/// `config.json`. What the other keys are called depends on the family.
#[derive(Debug, Deserialize)]
pub(crate) struct RawConfig {
    pub(crate) model_type: String,
    #[serde(default)]
    pub(crate) position_embedding_type: Option<String>,
    #[serde(default)]
    pub(crate) is_decoder: bool,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

impl RawConfig {
    /// The value of `key`; `None` if it is missing or null.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<T>, serde_json::Error> {
        let value = self.others.get(key).map(Option::deserialize);
        let value = value
            .transpose()
            .map_err(|e| Error::custom(format!("{key}: {e}")))?;
        Ok(value.flatten())
    }

    /// The value of a `key` that must be there.
    pub(crate) fn need<T: DeserializeOwned>(
        &self,
        key: &'static str,
    ) -> Result<T, serde_json::Error> {
        self.get(key)?.ok_or_else(|| Error::missing_field(key))
    }
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

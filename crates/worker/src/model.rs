//! The model as the worker sees it: a tokeniser and prompts that stay, and a backend whose weights
//! come and go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use embedring_model::{
    AnyTokenizer, Backend, ByteTokenizer, CandleCpu, ModelDir, ModelLoadError, ModelOpenError,
    ModelOverrides, NullBackend, Tokenizer, TokenizerOpenError,
};
use embedring_protocol::{ModelId, NormalizeOption, Precision, PromptKind};
use thiserror::Error;

/// What a worker serves.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A model directory, run by candle on the CPU.
    Candle {
        /// The directory, in sentence-transformers layout.
        dir: PathBuf,
        /// What the configuration says differently from the directory.
        overrides: ModelOverrides,
        /// Put before each text unless a request says otherwise; `None` for the model's own default.
        default_prompt: Option<String>,
    },
    /// No model: rows are a cheap function of the bytes.
    Null {
        /// Components of a row.
        hidden: usize,
    },
}

/// Why a model can not be served.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The directory is not one of a model.
    #[error(transparent)]
    Open(#[from] ModelOpenError),
    /// The tokeniser can not be built.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerOpenError),
    /// The weights can not be loaded.
    #[error(transparent)]
    Load(#[from] ModelLoadError),
}

/// Tokens a null model takes: as many as the models people use most.
const NULL_TOKENS_MAX: usize = 512;

/// A model being served.
pub(crate) struct Served {
    source: Option<ModelDir>,
    hidden: usize,
    threads: usize,
    /// Name people know it by.
    pub(crate) name: String,
    /// Digest of its weights.
    pub(crate) id: ModelId,
    /// Tokens of a text at most.
    pub(crate) max_tokens: usize,
    /// Arithmetic of its rows.
    pub(crate) precision: Precision,
    normalize: bool,
    prompts: BTreeMap<String, String>,
    default_prompt: String,
    tokenizer: AnyTokenizer,
}

impl Served {
    /// `threads` 0 stands for one per core this process may use.
    pub(crate) fn open(source: &ModelSource, threads: usize) -> Result<Self, ModelError> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        match source {
            ModelSource::Null { hidden } => Ok(Self {
                source: None,
                hidden: *hidden,
                threads,
                name: "null".to_owned(),
                id: ModelId([0xee; 16]),
                max_tokens: NULL_TOKENS_MAX,
                precision: Precision::F32,
                normalize: true,
                prompts: BTreeMap::new(),
                default_prompt: String::new(),
                tokenizer: AnyTokenizer::Bytes(ByteTokenizer),
            }),
            ModelSource::Candle {
                dir,
                overrides,
                default_prompt,
            } => {
                let dir = ModelDir::open(dir)?.with_overrides(overrides)?;
                let tokenizer = AnyTokenizer::Model(Tokenizer::open(&dir)?);
                let info = dir.info().clone();
                let own_default = info
                    .default_prompt
                    .as_ref()
                    .and_then(|name| info.prompts.get(name))
                    .cloned();
                Ok(Self {
                    hidden: info.hidden,
                    threads,
                    name: info.name,
                    id: ModelId::from_digest(&info.digest),
                    max_tokens: info.max_tokens,
                    precision: Precision::F32,
                    normalize: info.normalize,
                    prompts: info.prompts,
                    default_prompt: default_prompt.clone().or(own_default).unwrap_or_default(),
                    tokenizer,
                    source: Some(dir),
                })
            }
        }
    }

    /// Loads the weights.
    pub(crate) fn load(&self) -> Result<Box<dyn Backend>, ModelError> {
        Ok(match &self.source {
            Some(dir) => Box::new(CandleCpu::load(dir, self.threads)?),
            None => Box::new(NullBackend::new(self.hidden, self.max_tokens)),
        })
    }

    /// Components of a full row.
    pub(crate) fn dimensions(&self) -> usize {
        self.hidden
    }

    pub(crate) fn tokenizer(&self) -> &AnyTokenizer {
        &self.tokenizer
    }

    /// Whether rows are normalised.
    pub(crate) fn normalize(&self, option: NormalizeOption) -> bool {
        match option {
            NormalizeOption::Model => self.normalize,
            NormalizeOption::Yes => true,
            NormalizeOption::No => false,
        }
    }

    /// The text to put before each text; `None` for an unknown name.
    pub(crate) fn prompt<'a>(&'a self, kind: PromptKind, prompt: &'a str) -> Option<&'a str> {
        match kind {
            PromptKind::Default => Some(&self.default_prompt),
            PromptKind::Text => Some(prompt),
            PromptKind::Name => self.prompts.get(prompt).map(String::as_str),
        }
    }
}

//! A model directory in sentence-transformers layout, read and checked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::arch::Architecture;
use crate::raw::{RawModule, RawPooling, RawPrompts, RawSentenceBert, RawTokenizerConfig};

/// The checked description of a model directory. Nothing heavy is loaded yet.
#[derive(Clone, Debug)]
pub struct ModelDir {
    info: ModelInfo,
    architecture: Architecture,
    weights: PathBuf,
    tokenizer: PathBuf,
    lowercase: bool,
}

/// What there is to know about a model before it is loaded.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Name of the directory.
    pub name: String,
    /// SHA-256 of `model.safetensors`.
    pub digest: [u8; 32],
    /// Length of a row.
    pub hidden: usize,
    /// Longest sequence, special tokens included.
    pub max_tokens: usize,
    /// Multiplications and additions of the linear layers for one token.
    pub flops_per_token: u64,
    /// How the rows of the tokens become one.
    pub pooling: Pooling,
    /// Whether a `Normalize` module is listed.
    pub normalize: bool,
    /// Prompts by name.
    pub prompts: BTreeMap<String, String>,
    /// Name of the prompt used when none is asked for.
    pub default_prompt: Option<String>,
}

/// How the rows of the tokens become one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean over all tokens, special ones included.
    Mean,
    /// The row of the first token.
    Cls,
}

/// Why a directory is not a model this crate can run.
#[derive(Debug, thiserror::Error)]
pub enum ModelOpenError {
    /// The path has no directory name, or there is no directory.
    #[error("{} is not a model directory", path.display())]
    NotADirectory {
        /// The path given.
        path: PathBuf,
    },
    /// A file that every model needs is missing or unreadable.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file is not the JSON expected of it.
    #[error("cannot parse {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A key has a value that this crate does not implement. Use another model.
    #[error("{key} = {value} in {file} is not supported (supported: {supported})")]
    Unsupported {
        /// The file.
        file: &'static str,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The values that would do.
        supported: &'static str,
    },
    /// Sizes contradict each other.
    #[error("{file} makes no sense: {reason}")]
    Inconsistent {
        /// The file.
        file: &'static str,
        /// Which sizes.
        reason: String,
    },
}

const MODULES: &str = "modules.json";
const CONFIG: &str = "config.json";
const POOLING: &str = "1_Pooling/config.json";
const PROMPTS: &str = "config_sentence_transformers.json";

/// What a configuration says differently from the directory; `None` leaves it as it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelOverrides {
    /// Tokens of a text at most.
    pub max_tokens: Option<usize>,
    /// How the rows of tokens become one.
    pub pooling: Option<Pooling>,
    /// Whether rows are normalised.
    pub normalize: Option<bool>,
}

impl ModelDir {
    /// The same model with another window, pooling or normalisation.
    ///
    /// # Errors
    /// [`ModelOpenError::Inconsistent`] for a window the model has no positions for.
    pub fn with_overrides(mut self, overrides: &ModelOverrides) -> Result<Self, ModelOpenError> {
        if let Some(max_tokens) = overrides.max_tokens {
            if max_tokens > self.architecture.positions {
                return Err(ModelOpenError::Inconsistent {
                    file: "model.max_tokens",
                    reason: format!(
                        "{max_tokens} tokens were asked for, the model has {} positions",
                        self.architecture.positions
                    ),
                });
            }
            self.info.max_tokens = max_tokens;
        }
        self.info.pooling = overrides.pooling.unwrap_or(self.info.pooling);
        self.info.normalize = overrides.normalize.unwrap_or(self.info.normalize);
        Ok(self)
    }

    /// Reads and checks the directory at `path`, and computes the digest of its weights (which
    /// reads them once).
    ///
    /// # Errors
    /// [`ModelOpenError`] when a file is missing, broken or asks for something not implemented.
    pub fn open(path: &Path) -> Result<Self, ModelOpenError> {
        let not_a_directory = || ModelOpenError::NotADirectory {
            path: path.to_owned(),
        };
        // Made canonical, so that `.` and a link have the name of what they stand for only when
        // the path itself gives none.
        let name = path
            .file_name()
            .map(ToOwned::to_owned)
            .or_else(|| path.canonicalize().ok()?.file_name().map(ToOwned::to_owned))
            .ok_or_else(not_a_directory)?;
        if !path.is_dir() {
            return Err(not_a_directory());
        }
        let modules = Modules::read(path)?;
        let root = path.join(&modules.transformer);
        let config = root.join(CONFIG);
        let architecture = Architecture::check(&read_json(&config)?, &config)?;
        let sentence: RawSentenceBert =
            read_json_if_there(&root.join("sentence_bert_config.json"))?;
        let limits: RawTokenizerConfig = read_json_if_there(&root.join("tokenizer_config.json"))?;
        let max_tokens = max_tokens(&architecture, &sentence, &limits)?;
        let (prompts, default_prompt) = read_prompts(path)?;
        let weights = root.join("model.safetensors");
        let info = ModelInfo {
            name: name.to_string_lossy().into_owned(),
            digest: digest(&weights)?,
            hidden: architecture.hidden,
            max_tokens,
            flops_per_token: architecture.flops_per_token(),
            pooling: modules.pooling,
            normalize: modules.normalize,
            prompts,
            default_prompt,
        };
        let tokenizer = root.join("tokenizer.json");
        let lowercase = sentence.do_lower_case.unwrap_or(false);
        Ok(Self {
            info,
            architecture,
            weights,
            tokenizer,
            lowercase,
        })
    }

    /// What the directory holds.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    pub(crate) fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    pub(crate) fn weights(&self) -> &Path {
        &self.weights
    }

    pub(crate) fn tokenizer(&self) -> &Path {
        &self.tokenizer
    }

    /// Whether texts are to be put into lower case before the tokeniser sees them.
    pub(crate) fn lowercase(&self) -> bool {
        self.lowercase
    }
}

/// What `modules.json` says.
struct Modules {
    transformer: PathBuf,
    pooling: Pooling,
    normalize: bool,
}

impl Modules {
    fn read(root: &Path) -> Result<Self, ModelOpenError> {
        let path = root.join(MODULES);
        if !path.exists() {
            // What sentence-transformers does with a plain transformer: mean, not normalised.
            let transformer = PathBuf::new();
            return Ok(Self {
                transformer,
                pooling: Pooling::Mean,
                normalize: false,
            });
        }
        let listed: Vec<RawModule> = read_json(&path)?;
        let (mut transformer, mut pooling, mut normalize) = (None, None, false);
        for module in &listed {
            let inner = inside(&module.path)?;
            match module.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" if transformer.is_none() => transformer = Some(inner),
                "Pooling" if transformer.is_some() && pooling.is_none() => {
                    pooling = Some(read_pooling(&root.join(inner).join(CONFIG))?);
                }
                "Normalize" if pooling.is_some() => normalize = true,
                _ => {
                    return Err(ModelOpenError::Unsupported {
                        file: MODULES,
                        key: "type",
                        value: module.kind.clone(),
                        supported: "Transformer, Pooling, Normalize, in this order",
                    });
                }
            }
        }
        let missing = |what: &str| ModelOpenError::Inconsistent {
            file: MODULES,
            reason: format!("no {what} module is listed"),
        };
        Ok(Self {
            transformer: transformer.ok_or_else(|| missing("Transformer"))?,
            pooling: pooling.ok_or_else(|| missing("Pooling"))?,
            normalize,
        })
    }
}

/// A module's path, if it stays inside the directory.
fn inside(path: &str) -> Result<PathBuf, ModelOpenError> {
    let path = Path::new(path);
    if path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Ok(path.to_owned());
    }
    Err(ModelOpenError::Unsupported {
        file: MODULES,
        key: "path",
        value: path.display().to_string(),
        supported: "a path inside the model directory",
    })
}

fn read_pooling(path: &Path) -> Result<Pooling, ModelOpenError> {
    let raw: RawPooling = read_json(path)?;
    let unsupported = |key, value| ModelOpenError::Unsupported {
        file: POOLING,
        key,
        value,
        supported: "exactly one of mean and cls, with include_prompt = true",
    };
    if !raw.include_prompt {
        return Err(unsupported("include_prompt", "false".to_owned()));
    }
    let flags = raw
        .others
        .iter()
        .filter(|(_, on)| **on == serde_json::Value::Bool(true));
    let mut modes: Vec<&str> = flags
        .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
        .collect();
    modes.extend(raw.pooling_mode.as_deref());
    match modes.as_slice() {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        _ => Err(unsupported(
            "pooling_mode",
            format!("[{}]", modes.join(", ")),
        )),
    }
}

fn read_prompts(root: &Path) -> Result<(BTreeMap<String, String>, Option<String>), ModelOpenError> {
    let raw: RawPrompts = read_json_if_there(&root.join(PROMPTS))?;
    let prompts = raw.prompts.unwrap_or_default();
    match raw.default_prompt_name {
        Some(name) if !prompts.contains_key(&name) => Err(ModelOpenError::Inconsistent {
            file: PROMPTS,
            reason: format!("default_prompt_name {name:?} is not among the prompts"),
        }),
        name => Ok((prompts, name)),
    }
}

fn max_tokens(
    architecture: &Architecture,
    sentence: &RawSentenceBert,
    limits: &RawTokenizerConfig,
) -> Result<usize, ModelOpenError> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and the minimum is taken below"
    )]
    let of_tokenizer = limits.model_max_length.map(|limit| limit as usize);
    let limit = sentence
        .max_seq_length
        .or(of_tokenizer)
        .unwrap_or(usize::MAX)
        .min(architecture.positions);
    // Two special tokens and one of the text.
    if limit < 3 {
        return Err(ModelOpenError::Inconsistent {
            file: "sentence_bert_config.json",
            reason: format!("the longest sequence is {limit} tokens"),
        });
    }
    Ok(limit)
}

fn digest(path: &Path) -> Result<[u8; 32], ModelOpenError> {
    let error = |source| ModelOpenError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(error)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(error(e)),
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelOpenError> {
    let bytes = std::fs::read(path).map_err(|source| ModelOpenError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| ModelOpenError::Parse {
        path: path.to_owned(),
        source,
    })
}

fn read_json_if_there<T: DeserializeOwned + Default>(path: &Path) -> Result<T, ModelOpenError> {
    if path.exists() {
        read_json(path)
    } else {
        Ok(T::default())
    }
}

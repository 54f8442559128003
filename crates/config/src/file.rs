//! Which file, and what is in it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::config::Overrides;
use crate::error::{ConfigError, Origin};

/// The last place looked at.
pub(crate) const SYSTEM_FILE: &str = "/etc/embedring/config.toml";

/// No configuration is longer; a file named by mistake must not fill the memory.
const FILE_BYTES_MAX: usize = 1 << 20;

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    /// The place of a byte range for messages.
    pub(crate) fn origin(&self, span: Option<Range<usize>>) -> Origin {
        origin(
            &self.path,
            self.text.as_bytes(),
            span.map_or(0, |span| span.start),
        )
    }
}

/// Reads the first file of the search order that is there; one that was named must be there.
pub(crate) fn find(
    overrides: &Overrides,
    env: &BTreeMap<OsString, OsString>,
    system_file: &Path,
) -> Result<Option<Source>, ConfigError> {
    let variable = |name: &str| env.get(OsStr::new(name)).filter(|value| !value.is_empty());
    let named = overrides
        .config
        .clone()
        .or_else(|| variable("EMBEDRING_CONFIG").map(PathBuf::from));
    if let Some(path) = named {
        return read(path).map(Some);
    }
    // A relative XDG_CONFIG_HOME is to be ignored, says its specification.
    let home = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = home.or_else(|| variable("HOME").map(|home| Path::new(home).join(".config")));
    let user_file = home.map(|home| home.join("embedring/config.toml"));
    for path in user_file.into_iter().chain([system_file.to_owned()]) {
        match read(path) {
            Ok(source) => return Ok(Some(source)),
            Err(ConfigError::FileRead { source, .. })
                if matches!(
                    source.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn read(path: PathBuf) -> Result<Source, ConfigError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
    let result = File::open(&path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    if let Err(source) = result {
        return Err(ConfigError::FileRead { path, source });
    }
    if bytes.len() > FILE_BYTES_MAX {
        return Err(ConfigError::FileTooLarge {
            path,
            limit: FILE_BYTES_MAX,
        });
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { path, text }),
        Err(error) => Err(ConfigError::Syntax {
            origin: origin(&path, error.as_bytes(), error.utf8_error().valid_up_to()),
            message: "not UTF-8".to_owned(),
        }),
    }
}

fn origin(path: &Path, text: &[u8], offset: usize) -> Origin {
    let before = &text[..offset.min(text.len())];
    let line = before
        .split(|byte| *byte == b'\n')
        .next_back()
        .unwrap_or_default();
    Origin::File {
        path: path.to_owned(),
        line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
        column: String::from_utf8_lossy(line).chars().count() + 1,
    }
}

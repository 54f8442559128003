//! The cache folder: where it is, what is in it, and where a named model lies.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::{ResolveError, StoreError},
    files,
    known::{KnownModel, known},
    manifest::Manifest,
    name::ModelName,
    sources::{Sources, variable},
};

/// The model cache under one root folder.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    sources: Sources,
    known: &'static [KnownModel],
}

/// A folder of the cache, whole or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The model's name.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// Bytes of all files in it.
    pub bytes: u64,
    /// Whether the model can be used.
    pub complete: bool,
    /// Where it came from; `None` when it is not complete.
    pub source: Option<String>,
}

impl Store {
    /// The cache that the environment names: `EMBEDRING_MODELS`, else
    /// `$XDG_CACHE_HOME/embedring/models`, else `$HOME/.cache/embedring/models`.
    ///
    /// # Errors
    /// [`StoreError::NoHome`] when none of the three variables is set.
    pub fn from_env() -> Result<Self, StoreError> {
        let root = root_from(&|name| variable(name).map(PathBuf::from));
        root.map(Self::at).ok_or(StoreError::NoHome)
    }

    /// The cache in `root`, which is made when the first model is pulled. Sources are those of the
    /// environment.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        // Absolute, because paths are handed to processes that may stand elsewhere.
        let root = std::path::absolute(&root).unwrap_or(root);
        Self {
            root,
            sources: Sources::from_env(),
            known: known(),
        }
    }

    /// The same cache with other sources.
    #[must_use]
    pub fn with_sources(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// The same cache with another table of known models.
    #[must_use]
    pub fn with_known(self, known: &'static [KnownModel]) -> Self {
        Self { known, ..self }
    }

    /// The root folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a model, as an absolute path.
    ///
    /// * With a `/`, a directory that holds a `config.json` is used as it is.
    /// * A name is looked up in the cache.
    /// * A name that the cache does not have is used as it is if it is such a directory. The cache
    ///   comes first, so that a name means the same model wherever a program is started.
    ///
    /// # Errors
    /// [`ResolveError`]; the message says what to do.
    pub fn resolve(&self, name_or_path: &str) -> Result<PathBuf, ResolveError> {
        let given = Path::new(name_or_path);
        let is_path = name_or_path.contains('/');
        let directory = || {
            let path = std::path::absolute(given).ok()?;
            path.join("config.json").is_file().then_some(path)
        };
        if let Some(path) = is_path.then(directory).flatten() {
            return Ok(path);
        }
        let Some(name) = self.parse(name_or_path) else {
            return match directory() {
                Some(path) => Ok(path),
                None if is_path => Err(ResolveError::NoDirectory {
                    path: given.to_owned(),
                }),
                None => Err(ResolveError::BadName {
                    name: name_or_path.to_owned(),
                }),
            };
        };
        let folder = self.folder(&name);
        let reason = match Manifest::read_complete(&folder) {
            Ok(_) => return Ok(folder),
            Err(reason) => reason,
        };
        if let Some(path) = directory() {
            return Ok(path);
        }
        let text = name.as_str().to_owned();
        if folder.is_dir() {
            return Err(ResolveError::Incomplete {
                name: text,
                path: folder,
                reason,
            });
        }
        let can_be_pulled = name.is_on_hub() || self.known_model(&name).is_some();
        let known = if can_be_pulled { &[] } else { self.known };
        let known = known.iter().map(|model| model.name).collect();
        Err(ResolveError::NotPulled {
            name: text,
            root: self.root.clone(),
            known,
        })
    }

    /// Every model folder of the cache, by name.
    ///
    /// # Errors
    /// When the root folder exists and cannot be read. A root that does not exist is empty.
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let failed = |source| StoreError::Read {
            path: self.root.clone(),
            source,
        };
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut models = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let folder = entry.file_name().to_string_lossy().into_owned();
            // Locks and staging folders begin with a dot.
            if !folder.starts_with('.') && entry.path().is_dir() {
                models.push(describe(entry.path(), folder));
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    /// The table this store goes by.
    pub(crate) fn known(&self) -> &'static [KnownModel] {
        self.known
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    pub(crate) fn folder(&self, name: &ModelName) -> PathBuf {
        self.root.join(name.folder())
    }

    /// A checked name; the hub's name of a known model becomes its name in the table, so that one
    /// model has one folder.
    pub(crate) fn parse(&self, text: &str) -> Option<ModelName> {
        let alias = self.known.iter().find(|model| model.hub == Some(text));
        ModelName::parse(alias.map_or(text, |model| model.name))
    }

    pub(crate) fn known_model(&self, name: &ModelName) -> Option<&'static KnownModel> {
        self.known.iter().find(|model| model.name == name.as_str())
    }
}

fn describe(path: PathBuf, folder: String) -> Entry {
    let bytes = files::bytes_under(&path);
    match Manifest::read_complete(&path) {
        Ok(manifest) => {
            let (name, source) = (manifest.name, Some(manifest.source));
            Entry {
                name,
                path,
                bytes,
                complete: true,
                source,
            }
        }
        Err(_) => {
            let name = folder.replacen("--", "/", 1);
            Entry {
                name,
                path,
                bytes,
                complete: false,
                source: None,
            }
        }
    }
}

fn root_from(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let inside = |cache: PathBuf| cache.join("embedring").join("models");
    // The XDG specification has relative paths ignored.
    let xdg = || {
        variable("XDG_CACHE_HOME")
            .filter(|path| path.is_absolute())
            .map(inside)
    };
    let home = || variable("HOME").map(|home| inside(home.join(".cache")));
    variable("EMBEDRING_MODELS").or_else(xdg).or_else(home)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::root_from;

    fn check(variables: &[(&str, &str)], expected: Option<&str>) {
        let read = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| PathBuf::from(value))
        };
        assert_eq!(
            root_from(&read),
            expected.map(PathBuf::from),
            "{variables:?}"
        );
    }

    #[test]
    fn the_root_comes_from_three_variables_in_order() {
        let (ours, xdg, home) = (
            ("EMBEDRING_MODELS", "/m"),
            ("XDG_CACHE_HOME", "/x"),
            ("HOME", "/h"),
        );
        check(&[ours, xdg, home], Some("/m"));
        check(&[xdg, home], Some("/x/embedring/models"));
        check(&[home], Some("/h/.cache/embedring/models"));
        check(
            &[("XDG_CACHE_HOME", "relative"), home],
            Some("/h/.cache/embedring/models"),
        );
        check(&[], None);
    }
}

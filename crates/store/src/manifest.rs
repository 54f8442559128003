//! The file that makes a folder a model: written last, read first.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::SourceError,
    files::{self, WANTED, WEIGHTS},
    known::KnownModel,
    name::ModelName,
};

pub(crate) const FILE: &str = "embedring.json";
/// Raised when a field changes its meaning; a manifest of another version counts as none.
const VERSION: u32 = 1;
/// A manifest has ten entries of some 150 bytes.
const BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) name: String,
    /// Where the files came from, in words.
    pub(crate) source: String,
    /// Whether the weights were held against a digest of the table, or only recorded.
    pub(crate) weights_checked: bool,
    pub(crate) files: Vec<FileEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEntry {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl Manifest {
    /// Describes the files in `folder`; fails if one is missing or the weights are not those of
    /// `known`.
    pub(crate) fn describe(
        folder: &Path,
        name: &ModelName,
        known: Option<&KnownModel>,
        source: String,
    ) -> Result<Self, SourceError> {
        let mut entries = Vec::new();
        for wanted in &WANTED {
            let path = folder.join(wanted.path);
            let bytes = match fs::metadata(&path) {
                Ok(data) => data.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if wanted.required {
                        return Err(SourceError::Missing {
                            file: wanted.path.to_owned(),
                        });
                    }
                    continue;
                }
                Err(error) => return Err(SourceError::io(path)(error)),
            };
            let sha256 = files::sha256(&path).map_err(SourceError::io(path))?;
            entries.push(FileEntry {
                path: wanted.path.to_owned(),
                bytes,
                sha256,
            });
        }
        let manifest = Self {
            version: VERSION,
            name: name.as_str().to_owned(),
            source,
            weights_checked: known.is_some(),
            files: entries,
        };
        manifest.check_weights(known)?;
        Ok(manifest)
    }

    fn check_weights(&self, known: Option<&KnownModel>) -> Result<(), SourceError> {
        let Some(known) = known else { return Ok(()) };
        let got = self.weights_sha256().unwrap_or_default();
        if got == known.weights_sha256 {
            return Ok(());
        }
        Err(SourceError::Digest {
            file: WEIGHTS.to_owned(),
            got: got.to_owned(),
            expected: known.weights_sha256.to_owned(),
        })
    }

    pub(crate) fn weights_sha256(&self) -> Option<&str> {
        self.files
            .iter()
            .find(|file| file.path == WEIGHTS)
            .map(|file| file.sha256.as_str())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        File::create_new(folder.join(FILE))?.write_all(&text)
    }

    /// Reads the manifest of `folder` and checks that every file is there with its length.
    ///
    /// # Errors
    /// Says in words why the folder is no complete model.
    pub(crate) fn read_complete(folder: &Path) -> Result<Self, String> {
        let file = File::open(folder.join(FILE)).map_err(|_| format!("it has no {FILE}"))?;
        let manifest: Self = serde_json::from_reader(file.take(BYTES_MAX))
            .map_err(|error| format!("its {FILE} is damaged ({error})"))?;
        if manifest.version != VERSION {
            return Err(format!(
                "its {FILE} has version {}, not {VERSION}",
                manifest.version
            ));
        }
        for required in WANTED.iter().filter(|wanted| wanted.required) {
            if !manifest.files.iter().any(|file| file.path == required.path) {
                return Err(format!("its {FILE} names no {}", required.path));
            }
        }
        for entry in &manifest.files {
            // A path is joined to the folder and read: only those that a pull writes are taken.
            if !WANTED.iter().any(|wanted| wanted.path == entry.path) {
                return Err(format!(
                    "its {FILE} names {}, which no pull writes",
                    entry.path
                ));
            }
            let is_whole = fs::metadata(folder.join(&entry.path))
                .is_ok_and(|data| data.is_file() && data.len() == entry.bytes);
            if !is_whole {
                return Err(format!("{} is missing or cut", entry.path));
            }
        }
        Ok(manifest)
    }

    /// Hashes every file again.
    ///
    /// # Errors
    /// The first file that is not as it was pulled.
    pub(crate) fn verify(
        &self,
        folder: &Path,
        known: Option<&KnownModel>,
    ) -> Result<(), SourceError> {
        self.check_weights(known)?;
        for entry in &self.files {
            files::check_sha256(&folder.join(&entry.path), &entry.path, &entry.sha256)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the three required files, each `{}`, and a manifest with one more entry.
    fn folder_with(path: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let entry = |path: &str, bytes| FileEntry {
            path: path.to_owned(),
            bytes,
            sha256: String::new(),
        };
        let required: Vec<_> = WANTED.iter().filter(|wanted| wanted.required).collect();
        for wanted in &required {
            fs::write(folder.path().join(wanted.path), "{}").unwrap();
        }
        let mut files: Vec<_> = required.iter().map(|w| entry(w.path, 2)).collect();
        files.push(entry(path, 0));
        let manifest = Manifest {
            version: VERSION,
            name: "small".to_owned(),
            source: "a test".to_owned(),
            weights_checked: false,
            files,
        };
        let text = serde_json::to_string(&manifest).unwrap();
        fs::write(folder.path().join(FILE), text).unwrap();
        folder
    }

    #[test]
    fn a_file_that_no_pull_writes_is_not_looked_at() {
        for path in ["/dev/zero", "../elsewhere", "other.bin"] {
            let error = Manifest::read_complete(folder_with(path).path()).unwrap_err();
            assert!(error.contains("no pull writes"), "{path}: {error}");
        }
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_not_whole() {
        let folder = folder_with("vocab.txt");
        fs::create_dir(folder.path().join("vocab.txt")).unwrap();
        let error = Manifest::read_complete(folder.path()).unwrap_err();
        assert!(error.contains("missing or cut"), "{error}");
        fs::remove_dir(folder.path().join("vocab.txt")).unwrap();
        fs::write(folder.path().join("vocab.txt"), "").unwrap();
        Manifest::read_complete(folder.path()).unwrap();
    }
}

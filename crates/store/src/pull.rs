//! Pulling: lock, try the sources in turn, check, publish by one rename.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    error::{Attempt, PullError, SourceError, chain, is_full},
    files, hub,
    known::{KnownModel, Package},
    local,
    lock::PullLock,
    manifest::{self, Manifest},
    name::ModelName,
    python,
    sources::SourceKind,
    store::Store,
};

const STAGING: &str = ".staging";

/// What to pull, and from where.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// A name of the table, or `org/name` on the hub.
    pub name: String,
    /// A model directory, or a folder holding one by the model's name. When it is given nothing
    /// else is tried: whoever names a source does not want another one.
    pub from: Option<PathBuf>,
    /// Pull even if the model is in the cache.
    pub force: bool,
    /// Which kinds of source to try, in which order.
    pub sources: Vec<SourceKind>,
}

impl PullRequest {
    /// All sources in their default order, and only if the model is not there.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            from: None,
            force: false,
            sources: SourceKind::ALL.to_vec(),
        }
    }
}

/// Told how a pull gets on.
pub trait Progress: Sync {
    /// Something new begins, or a source has failed and the next one is tried.
    fn step(&self, what: &str);
    /// Bytes of the present step; the total where it is known.
    fn bytes(&self, done: u64, total: Option<u64>);
}

/// Says nothing.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Progress for Quiet {
    fn step(&self, _what: &str) {}
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
}

/// A model that is in the cache now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its directory.
    pub path: PathBuf,
    /// Where it came from, in words.
    pub source: String,
    /// Size of its files.
    pub bytes: u64,
    /// Nothing was fetched, because it was there and whole.
    pub already_there: bool,
    /// SHA-256 of its weights.
    pub weights_sha256: String,
    /// Whether that digest was held against the table. False for a model the table does not have:
    /// then the digest is what the source sent, and says nothing about who made it.
    pub weights_checked: bool,
}

impl Store {
    /// Fetches a model into the cache, unless it is there already and whole.
    ///
    /// Safe to call from several processes at once: one of them fetches, the others wait for it.
    ///
    /// # Errors
    /// [`PullError`]. After any error, and after a `kill -9` at any moment, the cache holds either
    /// the old model or none; never a part of one.
    pub fn pull(
        &self,
        request: &PullRequest,
        progress: &dyn Progress,
    ) -> Result<Pulled, PullError> {
        let name = self
            .parse(&request.name)
            .ok_or_else(|| PullError::BadName {
                name: request.name.clone(),
            })?;
        let known = self.known_model(&name);
        // Before the lock, so that a cache this user may only read is enough for what is there.
        if let Some(pulled) = self.already_there(&name, known, request.force, progress) {
            return Ok(pulled);
        }
        let candidates = self.candidates(&name, known, request)?;
        fs::create_dir_all(self.root()).map_err(|error| self.write_error(self.root(), error))?;
        let limit = self.sources().limits.lock;
        let _lock = PullLock::take(self.root(), &name, limit, progress)?;
        // Again: another process may have pulled it while this one waited.
        if let Some(pulled) = self.already_there(&name, known, request.force, progress) {
            return Ok(pulled);
        }
        let mut attempts: Vec<Attempt> = Vec::new();
        for candidate in candidates {
            if attempts
                .iter()
                .any(|attempt| candidate.is_hopeless_after(attempt))
            {
                continue;
            }
            if candidate.is_real() {
                progress.step(&format!("trying {candidate}"));
            }
            let staging = self.stage(&name)?;
            match self.fetch(&candidate, &name, known, staging.path(), progress) {
                Ok(manifest) => return self.publish(&name, &staging, &manifest),
                Err(SourceError::Io { source, .. }) if is_full(&source) => {
                    return Err(PullError::Full {
                        root: self.root().to_owned(),
                        source,
                    });
                }
                Err(error) => {
                    if candidate.is_real() {
                        progress.step(&format!("{candidate} failed: {}", chain(&error)));
                    }
                    let (kind, source) = (candidate.kind(), candidate.to_string());
                    attempts.push(Attempt {
                        kind,
                        source,
                        error,
                    });
                }
            }
        }
        Err(PullError::AllFailed {
            name: name.as_str().to_owned(),
            attempts,
        })
    }

    /// The model, if it is in the cache and every byte of it is as it was pulled.
    fn already_there(
        &self,
        name: &ModelName,
        known: Option<&KnownModel>,
        force: bool,
        progress: &dyn Progress,
    ) -> Option<Pulled> {
        let path = self.folder(name);
        let manifest = (!force)
            .then(|| Manifest::read_complete(&path).ok())
            .flatten()?;
        progress.step(&format!("checking {}", path.display()));
        match manifest.verify(&path, known) {
            Ok(()) => Some(pulled(path, &manifest, true)),
            Err(error) => {
                progress.step(&format!("{} is damaged: {}", name.as_str(), chain(&error)));
                None
            }
        }
    }

    /// An empty folder on the cache's file system, removed when dropped.
    ///
    /// The caller holds the model's lock, so whatever lies here is of a pull that was killed.
    fn stage(&self, name: &ModelName) -> Result<TempDir, PullError> {
        let folder = self.root().join(STAGING).join(name.folder());
        let make = || {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            fs::create_dir_all(&folder)?;
            let staging = tempfile::tempdir_in(&folder)?;
            fs::create_dir(staging.path().join("scratch"))?;
            // Not the temporary folder itself, which only its owner may read: this one becomes the
            // model's folder, with the rights that the user's mask gives.
            fs::create_dir(staging.path().join("files"))?;
            Ok(staging)
        };
        make().map_err(|error| self.write_error(&folder, error))
    }

    fn fetch(
        &self,
        candidate: &Candidate<'_>,
        name: &ModelName,
        known: Option<&KnownModel>,
        staging: &Path,
        progress: &dyn Progress,
    ) -> Result<Manifest, SourceError> {
        let (scratch, out) = (staging.join("scratch"), staging.join("files"));
        let source = match candidate {
            Candidate::Local { given: None } => return Err(SourceError::NotGiven),
            Candidate::NotCarried { .. } => return Err(SourceError::NotCarried),
            Candidate::Local { given: Some(given) } => {
                let folder = local::find(given, name)?;
                local::fetch(&folder, &out, progress)?;
                format!("directory {}", folder.display())
            }
            Candidate::Hub { repo, .. } => {
                let commit = hub::fetch(repo, self.sources(), &scratch, &out, progress)?;
                format!("{candidate} at {commit}")
            }
            Candidate::Python { package } => {
                python::fetch(package, self.sources(), &scratch, &out, progress)?;
                candidate.to_string()
            }
        };
        progress.step("checking SHA-256");
        let manifest = Manifest::describe(&out, name, known, source)?;
        manifest
            .write(&out)
            .map_err(SourceError::io(out.join(manifest::FILE)))?;
        files::flush(&out).map_err(SourceError::io(&out))?;
        Ok(manifest)
    }

    /// Moves a complete folder to its place.
    fn publish(
        &self,
        name: &ModelName,
        staging: &TempDir,
        manifest: &Manifest,
    ) -> Result<Pulled, PullError> {
        let target = self.folder(name);
        let swap = || {
            // What was there goes to the staging folder and is removed with it.
            match fs::rename(&target, staging.path().join("old")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            fs::rename(staging.path().join("files"), &target)?;
            File::open(self.root())?.sync_all()
        };
        swap().map_err(|error| self.write_error(&target, error))?;
        Ok(pulled(target, manifest, false))
    }

    fn candidates<'a>(
        &'a self,
        name: &'a ModelName,
        known: Option<&'a KnownModel>,
        request: &'a PullRequest,
    ) -> Result<Vec<Candidate<'a>>, PullError> {
        if let Some(from) = request.from.as_deref() {
            return Ok(vec![Candidate::Local { given: Some(from) }]);
        }
        let directory = self.sources().directory.as_deref();
        if known.is_none() && !name.is_on_hub() && directory.is_none() {
            let known = self.known().iter().map(|model| model.name).collect();
            return Err(PullError::Unknown {
                name: name.as_str().to_owned(),
                known,
            });
        }
        let mut candidates = Vec::new();
        for kind in &request.sources {
            match kind {
                SourceKind::Local => candidates.push(Candidate::Local { given: directory }),
                SourceKind::Hub => candidates.push(self.on_hub(name, known)),
                SourceKind::Python => candidates.extend(in_packages(known)),
            }
        }
        Ok(candidates)
    }

    fn on_hub<'a>(&'a self, name: &'a ModelName, known: Option<&KnownModel>) -> Candidate<'a> {
        let repo = match known {
            Some(model) => model.hub,
            None => name.is_on_hub().then(|| name.as_str()),
        };
        match repo {
            Some(repo) => Candidate::Hub {
                repo,
                endpoint: self.sources().hub_endpoint.as_deref(),
            },
            None => Candidate::NotCarried {
                kind: SourceKind::Hub,
            },
        }
    }

    fn write_error(&self, path: &Path, source: io::Error) -> PullError {
        if is_full(&source) {
            return PullError::Full {
                root: self.root().to_owned(),
                source,
            };
        }
        PullError::Write {
            path: path.to_owned(),
            source,
        }
    }
}

fn in_packages(known: Option<&KnownModel>) -> Vec<Candidate<'static>> {
    match known.map(|model| model.packages) {
        None | Some([]) => vec![Candidate::NotCarried {
            kind: SourceKind::Python,
        }],
        Some(packages) => packages
            .iter()
            .map(|package| Candidate::Python { package })
            .collect(),
    }
}

fn pulled(path: PathBuf, manifest: &Manifest, already_there: bool) -> Pulled {
    Pulled {
        path,
        source: manifest.source.clone(),
        bytes: manifest.bytes(),
        already_there,
        weights_sha256: manifest.weights_sha256().unwrap_or_default().to_owned(),
        weights_checked: manifest.weights_checked,
    }
}

/// One place to look.
#[derive(Debug)]
enum Candidate<'a> {
    Local {
        given: Option<&'a Path>,
    },
    Hub {
        repo: &'a str,
        endpoint: Option<&'a str>,
    },
    Python {
        package: &'static Package,
    },
    NotCarried {
        kind: SourceKind,
    },
}

impl Candidate<'_> {
    fn kind(&self) -> SourceKind {
        match self {
            Self::Local { .. } => SourceKind::Local,
            Self::Hub { .. } => SourceKind::Hub,
            Self::Python { .. } => SourceKind::Python,
            Self::NotCarried { kind } => *kind,
        }
    }

    /// False for a place in the order that holds nothing for this model: it is named if all fail,
    /// and not worth a line before.
    fn is_real(&self) -> bool {
        !matches!(self, Self::Local { given: None } | Self::NotCarried { .. })
    }

    /// A second package does not help where there is no pip.
    fn is_hopeless_after(&self, attempt: &Attempt) -> bool {
        let without_pip = matches!(
            attempt.error,
            SourceError::NoPython { .. } | SourceError::NoPip { .. }
        );
        without_pip && self.kind() == SourceKind::Python
    }
}

impl std::fmt::Display for Candidate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local { given: None }
            | Self::NotCarried {
                kind: SourceKind::Local,
            } => f.write_str("local directory"),
            Self::Local { given: Some(given) } => write!(f, "local directory {}", given.display()),
            Self::Hub {
                repo,
                endpoint: None,
            } => write!(f, "Hugging Face hub {repo}"),
            Self::Hub {
                repo,
                endpoint: Some(url),
            } => write!(f, "hub {url} {repo}"),
            Self::Python { package } => {
                write!(f, "Python package {}=={}", package.name, package.version)
            }
            Self::NotCarried {
                kind: SourceKind::Hub,
            } => f.write_str("Hugging Face hub"),
            Self::NotCarried {
                kind: SourceKind::Python,
            } => f.write_str("Python packages"),
        }
    }
}

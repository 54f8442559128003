//! Small models, tables and recorders that the tests share.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use embedring_store::{
    Attempt, KnownModel, Limits, Package, Progress, PullError, PullRequest, Pulled, Sources, Store,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const WEIGHTS: &[u8] = b"not really weights, but always the same bytes";

/// The files of a small model, as paths inside a model directory.
pub(crate) fn model_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{\"hidden_size\": 4}".to_vec()),
        ("tokenizer.json", b"{\"version\": \"1.0\"}".to_vec()),
        (
            "1_Pooling/config.json",
            b"{\"pooling_mode_mean_tokens\": true}".to_vec(),
        ),
        ("model.safetensors", WEIGHTS.to_vec()),
        ("README.md", b"nobody asked for this one".to_vec()),
    ]
}

pub(crate) fn write_model(folder: &Path) {
    for (path, bytes) in model_files() {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A table with the one model `small`, whose weights are [`WEIGHTS`].
pub(crate) fn table(hub: Option<&'static str>, packages: Vec<Package>) -> &'static [KnownModel] {
    let model = KnownModel {
        name: "small",
        about: "for tests",
        weights_sha256: sha256(WEIGHTS).leak(),
        hub,
        packages: packages.leak(),
    };
    vec![model].leak()
}

/// No source at all, and short limits.
pub(crate) fn no_sources() -> Sources {
    Sources {
        directory: None,
        // A port that only a privileged process could open.
        hub_endpoint: Some("http://127.0.0.1:1".to_owned()),
        hub_token: None,
        python: Vec::new(),
        limits: Limits {
            hub_answer: Duration::from_secs(20),
            hub_stall: Duration::from_secs(20),
            pip: Duration::from_secs(60),
            lock: Duration::from_secs(60),
        },
    }
}

/// A cache in a folder of its own, with the table of [`table`].
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) store: Store,
}

impl Bench {
    pub(crate) fn new(sources: Sources, known: &'static [KnownModel]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::at(folder.path().join("models"))
            .with_sources(sources)
            .with_known(known);
        Self { folder, store }
    }

    /// With a model directory beside the cache.
    pub(crate) fn with_source() -> (Self, PathBuf) {
        let bench = Self::new(no_sources(), table(None, Vec::new()));
        let source = bench.folder.path().join("source");
        write_model(&source);
        (bench, source)
    }

    pub(crate) fn pull(&self, name: &str) -> Result<Pulled, PullError> {
        self.store
            .pull(&PullRequest::new(name), &Recorder::default())
    }

    pub(crate) fn pull_from(&self, name: &str, from: &Path) -> Result<Pulled, PullError> {
        let request = PullRequest {
            from: Some(from.to_owned()),
            ..PullRequest::new(name)
        };
        self.store.pull(&request, &Recorder::default())
    }

    /// Fails unless the cache holds nothing but lock files.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let root = self.store.root();
        let left: Vec<_> = files_under(root)
            .into_iter()
            .filter(|path| !path.starts_with(root.join(".locks")))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        assert_eq!(self.store.list().expect("a list"), []);
    }
}

pub(crate) fn files_under(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_under(&path))
        } else {
            files.push(path)
        }
    }
    files
}

/// Fails unless `folder` holds exactly the wanted files of the small model and a manifest.
#[track_caller]
pub(crate) fn assert_is_small_model(folder: &Path) {
    for (path, bytes) in model_files() {
        if path == "README.md" {
            assert!(!folder.join(path).exists(), "{path} was not wanted");
        } else {
            assert_eq!(fs::read(folder.join(path)).expect(path), bytes, "{path}");
        }
    }
    assert_eq!(files_under(folder).len(), model_files().len());
}

/// The attempts of a pull that failed everywhere.
#[track_caller]
pub(crate) fn attempts(result: Result<Pulled, PullError>) -> Vec<Attempt> {
    match result {
        Err(PullError::AllFailed { attempts, .. }) => attempts,
        Err(other) => panic!("another error: {other}"),
        Ok(pulled) => panic!("it was pulled: {pulled:?}"),
    }
}

/// Keeps the steps it was told.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) steps: Mutex<Vec<String>>,
    pub(crate) bytes: Mutex<Vec<(u64, Option<u64>)>>,
}

impl Progress for Recorder {
    fn step(&self, what: &str) {
        self.steps.lock().expect("no panic").push(what.to_owned());
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        self.bytes.lock().expect("no panic").push((done, total));
    }
}

/// An executable script. It is put in place by another process: a file that this one had open for
/// writing could still be open in a child that another test is just starting, and then refuses to
/// be executed.
pub(crate) fn script(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).expect("a draft");
    let status = Command::new("install")
        .arg("-m755")
        .arg(&draft)
        .arg(path)
        .status();
    assert!(status.expect("install runs").success());
}

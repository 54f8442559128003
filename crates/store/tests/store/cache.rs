//! Finding and listing what is there.

use std::fs;

use embedring_store::ResolveError;

use crate::support::{Bench, write_model};

#[test]
fn a_path_is_used_as_it_is() {
    let (bench, source) = Bench::with_source();
    assert_eq!(
        bench.store.resolve(source.to_str().unwrap()).unwrap(),
        source
    );
    let missing = bench.folder.path().join("no/model");
    let error = bench.store.resolve(missing.to_str().unwrap()).unwrap_err();
    assert!(matches!(error, ResolveError::NoDirectory { .. }), "{error}");
}

#[test]
fn a_name_that_is_not_there_says_how_to_get_it() {
    let (bench, _) = Bench::with_source();
    let error = bench.store.resolve("small").unwrap_err().to_string();
    assert!(error.contains("`embedring model pull small`"), "{error}");
    assert!(!error.contains("known:"), "{error}");
    let error = bench.store.resolve("smal").unwrap_err().to_string();
    assert!(error.contains("(known: small)"), "{error}");
    let error = bench.store.resolve("org/name").unwrap_err().to_string();
    assert!(error.contains("`embedring model pull org/name`"), "{error}");
    assert!(matches!(
        bench.store.resolve("").unwrap_err(),
        ResolveError::BadName { .. }
    ));
}

#[test]
fn a_folder_without_a_manifest_is_no_model() {
    let (bench, source) = Bench::with_source();
    write_model(&bench.store.root().join("small"));
    let error = bench.store.resolve("small").unwrap_err();
    assert!(matches!(error, ResolveError::Incomplete { .. }), "{error}");
    let entry = bench.store.list().unwrap().remove(0);
    assert_eq!(
        (entry.name.as_str(), entry.complete, entry.source),
        ("small", false, None)
    );
    // A pull makes it one.
    assert!(!bench.pull_from("small", &source).unwrap().already_there);
    bench.store.resolve("small").unwrap();
}

#[test]
fn a_model_that_lost_a_file_is_incomplete() {
    let (bench, source) = Bench::with_source();
    let path = bench.pull_from("small", &source).unwrap().path;
    fs::remove_file(path.join("1_Pooling/config.json")).unwrap();
    let error = bench.store.resolve("small").unwrap_err().to_string();
    assert!(
        error.contains("1_Pooling/config.json is missing"),
        "{error}"
    );
}

#[test]
fn hostile_manifests_make_no_model() {
    let (bench, source) = Bench::with_source();
    let path = bench.pull_from("small", &source).unwrap().path;
    let manifest = path.join("embedring.json");
    let good = fs::read_to_string(&manifest).unwrap();
    for bad in [
        String::new(),
        "[]".to_owned(),
        good.replace("\"version\": 1", "\"version\": 2"),
        good.replace("model.safetensors", "model.bin"),
        good.replace("\"bytes\": 45", "\"bytes\": 46"),
        format!("{{\"x\": \"{}", "x".repeat(1 << 20)),
    ] {
        assert_ne!(bad, good);
        fs::write(&manifest, &bad).unwrap();
        assert!(
            bench.store.resolve("small").is_err(),
            "{}",
            &bad[..bad.len().min(300)]
        );
    }
}

#[test]
fn the_list_is_sorted_and_says_where_models_came_from() {
    let (bench, source) = Bench::with_source();
    assert_eq!(
        bench.store.list().unwrap(),
        [],
        "a root that does not exist is empty"
    );
    for name in ["small", "org/other", "a"] {
        bench.pull_from(name, &source).unwrap();
    }
    let list = bench.store.list().unwrap();
    let names: Vec<_> = list.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["a", "org/other", "small"]);
    for entry in &list {
        assert!(entry.complete && entry.bytes > 100);
        assert_eq!(
            entry.source.as_deref(),
            Some(format!("directory {}", source.display()).as_str())
        );
        assert_eq!(bench.store.resolve(&entry.name).unwrap(), entry.path);
    }
}

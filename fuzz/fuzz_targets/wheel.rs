//! The model cache: any manifest in it, any name asked of it, any files in a folder pulled from.
//!
//! The unpacking of a wheel itself lies behind a run of pip, which takes 50 ms and more, and can not
//! be reached from here; what is done with the files afterwards is the same for every source.
//!
//! Input: what (1 byte), then for
//! * 0: the manifest;
//! * 1: the name;
//! * 2: the manifest (length in 1 byte), then the files of the folder pulled from: for each of
//!   [`FILES`] its length (1 byte; 255 for a missing file) and bytes.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use embedring_fuzz::{Bytes, scratch};
use embedring_store::{PullRequest, Pulled, Quiet, SourceKind, Sources, Store};
use libfuzzer_sys::fuzz_target;

const FILES: [&str; 4] = [
    "config.json",
    "tokenizer.json",
    "model.safetensors",
    "1_Pooling/config.json",
];
const MODEL: &str = "small";

fuzz_target!(|data: &[u8]| {
    let store = store();
    let mut input = Bytes::new(data);
    match input.u8() % 3 {
        0 => read_manifest(store, input.rest()),
        1 => ask_for(store, &String::from_utf8_lossy(input.rest())),
        _ => pull_files(store, &mut input),
    }
});

/// A cache with one folder that has all files and no manifest, and sources that are never asked.
fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let sources = Sources {
            directory: None,
            hub_endpoint: None,
            hub_token: None,
            python: Vec::new(),
            limits: embedring_store::Limits::default(),
        };
        let store = Store::at(scratch().join("models")).with_sources(sources);
        restore(&store.root().join(MODEL));
        restore(&scratch().join("from"));
        store
    })
}

fn restore(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder.join("1_Pooling")).expect("a folder");
    for file in FILES {
        std::fs::write(folder.join(file), "{}").expect("a file");
    }
}

fn read_manifest(store: &Store, manifest: &[u8]) {
    let folder = store.root().join(MODEL);
    std::fs::write(folder.join("embedring.json"), manifest).expect("a file");
    let entries = store.list().expect("the cache can be read");
    let entry = entries.iter().find(|entry| entry.path == folder);
    let complete = entry.expect("every folder is listed").complete;
    match store.resolve(MODEL) {
        Ok(path) => assert!(complete && path == folder),
        Err(error) => assert!(!complete && !error.to_string().is_empty()),
    }
    // From nowhere: what is there must be whole to the last byte, or the pull fails.
    if let Ok(pulled) = pull(store, MODEL, &scratch().join("nowhere")) {
        assert!(complete && pulled.already_there && pulled.path == folder);
        assert_eq!(pulled.weights_sha256.len(), 64);
    }
    std::fs::remove_file(folder.join("embedring.json")).expect("it was written");
}

fn ask_for(store: &Store, name: &str) {
    if let Ok(path) = store.resolve(name) {
        assert!(path.is_absolute() && path.join("config.json").is_file());
    }
    if let Ok(pulled) = pull(store, name, &scratch().join("from")) {
        assert_eq!(
            pulled.path.parent(),
            Some(store.root()),
            "{name:?} left the cache"
        );
        assert_eq!(store.resolve(name).ok(), Some(pulled.path.clone()));
        if pulled.path.ends_with(MODEL) {
            restore(&pulled.path);
        } else {
            std::fs::remove_dir_all(&pulled.path).expect("it was pulled");
        }
    }
}

fn pull_files(store: &Store, input: &mut Bytes<'_>) {
    let (manifest, from) = (input.slice(), scratch().join("from"));
    std::fs::write(from.join("embedring.json"), manifest).expect("a file");
    let mut required = true;
    for (index, file) in FILES.iter().enumerate() {
        let length = input.u8();
        if length == u8::MAX {
            std::fs::remove_file(from.join(file)).expect("it was restored");
            required &= index > 2;
            continue;
        }
        let bytes: Vec<u8> = (0..length).map(|_| input.u8()).collect();
        std::fs::write(from.join(file), bytes).expect("a file");
    }
    let result = pull(store, "other", &from);
    assert_eq!(result.is_ok(), required, "{result:?}");
    if let Ok(pulled) = result {
        for file in FILES {
            let (got, want) = (pulled.path.join(file), from.join(file));
            assert_eq!(std::fs::read(got).ok(), std::fs::read(want).ok());
        }
        assert!(pull(store, "other", &from).is_ok_and(|again| again.already_there));
        std::fs::remove_dir_all(&pulled.path).expect("it was pulled");
    }
    restore(&from);
}

/// From a folder only, so that nothing here can reach a network.
fn pull(store: &Store, name: &str, from: &Path) -> Result<Pulled, embedring_store::PullError> {
    let request = PullRequest {
        from: Some(from.to_owned()),
        sources: vec![SourceKind::Local],
        ..PullRequest::new(name)
    };
    store.pull(&request, &Quiet)
}

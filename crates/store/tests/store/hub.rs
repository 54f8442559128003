//! The second source: a hub on loopback.

use std::time::Duration;

use embedring_store::{PullRequest, SourceError, SourceKind, Sources, Token};

use crate::{
    server::{COMMIT, Hub, Manner},
    support::{
        Bench, Recorder, WEIGHTS, assert_is_small_model, attempts, files_under, no_sources, sha256,
        table,
    },
};

fn bench(manner: Manner) -> (Bench, Hub) {
    let hub = Hub::start("org/small", manner);
    let sources = Sources {
        hub_endpoint: Some(hub.endpoint()),
        ..no_sources()
    };
    (
        Bench::new(sources, table(Some("org/small"), Vec::new())),
        hub,
    )
}

/// The error of the hub's attempt.
fn hub_error(bench: &Bench) -> SourceError {
    let attempts = attempts(bench.pull("small"));
    let kinds: Vec<_> = attempts.iter().map(|attempt| attempt.kind).collect();
    assert_eq!(kinds, SourceKind::ALL, "every source was tried in its turn");
    attempts.into_iter().nth(1).expect("three attempts").error
}

#[test]
fn a_model_comes_from_the_hub_with_progress() {
    let (bench, hub) = bench(Manner::Good);
    let recorder = Recorder::default();
    let pulled = bench
        .store
        .pull(&PullRequest::new("small"), &recorder)
        .unwrap();
    assert_is_small_model(&pulled.path);
    assert!(pulled.weights_checked);
    assert!(pulled.source.contains("org/small") && pulled.source.contains(COMMIT));
    assert!(hub.requests().iter().all(|head| !head.contains("README")));
    let whole = WEIGHTS.len() as u64;
    assert!(
        recorder
            .bytes
            .into_inner()
            .unwrap()
            .contains(&(whole, Some(whole)))
    );
}

#[test]
fn the_token_is_sent_when_there_is_one() {
    let (bench, hub) = bench(Manner::Good);
    bench.pull("small").unwrap();
    let with_token = |head: &String| head.to_ascii_lowercase().contains("authorization");
    assert!(!hub.requests().iter().any(with_token));
    let sources = Sources {
        hub_endpoint: Some(hub.endpoint()),
        hub_token: Some(Token::new("sesame".into())),
        ..no_sources()
    };
    let store = bench.store.with_sources(sources);
    let seen = hub.requests().len();
    let request = PullRequest {
        force: true,
        ..PullRequest::new("small")
    };
    store.pull(&request, &Recorder::default()).unwrap();
    let requests = hub.requests();
    assert!(requests.len() > seen);
    assert!(
        requests[seen..]
            .iter()
            .all(|head| head.contains("Bearer sesame"))
    );
}

#[test]
fn a_model_outside_the_table_is_pulled_by_its_hub_name_unchecked() {
    let hub = Hub::start("org/unlisted", Manner::Good);
    let sources = Sources {
        hub_endpoint: Some(hub.endpoint()),
        ..no_sources()
    };
    let bench = Bench::new(sources, table(None, Vec::new()));
    let pulled = bench.pull("org/unlisted").unwrap();
    assert!(!pulled.weights_checked);
    assert_eq!(pulled.weights_sha256, sha256(WEIGHTS));
    assert_eq!(bench.store.resolve("org/unlisted").unwrap(), pulled.path);
}

#[test]
fn weights_that_are_not_what_the_hub_announced_are_refused() {
    // Outside the table, so that the hub's own announcement is all there is to go by.
    let hub = Hub::start("org/unlisted", Manner::OtherBytes);
    let sources = Sources {
        hub_endpoint: Some(hub.endpoint()),
        ..no_sources()
    };
    let bench = Bench::new(sources, table(None, Vec::new()));
    let attempts = attempts(bench.pull("org/unlisted"));
    assert!(
        matches!(attempts[1].error, SourceError::Digest { .. }),
        "{attempts:?}"
    );
    bench.assert_nothing_left();
}

#[test]
fn weights_that_are_not_the_tables_are_refused() {
    let hub = Hub::start("org/small", Manner::Good);
    let mut model = table(Some("org/small"), Vec::new())[0];
    model.weights_sha256 = sha256(b"other weights").leak();
    let sources = Sources {
        hub_endpoint: Some(hub.endpoint()),
        ..no_sources()
    };
    let bench = Bench::new(sources, vec![model].leak());
    let error = hub_error(&bench);
    assert!(matches!(error, SourceError::Digest { .. }), "{error}");
    bench.assert_nothing_left();
}

#[test]
fn a_hub_that_cannot_be_reached_is_passed_over_with_the_reason() {
    let bench = Bench::new(no_sources(), table(Some("org/small"), Vec::new()));
    let error = bench.pull("small").unwrap_err().to_string();
    assert!(
        error.contains("http://127.0.0.1:1 org/small: reading the file list"),
        "{error}"
    );
    assert!(error.to_lowercase().contains("refused"), "{error}");
    assert!(error.contains("HF_ENDPOINT"), "says what to do: {error}");
}

#[test]
fn a_repository_that_is_not_there_is_an_error_of_the_hub() {
    let hub = Hub::start("org/another", Manner::Good);
    let sources = Sources {
        hub_endpoint: Some(hub.endpoint()),
        ..no_sources()
    };
    let error = hub_error(&Bench::new(sources, table(Some("org/small"), Vec::new())));
    assert!(error.to_string().contains("404"), "{error}");
}

#[test]
fn a_silent_hub_is_given_up() {
    let (mut bench, hub) = bench(Manner::Silent);
    let mut sources = Sources {
        hub_endpoint: Some(hub.endpoint()),
        ..no_sources()
    };
    sources.limits.hub_answer = Duration::from_millis(300);
    bench.store = bench.store.with_sources(sources);
    let error = hub_error(&bench);
    // Either bound may be the first to pass: the client's own or ours.
    let text = error.to_string();
    assert!(
        text.contains("no answer") || text.contains("timeout"),
        "{text}"
    );
}

#[test]
fn a_download_that_stalls_is_given_up_and_leaves_nothing() {
    let (mut bench, hub) = bench(Manner::HalfThenStall);
    let mut sources = Sources {
        hub_endpoint: Some(hub.endpoint()),
        ..no_sources()
    };
    sources.limits.hub_stall = Duration::from_secs(1);
    bench.store = bench.store.with_sources(sources);
    let error = hub_error(&bench);
    assert!(matches!(error, SourceError::Stalled { .. }), "{error}");
    assert_eq!(hub.weight_downloads(), 1, "it stalled in the weights");
    bench.assert_nothing_left();
}

#[test]
fn a_download_that_is_cut_is_refused() {
    let (bench, _hub) = bench(Manner::HalfThenClose);
    hub_error(&bench);
    bench.assert_nothing_left();
}

#[test]
fn a_tag_that_is_a_path_writes_nothing_outside() {
    let (bench, _hub) = bench(Manner::TagIsPath);
    let error = hub_error(&bench).to_string();
    assert!(error.contains("cannot be a file name"), "{error}");
    bench.assert_nothing_left();
    let outside = files_under(bench.folder.path());
    assert!(
        outside
            .iter()
            .all(|path| path.starts_with(bench.store.root())),
        "{outside:?}"
    );
}

//! Lines as they are written, through a captured writer.

use std::ffi::OsString;
use std::io;
use std::sync::{Arc, Mutex};

use crate::{InitError, LogFormat, filter, subscriber};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `log` writes under `level`, with `EMBEDRING_LOG` set to `variable` if it is not empty.
fn lines(level: &str, variable: &str, format: LogFormat, log: impl FnOnce()) -> Vec<String> {
    let out = Captured::default();
    let filter = filter::build(level, Some(OsString::from(variable))).unwrap();
    let writer = out.clone();
    let subscriber = subscriber(filter, format, "cpu \"0\"", false, move || writer.clone());
    tracing::subscriber::with_default(subscriber, log);
    let bytes = out.0.lock().unwrap().clone();
    String::from_utf8(bytes)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn text_lines_have_time_level_role_target_spans_and_fields() {
    let lines = lines("info", "", LogFormat::Text, || {
        let _batch = tracing::info_span!("batch", id = 7).entered();
        tracing::warn!(target: "t", texts = 3, "batch done");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (time, rest) = lines[0].split_at("12:03:04.125Z".len());
    assert!(
        time.ends_with('Z') && time.matches(':').count() == 2,
        "{time}"
    );
    assert_eq!(rest, "  WARN cpu \"0\" t: batch{id=7}: batch done texts=3");
}

#[test]
fn json_lines_are_objects_with_the_role() {
    let lines = lines("info", "", LogFormat::Json, || {
        tracing::error!(target: "t", texts = 3, role = "mine", "two\nlines \"quoted\"");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["role"], "cpu \"0\"");
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["target"], "t");
    assert_eq!(line["fields"]["message"], "two\nlines \"quoted\"");
    assert_eq!(line["fields"]["texts"], 3);
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn the_variable_is_stronger_and_iceoryx2_speaks_only_when_asked() {
    let log = || {
        tracing::info!(target: "embedring_worker", "ours");
        tracing::debug!(target: "embedring_worker", "ours in detail");
        tracing::warn!(target: "iceoryx2_bb_loggers::tracing", "rings");
        tracing::error!(target: "iceoryx2_bb_loggers::tracing", "broken rings");
    };
    let check = |level: &str, variable: &str, expected: &[&str]| {
        let lines = lines(level, variable, LogFormat::Text, log);
        let ends: Vec<_> = lines
            .iter()
            .map(|line| line.rsplit(": ").next().unwrap())
            .collect();
        assert_eq!(ends, expected, "level {level:?}, variable {variable:?}");
    };
    check("info", "", &["ours", "broken rings"]);
    check("trace", "", &["ours", "ours in detail", "broken rings"]);
    check("trace", "warn", &["broken rings"]);
    check("warn", "embedring_worker=info", &["ours", "broken rings"]);
    check("info,iceoryx2=warn", "", &["ours", "rings", "broken rings"]);
    check("off,iceoryx2=off", "", &[]);
}

#[test]
fn a_wrong_filter_is_refused_by_name() {
    let check = |level: &str, variable: &str, start: &str| {
        let error = filter::build(level, Some(OsString::from(variable))).unwrap_err();
        assert!(matches!(error, InitError::Filter { .. }));
        assert!(error.to_string().starts_with(start), "{error}");
    };
    check("inof", "", "log.level: \"inof\" is not a level");
    check(
        "info,embedring_worker=loud",
        "",
        "log.level: \"info,embedring_worker=loud\" is not",
    );
    check("info", "a=b=c", "EMBEDRING_LOG: \"a=b=c\" is not a level");
    filter::build("INFO, embedring_worker", None).unwrap();
}

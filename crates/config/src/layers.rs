//! File, environment and flags, laid over each other key by key.
//!
//! Each value is checked where it enters, while it is known where it came from.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde::Deserialize;
use toml::de::DeTable;
use toml::{Table, Value};

use crate::config::Overrides;
use crate::error::{ConfigError, Origin};
use crate::file::Source;
use crate::raw::Raw;
use crate::schema::{ANY, Key, Kind, Node, leaves, root};
use crate::{check, closest};

/// Start of all our variables.
const PREFIX: &str = "EMBEDRING_";

/// Variables of ours that are no keys.
pub(crate) const NOT_KEYS: [(&str, &str); 6] = [
    ("EMBEDRING_CONFIG", "path of the configuration file"),
    (
        "EMBEDRING_DATA",
        "folder of the data that benches and tests read",
    ),
    (
        "EMBEDRING_LOG",
        "filter of the log, stronger than `log.level`",
    ),
    ("EMBEDRING_MODELS", "folder of the model cache"),
    (
        "EMBEDRING_MODEL_SOURCE",
        "where `embedring model pull` looks",
    ),
    (
        "EMBEDRING_TEST_MODELS",
        "folder of models for the project's own tests",
    ),
];

#[derive(Debug)]
struct Setting {
    value: Value,
    origin: Origin,
}

/// The strongest value of each key that somebody set.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    /// Values; and for each worker an empty table, since one without keys is a worker too.
    settings: BTreeMap<Key, Setting>,
}

/// Reads all layers, the weakest first.
pub(crate) fn gather(
    overrides: &Overrides,
    env: &BTreeMap<OsString, OsString>,
    file: Option<&Source>,
) -> Result<Layers, ConfigError> {
    let mut layers = Layers::default();
    if let Some(source) = file {
        layers.add_file(source)?;
    }
    let file_workers = layers.workers();
    for (name, value) in env {
        let name = name.to_string_lossy();
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if NOT_KEYS.iter().any(|(other, _)| *other == name) || value.is_empty() {
            continue;
        }
        let Some(value) = value.to_str() else {
            return Err(ConfigError::VariableEncoding {
                name: name.into_owned(),
            });
        };
        layers.add_variable(rest, value, &file_workers)?;
    }
    if let Some(instance) = &overrides.instance {
        let value = Value::String(instance.clone());
        layers.add(
            Key::new(["instance"]),
            root_key("instance"),
            value,
            Origin::Flag("--instance"),
        )?;
    }
    Ok(layers)
}

/// A key at the top of the tree.
fn root_key(name: &str) -> &'static Node {
    match &root().kind {
        Kind::Table(keys) => keys.get(name).unwrap_or(root()),
        Kind::Named(_)
        | Kind::Integer
        | Kind::Size
        | Kind::Fraction
        | Kind::Boolean
        | Kind::Text
        | Kind::Choice(_) => root(),
    }
}

impl Layers {
    /// Where the value of `key` was set, if it was.
    pub(crate) fn origin(&self, key: &Key) -> Option<Origin> {
        self.settings.get(key).map(|setting| setting.origin.clone())
    }

    /// All values as the one file that says the same.
    pub(crate) fn to_raw(&self) -> Result<Raw, ConfigError> {
        let mut top = Table::new();
        for (key, setting) in &self.settings {
            let Some((last, tables)) = key.0.split_last() else {
                continue;
            };
            let mut table = &mut top;
            for part in tables {
                let entry = table
                    .entry(part.as_str())
                    .or_insert_with(|| Value::Table(Table::new()));
                let Value::Table(inner) = entry else {
                    return Err(ConfigError::Shape {
                        message: format!("{key} is inside a value"),
                    });
                };
                table = inner;
            }
            table.insert(last.clone(), setting.value.clone());
        }
        Raw::deserialize(top).map_err(|error| ConfigError::Shape {
            message: error.to_string(),
        })
    }

    fn workers(&self) -> Vec<String> {
        let markers = self
            .settings
            .keys()
            .filter(|key| key.0.len() == 2 && key.0[0] == "workers");
        markers.map(|key| key.0[1].clone()).collect()
    }

    fn add(
        &mut self,
        key: Key,
        node: &Node,
        value: Value,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        if !check::accepts(&key, &node.kind, &value) {
            return Err(ConfigError::Value {
                origin,
                key: key.to_string(),
                got: check::shown(&value),
                allowed: check::allowed(&key, &node.kind),
            });
        }
        self.settings.insert(key, Setting { value, origin });
        Ok(())
    }

    fn add_worker(&mut self, name: &str, origin: Origin) -> Result<(), ConfigError> {
        if !check::accepts_worker_name(name) {
            return Err(ConfigError::Value {
                origin,
                key: "workers".to_owned(),
                got: check::shown(&Value::String(name.to_owned())),
                allowed: check::allowed_worker_name(),
            });
        }
        let setting = Setting {
            value: Value::Table(Table::new()),
            origin,
        };
        self.settings
            .entry(Key::new(["workers", name]))
            .or_insert(setting);
        Ok(())
    }

    fn add_file(&mut self, source: &Source) -> Result<(), ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            origin: source.origin(error.span()),
            message: error.message().trim_end_matches('\n').replace('\n', ", "),
        };
        let spans = DeTable::parse(&source.text).map_err(syntax)?;
        // Read twice: the tree with places has no values, the one with values no places.
        let values: Table = toml::from_str(&source.text).map_err(syntax)?;
        self.add_table(source, &Key::default(), root(), &values, spans.get_ref())
    }

    fn add_table(
        &mut self,
        source: &Source,
        key: &Key,
        node: &Node,
        values: &Table,
        spans: &DeTable<'_>,
    ) -> Result<(), ConfigError> {
        for (name, place) in spans {
            let Some(value) = values.get(name.get_ref().as_ref()) else {
                continue;
            };
            let key = key.child(name.get_ref());
            let child = match &node.kind {
                Kind::Table(keys) => keys.get(name.get_ref().as_ref()),
                Kind::Named(each) => Some(&**each),
                Kind::Integer
                | Kind::Size
                | Kind::Fraction
                | Kind::Boolean
                | Kind::Text
                | Kind::Choice(_) => None,
            };
            let Some(child) = child else {
                return Err(ConfigError::UnknownKey {
                    origin: source.origin(Some(name.span())),
                    closest: closest::key(&key).to_string(),
                    key: key.to_string(),
                });
            };
            if matches!(node.kind, Kind::Named(_)) {
                self.add_worker(name.get_ref(), source.origin(Some(name.span())))?;
            }
            match (&child.kind, value, place.get_ref().as_table()) {
                (Kind::Table(_) | Kind::Named(_), Value::Table(values), Some(spans)) => {
                    self.add_table(source, &key, child, values, spans)?;
                }
                _ => self.add(key, child, value.clone(), source.origin(Some(place.span())))?,
            }
        }
        Ok(())
    }

    fn add_variable(
        &mut self,
        rest: &str,
        text: &str,
        file_workers: &[String],
    ) -> Result<(), ConfigError> {
        let name = format!("{PREFIX}{rest}");
        let Some((key, node)) = key_of_variable(rest, file_workers) else {
            let closest = format!("{PREFIX}{}", closest::variable(rest, file_workers));
            return Err(ConfigError::UnknownVariable { name, closest });
        };
        let origin = Origin::Variable(name);
        if key.0.len() == 3 {
            self.add_worker(&key.0[1], origin.clone())?;
        }
        let plain = Value::String(text.to_owned());
        // As TOML where the key takes that, so that `2` is a number; otherwise as it stands, so
        // that an instance may be called `2`.
        let typed = text.parse::<Value>().ok();
        let plain_fits = check::accepts(&key, &node.kind, &plain);
        let value = match typed {
            Some(typed) if check::accepts(&key, &node.kind, &typed) || !plain_fits => typed,
            _ => plain,
        };
        self.add(key, node, value, origin)
    }
}

/// The key that a variable (without its prefix) overrides.
fn key_of_variable(rest: &str, file_workers: &[String]) -> Option<(Key, &'static Node)> {
    let known = leaves().into_iter();
    let worker_key = rest
        .strip_prefix("WORKERS__")
        .and_then(|tail| tail.rsplit_once("__"));
    let Some((worker, last)) = worker_key else {
        let plain = |key: &Key| key.0.iter().all(|part| part != ANY);
        return known
            .into_iter()
            .find(|(key, _)| plain(key) && key.variable() == rest);
    };
    // Shells allow no `-` in a variable's name, so `cpu-0` is reached as `CPU_0`.
    let same = |name: &&String| Key::new([name.as_str()]).variable() == worker;
    let exact = file_workers
        .iter()
        .find(|name| name.to_uppercase() == worker);
    let name = exact.or_else(|| file_workers.iter().find(same));
    let name = name.cloned().unwrap_or_else(|| worker.to_lowercase());
    let mut known = known.filter(|(key, _)| key.0.len() == 3 && key.0[0] == "workers");
    let (key, node) = known.find(|(key, _)| key.0[2].to_uppercase() == last)?;
    Some((key.with_worker(&name), node))
}

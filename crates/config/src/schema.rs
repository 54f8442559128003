//! The tree of known keys, read off the derived JSON schema of [`Raw`].
//!
//! So a key exists in one place only, its field in `Raw`; the checks, the environment and the
//! reference follow.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use serde_json::Value;

use crate::bounds::Bound;
use crate::raw::Raw;

/// Stands for any worker's name in a pattern.
pub(crate) const ANY: &str = "*";

/// Path of a key: `["workers", "cpu", "threads"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) Vec<String>);

impl Key {
    pub(crate) fn new<const N: usize>(parts: [&str; N]) -> Self {
        Self(parts.iter().map(|&part| part.to_owned()).collect())
    }

    pub(crate) fn child(&self, part: &str) -> Self {
        Self(self.0.iter().cloned().chain([part.to_owned()]).collect())
    }

    /// The path with `*` for a worker's name, as bounds are listed.
    pub(crate) fn pattern(&self) -> String {
        let workers = self.0.first().is_some_and(|part| part == "workers");
        let part = |(index, part): (usize, &String)| {
            if workers && index == 1 {
                ANY.to_owned()
            } else {
                part.clone()
            }
        };
        self.0
            .iter()
            .enumerate()
            .map(part)
            .collect::<Vec<_>>()
            .join(".")
    }

    /// The same path, with `name` for the worker's name if it is a pattern.
    pub(crate) fn with_worker(&self, name: &str) -> Self {
        let part = |part: &String| {
            if part == ANY {
                name.to_owned()
            } else {
                part.clone()
            }
        };
        Self(self.0.iter().map(part).collect())
    }

    /// `LIMITS__CLIENTS_MAX`: the name of its variable after `EMBEDRING_`.
    pub(crate) fn variable(&self) -> String {
        self.0.join("__").to_uppercase().replace('-', "_")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if (!part.is_empty() && part.chars().all(bare)) || part == ANY {
                f.write_str(part)?;
            } else {
                write!(f, "{part:?}")?;
            }
        }
        Ok(())
    }
}

/// A table or a key.
#[derive(Debug)]
pub(crate) struct Node {
    /// The doc comment, on one line.
    pub(crate) doc: String,
    pub(crate) kind: Kind,
}

/// What a key takes.
#[derive(Debug)]
pub(crate) enum Kind {
    Table(BTreeMap<String, Node>),
    /// A table of tables under names that the user chooses.
    Named(Box<Node>),
    Integer,
    Size,
    Fraction,
    Boolean,
    Text,
    /// One of these strings, each with what it means.
    Choice(Vec<(String, String)>),
}

/// The tree of all keys.
pub(crate) fn root() -> &'static Node {
    static ROOT: OnceLock<Node> = OnceLock::new();
    ROOT.get_or_init(|| {
        let schema = schemars::schema_for!(Raw).to_value();
        node("", &schema, &schema)
    })
}

/// Every key that takes a value, as patterns in alphabetical order.
pub(crate) fn leaves() -> Vec<(Key, &'static Node)> {
    fn collect(key: &Key, node: &'static Node, out: &mut Vec<(Key, &'static Node)>) {
        match &node.kind {
            Kind::Table(keys) => keys
                .iter()
                .for_each(|(k, n)| collect(&key.child(k), n, out)),
            Kind::Named(each) => collect(&key.child(ANY), each, out),
            Kind::Integer
            | Kind::Size
            | Kind::Fraction
            | Kind::Boolean
            | Kind::Text
            | Kind::Choice(_) => {
                out.push((key.clone(), node));
            }
        }
    }
    let mut out = Vec::new();
    collect(&Key::default(), root(), &mut out);
    out
}

fn node(pattern: &str, schema: &Value, root: &Value) -> Node {
    let target = resolve(schema, root);
    // Text at the field says more than text at its type.
    let doc = schema
        .get("description")
        .or_else(|| target.get("description"));
    let doc = one_line(doc.and_then(Value::as_str).unwrap_or_default());
    Node {
        doc,
        kind: kind(pattern, target, root),
    }
}

fn kind(pattern: &str, schema: &Value, root: &Value) -> Kind {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let child = |(key, schema): (&String, &Value)| {
            let path = if pattern.is_empty() {
                key.clone()
            } else {
                format!("{pattern}.{key}")
            };
            (key.clone(), node(&path, schema, root))
        };
        return Kind::Table(properties.iter().map(child).collect());
    }
    if let Some(each) = schema
        .get("additionalProperties")
        .filter(|each| each.is_object())
    {
        return Kind::Named(Box::new(node(&format!("{pattern}.{ANY}"), each, root)));
    }
    if let Some(choices) = choices(schema) {
        return Kind::Choice(choices);
    }
    let is = |name| match schema.get("type") {
        Some(Value::Array(types)) => types.iter().any(|kind| kind == name),
        Some(single) => single == name,
        None => false,
    };
    if Bound::find(pattern).is_some_and(Bound::is_size) {
        Kind::Size
    } else if is("integer") {
        Kind::Integer
    } else if is("number") {
        Kind::Fraction
    } else if is("boolean") {
        Kind::Boolean
    } else {
        Kind::Text
    }
}

/// Follows references, and looks through `anyOf [T, null]`, the schema of an optional field.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(name.trim_start_matches('#'));
        return target.map_or(schema, |target| resolve(target, root));
    }
    let some = schema.get("anyOf").and_then(Value::as_array);
    let some = some.and_then(|all| {
        all.iter()
            .find(|one| one.get("type") != Some(&"null".into()))
    });
    some.map_or(schema, |some| resolve(some, root))
}

fn choices(schema: &Value) -> Option<Vec<(String, String)>> {
    let choice = |one: &Value| {
        let name = one.get("const")?.as_str()?.to_owned();
        let doc = one
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default();
        Some((name, one_line(doc)))
    };
    schema
        .get("oneOf")?
        .as_array()?
        .iter()
        .map(choice)
        .collect()
}

fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Key, Kind, leaves, root};
    use crate::bounds::{self, Bound, Fraction};

    #[test]
    fn every_integer_has_a_bound_and_every_bound_a_key() {
        let numbers: Vec<String> = leaves()
            .into_iter()
            .filter(|(_, node)| matches!(node.kind, Kind::Integer | Kind::Size))
            .map(|(key, _)| key.pattern())
            .collect();
        for pattern in &numbers {
            assert!(Bound::find(pattern).is_some(), "{pattern} has no bound");
        }
        for bound in &bounds::ALL {
            assert!(
                numbers.iter().any(|key| key == bound.key),
                "no such key: {}",
                bound.key
            );
        }
        assert_eq!(numbers.len(), bounds::ALL.len());
    }

    #[test]
    fn every_fraction_has_a_range_and_every_range_a_key() {
        let fractions: Vec<String> = leaves()
            .into_iter()
            .filter(|(_, node)| matches!(node.kind, Kind::Fraction))
            .map(|(key, _)| key.pattern())
            .collect();
        for pattern in &fractions {
            let range = Fraction::find(pattern).unwrap_or_else(|| panic!("{pattern} has no range"));
            assert!(range.contains(range.default), "{pattern}");
        }
        assert_eq!(fractions.len(), bounds::FRACTIONS.len());
    }

    #[test]
    fn every_key_and_choice_is_documented() {
        assert!(!root().doc.is_empty());
        for (key, node) in leaves() {
            assert!(!node.doc.is_empty(), "{key}");
            if let Kind::Choice(choices) = &node.kind {
                assert!(choices.len() > 1, "{key}");
                assert!(
                    choices.iter().all(|(_, doc)| !doc.is_empty()),
                    "{key}: {choices:?}"
                );
            }
        }
    }

    #[test]
    fn keys_have_a_path_a_pattern_and_a_variable() {
        let key = Key::new(["workers", "cpu-0", "threads"]);
        assert_eq!(key.to_string(), "workers.cpu-0.threads");
        assert_eq!(key.pattern(), "workers.*.threads");
        assert_eq!(key.variable(), "WORKERS__CPU_0__THREADS");
        assert_eq!(
            Key::new(["workers", "a b", "x"]).to_string(),
            "workers.\"a b\".x"
        );
    }
}

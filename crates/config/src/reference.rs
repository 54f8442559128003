//! `docs/config.md`, written from the keys themselves.

use std::fmt::Write as _;

use crate::bounds::Bound;
use crate::check;
use crate::config::Config;
use crate::convert;
use crate::layers::NOT_KEYS;
use crate::schema::{ANY, Key, Kind, Node, root};

/// The reference of all keys as Markdown, which is `docs/config.md`.
pub fn reference_markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    let defaults = toml::Value::try_from(convert::to_raw(&Config::default())).ok();
    let defaults = defaults.unwrap_or(toml::Value::Boolean(false));
    for (name, meaning) in NOT_KEYS {
        line(&mut out, &format!("* `{name}`: {meaning}"));
    }
    line(&mut out, "\n## Keys at the top\n");
    if let Kind::Table(keys) = &root().kind {
        table(&mut out, &Key::default(), root(), &defaults);
        for (name, node) in keys {
            section(&mut out, &Key::new([name]), node, &defaults);
        }
    }
    out
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Written from crates/config/src/raw.rs by `cargo test -p embedring-config`; edit there. -->

embedring needs no file. If there is one, it is the first of these:

1. the path given by `--config`,
2. the path in `EMBEDRING_CONFIG`,
3. `$XDG_CONFIG_HOME/embedring/config.toml` (`~/.config` where that is not set),
4. `/etc/embedring/config.toml`.

Every key can be set by an environment variable too, which is stronger than the file:
`EMBEDRING_` and the path of the key in upper case, its parts joined by two underscores, such as
`EMBEDRING_LIMITS__CLIENTS_MAX=8` or `EMBEDRING_WORKERS__CPU__THREADS=2`; a `-` in the name of a
worker becomes `_`. A variable that is empty counts as not set; to set a key to the empty string,
write `'\"\"'`. Flags are stronger than both.

Unknown keys and variables are errors. `embedring check-config` says whether a configuration is
good, and with `--show` prints the effective values.

Keys ending in `_ms`, `_us`, `_ns` and `_ps` are times in milliseconds and so on. Keys ending in `_bytes`
take a number of bytes, or a string with B, KiB, MiB, GiB or TiB such as `\"64KiB\"`.

```toml
instance = \"search\"

[runtime]
group = \"search\"

[workers.cpu]
threads = 4
memory_max_bytes = \"1GiB\"
```

Variables that begin with `EMBEDRING_` but are no keys:

";

fn section(out: &mut String, key: &Key, node: &Node, defaults: &toml::Value) {
    match &node.kind {
        Kind::Table(_) => {
            line(out, &format!("\n## {key}\n\n{}\n", node.doc));
            table(out, key, node, defaults);
        }
        Kind::Named(each) => {
            line(out, &format!("\n## {key}.NAME\n\n{}\n", node.doc));
            table(out, &key.child(ANY), each, defaults);
        }
        Kind::Integer
        | Kind::Size
        | Kind::Fraction
        | Kind::Boolean
        | Kind::Text
        | Kind::Choice(_) => {}
    }
}

fn table(out: &mut String, key: &Key, node: &Node, defaults: &toml::Value) {
    let Kind::Table(keys) = &node.kind else {
        return;
    };
    line(
        out,
        "| key | default | allowed | meaning |\n|---|---|---|---|",
    );
    for (name, node) in keys {
        if matches!(node.kind, Kind::Table(_) | Kind::Named(_)) {
            continue;
        }
        let key = key.child(name);
        let default = default_of(&key.with_worker("cpu"), defaults);
        let (allowed, doc) = (allowed(&key, &node.kind), node.doc.replace('|', "\\|"));
        line(
            out,
            &format!("| `{name}` | {default} | {allowed} | {doc} |"),
        );
    }
}

fn default_of(key: &Key, defaults: &toml::Value) -> String {
    let value = key
        .0
        .iter()
        .try_fold(defaults, |value, part| value.get(part));
    value.map_or_else(|| "unset".to_owned(), |value| format!("`{value}`"))
}

fn allowed(key: &Key, kind: &Kind) -> String {
    // The units of sizes are told once, at the top.
    if let (Kind::Size, Some(bound)) = (kind, Bound::find(&key.pattern())) {
        return bound.to_string();
    }
    let Kind::Choice(choices) = kind else {
        return check::allowed(key, kind);
    };
    let choices: Vec<_> = choices
        .iter()
        .map(|(name, doc)| format!("`\"{name}\"`: {doc}"))
        .collect();
    choices.join("; ")
}

fn line(out: &mut String, text: &str) {
    // Writing to a string does not fail.
    writeln!(out, "{text}").unwrap_or_default();
}

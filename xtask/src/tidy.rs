//! `tidy`: the rules of the repository that no compiler checks, each with a test that it bites.
//!
//! The tables below are the rules. A line added to them is a change of architecture and belongs in
//! a commit of its own, with its reason.

mod graph;
mod text;

use anyhow::{Result, bail};

use crate::run::{metadata, root};

/// What a package of ours may use of ours, whatever the kind of dependency.
pub(crate) const MAY_USE: [(&str, Uses); 23] = [
    ("embedring-protocol", Uses::Only(&[])),
    ("embedring-policy", Uses::Only(&["embedring-protocol"])),
    (
        "embedring-optimizer",
        Uses::Only(&["embedring-policy", "embedring-protocol"]),
    ),
    ("embedring-learned", Uses::Only(&[])),
    ("embedring-ipc", Uses::Only(&["embedring-protocol"])),
    ("embedring-kernels", Uses::Only(&[])),
    ("embedring-cuda", Uses::Only(&[])),
    ("embedring-quant", Uses::Only(&[])),
    (
        "embedring-model",
        Uses::Only(&["embedring-cuda", "embedring-kernels", "embedring-quant"]),
    ),
    ("embedring-store", Uses::Only(&[])),
    ("embedring-telemetry", Uses::Only(&[])),
    ("embedring-config", Uses::Only(&["embedring-protocol"])),
    (
        "embedring-worker",
        Uses::Only(&[
            "embedring-ipc",
            "embedring-policy",
            "embedring-protocol",
            "embedring-model",
            "embedring-config",
            "embedring-telemetry",
        ]),
    ),
    (
        "embedring-scheduler",
        Uses::Only(&[
            "embedring-ipc",
            "embedring-learned",
            "embedring-optimizer",
            "embedring-protocol",
            "embedring-config",
            "embedring-telemetry",
        ]),
    ),
    (
        "embedring-client",
        Uses::Only(&["embedring-ipc", "embedring-policy", "embedring-protocol"]),
    ),
    ("embedring-traffic", Uses::Only(&[])),
    (
        "embedring-load",
        Uses::Only(&[
            "embedring-client",
            "embedring-ipc",
            "embedring-quant",
            "embedring-traffic",
        ]),
    ),
    ("embedring", Uses::Anything),
    ("embedring-tests", Uses::Anything),
    ("embedring-benches", Uses::Anything),
    (
        "embedring-sim",
        Uses::Only(&[
            "embedring-learned",
            "embedring-optimizer",
            "embedring-policy",
            "embedring-protocol",
            "embedring-traffic",
        ]),
    ),
    ("embedring-gpu-bench", Uses::Only(&["embedring-model"])),
    ("xtask", Uses::Only(&[])),
];

/// Which packages of ours a package may depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Uses {
    /// These and no other.
    Only(&'static [&'static str]),
    /// Every one.
    Anything,
}

/// Libraries that one crate of ours hides from all others. A name ending in `*` is a prefix.
pub(crate) const SOLE_USERS: [(&[&str], &[&str]); 5] = [
    // The benches measure the bare library beside ours, in the same run.
    (&["iceoryx2*"], &["embedring-ipc", "embedring-benches"]),
    // What processes share; and, for weights, pages of this process alone.
    (&["memmap2"], &["embedring-ipc", "embedring-kernels"]),
    (&["candle*", "tokenizers"], &["embedring-model"]),
    (&["hf-hub", "zip"], &["embedring-store"]),
    (&["lightgbm3*", "xgb*"], &["embedring-learned"]),
];

/// The package that applications link: its tree stays small, and free of native code.
pub(crate) const SMALL: &str = "embedring-client";

/// What may not be anywhere in the tree of [`SMALL`], build scripts included: inference, and what
/// compiles or links C++. (`cc` and `bindgen` are there, by iceoryx2, for a platform that is not
/// ours; on Linux its build script calls neither.)
pub(crate) const NOT_IN_SMALL: [&str; 14] = [
    "candle*",
    "cmake",
    "cudarc",
    "cxx*",
    "esaxx-rs",
    "gemm*",
    "hf-hub",
    "lightgbm3*",
    "link-cplusplus",
    "onig*",
    "ort*",
    "tokenizers",
    "xgb*",
    "xgboost*",
];

/// Checks the repository against all rules and lists what breaks them.
pub(crate) fn tidy() -> Result<()> {
    let mut broken = graph::check(&metadata(false)?)?;
    let files = text::files(root())?;
    for file in &files {
        broken.extend(text::check_file(file));
    }
    broken.extend(text::check_readmes(root(), &metadata(true)?)?);
    for line in &broken {
        println!("tidy: {line}");
    }
    if !broken.is_empty() {
        bail!("tidy: {} rule(s) broken", broken.len());
    }
    println!(
        "tidy: {} text files and the crate graph keep the rules",
        files.len()
    );
    Ok(())
}

/// Whether `name` is meant by `pattern`, which ends in `*` when it is a prefix.
pub(crate) fn named_by(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

//! `test`: set up, then every test of the workspace, with the variables that the tests read.

use std::process::Command;

use anyhow::Result;

use crate::cuda::EMULATION;
use crate::learned::FEATURES;
use crate::run::{cargo, root, run, step, works};
use crate::setup::{Profile, Ready, setup};

/// Sets up and runs all tests; `args` go to the test runner.
pub(crate) fn test(args: &[String]) -> Result<()> {
    // The profile of the tests themselves, so that what both need is compiled once.
    let ready = setup(Profile::Dev)?;
    let features = format!("{EMULATION},{FEATURES}");
    if !works(cargo().args(["nextest", "--version"])) {
        println!("cargo-nextest is not installed: using cargo test");
        return step("test: all", || {
            run(with_env(
                cargo().args(["test", "--workspace", "--features", &features]),
                &ready,
            )
            .arg("--")
            .args(args))
        });
    }
    if args.is_empty() {
        // Apart, so that the binary that the others start does without the shared library; LightGBM is among
        // the others, and would be compiled once more here.
        step("test: XGBoost", || {
            run(cargo().args([
                "nextest",
                "run",
                "--package",
                "embedring-learned",
                "--features",
                "xgboost",
            ]))
        })?;
    }
    // The doc tests first, so that the summary of all the others closes the output; whichever
    // fails, both have run.
    let doc_tests = if args.is_empty() {
        step("test: doc tests", || {
            run(with_env(
                cargo().args(["test", "--doc", "--workspace", "--features", FEATURES]),
                &ready,
            ))
        })
    } else {
        println!("doc tests left out: the runner was given arguments");
        Ok(())
    };
    step("test: all but doc tests", || {
        run(with_env(
            cargo().args(["nextest", "run", "--workspace", "--features", &features]),
            &ready,
        )
        .args(args))
    })?;
    doc_tests
}

fn with_env<'a>(command: &'a mut Command, ready: &Ready) -> &'a mut Command {
    command
        .env("EMBEDRING_TEST_MODELS", &ready.models)
        .env("EMBEDRING_BIN", &ready.binary);
    let data = root().join("../shared/data");
    if std::env::var_os("EMBEDRING_DATA").is_none() && data.is_dir() {
        command.env("EMBEDRING_DATA", data.canonicalize().unwrap_or(data));
    }
    command
}

//! What LightGBM and XGBoost are built with, in a folder of the checkout.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::packages;
use crate::run::{command, output, root, run};

/// cmake compiles LightGBM, libclang reads both libraries' headers, and the third is XGBoost itself.
/// LightGBM's build asks for a cmake newer than Debian's, and not for one that has dropped its old rules.
const PACKAGES: [&str; 3] = ["cmake==3.31.10", "libclang==18.1.1", "xgboost-cpu==3.2.0"];

/// Where it goes; `.cargo/config.toml` points there.
const FOLDER: &str = ".venv/learned";

/// What the binary is built with. LightGBM is compiled in; XGBoost would be a shared library in the checkout, and a
/// binary that is copied elsewhere, or started by a user who can not read the checkout, would not start.
pub(crate) const FEATURES: &str = "embedring/lightgbm,embedring-sim/lightgbm";

/// Installs it, unless it is there.
pub(crate) fn learned_setup() -> Result<()> {
    packages::install(&root().join(FOLDER), &PACKAGES, |folder| {
        // libclang comes without the headers that belong to a compiler, such as stddef.h.
        let headers = output(command("gcc").arg("-print-file-name=include"))?;
        let headers = PathBuf::from(headers.trim());
        std::os::unix::fs::symlink(&headers, folder.join("include"))
            .with_context(|| format!("cannot link {}", headers.display()))?;
        run(command(folder.join("cmake/data/bin/cmake")).arg("--version"))
    })
}

//! Lays XGBoost's library where `cargo run` and `cargo test` look for it, and tells build scripts of
//! binaries where it is.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Name of the library, and where under the folder above it the wheel has what it needs itself.
const LIBRARY: &str = "libxgboost.so";
const BESIDE: &str = "xgboost_cpu.libs";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=XGBOOST_LIB_DIR");
    if env::var_os("CARGO_FEATURE_XGBOOST").is_none() {
        return;
    }
    // Set by `.cargo/config.toml` when by nobody else. Without it the library's own crate would fetch one.
    let folder = PathBuf::from(env::var_os("XGBOOST_LIB_DIR").unwrap_or_default());
    let library = folder.join(LIBRARY);
    assert!(
        library.is_file(),
        "no {}: run `cargo xtask learned-setup`, or name its folder in XGBOOST_LIB_DIR",
        library.display()
    );
    println!("cargo::rerun-if-changed={}", library.display());
    println!("cargo::metadata=xgboost_dir={}", folder.display());
    match copied(&folder) {
        // Only folders in the target folder are known to `cargo run` and `cargo test` as places of libraries.
        Ok(copy) => println!("cargo::rustc-link-search=native={}", copy.display()),
        Err(error) => panic!("cannot copy {}: {error}", library.display()),
    }
}

fn copied(folder: &Path) -> io::Result<PathBuf> {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let copy = out.join("xgboost/lib");
    copy_file(&folder.join(LIBRARY), &copy.join(LIBRARY))?;
    let beside = folder.join("../..").join(BESIDE);
    if beside.is_dir() {
        for entry in fs::read_dir(beside)? {
            let entry = entry?;
            copy_file(&entry.path(), &out.join(BESIDE).join(entry.file_name()))?;
        }
    }
    Ok(copy)
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to).map(|_| ())
}

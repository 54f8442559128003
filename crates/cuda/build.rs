//! Compiles the kernels: with nvcc into an image for GPUs (feature `gpu`), with the C++ compiler into
//! a library that emulates one (feature `emulation`).

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compute capabilities with machine code of their own; 9.0 with what only it has (`a`). Later ones compile
/// PTX at load.
const ARCHITECTURES: [&str; 4] = ["80", "86", "89", "90a"];
const PTX: &str = "90";

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=EMBEDRING_NVCC");
    if env::var_os("CARGO_FEATURE_GPU").is_some() {
        image();
    }
    #[cfg(feature = "emulation")]
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .file("kernels/emulation.cpp")
        .flag_if_supported("-Wno-unknown-pragmas")
        // It warns of getcontext as if that could return twice here.
        .flag_if_supported("-Wno-clobbered")
        .compile("emulated_kernels");
}

fn image() {
    let out = Path::new(&env::var_os("OUT_DIR").expect("cargo sets it")).join("kernels.fatbin");
    let mut command = Command::new(nvcc());
    command.args(["--fatbin", "-std=c++17", "-O3", "--threads", "2"]);
    for architecture in ARCHITECTURES {
        command.arg(format!(
            "-gencode=arch=compute_{architecture},code=sm_{architecture}"
        ));
    }
    command.arg(format!("-gencode=arch=compute_{PTX},code=compute_{PTX}"));
    command.arg("-o").arg(&out).arg("kernels/kernels.cu");
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("nvcc ended with {status}"),
        Err(error) => panic!(
            "cannot run nvcc ({error}): `cargo xtask cuda-setup` installs one; EMBEDRING_NVCC names another"
        ),
    }
}

/// `EMBEDRING_NVCC`, or the one that `cargo xtask cuda-setup` installed, or that of the PATH.
fn nvcc() -> PathBuf {
    if let Some(path) = env::var_os("EMBEDRING_NVCC") {
        return PathBuf::from(path);
    }
    let here = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let installed = Path::new(&here).join("../../.venv/cuda/nvidia/cu13/bin/nvcc");
    if installed.exists() {
        return installed;
    }
    PathBuf::from("nvcc")
}

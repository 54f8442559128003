//! `cuda-setup` and `test --cuda-check`: the GPU backend on a machine without a GPU or a toolkit.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::packages;
use crate::run::{cargo, command, root, run, step, target_dir};
use crate::setup::{Profile, setup};

/// What compiles the kernels, as packages of the Python registry. Not newer than 13.0: a driver of the
/// 580 series does not compile the PTX of later ones.
const COMPILER: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-runtime==13.0.96",
];

/// Where it goes; `crates/cuda/build.rs` looks there.
const FOLDER: &str = ".venv/cuda";

/// The features that need nvcc, and those that need only a C++ compiler.
const GPU: &str = "embedring-cuda/gpu,embedring-model/cuda,embedring-gpu-bench/cuda";
pub(crate) const EMULATION: &str = "embedring-cuda/emulation,embedring-model/emulated-cuda";

/// The crates that have them.
const CRATES: [&str; 6] = [
    "-p",
    "embedring-cuda",
    "-p",
    "embedring-model",
    "-p",
    "embedring-gpu-bench",
];

/// Installs the compiler, unless it is there.
pub(crate) fn cuda_setup() -> Result<()> {
    packages::install(&root().join(FOLDER), &COMPILER, |folder| {
        let toolkit = folder.join("nvidia/cu13");
        let lib64 = toolkit.join("lib64");
        if !lib64.exists() {
            std::os::unix::fs::symlink("lib", &lib64)
                .with_context(|| format!("cannot link {}", lib64.display()))?;
        }
        run(command(toolkit.join("bin/nvcc")).arg("--version"))
    })
}

/// Compiles, lints and links the GPU backend, and runs its kernels on the emulated device.
pub(crate) fn cuda_check() -> Result<()> {
    step("cuda: compiler", cuda_setup)?;
    step("cuda: lint", || {
        run(cargo()
            .args(["clippy", "--all-targets", "--features", GPU])
            .args(CRATES)
            .args(["--", "-D", "warnings"]))
    })?;
    step("cuda: link", || build(&["--profile", "dev"]).map(|_| ()))?;
    step("cuda: kernels on the emulated device", || {
        run(cargo()
            .args(["test", "--features", EMULATION, "-p", "embedring-cuda"])
            .args(["-p", "embedring-model", "emulated"]))
    })
}

/// Builds `gpu-bench`; returns the folder of the profile.
fn build(profile: &[&str]) -> Result<PathBuf> {
    run(cargo()
        .arg("build")
        .args(profile)
        .args(["-p", "embedring-gpu-bench", "--features"])
        .arg("embedring-gpu-bench/cuda"))?;
    target_dir()
}

/// Packs the folder that measures on a machine with a GPU.
pub(crate) fn gpu_folder(args: &[String]) -> Result<()> {
    step("bench gpu-folder: compiler", cuda_setup)?;
    let ready = setup(Profile::Release)?;
    let target = step("bench gpu-folder: build", || build(&["--release"]))?;
    let binary = target.join("release/gpu-bench");
    let small = target.join("release/gpu-bench.stripped");
    run(command("strip").arg("-o").arg(&small).arg(&binary))?;
    let Some(data) = std::env::var_os("EMBEDRING_DATA") else {
        bail!("EMBEDRING_DATA names no folder of texts");
    };
    step("bench gpu-folder: pack", || {
        run(command("python3")
            .arg("benches/gpu/pack.py")
            .arg("--binary")
            .arg(&small)
            .arg("--model")
            .arg(ready.models.join("all-MiniLM-L6-v2"))
            .arg("--data")
            .arg(&data)
            .args(["--out", "benches/gpu/folder"])
            .args(args))
    })
}

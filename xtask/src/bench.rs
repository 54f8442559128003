//! `bench`: runs what lies in `benches/`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::learned::learned_setup;
use crate::run::{cargo, command, output, root, run, step, target_dir};
use crate::setup::{Profile, setup};

/// The benches that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bench {
    /// Real workers under load, by each batch policy: ours beside what others do (an hour and a half on a quiet machine;
    /// minutes with `--quick`, which proves only that it works).
    Load,
    /// Speed, accuracy and memory beside ONNX Runtime, OpenVINO, PyTorch and sentence-transformers,
    /// in a private Python environment under `.venv/peers` (about 7 GB: the registry's PyTorch
    /// needs its GPU libraries even where there is no GPU).
    Peers,
    /// Models of batch time: the analytic one beside LightGBM and XGBoost, simulated and on recorded
    /// batches (minutes; seconds with `--quick`).
    Models,
    /// Two simulated devices as real processes: the load that the pool carries beside each alone.
    Pool,
    /// Round trips through the rings beside bare iceoryx2 and a Unix socket.
    Ring,
    /// What the scheduler takes of a core at a thousand batches a second.
    Scheduler,
    /// Simulated devices under load: our schedule beside what others do (a minute with `--quick`).
    Sim,
    /// Packs `benches/gpu/folder`, which measures beside PyTorch on a machine with a GPU that has
    /// neither Rust nor a network.
    GpuFolder,
}

/// Runs one bench; `args` are its own.
pub(crate) fn bench(bench: Bench, args: &[String]) -> Result<()> {
    match bench {
        Bench::Load => load(args),
        Bench::Peers => peers(args),
        Bench::Pool => {
            run(cargo().args(["build", "--release", "--bin", "embedring"]))?;
            let mut all = vec!["--bin".to_owned()];
            let embedring = target_dir()?.join("release/embedring");
            all.push(embedring.display().to_string());
            all.extend_from_slice(args);
            binary("embedring-benches", "pool", &all)
        }
        Bench::Models => models(args),
        Bench::Ring => binary("embedring-benches", "ring", args),
        Bench::Scheduler => binary("embedring-benches", "scheduler", args),
        Bench::Sim => binary("embedring-sim", "embedring-sim", args),
        Bench::GpuFolder => crate::cuda::gpu_folder(args),
    }
}

fn models(args: &[String]) -> Result<()> {
    step("bench models: LightGBM and XGBoost", learned_setup)?;
    run(cargo()
        .args(["run", "--release", "-p", "embedring-sim", "--features"])
        .arg("lightgbm,xgboost")
        .args(["--", "models"])
        .args(args))
}

fn binary(package: &str, name: &str, args: &[String]) -> Result<()> {
    run(cargo()
        .args(["run", "--release", "-p", package, "--bin", name, "--"])
        .args(args))
}

fn load(args: &[String]) -> Result<()> {
    let ready = setup(Profile::Release)?;
    run(cargo()
        .args([
            "run",
            "--release",
            "-p",
            "embedring-benches",
            "--bin",
            "load",
            "--",
        ])
        .arg("--bin")
        .arg(&ready.binary)
        .arg("--command")
        .arg(format!("cargo xtask bench load {}", args.join(" ")).trim_end())
        .args(args))
}

fn peers(args: &[String]) -> Result<()> {
    let python = step("bench peers: private environment", private_python)?;
    let ready = setup(Profile::Release)?;
    let [engine, client] = step("bench peers: build the engine", build_peers)?;
    step("bench peers: run", || {
        run(command(&python)
            .arg("benches/peers/peers.py")
            .arg("--bin")
            .arg(&ready.binary)
            .arg("--engine-bin")
            .arg(&engine)
            .arg("--client-bin")
            .arg(&client)
            .arg("--model-dir")
            .arg(ready.models.join("all-MiniLM-L6-v2"))
            .arg("--command")
            .arg(format!("cargo xtask bench peers {}", args.join(" ")).trim_end())
            .args(args))
    })
}

/// Our engine, and a client of an instance, as processes that the driver can talk to.
fn build_peers() -> Result<[PathBuf; 2]> {
    let names = ["engine", "client"];
    run(cargo()
        .args(["build", "--release", "-p", "embedring-benches"])
        .args(names.map(|name| format!("--bin={name}"))))?;
    let release = target_dir()?.join("release");
    let binaries = names.map(|name| release.join(name));
    if let Some(missing) = binaries.iter().find(|binary| !binary.is_file()) {
        bail!("cargo built no {}", missing.display());
    }
    Ok(binaries)
}

/// The Python of `.venv/peers` with the pinned packages in it; a copy of the pinned list beside it
/// says for which list it was made.
fn private_python() -> Result<PathBuf> {
    let folder = root().join(".venv/peers");
    let python = folder.join("bin/python");
    let pinned = std::fs::read_to_string(root().join("benches/peers/requirements.txt"))
        .context("cannot read benches/peers/requirements.txt")?;
    let stamp = folder.join("installed-requirements.txt");
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|made| made == pinned) {
        println!("{} is up to date", folder.display());
        return Ok(python);
    }
    println!("installing the pinned packages into {}", folder.display());
    run(command("python3").args(["-m", "venv"]).arg(&folder))
        .context("no private Python environment; on Debian: sudo apt-get install python3-venv")?;
    run(command(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "-r",
        "benches/peers/requirements.txt",
    ]))?;
    output(command(&python).args(["-c", "import onnx, onnxruntime, openvino, torch"]))
        .with_context(|| format!("{} lacks a library; delete it", folder.display()))?;
    std::fs::write(&stamp, pinned).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

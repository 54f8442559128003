//! `setup` and `demo`: from a fresh checkout to a binary and models that are ready to use.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::learned::{FEATURES, learned_setup};
use crate::run::{cargo, command, output, run, seconds, step, target_dir, timed, works};

/// The models that the demo and the tests use: the real one, and a small one for quick tests.
const MODELS: [&str; 2] = ["all-MiniLM-L6-v2", "tiny-bert"];

/// How the binary is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Our crates barely optimised, what they stand on fully: quick to rebuild, for the tests.
    Dev,
    /// Everything optimised, for use.
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }

    /// The folder under the target folder; cargo calls that of `dev` otherwise.
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// What a set-up left behind.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The built `embedring`.
    pub(crate) binary: PathBuf,
    /// The folder that holds one folder for each of [`MODELS`].
    pub(crate) models: PathBuf,
}

/// Does all that a fresh checkout needs, or finds that it is done already.
pub(crate) fn setup(profile: Profile) -> Result<Ready> {
    let (ready, took) = timed(|| steps(profile));
    let ready = ready?;
    println!("setup: binary at {}", ready.binary.display());
    println!("setup: models in {}", ready.models.display());
    println!("setup: ready after {}", seconds(took));
    Ok(ready)
}

/// Sets up, then becomes `embedring demo`.
pub(crate) fn demo(files: &[PathBuf]) -> Result<()> {
    for file in files {
        // Before minutes of compiling, not after.
        std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    let ready = setup(Profile::Release)?;
    println!("==> embedring demo");
    let mut demo = command(&ready.binary);
    // In the caller's folder, since the files are named from there.
    demo.current_dir(std::env::current_dir().context("no current folder")?);
    let error = demo.arg("demo").args(files).exec();
    Err(error).with_context(|| format!("could not start {}", ready.binary.display()))
}

fn steps(profile: Profile) -> Result<Ready> {
    step("setup: tools", check_tools)?;
    step("setup: LightGBM and XGBoost", learned_setup)?;
    let binary = step("setup: build embedring", || build(profile))?;
    let models = step("setup: models", || pull_models(&binary))?;
    Ok(Ready { binary, models })
}

/// A program that must be there, how to see that it works, and the Debian package that brings it.
struct Tool {
    name: &'static str,
    probe: &'static [&'static str],
    package: &'static str,
}

/// rustc is not among them: this program was compiled by it.
const TOOLS: [Tool; 5] = [
    Tool {
        name: "a C compiler",
        probe: &["cc", "--version"],
        package: "gcc libc6-dev",
    },
    Tool {
        name: "a C++ compiler",
        probe: &["c++", "--version"],
        package: "g++",
    },
    Tool {
        name: "make",
        probe: &["make", "--version"],
        package: "make",
    },
    Tool {
        name: "python3",
        probe: &["python3", "--version"],
        package: "python3",
    },
    Tool {
        name: "pip",
        probe: &["python3", "-m", "pip", "--version"],
        package: "python3-pip",
    },
];

fn check_tools() -> Result<()> {
    let version = output(command("rustc").arg("--version"))?;
    println!("rustc: {}", version.trim());
    let missing = missing_tools();
    if missing.is_empty() {
        println!("C and C++ compilers, make, python3 and pip: there");
        return Ok(());
    }
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|tool| tool.package.split_whitespace())
        .collect();
    let names: Vec<&str> = missing.iter().map(|tool| tool.name).collect();
    let names = names.join(", ");
    if !is_root()? || !works(command("apt-get").arg("--version")) {
        bail!(
            "missing: {names}; on Debian: sudo apt-get install {}",
            packages.join(" ")
        );
    }
    println!(
        "missing: {names}; installing {} with apt-get",
        packages.join(" ")
    );
    run(command("apt-get").args(["update", "-q"]))?;
    run(command("apt-get")
        .args(["install", "-q", "-y", "--no-install-recommends"])
        .args(&packages)
        .env("DEBIAN_FRONTEND", "noninteractive"))?;
    match missing_tools().as_slice() {
        [] => Ok(()),
        [tool, ..] => bail!("still missing after the installation: {}", tool.name),
    }
}

fn missing_tools() -> Vec<&'static Tool> {
    TOOLS
        .iter()
        .filter(|tool| !works(command(tool.probe[0]).args(&tool.probe[1..])))
        .collect()
}

fn is_root() -> Result<bool> {
    Ok(output(command("id").arg("-u"))?.trim() == "0")
}

fn build(profile: Profile) -> Result<PathBuf> {
    let mut build = cargo();
    build.args([
        "build",
        "--workspace",
        "--bin",
        "embedring",
        "--profile",
        profile.name(),
        "--features",
        FEATURES,
    ]);
    if profile == Profile::Dev {
        // The tests will be wanted next, and their dependencies switch on features of others' (as
        // proptest does in getrandom): built apart, candle and what stands on it compile twice.
        build.arg("--tests");
    }
    run(&mut build)?;
    let binary = target_dir()?.join(profile.folder()).join("embedring");
    if !binary.is_file() {
        bail!("cargo built no {}", binary.display());
    }
    Ok(binary)
}

fn pull_models(binary: &Path) -> Result<PathBuf> {
    let mut folders = Vec::new();
    for model in MODELS {
        // The binary decides whether there is anything to fetch, and says what it does.
        run(command(binary).args(["model", "pull", model]))?;
        let path = output(command(binary).args(["model", "path", model]))?;
        folders.push((model, PathBuf::from(path.trim_end_matches('\n'))));
    }
    common_folder(&folders)
}

/// The one folder in which each model lies under its own name.
fn common_folder(models: &[(&str, PathBuf)]) -> Result<PathBuf> {
    let mut found: Option<&Path> = None;
    for (model, path) in models {
        if path.file_name().is_none_or(|name| name != *model) {
            bail!(
                "model {model} lies at {}, not in a folder of its name",
                path.display()
            );
        }
        let parent = path
            .parent()
            .with_context(|| format!("{} has no parent", path.display()))?;
        if found.is_some_and(|other| other != parent) {
            bail!(
                "the models lie in several folders, one of them {}",
                parent.display()
            );
        }
        found = Some(parent);
    }
    found.map(Path::to_owned).context("no model named")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[(&str, &str)], expected: Result<&str, &str>) {
        let models: Vec<(&str, PathBuf)> = paths
            .iter()
            .map(|(model, path)| (*model, PathBuf::from(path)))
            .collect();
        match (common_folder(&models), expected) {
            (Ok(folder), Ok(expected)) => assert_eq!(folder, Path::new(expected)),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expected) => panic!("got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn models_lie_side_by_side_under_their_names() {
        check(&[("a", "/m/a"), ("b", "/m/b")], Ok("/m"));
        check(&[("a", "/m/a"), ("b", "/n/b")], Err("several folders"));
        check(&[("a", "/m/0123")], Err("not in a folder of its name"));
        check(&[("a", "")], Err("not in a folder of its name"));
        check(&[], Err("no model"));
    }
}

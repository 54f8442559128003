//! The project's chores, as one program that needs nothing but Rust: `cargo xtask --help`.
//!
//! Set-up, tests, the gate of CI and the benches are Rust and not shell, because they decide things
//! (what is missing, what may depend on what) and those decisions have tests of their own. It links
//! nothing of the project: it has to run when the project does not compile.
//!
//! ```text
//! cargo xtask demo          set up, then run the main job on real sentences
//! cargo xtask test          set up, then every test
//! cargo xtask ci            the cheap gate, then everything CI runs
//! ```
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "a program for people at a terminal: what it does is its output"
)]

mod bench;
mod ci;
mod cuda;
mod learned;
mod packages;
mod run;
mod setup;
mod suite;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::setup::Profile;

/// Set-up, demo, tests, checks and benches of embedring.
///
/// Every step says what it runs before it runs it. Nothing is installed outside the checkout, the
/// cargo home and the model cache, except Debian packages that are missing when run as root.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the tools, build `embedring`, fetch the models.
    ///
    /// Safe to run again: what is already there is left alone. Checks rustc, C and C++ compilers and
    /// python3 with pip (as root on Debian the missing ones are installed with apt-get, otherwise
    /// the command to run is printed), installs what LightGBM and XGBoost are built with, builds the `embedring` binary into the target folder and
    /// runs `embedring model pull` for each model that the demo and the tests use.
    Setup {
        /// Build profile of the binary: `release` for use, `dev` for the tests.
        #[arg(long, value_enum, default_value_t = Profile::Release)]
        profile: Profile,
    },
    /// Set up, then run the main job: several processes, real sentences, real vectors.
    ///
    /// Runs `cargo xtask setup --profile release`, then `embedring demo FILE...` in its place, so
    /// its output, its signals and its exit code are the demo's own.
    Demo {
        /// Text files whose lines are embedded beside the sentences of the repository.
        files: Vec<PathBuf>,
    },
    /// Set up, then run all tests of the workspace.
    ///
    /// Runs `cargo xtask setup --profile dev`, then `cargo nextest run --workspace` and the doc
    /// tests; without cargo-nextest, `cargo test --workspace`. The tests find the models by
    /// `EMBEDRING_TEST_MODELS`, the binary by `EMBEDRING_BIN` and the data by `EMBEDRING_DATA`,
    /// all set here; an `EMBEDRING_DATA` that is set already is kept.
    Test {
        /// Compile, lint and link the GPU backend instead (no GPU is needed; nvcc is installed into
        /// `.venv/cuda`), and run its kernels on the emulated device.
        #[arg(long)]
        cuda_check: bool,
        /// Arguments for the test runner, such as a filter; with any, the doc tests are left out.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Install nvcc into `.venv/cuda`, for the GPU backend.
    ///
    /// The packages come from the Python registry, 600 MB; neither a GPU nor a driver is needed.
    CudaSetup,
    /// Install what LightGBM and XGBoost are built with into `.venv/learned`.
    ///
    /// The packages come from the Python registry, 160 MB unpacked. `setup`, `test` and `ci` do it too.
    LearnedSetup,
    /// Everything that CI runs, the cheap gate first.
    ///
    /// Gate: fmt, clippy, tidy, docs; all four report, and a failure in any ends the run there.
    /// Then the tests, a smoke run of each fuzz target, Miri over the protocol, and the licence
    /// check; what needs a tool that is not installed says `skipped: not installed`.
    Ci,
    /// Hold the repository against its own rules.
    ///
    /// Which crate may use which, who alone may use a library, what the client's dependency tree
    /// may hold, lengths of files and READMEs, paths of one machine, host names of registries,
    /// unfinished code and switched-off tests.
    Tidy,
    /// Run a bench: `peers` (speed and vectors beside other engines), `load` (real workers under load),
    /// `models` (of batch time), `ring` (round trips), `scheduler` (its share of a core), `sim` (schedules under load,
    /// simulated) or `gpu-folder` (packs what measures on a GPU).
    Bench {
        /// Which bench.
        #[arg(value_enum)]
        name: bench::Bench,
        /// Arguments for the bench itself; `-- --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup { profile } => setup::setup(profile).map(|_| ()),
        Command::Demo { files } => setup::demo(&files),
        Command::Test {
            cuda_check: true, ..
        } => cuda::cuda_check(),
        Command::Test { args, .. } => suite::test(&args),
        Command::CudaSetup => cuda::cuda_setup(),
        Command::LearnedSetup => learned::learned_setup(),
        Command::Ci => ci::ci(),
        Command::Tidy => tidy::tidy(),
        Command::Bench { name, args } => bench::bench(name, &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

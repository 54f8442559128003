//! `embedring check-config`: what would go wrong, said before it does.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::context::{Context, init_log, scheduler_options, worker_options};

/// Check the configuration and what it refers to.
///
/// Reads the file, the environment and the flags as every other subcommand does, and looks whether
/// the model and the shared-memory directory are there. Starts nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the effective configuration as a file
    #[arg(long)]
    show: bool,
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    let config = context.config()?;
    init_log(&config, "check-config")?;
    if args.show {
        write!(std::io::stdout(), "{}", config.to_toml()).context("write to stdout")?;
    }
    if !config.runtime.dir.is_dir() {
        bail!(
            "runtime.dir: {} is no directory",
            config.runtime.dir.display()
        );
    }
    for name in config.workers.keys() {
        worker_options(&config, name).with_context(|| format!("worker '{name}'"))?;
    }
    scheduler_options(&config)?;
    if !args.show {
        let source = config.source.as_ref().map_or_else(
            || "no file, defaults and environment".to_owned(),
            |path| path.display().to_string(),
        );
        writeln!(std::io::stdout(), "ok ({source})").context("write to stdout")?;
    }
    Ok(ExitCode::SUCCESS)
}

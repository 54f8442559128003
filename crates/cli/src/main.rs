//! The `embedring` binary. See `README.md` beside `Cargo.toml` for the way through it.
#![forbid(unsafe_code)]

mod ab;
mod bench;
mod check_config;
mod context;
mod demo;
mod down;
mod embed;
mod model;
#[cfg(test)]
mod reference;
mod roles;
mod status;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::context::Context;

/// Text embeddings for every process on a host, from one warm model, over shared-memory rings.
#[derive(Debug, Parser)]
#[command(
    name = "embedring",
    version,
    about,
    max_term_width = 100,
    propagate_version = true
)]
struct Cli {
    /// Installation to use; separates several on one host
    #[arg(long, global = true, value_name = "NAME", env = "EMBEDRING_INSTANCE")]
    instance: Option<String>,

    /// Configuration file [default: $XDG_CONFIG_HOME/embedring/config.toml, /etc/embedring/config.toml]
    #[arg(long, global = true, value_name = "PATH", env = "EMBEDRING_CONFIG")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // What each is for is said at its arguments: words here would hide the long ones there.
    Up(up::Args),
    Down(down::Args),
    Embed(embed::Args),
    Status(status::Args),
    Ab(ab::Args),
    Demo(demo::Args),
    Model(model::Args),
    Bench(bench::Args),
    CheckConfig(check_config::Args),
    Worker(roles::WorkerArgs),
    Scheduler(roles::SchedulerArgs),
    /// Print a completion script
    Completions {
        /// Shell to complete in
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = Context::new(cli.instance, cli.config);
    let done = match cli.command {
        Command::Up(args) => up::run(&context, &args),
        Command::Down(args) => down::run(&context, &args),
        Command::Embed(args) => embed::run(&context, &args),
        Command::Status(args) => status::run(&context, &args),
        Command::Ab(args) => ab::run(&context, &args),
        Command::Demo(args) => demo::run(&context, &args),
        Command::Model(args) => model::run(&args),
        Command::Bench(args) => bench::run(&context, &args),
        Command::CheckConfig(args) => check_config::run(&context, &args),
        Command::Worker(args) => roles::worker(&context, &args),
        Command::Scheduler(args) => roles::scheduler(&context, &args),
        Command::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "embedring", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| {
        say(&format!("embedring: {error:#}"));
        ExitCode::FAILURE
    })
}

/// Talk goes to stderr; that nobody reads it is no reason to stop.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn short_help_fits_a_screen() {
        for command in [
            None,
            Some("up"),
            Some("embed"),
            Some("status"),
            Some("demo"),
            Some("worker"),
        ] {
            let mut cli = Cli::command().term_width(100);
            let help = match command {
                None => cli.render_help().to_string(),
                Some(name) => cli
                    .find_subcommand_mut(name)
                    .unwrap()
                    .render_help()
                    .to_string(),
            };
            assert!(help.lines().count() <= 40, "{command:?}:\n{help}");
        }
        let mut cli = Cli::command().term_width(100);
        let bench = cli.find_subcommand_mut("bench").unwrap();
        for name in ["load", "cost-table"] {
            let command = bench.find_subcommand_mut(name).unwrap();
            let help = command.render_help().to_string();
            assert!(help.lines().count() <= 40, "{name}:\n{help}");
        }
    }
}

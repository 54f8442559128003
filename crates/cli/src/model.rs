//! `embedring model`: the model cache.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use embedring_store::{Progress, PullRequest, SourceKind, Store, known};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::say;

/// Get and find models.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch a model into the cache, verified; the only thing that ever downloads
    Pull(Pull),
    /// Show the models in the cache and those known by name
    List {
        /// One JSON array for machines
        #[arg(long)]
        json: bool,
    },
    /// Print the directory of a model in the cache
    Path {
        /// Name of the model
        name: String,
    },
}

/// Fetch a model into the cache, verified; the only thing that ever downloads.
#[derive(Debug, clap::Args)]
struct Pull {
    /// Name of the model: one of `embedring model list`, or ORG/NAME on the Hugging Face hub
    name: String,
    /// Copy from this directory instead
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Sources to try, in order
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "KIND",
        default_value = "local,hub,python"
    )]
    sources: Vec<SourceKind>,
    /// Fetch again although it is there
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let store = Store::from_env()?;
    match &args.command {
        Command::Pull(pull) => run_pull(&store, pull)?,
        Command::List { json } => list(&store, *json)?,
        Command::Path { name } => {
            let path = store.resolve(name)?;
            print(&path.display().to_string())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("write to stdout")
}

/// Steps as lines, bytes as a bar where somebody looks.
struct Talk {
    bar: ProgressBar,
}

impl Talk {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}");
        Self {
            bar: style.map_or(bar.clone(), |style| bar.with_style(style)),
        }
    }
}

impl Progress for Talk {
    fn step(&self, what: &str) {
        self.bar.suspend(|| say(what));
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }
}

fn run_pull(store: &Store, pull: &Pull) -> Result<()> {
    let request = PullRequest {
        name: pull.name.clone(),
        from: pull.from.clone(),
        force: pull.force,
        sources: pull.sources.clone(),
    };
    let talk = Talk::new();
    let pulled = store.pull(&request, &talk);
    talk.bar.finish_and_clear();
    let pulled = pulled?;
    let there = if pulled.already_there {
        "already there, from"
    } else {
        "from"
    };
    say(&format!(
        "{} ({there} {}, {} MB)",
        pull.name,
        pulled.source,
        pulled.bytes / 1_000_000
    ));
    if !pulled.weights_checked {
        say(&format!(
            "the digest of this model's weights is not known to embedring; it is {}",
            pulled.weights_sha256
        ));
    }
    print(&pulled.path.display().to_string())
}

#[derive(Serialize)]
struct Listed {
    name: String,
    path: Option<PathBuf>,
    bytes: u64,
    complete: bool,
    source: Option<String>,
}

fn list(store: &Store, json: bool) -> Result<()> {
    let mut listed: Vec<Listed> = store
        .list()?
        .into_iter()
        .map(|entry| Listed {
            name: entry.name,
            path: Some(entry.path),
            bytes: entry.bytes,
            complete: entry.complete,
            source: entry.source,
        })
        .collect();
    for model in known() {
        if !listed.iter().any(|entry| entry.name == model.name) {
            listed.push(Listed {
                name: model.name.to_owned(),
                path: None,
                bytes: 0,
                complete: false,
                source: None,
            });
        }
    }
    if json {
        return print(&serde_json::to_string(&listed).context("write JSON")?);
    }
    for entry in &listed {
        let line = match &entry.path {
            Some(path) => format!(
                "{}  {} MB  {}  {}",
                entry.name,
                entry.bytes / 1_000_000,
                if entry.complete {
                    "complete"
                } else {
                    "incomplete: pull it again"
                },
                path.display()
            ),
            None => format!(
                "{}  not here: embedring model pull {}",
                entry.name, entry.name
            ),
        };
        print(&line)?;
    }
    Ok(())
}

//! `embedring bench`: what an instance holds under load, and what its batches cost.

mod cost_table;
mod fit;
mod load;
mod report;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::context::Context;

/// Measure a running instance under load, or what the batches of a worker cost.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    // What each is for is said at its arguments: words here would hide the long ones there.
    Load(load::Args),
    CostTable(cost_table::Args),
}

pub(crate) fn run(context: &Context, args: &Args) -> Result<ExitCode> {
    match &args.bench {
        Bench::Load(args) => load::run(context, args),
        Bench::CostTable(args) => cost_table::run(context, args),
    }
}

/// The command of this process, as a result names it.
fn command() -> String {
    let args = std::env::args().skip(1);
    std::iter::once("embedring".to_owned())
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}

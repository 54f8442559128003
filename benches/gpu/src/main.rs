//! Our side of the GPU bench: an encoder on a CUDA device that does what `bench.py` asks, line by line,
//! so that both sides can take turns on one card.
#![cfg_attr(
    feature = "cuda",
    expect(
        clippy::print_stdout,
        reason = "its output is what the other side reads"
    )
)]

use anyhow::Result;
use clap::Parser;

#[cfg(feature = "cuda")]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
mod serve;

/// Encodes token ids on a GPU, as told on standard input.
#[derive(Debug, Parser)]
struct Args {
    /// Folder of the model.
    model_dir: std::path::PathBuf,
    /// f16 or bf16.
    #[arg(long, default_value = "f16")]
    precision: String,
    /// The GPU: its index or UUID.
    #[arg(long, default_value = "0")]
    device: String,
    /// Tokens of a chunk at most [default: as many as fill all multiprocessors].
    #[arg(long)]
    chunk_tokens: Option<usize>,
    /// Chunks under way at a time [default: 2].
    #[arg(long)]
    lanes: Option<usize>,
    /// Size of the tiles of all linear layers, by number [default: the best for each].
    #[arg(long)]
    tile: Option<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    #[cfg(feature = "cuda")]
    return serve::serve(&args);
    #[cfg(not(feature = "cuda"))]
    anyhow::bail!("built without the feature `cuda`: {args:?} has nothing to run on");
}

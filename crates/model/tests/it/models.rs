//! Where real models come from.

use std::path::PathBuf;

use embedring_model::{Backend, CandleCpu, ModelDir, PackedBatch, Tokenizer, TruncationSide};

pub(crate) const MINILM: &str = "all-MiniLM-L6-v2";
pub(crate) const TINY: &str = "tiny-bert";

/// The folder of a real model.
pub(crate) fn path(name: &str) -> PathBuf {
    let setup = "run `cargo xtask setup`, or set EMBEDRING_TEST_MODELS to a folder of models";
    let folder = std::env::var_os("EMBEDRING_TEST_MODELS")
        .unwrap_or_else(|| panic!("no models to test with: {setup}"));
    let path = PathBuf::from(folder).join(name);
    assert!(path.is_dir(), "no model at {}: {setup}", path.display());
    path
}

/// A loaded model with its tokeniser.
pub(crate) struct Loaded {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) backend: CandleCpu,
}

impl Loaded {
    pub(crate) fn new(name: &str, threads: usize) -> Self {
        let dir = ModelDir::open(&path(name)).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        Self {
            tokenizer,
            backend: CandleCpu::load(&dir, threads).unwrap(),
        }
    }

    pub(crate) fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.tokenizer
            .encode("", text, usize::MAX, TruncationSide::Right, false, &mut ids)
            .unwrap();
        ids
    }

    /// The pooled rows of several texts in one batch.
    pub(crate) fn rows(&mut self, texts: &[&str]) -> Vec<Vec<f32>> {
        let sequences: Vec<_> = texts.iter().map(|text| self.encode(text)).collect();
        rows(&mut self.backend, &sequences)
    }
}

/// The pooled rows of several sequences in one batch.
pub(crate) fn rows(backend: &mut impl Backend, sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let hidden = backend.info().hidden;
    let mut offsets = vec![0];
    for sequence in sequences {
        offsets.push(offsets.last().unwrap() + sequence.len());
    }
    let ids = sequences.concat();
    let mut pooled = vec![f32::NAN; sequences.len() * hidden];
    backend
        .run(&PackedBatch::new(&ids, &offsets).unwrap(), &mut pooled)
        .unwrap();
    pooled.chunks_exact(hidden).map(<[f32]>::to_vec).collect()
}

//! Where real models come from, and the backends that run them.

use std::path::PathBuf;

use embedring_model::{
    Backend, CandleCpu, Level, ModelDir, ModelLoadError, PackedBatch, PackedCpu, PackedOptions,
    Precision, PrecisionChoice, Tokenizer, TruncationSide,
};

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

/// A backend to test, in one precision.
pub(crate) struct Tested {
    pub(crate) name: String,
    /// What a number of a pooled, unnormalised row may be off.
    pub(crate) tolerance: f64,
    load: Box<Load>,
}

type Load = dyn Fn(&ModelDir, usize) -> Result<Box<dyn Backend>, ModelLoadError>;

impl Tested {
    fn new<B: Backend + 'static>(
        name: &str,
        tolerance: f64,
        load: impl Fn(&ModelDir, usize) -> Result<B, ModelLoadError> + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            tolerance,
            load: Box::new(move |dir, threads| Ok(Box::new(load(dir, threads)?))),
        }
    }

    /// The model in `dir` on so many threads.
    pub(crate) fn try_load(
        &self,
        dir: &ModelDir,
        threads: usize,
    ) -> Result<Box<dyn Backend>, ModelLoadError> {
        (self.load)(dir, threads)
    }

    pub(crate) fn load(&self, dir: &ModelDir, threads: usize) -> Box<dyn Backend> {
        let backend = self.try_load(dir, threads);
        backend.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// Every backend that runs models; the whole suite runs on each. The first is the reference.
pub(crate) fn backends() -> Vec<Tested> {
    let mut backends = vec![Tested::new("candle", 2e-5, CandleCpu::load)];
    for level in Level::available() {
        for (precision, tolerance) in [
            (Precision::F32, 3e-5),
            (Precision::Bf16, 0.03),
            (Precision::Int8, 0.2),
        ] {
            backends.push(packed(level, precision, tolerance));
        }
    }
    backends
}

fn packed(level: Level, precision: Precision, tolerance: f64) -> Tested {
    let name = format!("packed {precision} {level}");
    Tested::new(&name, tolerance, move |dir, threads| {
        let options = PackedOptions {
            threads,
            pin: false,
            precision: PrecisionChoice::Fixed(precision),
            level,
            survey: false,
        };
        PackedCpu::load(dir, &calibration(dir.info().max_tokens), &options)
    })
}

/// Token ids that every vocabulary of these tests has.
fn calibration(max_tokens: usize) -> Vec<Vec<u32>> {
    (0..40_u32)
        .map(|text| {
            let length = u32::try_from(max_tokens).unwrap().min(1 + text * 5 % 60);
            (0..length).map(|at| (text * 29 + at * 13) % 97).collect()
        })
        .collect()
}

/// A loaded model with its tokeniser.
pub(crate) struct Loaded {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) backend: Box<dyn Backend>,
}

impl Loaded {
    /// On the reference backend.
    pub(crate) fn new(name: &str, threads: usize) -> Self {
        Self::on(&backends()[0], name, threads)
    }

    pub(crate) fn on(tested: &Tested, name: &str, threads: usize) -> Self {
        let dir = ModelDir::open(&path(name)).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        Self {
            tokenizer,
            backend: tested.load(&dir, threads),
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
        rows(&mut *self.backend, &sequences)
    }
}

/// The pooled rows of several sequences in one batch.
pub(crate) fn rows(backend: &mut dyn Backend, sequences: &[Vec<u32>]) -> Vec<Vec<f32>> {
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

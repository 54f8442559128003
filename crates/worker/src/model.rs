//! The model as the worker sees it: a tokeniser and prompts that stay, and a backend whose weights
//! come and go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use embedring_model::{
    AnyTokenizer, Backend, BackendInfo, ByteTokenizer, CandleCpu, Level, LevelError, ModelDir,
    ModelLoadError, ModelOpenError, ModelOverrides, NullBackend, PackedCpu, PackedOptions,
    PrecisionChoice, Survey, TokenizeError, Tokenizer, TokenizerOpenError, calibration_ids,
};
use embedring_protocol::{ModelId, NormalizeOption, Precision, PromptKind};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use thiserror::Error;

use crate::simulated::{CostTableError, Simulated, SimulatedDevice};

/// What a worker serves.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A model directory, run by candle on the CPU.
    Candle {
        /// The directory, in sentence-transformers layout.
        dir: PathBuf,
        /// What the configuration says differently from the directory.
        overrides: ModelOverrides,
        /// Put before each text unless a request says otherwise; `None` for the model's own default.
        default_prompt: Option<String>,
    },
    /// A model directory, run by our own kernels on the CPU.
    Packed {
        /// The directory, in sentence-transformers layout.
        dir: PathBuf,
        /// What the configuration says differently from the directory.
        overrides: ModelOverrides,
        /// Put before each text unless a request says otherwise; `None` for the model's own default.
        default_prompt: Option<String>,
        /// The numbers to compute with. A choice left open is made at the first load and kept.
        precision: PrecisionChoice,
        /// Whether to measure at the first load what the other precisions would gain and lose.
        survey: bool,
        /// Name of the instruction level, one of [`Level::NAMES`]; `None` for the fastest of this
        /// machine.
        kernels: Option<String>,
        /// Whether each computing thread is tied to a core of its own.
        pin_threads: bool,
    },
    /// No model: rows are a cheap function of the bytes.
    Null {
        /// Components of a row.
        hidden: usize,
    },
}

/// Why a model can not be served.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The directory is not one of a model.
    #[error(transparent)]
    Open(#[from] ModelOpenError),
    /// The tokeniser can not be built.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerOpenError),
    /// The weights can not be loaded.
    #[error(transparent)]
    Load(#[from] ModelLoadError),
    /// There are no such instructions, or this machine lacks them.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// The built-in calibration texts can not be cut into tokens.
    #[error("the calibration texts do not fit the model: {0}")]
    Calibration(TokenizeError),
    /// The simulated device has no costs.
    #[error("the costs of the simulated device: {0}")]
    Costs(#[from] CostTableError),
}

/// Tokens a null model takes: as many as the models people use most.
const NULL_TOKENS_MAX: usize = 512;

/// What computes, and what it is made from.
enum Engine {
    Null,
    Candle(ModelDir),
    Packed(ModelDir, PackedOptions),
}

/// A model being served.
pub(crate) struct Served {
    engine: Engine,
    hidden: usize,
    threads: usize,
    /// The cores of this process, where computing threads are tied to single ones of them.
    cores: Option<CpuSet>,
    simulated: Option<SimulatedDevice>,
    /// The device it runs on, as users know it.
    pub(crate) device: String,
    /// Name people know it by.
    pub(crate) name: String,
    /// Digest of its weights.
    pub(crate) id: ModelId,
    /// Tokens of a text at most.
    pub(crate) max_tokens: usize,
    /// Arithmetic of its rows: of every load the same.
    pub(crate) precision: Precision,
    normalize: bool,
    prompts: BTreeMap<String, String>,
    default_prompt: String,
    tokenizer: AnyTokenizer,
}

impl Served {
    /// Opens the model, loads its weights for the first time, and logs what came of it.
    ///
    /// `threads` 0 stands for one per core this process may use.
    pub(crate) fn start(
        source: &ModelSource,
        threads: usize,
        simulated: Option<&SimulatedDevice>,
    ) -> Result<(Self, Box<dyn Backend>), ModelError> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let mut served = Self::open(source, threads)?;
        served.simulated = simulated.cloned();
        let (backend, survey) = served.make()?;
        let info = backend.info();
        served.device.clone_from(&info.device);
        served.precision = match (&served.engine, simulated) {
            // Rows of a pattern, in no arithmetic that a device could have.
            (Engine::Null, Some(_)) => Precision::Simulated,
            (Engine::Null | Engine::Candle(_) | Engine::Packed(..), _) => {
                on_the_wire(info.precision)
            }
        };
        if let Engine::Packed(_, options) = &mut served.engine {
            options.precision = PrecisionChoice::Fixed(info.precision);
            options.survey = false;
        }
        served.log(info, &survey);
        Ok((served, backend))
    }

    /// The precision is not known before the first load.
    fn open(source: &ModelSource, threads: usize) -> Result<Self, ModelError> {
        match source {
            ModelSource::Null { hidden } => Ok(Self {
                engine: Engine::Null,
                hidden: *hidden,
                threads,
                cores: None,
                simulated: None,
                device: String::new(),
                name: "null".to_owned(),
                id: ModelId([0xee; 16]),
                max_tokens: NULL_TOKENS_MAX,
                precision: Precision::F32,
                normalize: true,
                prompts: BTreeMap::new(),
                default_prompt: String::new(),
                tokenizer: AnyTokenizer::Bytes(ByteTokenizer),
            }),
            ModelSource::Candle {
                dir,
                overrides,
                default_prompt,
            } => {
                let dir = ModelDir::open(dir)?.with_overrides(overrides)?;
                Self::of_dir(dir, default_prompt.as_ref(), threads, Engine::Candle)
            }
            ModelSource::Packed {
                dir,
                overrides,
                default_prompt,
                precision,
                survey,
                kernels,
                pin_threads,
            } => {
                let options = PackedOptions {
                    threads,
                    pin: *pin_threads,
                    precision: *precision,
                    level: match kernels {
                        Some(name) => Level::by_name(name)?,
                        None => Level::best(),
                    },
                    survey: *survey,
                };
                let dir = ModelDir::open(dir)?.with_overrides(overrides)?;
                let engine = |dir| Engine::Packed(dir, options);
                let mut served = Self::of_dir(dir, default_prompt.as_ref(), threads, engine)?;
                // Where this fails, loading says why threads can not be tied.
                served.cores = pin_threads.then(|| sched_getaffinity(None).ok()).flatten();
                Ok(served)
            }
        }
    }

    fn of_dir(
        dir: ModelDir,
        default_prompt: Option<&String>,
        threads: usize,
        engine: impl FnOnce(ModelDir) -> Engine,
    ) -> Result<Self, ModelError> {
        let tokenizer = AnyTokenizer::Model(Tokenizer::open(&dir)?);
        let info = dir.info().clone();
        let own_default = info
            .default_prompt
            .as_ref()
            .and_then(|name| info.prompts.get(name));
        let default_prompt = default_prompt.or(own_default).cloned().unwrap_or_default();
        Ok(Self {
            engine: engine(dir),
            hidden: info.hidden,
            threads,
            cores: None,
            simulated: None,
            device: String::new(),
            name: info.name,
            id: ModelId::from_digest(&info.digest),
            max_tokens: info.max_tokens,
            precision: Precision::F32,
            normalize: info.normalize,
            prompts: info.prompts,
            default_prompt,
            tokenizer,
        })
    }

    /// Loads the weights again.
    pub(crate) fn load(&self) -> Result<Box<dyn Backend>, ModelError> {
        Ok(self.make()?.0)
    }

    fn make(&self) -> Result<(Box<dyn Backend>, Survey), ModelError> {
        let (backend, survey) = self.make_engine()?;
        Ok(match &self.simulated {
            None => (backend, survey),
            Some(device) => (Box::new(Simulated::new(device, backend)?), survey),
        })
    }

    fn make_engine(&self) -> Result<(Box<dyn Backend>, Survey), ModelError> {
        Ok(match &self.engine {
            Engine::Null => {
                let backend = NullBackend::new(self.hidden, self.max_tokens);
                (Box::new(backend), Survey::default())
            }
            Engine::Candle(dir) => {
                let backend = CandleCpu::load(dir, self.threads)?;
                (Box::new(backend), Survey::default())
            }
            Engine::Packed(dir, options) => {
                let calibration = match &self.tokenizer {
                    AnyTokenizer::Model(tokenizer) => calibration_ids(tokenizer, self.max_tokens)
                        .map_err(ModelError::Calibration)?,
                    AnyTokenizer::Bytes(_) => Vec::new(),
                };
                // The last load tied this thread to one core, where all would now be tied to it.
                self.untie();
                let backend = PackedCpu::load(dir, &calibration, options)?;
                let survey = backend.survey().clone();
                (Box::new(backend), survey)
            }
        })
    }

    /// Lets the calling thread run on every core of the process, if the thread that loaded the model
    /// was tied to one: threads started by that one are born tied too.
    pub(crate) fn untie(&self) {
        if let Some(Err(error)) = self.cores.map(|cores| sched_setaffinity(None, &cores)) {
            tracing::warn!(%error, "a thread stays tied to one core");
        }
    }

    fn log(&self, info: &BackendInfo, survey: &Survey) {
        const MB: u64 = 1_000_000;
        tracing::info!(
            model = self.name,
            device = info.device,
            precision = self.precision.name(),
            kernels = info.kernels,
            threads = self.threads,
            weights_mb = info.weights_bytes / MB,
            arena_mb = info.arena_bytes / MB,
            "loaded the model"
        );
        let chosen = survey
            .rows
            .iter()
            .find(|row| row.precision == info.precision);
        for row in &survey.rows {
            let gain = chosen.map_or(1.0, |chosen| row.tokens_per_s / chosen.tokens_per_s);
            tracing::info!(
                precision = %row.precision,
                tokens_per_s = row.tokens_per_s.round(),
                gain = (gain * 100.0).round() / 100.0,
                mean_loss = row.loss.mean,
                chosen = row.precision == info.precision,
                "measured a precision on the calibration texts"
            );
        }
    }

    /// Components of a full row.
    pub(crate) fn dimensions(&self) -> usize {
        self.hidden
    }

    /// Threads that compute.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    pub(crate) fn tokenizer(&self) -> &AnyTokenizer {
        &self.tokenizer
    }

    /// Whether rows are normalised.
    pub(crate) fn normalize(&self, option: NormalizeOption) -> bool {
        match option {
            NormalizeOption::Model => self.normalize,
            NormalizeOption::Yes => true,
            NormalizeOption::No => false,
        }
    }

    /// The text to put before each text; `None` for an unknown name.
    pub(crate) fn prompt<'a>(&'a self, kind: PromptKind, prompt: &'a str) -> Option<&'a str> {
        match kind {
            PromptKind::Default => Some(&self.default_prompt),
            PromptKind::Text => Some(prompt),
            PromptKind::Name => self.prompts.get(prompt).map(String::as_str),
        }
    }
}

fn on_the_wire(precision: embedring_model::Precision) -> Precision {
    match precision {
        embedring_model::Precision::F32 => Precision::F32,
        embedring_model::Precision::Bf16 => Precision::Bf16,
        embedring_model::Precision::Int8 => Precision::Int8,
        embedring_model::Precision::F16 => Precision::F16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(precision: PrecisionChoice, kernels: Option<&str>) -> ModelSource {
        let how = "run `cargo xtask setup`, or set EMBEDRING_TEST_MODELS to a folder of models";
        let folder = std::env::var_os("EMBEDRING_TEST_MODELS")
            .unwrap_or_else(|| panic!("no models to test with: {how}"));
        ModelSource::Packed {
            dir: PathBuf::from(folder).join("tiny-bert"),
            overrides: ModelOverrides::default(),
            default_prompt: None,
            precision,
            survey: false,
            kernels: kernels.map(str::to_owned),
            pin_threads: false,
        }
    }

    #[test]
    fn the_precision_served_is_the_one_loaded() {
        for precision in [
            embedring_model::Precision::F32,
            embedring_model::Precision::Bf16,
            embedring_model::Precision::Int8,
        ] {
            let source = tiny(PrecisionChoice::Fixed(precision), Some("portable"));
            let (served, backend) = Served::start(&source, 1, None).unwrap();
            assert_eq!(served.precision, on_the_wire(precision));
            assert_eq!(backend.info().precision, precision);
            assert_eq!(backend.info().kernels, "portable");
        }
    }

    #[test]
    fn a_choice_is_made_once() {
        let source = tiny(PrecisionChoice::Auto { max_loss: 0.1 }, None);
        let (served, first) = Served::start(&source, 1, None).unwrap();
        let (again, survey) = served.make().unwrap();
        assert_eq!(again.info(), first.info());
        assert_eq!(served.precision, on_the_wire(first.info().precision));
        assert!(survey.rows.is_empty(), "measured again: {survey:?}");
    }

    #[test]
    fn an_unknown_level_is_an_error() {
        let source = tiny(
            PrecisionChoice::Fixed(embedring_model::Precision::F32),
            Some("mmx"),
        );
        let error = Served::start(&source, 1, None).err();
        assert!(matches!(error, Some(ModelError::Level(_))), "{error:?}");
    }

    #[test]
    fn a_model_is_loaded_again_on_all_cores() {
        let mut source = tiny(
            PrecisionChoice::Fixed(embedring_model::Precision::F32),
            None,
        );
        if let ModelSource::Packed { pin_threads, .. } = &mut source {
            *pin_threads = true;
        }
        let before = sched_getaffinity(None).unwrap();
        let (served, backend) = Served::start(&source, 1, None).unwrap();
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        drop(backend);
        served.untie();
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}

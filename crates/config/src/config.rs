//! What programs may use: every value present, typed and in range.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::error::ConfigError;
use crate::raw::Raw;
use crate::{check, convert, file, layers};

/// Everything a role of embedring is told, checked.
///
/// The keys, their meaning and their ranges are in `docs/config.md`; fields here have the same
/// names, with times as [`Duration`] and sizes in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name that separates installations on one host.
    pub instance: String,
    /// Where processes meet, and who may.
    pub runtime: Runtime,
    /// Sizes of the rings.
    pub limits: Limits,
    /// The model that all workers serve.
    pub model: Model,
    /// Workers by name; never empty.
    pub workers: BTreeMap<String, Worker>,
    /// The planning process.
    pub scheduler: Scheduler,
    /// What `embedring up` does with its processes.
    pub supervisor: Supervisor,
    /// What goes to stderr.
    pub log: Log,
    /// The file that was read, if any.
    pub source: Option<PathBuf>,
}

/// Where the rings and the board lie, and who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Absolute folder, best on a tmpfs.
    pub dir: PathBuf,
    /// Start of the names of all shared files.
    pub prefix: String,
    /// User whose instance clients connect to; `None`: the current user.
    pub owner: Option<String>,
    /// Group whose members may connect; `None`: only the same user.
    pub group: Option<String>,
}

/// Number and size of slots; every process of an instance must agree on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Clients connected at one time.
    pub clients_max: usize,
    /// Unanswered requests of one client at one worker.
    pub requests_in_flight_max: usize,
    /// Bytes of one message from a client.
    pub request_slot_bytes: usize,
    /// Bytes of one message from a worker; holds at least one row of the widest model.
    pub response_slot_bytes: usize,
}

/// Which model, and what overrides its own settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Name in the model cache, or path of a folder.
    pub name: String,
    /// Tokens read of a text; `None`: the model's own limit.
    pub max_tokens: Option<usize>,
    /// `None`: as the model says.
    pub pooling: Option<PoolingKind>,
    /// `None`: as the model says.
    pub normalize: Option<bool>,
    /// `None`: the model's default prompt; empty: no prompt.
    pub default_prompt: Option<String>,
    /// The numbers to compute with; `f32` wherever a worker's backend has no other.
    pub precision: PrecisionKind,
    /// What [`PrecisionKind::Auto`] may lose: 1 minus the mean cosine to f32.
    pub max_loss: f64,
    /// Whether workers measure at load what the other precisions gain and lose.
    pub survey: bool,
}

/// The numbers that a model is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionKind {
    /// as the model was trained
    F32,
    /// weights in bf16, sums in f32
    Bf16,
    /// weights and activations in bytes, with scales from the built-in calibration texts
    Int8,
    /// the fastest whose loss stays within `max_loss`
    Auto,
}

impl PrecisionKind {
    /// The name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Auto => "auto",
        }
    }
}

/// How the rows of a text's tokens become one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolingKind {
    /// the mean over all tokens
    Mean,
    /// the row of the first token
    Cls,
}

/// One worker: a process with a device of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Device it computes on.
    pub device: Device,
    /// What computes.
    pub backend: BackendKind,
    /// Instructions of the packed backend.
    pub kernels: KernelsKind,
    /// Computing threads; 0: one for each core the process may use.
    pub threads: usize,
    /// Whether each computing thread of the packed backend is tied to a core.
    pub pin_threads: bool,
    /// Resident bytes at which it refuses work and then restarts; 0: no limit.
    pub memory_max_bytes: u64,
    /// Time without requests after which the model is unloaded; zero: never.
    pub idle_unload: Duration,
    /// Texts that may wait.
    pub queue_texts_max: usize,
    /// Tokens that may wait.
    pub queue_tokens_max: usize,
    /// Tokens in one batch.
    pub batch_tokens_max: usize,
    /// Texts in one batch.
    pub batch_texts_max: usize,
    /// Who chooses its batches.
    pub batch_policy: BatchPolicyKind,
    /// What `fixed-size` waits and what a batch of `aimd` may take.
    pub batch_policy_time: Duration,
    /// Tokens of a text that it takes at all; 0: any.
    pub text_tokens_max: usize,
    /// How it waits for requests.
    pub wait: WaitKind,
    /// How long adaptive waiting spins.
    pub spin: Duration,
    /// Row width of the null backend.
    pub null_hidden: usize,
    /// Costs of a simulated device.
    pub simulated: Simulated,
}

/// What batches of a simulated device cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulated {
    /// File with a table of costs, which counts alone; `None`: the costs below.
    pub table: Option<PathBuf>,
    /// Nanoseconds per batch.
    pub batch_ns: u64,
    /// Nanoseconds per token.
    pub token_ns: u64,
    /// Picoseconds per square of a text's tokens.
    pub square_ps: u64,
}

/// What computes the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// our own kernels, without padding
    Packed,
    /// the reference, in f32, slower
    Candle,
    /// rows of a fixed pattern without a model, to measure everything else
    Null,
}

/// Who chooses a worker's batches: ours, or what others do, for comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BatchPolicyKind {
    /// as many requests as can be are in time; the only one to use but for comparisons
    Deadlines,
    /// each request by itself, by arrival
    OneAtATime,
    /// by arrival, when there are `batch_texts_max` texts or after `batch_policy_us`
    FixedSize,
    /// by arrival, up to `batch_tokens_max`
    TokenBudget,
    /// the same, and what is late is dropped
    TokenBudgetExpiry,
    /// all that waits sorted by length, up to `batch_tokens_max` at a time, then the next round
    LengthRounds,
    /// by arrival, as many texts as took no longer than `batch_policy_us` of late
    Aimd,
    /// by arrival, `batch_texts_max` at a time, without those that such a batch would be late for
    EarlyDrop,
    /// by deadline, as many as are predicted to be in time together
    EarliestDeadline,
}

impl BatchPolicyKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Deadlines,
        Self::OneAtATime,
        Self::FixedSize,
        Self::TokenBudget,
        Self::TokenBudgetExpiry,
        Self::LengthRounds,
        Self::Aimd,
        Self::EarlyDrop,
        Self::EarliestDeadline,
    ];
}

impl BackendKind {
    /// The name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Packed => "packed",
            Self::Candle => "candle",
            Self::Null => "null",
        }
    }
}

/// The instructions that the packed backend uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KernelsKind {
    /// the fastest that the processor has
    Auto,
    /// those of every processor
    Portable,
    /// AVX2 and FMA
    Avx2,
    /// AVX2 with VNNI
    Avx2Vnni,
    /// AVX-512 with VNNI
    Avx512,
    /// AVX-512 with VNNI and BF16
    Avx512Bf16,
}

impl KernelsKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Auto,
        Self::Portable,
        Self::Avx2,
        Self::Avx2Vnni,
        Self::Avx512,
        Self::Avx512Bf16,
    ];

    /// The name in the file; `None` for the fastest that the processor has.
    #[must_use]
    pub fn level(self) -> Option<&'static str> {
        match self {
            Self::Auto => None,
            Self::Portable => Some("portable"),
            Self::Avx2 => Some("avx2"),
            Self::Avx2Vnni => Some("avx2-vnni"),
            Self::Avx512 => Some("avx512"),
            Self::Avx512Bf16 => Some("avx512-bf16"),
        }
    }
}

/// How a process waits for the other side of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WaitKind {
    /// a short spin, then block
    Adaptive,
    /// block at once: the least CPU time
    Block,
    /// never block: the least delay, for one core
    Poll,
}

/// The planning process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler {
    /// Time between two plans.
    pub tick: Duration,
    /// Time one batch should take at most.
    pub batch_time_target: Duration,
    /// What predicts how long a batch takes.
    pub time_model: TimeModelKind,
}

/// What predicts how long a batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimeModelKind {
    /// a time per batch, per token and per squared token
    Analytic,
    /// the same, corrected by LightGBM where that was better on later batches
    LightGbm,
    /// the same, corrected by XGBoost where that was better on later batches
    XgBoost,
}

impl TimeModelKind {
    /// The name in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Analytic => "analytic",
            Self::LightGbm => "lightgbm",
            Self::XgBoost => "xgboost",
        }
    }
}

/// What `embedring up` does with its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supervisor {
    /// First pause before a restart.
    pub backoff_min: Duration,
    /// Longest pause before a restart; not below `backoff_min`.
    pub backoff_max: Duration,
    /// Time to stop before a kill.
    pub stop_timeout: Duration,
    /// Time without a heartbeat before a kill.
    pub hang_timeout: Duration,
    /// Time a worker has to serve.
    pub ready_timeout: Duration,
}

/// What goes to stderr.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Level, or filter by module.
    pub level: String,
    /// Form of a line.
    pub format: LogFormat,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// for people
    Text,
    /// one object a line, for journald and collectors
    Json,
}

/// What command line flags say; stronger than the environment and the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--instance NAME`
    pub instance: Option<String>,
    /// `--config PATH`: read this file, and fail if it is not there.
    pub config: Option<PathBuf>,
}

impl Default for Config {
    /// The configuration of an empty file.
    fn default() -> Self {
        convert::from_raw(Raw::default())
    }
}

impl Config {
    /// Reads the file (`--config`, `$EMBEDRING_CONFIG`, `$XDG_CONFIG_HOME/embedring/config.toml`,
    /// `/etc/embedring/config.toml`: the first that is there; none is fine unless it was named),
    /// lays the environment and the flags over it and checks the whole.
    ///
    /// `env` is [`std::env::vars_os`] in programs.
    ///
    /// # Errors
    ///
    /// The first thing found wrong, with its place: see [`ConfigError`].
    pub fn load<I, K, V>(overrides: &Overrides, env: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let env = env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        load_with(overrides, &env, file::SYSTEM_FILE.as_ref())
    }

    /// The effective values as a file that gives the same configuration again.
    pub fn to_toml(&self) -> String {
        convert::to_toml(self)
    }
}

/// [`Config::load`] with the system's file as an argument, for tests on hosts that have one.
pub(crate) fn load_with(
    overrides: &Overrides,
    env: &BTreeMap<OsString, OsString>,
    system_file: &std::path::Path,
) -> Result<Config, ConfigError> {
    let file = file::find(overrides, env, system_file)?;
    let layers = layers::gather(overrides, env, file.as_ref())?;
    let mut config = convert::from_raw(layers.to_raw()?);
    config.source = file.map(|file| file.path);
    check::relations(&config, &layers)?;
    Ok(config)
}

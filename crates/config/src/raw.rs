//! What the file says, key for key.
//!
//! Every key is optional here: an empty file is a valid one. The doc comments are the text of
//! `docs/config.md`; defaults and ranges of numbers are in [`crate::bounds`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::config::{
    BackendKind, BatchPolicyKind, KernelsKind, LogFormat, PoolingKind, PrecisionKind,
    TimeModelKind, WaitKind,
};

/// One configuration file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Raw {
    /// Name of this installation. Two instances on one host don't meet: each has its own rings,
    /// board and workers. The flag `--instance` is stronger.
    pub(crate) instance: Option<String>,
    /// Where the rings and the board lie, and who may connect to them.
    pub(crate) runtime: RawRuntime,
    /// How many clients and how large their messages: the shared memory of a ring is its slots
    /// times their size, taken at start. All processes of an instance must agree on these.
    pub(crate) limits: RawLimits,
    /// The model that the workers serve. What is unset is taken from the model's own files.
    pub(crate) model: RawModel,
    /// One table for each worker, by its name (up to 16 of `a-z`, `0-9`, `_` and `-`; at most 16
    /// workers). If neither the file nor the environment names one, there is one called `cpu`.
    pub(crate) workers: BTreeMap<String, RawWorker>,
    /// The process that watches the workers and publishes the plan.
    pub(crate) scheduler: RawScheduler,
    /// How `embedring up` starts, watches and stops the other processes.
    pub(crate) supervisor: RawSupervisor,
    /// What goes to stderr.
    pub(crate) log: RawLog,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawRuntime {
    /// Folder for everything that processes share. Use a tmpfs: on a disk,
    /// the kernel would write the rings back to it.
    pub(crate) dir: Option<String>,
    /// Start of the names of all shared files.
    pub(crate) prefix: Option<String>,
    /// User whose instance the clients of this host connect to. Unset or empty: the user who runs
    /// the client.
    pub(crate) owner: Option<String>,
    /// Group whose members may connect. Unset or empty: only the user who runs the instance.
    pub(crate) group: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawLimits {
    /// Clients that may be connected at one time. The next one is refused with an error.
    pub(crate) clients_max: Option<u64>,
    /// Requests that one client may have unanswered at one worker.
    pub(crate) requests_in_flight_max: Option<u64>,
    /// Size of one message from a client. A longer request travels as several messages.
    pub(crate) request_slot_bytes: Option<Bytes>,
    /// Size of one message from a worker. Its smallest value holds one row of the widest
    /// model.
    pub(crate) response_slot_bytes: Option<Bytes>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawModel {
    /// Name of a model in the cache (`embedring model list`), or path of a folder that holds one.
    pub(crate) name: Option<String>,
    /// Tokens of a text that are read; what is beyond them is cut, with a flag, or refused. Unset:
    /// the model's own limit.
    pub(crate) max_tokens: Option<u64>,
    /// How the rows of a text's tokens become one row. Unset: as the model was trained.
    pub(crate) pooling: Option<PoolingKind>,
    /// Whether rows are scaled to length 1. Unset: as the model was trained.
    pub(crate) normalize: Option<bool>,
    /// Text put before every text that comes without a prompt of its own. Unset: the model's own
    /// default prompt; empty: none.
    pub(crate) default_prompt: Option<String>,
    /// The numbers to compute with, by `backend = "packed"`; `"candle"` takes only `"f32"`. Vectors
    /// of different precisions should not be mixed in one index, so the default is f32; every
    /// response tells which one its rows have, since `"auto"` may take another on another machine.
    pub(crate) precision: Option<PrecisionKind>,
    /// What `precision = "auto"` may lose: 1 minus the mean cosine to the rows of f32, over the
    /// built-in calibration texts.
    pub(crate) max_loss: Option<f64>,
    /// Whether a worker measures at its start what the other precisions would gain and lose, and
    /// writes it to the log. Takes one to two seconds with a small model on two cores. With `backend = "packed"` only;
    /// `precision = "auto"` always measures.
    pub(crate) survey: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawWorker {
    /// Where the worker computes: `cpu`; an NVIDIA GPU by its number (`cuda:0`) or its identifier
    /// (`cuda:GPU-…`, `cuda:MIG-…`), in builds that have the backend; or `simulated`
    /// (`simulated:NAME`), a device that is not there and takes its time from a table of costs, for
    /// tests and for planning.
    pub(crate) device: Option<String>,
    /// What computes the rows. Default for a simulated device: `"null"`. With a model, a simulated
    /// device gives the model's rows, computed on the CPU and held back until the time that its costs
    /// say.
    pub(crate) backend: Option<BackendKind>,
    /// Instructions that `backend = "packed"` uses. The worker does not start on a processor that
    /// lacks them.
    pub(crate) kernels: Option<KernelsKind>,
    /// Threads that compute. 0: as many as the cores the worker may run on.
    pub(crate) threads: Option<u64>,
    /// Whether each thread of `backend = "packed"` is tied to a core of its own. For machines where
    /// nothing else wants these cores.
    pub(crate) pin_threads: Option<bool>,
    /// Resident memory at which the worker refuses new requests, and restarts if that does not
    /// help. 0: no limit.
    pub(crate) memory_max_bytes: Option<Bytes>,
    /// Time without requests, in milliseconds, after which the model is unloaded; the next request
    /// loads it again. 0: never.
    pub(crate) idle_unload_ms: Option<u64>,
    /// Texts that may wait. Above that, requests are refused at once with a hint when to retry.
    pub(crate) queue_texts_max: Option<u64>,
    /// Tokens that may wait, as above.
    pub(crate) queue_tokens_max: Option<u64>,
    /// Tokens computed in one batch; with the model, this is what the worker's memory depends on.
    pub(crate) batch_tokens_max: Option<u64>,
    /// Texts computed in one batch.
    pub(crate) batch_texts_max: Option<u64>,
    /// Who chooses batches. All but `deadlines` are what others do, for comparisons under load (`cargo xtask bench
    /// load`); with them nothing is refused at arrival but for want of room.
    pub(crate) batch_policy: Option<BatchPolicyKind>,
    /// Time in microseconds that `batch_policy = "fixed-size"` waits for a batch to fill, and that a batch of
    /// `"aimd"` may take.
    pub(crate) batch_policy_us: Option<u64>,
    /// Tokens of a text that this device takes at all; clients send longer ones to other devices. 0:
    /// any.
    pub(crate) text_tokens_max: Option<u64>,
    /// How the worker waits for requests.
    pub(crate) wait: Option<WaitKind>,
    /// Time in microseconds that `wait = "adaptive"` spins before it blocks.
    pub(crate) spin_us: Option<u64>,
    /// Width of the rows of `backend = "null"`.
    pub(crate) null_hidden: Option<u64>,
    /// File with the costs of a simulated device, as `docs/devices.md` describes it. Read again when
    /// it changes. Unset or empty: the other three `simulated_` keys.
    pub(crate) simulated_table: Option<String>,
    /// Nanoseconds that each batch of a simulated device takes, whatever is in it.
    pub(crate) simulated_batch_ns: Option<u64>,
    /// Nanoseconds that each token adds.
    pub(crate) simulated_token_ns: Option<u64>,
    /// Picoseconds that each text adds for the square of its tokens.
    pub(crate) simulated_square_ps: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawScheduler {
    /// Milliseconds between two plans.
    pub(crate) tick_ms: Option<u64>,
    /// Milliseconds that one batch should take at most: what a short request waits behind a batch
    /// that has begun.
    pub(crate) batch_time_target_ms: Option<u64>,
    /// What predicts how long a batch takes. The learned ones need a build that has them; until they
    /// have proved to be better, and whenever a device changes, the analytic one predicts.
    pub(crate) time_model: Option<TimeModelKind>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawSupervisor {
    /// Milliseconds before a process that ended is started again. Doubles with every further end.
    pub(crate) backoff_min_ms: Option<u64>,
    /// Most milliseconds before a process that ended is started again.
    pub(crate) backoff_max_ms: Option<u64>,
    /// Milliseconds that processes have to stop, before they are killed.
    pub(crate) stop_timeout_ms: Option<u64>,
    /// Milliseconds without a heartbeat, after which a process is killed and started again.
    pub(crate) hang_timeout_ms: Option<u64>,
    /// Milliseconds that a worker has to load its model and serve.
    pub(crate) ready_timeout_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawLog {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter by module such as
    /// `info,embedring_worker=debug`. The variable `EMBEDRING_LOG` is stronger.
    pub(crate) level: Option<String>,
    /// Form of a line.
    pub(crate) format: Option<LogFormat>,
}

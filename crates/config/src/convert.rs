//! `Raw` to `Config` and back. Values are in range by now, so nothing here can fail.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::bounds::{self, Bound};
use crate::bytes::Bytes;
use crate::config::{
    BackendKind, BatchPolicyKind, Config, KernelsKind, Limits, Log, LogFormat, Model,
    PrecisionKind, Runtime, Scheduler, Simulated, Supervisor, TimeModelKind, WaitKind, Worker,
};
use crate::device::Device;
use crate::raw::{
    Raw, RawLimits, RawLog, RawModel, RawRuntime, RawScheduler, RawSupervisor, RawWorker,
};

const INSTANCE: &str = "default";
const RUNTIME_DIR: &str = "/dev/shm";
const RUNTIME_PREFIX: &str = "embedring";
const MODEL_NAME: &str = "all-MiniLM-L6-v2";
const WORKER_NAME: &str = "cpu";
const LOG_LEVEL: &str = "info";

pub(crate) fn from_raw(raw: Raw) -> Config {
    let mut workers: BTreeMap<_, _> = raw
        .workers
        .into_iter()
        .map(|(name, worker)| (name, worker_from(worker)))
        .collect();
    if workers.is_empty() {
        workers.insert(WORKER_NAME.to_owned(), worker_from(RawWorker::default()));
    }
    Config {
        instance: or(raw.instance, INSTANCE),
        runtime: Runtime {
            dir: PathBuf::from(or(raw.runtime.dir, RUNTIME_DIR)),
            prefix: or(raw.runtime.prefix, RUNTIME_PREFIX),
            owner: raw.runtime.owner.filter(|name| !name.is_empty()),
            group: raw.runtime.group.filter(|name| !name.is_empty()),
        },
        limits: Limits {
            clients_max: count(&bounds::CLIENTS_MAX, raw.limits.clients_max),
            requests_in_flight_max: count(
                &bounds::REQUESTS_IN_FLIGHT_MAX,
                raw.limits.requests_in_flight_max,
            ),
            request_slot_bytes: size(&bounds::REQUEST_SLOT_BYTES, raw.limits.request_slot_bytes),
            response_slot_bytes: size(&bounds::RESPONSE_SLOT_BYTES, raw.limits.response_slot_bytes),
        },
        model: model_from(raw.model),
        workers,
        scheduler: Scheduler {
            tick: ms(&bounds::TICK_MS, raw.scheduler.tick_ms),
            batch_time_target: ms(
                &bounds::BATCH_TIME_TARGET_MS,
                raw.scheduler.batch_time_target_ms,
            ),
            time_model: raw.scheduler.time_model.unwrap_or(TimeModelKind::Analytic),
        },
        supervisor: supervisor_from(&raw.supervisor),
        log: Log {
            level: or(raw.log.level, LOG_LEVEL),
            format: raw.log.format.unwrap_or(LogFormat::Text),
        },
        source: None,
    }
}

fn model_from(raw: RawModel) -> Model {
    Model {
        name: or(raw.name, MODEL_NAME),
        max_tokens: raw.max_tokens.map(|n| count(&bounds::MAX_TOKENS, Some(n))),
        pooling: raw.pooling,
        normalize: raw.normalize,
        default_prompt: raw.default_prompt,
        precision: raw.precision.unwrap_or(PrecisionKind::F32),
        max_loss: raw.max_loss.unwrap_or(bounds::MAX_LOSS.default),
        survey: raw.survey.unwrap_or(true),
    }
}

fn worker_from(raw: RawWorker) -> Worker {
    let device = raw.device.as_deref().and_then(Device::parse);
    let device = device.unwrap_or(Device::Cpu);
    let backend = match device {
        Device::Simulated(_) => BackendKind::Null,
        Device::Cpu | Device::Cuda(_) => BackendKind::Packed,
    };
    Worker {
        device,
        backend: raw.backend.unwrap_or(backend),
        kernels: raw.kernels.unwrap_or(KernelsKind::Auto),
        threads: count(&bounds::THREADS, raw.threads),
        pin_threads: raw.pin_threads.unwrap_or(false),
        memory_max_bytes: bounds::MEMORY_MAX_BYTES.or_default(raw.memory_max_bytes.map(|b| b.0)),
        idle_unload: ms(&bounds::IDLE_UNLOAD_MS, raw.idle_unload_ms),
        queue_texts_max: count(&bounds::QUEUE_TEXTS_MAX, raw.queue_texts_max),
        queue_tokens_max: count(&bounds::QUEUE_TOKENS_MAX, raw.queue_tokens_max),
        batch_tokens_max: count(&bounds::BATCH_TOKENS_MAX, raw.batch_tokens_max),
        batch_texts_max: count(&bounds::BATCH_TEXTS_MAX, raw.batch_texts_max),
        batch_policy: raw.batch_policy.unwrap_or(BatchPolicyKind::Deadlines),
        batch_policy_time: Duration::from_micros(
            bounds::BATCH_POLICY_US.or_default(raw.batch_policy_us),
        ),
        text_tokens_max: count(&bounds::TEXT_TOKENS_MAX, raw.text_tokens_max),
        wait: raw.wait.unwrap_or(WaitKind::Adaptive),
        spin: Duration::from_micros(bounds::SPIN_US.or_default(raw.spin_us)),
        null_hidden: count(&bounds::NULL_HIDDEN, raw.null_hidden),
        simulated: Simulated {
            table: raw
                .simulated_table
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            batch_ns: bounds::SIMULATED_BATCH_NS.or_default(raw.simulated_batch_ns),
            token_ns: bounds::SIMULATED_TOKEN_NS.or_default(raw.simulated_token_ns),
            square_ps: bounds::SIMULATED_SQUARE_PS.or_default(raw.simulated_square_ps),
        },
    }
}

fn supervisor_from(raw: &RawSupervisor) -> Supervisor {
    Supervisor {
        backoff_min: ms(&bounds::BACKOFF_MIN_MS, raw.backoff_min_ms),
        backoff_max: ms(&bounds::BACKOFF_MAX_MS, raw.backoff_max_ms),
        stop_timeout: ms(&bounds::STOP_TIMEOUT_MS, raw.stop_timeout_ms),
        hang_timeout: ms(&bounds::HANG_TIMEOUT_MS, raw.hang_timeout_ms),
        ready_timeout: ms(&bounds::READY_TIMEOUT_MS, raw.ready_timeout_ms),
    }
}

fn or(value: Option<String>, default: &str) -> String {
    value.unwrap_or_else(|| default.to_owned())
}

fn count(bound: &Bound, value: Option<u64>) -> usize {
    usize::try_from(bound.or_default(value)).unwrap_or(usize::MAX)
}

fn size(bound: &Bound, value: Option<Bytes>) -> usize {
    count(bound, value.map(|bytes| bytes.0))
}

fn ms(bound: &Bound, value: Option<u64>) -> Duration {
    Duration::from_millis(bound.or_default(value))
}

pub(crate) fn to_toml(config: &Config) -> String {
    // A struct of strings, numbers and string-keyed maps always has a TOML form.
    toml::to_string(&to_raw(config)).unwrap_or_default()
}

pub(crate) fn to_raw(config: &Config) -> Raw {
    Raw {
        instance: Some(config.instance.clone()),
        runtime: RawRuntime {
            dir: Some(config.runtime.dir.to_string_lossy().into_owned()),
            prefix: Some(config.runtime.prefix.clone()),
            owner: config.runtime.owner.clone(),
            group: config.runtime.group.clone(),
        },
        limits: RawLimits {
            clients_max: Some(wide(config.limits.clients_max)),
            requests_in_flight_max: Some(wide(config.limits.requests_in_flight_max)),
            request_slot_bytes: Some(Bytes(wide(config.limits.request_slot_bytes))),
            response_slot_bytes: Some(Bytes(wide(config.limits.response_slot_bytes))),
        },
        model: model_to(&config.model),
        workers: config
            .workers
            .iter()
            .map(|(name, w)| (name.clone(), worker_to(w)))
            .collect(),
        scheduler: RawScheduler {
            tick_ms: Some(millis(config.scheduler.tick)),
            batch_time_target_ms: Some(millis(config.scheduler.batch_time_target)),
            time_model: Some(config.scheduler.time_model),
        },
        supervisor: RawSupervisor {
            backoff_min_ms: Some(millis(config.supervisor.backoff_min)),
            backoff_max_ms: Some(millis(config.supervisor.backoff_max)),
            stop_timeout_ms: Some(millis(config.supervisor.stop_timeout)),
            hang_timeout_ms: Some(millis(config.supervisor.hang_timeout)),
            ready_timeout_ms: Some(millis(config.supervisor.ready_timeout)),
        },
        log: RawLog {
            level: Some(config.log.level.clone()),
            format: Some(config.log.format),
        },
    }
}

fn model_to(model: &Model) -> RawModel {
    RawModel {
        name: Some(model.name.clone()),
        max_tokens: model.max_tokens.map(wide),
        pooling: model.pooling,
        normalize: model.normalize,
        default_prompt: model.default_prompt.clone(),
        precision: Some(model.precision),
        max_loss: Some(model.max_loss),
        survey: Some(model.survey),
    }
}

fn worker_to(worker: &Worker) -> RawWorker {
    RawWorker {
        device: Some(worker.device.to_string()),
        backend: Some(worker.backend),
        kernels: Some(worker.kernels),
        threads: Some(wide(worker.threads)),
        pin_threads: Some(worker.pin_threads),
        memory_max_bytes: Some(Bytes(worker.memory_max_bytes)),
        idle_unload_ms: Some(millis(worker.idle_unload)),
        queue_texts_max: Some(wide(worker.queue_texts_max)),
        queue_tokens_max: Some(wide(worker.queue_tokens_max)),
        batch_tokens_max: Some(wide(worker.batch_tokens_max)),
        batch_texts_max: Some(wide(worker.batch_texts_max)),
        batch_policy: Some(worker.batch_policy),
        batch_policy_us: Some(micros(worker.batch_policy_time)),
        text_tokens_max: Some(wide(worker.text_tokens_max)),
        wait: Some(worker.wait),
        spin_us: Some(micros(worker.spin)),
        null_hidden: Some(wide(worker.null_hidden)),
        simulated_table: worker
            .simulated
            .table
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned()),
        simulated_batch_ns: Some(worker.simulated.batch_ns),
        simulated_token_ns: Some(worker.simulated.token_ns),
        simulated_square_ps: Some(worker.simulated.square_ps),
    }
}

fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn micros(value: Duration) -> u64 {
    u64::try_from(value.as_micros()).unwrap_or(u64::MAX)
}

fn millis(value: Duration) -> u64 {
    u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
}

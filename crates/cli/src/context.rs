//! From configuration to the options of each crate.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use embedring_client::{Client, ClientBuilder};
use embedring_config::{BackendKind, Config, LogFormat, Overrides, PoolingKind, WaitKind, Worker};
use embedring_ipc::{InstanceOptions, RingLimits, WaitStrategy};
use embedring_model::{ModelOverrides, Pooling};
use embedring_policy::Bounds;
use embedring_scheduler::SchedulerOptions;
use embedring_store::Store;
use embedring_worker::{ModelSource, WorkerOptions};

/// What the global flags said.
#[derive(Debug)]
pub(crate) struct Context {
    overrides: Overrides,
}

impl Context {
    pub(crate) fn new(instance: Option<String>, config: Option<PathBuf>) -> Self {
        Self {
            overrides: Overrides { instance, config },
        }
    }

    /// The effective configuration.
    pub(crate) fn config(&self) -> Result<Config> {
        Ok(Config::load(&self.overrides, std::env::vars_os())?)
    }

    /// Flags that make a child process use the same configuration.
    pub(crate) fn child_args(&self, config: &Config) -> Vec<std::ffi::OsString> {
        let mut args = vec!["--instance".into(), config.instance.clone().into()];
        if let Some(path) = &config.source {
            args.push("--config".into());
            args.push(path.clone().into_os_string());
        }
        args
    }
}

pub(crate) fn instance_options(config: &Config) -> InstanceOptions {
    InstanceOptions {
        dir: config.runtime.dir.clone(),
        prefix: config.runtime.prefix.clone(),
        instance: config.instance.clone(),
        owner: config.runtime.owner.clone(),
        group: config.runtime.group.clone(),
    }
}

fn ring_limits(config: &Config) -> RingLimits {
    RingLimits {
        clients_max: config.limits.clients_max,
        requests_in_flight_max: config.limits.requests_in_flight_max,
        request_slot_bytes: config.limits.request_slot_bytes,
        response_slot_bytes: config.limits.response_slot_bytes,
    }
}

pub(crate) fn wait_strategy(kind: WaitKind, spin: std::time::Duration) -> WaitStrategy {
    match kind {
        WaitKind::Adaptive => WaitStrategy::Adaptive { spin },
        WaitKind::Block => WaitStrategy::Block,
        WaitKind::Poll => WaitStrategy::Poll,
    }
}

pub(crate) fn scheduler_options(config: &Config) -> SchedulerOptions {
    SchedulerOptions {
        instance: instance_options(config),
        limits: ring_limits(config),
        tick: config.scheduler.tick,
        batch_time_target: config.scheduler.batch_time_target,
    }
}

pub(crate) fn worker_options(config: &Config, name: &str) -> Result<WorkerOptions> {
    let Some(worker) = config.workers.get(name) else {
        let known: Vec<_> = config.workers.keys().map(String::as_str).collect();
        bail!(
            "no worker '{name}' is configured; configured: {}",
            known.join(", ")
        );
    };
    Ok(WorkerOptions {
        name: name.to_owned(),
        instance: instance_options(config),
        limits: ring_limits(config),
        model: model_source(config, worker)?,
        threads: worker.threads,
        memory_max_bytes: worker.memory_max_bytes,
        idle_unload: worker.idle_unload,
        queue: Bounds {
            texts_max: worker.queue_texts_max as u64,
            tokens_max: worker.queue_tokens_max as u64,
        },
        batch_tokens_max: worker.batch_tokens_max as u64,
        batch_texts_max: worker.batch_texts_max,
        wait: wait_strategy(worker.wait, worker.spin),
    })
}

fn model_source(config: &Config, worker: &Worker) -> Result<ModelSource> {
    match worker.backend {
        BackendKind::Null => Ok(ModelSource::Null {
            hidden: worker.null_hidden,
        }),
        BackendKind::Candle => Ok(ModelSource::Candle {
            dir: Store::from_env()?.resolve(&config.model.name)?,
            overrides: ModelOverrides {
                max_tokens: config.model.max_tokens,
                pooling: config.model.pooling.map(|pooling| match pooling {
                    PoolingKind::Mean => Pooling::Mean,
                    PoolingKind::Cls => Pooling::Cls,
                }),
                normalize: config.model.normalize,
            },
            default_prompt: config.model.default_prompt.clone(),
        }),
    }
}

/// How a client of this configuration connects.
pub(crate) fn client_builder(config: &Config) -> ClientBuilder {
    let builder = Client::builder(&config.instance)
        .dir(&config.runtime.dir)
        .prefix(&config.runtime.prefix);
    match &config.runtime.owner {
        Some(owner) => builder.owner(owner),
        None => builder,
    }
}

/// Sends logs of this process to stderr.
pub(crate) fn init_log(config: &Config, role: &str) -> Result<()> {
    let format = match config.log.format {
        LogFormat::Text => embedring_telemetry::LogFormat::Text,
        LogFormat::Json => embedring_telemetry::LogFormat::Json,
    };
    embedring_telemetry::init(&config.log.level, format, role).context("log.level")
}

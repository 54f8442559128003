//! From configuration to the options of each crate.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use embedring_client::{Client, ClientBuilder};
use embedring_config::{
    BackendKind, BatchPolicyKind, Config, Device, LogFormat, Model, Overrides, PoolingKind,
    PrecisionKind, TimeModelKind, WaitKind, Worker,
};
use embedring_ipc::clock::to_ns;
use embedring_ipc::{InstanceOptions, RingLimits, WaitStrategy};
use embedring_learned::Kind;
use embedring_model::{Level, ModelOverrides, Pooling, Precision, PrecisionChoice};
use embedring_policy::Bounds;
use embedring_scheduler::SchedulerOptions;
use embedring_store::Store;
use embedring_worker::{
    BatchPolicy, CostTable, Costs, ModelSource, SimulatedDevice, WorkerOptions,
};

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

pub(crate) fn scheduler_options(config: &Config) -> Result<SchedulerOptions> {
    let learns = match config.scheduler.time_model {
        TimeModelKind::Analytic => None,
        TimeModelKind::LightGbm => Some(Kind::LightGbm),
        TimeModelKind::XgBoost => Some(Kind::XgBoost),
    };
    if let Some(Err(error)) = learns.map(Kind::library) {
        let name = config.scheduler.time_model.name();
        bail!("scheduler.time_model is {name:?}: {error}; \"analytic\" needs none");
    }
    Ok(SchedulerOptions {
        instance: instance_options(config),
        limits: ring_limits(config),
        tick: config.scheduler.tick,
        batch_time_target: config.scheduler.batch_time_target,
        learns,
    })
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
        model: model_source(config, name, worker)?,
        simulated: simulated_device(name, worker)?,
        threads: worker.threads,
        memory_max_bytes: worker.memory_max_bytes,
        idle_unload: worker.idle_unload,
        queue: Bounds {
            texts_max: worker.queue_texts_max as u64,
            tokens_max: worker.queue_tokens_max as u64,
        },
        batch_tokens_max: worker.batch_tokens_max as u64,
        batch_texts_max: worker.batch_texts_max,
        batch_policy: batch_policy(worker),
        text_tokens_max: worker.text_tokens_max as u64,
        wait: wait_strategy(worker.wait, worker.spin),
    })
}

/// The policy with its numbers, which for those of others are the bounds of a batch.
fn batch_policy(worker: &Worker) -> BatchPolicy {
    /// What a batch may take in the worst case, in 1/1024 of what is predicted: as much as ours allows for.
    const WORST_1024: u64 = 1178;
    let texts_max = worker.batch_texts_max;
    let tokens_max = worker.batch_tokens_max as u64;
    let time_ns = to_ns(worker.batch_policy_time);
    match worker.batch_policy {
        BatchPolicyKind::Deadlines => BatchPolicy::Deadlines,
        BatchPolicyKind::OneAtATime => BatchPolicy::OneAtATime,
        BatchPolicyKind::FixedSize => BatchPolicy::FixedSize {
            texts_max,
            wait_ns: time_ns,
        },
        BatchPolicyKind::TokenBudget => BatchPolicy::TokenBudget {
            tokens_max,
            expires: false,
        },
        BatchPolicyKind::TokenBudgetExpiry => BatchPolicy::TokenBudget {
            tokens_max,
            expires: true,
        },
        BatchPolicyKind::LengthRounds => BatchPolicy::LengthRounds { tokens_max },
        BatchPolicyKind::Aimd => BatchPolicy::Aimd {
            batch_ns_max: time_ns,
        },
        BatchPolicyKind::EarlyDrop => BatchPolicy::EarlyDrop { texts_max },
        BatchPolicyKind::EarliestDeadline => BatchPolicy::EarliestDeadline {
            texts_max,
            worst_1024: WORST_1024,
            defers: false,
        },
    }
}

/// The device to simulate, if it is one, once it is known that it has costs.
fn simulated_device(name: &str, worker: &Worker) -> Result<Option<SimulatedDevice>> {
    if !matches!(worker.device, Device::Simulated(_)) {
        return Ok(None);
    }
    let costs = match &worker.simulated.table {
        Some(path) => Costs::File(path.clone()),
        None => Costs::Fixed(CostTable::from_costs(
            worker.simulated.batch_ns as f64,
            worker.simulated.token_ns as f64,
            worker.simulated.square_ps as f64 / 1e3,
        )),
    };
    costs
        .read()
        .with_context(|| format!("workers.{name}.simulated_table"))?;
    Ok(Some(SimulatedDevice {
        device: worker.device.to_string(),
        costs,
    }))
}

fn model_source(config: &Config, name: &str, worker: &Worker) -> Result<ModelSource> {
    if matches!(worker.device, Device::Cuda(_)) {
        bail!(
            "workers.{name}.device is \"{}\": this build computes on the CPU only",
            worker.device
        );
    }
    match worker.backend {
        BackendKind::Null => Ok(ModelSource::Null {
            hidden: worker.null_hidden,
        }),
        BackendKind::Packed => {
            let kernels = worker.kernels.level();
            if let Some(level) = kernels {
                Level::by_name(level).with_context(|| format!("workers.{name}.kernels"))?;
            }
            Ok(ModelSource::Packed {
                dir: Store::from_env()?.resolve(&config.model.name)?,
                overrides: model_overrides(&config.model),
                default_prompt: config.model.default_prompt.clone(),
                precision: precision_choice(&config.model),
                survey: config.model.survey,
                kernels: kernels.map(str::to_owned),
                pin_threads: worker.pin_threads,
            })
        }
        BackendKind::Candle => Ok(ModelSource::Candle {
            dir: Store::from_env()?.resolve(&config.model.name)?,
            overrides: model_overrides(&config.model),
            default_prompt: config.model.default_prompt.clone(),
        }),
    }
}

fn model_overrides(model: &Model) -> ModelOverrides {
    ModelOverrides {
        max_tokens: model.max_tokens,
        pooling: model.pooling.map(|pooling| match pooling {
            PoolingKind::Mean => Pooling::Mean,
            PoolingKind::Cls => Pooling::Cls,
        }),
        normalize: model.normalize,
    }
}

fn precision_choice(model: &Model) -> PrecisionChoice {
    match model.precision {
        PrecisionKind::F32 => PrecisionChoice::Fixed(Precision::F32),
        PrecisionKind::Bf16 => PrecisionChoice::Fixed(Precision::Bf16),
        PrecisionKind::Int8 => PrecisionChoice::Fixed(Precision::Int8),
        PrecisionKind::Auto => PrecisionChoice::Auto {
            max_loss: model.max_loss,
        },
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

#[cfg(test)]
mod tests {
    use embedring_config::KernelsKind;

    use super::*;

    #[test]
    fn the_configuration_knows_the_levels_of_the_kernels() {
        let levels: Vec<_> = KernelsKind::ALL
            .into_iter()
            .filter_map(KernelsKind::level)
            .collect();
        assert_eq!(levels, Level::NAMES);
    }

    #[test]
    fn every_policy_of_the_configuration_is_another_one() {
        let mut worker = Config::default().workers["cpu"].clone();
        assert!(batch_policy(&worker).is_ours());
        let mut policies = Vec::new();
        for kind in BatchPolicyKind::ALL {
            worker.batch_policy = kind;
            policies.push(batch_policy(&worker));
        }
        for (at, policy) in policies.iter().enumerate() {
            assert!(!policies[..at].contains(policy), "{policy:?}");
        }
    }

    #[test]
    fn precisions_are_called_the_same_everywhere() {
        let mut model = Config::default().model;
        for precision in [PrecisionKind::F32, PrecisionKind::Bf16, PrecisionKind::Int8] {
            model.precision = precision;
            let PrecisionChoice::Fixed(fixed) = precision_choice(&model) else {
                panic!("{} is no choice", precision.name());
            };
            assert_eq!(fixed.as_str(), precision.name());
        }
        model.precision = PrecisionKind::Auto;
        model.max_loss = 0.01;
        let open = PrecisionChoice::Auto { max_loss: 0.01 };
        assert_eq!(precision_choice(&model), open);
    }
}

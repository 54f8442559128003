//! The processes of an instance: one worker, or the scheduler.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use embedring_ipc::InstanceError;
use embedring_worker::{Ended, WorkerError};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use sd_notify::NotifyState;

use crate::context::{Context, init_log, scheduler_options, worker_options};
use crate::say;

/// Ends this way at the memory bound: start me again at once.
pub(crate) const EXIT_RESTART: u8 = 75;
/// Ends this way when the configuration can not work: do not start me again like this.
pub(crate) const EXIT_CONFIG: u8 = 78;

/// Run one worker (`up` and service managers call this).
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    /// Name of the worker in the configuration
    #[arg(long, default_value = "cpu")]
    name: String,
    /// End when this process, the parent, ends
    #[arg(long, hide = true, value_name = "PID")]
    supervised_by: Option<i32>,
}

/// Run the scheduler (`up` and service managers call this).
#[derive(Debug, clap::Args)]
pub(crate) struct SchedulerArgs {
    /// End when this process, the parent, ends
    #[arg(long, hide = true, value_name = "PID")]
    supervised_by: Option<i32>,
}

/// Set by SIGINT and SIGTERM.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("watch signals")?;
    }
    Ok(stop)
}

/// A supervisor that was killed can not stop its children; so they ask the kernel to.
fn follow_parent(parent: Option<i32>) -> Result<()> {
    let Some(parent) = parent else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::TERM)).context("follow the supervisor")?;
    if getppid() != Pid::from_raw(parent) {
        bail!("the supervisor (pid {parent}) has ended already");
    }
    Ok(())
}

pub(crate) fn worker(context: &Context, args: &WorkerArgs) -> Result<ExitCode> {
    follow_parent(args.supervised_by)?;
    let config = context.config()?;
    init_log(&config, &format!("worker {}", args.name))?;
    let stop = stop_flag()?;
    let options = match worker_options(&config, &args.name) {
        Ok(options) => options,
        Err(error) => {
            say(&format!("embedring: worker '{}': {error:#}", args.name));
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    let ended = embedring_worker::run(&options, &stop, &mut |identity| {
        tracing::info!(
            model = identity.model.to_text(),
            digest = %identity.model_id,
            dimensions = identity.dimensions,
            max_tokens = identity.max_tokens,
            "serving"
        );
        notify(&[NotifyState::Ready]);
    });
    match ended {
        Ok(Ended::Stopped) => Ok(ExitCode::SUCCESS),
        Ok(Ended::MemoryBound) => {
            tracing::warn!(
                max_bytes = options.memory_max_bytes,
                "at the memory bound; ending"
            );
            Ok(ExitCode::from(EXIT_RESTART))
        }
        Err(error) => {
            let code = exit_code(&error);
            let error = anyhow::Error::new(error);
            say(&format!("embedring: worker '{}': {error:#}", args.name));
            Ok(code)
        }
    }
}

fn exit_code(error: &WorkerError) -> ExitCode {
    match error {
        WorkerError::Model(_)
        | WorkerError::MemoryBound { .. }
        | WorkerError::Map(_)
        | WorkerError::Instance(InstanceError::Full { .. }) => ExitCode::from(EXIT_CONFIG),
        WorkerError::Instance(_)
        | WorkerError::Claim(_)
        | WorkerError::Ring { .. }
        | WorkerError::Thread(_) => ExitCode::FAILURE,
    }
}

pub(crate) fn scheduler(context: &Context, args: &SchedulerArgs) -> Result<ExitCode> {
    follow_parent(args.supervised_by)?;
    let config = context.config()?;
    init_log(&config, "scheduler")?;
    let stop = stop_flag()?;
    let options = match scheduler_options(&config) {
        Ok(options) => options,
        Err(error) => {
            say(&format!("embedring: scheduler: {error:#}"));
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    embedring_scheduler::run(&options, &stop, &mut || {
        tracing::info!("planning");
        notify(&[NotifyState::Ready]);
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Tells a service manager, if there is one.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// True once a signal asked to stop.
pub(crate) fn is_set(stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed)
}

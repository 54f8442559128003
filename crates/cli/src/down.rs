//! `embedring down`: the other end of `embedring up`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use embedring_ipc::Instance;
use embedring_ipc::clock::{now_ns, to_ns};
use rustix::process::{Pid, Signal, kill_process};

use crate::context::{Context, instance_options};

/// Time beyond the supervisor's own stop time-out.
const GRACE: Duration = Duration::from_secs(2);

/// Stop a running `embedring up` and wait until it has ended.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: &Args) -> Result<ExitCode> {
    let config = context.config()?;
    let instance = Instance::open(&instance_options(&config))?;
    if !instance.role_is_held("up") {
        bail!(
            "instance '{}' has no `embedring up`; if a service manager runs it, stop it there",
            config.instance
        );
    }
    let pid = instance
        .role_holder("up")
        .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        .context("the supervisor did not leave its pid")?;
    kill_process(pid, Signal::TERM).context("signal the supervisor")?;
    let until_ns = now_ns() + to_ns(config.supervisor.stop_timeout + GRACE);
    while instance.still_there() && instance.role_is_held("up") {
        if now_ns() > until_ns {
            bail!(
                "the supervisor did not end in time; it is still pid {}",
                pid.as_raw_nonzero()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(ExitCode::SUCCESS)
}

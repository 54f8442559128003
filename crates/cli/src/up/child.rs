//! One child process: started, watched, started again with growing pauses.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use embedring_config::Supervisor as Limits;
use embedring_ipc::clock::{now_ns, to_ns};
use rustix::process::{Pid, Signal, kill_process};

use crate::roles::{EXIT_CONFIG, EXIT_RESTART};

/// A child that ran for so long was well: the next pause is the shortest again.
const WELL_AFTER_NS: u64 = 10_000_000_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    args: Vec<OsString>,
    process: Option<std::process::Child>,
    started_ns: u64,
    start_at_ns: u64,
    pause_ns: u64,
    can_not_work: bool,
}

impl Child {
    pub(super) fn new(name: &str, global: &[OsString], args: &[OsString]) -> Self {
        let supervised = [
            "--supervised-by".into(),
            std::process::id().to_string().into(),
        ];
        Self {
            name: name.to_owned(),
            args: args
                .iter()
                .chain(global)
                .chain(&supervised)
                .cloned()
                .collect(),
            process: None,
            started_ns: 0,
            start_at_ns: 0,
            pause_ns: 0,
            can_not_work: false,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(std::process::Child::id)
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// True after it ended saying that it can not work as configured.
    pub(super) fn can_not_work(&self) -> bool {
        self.can_not_work
    }

    /// Notices an end, and starts it when it is due.
    pub(super) fn tend(&mut self, limits: &Limits) -> Result<()> {
        if let Some(process) = &mut self.process {
            let Some(status) = process.try_wait().context("wait for a child")? else {
                return Ok(());
            };
            self.process = None;
            self.can_not_work = status.code() == Some(i32::from(EXIT_CONFIG));
            let wants_restart = status.code() == Some(i32::from(EXIT_RESTART));
            let ran_ns = now_ns().saturating_sub(self.started_ns);
            self.pause_ns = if wants_restart || ran_ns > WELL_AFTER_NS || self.pause_ns == 0 {
                to_ns(limits.backoff_min)
            } else {
                (self.pause_ns * 2).min(to_ns(limits.backoff_max))
            };
            let pause_ns = if wants_restart { 0 } else { self.pause_ns };
            self.start_at_ns = now_ns() + pause_ns;
            tracing::warn!(child = self.name, %status, restart_in_ms = pause_ns / 1_000_000, "ended");
        }
        if now_ns() >= self.start_at_ns {
            self.start()?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        let program = std::env::current_exe().context("find this program")?;
        let process = Command::new(&program)
            .args(&self.args)
            .stdin(Stdio::null())
            // Data of the supervisor's own goes to stdout; children only talk.
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        tracing::info!(child = self.name, pid = process.id(), "started");
        self.process = Some(process);
        self.started_ns = now_ns();
        Ok(())
    }

    /// Asks it to end.
    pub(super) fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Ends it by force and waits.
    pub(super) fn kill(&mut self) {
        if self.has_ended() {
            return;
        }
        self.signal(Signal::KILL);
        if let Some(process) = &mut self.process
            && let Err(error) = process.wait()
        {
            tracing::warn!(%error, child = self.name, "could not be waited for");
        }
        // `tend` sees the end, so that a killed child is started again like any other.
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .pid()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::debug!(%error, child = self.name, "could not be signalled");
        }
    }

    /// True when it is not running, without starting it again.
    pub(super) fn has_ended(&mut self) -> bool {
        self.process
            .as_mut()
            .is_none_or(|process| !matches!(process.try_wait(), Ok(None)))
    }
}

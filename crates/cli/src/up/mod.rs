//! `embedring up`: one supervisor for the scheduler and all workers.

mod child;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use embedring_config::Config;
use embedring_ipc::clock::{now_ns, to_ns};
use embedring_ipc::{BellsMap, BoardMap, Instance, MapError, clean_up_dead};
use embedring_protocol::sync::Ordering;
use embedring_protocol::{WorkerSlot, WorkerState};
use sd_notify::NotifyState;

use crate::context::{Context, init_log, instance_options, worker_options};
use crate::roles::{is_set, notify, stop_flag};
use child::Child;

/// Time between two looks at the children.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Time between two clean-ups while the scheduler, whose duty it is, is not there.
const CLEAN_EVERY_NS: u64 = 500_000_000;

/// Start the scheduler and all workers and stay in the foreground.
///
/// Prints one line beginning with `ready` on stdout when every worker serves. Children that end are
/// started again, with growing pauses. SIGTERM or SIGINT ends everything and removes what is in
/// shared memory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

struct Supervisor {
    config: Config,
    instance: Instance,
    scheduler: Child,
    workers: Vec<Child>,
    stop: Arc<AtomicBool>,
    board: Option<(BoardMap, BellsMap)>,
    cleaned_ns: u64,
    is_ready: bool,
}

pub(crate) fn run(context: &Context, _args: &Args) -> Result<ExitCode> {
    let config = context.config()?;
    init_log(&config, "up")?;
    // Said now, by us, rather than later by a child that is started again and again.
    for name in config.workers.keys() {
        worker_options(&config, name)?;
    }
    let stop = stop_flag()?;
    let instance = Instance::create(&instance_options(&config))?;
    let _role = instance.lock_role("up")?;
    for role in std::iter::once("scheduler".to_owned())
        .chain(config.workers.keys().map(|name| format!("worker-{name}")))
    {
        if instance.role_is_held(&role) {
            let pid = instance.role_holder(&role).unwrap_or(0);
            bail!(
                "{role} of instance '{}' is already running (pid {pid}); stop it first, or choose \
                 another --instance",
                config.instance
            );
        }
    }
    // Nobody serves, so whatever lies there is from processes that were killed.
    instance.sweep()?;
    tracing::info!(config = %config.to_toml().replace('\n', "; "), "starting");
    let args = context.child_args(&config);
    let scheduler = Child::new("scheduler", &args, &["scheduler".into()]);
    let workers = config
        .workers
        .keys()
        .map(|name| {
            Child::new(
                name,
                &args,
                &["worker".into(), "--name".into(), name.into()],
            )
        })
        .collect();
    let mut supervisor = Supervisor {
        config,
        instance,
        scheduler,
        workers,
        stop,
        board: None,
        cleaned_ns: 0,
        is_ready: false,
    };
    let watched = supervisor.watch();
    let stopped = supervisor.stop_all();
    watched.and(stopped).map(|()| ExitCode::SUCCESS)
}

impl Supervisor {
    fn watch(&mut self) -> Result<()> {
        let started_ns = now_ns();
        let mut last_notify_ns = 0;
        while !is_set(&self.stop) {
            self.tend_children()?;
            self.open_board()?;
            self.clean_up();
            self.kill_hung();
            if !self.is_ready {
                self.announce_when_ready()?;
                let waited_ns = now_ns() - started_ns;
                if !self.is_ready && waited_ns > to_ns(self.config.supervisor.ready_timeout) {
                    bail!(
                        "not all workers serve after {:?}; see the log above, or raise \
                         supervisor.ready_timeout_ms",
                        self.config.supervisor.ready_timeout
                    );
                }
            }
            if now_ns() - last_notify_ns > 1_000_000_000 {
                last_notify_ns = now_ns();
                notify(&[NotifyState::Watchdog]);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Starts what is due and notices what has ended.
    fn tend_children(&mut self) -> Result<()> {
        let limits = self.config.supervisor;
        self.scheduler.tend(&limits)?;
        for worker in &mut self.workers {
            worker.tend(&limits)?;
            if worker.can_not_work() && !self.is_ready {
                bail!(
                    "worker '{}' can not work as configured; see its message above",
                    worker.name()
                );
            }
        }
        Ok(())
    }

    /// The board is made by the scheduler or a worker, whoever is first.
    fn open_board(&mut self) -> Result<()> {
        if self.board.is_some() {
            return Ok(());
        }
        match (
            BoardMap::open(&self.instance),
            BellsMap::open(&self.instance),
        ) {
            (Ok(board), Ok(bells)) => {
                // Opened again for writing: freeing the places of the dead is our duty too.
                let header = *board.header();
                self.board = Some((BoardMap::create(&self.instance, header)?, bells));
                Ok(())
            }
            // Not there yet, or being written.
            (Err(MapError::Missing { .. } | MapError::Version { .. }), _)
            | (_, Err(MapError::Missing { .. } | MapError::Version { .. })) => Ok(()),
            (Err(error), _) | (_, Err(error)) => Err(error.into()),
        }
    }

    /// Cleans up after the dead while the scheduler is not there to do it.
    fn clean_up(&mut self) {
        let Some((board, bells)) = &self.board else {
            return;
        };
        let now = now_ns();
        if self.scheduler.is_running() || now - self.cleaned_ns < CLEAN_EVERY_NS {
            return;
        }
        self.cleaned_ns = now;
        match clean_up_dead(&self.instance, board, bells) {
            Ok(cleaned) if !cleaned.is_nothing() => tracing::info!(?cleaned, "cleaned up"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "could not clean up after dead processes"),
        }
    }

    /// A process that is there and does nothing is worse than one that is gone.
    fn kill_hung(&mut self) {
        let Some((board, _)) = &self.board else {
            return;
        };
        let limit_ns = to_ns(self.config.supervisor.hang_timeout);
        let now = now_ns();
        for worker in &mut self.workers {
            let Some(slot) = worker.pid().and_then(|pid| slot_of(board, pid)) else {
                continue;
            };
            if slot.state() == WorkerState::Starting {
                continue;
            }
            let silent = now.saturating_sub(slot.heartbeat_ns.load(Ordering::Relaxed)) > limit_ns;
            let busy_since = slot.busy_since_ns.load(Ordering::Relaxed);
            let stuck = busy_since != 0 && now.saturating_sub(busy_since) > limit_ns;
            if silent || stuck {
                tracing::error!(worker = worker.name(), silent, stuck, "hung; killing it");
                worker.kill();
            }
        }
        let heartbeat = board.scheduler.heartbeat_ns.load(Ordering::Relaxed);
        let started = self.scheduler.started_ns();
        if self.scheduler.is_running() && now.saturating_sub(heartbeat.max(started)) > limit_ns {
            tracing::error!("the scheduler hangs; killing it");
            self.scheduler.kill();
        }
    }

    fn announce_when_ready(&mut self) -> Result<()> {
        let Some((board, _)) = &self.board else {
            return Ok(());
        };
        let mut models = Vec::new();
        for worker in &self.workers {
            let Some(slot) = worker.pid().and_then(|pid| slot_of(board, pid)) else {
                return Ok(());
            };
            if !slot.state().takes_requests() {
                return Ok(());
            }
            models.extend(
                slot.identity
                    .read()
                    .map(|identity| identity.model.to_text()),
            );
        }
        models.sort();
        models.dedup();
        let names: Vec<_> = self.workers.iter().map(Child::name).collect();
        let line = format!(
            "ready instance={} workers={} model={} pid={}",
            self.config.instance,
            names.join(","),
            models.join(","),
            std::process::id()
        );
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{line}")
            .and_then(|()| stdout.flush())
            .context("write to stdout")?;
        notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        self.is_ready = true;
        Ok(())
    }

    /// Ends all children, by force after a time, and removes the instance.
    fn stop_all(&mut self) -> Result<()> {
        notify(&[NotifyState::Stopping]);
        tracing::info!("stopping");
        let until_ns = now_ns() + to_ns(self.config.supervisor.stop_timeout);
        let mut children: Vec<_> = self
            .workers
            .iter_mut()
            .chain(std::iter::once(&mut self.scheduler))
            .collect();
        for child in &mut children {
            child.terminate();
        }
        while children.iter_mut().any(|child| !child.has_ended()) && now_ns() < until_ns {
            std::thread::sleep(Duration::from_millis(5));
        }
        for child in &mut children {
            child.kill();
        }
        self.instance.remove().context("remove the instance")
    }
}

/// The place on the board of the worker with this pid.
fn slot_of(board: &BoardMap, pid: u32) -> Option<&WorkerSlot> {
    board.workers.iter().find(|slot| {
        slot.state() != WorkerState::Free
            && slot
                .identity
                .read()
                .is_some_and(|who| who.process.pid == u64::from(pid))
    })
}

//! One round trip: the real client and worker with a backend that has no model, beside bare iceoryx2
//! and a Unix socket, in turns, each server a process of its own.

mod bare;
mod ours;
mod report;
mod socket;

use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use embedring_ipc::clock::now_ns;

use report::Report;

/// Bytes of the text sent; a short question.
const TEXT_BYTES: usize = 64;
/// Components of the row that comes back.
const DIMENSIONS: usize = 384;

/// Measures one round trip through a ring beside its rivals.
#[derive(Debug, Parser)]
struct Args {
    /// Turns; each variant runs once in each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Round trips per turn while both sides poll
    #[arg(long, default_value_t = 20_000)]
    polling: usize,
    /// Round trips per turn while both sides sleep
    #[arg(long, default_value_t = 4_000)]
    blocking: usize,
    /// Write the result here as JSON
    #[arg(long, value_name = "PATH")]
    json: Option<std::path::PathBuf>,
    /// Be this server (the bench starts itself)
    #[arg(long, hide = true, value_enum)]
    server: Option<Variant>,
    /// Where the server and the bench meet
    #[arg(long, hide = true)]
    dir: Option<std::path::PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Variant {
    /// Bare iceoryx2, both sides poll.
    BarePolling,
    /// embedring, both sides poll.
    OursPolling,
    /// Bare iceoryx2, both sides poll, 64 clients connected.
    #[value(name = "bare-polling-64")]
    BarePolling64,
    /// embedring, both sides poll, 64 clients connected.
    #[value(name = "ours-polling-64")]
    OursPolling64,
    /// A Unix stream socket, both sides sleep.
    SocketBlocking,
    /// Bare iceoryx2, both sides sleep on its event service.
    BareBlocking,
    /// embedring, both sides sleep.
    OursBlocking,
    /// embedring, both sides spin for 50 µs and then sleep: the default.
    OursAdaptive,
}

impl Variant {
    fn polls(self) -> bool {
        matches!(
            self,
            Self::BarePolling | Self::OursPolling | Self::BarePolling64 | Self::OursPolling64
        )
    }

    /// Clients that are connected and idle beside the one that is measured.
    fn idle_clients(self) -> usize {
        match self {
            Self::BarePolling64 | Self::OursPolling64 => 63,
            Self::BarePolling
            | Self::OursPolling
            | Self::SocketBlocking
            | Self::BareBlocking
            | Self::OursBlocking
            | Self::OursAdaptive => 0,
        }
    }

    /// What its ratio is taken against.
    fn rival(self) -> Option<Self> {
        match self {
            Self::OursPolling => Some(Self::BarePolling),
            Self::OursPolling64 => Some(Self::BarePolling64),
            Self::OursBlocking | Self::OursAdaptive => Some(Self::BareBlocking),
            Self::BarePolling | Self::BarePolling64 | Self::SocketBlocking | Self::BareBlocking => {
                None
            }
        }
    }

    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

/// Round trips of one turn in nanoseconds, and where the median one spent its time, where known.
struct Turn {
    round_trips_ns: Vec<u64>,
    stages: Option<Stages>,
}

/// Medians over a turn, in nanoseconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Stages {
    /// In the client, before the message is sent and after the answer is there.
    client: u64,
    /// In the worker, from the message taken off the ring to the batch begun, without tokenising.
    intake: u64,
    /// Tokenising, and running the backend that has no model.
    own_work: u64,
    /// The rest: both ways through the ring, and writing the answer.
    rings: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let (Some(variant), Some(dir)) = (args.server, &args.dir) {
        serve(variant, dir)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut report = Report::default();
    for round in 0..args.rounds {
        for variant in Variant::value_variants() {
            let count = if variant.polls() {
                args.polling
            } else {
                args.blocking
            };
            let turn = take_turn(*variant, count)
                .with_context(|| format!("{} in turn {round}", variant.name()))?;
            report.add(&variant.name(), variant.rival().map(Variant::name), turn);
        }
    }
    report.print()?;
    if let Some(path) = &args.json {
        report.write(path, &args)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(variant: Variant, dir: &std::path::Path) -> Result<()> {
    match variant {
        Variant::BarePolling | Variant::BarePolling64 => {
            bare::serve_polling(dir, variant.idle_clients() + 1)
        }
        Variant::BareBlocking => bare::serve_blocking(dir),
        Variant::SocketBlocking => socket::serve(dir),
        Variant::OursPolling
        | Variant::OursPolling64
        | Variant::OursBlocking
        | Variant::OursAdaptive => ours::serve(variant, dir),
    }
}

fn take_turn(variant: Variant, count: usize) -> Result<Turn> {
    let dir = tempfile::tempdir_in("/dev/shm").context("make a directory in /dev/shm")?;
    let server = Server::start(variant, dir.path())?;
    let turn = match variant {
        Variant::BarePolling | Variant::BarePolling64 => {
            bare::measure_polling(dir.path(), variant.idle_clients(), count)
        }
        Variant::BareBlocking => bare::measure_blocking(dir.path(), count),
        Variant::SocketBlocking => socket::measure(dir.path(), count),
        Variant::OursPolling
        | Variant::OursPolling64
        | Variant::OursBlocking
        | Variant::OursAdaptive => ours::measure(variant, dir.path(), count),
    };
    drop(server);
    bare::remove_leftovers(dir.path())?;
    turn
}

/// A server process; killed when dropped.
struct Server(Child);

impl Server {
    fn start(variant: Variant, dir: &std::path::Path) -> Result<Self> {
        let child = Command::new(std::env::current_exe().context("find this program")?)
            .args(["--server", &variant.name(), "--dir"])
            .arg(dir)
            .stdin(Stdio::null())
            .spawn()
            .context("start a server")?;
        Ok(Self(child))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            drop(self.0.wait());
        }
    }
}

/// Tries until the server is there: it starts at the same moment.
fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let until_ns = now_ns() + 10_000_000_000;
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if now_ns() > until_ns => {
                return Err(error.context(format!("{what} within 10 s")));
            }
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// Times `count` round trips, after some that are not counted.
fn measure(count: usize, mut once: impl FnMut() -> Result<()>) -> Result<Turn> {
    for _ in 0..warm_up(count) {
        once()?;
    }
    let mut round_trips_ns = Vec::with_capacity(count);
    for _ in 0..count {
        let begun_ns = now_ns();
        once()?;
        round_trips_ns.push(now_ns() - begun_ns);
    }
    Ok(Turn {
        round_trips_ns,
        stages: None,
    })
}

/// Round trips before the measured ones.
fn warm_up(count: usize) -> usize {
    (count / 10).clamp(100, 2_000)
}

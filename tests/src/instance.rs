//! An instance of the real binary, with a name of its own, that leaves nothing behind.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use embedring_client::{Client, ClientBuilder};
use embedring_ipc::clock::now_ns;
use embedring_ipc::{BellsMap, BoardMap, InstanceOptions};
use embedring_protocol::Plan;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::places::{binary, models};
use crate::process::{
    Ran, WATCHDOG, eventually, kill_all_of, processes_of, run, signal, wait_in_time,
};

/// What the issue promises: `SIGTERM` to `up` ends everything within this time.
const STOP_MAX: Duration = Duration::from_secs(5);

/// How an instance is configured.
#[derive(Clone, Debug)]
pub struct Setup {
    env: BTreeMap<String, String>,
    before: Vec<String>,
    binary: PathBuf,
    dir: PathBuf,
}

impl Setup {
    fn new() -> Self {
        Self {
            env: BTreeMap::new(),
            before: Vec::new(),
            binary: binary(),
            dir: PathBuf::from("/dev/shm"),
        }
    }

    /// One null worker of the default name.
    #[must_use]
    pub fn null() -> Self {
        Self::null_workers(&["cpu"])
    }

    /// Null workers of these names.
    #[must_use]
    pub fn null_workers(names: &[&str]) -> Self {
        names.iter().fold(Self::new(), |setup, name| {
            let key = format!("WORKERS__{}__BACKEND", name.to_uppercase());
            setup.set(&key, "null")
        })
    }

    /// Simulated devices of these names, with the nanoseconds that a batch and a token take.
    #[must_use]
    pub fn simulated(devices: &[(&str, u64, u64)]) -> Self {
        devices
            .iter()
            .fold(Self::new(), |setup, (name, batch, token)| {
                let key = |key: &str| format!("WORKERS__{}__{key}", name.to_uppercase());
                setup
                    .set(&key("DEVICE"), &format!("simulated:{name}"))
                    .set(&key("SIMULATED_BATCH_NS"), &batch.to_string())
                    .set(&key("SIMULATED_TOKEN_NS"), &token.to_string())
                    .set(&key("SIMULATED_SQUARE_PS"), "0")
            })
    }

    /// Takes the costs of a simulated device from this file.
    #[must_use]
    pub fn table(self, device: &str, path: &Path) -> Self {
        let key = format!("WORKERS__{}__SIMULATED_TABLE", device.to_uppercase());
        self.set(&key, path.to_str().unwrap())
    }

    /// Children that die do not come back.
    #[must_use]
    pub fn no_restarts(self) -> Self {
        self.set("SUPERVISOR__BACKOFF_MIN_MS", "600000")
            .set("SUPERVISOR__BACKOFF_MAX_MS", "600000")
    }

    /// One worker with this model, by its folder, so that it need not come from the cache.
    #[must_use]
    pub fn model(name: &str) -> Self {
        Self::new().set("MODEL__NAME", models().join(name).to_str().unwrap())
    }

    /// Sets `EMBEDRING_` and this key, for all its processes.
    #[must_use]
    pub fn set(self, key: &str, value: &str) -> Self {
        self.variable(&format!("EMBEDRING_{key}"), value)
    }

    /// Sets any variable, for all its processes.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Children that die come back quickly, however often they die.
    #[must_use]
    pub fn quick_restarts(self) -> Self {
        self.set("SUPERVISOR__BACKOFF_MIN_MS", "20")
            .set("SUPERVISOR__BACKOFF_MAX_MS", "100")
    }

    /// Puts the instance into this folder instead of `/dev/shm`.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = dir.to_owned();
        self.set("RUNTIME__DIR", dir.to_str().unwrap())
    }

    /// Another copy of the binary.
    #[must_use]
    pub fn binary(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.binary);
        self
    }

    /// Words before the binary's name, such as `setpriv` and its flags.
    #[must_use]
    pub fn before(mut self, words: &[&str]) -> Self {
        self.before = words.iter().map(ToString::to_string).collect();
        self
    }

    /// An instance that is not started yet.
    #[must_use]
    pub fn prepare(self) -> Instance {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}-{count}", std::process::id());
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("config.toml"), "").unwrap();
        Instance {
            name,
            setup: self,
            home,
            up: None,
            stderr: Arc::default(),
            ready: Arc::default(),
        }
    }

    /// Starts an instance and waits until it is ready.
    #[track_caller]
    #[must_use]
    pub fn up(self) -> Instance {
        let mut instance = self.prepare();
        instance.start();
        instance.wait_ready();
        instance
    }
}

/// An instance. When dropped it is stopped, and the test fails unless that leaves nothing.
#[derive(Debug)]
pub struct Instance {
    /// Its name, of this test alone.
    pub name: String,
    setup: Setup,
    home: TempDir,
    up: Option<Child>,
    stderr: Arc<Mutex<String>>,
    ready: Arc<Mutex<Vec<String>>>,
}

impl Instance {
    /// A command of the binary on this instance, with nothing of our own environment that it reads.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_as(&self.setup.before, args)
    }

    /// As [`Instance::command`], with other words before the binary's name.
    #[must_use]
    pub fn command_as<W: AsRef<str>>(&self, before: &[W], args: &[&str]) -> Command {
        let mut command = match before.split_first() {
            None => Command::new(&self.setup.binary),
            Some((first, rest)) => {
                let mut command = Command::new(first.as_ref());
                command.args(rest.iter().map(AsRef::as_ref));
                command.arg(&self.setup.binary);
                command
            }
        };
        self.environment(&mut command);
        command.args(args);
        command
    }

    /// Gives a command the environment of this instance.
    pub fn environment(&self, command: &mut Command) {
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("EMBEDRING_") {
                command.env_remove(key);
            }
        }
        command
            .env("EMBEDRING_INSTANCE", &self.name)
            .env("EMBEDRING_CONFIG", self.home.path().join("config.toml"))
            .env("NO_COLOR", "1")
            .envs(&self.setup.env);
    }

    /// A folder of this instance's own, with its configuration file `config.toml`.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Starts `embedring up`.
    pub fn start(&mut self) {
        let mut child = self
            .command(&["up"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.ready = Arc::default();
        collect(
            child.stdout.take().unwrap(),
            Arc::clone(&self.ready),
            Vec::push,
        );
        collect(
            child.stderr.take().unwrap(),
            Arc::clone(&self.stderr),
            |all, line| {
                all.push_str(&line);
                all.push('\n');
            },
        );
        self.up = Some(child);
    }

    /// Waits for the line that says that all workers serve.
    #[track_caller]
    pub fn wait_ready(&mut self) -> String {
        let until_ns = now_ns() + embedring_ipc::clock::to_ns(WATCHDOG);
        loop {
            let line = self
                .lines()
                .into_iter()
                .find(|line| line.starts_with("ready"));
            if let Some(line) = line {
                return line;
            }
            let ended = self.up.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "`up` ended: {ended:?}\n{}", self.stderr());
            assert!(now_ns() < until_ns, "never ready\n{}", self.stderr());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What `up` printed on stdout so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What all its processes said on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Runs a subcommand to its end.
    #[track_caller]
    #[must_use]
    pub fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args), b"")
    }

    /// Runs a subcommand with this stdin to its end.
    #[track_caller]
    #[must_use]
    pub fn run_with(&self, args: &[&str], stdin: &[u8]) -> Ran {
        run(&mut self.command(args), stdin)
    }

    /// How to connect.
    #[must_use]
    pub fn builder(&self) -> ClientBuilder {
        Client::builder(&self.name).dir(&self.setup.dir)
    }

    /// A client of default settings.
    #[track_caller]
    #[must_use]
    pub fn client(&self) -> Client {
        self.builder().connect().unwrap()
    }

    /// Where it lies, for `embedring-ipc`.
    #[must_use]
    pub fn options(&self) -> InstanceOptions {
        InstanceOptions {
            dir: self.setup.dir.clone(),
            ..InstanceOptions::new(&self.name)
        }
    }

    /// The directory of its shared memory, of this user.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.options().path().unwrap()
    }

    /// Its board, to look at.
    #[must_use]
    pub fn board(&self) -> BoardMap {
        BoardMap::open(&embedring_ipc::Instance::open(&self.options()).unwrap()).unwrap()
    }

    /// The plan, waiting for the first one: workers serve without it, so an instance that is ready may have
    /// none yet.
    #[track_caller]
    #[must_use]
    pub fn plan(&self) -> Plan {
        let board = self.board();
        let mut found = None;
        eventually("there is a plan", WATCHDOG, || {
            found = board.scheduler.plan.read();
            found.is_some()
        });
        found.unwrap()
    }

    /// Its bells.
    #[must_use]
    pub fn bells(&self) -> BellsMap {
        BellsMap::open(&embedring_ipc::Instance::open(&self.options()).unwrap()).unwrap()
    }

    /// `embedring status --json`.
    #[track_caller]
    #[must_use]
    pub fn status(&self) -> Value {
        let ran = self.run(&["status", "--json"]).expect_code(0);
        serde_json::from_slice(&ran.stdout).unwrap()
    }

    /// The object of one worker in [`Instance::status`].
    #[track_caller]
    #[must_use]
    pub fn worker(&self, name: &str) -> Value {
        let status = self.status();
        let workers = status["workers"].as_array().unwrap();
        let found = workers.iter().find(|worker| worker["name"] == name);
        found
            .unwrap_or_else(|| panic!("no {name}: {status}"))
            .clone()
    }

    /// The process of a worker that takes requests, waiting for one.
    #[track_caller]
    #[must_use]
    pub fn worker_pid(&self, name: &str) -> u32 {
        let board = self.board();
        let mut found = 0;
        eventually(&format!("worker {name} serves"), WATCHDOG, || {
            found = board
                .workers
                .iter()
                .filter(|slot| slot.state().takes_requests())
                .filter_map(|slot| slot.identity.read())
                .filter(|identity| identity.name.to_text() == name)
                .filter(|identity| embedring_ipc::is_alive(identity.process))
                .find_map(|identity| u32::try_from(identity.process.pid).ok())
                .unwrap_or(0);
            found != 0
        });
        found
    }

    /// The process of the scheduler, waiting for one.
    #[track_caller]
    #[must_use]
    pub fn scheduler_pid(&self) -> u32 {
        let board = self.board();
        let mut found = 0;
        eventually("the scheduler runs", WATCHDOG, || {
            let process = board.scheduler.process.read();
            found = process
                .filter(|process| embedring_ipc::is_alive(*process))
                .map_or(0, |process| u32::try_from(process.pid).unwrap());
            found != 0
        });
        found
    }

    /// The process of `up`.
    #[must_use]
    pub fn up_pid(&self) -> u32 {
        self.up.as_ref().unwrap().id()
    }

    /// Stops it as a user would, and fails unless all is gone in time.
    #[track_caller]
    pub fn stop(&mut self) {
        let begun_ns = now_ns();
        assert!(signal(self.up_pid(), Signal::TERM), "`up` had ended");
        let code = self.wait_up();
        let took = Duration::from_nanos(now_ns() - begun_ns);
        assert_eq!(code, Some(0), "`up` ended badly\n{}", self.stderr());
        assert!(took < STOP_MAX, "stopped after {took:?}\n{}", self.stderr());
        self.expect_nothing_left();
    }

    /// Waits for the end of `up`; its exit code.
    #[track_caller]
    pub fn wait_up(&mut self) -> Option<i32> {
        let mut up = self.up.take().unwrap();
        let status = wait_in_time(&mut up);
        status.expect("`up` ends").code()
    }

    /// Ends `up` as `kill -9` does.
    pub fn kill_up(&mut self) {
        let mut up = self.up.take().unwrap();
        up.kill().unwrap();
        up.wait().unwrap();
    }

    /// Fails if a process or a file of this instance is there.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        let left: Vec<_> = processes_of(&self.name)
            .into_iter()
            .map(|pid| (pid, std::fs::read_to_string(format!("/proc/{pid}/cmdline"))))
            .collect();
        assert!(
            left.is_empty(),
            "processes left: {left:?}\n{}",
            self.stderr()
        );
        let entries = std::fs::read_dir(&self.setup.dir).unwrap();
        let suffix = format!("-{}", self.name);
        let left: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(&suffix))
            .collect();
        assert!(left.is_empty(), "files left: {left:?}\n{}", self.stderr());
    }

    /// Ends whatever is left and removes it, whether it went well or not.
    fn clear(&mut self) {
        kill_all_of(&self.name);
        if let Some(mut up) = self.up.take() {
            drop(up.wait());
        }
        for entry in std::fs::read_dir(&self.setup.dir)
            .into_iter()
            .flatten()
            .flatten()
        {
            let is_ours = entry
                .file_name()
                .to_string_lossy()
                .ends_with(&format!("-{}", self.name));
            if is_ours {
                drop(std::fs::remove_dir_all(entry.path()));
            }
        }
    }
}

impl Drop for Instance {
    #[expect(clippy::print_stderr, reason = "the reader of a failed test's output")]
    fn drop(&mut self) {
        if thread::panicking() {
            let stderr = self.stderr();
            let start = stderr.len().saturating_sub(8000);
            eprintln!(
                "--- stderr of instance {}:\n{}---",
                self.name,
                &stderr[stderr.ceil_char_boundary(start)..]
            );
        } else if self.up.is_some() {
            self.stop();
        }
        self.clear();
    }
}

/// Bytes that are allocated for the files below this folder.
#[must_use]
pub fn allocated_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => allocated_bytes(&entry.path()),
            // A block of this count has 512 bytes, whatever the file system says.
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Reads lines from a pipe into a place, in a thread that ends with the pipe.
fn collect<T: Send + 'static>(
    pipe: impl std::io::Read + Send + 'static,
    place: Arc<Mutex<T>>,
    push: impl Fn(&mut T, String) + Send + 'static,
) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            push(
                &mut place.lock().unwrap_or_else(PoisonError::into_inner),
                line,
            );
        }
    });
}

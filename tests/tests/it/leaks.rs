//! What comes and goes leaves nothing behind while the instance runs: no file, no descriptor, no
//! mapping, no memory.

use std::fs;
use std::path::Path;

use embedring_client::Client;
use embedring_tests::{Instance, LoadClient, Setup, WATCHDOG, eventually, kill};

const LOAD: &str = env!("CARGO_BIN_EXE_embedring-test-load");

/// What could grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    files: usize,
    descriptors: usize,
    mappings: usize,
}

impl Held {
    /// In the instance's directory, and of it by this process. (Other tests may run in the same
    /// process as this one, so what belongs to other instances is not counted.)
    fn by(instance: &Instance, pid: u32) -> Self {
        Self {
            files: files_below(&instance.path()),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))
                .unwrap()
                .flatten()
                .filter_map(|entry| fs::read_link(entry.path()).ok())
                .filter(|to| to.to_string_lossy().contains(&instance.name))
                .count(),
            mappings: fs::read_to_string(format!("/proc/{pid}/maps"))
                .unwrap()
                .lines()
                .filter(|line| line.contains(&instance.name))
                .count(),
        }
    }

    fn by_field(self, other: Self, choose: fn(usize, usize) -> usize) -> Self {
        Self {
            files: choose(self.files, other.files),
            descriptors: choose(self.descriptors, other.descriptors),
            mappings: choose(self.mappings, other.mappings),
        }
    }

    fn max(self, other: Self) -> Self {
        self.by_field(other, usize::max)
    }

    fn min(self, other: Self) -> Self {
        self.by_field(other, usize::min)
    }
}

fn files_below(path: &Path) -> usize {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path()),
            _ => 1,
        })
        .sum()
}

/// Does something many times; afterwards no more is held than at most during the first few times.
#[track_caller]
fn check_constant(instance: &Instance, pid: impl Fn() -> u32, mut act: impl FnMut(usize)) {
    let look = || {
        // What belongs to those who went is dropped when somebody else is served.
        instance.client().embed(&["somebody else"]).unwrap();
        Held::by(instance, pid())
    };
    let mut first = look();
    for number in 0..5 {
        act(number);
        first = first.max(look());
    }
    assert!(
        first.files > 0 && first.mappings > 0,
        "{first:?} is not what this counts"
    );
    (5..45).for_each(&mut act);
    eventually(&format!("no more is held than {first:?}"), WATCHDOG, || {
        let last = look();
        last == last.min(first)
    });
}

#[test]
fn clients_come_and_go() {
    let instance = Setup::null().up();
    let pid = instance.worker_pid("cpu");
    check_constant(
        &instance,
        || pid,
        |number| {
            let client = instance.client();
            client.embed(&[format!("client {number}")]).unwrap();
        },
    );
}

#[test]
fn clients_come_and_are_killed() {
    let instance = Setup::null().up();
    let pid = instance.worker_pid("cpu");
    check_constant(
        &instance,
        || pid,
        |number| {
            let seed = number.to_string();
            let mut client = LoadClient::start(Path::new(LOAD), &instance, &[&seed, "60000"]);
            client.wait_for_calls(1);
            client.kill();
            assert_eq!(client.violations(), Vec::<String>::new());
        },
    );
}

#[test]
fn workers_are_killed_and_their_client_stays() {
    let instance = Setup::null().quick_restarts().up();
    let client: Client = instance.client();
    let this = std::process::id();
    check_constant(
        &instance,
        || this,
        |number| {
            client.embed(&[format!("round {number}")]).unwrap();
            assert!(kill(instance.worker_pid("cpu")));
        },
    );
}

//! The kill test: clients under load while processes die at random.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use embedring_client::Options;
use embedring_ipc::clock::now_ns;
use embedring_tests::{
    Instance, LoadClient, Random, Setup, TINY, WATCHDOG, bits, is_running, kill,
};

const LOAD: &str = env!("CARGO_BIN_EXE_embedring-test-load");
const CLIENTS: usize = 3;
const KILLS: usize = 30;
/// Time-out of each call. A call may take longer by one second and no more; clients watch that.
const TIMEOUT_MS: &str = "10000";

/// What happened.
#[derive(Debug, Default)]
struct Figures {
    kills: BTreeMap<String, u64>,
    good_calls: u64,
    errors: BTreeMap<String, u64>,
    slowest_ms: u64,
}

struct KillTest {
    instance: Instance,
    workers: Vec<String>,
    clients: Vec<LoadClient>,
    reference: Option<PathBuf>,
    random: Random,
    figures: Figures,
}

/// Kills as often as `EMBEDRING_KILLS` says.
fn kills() -> usize {
    std::env::var("EMBEDRING_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

impl KillTest {
    fn new(instance: Instance, workers: &[&str], reference: Option<PathBuf>, seed: u64) -> Self {
        let mut test = Self {
            instance,
            workers: workers.iter().map(ToString::to_string).collect(),
            clients: Vec::new(),
            reference,
            random: Random::new(seed),
            figures: Figures::default(),
        };
        for _ in 0..CLIENTS {
            let client = test.client();
            test.clients.push(client);
        }
        test
    }

    fn client(&mut self) -> LoadClient {
        let seed = self.random.word().to_string();
        let mut args = vec![seed.as_str(), TIMEOUT_MS];
        args.extend(self.reference.as_ref().map(|path| path.to_str().unwrap()));
        LoadClient::start(Path::new(LOAD), &self.instance, &args)
    }

    /// Takes in what a client said before it is gone.
    fn account(&mut self, index: usize) {
        let client = &self.clients[index];
        assert_eq!(client.violations(), Vec::<String>::new());
        self.figures.good_calls += client.good_calls();
        self.figures.slowest_ms = self.figures.slowest_ms.max(client.slowest_ms());
        for (kind, count) in client.errors() {
            *self.figures.errors.entry(kind).or_default() += count;
        }
    }

    /// Kills one process and waits until each client has been answered since: no sleep, and a hang
    /// of anybody ends the test.
    fn kill_one(&mut self) {
        let victims = self.workers.len() + 1 + CLIENTS;
        let victim = self.random.below(victims);
        let what = if let Some(worker) = self.workers.get(victim) {
            assert!(kill(self.instance.worker_pid(worker)));
            "worker"
        } else if victim == self.workers.len() {
            assert!(kill(self.instance.scheduler_pid()));
            "scheduler"
        } else {
            let index = victim - self.workers.len() - 1;
            self.clients[index].kill();
            self.account(index);
            self.clients[index] = self.client();
            "client"
        };
        *self.figures.kills.entry(what.to_owned()).or_default() += 1;
        // Sometimes the next one dies before anybody has recovered.
        if self.random.below(3) == 0 {
            return;
        }
        let more = 1 + self.random.below(10) as u64;
        let watched = self.random.below(CLIENTS);
        self.clients[watched].wait_for_calls(more);
        for client in &self.clients {
            assert_eq!(client.violations(), Vec::<String>::new());
            assert!(is_running(client.pid()), "{:?}", client.lines());
        }
    }

    fn run(mut self, kills: usize) -> Figures {
        for client in &self.clients {
            client.wait_for_calls(3);
        }
        for _ in 0..kills {
            self.kill_one();
        }
        // The survivors go on, and a newcomer is served.
        for client in &self.clients {
            client.wait_for_calls(20);
        }
        let newcomer = self.client();
        newcomer.wait_for_calls(5);
        self.clients.push(newcomer);
        for index in 0..self.clients.len() {
            self.clients[index].finish();
            self.account(index);
        }
        // Fails unless all processes end in time and nothing is left.
        self.instance.stop();
        self.figures
    }
}

#[expect(clippy::print_stdout, reason = "figures for the record")]
fn report(name: &str, begun_ns: u64, figures: &Figures) {
    println!(
        "{name}: {:.1} s, {figures:?}",
        (now_ns() - begun_ns) as f64 / 1e9
    );
}

fn setup(setup: Setup) -> Instance {
    // Hung processes are not the subject, so that nothing but the killer kills.
    setup.quick_restarts().up()
}

#[test]
fn null_workers_are_killed_at_random() {
    let begun_ns = now_ns();
    let instance = setup(Setup::null_workers(&["a", "b"]));
    let seed = 1 + u64::from(std::process::id());
    let figures = KillTest::new(instance, &["a", "b"], None, seed).run(kills());
    report(&format!("null workers, seed {seed}"), begun_ns, &figures);
    assert!(figures.good_calls > 100, "{figures:?}");
    assert_few_errors(&figures);
}

/// Errors are allowed: three workers may die with one and the same request. They are the exception.
#[track_caller]
fn assert_few_errors(figures: &Figures) {
    let errors: u64 = figures.errors.values().sum();
    assert!(errors * 10 < figures.good_calls, "{figures:?}");
    let allowed = ["worker_died", "overloaded", "deadline"];
    for kind in figures.errors.keys() {
        assert!(allowed.contains(&kind.as_str()), "{figures:?}");
    }
}

#[test]
fn workers_with_a_model_are_killed_at_random() {
    let begun_ns = now_ns();
    let instance = setup(
        Setup::model(TINY)
            .set("WORKERS__A__THREADS", "1")
            .set("WORKERS__B__THREADS", "1"),
    );
    let texts: Vec<String> = (0..200)
        .map(|index| format!("text {index}, {}", "longer and longer ".repeat(index % 17)))
        .collect();
    // What rows are right is settled before anybody is killed, and equal to the last bit after.
    let client = instance.client();
    let answer = client.embed(&texts).unwrap();
    for (index, text) in texts.iter().enumerate() {
        let alone = client.embed_with(&[text], &Options::default()).unwrap();
        assert_eq!(bits(alone.row(0)), bits(answer.row(index)), "{text}");
    }
    let pairs: Vec<(&String, &[f32])> = texts.iter().zip(answer.iter()).collect();
    let reference = instance.home().join("reference.json");
    std::fs::write(&reference, serde_json::to_vec(&pairs).unwrap()).unwrap();
    drop(answer);
    drop(client);
    let seed = 2 + u64::from(std::process::id());
    let figures = KillTest::new(instance, &["a", "b"], Some(reference), seed).run(kills() / 3);
    report(&format!("model workers, seed {seed}"), begun_ns, &figures);
    assert!(figures.good_calls > 50, "{figures:?}");
    assert_few_errors(&figures);
}

#[test]
fn the_watchdog_outlasts_a_call() {
    let timeout = std::time::Duration::from_millis(TIMEOUT_MS.parse().unwrap());
    assert!(
        WATCHDOG > timeout * 2,
        "a slow call must not look like a hang"
    );
}

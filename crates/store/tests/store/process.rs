//! Several processes, the environment, and `kill -9`. The processes are copies of this test binary.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use embedring_store::{Progress, PullRequest, Store};

use crate::{
    server::{Hub, Manner},
    support::{Bench, assert_is_small_model, no_sources, table, write_model},
};

const NAME: &str = "EMBEDRING_STORE_TEST_NAME";

/// Not a test: what the processes that tests start do. Does nothing when started by hand.
#[test]
fn child() {
    let Ok(name) = env::var(NAME) else { return };
    let pulled = Store::from_env()
        .unwrap()
        .pull(&PullRequest::new(name), &Printer)
        .unwrap();
    say(&format!("pulled already_there={}", pulled.already_there));
}

struct Printer;

impl Progress for Printer {
    fn step(&self, what: &str) {
        say(&format!("step {what}"));
    }

    fn bytes(&self, _done: u64, _total: Option<u64>) {}
}

/// Past the test harness, which would keep it back, and at once.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}")
        .and_then(|()| out.flush())
        .expect("somebody reads");
}

/// A process that pulls `org/small` by what its environment says.
struct Puller {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Puller {
    fn start(bench: &Bench, hub: &Hub) -> Self {
        let mut command = Command::new(env::current_exe().expect("this binary"));
        for proxy in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
            command.env_remove(proxy).env_remove(proxy.to_lowercase());
        }
        let mut child = command
            .args(["--exact", "process::child", "--nocapture"])
            .env(NAME, "org/small")
            .env("EMBEDRING_MODELS", bench.store.root())
            .env_remove("EMBEDRING_MODEL_SOURCE")
            .env("HF_ENDPOINT", hub.endpoint())
            .env("HF_TOKEN", "sesame")
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// Reads on until a line begins with `start`.
    #[track_caller]
    fn wait_for(&mut self, start: &str) -> String {
        let mut seen = Vec::new();
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            if line.starts_with(start) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line `{start}` in {seen:?}");
    }
}

impl Drop for Puller {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn bench() -> Bench {
    Bench::new(no_sources(), table(None, Vec::new()))
}

#[test]
fn the_environment_names_the_cache_the_hub_and_the_token() {
    let (bench, hub) = (bench(), Hub::start("org/small", Manner::Good));
    Puller::start(&bench, &hub).wait_for("pulled already_there=false");
    assert_is_small_model(&bench.store.resolve("org/small").unwrap());
    assert!(
        hub.requests()
            .iter()
            .all(|head| head.contains("Bearer sesame"))
    );
}

#[test]
fn two_pulls_at_once_cost_one_download() {
    let (bench, hub) = (bench(), Hub::start("org/small", Manner::HalfThenStall));
    let mut first = Puller::start(&bench, &hub);
    hub.wait_for_weights();
    let mut second = Puller::start(&bench, &hub);
    second.wait_for("step waiting for another pull of org/small");
    hub.release();
    first.wait_for("pulled already_there=false");
    second.wait_for("pulled already_there=true");
    assert_eq!(hub.weight_downloads(), 1);
    assert_is_small_model(&bench.store.resolve("org/small").unwrap());
}

#[test]
fn a_killed_pull_leaves_no_model_and_the_next_one_cleans_up() {
    let (bench, hub) = (bench(), Hub::start("org/small", Manner::HalfThenStall));
    let mut puller = Puller::start(&bench, &hub);
    hub.wait_for_weights();
    puller.child.kill().unwrap();
    puller.child.wait().unwrap();
    assert!(bench.store.resolve("org/small").is_err());
    assert_eq!(bench.store.list().unwrap(), []);
    let staging = bench.store.root().join(".staging");
    assert!(
        !crate::support::files_under(&staging).is_empty(),
        "it was killed in the middle"
    );

    let source = bench.folder.path().join("source");
    write_model(&source);
    // Not held up by the dead process's lock either.
    let pulled = bench.pull_from("org/small", &source).unwrap();
    assert_is_small_model(&pulled.path);
    assert_eq!(
        crate::support::files_under(&staging),
        Vec::<std::path::PathBuf>::new()
    );
}

//! A tmpfs that is too small, or becomes full.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use embedring_client::Options;
use embedring_tests::{
    LoadClient, Setup, WATCHDOG, bits, eventually, is_root, is_running, null_row, run, skip,
};
use tempfile::TempDir;

const LOAD: &str = env!("CARGO_BIN_EXE_embedring-test-load");

/// A tmpfs of this size, unmounted when dropped.
struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        if !is_root() {
            skip("only root can mount a tmpfs");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let ran = run(
            std::process::Command::new("mount")
                .args([
                    "-t",
                    "tmpfs",
                    "-o",
                    &format!("size={size},mode=1777"),
                    "embedring-test",
                ])
                .arg(dir.path()),
            b"",
        );
        if ran.code != Some(0) {
            skip(&format!("this root may not mount: {}", ran.stderr));
            return None;
        }
        Some(Self { dir })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes all of it.
    fn fill(&self) {
        let path = self.path().join("filler");
        let mut filler = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        for block in [1 << 20, 4096, 1] {
            while filler.write_all(&vec![7; block]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = run(
            std::process::Command::new("umount")
                .arg("-l")
                .arg(self.dir.path()),
            b"",
        );
        if !std::thread::panicking() {
            assert_eq!(unmounted.code, Some(0), "{}", unmounted.stderr);
        }
    }
}

#[test]
fn too_small_to_start_is_said_at_once() {
    let Some(small) = Tmpfs::mount("1m") else {
        return;
    };
    let instance = Setup::null()
        .dir(small.path())
        .set("SUPERVISOR__READY_TIMEOUT_MS", "3000")
        .prepare();
    let path = small.path().to_str().unwrap();
    instance.run(&["up"]).expect_failure(&[path, "runtime.dir"]);
    instance.expect_nothing_left();
}

#[test]
fn full_while_serving_is_an_error_and_no_death() {
    let Some(tmpfs) = Tmpfs::mount("64m") else {
        return;
    };
    let instance = Setup::null().dir(tmpfs.path()).up();
    let pid = instance.worker_pid("cpu");
    let early = instance.client();
    early.embed(&["before"]).unwrap();
    let unused = instance.client();
    tmpfs.fill();

    let options = Options {
        timeout: std::time::Duration::from_secs(5),
        ..Options::default()
    };
    // One that has its slots already, one that has a place and none, one that comes now, and the
    // command line: each gets rows or is told what is the matter.
    let long: Vec<String> = (0..2000).map(|index| format!("text {index}")).collect();
    for client in [&early, &unused] {
        match client.embed_with(&long, &options) {
            Ok(answer) => assert_eq!(answer.row(7), null_row("text 7")),
            Err(error) => assert_eq!(error.kind(), "no_memory", "{error}"),
        }
    }
    let error = match instance.builder().connect() {
        Ok(client) => client
            .embed_with(&["now"], &options)
            .unwrap_err()
            .to_string(),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("tmpfs"), "{error}");
    let ran = instance.run(&["embed", "--timeout-ms", "5000", "now"]);
    ran.expect_failure(&["tmpfs"]);
    assert!(
        is_running(pid),
        "the worker died of it\n{}",
        instance.stderr()
    );
    assert_eq!(instance.worker_pid("cpu"), pid);

    tmpfs.free();
    for client in [&early, &unused] {
        eventually("it goes on when there is room again", WATCHDOG, || {
            client
                .embed_with(&["after"], &options)
                .is_ok_and(|answer| bits(answer.row(0)) == bits(&null_row("after")))
        });
    }
    let ran = instance.run(&["embed", "after"]).expect_code(0);
    assert_eq!(ran.objects().len(), 1);
}

#[test]
fn filled_and_freed_under_load_nobody_dies() {
    let Some(tmpfs) = Tmpfs::mount("64m") else {
        return;
    };
    let instance = Setup::null_workers(&["a", "b"]).dir(tmpfs.path()).up();
    let pids = ["a", "b"].map(|name| instance.worker_pid(name));
    let mut clients: Vec<_> = (0..3)
        .map(|seed: u64| {
            LoadClient::start(Path::new(LOAD), &instance, &[&seed.to_string(), "10000"])
        })
        .collect();
    let no_memory = |client: &LoadClient| client.errors().get("no_memory").copied().unwrap_or(0);
    for _ in 0..10 {
        clients.iter().for_each(|client| client.wait_for_calls(3));
        let before = no_memory(&clients[0]);
        tmpfs.fill();
        eventually("a client is told so", WATCHDOG, || {
            no_memory(&clients[0]) > before
        });
        instance
            .run(&["embed", "--timeout-ms", "10000", "now"])
            .expect_failure(&["tmpfs"]);
        tmpfs.free();
    }
    for client in &mut clients {
        client.wait_for_calls(3);
        client.finish();
        assert_eq!(client.violations(), Vec::<String>::new());
        let kinds: Vec<_> = client.errors().into_keys().collect();
        assert!(kinds.iter().all(|kind| kind == "no_memory"), "{kinds:?}");
    }
    assert_eq!(["a", "b"].map(|name| instance.worker_pid(name)), pids);
}

#[test]
fn many_clients_on_a_small_tmpfs_are_served_or_told() {
    let Some(tmpfs) = Tmpfs::mount("48m") else {
        return;
    };
    let instance = Setup::null().dir(tmpfs.path()).up();
    let pid = instance.worker_pid("cpu");
    let mut served = 0;
    let mut clients = Vec::new();
    for number in 0..64 {
        let client = match instance.builder().connect() {
            Ok(client) => client,
            Err(error) => panic!("{error}"),
        };
        let options = Options {
            timeout: std::time::Duration::from_secs(5),
            ..Options::default()
        };
        let text = format!("client {number}");
        match client.embed_with(&[&text], &options) {
            Ok(answer) => {
                assert_eq!(bits(answer.row(0)), bits(&null_row(&text)));
                served += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), "no_memory", "{error}");
                break;
            }
        }
        clients.push(client);
    }
    assert!(served > 0);
    assert_eq!(instance.worker_pid("cpu"), pid, "{}", instance.stderr());
}

#[test]
fn a_read_only_folder_is_an_error() {
    let Some(tmpfs) = Tmpfs::mount("16m") else {
        return;
    };
    drop(File::create(tmpfs.path().join("x")).unwrap());
    let remounted = run(
        std::process::Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(tmpfs.path()),
        b"",
    );
    assert_eq!(remounted.code, Some(0), "{}", remounted.stderr);
    let instance = Setup::null().dir(tmpfs.path()).prepare();
    let path = tmpfs.path().to_str().unwrap();
    instance.run(&["up"]).expect_failure(&[path, "Read-only"]);
}

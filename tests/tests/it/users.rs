//! Who may connect, with real users: two in a group, one outside it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use embedring_tests::{
    Instance, Ran, Setup, WATCHDOG, binary, eventually, is_root, null_row, run, skip,
};
use tempfile::TempDir;

/// Users and groups of this test alone; they go when it ends.
struct Accounts {
    users: Vec<String>,
    groups: Vec<String>,
    /// A copy of the binary that everybody may run: a build folder is often closed to others.
    home: TempDir,
}

/// Another test may hold the lock of the account files; the tools then fail and may be asked again.
fn account_tool(args: &[&str]) {
    let mut last = String::new();
    eventually(&format!("{args:?}"), WATCHDOG, || {
        let ran = run(Command::new(args[0]).args(&args[1..]), b"");
        last = ran.stderr;
        assert!(
            ran.code == Some(0) || last.contains("lock"),
            "{args:?}: {last}"
        );
        ran.code == Some(0)
    });
}

impl Accounts {
    /// Users `a` and `b` in group `in`, `c` in group `out`.
    fn make() -> Option<Self> {
        if !is_root() {
            skip("only root can make users");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(binary(), home.path().join("embedring")).unwrap();
        let mut accounts = Self {
            users: Vec::new(),
            groups: Vec::new(),
            home,
        };
        for name in ["in", "out"] {
            let group = accounts.name(name);
            account_tool(&["groupadd", &group]);
            accounts.groups.push(group);
        }
        for (user, group) in [("a", "in"), ("b", "in"), ("c", "out")] {
            let (user, group) = (accounts.name(user), accounts.name(group));
            // The group comes second, as groups for a purpose do; the first is the user's own.
            account_tool(&[
                "useradd",
                "--no-create-home",
                "--user-group",
                "--groups",
                &group,
                &user,
            ]);
            accounts.users.push(user);
        }
        Some(accounts)
    }

    fn name(&self, role: &str) -> String {
        // One of a test process at a time is not enough: threads share the process id.
        let unique: String = self
            .home
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|letter| letter.to_ascii_lowercase())
            .collect();
        format!("er{}{unique}{role}", std::process::id())
    }

    /// Words that run a command as this user with all its groups.
    fn run_as(&self, role: &str) -> Vec<String> {
        let user = self.name(role);
        [
            "setpriv",
            &format!("--reuid={user}"),
            &format!("--regid={user}"),
            "--init-groups",
            "--",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn setup(&self) -> Setup {
        let words = self.run_as("a");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Setup::null()
            .before(&words)
            .binary(&self.program())
            .set("RUNTIME__OWNER", &self.name("a"))
    }

    fn program(&self) -> PathBuf {
        self.home.path().join("embedring")
    }

    fn embed(&self, instance: &Instance, role: &str) -> Ran {
        run(
            &mut instance.command_as(&self.run_as(role), &["embed", "from another user"]),
            b"",
        )
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        for user in &self.users {
            // Its own group goes with it.
            drop(std::panic::catch_unwind(|| {
                account_tool(&["userdel", user])
            }));
        }
        for group in &self.groups {
            drop(std::panic::catch_unwind(|| {
                account_tool(&["groupdel", group])
            }));
        }
    }
}

/// Others must be able to read the configuration file in the instance's own folder.
fn open_home(instance: &Instance) {
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(instance.home(), all).unwrap();
}

fn start(setup: Setup) -> Instance {
    let mut instance = setup.prepare();
    open_home(&instance);
    instance.start();
    instance.wait_ready();
    instance
}

#[track_caller]
fn expect_row(ran: Ran) {
    let ran = ran.expect_code(0);
    let row: Vec<f32> = serde_json::from_value(ran.objects()[0]["embedding"].clone()).unwrap();
    assert_eq!(row, null_row("from another user"));
}

#[test]
fn members_of_the_group_connect_and_others_are_told_its_name() {
    let Some(accounts) = Accounts::make() else {
        return;
    };
    let group = accounts.name("in");
    let instance = start(accounts.setup().set("RUNTIME__GROUP", &group));
    for role in ["a", "b", "a", "b"] {
        expect_row(accounts.embed(&instance, role));
    }
    // At the same time, and more than once.
    std::thread::scope(|scope| {
        for role in ["a", "b", "b"] {
            let (accounts, instance) = (&accounts, &instance);
            scope.spawn(move || expect_row(accounts.embed(instance, role)));
        }
    });
    accounts
        .embed(&instance, "c")
        .expect_failure(&["permission denied", &group, &instance.name]);
    let status = run(
        &mut instance.command_as(&accounts.run_as("b"), &["status", "--json"]),
        b"",
    );
    assert!(status.expect_code(0).text().contains("\"serving\""));
    // What a member of the group left is cleaned up after by the owner's scheduler and by `up`.
    drop(instance);
}

#[test]
fn without_a_group_only_the_owner_connects() {
    let Some(accounts) = Accounts::make() else {
        return;
    };
    let instance = start(accounts.setup());
    expect_row(accounts.embed(&instance, "a"));
    for role in ["b", "c"] {
        accounts.embed(&instance, role).expect_failure(&[
            "permission denied",
            &accounts.name("a"),
            "runtime.group",
        ]);
    }
}

#[test]
fn without_an_owner_each_user_has_instances_of_their_own() {
    let Some(accounts) = Accounts::make() else {
        return;
    };
    let group = accounts.name("in");
    let instance = start(accounts.setup().set("RUNTIME__GROUP", &group));
    let mut command = instance.command_as(&accounts.run_as("b"), &["embed", "x"]);
    command.env_remove("EMBEDRING_RUNTIME__OWNER");
    run(&mut command, b"").expect_failure(&["embedring up", &accounts.name("b")]);
    // Nobody starts an instance in another's name.
    let up = run(
        &mut instance.command_as(&accounts.run_as("c"), &["up"]),
        b"",
    );
    assert_eq!(up.code, Some(1), "{}", up.stderr);
}

#[test]
fn a_group_that_the_owner_is_not_in_is_an_error() {
    let Some(accounts) = Accounts::make() else {
        return;
    };
    let foreign = accounts.name("out");
    for (group, says) in [
        (foreign.as_str(), "must be a member"),
        ("no-such-group", "no group"),
    ] {
        let instance = accounts.setup().set("RUNTIME__GROUP", group).prepare();
        open_home(&instance);
        instance
            .run(&["up"])
            .expect_failure(&["runtime.group", group, says]);
        instance.expect_nothing_left();
    }
    let instance = accounts
        .setup()
        .set("RUNTIME__OWNER", "no-such-user")
        .prepare();
    open_home(&instance);
    instance
        .run(&["embed", "x"])
        .expect_failure(&["runtime.owner", "no-such-user"]);
}

#[test]
fn a_configuration_that_one_may_not_read_is_an_error() {
    let Some(accounts) = Accounts::make() else {
        return;
    };
    let instance = accounts.setup().prepare();
    open_home(&instance);
    let file = instance.home().join("config.toml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    for command in ["check-config", "up"] {
        instance
            .run(&[command])
            .expect_failure(&["config.toml", "ermission denied"]);
    }
}

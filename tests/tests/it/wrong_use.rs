//! What goes wrong before anything runs: the message says what to do.

use std::os::unix::fs::PermissionsExt;

use embedring_tests::{MINILM, Setup, is_root, models};

#[test]
fn help_fits_a_screen_and_completions_are_scripts() {
    let instance = Setup::null().prepare();
    let help = instance.run(&["-h"]).expect_code(0);
    assert!(help.text().lines().count() <= 40, "{}", help.text());
    for command in [
        "up",
        "down",
        "embed",
        "status",
        "worker",
        "scheduler",
        "check-config",
    ] {
        assert!(help.text().contains(command), "{command}");
        let help = instance.run(&[command, "-h"]).expect_code(0);
        assert!(help.text().lines().count() <= 40, "{}", help.text());
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = instance.run(&["completions", shell]).expect_code(0);
        assert!(script.text().contains("check-config"), "{shell}");
    }
}

#[test]
fn wrong_usage_ends_with_two() {
    let instance = Setup::null().prepare();
    for args in [
        &["embed", "--output", "xml", "x"][..],
        &["embed", "--no-such-flag"],
        &["embed", "--timeout-ms", "soon", "x"],
        &["embed", "--file", "f", "x"],
        &["no-such-command"],
        &["worker", "--name"],
    ] {
        let ran = instance.run(args).expect_code(2);
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn no_instance_is_said_with_the_command_that_starts_one() {
    let instance = Setup::null().prepare();
    for args in [
        &["embed", "x"][..],
        &["status"],
        &["status", "--json"],
        &["down"],
    ] {
        instance
            .run(args)
            .expect_failure(&["embedring up", &instance.name]);
    }
    let error = instance.builder().connect().unwrap_err();
    assert!(error.to_string().contains("embedring up"), "{error}");
}

#[test]
fn a_good_configuration_is_called_good() {
    let instance = Setup::null().prepare();
    let ran = instance.run(&["check-config"]).expect_code(0);
    assert!(ran.text().starts_with("ok"), "{}", ran.text());
    let show = instance.run(&["check-config", "--show"]).expect_code(0);
    // What is shown is a file that says the same.
    let file = instance.home().join("shown.toml");
    std::fs::write(&file, show.text()).unwrap();
    let again = instance
        .run(&["--config", file.to_str().unwrap(), "check-config", "--show"])
        .expect_code(0);
    assert_eq!(again.text(), show.text());
}

#[test]
fn a_bad_configuration_is_named_by_file_and_key() {
    let instance = Setup::null().prepare();
    let file = instance.home().join("config.toml");
    let check = |text: &str, parts: &[&str]| {
        std::fs::write(&file, text).unwrap();
        for args in [&["check-config"][..], &["up"], &["embed", "x"]] {
            let ran = instance.run(args).expect_code(1);
            for part in parts.iter().chain(&["config.toml"]) {
                assert!(ran.stderr.contains(part), "no {part:?}: {}", ran.stderr);
            }
        }
    };
    check(
        "[limits]\nclients_maximum = 3\n",
        &["clients_maximum", "clients_max"],
    );
    check("[limits]\nclients_max = 0\n", &["limits.clients_max"]);
    check("limits = [", &["config.toml:1:", "TOML"]);
    std::fs::remove_file(&file).unwrap();
    instance
        .run(&["check-config"])
        .expect_failure(&["config.toml"]);
    instance
        .run(&[
            "--config",
            instance.home().to_str().unwrap(),
            "check-config",
        ])
        .expect_failure(&[instance.home().to_str().unwrap()]);
}

#[test]
fn an_unknown_variable_is_an_error() {
    let instance = Setup::null().set("LIMITS__CLIENTS_MAXI", "3").prepare();
    instance
        .run(&["check-config"])
        .expect_failure(&["EMBEDRING_LIMITS__CLIENTS_MAXI"]);
}

#[test]
fn an_unreadable_configuration_is_an_error() {
    if is_root() {
        embedring_tests::skip("root reads every file; tested for other users in users.rs");
        return;
    }
    let instance = Setup::null().prepare();
    let file = instance.home().join("config.toml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    instance
        .run(&["check-config"])
        .expect_failure(&["config.toml"]);
}

#[test]
fn a_model_that_is_not_there_is_said_with_the_command_that_gets_it() {
    let empty = tempfile::tempdir().unwrap();
    let setup = |name: &str| {
        Setup::model(MINILM)
            .set("MODELS", empty.path().to_str().unwrap())
            .set("MODEL__NAME", name)
            .prepare()
    };
    let instance = setup(MINILM);
    let pull = format!("embedring model pull {MINILM}");
    for command in ["up", "check-config"] {
        instance.run(&[command]).expect_failure(&[&pull]);
    }
    instance.expect_nothing_left();
    let missing = empty.path().join("nowhere");
    let instance = setup(missing.to_str().unwrap());
    instance.run(&["up"]).expect_failure(&["nowhere"]);
    instance.expect_nothing_left();
}

#[test]
fn a_folder_that_holds_no_model_is_said_at_once() {
    // A worker that can not work as configured is not started again and again.
    let broken = tempfile::tempdir().unwrap();
    let copy = broken.path().join("broken");
    std::fs::create_dir(&copy).unwrap();
    for name in ["config.json", "tokenizer.json", "modules.json"] {
        std::fs::copy(models().join(MINILM).join(name), copy.join(name)).unwrap();
    }
    std::fs::write(copy.join("model.safetensors"), b"no weights").unwrap();
    let instance = Setup::model(MINILM)
        .set("MODEL__NAME", copy.to_str().unwrap())
        .prepare();
    instance
        .run(&["up"])
        .expect_failure(&["broken", "worker 'cpu'"]);
    instance.expect_nothing_left();
}

#[test]
fn the_wrong_model_is_refused_with_the_one_there_is() {
    let instance = Setup::null().up();
    instance
        .run(&["embed", "--model", "other", "x"])
        .expect_failure(&["no worker serves model 'other'", "null"]);
    let right = instance
        .run(&["embed", "--model", "null", "x"])
        .expect_code(0);
    assert_eq!(right.objects().len(), 1);
    instance
        .run(&["embed", "--prompt-name", "query", "x"])
        .expect_failure(&["no prompt named 'query'"]);
    instance
        .run(&["embed", "--dimensions", "385", "x"])
        .expect_failure(&["385", "384"]);
}

#[test]
fn a_second_supervisor_is_refused() {
    let instance = Setup::null().up();
    let pid = instance.up_pid().to_string();
    instance
        .run(&["up"])
        .expect_failure(&["already running", &pid, "--instance"]);
    instance
        .run(&["worker", "--name", "cpu"])
        .expect_failure(&["already running"]);
    instance
        .run(&["scheduler"])
        .expect_failure(&["already running"]);
    instance
        .run(&["worker", "--name", "gpu"])
        .expect_failure_code(78, &["no worker 'gpu' is configured", "cpu"]);
    // None of them disturbed it.
    let ran = instance.run(&["embed", "x"]).expect_code(0);
    assert_eq!(ran.objects().len(), 1);
}

#[test]
fn a_path_in_use_is_named_and_left_alone() {
    let instance = Setup::null().prepare();
    std::fs::write(instance.path(), "somebody's").unwrap();
    let path = instance.path();
    let path = path.to_str().unwrap();
    for args in [&["up"][..], &["embed", "x"], &["status"]] {
        instance.run(args).expect_failure(&[path, "remove it"]);
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), "somebody's");
    std::fs::remove_file(path).unwrap();

    std::os::unix::fs::symlink("/", path).unwrap();
    instance.run(&["up"]).expect_failure(&[path, "remove it"]);
    std::fs::remove_file(path).unwrap();

    if is_root() {
        // Somebody else's directory under our name.
        std::fs::create_dir(path).unwrap();
        std::os::unix::fs::chown(path, Some(65534), None).unwrap();
        for args in [&["up"][..], &["embed", "x"]] {
            instance.run(args).expect_failure(&[path, "runtime.dir"]);
        }
        std::fs::remove_dir(path).unwrap();
    }
    let nowhere = Setup::null()
        .set("RUNTIME__DIR", "/no-such-folder")
        .prepare();
    for command in ["up", "check-config"] {
        nowhere.run(&[command]).expect_failure(&["/no-such-folder"]);
    }
}

#[test]
fn an_empty_directory_of_our_own_is_taken_over_and_an_instance_without_board_is_told() {
    let mut instance = Setup::null().prepare();
    std::fs::create_dir(instance.path()).unwrap();
    instance
        .run(&["embed", "x"])
        .expect_failure(&["embedring up"]);
    instance.start();
    instance.wait_ready();
    instance.client().embed(&["x"]).unwrap();
}

//! Loading as a whole: files, variables, messages, and the reference.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::load_with;
use crate::schema::{Kind, leaves};
use crate::{
    BackendKind, Config, ConfigError, Device, KernelsKind, LogFormat, MAX_WORKERS, Overrides,
    PoolingKind, PrecisionKind, WaitKind, bounds, reference_markdown,
};

/// Loads `toml` with `env` over it, on a host without any other file.
pub(crate) fn load(toml: &[u8], env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, toml).unwrap();
    let flags = Overrides {
        config: Some(path),
        ..Overrides::default()
    };
    load_with(&flags, &environment(env), Path::new("/nonexistent"))
}

fn environment(env: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
    env.iter()
        .map(|&(name, value)| (name.into(), value.into()))
        .collect()
}

pub(crate) fn good(toml: &str, env: &[(&str, &str)]) -> Config {
    let mut config = load(toml.as_bytes(), env).unwrap_or_else(|e| panic!("{toml}: {e}"));
    config.source = None;
    config
}

/// The message for a refused configuration, with the folder of the file cut off.
pub(crate) fn refused(toml: &str, env: &[(&str, &str)]) -> String {
    let message = load(toml.as_bytes(), env).expect_err(toml).to_string();
    match message.find("c.toml:") {
        Some(at) => message[at..].to_owned(),
        None => message,
    }
}

#[test]
fn nothing_set_gives_the_documented_defaults() {
    let config = load_with(
        &Overrides::default(),
        &BTreeMap::new(),
        Path::new("/nonexistent"),
    );
    let config = config.unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.source, None);
    assert_eq!(config.instance, "default");
    assert_eq!(config.runtime.dir, Path::new("/dev/shm"));
    assert_eq!((config.runtime.owner, config.runtime.group), (None, None));
    assert_eq!(config.limits.clients_max, 64);
    assert_eq!(config.limits.request_slot_bytes, 65_536);
    assert_eq!(config.model.name, "all-MiniLM-L6-v2");
    assert_eq!(config.workers.keys().collect::<Vec<_>>(), ["cpu"]);
    let worker = &config.workers["cpu"];
    assert_eq!(
        (&worker.device, worker.backend),
        (&Device::Cpu, BackendKind::Packed)
    );
    assert_eq!(
        (worker.kernels, worker.pin_threads),
        (KernelsKind::Auto, false)
    );
    assert_eq!(config.model.precision, PrecisionKind::F32);
    assert_eq!((config.model.max_loss, config.model.survey), (0.001, true));
    assert_eq!(
        (worker.wait, worker.spin),
        (WaitKind::Adaptive, Duration::from_micros(50))
    );
    assert_eq!(worker.idle_unload, Duration::ZERO);
    assert_eq!(config.supervisor.stop_timeout, Duration::from_secs(4));
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn a_file_sets_every_kind_of_value() {
    let config = good(
        r#"
        instance = "search"
        runtime = { dir = "/run/embedring", group = "search", owner = "" }
        limits.request_slot_bytes = "128KiB"
        limits.response_slot_bytes = 18432
        [model]
        name = "/models/mine"
        max_tokens = 128
        pooling = "cls"
        normalize = false
        default_prompt = ""
        precision = "auto"
        max_loss = 1e-2
        survey = false
        [workers.a-0]
        backend = "null"
        kernels = "avx2-vnni"
        pin_threads = true
        idle_unload_ms = 60_000
        memory_max_bytes = "1GiB"
        wait = "poll"
        [workers.b]
        [log]
        format = "json"
        "#,
        &[],
    );
    assert_eq!(config.instance, "search");
    assert_eq!(config.runtime.dir, Path::new("/run/embedring"));
    assert_eq!(
        (config.runtime.owner, config.runtime.group),
        (None, Some("search".to_owned()))
    );
    assert_eq!(config.limits.request_slot_bytes, 131_072);
    assert_eq!(config.limits.response_slot_bytes, 18_432);
    assert_eq!(config.model.max_tokens, Some(128));
    assert_eq!(config.model.pooling, Some(PoolingKind::Cls));
    assert_eq!(config.model.normalize, Some(false));
    assert_eq!(config.model.default_prompt.as_deref(), Some(""));
    assert_eq!(config.model.precision, PrecisionKind::Auto);
    assert_eq!((config.model.max_loss, config.model.survey), (0.01, false));
    assert_eq!(config.workers.keys().collect::<Vec<_>>(), ["a-0", "b"]);
    assert_eq!(config.workers["a-0"].kernels, KernelsKind::Avx2Vnni);
    assert!(config.workers["a-0"].pin_threads);
    assert_eq!(config.workers["a-0"].backend, BackendKind::Null);
    assert_eq!(config.workers["a-0"].idle_unload, Duration::from_secs(60));
    assert_eq!(config.workers["a-0"].memory_max_bytes, 1 << 30);
    assert_eq!(config.workers["a-0"].wait, WaitKind::Poll);
    assert_eq!(config.workers["b"], Config::default().workers["cpu"]);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn variables_are_stronger_than_the_file_and_flags_than_both() {
    let file = "instance = \"a\"\n[workers.cpu-0]\nthreads = 1\nspin_us = 7\n";
    let env = [
        ("EMBEDRING_INSTANCE", "b"),
        ("EMBEDRING_RUNTIME__GROUP", "search"),
        ("EMBEDRING_WORKERS__CPU_0__THREADS", "2"),
        ("EMBEDRING_MODEL__NORMALIZE", "true"),
        ("EMBEDRING_LIMITS__REQUEST_SLOT_BYTES", "8KiB"),
    ];
    let config = good(file, &env);
    assert_eq!(config.instance, "b");
    assert_eq!(config.runtime.group.as_deref(), Some("search"));
    assert_eq!(config.workers.keys().collect::<Vec<_>>(), ["cpu-0"]);
    assert_eq!(config.workers["cpu-0"].threads, 2);
    assert_eq!(config.workers["cpu-0"].spin, Duration::from_micros(7));
    assert_eq!(config.model.normalize, Some(true));
    assert_eq!(config.limits.request_slot_bytes, 8192);

    let flags = Overrides {
        instance: Some("c".to_owned()),
        config: None,
    };
    let config = load_with(&flags, &environment(&env[..1]), Path::new("/nonexistent")).unwrap();
    assert_eq!(config.instance, "c");
    let flags = Overrides {
        instance: Some("C".to_owned()),
        config: None,
    };
    let error = load_with(&flags, &BTreeMap::new(), Path::new("/nonexistent")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("--instance: instance is \"C\"; allowed: "),
        "{error}"
    );
}

#[test]
fn a_variable_is_a_toml_value_where_the_key_takes_it_and_else_a_string() {
    let instance = |value| good("", &[("EMBEDRING_INSTANCE", value)]).instance;
    assert_eq!(instance("7"), "7");
    assert_eq!(instance("true"), "true");
    assert_eq!(instance("\"quoted\""), "quoted");
    assert_eq!(instance("2026-11-25"), "2026-11-25");
    assert_eq!(instance(""), "default");
    let prompt = good("", &[("EMBEDRING_MODEL__DEFAULT_PROMPT", "\"\"")])
        .model
        .default_prompt;
    assert_eq!(prompt.as_deref(), Some(""));
    let threads = good("", &[("EMBEDRING_WORKERS__GPU_1__THREADS", "0x10")]).workers;
    assert_eq!(threads["gpu_1"].threads, 16);
}

#[test]
fn every_key_can_be_set_by_its_variable() {
    for (key, node) in leaves() {
        let key = key.with_worker("cpu");
        let value = match &node.kind {
            // Large enough for the limits that depend on others.
            Kind::Integer | Kind::Size => {
                let bound = bounds::Bound::find(&key.pattern()).unwrap();
                bound.default.unwrap_or(bound.min).to_string()
            }
            Kind::Fraction => {
                let range = bounds::Fraction::find(&key.pattern()).unwrap();
                range.max.to_string()
            }
            Kind::Boolean => "false".to_owned(),
            Kind::Choice(choices) => choices.last().unwrap().0.clone(),
            Kind::Text => match key.pattern().as_str() {
                "runtime.dir" => "/x".to_owned(),
                "workers.*.device" => "cpu".to_owned(),
                _ => "x".to_owned(),
            },
            Kind::Table(_) | Kind::Named(_) => panic!("{key} is a table"),
        };
        let name = format!("EMBEDRING_{}", key.variable());
        let text = good("", &[(&name, &value)]).to_toml();
        let toml: toml::Value = toml::from_str(&text).unwrap();
        let got = key.0.iter().try_fold(&toml, |toml, part| toml.get(part));
        let got = got.unwrap_or_else(|| panic!("{key} is not in {text}"));
        let got = got.as_str().map_or_else(|| got.to_string(), str::to_owned);
        let size = crate::bytes::Bytes::parse(&value).map(|size| size.to_string());
        assert!(
            got == value || Some(&got) == size.as_ref(),
            "{key}: {got} for {value}"
        );
    }
}

#[test]
fn every_range_holds_at_both_ends() {
    for bound in &bounds::ALL {
        let name = format!("EMBEDRING_{}", bound.key.replace('*', "cpu").to_uppercase());
        let name = name.replace('.', "__");
        let set = |value: i128| {
            // Only the range is meant here: what others it must fit with is taken out of the way.
            let env = [
                (
                    "EMBEDRING_WORKERS__CPU__QUEUE_TEXTS_MAX",
                    "1048576".to_owned(),
                ),
                (
                    "EMBEDRING_WORKERS__CPU__QUEUE_TOKENS_MAX",
                    "268435456".to_owned(),
                ),
                (
                    "EMBEDRING_WORKERS__CPU__BATCH_TOKENS_MAX",
                    "1048576".to_owned(),
                ),
                ("EMBEDRING_WORKERS__CPU__BATCH_TEXTS_MAX", "1".to_owned()),
                ("EMBEDRING_SUPERVISOR__BACKOFF_MIN_MS", "1".to_owned()),
                ("EMBEDRING_SUPERVISOR__BACKOFF_MAX_MS", "3600000".to_owned()),
                (name.as_str(), value.to_string()),
            ];
            let mut env: BTreeMap<_, _> = env.into_iter().collect();
            if name.ends_with("QUEUE_TOKENS_MAX") {
                env.insert("EMBEDRING_WORKERS__CPU__BATCH_TOKENS_MAX", "1".to_owned());
            }
            let env: Vec<_> = env
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            load(b"", &env)
        };
        set(bound.min.into()).unwrap();
        set(bound.max.into()).unwrap();
        for outside in [
            i128::from(bound.min) - 1,
            i128::from(bound.max) + 1,
            i128::MAX,
        ] {
            let message = set(outside).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}: ")), "{message}");
            assert!(
                message.contains(&format!("; allowed: {bound}")),
                "{message}"
            );
        }
    }
}

#[test]
fn a_fraction_is_above_its_least_and_at_most_its_most() {
    let loss = |value: &str| load(b"", &[("EMBEDRING_MODEL__MAX_LOSS", value)]);
    for (text, value) in [("0.1", 0.1), ("1e-9", 1e-9), ("0.001", 0.001)] {
        assert_eq!(loss(text).unwrap().model.max_loss, value);
    }
    for text in [
        "0.0",
        "-0.001",
        "0.1000001",
        "nan",
        "inf",
        "0",
        "1",
        "\"0.01\"",
        "low",
    ] {
        let message = loss(text).unwrap_err().to_string();
        assert!(
            message.starts_with("EMBEDRING_MODEL__MAX_LOSS: model.max_loss is ")
                && message.ends_with("; allowed: above 0, at most 0.1"),
            "{message}"
        );
    }
}

#[test]
fn precisions_and_levels_are_called_in_the_file_as_their_names_say() {
    for precision in ["f32", "bf16", "int8", "auto"] {
        let config = good(&format!("model.precision = \"{precision}\""), &[]);
        assert_eq!(config.model.precision.name(), precision);
    }
    for kernels in KernelsKind::ALL {
        let name = kernels.level().unwrap_or("auto");
        let config = good(&format!("workers.cpu.kernels = \"{name}\""), &[]);
        assert_eq!(config.workers["cpu"].kernels, kernels);
    }
}

#[test]
fn messages_name_place_key_value_and_what_is_allowed() {
    let check = |toml: &str, expected: &str| assert_eq!(refused(toml, &[]), expected);
    check(
        "[limits]\n  clients_max = 0",
        "c.toml:2:17: limits.clients_max is 0; allowed: 1 to 256",
    );
    check(
        "workers.cpu.threads = \"two\"",
        "c.toml:1:23: workers.cpu.threads is \"two\"; allowed: 0 to 1024",
    );
    check(
        "# ä\nlimits = { request_slot_bytes = \"64KB\" }",
        "c.toml:2:33: limits.request_slot_bytes is \"64KB\"; allowed: 4KiB to 1MiB, as a number \
         of bytes or with B, KiB, MiB, GiB or TiB",
    );
    check(
        "[log]\nformat = \"xml\"",
        "c.toml:2:10: log.format is \"xml\"; allowed: \"text\", \"json\"",
    );
    check(
        "runtime.dir = \"run\"",
        "c.toml:1:15: runtime.dir is \"run\"; allowed: an absolute path",
    );
    check(
        "[workers.w]\ndevice = \"gpu\"",
        "c.toml:2:10: workers.w.device is \"gpu\"; allowed: cpu, cuda:N, cuda:GPU-…, cuda:MIG-…, \
         simulated, simulated:NAME",
    );
    check("limits = 3", "c.toml:1:10: limits is 3; allowed: a table");
    check(
        "[[workers]]",
        "c.toml:1:1: workers is [{}]; allowed: a table",
    );
    check(
        "[workers.\"big one\"]",
        "c.toml:1:10: workers is \"big one\"; allowed: a name of 1 to 16 of a-z, 0-9, _ and -",
    );
    check(
        "instance = \"A\"",
        "c.toml:1:12: instance is \"A\"; allowed: a name of 1 to 32 of a-z, 0-9, _ and -",
    );
    check(
        "model.normalize = 1",
        "c.toml:1:19: model.normalize is 1; allowed: true or false",
    );
    check(
        "model.name = \" \"",
        "c.toml:1:14: model.name is \" \"; allowed: the name of a model or the path of a folder",
    );
    let long = refused(&format!("instance = \"{}\"", "ä".repeat(500)), &[]);
    assert!(
        long.contains("… (1002 bytes)") && long.len() < 400,
        "{long}"
    );
}

#[test]
fn messages_about_precision_and_kernels_say_what_is_allowed() {
    let check = |toml: &str, expected: &str| assert_eq!(refused(toml, &[]), expected);
    check(
        "model.precision = \"f16\"",
        "c.toml:1:19: model.precision is \"f16\"; allowed: \"f32\", \"bf16\", \"int8\", \"auto\"",
    );
    check(
        "[model]\nmax_loss = 0.5",
        "c.toml:2:12: model.max_loss is 0.5; allowed: above 0, at most 0.1",
    );
    check(
        "workers.cpu.kernels = \"avx1024\"",
        "c.toml:1:23: workers.cpu.kernels is \"avx1024\"; allowed: \"auto\", \"portable\", \
         \"avx2\", \"avx2-vnni\", \"avx512\", \"avx512-bf16\"",
    );
    check(
        "workers.cpu.pin_threads = 1",
        "c.toml:1:27: workers.cpu.pin_threads is 1; allowed: true or false",
    );
    check(
        "model.survey = \"no\"",
        "c.toml:1:16: model.survey is \"no\"; allowed: true or false",
    );
}

#[test]
fn unknown_keys_and_variables_are_refused_with_the_closest() {
    let check = |toml: &str, expected: &str| assert_eq!(refused(toml, &[]), expected);
    check(
        "a = 1\nb",
        "c.toml:2:2: not valid TOML: key with no value, expected `=`",
    );
    check(
        "clients_max = 1",
        "c.toml:1:1: unknown key clients_max; the closest is limits.clients_max",
    );
    check(
        "[workers.x]\nthread = 1",
        "c.toml:2:1: unknown key workers.x.thread; the closest is workers.x.threads",
    );
    let check = |name: &str, expected: &str| {
        let expected = format!("unknown environment variable {name}; the closest is {expected}");
        assert_eq!(refused("", &[(name, "1")]), expected);
    };
    check("EMBEDRING_INSTANSE", "EMBEDRING_INSTANCE");
    check("EMBEDRING_RUNTIME_GROUP", "EMBEDRING_RUNTIME__GROUP");
    check("EMBEDRING_WORKERS__CPU", "EMBEDRING_WORKERS__CPU__WAIT");
    check(
        "EMBEDRING_WORKERS__A__THREDS",
        "EMBEDRING_WORKERS__A__THREADS",
    );
    for (name, _) in crate::layers::NOT_KEYS
        .iter()
        .filter(|(name, _)| !name.ends_with("CONFIG"))
    {
        good("", &[(name, "anything")]);
    }
    good("", &[("OTHER", "1"), ("EMBEDRINGS", "1")]);
}

#[test]
fn values_that_do_not_fit_together_are_refused() {
    let check = |toml: &str, expected: &str| assert_eq!(refused(toml, &[]), expected);
    check(
        "[workers.cpu]\nqueue_texts_max = 100",
        "c.toml:2:19: workers.cpu.batch_texts_max is 256; allowed: at most \
         workers.cpu.queue_texts_max, which is 100",
    );
    check(
        "[workers.cpu]\nbatch_tokens_max = 300_000",
        "c.toml:2:20: workers.cpu.batch_tokens_max is 300000; allowed: at most \
         workers.cpu.queue_tokens_max, which is 262144",
    );
    check(
        "model.max_tokens = 9000",
        "c.toml:1:20: model.max_tokens is 9000; allowed: at most workers.cpu.batch_tokens_max, \
         which is 8192",
    );
    check(
        "supervisor.backoff_max_ms = 50",
        "c.toml:1:29: supervisor.backoff_min_ms is 100; allowed: at most \
         supervisor.backoff_max_ms, which is 50",
    );
    check(
        "model.precision = \"int8\"\n[workers.a]\n[workers.b]\nbackend = \"candle\"",
        "c.toml:1:19: model.precision is \"int8\"; allowed: \"f32\" where workers.b.backend is \
         \"candle\"",
    );
    for other in ["packed", "null"] {
        good(
            &format!("model.precision = \"int8\"\nworkers.a.backend = \"{other}\""),
            &[],
        );
    }
    good(
        "model.precision = \"f32\"\nworkers.a.backend = \"candle\"",
        &[],
    );
    let workers = |count| {
        (0..count)
            .map(|n| format!("[workers.w{n}]\n"))
            .collect::<String>()
    };
    assert_eq!(good(&workers(MAX_WORKERS), &[]).workers.len(), MAX_WORKERS);
    check(
        &workers(MAX_WORKERS + 1),
        "17 workers under the key workers; allowed: at most 16",
    );
}

#[test]
fn the_first_file_of_the_search_order_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| -> PathBuf {
        let path = dir.path().join(name).join("embedring/config.toml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("instance = \"{name}\"")).unwrap();
        path
    };
    let (flag, variable, system) = (write("flag"), write("variable"), write("system"));
    write("xdg");
    std::fs::create_dir(dir.path().join("home")).unwrap();
    std::fs::rename(dir.path().join("xdg"), dir.path().join("home/.config")).unwrap();
    let (xdg, home) = (
        write("xdg"),
        dir.path().join("home/.config/embedring/config.toml"),
    );
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    env.insert("EMBEDRING_CONFIG".into(), variable.clone().into());
    env.insert("XDG_CONFIG_HOME".into(), dir.path().join("xdg").into());
    env.insert("HOME".into(), dir.path().join("home").into());
    let mut flags = Overrides {
        config: Some(flag.clone()),
        ..Overrides::default()
    };
    let read = |flags: &Overrides, env: &BTreeMap<_, _>| {
        load_with(flags, env, &system).unwrap().source.unwrap()
    };
    assert_eq!(read(&flags, &env), flag);
    flags.config = None;
    assert_eq!(read(&flags, &env), variable);
    env.remove(&OsString::from("EMBEDRING_CONFIG"));
    assert_eq!(read(&flags, &env), xdg);
    env.insert("XDG_CONFIG_HOME".into(), "relative".into());
    assert_eq!(read(&flags, &env), home);
    env.insert("HOME".into(), dir.path().join("nobody").into());
    assert_eq!(read(&flags, &env), system);
}

#[test]
fn files_that_can_not_be_read_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let read = |path: &Path| {
        let flags = Overrides {
            config: Some(path.to_owned()),
            ..Overrides::default()
        };
        load_with(&flags, &BTreeMap::new(), Path::new("/nonexistent")).unwrap_err()
    };
    let missing = dir.path().join("missing.toml");
    assert!(matches!(read(&missing), ConfigError::FileRead { path, .. } if path == missing));
    assert!(matches!(read(dir.path()), ConfigError::FileRead { .. }));
    assert!(matches!(
        read(Path::new("/dev/zero")),
        ConfigError::FileTooLarge { .. }
    ));
    // Found, not named, and still not to be passed over in silence.
    let error = load_with(&Overrides::default(), &BTreeMap::new(), dir.path()).unwrap_err();
    assert!(matches!(error, ConfigError::FileRead { .. }), "{error}");
    let message = load(b"a = 1\nb = \"\xff\"", &[]).unwrap_err().to_string();
    assert!(
        message.ends_with("c.toml:2:6: not valid TOML: not UTF-8"),
        "{message}"
    );
    let mut env = BTreeMap::new();
    env.insert("EMBEDRING_INSTANCE".into(), OsString::from_vec(vec![0xff]));
    let error = load_with(&Overrides::default(), &env, Path::new("/nonexistent")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment variable EMBEDRING_INSTANCE is not UTF-8"
    );
}

#[test]
fn the_reference_in_docs_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
    let expected = reference_markdown();
    for (key, _) in leaves() {
        assert!(
            expected.contains(&format!("\n| `{}` |", key.0.last().unwrap())),
            "{key}"
        );
    }
    if std::fs::read_to_string(&path).ok().as_deref() == Some(expected.as_str()) {
        return;
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, expected).unwrap();
    panic!("docs/config.md was not up to date and has been written again: commit it");
}

//! What holds for any configuration, any file and any variable.

use proptest::prelude::*;

use crate::bounds;
use crate::schema::{Kind, leaves};
use crate::tests::{good, load};

/// Any value that `key` takes, as TOML.
fn values(key: &str, kind: &Kind) -> BoxedStrategy<String> {
    match (key, kind) {
        (_, Kind::Integer | Kind::Size) => {
            let bound = bounds::Bound::find(key).unwrap();
            let default = bound.or_default(None);
            let (min, max) = match key {
                // Below the defaults of what limits them, and the other way round.
                "model.max_tokens" => (bound.min, 512),
                "workers.*.batch_tokens_max" => (512, default),
                "workers.*.batch_texts_max" | "supervisor.backoff_min_ms" => (bound.min, default),
                "workers.*.queue_tokens_max" | "workers.*.queue_texts_max" => (default, bound.max),
                "supervisor.backoff_max_ms" => (default, bound.max),
                _ => (bound.min, bound.max),
            };
            (min..=max).prop_map(|n| n.to_string()).boxed()
        }
        (_, Kind::Fraction) => {
            let range = bounds::Fraction::find(key).unwrap();
            (range.above..=range.max)
                .prop_filter("above", |value| range.contains(*value))
                .prop_map(|value| toml::Value::Float(value).to_string())
                .boxed()
        }
        // Not the backend that limits the precision.
        ("workers.*.backend", _) => {
            proptest::sample::select(vec!["\"packed\"".to_owned(), "\"null\"".to_owned()]).boxed()
        }
        (_, Kind::Boolean) => any::<bool>().prop_map(|b| b.to_string()).boxed(),
        (_, Kind::Choice(choices)) => {
            let names: Vec<_> = choices
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            proptest::sample::select(names).boxed()
        }
        ("instance" | "runtime.prefix", _) => "\"[a-z0-9_-]{1,32}\"".boxed(),
        ("workers.*.device", _) => Just("\"cpu\"".to_owned()).boxed(),
        ("runtime.dir", _) => quoted("/[^\0]{0,20}"),
        _ => quoted("[^\0\\s][^\0]{0,20}"),
    }
}

fn quoted(pattern: &'static str) -> BoxedStrategy<String> {
    pattern
        .prop_map(|text| toml::Value::String(text).to_string())
        .boxed()
}

/// Files in which each key is there or not.
fn files() -> impl Strategy<Value = String> {
    let lines: Vec<_> = leaves()
        .into_iter()
        .map(|(key, node)| {
            let workers = "[a-z0-9_-]{1,16}";
            let value = proptest::option::weighted(0.3, values(&key.to_string(), &node.kind));
            (workers, value).prop_map(move |(worker, value)| {
                value.map(|value| format!("{} = {value}\n", key.with_worker(&worker)))
            })
        })
        .collect();
    lines.prop_map(|lines| lines.into_iter().flatten().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn to_toml_loads_to_the_same_configuration(file in files()) {
        let config = good(&file, &[]);
        prop_assert_eq!(&good(&config.to_toml(), &[]), &config);
    }

    #[test]
    fn any_bytes_give_a_configuration_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = load(&bytes, &[]) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_text_like_toml_gives_a_configuration_or_an_error(
        file in files(),
        junk in "[\\[\\]{}=.,\"'#\\\\a-z0-9 \nä-]{0,12}",
        at in any::<proptest::sample::Index>(),
    ) {
        let places: Vec<_> = file.char_indices().map(|(at, _)| at).chain([file.len()]).collect();
        let mut file = file;
        file.insert_str(*at.get(&places), &junk);
        if let Err(error) = load(file.as_bytes(), &[]) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_variable_gives_a_configuration_or_an_error(
        name in prop_oneof!["[A-Z_0-9a-zä]{0,20}", "WORKERS__[A-Z_-]{0,9}__THREADS", Just("INSTANCE".to_owned())],
        value in any::<String>(),
    ) {
        let name = format!("EMBEDRING_{name}");
        prop_assume!(name != "EMBEDRING_CONFIG");
        if let Err(error) = load(b"", &[(&name, &value)]) {
            prop_assert!(error.to_string().contains(&name), "{error}");
        }
    }
}

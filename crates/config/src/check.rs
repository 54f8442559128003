//! Which values are accepted, and the words for it.

use toml::Value;

use crate::bounds::{Bound, Fraction, MAX_WORKERS};
use crate::bytes::Bytes;
use crate::config::{BackendKind, Config, Model, PrecisionKind, Worker};
use crate::device::Device;
use crate::error::ConfigError;
use crate::layers::Layers;
use crate::schema::{Key, Kind};

/// Longest value shown in a message.
const SHOWN_CHARS_MAX: usize = 80;

const INSTANCE_CHARS_MAX: usize = 32;
const WORKER_NAME_CHARS_MAX: usize = 16;

/// Whether a single value is one that its key takes.
pub(crate) fn accepts(key: &Key, kind: &Kind, value: &Value) -> bool {
    let pattern = key.pattern();
    match kind {
        Kind::Integer => value.as_integer().is_some_and(|n| in_bounds(&pattern, n)),
        Kind::Size => {
            let text = || Bytes::parse(value.as_str()?).and_then(|b| i64::try_from(b.0).ok());
            value
                .as_integer()
                .or_else(text)
                .is_some_and(|n| in_bounds(&pattern, n))
        }
        Kind::Fraction => value.as_float().is_some_and(|fraction| {
            Fraction::find(&pattern).is_some_and(|range| range.contains(fraction))
        }),
        Kind::Boolean => value.is_bool(),
        Kind::Choice(choices) => value
            .as_str()
            .is_some_and(|text| choices.iter().any(|(name, _)| name == text)),
        Kind::Text => value
            .as_str()
            .is_some_and(|text| accepts_text(&pattern, text)),
        Kind::Table(_) | Kind::Named(_) => false,
    }
}

fn in_bounds(pattern: &str, value: i64) -> bool {
    let Ok(value) = u64::try_from(value) else {
        return false;
    };
    Bound::find(pattern).is_some_and(|bound| (bound.min..=bound.max).contains(&value))
}

fn accepts_text(pattern: &str, text: &str) -> bool {
    // A path or a name with a zero byte fails deep inside a system call, with a worse message.
    let printable = !text.contains('\0');
    printable
        && match pattern {
            "instance" | "runtime.prefix" => is_name(text, INSTANCE_CHARS_MAX),
            "runtime.dir" => text.starts_with('/'),
            "workers.*.device" => Device::parse(text).is_some(),
            "model.name" | "log.level" => !text.trim().is_empty(),
            _ => true,
        }
}

fn is_name(text: &str, chars_max: usize) -> bool {
    let plain = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    !text.is_empty() && text.len() <= chars_max && text.bytes().all(plain)
}

/// Whether a worker may be called so.
pub(crate) fn accepts_worker_name(name: &str) -> bool {
    is_name(name, WORKER_NAME_CHARS_MAX)
}

/// The words for what [`accepts_worker_name`] accepts.
pub(crate) fn allowed_worker_name() -> String {
    format!("a name of 1 to {WORKER_NAME_CHARS_MAX} of a-z, 0-9, _ and -")
}

/// The words for what [`accepts`] accepts.
pub(crate) fn allowed(key: &Key, kind: &Kind) -> String {
    let pattern = key.pattern();
    let range = Bound::find(&pattern).map_or_else(String::new, Bound::to_string);
    match kind {
        Kind::Integer => range,
        Kind::Size => format!("{range}, as a number of bytes or with B, KiB, MiB, GiB or TiB"),
        Kind::Fraction => Fraction::find(&pattern).map_or_else(String::new, Fraction::to_string),
        Kind::Boolean => "true or false".to_owned(),
        Kind::Choice(choices) => {
            let names: Vec<_> = choices
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            names.join(", ")
        }
        Kind::Text => match pattern.as_str() {
            "instance" | "runtime.prefix" => {
                format!("a name of 1 to {INSTANCE_CHARS_MAX} of a-z, 0-9, _ and -")
            }
            "runtime.dir" => "an absolute path".to_owned(),
            "workers.*.device" => Device::ALLOWED.to_owned(),
            "model.name" => "the name of a model or the path of a folder".to_owned(),
            "log.level" => "a level or a filter".to_owned(),
            _ => "a string without zero bytes".to_owned(),
        },
        Kind::Table(_) | Kind::Named(_) => "a table".to_owned(),
    }
}

/// A value as messages show it.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

/// What no value alone can break.
pub(crate) fn relations(config: &Config, layers: &Layers) -> Result<(), ConfigError> {
    if config.workers.len() > MAX_WORKERS {
        return Err(ConfigError::TooManyWorkers {
            got: config.workers.len(),
            limit: MAX_WORKERS,
        });
    }
    for (name, worker) in &config.workers {
        worker_relations(name, worker, &config.model, layers)?;
    }
    one_kind_of_rows(config, layers)?;
    let key = |name| Key::new(["supervisor", name]);
    let (min, max) = (config.supervisor.backoff_min, config.supervisor.backoff_max);
    at_most(
        layers,
        (&key("backoff_min_ms"), min.as_millis()),
        (&key("backoff_max_ms"), max.as_millis()),
    )
}

fn worker_relations(
    name: &str,
    worker: &Worker,
    model: &Model,
    layers: &Layers,
) -> Result<(), ConfigError> {
    let key = |part| Key::new(["workers", name, part]);
    let texts = (&key("batch_texts_max"), &key("queue_texts_max"));
    at_most(
        layers,
        (texts.0, worker.batch_texts_max),
        (texts.1, worker.queue_texts_max),
    )?;
    let tokens = (&key("batch_tokens_max"), &key("queue_tokens_max"));
    at_most(
        layers,
        (tokens.0, worker.batch_tokens_max),
        (tokens.1, worker.queue_tokens_max),
    )?;
    // A text is never cut over two batches.
    let text = &Key::new(["model", "max_tokens"]);
    let text_tokens = model.max_tokens.unwrap_or(0);
    at_most(
        layers,
        (text, text_tokens),
        (tokens.0, worker.batch_tokens_max),
    )?;
    if worker.backend == BackendKind::Candle && model.precision != PrecisionKind::F32 {
        let precision = Key::new(["model", "precision"]);
        return Err(ConfigError::Value {
            origin: layers.origin(&precision).unwrap_or(crate::Origin::Default),
            key: precision.to_string(),
            got: format!("{:?}", model.precision.name()),
            allowed: format!("\"f32\" where {} is \"candle\"", key("backend")),
        });
    }
    Ok(())
}

/// Rows of a pattern and rows of a model must not meet in one answer. Beside a simulated device, which is
/// there to stand for one of the others, they would.
fn one_kind_of_rows(config: &Config, layers: &Layers) -> Result<(), ConfigError> {
    let is_pattern = |worker: &Worker| worker.backend == BackendKind::Null;
    let mut workers = config.workers.iter();
    let simulated = workers.find(|(_, worker)| matches!(worker.device, Device::Simulated(_)));
    let Some((simulated, device)) = simulated else {
        return Ok(());
    };
    let other = config
        .workers
        .iter()
        .find(|(_, worker)| is_pattern(worker) != is_pattern(device));
    let Some((other, _)) = other else {
        return Ok(());
    };
    let (pattern, model) = if is_pattern(device) {
        (simulated, other)
    } else {
        (other, simulated)
    };
    let backend = |name: &str| Key::new(["workers", name, "backend"]);
    let key = backend(model);
    let origin = layers
        .origin(&key)
        .or_else(|| layers.origin(&backend(pattern)))
        .or_else(|| layers.origin(&Key::new(["workers", simulated.as_str(), "device"])));
    Err(ConfigError::Value {
        origin: origin.unwrap_or(crate::Origin::Default),
        key: key.to_string(),
        got: shown(&Value::String(
            config.workers[model].backend.name().to_owned(),
        )),
        allowed: format!(
            "\"null\" in all workers or in none, beside a simulated device; {} is \"null\"",
            backend(pattern)
        ),
    })
}

fn at_most<T: Ord + std::fmt::Display>(
    layers: &Layers,
    (key, value): (&Key, T),
    (limit_key, limit): (&Key, T),
) -> Result<(), ConfigError> {
    if value <= limit {
        return Ok(());
    }
    // The place to look at is where somebody wrote something, even if it is the limit.
    let origin = layers.origin(key).or_else(|| layers.origin(limit_key));
    Err(ConfigError::Value {
        origin: origin.unwrap_or(crate::Origin::Default),
        key: key.to_string(),
        got: value.to_string(),
        allowed: format!("at most {limit_key}, which is {limit}"),
    })
}

//! Logging for every role of embedring, set up in one place.
//!
//! The decision behind it: a log must never be the reason that something stops. Lines go to stderr,
//! whose reader (a terminal, journald, a pipe) may go away at any time; then lines are lost, and
//! nothing else happens. Only a wrong filter is an error, at start, where somebody can correct it.
//!
//! ```
//! use embedring_telemetry::{LogFormat, init};
//!
//! init("info,embedring_worker=debug", LogFormat::Text, "cpu")?;
//! tracing::info!(texts = 3, "batch done");
//! // 12:03:04.125Z  INFO cpu my_program: batch done texts=3
//! # Ok::<(), embedring_telemetry::InitError>(())
//! ```

#![forbid(unsafe_code)]

mod filter;
mod format;

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

pub use filter::{FILTER_VARIABLE, InitError};

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: `12:03:04.125Z  INFO cpu embedring_worker: batch done texts=3`, time in UTC.
    Text,
    /// One JSON object a line, for journald and collectors, with `role` beside `level`, `target`
    /// and `fields`.
    Json,
}

/// Sends log lines of this process to stderr, each with `role`: the name of the worker, or what
/// else tells this process from its siblings.
///
/// `level` is a level or a filter such as `info,embedring_worker=debug`; the environment variable
/// `EMBEDRING_LOG` is stronger. iceoryx2 reports only errors unless the filter names it
/// (`info,iceoryx2=debug`): it warns about things that are normal here, such as dead peers.
///
/// Further calls in one process change nothing, so that tests may call this as often as they like.
///
/// # Errors
///
/// When the filter is not understood, or the process has another `tracing` subscriber already.
pub fn init(level: &str, format: LogFormat, role: &str) -> Result<(), InitError> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let filter = filter::build(level, std::env::var_os(FILTER_VARIABLE))?;
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if *done {
        return Ok(());
    }
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = subscriber(filter, format, role, colour, io::stderr);
    subscriber.try_init().map_err(|_| InitError::Occupied)?;
    *done = true;
    Ok(())
}

/// Everything but the choice of stderr.
fn subscriber<W>(
    filter: EnvFilter,
    format: LogFormat,
    role: &str,
    colour: bool,
    writer: W,
) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // By default the layer reports a failed write with `eprintln!`, which panics when stderr is the
    // thing that failed.
    let layer = tracing_subscriber::fmt::layer()
        .log_internal_errors(false)
        .with_writer(writer);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text => Box::new(layer.with_ansi(colour).event_format(format::Text {
            role: role.to_owned(),
        })),
        LogFormat::Json => {
            let json = tracing_subscriber::fmt::format()
                .json()
                .with_current_span(false);
            let event_format = format::Json {
                role: role.to_owned(),
                inner: json,
            };
            Box::new(layer.json().with_ansi(false).event_format(event_format))
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(filter))
}

#[cfg(test)]
mod tests;

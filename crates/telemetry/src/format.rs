//! How a line looks.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields, format};
use tracing_subscriber::registry::LookupSpan;

/// `12:03:04.125Z  INFO cpu embedring_worker: span{id=7}: batch done texts=3`
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) role: String,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        write_time(&mut writer, now())?;
        write_level(&mut writer, *metadata.level())?;
        write!(writer, " {} {}: ", self.role, metadata.target())?;
        for span in ctx
            .event_scope()
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            write!(writer, "{}", span.name())?;
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(writer, "{{{fields}}}")?;
            }
            writer.write_str(": ")?;
        }
        ctx.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Time since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "a person reads it beside the lines of other programs; nothing is decided by it"
)]
fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Time of day in UTC; the day is known to whoever reads, and journald keeps it anyway.
fn write_time(out: &mut impl fmt::Write, since_1970: Duration) -> fmt::Result {
    let seconds = since_1970.as_secs();
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    write!(
        out,
        "{hours:02}:{minutes:02}:{:02}.{:03}Z",
        seconds % 60,
        since_1970.subsec_millis()
    )
}

fn write_level(writer: &mut Writer<'_>, level: Level) -> fmt::Result {
    if !writer.has_ansi_escapes() {
        return write!(writer, " {level:>5}");
    }
    let colour = match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    };
    write!(writer, " \x1b[{colour}m{level:>5}\x1b[0m")
}

/// The JSON of `tracing_subscriber`, with the role as the first member.
#[derive(Debug)]
pub(crate) struct Json {
    pub(crate) role: String,
    pub(crate) inner: Format<format::Json>,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // The formatter has no place for a member of ours, so it goes in after the brace.
        let mut line = String::new();
        self.inner
            .format_event(ctx, Writer::new(&mut line), event)?;
        let members = line.strip_prefix('{').ok_or(fmt::Error)?;
        let role = serde_json::Value::from(self.role.as_str());
        write!(writer, "{{\"role\":{role},{members}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn times_are_of_the_day() {
        let check = |millis, expected: &str| {
            let mut out = String::new();
            super::write_time(&mut out, Duration::from_millis(millis)).unwrap();
            assert_eq!(out, expected);
        };
        check(0, "00:00:00.000Z");
        check(86_399_999, "23:59:59.999Z");
        check(86_400_000, "00:00:00.000Z");
        check(1_795_608_184_125, "12:03:04.125Z");
    }
}

//! Log lines on standard error: logfmt for people and machines, or JSON.

use std::{fmt, io::IsTerminal};

use chrono::{SecondsFormat, Utc};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `time=… level=… msg=… key=value`
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// Begins to log. Called once; a second call changes nothing.
pub(crate) fn start(level: &str, format: Format) {
    // The client libraries' own lines repeat what ours say, without the remedy, and at TRACE would
    // show headers.
    let filter = EnvFilter::new(format!(
        "{level},kube_client=off,kube_runtime=off,hyper=off,hyper_util=off,rustls=off,h2=off,\
         reqwest=off,tower=off,tower_http=off"
    ));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // Colour only for eyes: on a terminal whose owner has not said no.
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let started = match format {
        Format::Logfmt => builder.event_format(Logfmt { colour }).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging had already begun");
    }
}

struct Logfmt {
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let word = level.as_str().to_ascii_lowercase();
        write!(writer, "time={time} level=")?;
        match self.colour.then(|| colour_of(level)) {
            Some(colour) => write!(writer, "\u{1b}[{colour}m{word}\u{1b}[0m")?,
            None => write!(writer, "{word}")?,
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, " msg={}{}", quoted(&fields.message), fields.rest)
    }
}

fn colour_of(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        _ => 2,
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.rest.push(' ');
            self.rest.push_str(field.name());
            self.rest.push('=');
            self.rest.push_str(&quoted(value));
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// A value as logfmt writes it: quoted where it holds anything but plain characters, so that one
/// event is always one line.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:,*+@%".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("{value:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_never_break_the_line() {
        assert_eq!(quoted("default/web-0"), "default/web-0");
        assert_eq!(quoted("two words"), "\"two words\"");
        assert_eq!(quoted("a\nb=\"c\""), "\"a\\nb=\\\"c\\\"\"");
        assert_eq!(quoted(""), "\"\"");
    }
}

//! Log lines on standard error, as logfmt or JSON.
//!
//! Logging never blocks: a dedicated thread writes the lines, and lines that standard error does not
//! accept in time are dropped and counted. A slow or missing reader does not stop billing.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::{self, IsTerminal, Write},
    panic::PanicHookInfo,
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result};
use chrono::{SecondsFormat, Utc};
use meterline_core::{Lines, Metrics};
use tracing::{
    Event, Level, Metadata, Subscriber, error,
    field::{Field, Visit},
    warn,
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format},
    registry::LookupSpan,
};

use crate::environment;

/// How many bytes of lines may wait for standard error: enough for a burst of some ten thousand lines.
const CAPACITY: usize = 8 * 1024 * 1024;
/// How long the end of the process waits until the last lines are written.
const LAST_LINES: Duration = Duration::from_secs(1);

static LINES: OnceLock<Lines> = OnceLock::new();

/// The format of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `time=… level=… msg=… key=value`
    Logfmt,
    /// One JSON object per line.
    Json,
}

/// Starts the thread that writes to standard error. From then on nothing in this process waits for the
/// reader of standard error. A second call has no effect.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn start_writer(metrics: &Metrics) -> Result<()> {
    let dropped = metrics.counter(
        "log_lines_dropped",
        "Log lines that were dropped because standard error was too slow or closed.",
        &[],
    );
    let on_drop = |lines| {
        warn!(
            lines,
            "log lines were dropped because standard error is read too slowly; read it faster, or \
             raise `logger.level`"
        );
    };
    let lines = Lines::start("log", CAPACITY, dropped, io::stderr(), on_drop)
        .context("cannot start the thread that writes the log")?;
    // After a second call the first writer stays in use.
    drop(LINES.set(lines));
    Ok(())
}

/// Starts logging. A second call has no effect.
pub(crate) fn start(level: &str, format: Format) {
    // The lines of the client libraries repeat ours without the remedy, and at TRACE they would show
    // headers.
    let filter = EnvFilter::new(format!(
        "{level},kube_client=off,kube_runtime=off,hyper=off,hyper_util=off,rustls=off,h2=off,\
         reqwest=off,tower=off,tower_http=off"
    ));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Otherwise it prints its own errors to standard error, and panics when that is closed.
        .log_internal_errors(false)
        .with_writer(Queue);
    // Colour only on a terminal, and only without `NO_COLOR` (https://no-color.org).
    let colour = io::stderr().is_terminal() && environment::own("NO_COLOR").is_none();
    let started = match format {
        Format::Logfmt => builder.event_format(Logfmt { colour }).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
        return;
    }
    // The default hook writes to standard error and blocks on it.
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(String::new, |it| {
        format!(" at {}:{}:{}", it.file(), it.line(), it.column())
    });
    let message = info.payload_as_str().unwrap_or("without a message");
    let current = std::thread::current();
    let thread = current.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => error!(thread, %backtrace, "panicked{place}: {message}"),
        _ => error!(thread, "panicked{place}: {message}"),
    }
}

/// Waits until the lines so far are written, but no longer than `limit`.
pub(crate) fn flush(limit: Duration) {
    if let Some(lines) = LINES.get() {
        // Lines that are left are lost; there is nowhere to report them.
        let _ = lines.flush(limit);
    }
}

/// Flushes the log when it is dropped.
pub(crate) struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        flush(LAST_LINES);
    }
}

/// Standard error for output other than log events, such as the errors of a configuration. Writes
/// never fail: a closed standard error discards them.
#[derive(Debug, Default)]
pub(crate) struct Stderr(Vec<u8>);

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        if bytes.ends_with(b"\n") {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.0.is_empty() {
            push(&std::mem::take(&mut self.0), true);
        }
        Ok(())
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

fn push(lines: &[u8], urgent: bool) {
    match LINES.get() {
        // The queue counts the lines that it drops.
        Some(queue) => drop(queue.push(lines, urgent)),
        None => drop(io::stderr().lock().write_all(lines)),
    }
}

/// Sends log events to the writer, one write per line.
struct Queue;

struct Line {
    urgent: bool,
}

impl MakeWriter<'_> for Queue {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line { urgent: false }
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Line {
        Line {
            urgent: *metadata.level() <= Level::WARN,
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        push(bytes, self.urgent);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
    #[expect(
        clippy::disallowed_methods,
        reason = "a log line carries the time of day"
    )]
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
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

/// Formats a logfmt value. It is quoted when it holds anything but plain characters, so that an event
/// is always one line.
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

    /// The test runs itself in a child process, because logging can be started only once per process.
    #[test]
    fn a_panic_is_logged_before_the_process_ends() {
        const CHILD: &str = "METERLINE_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            let _flush = FlushAtEnd;
            start_writer(&Metrics::default()).unwrap();
            start("INFO", Format::Logfmt);
            let panics = || panic!("on\npurpose");
            assert!(std::thread::spawn(panics).join().is_err());
            return;
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "logging::tests::a_panic_is_logged_before_the_process_ends",
            ])
            .arg("--nocapture")
            .env(CHILD, "1")
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let log = String::from_utf8(child.stderr).unwrap();
        let line = log.lines().find(|line| line.contains("level=error"));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(
            line.contains("panicked at crates/cli/logging.rs:"),
            "{line}"
        );
        assert!(line.contains(r"on\npurpose"), "{line}");
    }

    #[test]
    fn values_never_break_the_line() {
        assert_eq!(quoted("default/web-0"), "default/web-0");
        assert_eq!(quoted("two words"), "\"two words\"");
        assert_eq!(quoted("a\nb=\"c\""), "\"a\\nb=\\\"c\\\"\"");
        assert_eq!(quoted(""), "\"\"");
    }
}

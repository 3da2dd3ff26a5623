//! Log lines on standard error: logfmt for people and machines, or JSON.
//!
//! A line never waits: a thread of its own writes, and what standard error does not take is dropped
//! and counted. Billing goes on whoever reads it, or nobody.

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

/// So many bytes of lines may wait for standard error. It takes a burst of some ten thousand lines.
const ROOM: usize = 8 * 1024 * 1024;
/// How long the end of the process waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

static LINES: OnceLock<Lines> = OnceLock::new();

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `time=… level=… msg=… key=value`
    Logfmt,
    /// One JSON object a line.
    Json,
}

/// From now on nothing that this process says on standard error waits for whoever reads it. Called
/// once; a second call changes nothing.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn never_wait(metrics: &Metrics) -> Result<()> {
    let dropped = metrics.counter(
        "log_lines_dropped",
        "Log lines that standard error did not take.",
        &[],
    );
    let told = |lines| {
        warn!(
            lines,
            "log lines were dropped, for standard error took them too slowly; whoever reads it has \
             to be faster, or `logger.level` higher"
        );
    };
    let lines = Lines::start("log", ROOM, dropped, io::stderr(), told)
        .context("cannot start the thread that writes the log")?;
    // The other one, should there be one, goes on.
    drop(LINES.set(lines));
    Ok(())
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
        // It would tell on standard error, and panic when that is gone.
        .log_internal_errors(false)
        .with_writer(Queue);
    // Colour only for eyes: on a terminal whose owner has not said no.
    let colour = io::stderr().is_terminal() && environment::own("NO_COLOR").is_none();
    let started = match format {
        Format::Logfmt => builder.event_format(Logfmt { colour }).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging had already begun");
        return;
    }
    // The usual hook writes to standard error and waits for it.
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(String::new, |it| {
        format!(" at {}:{}:{}", it.file(), it.line(), it.column())
    });
    let said = info.payload_as_str().unwrap_or("without a message");
    let current = std::thread::current();
    let thread = current.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => error!(thread, %backtrace, "panicked{place}: {said}"),
        _ => error!(thread, "panicked{place}: {said}"),
    }
}

/// Waits until the lines so far are written, but no longer than that.
pub(crate) fn flush(limit: Duration) {
    if let Some(lines) = LINES.get() {
        // What is left has nobody to be told to.
        let _ = lines.flush(limit);
    }
}

/// Flushes when it is dropped, however the process ends.
pub(crate) struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        flush(LAST_LINES);
    }
}

/// Standard error for what is no event, such as the faults of a configuration. Never fails: nothing is
/// left to do when even standard error is gone.
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
            put(&std::mem::take(&mut self.0), true);
        }
        Ok(())
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

fn put(lines: &[u8], urgent: bool) {
    match LINES.get() {
        // A line without room is counted there.
        Some(queue) => drop(queue.push(lines, urgent)),
        None => drop(io::stderr().lock().write_all(lines)),
    }
}

/// Where events go as lines, each with one write.
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
        put(bytes, self.urgent);
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
        reason = "a line says at what time of day it was written"
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

    /// A panic of a thread is a line like any other. The test runs itself as a process of its own,
    /// for logging begins once in a process.
    #[test]
    fn a_panic_is_logged_before_the_end() {
        const CHILD: &str = "METERLINE_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            let _flush = FlushAtEnd;
            never_wait(&Metrics::default()).unwrap();
            start("INFO", Format::Logfmt);
            let panics = || panic!("on\npurpose");
            assert!(std::thread::spawn(panics).join().is_err());
            return;
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "logging::tests::a_panic_is_logged_before_the_end",
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

//! `stdout`: prints each message on one line of standard output.
//!
//! Standard output can be a pipe that is not read. With `when_blocked: wait` the messages wait,
//! and so does the data that they were made from. Use it if the reader needs every message, as in
//! `meterline … | consumer` or at the end of a `fallback`. If standard output only shows what also
//! goes to another output, waiting would stop the delivery there. With `when_blocked: drop` the
//! output drops what it cannot print, counts it in `stdout_dropped` and logs it. A dropped message
//! counts as settled by this output, so use `drop` only for an output beside another one.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use meterline_config::{Configure, OutputSpec, PlanContext, Spec};
use meterline_core::{
    BatchPolicy, BuildContext, BuildError, IntCounter, Lines, Message, OutputNode, OutputPlan,
    RetryPolicy, Taken, WriteError, Writer, WriterNode,
};
use serde::Deserialize;
use tracing::warn;

/// With `when_blocked: drop`, this many bytes of messages may wait to be printed; the rest is
/// dropped.
const CAPACITY: usize = 4 * 1024 * 1024;
/// How long a batch waits to be printed before standard output counts as blocked.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// The shortest interval between two log lines about dropped messages.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The component.
pub(crate) const SPEC: OutputSpec = Spec::new::<Config>(
    "stdout",
    "Prints each message on a line of standard output.",
    &[
        "stdout: {}",
        "stdout:\n  codec: lines\n",
        "stdout:\n  when_blocked: drop\n",
    ],
);

/// Configuration of `stdout`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// How messages are separated: `lines`.
    #[serde(default, rename = "codec")]
    _codec: Codec,
    /// What happens while standard output is not read. `wait`: messages wait, and the input data
    /// that they were made from waits with them. `drop`: messages are dropped and counted.
    #[serde(default)]
    when_blocked: WhenBlocked,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Codec {
    #[default]
    Lines,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WhenBlocked {
    #[default]
    Wait,
    Drop,
}

impl Configure for Config {
    type Plan = dyn OutputPlan;

    fn plan(self, _: &mut PlanContext<'_>) -> Option<Box<dyn OutputPlan>> {
        Some(Box::new(self.when_blocked))
    }
}

#[async_trait]
impl OutputPlan for WhenBlocked {
    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<OutputNode, BuildError> {
        let writer: Arc<dyn Writer> = match *self {
            Self::Wait => Arc::new(Waits),
            Self::Drop => Arc::new(Drops::new(cx, io::stdout()).map_err(|error| BuildError {
                component: Arc::clone(&cx.label),
                reason: format!("cannot start the thread that prints: {error}"),
            })?),
        };
        Ok(OutputNode::Writer(WriterNode {
            label: Arc::clone(&cx.label),
            // A message that is not read is dropped, so no message is known to have arrived.
            taken: match *self {
                Self::Wait => Taken::Kept,
                Self::Drop => Taken::Dropped,
            },
            writer,
            batching: BatchPolicy::default(),
            max_in_flight: 1,
            accepts_failed: false,
            retry: RetryPolicy::default(),
            drops: None,
            objects_only: false,
        }))
    }
}

struct Waits;

#[async_trait]
impl Writer for Waits {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let text: Vec<u8> = batch.iter().filter_map(line).flatten().collect();
        // A write to a full pipe may block for a long time, so it runs on a thread for blocking work.
        tokio::task::spawn_blocking(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&text).and_then(|()| stdout.flush())
        })
        .await
        .map_err(|error| retry(&error.to_string()))?
        .map_err(|error| retry(&error.to_string()))
    }
}

struct Drops {
    lines: Arc<Lines>,
    /// Whether standard output did not accept a batch in time and has not caught up since.
    blocked: AtomicBool,
    logged: Mutex<Logged>,
    label: Arc<str>,
}

/// What was logged about dropped messages.
struct Logged {
    dropped: IntCounter,
    so_far: u64,
    last: Option<Instant>,
}

impl Drops {
    fn new(cx: &BuildContext, to: impl Write + Send + 'static) -> io::Result<Self> {
        let dropped = cx.metrics.counter(
            "stdout_dropped",
            "Messages that were not printed, because standard output was blocked.",
            &[("label", &cx.label)],
        );
        Ok(Self {
            lines: Arc::new(Lines::start(
                "stdout",
                CAPACITY,
                dropped.clone(),
                to,
                |_| {},
            )?),
            blocked: AtomicBool::new(false),
            logged: Mutex::new(Logged {
                dropped,
                so_far: 0,
                last: None,
            }),
            label: Arc::clone(&cx.label),
        })
    }

    /// Logs how many messages were dropped since the last log line, at most once per interval; with
    /// `at_last` in any case.
    fn log_dropped(&self, at_last: bool) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = logged.dropped.get();
        let unlogged = dropped.saturating_sub(logged.so_far);
        let is_time = at_last
            || logged
                .last
                .is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if unlogged == 0 || !is_time {
            return;
        }
        logged.so_far = dropped;
        logged.last = Some(Instant::now());
        warn!(
            output = %self.label,
            messages = unlogged,
            "messages were not printed, because standard output is blocked; other outputs still \
             get them. Read standard output, or remove this output"
        );
    }
}

#[async_trait]
impl Writer for Drops {
    /// Waits briefly, so that lines are printed promptly and before the process ends. After a
    /// timeout it does not wait again until standard output has accepted everything.
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        for line in batch.iter().filter_map(line) {
            self.lines.push(&line, true);
        }
        let was_blocked = self.blocked.load(Ordering::Relaxed);
        let limit = if was_blocked {
            Duration::ZERO
        } else {
            FLUSH_TIMEOUT
        };
        let lines = Arc::clone(&self.lines);
        let left = tokio::task::spawn_blocking(move || lines.flush(limit)).await;
        self.blocked
            .store(left.is_ok_and(|left| left > 0), Ordering::Relaxed);
        self.log_dropped(false);
        Ok(())
    }
}

impl Drop for Drops {
    fn drop(&mut self) {
        self.log_dropped(true);
        let left = self.lines.flush(Duration::ZERO);
        if left > 0 {
            warn!(output = %self.label, messages = left, "messages are not printed yet, and are lost when the process exits");
        }
    }
}

fn retry(reason: &str) -> WriteError {
    WriteError::Retry {
        reason: format!("cannot write to standard output: {reason}"),
        after: None,
    }
}

/// Returns a message as one line, with its line breaks replaced by spaces.
fn line(message: &Message) -> Option<Vec<u8>> {
    let bytes = message.bytes().ok()?;
    let plain = bytes.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        byte => *byte,
    });
    Some(plain.chain([b'\n']).collect())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, pipe};

    use super::*;

    fn cx() -> BuildContext {
        BuildContext::default().labelled("output")
    }

    #[test]
    fn a_message_is_one_line() {
        let message = Message::raw("{\"a\":\n1}");
        assert_eq!(line(&message).unwrap(), b"{\"a\": 1}\n");
    }

    #[tokio::test]
    async fn drop_mode_prints_everything_while_standard_output_is_read() {
        let (reader, writer) = pipe().unwrap();
        let drops = Drops::new(&cx(), writer).unwrap();
        let batch = [Message::raw("a"), Message::raw("b")];
        drops.write(&batch).await.unwrap();
        assert!(!drops.blocked.load(Ordering::Relaxed));
        drop(drops);
        let lines: Result<Vec<_>, _> = BufReader::new(reader).lines().collect();
        assert_eq!(lines.unwrap(), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_blocked_pipe_delays_once_and_drops_the_excess() {
        let (reader, writer) = pipe().unwrap();
        let cx = cx();
        let drops = Drops::new(&cx, writer).unwrap();
        let dropped = cx
            .metrics
            .counter("stdout_dropped", "", &[("label", "output")]);
        let batch = vec![Message::raw("x".repeat(1_000)); 1_000];
        for _ in 0..100 {
            drops.write(&batch).await.unwrap();
        }
        assert!(drops.blocked.load(Ordering::Relaxed));
        let lost = dropped.get();
        assert!(lost > 90_000, "{lost}");
        let reads = std::thread::spawn(move || BufReader::new(reader).lines().count());
        let mut more = 0;
        while drops.blocked.load(Ordering::Relaxed) {
            let lines = Arc::clone(&drops.lines);
            let left = tokio::task::spawn_blocking(move || lines.flush(Duration::from_secs(60)));
            assert_eq!(left.await.unwrap(), 0);
            // This write does not wait, so it may return before the printing thread has finished.
            drops.write(&batch[..1]).await.unwrap();
            more += 1;
        }
        drop(drops);
        assert_eq!(reads.join().unwrap() as u64, 100_000 + more - lost);
    }
}

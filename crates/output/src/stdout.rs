//! `stdout`: one line a message on standard output.
//!
//! Standard output can be a pipe that nobody reads. Where the messages are meant for whoever reads it,
//! as in `meterline … | consumer` or at the end of a `fallback`, they wait, and so does what they were
//! made from: `when_blocked: wait`. Where it only shows what goes somewhere else as well, waiting
//! would stop the delivery there: `when_blocked: drop` leaves out what cannot be printed, counts it in
//! `stdout_dropped` and says so. A message that was left out counts as delivered by this output, so
//! `drop` is for an output beside another.

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
    BatchPolicy, BuildContext, BuildError, Content, IntCounter, Lines, Message, OutputNode,
    OutputPlan, RetryPolicy, Taken, WriteError, Writer, WriterNode,
};
use serde::Deserialize;
use tracing::warn;

/// So many bytes of messages may wait to be printed where the rest is dropped.
const ROOM: usize = 4 * 1024 * 1024;
/// How long a batch waits to be printed before standard output is taken to be blocked.
const PATIENCE: Duration = Duration::from_secs(1);
/// The shortest interval between two log lines about messages that were dropped.
const TOLD_EVERY: Duration = Duration::from_secs(60);

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
    /// What happens while nobody reads standard output: messages `wait`, and with them what they were
    /// made from, or the output will `drop` them, counted.
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
            // Where what nobody reads is dropped, nothing is known to have arrived.
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
        // A full pipe blocks, and may for long: not on a thread that others need.
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
    /// Standard output did not take a batch in time, and has not caught up since.
    blocked: AtomicBool,
    told: Mutex<Told>,
    label: Arc<str>,
}

/// What was logged of the messages that were dropped.
struct Told {
    dropped: IntCounter,
    so_far: u64,
    last: Option<Instant>,
}

impl Drops {
    fn new(cx: &BuildContext, to: impl Write + Send + 'static) -> io::Result<Self> {
        let dropped = cx.metrics.counter(
            "stdout_dropped",
            "Messages that were not printed, for standard output did not take them.",
            &[("label", &cx.label)],
        );
        Ok(Self {
            lines: Arc::new(Lines::start("stdout", ROOM, dropped.clone(), to, |_| {})?),
            blocked: AtomicBool::new(false),
            told: Mutex::new(Told {
                dropped,
                so_far: 0,
                last: None,
            }),
            label: Arc::clone(&cx.label),
        })
    }

    /// Says how many were dropped since that was last said; now and then, and `at_last` all.
    fn tell(&self, at_last: bool) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = told.dropped.get();
        let untold = dropped.saturating_sub(told.so_far);
        let is_time = at_last || told.last.is_none_or(|last| last.elapsed() >= TOLD_EVERY);
        if untold == 0 || !is_time {
            return;
        }
        told.so_far = dropped;
        told.last = Some(Instant::now());
        warn!(
            output = %self.label,
            messages = untold,
            "messages were not printed, for standard output does not take them; they go on \
             wherever else they go: read standard output, or leave this output out"
        );
    }
}

#[async_trait]
impl Writer for Drops {
    /// Waits a moment, so that lines come out when they are made and before the process ends; but not
    /// again before standard output has taken everything.
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        for line in batch.iter().filter_map(line) {
            self.lines.push(&line, true);
        }
        let was_blocked = self.blocked.load(Ordering::Relaxed);
        let patience = if was_blocked {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let lines = Arc::clone(&self.lines);
        let left = tokio::task::spawn_blocking(move || lines.flush(patience)).await;
        self.blocked
            .store(left.is_ok_and(|left| left > 0), Ordering::Relaxed);
        self.tell(false);
        Ok(())
    }
}

impl Drop for Drops {
    fn drop(&mut self) {
        self.tell(true);
        let left = self.lines.flush(Duration::ZERO);
        if left > 0 {
            warn!(output = %self.label, messages = left, "messages are not printed yet, and end with the process");
        }
    }
}

fn retry(reason: &str) -> WriteError {
    WriteError::Retry {
        reason: format!("cannot write to standard output: {reason}"),
        after: None,
    }
}

/// A message as a line of its own, whatever line breaks it holds.
fn line(message: &Message) -> Option<Vec<u8>> {
    let Content::Raw(bytes) = message.content() else {
        return None;
    };
    let plain = bytes.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        byte => *byte,
    });
    Some(plain.chain([b'\n']).collect())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, pipe};

    use meterline_core::{Health, Metrics, Rejected};

    use super::*;

    fn cx() -> BuildContext {
        BuildContext {
            label: "output".into(),
            metrics: Metrics::default(),
            health: Health::default(),
            extensions: meterline_core::Extensions::default(),
            rejected: Rejected::default(),
            processing: None,
        }
    }

    #[test]
    fn a_message_is_one_line() {
        let message = Message::raw("{\"a\":\n1}");
        assert_eq!(line(&message).unwrap(), b"{\"a\": 1}\n");
    }

    #[tokio::test]
    async fn what_drops_prints_all_that_is_taken_before_it_says_so() {
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
    async fn a_pipe_that_nobody_reads_costs_one_wait_and_what_does_not_fit() {
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
            // It does not wait, and so may come before the thread that prints has.
            drops.write(&batch[..1]).await.unwrap();
            more += 1;
        }
        drop(drops);
        assert_eq!(reads.join().unwrap() as u64, 100_000 + more - lost);
    }
}

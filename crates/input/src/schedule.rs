//! `schedule`: reads another input in windows of whole seconds that are aligned to the Unix epoch.
//!
//! `kubernetes_resources` knows the time of each event, so it makes the windows itself. `schedule` reads any
//! other input once at the end of each window, and marks the messages with that window.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use meterline_config::{Child, Configure, GoDuration, InputSpec, Located, PlanContext, Spec};
use meterline_core::{
    Ack, Batch, BuildContext, BuildError, Input, InputError, InputPlan, Reads, Undelivered,
    duration,
};
use serde::Deserialize;

/// The component.
pub(crate) const SPEC: InputSpec = Spec::new::<Config>(
    "schedule",
    "Cuts time into aligned windows and yields what another input has for each.",
    &[
        "schedule:\n  interval: 15s\n  input:\n    kubernetes_resources: {}\n",
        "schedule:\n  interval: 1m\n  input:\n    generate:\n      mapping: 'root = #{ at: now() }'\n      interval: 0s\n",
    ],
);

/// Configuration of `schedule`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Length of the windows: whole seconds, at least `1s`.
    #[serde(default = "default_interval")]
    interval: Located<GoDuration>,
    /// The input that is read for each window.
    input: Child,
}

fn default_interval() -> Located<GoDuration> {
    Located::from(GoDuration(Duration::from_secs(15)))
}

impl Configure for Config {
    type Plan = dyn InputPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn InputPlan>> {
        let interval = self.interval.value.0;
        let child = cx.input(self.input);
        if interval.as_secs() == 0 || interval.subsec_nanos() != 0 {
            cx.error_at(
                &self.interval,
                "the interval must be a whole number of seconds and at least `1s`",
            );
            return None;
        }
        Some(scheduled(child?, interval))
    }
}

/// Returns an input that yields one batch of another one for each window.
pub(crate) fn scheduled(mut child: Box<dyn InputPlan>, interval: Duration) -> Box<dyn InputPlan> {
    if child.take_schedule(interval) {
        child
    } else {
        Box::new(Plan { interval, child })
    }
}

struct Plan {
    interval: Duration,
    child: Box<dyn InputPlan>,
}

#[async_trait]
impl InputPlan for Plan {
    fn take_reads(&mut self, reads: &Reads) {
        self.child.take_reads(reads);
    }

    async fn build(self: Box<Self>, cx: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
        Ok(Box::new(Schedule {
            seconds: i64::try_from(self.interval.as_secs()).unwrap_or(i64::MAX),
            child: self.child.build(cx).await?,
            done_until: None,
            stopped: false,
        }))
    }
}

struct Schedule {
    seconds: i64,
    child: Box<dyn Input>,
    /// The end of the last window that was read. A window is never yielded again, even when the clock is
    /// set back.
    done_until: Option<i64>,
    /// Set by a stop: the rest of the child is then read without waiting for the end of a window.
    stopped: bool,
}

impl Schedule {
    /// Returns the end of the next window.
    fn next_end(&self, now: i64) -> i64 {
        let start = now.saturating_sub(now.rem_euclid(self.seconds));
        let end = start.saturating_add(self.seconds);
        self.done_until
            .map_or(end, |done| end.max(done.saturating_add(self.seconds)))
    }
}

#[async_trait]
impl Input for Schedule {
    #[expect(clippy::disallowed_methods, reason = "windows begin at times of day")]
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        let end = self.next_end(chrono::Utc::now().timestamp());
        let at = chrono::DateTime::from_timestamp(end, 0).unwrap_or_default();
        // Sleeps in short steps, because the wall clock may be set in the meantime.
        while let Ok(remaining) = (at - chrono::Utc::now()).to_std()
            && !self.stopped
        {
            tokio::time::sleep(remaining.min(Duration::from_secs(1))).await;
        }
        let Some((mut batch, ack)) = self.child.read().await? else {
            return Ok(None);
        };
        self.done_until = Some(end);
        let start = chrono::DateTime::from_timestamp(end.saturating_sub(self.seconds), 0)
            .unwrap_or_default()
            .to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let time: Arc<str> = start.into();
        let interval: Arc<str> = duration::format_seconds(self.seconds).into();
        for message in &mut batch {
            for (key, value) in [
                ("schedule_time", &time),
                ("schedule_interval", &interval),
                ("window_time", &time),
                ("window_interval", &interval),
            ] {
                message.metadata.set(key, Arc::clone(value));
            }
        }
        Ok(Some((batch, ack)))
    }

    fn stop(&mut self) -> bool {
        self.stopped = true;
        self.child.stop()
    }

    async fn close(&mut self) {
        self.child.close().await;
    }

    fn left(&self) -> Undelivered {
        self.child.left()
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::{Message, Outcome};

    use super::*;

    struct Once(bool);

    #[async_trait]
    impl Input for Once {
        async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
            if std::mem::replace(&mut self.0, true) {
                return Ok(None);
            }
            let (ack, _) = Ack::new();
            Ok(Some((vec![Message::raw("x")], ack)))
        }

        fn stop(&mut self) -> bool {
            self.0 = false;
            true
        }

        async fn close(&mut self) {}

        fn left(&self) -> Undelivered {
            Undelivered {
                lost: 7,
                persisted: 8,
            }
        }
    }

    fn schedule(seconds: i64, done_until: Option<i64>) -> Schedule {
        Schedule {
            seconds,
            child: Box::new(Once(false)),
            done_until,
            stopped: false,
        }
    }

    #[test]
    fn windows_are_aligned_and_never_repeated() {
        assert_eq!(schedule(15, None).next_end(100), 105);
        assert_eq!(schedule(15, None).next_end(105), 120);
        assert_eq!(schedule(15, Some(120)).next_end(110), 135);
        assert_eq!(schedule(15, Some(120)).next_end(121), 135);
        assert_eq!(schedule(15, None).next_end(-1), 0);
    }

    #[tokio::test]
    async fn messages_are_marked_with_their_window() {
        let mut schedule = schedule(1, None);
        let (batch, ack) = schedule.read().await.unwrap().unwrap();
        ack.resolve(Outcome::Delivered);
        let metadata = &batch[0].metadata;
        assert_eq!(metadata.get("schedule_interval").unwrap().as_ref(), "1s");
        let end = schedule.done_until.unwrap();
        let start = chrono::DateTime::parse_from_rfc3339(metadata.get("schedule_time").unwrap());
        assert_eq!(start.unwrap().timestamp(), end - 1);
        assert_eq!(metadata.get("window_time"), metadata.get("schedule_time"));
        assert!(schedule.read().await.unwrap().is_none());
    }

    /// The end of the window is years away.
    #[tokio::test]
    async fn a_stop_reaches_the_child_and_its_remaining_batches_are_read_at_once() {
        let mut schedule = schedule(1_000_000_000, None);
        assert!(schedule.stop());
        let (batch, ack) = schedule.read().await.unwrap().unwrap();
        ack.resolve(Outcome::Delivered);
        assert!(batch[0].metadata.get("window_time").is_some());
        assert!(schedule.read().await.unwrap().is_none());
        assert_eq!(
            schedule.left(),
            Undelivered {
                lost: 7,
                persisted: 8
            }
        );
    }
}

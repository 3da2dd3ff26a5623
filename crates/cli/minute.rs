//! Logs a summary once a minute: windows, messages and seconds delivered, what waits and why.
//!
//! The input counts the deliveries, so a message counts once even when several outputs deliver it. For
//! `kubernetes_resources` a message is one event, unless a mapping turns it into several.

use std::{collections::BTreeMap, time::Duration};

use meterline_core::{Health, HealthReport, Metrics};
use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

const MINUTE: Duration = Duration::from_secs(60);

/// Logs the summaries until the future is dropped.
pub(crate) async fn log(metrics: Metrics, health: Health) {
    let mut minutes = interval(MINUTE);
    // After a suspension of the process one summary follows, not one for each minute missed.
    minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    minutes.tick().await;
    let mut before = Figures::of(&metrics.values());
    loop {
        minutes.tick().await;
        let now = Figures::of(&metrics.values());
        let Summary {
            windows,
            messages,
            seconds,
            waiting,
            rejected,
            dropped,
            unproved,
        } = now.since(&before);
        let waits_for = reasons(&health.report());
        info!(
            windows_settled = windows,
            messages_delivered = messages,
            seconds_delivered = seconds,
            waiting_seconds = waiting,
            rejected_seconds = rejected,
            dropped_seconds = dropped,
            unproved_seconds = unproved,
            waits_for,
            "the last minute"
        );
        before = now;
    }
}

/// The totals at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Figures {
    windows: i64,
    messages: i64,
    delivered: i64,
    waiting: i64,
    rejected: i64,
    dropped: i64,
    unproved: i64,
}

/// The change over a minute, and what waits at its end.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    windows: i64,
    messages: i64,
    seconds: i64,
    waiting: i64,
    rejected: i64,
    dropped: i64,
    unproved: i64,
}

impl Figures {
    fn of(values: &BTreeMap<String, f64>) -> Self {
        let sum = |metric: &str, label: &str| {
            let mine = values
                .iter()
                .filter(|(name, _)| {
                    name.strip_prefix(metric)
                        .is_some_and(|it| it.is_empty() || it.starts_with('{'))
                })
                .filter(|(name, _)| name.contains(label));
            mine.map(|(_, value)| *value as i64).sum()
        };
        let fate = |fate: &str| sum("ledger_seconds_total", &format!("fate=\"{fate}\""));
        Self {
            windows: sum("ledger_windows_settled", ""),
            messages: sum("input_delivered", ""),
            delivered: fate("delivered"),
            waiting: fate("waiting"),
            rejected: fate("rejected"),
            dropped: fate("dropped"),
            unproved: fate("unproved"),
        }
    }

    fn since(&self, before: &Self) -> Summary {
        Summary {
            windows: self.windows - before.windows,
            messages: self.messages - before.messages,
            seconds: self.delivered - before.delivered,
            waiting: self.waiting,
            // Negative when rejected pieces were delivered.
            rejected: self.rejected - before.rejected,
            dropped: self.dropped - before.dropped,
            unproved: self.unproved - before.unproved,
        }
    }
}

/// Why messages wait: the parts that are not ready, and the batches that are not full.
fn reasons(report: &HealthReport) -> String {
    let waits = |part: &str, ready: bool, detail: &str| {
        !ready || (part.starts_with("batching ") && !detail.is_empty())
    };
    let reasons: Vec<_> = report
        .parts
        .iter()
        .filter(|(part, ready, detail)| waits(part, *ready, detail))
        .map(|(_, _, detail)| detail.as_ref())
        .collect();
    reasons.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_the_change_over_the_minute() {
        let values = |windows: f64, sent: f64, delivered: f64, waiting: f64| {
            BTreeMap::from([
                ("ledger_windows_settled{label=\"i\"}".to_owned(), windows),
                ("input_delivered".to_owned(), sent),
                // Two outputs deliver each message.
                ("output_sent{label=\"a\"}".to_owned(), sent),
                ("output_sent{label=\"b\"}".to_owned(), sent),
                (
                    "ledger_seconds_total{fate=\"delivered\",label=\"i\"}".to_owned(),
                    delivered,
                ),
                (
                    "ledger_seconds_total{fate=\"waiting\",label=\"i\"}".to_owned(),
                    waiting,
                ),
            ])
        };
        let before = Figures::of(&values(3.0, 10.0, 100.0, 7.0));
        let now = Figures::of(&values(7.0, 30.0, 250.0, 5.0));
        assert_eq!(
            now.since(&before),
            Summary {
                windows: 4,
                messages: 20,
                seconds: 150,
                waiting: 5,
                rejected: 0,
                dropped: 0,
                unproved: 0,
            }
        );
    }

    #[test]
    fn the_reasons_name_parts_that_are_not_ready_and_batches_that_wait() {
        let health = Health::default();
        health.register("batching a").ready("12 events wait for 20");
        health.register("batching b").ready("");
        health.register("input").ready("watching");
        health.register("output").not_ready("503");
        assert_eq!(reasons(&health.report()), "12 events wait for 20; 503");
    }
}

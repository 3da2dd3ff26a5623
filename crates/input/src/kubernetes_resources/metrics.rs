//! What one input reports of its ledger on `/metrics` and on `/ready`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meterline_core::{Health, HealthHandle, IntCounter, IntGauge, Metrics};
use meterline_ledger::{Ledger, UnixSeconds};
use tokio::time::Instant;
use tracing::{error, warn};

use super::{ledger::SharedLedger, object::BilledObject, resource_type::ResourceType, unbilled};

/// The time between two summaries of usage that is not billed.
const BETWEEN_SUMMARIES: Duration = Duration::from_secs(1);

/// The ledger's own metrics.
struct LedgerMetrics {
    watermark: IntGauge,
    watermark_age: IntGauge,
    staleness: IntGauge,
    open: IntGauge,
    overbilled: IntGauge,
    late: IntGauge,
    billed: IntGauge,
    lost: IntGauge,
    watch_errors: IntCounter,
    windows: IntCounter,
}

impl LedgerMetrics {
    fn new(metrics: &Metrics, label: &str) -> Self {
        let labels = [("label", label)];
        let gauge = |name, help| metrics.gauge(name, help, &labels);
        Self {
            watermark: gauge(
                "ledger_watermark_timestamp_seconds",
                "End of the last window whose events were all acknowledged, Unix seconds.",
            ),
            watermark_age: gauge(
                "ledger_watermark_age_seconds",
                "How far the watermark lies behind now.",
            ),
            staleness: gauge(
                "ledger_staleness_seconds",
                "How long ago the view of the API server was last known to be current.",
            ),
            open: gauge(
                "ledger_running_objects",
                "Objects that are being billed now.",
            ),
            overbilled: gauge(
                "ledger_overbilled_seconds",
                "Seconds billed beyond an end that was learned too late.",
            ),
            late: gauge(
                "ledger_late_seconds",
                "Seconds that were billed in events of their own because their start was learned late.",
            ),
            billed: gauge(
                "ledger_billed_seconds",
                "Object-seconds in events that were delivered, and nothing else.",
            ),
            lost: gauge(
                "lost_time",
                "Object-seconds that may have run but could not be proved, or came too late, and are not billed.",
            ),
            windows: metrics.counter(
                "ledger_windows_settled",
                "Windows whose events were all delivered, rejected or dropped.",
                &labels,
            ),
            watch_errors: metrics.counter(
                "kubernetes_watch_errors",
                "Failures to list or watch.",
                &labels,
            ),
        }
    }
}

/// What was reported last.
#[derive(Default)]
struct Reported {
    /// Why watches are not current, by watch.
    errors: BTreeMap<Arc<str>, String>,
    overbilled: i64,
    rejected_not_kept: u64,
    /// When usage that is not billed was last summarised.
    summary_at: Option<Instant>,
    /// The second up to which the view was last complete; before the first time, when the input started.
    current_until: Option<UnixSeconds>,
}

/// The reports of one input.
pub(super) struct LedgerReport {
    resource_type: ResourceType,
    has_state: bool,
    metrics: LedgerMetrics,
    /// Whether the input has the whole view, and so bills.
    health: HealthHandle,
    /// Shows usage that is not billed.
    billing: HealthHandle,
    reported: Mutex<Reported>,
}

impl LedgerReport {
    /// Of the input `label`.
    pub(super) fn new(
        resource_type: ResourceType,
        has_state: bool,
        health: &Health,
        metrics: &Metrics,
        label: &str,
    ) -> Self {
        let input = health.register(format!("input {label}"));
        input.not_ready("connecting to the API server");
        let billing = health.register(format!("billing {label}"));
        billing.ready("");
        show_what_is_billed(metrics, label, resource_type);
        Self {
            resource_type,
            has_state,
            metrics: LedgerMetrics::new(metrics, label),
            health: input,
            billing,
            reported: Mutex::default(),
        }
    }

    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watch failed.
    pub(super) fn watch_failed(&self, watch: &Arc<str>, reason: &str) {
        self.metrics.watch_errors.inc();
        let mut reported = self.reported();
        reported.errors.insert(Arc::clone(watch), reason.to_owned());
        let all: Vec<_> = reported.errors.values().map(String::as_str).collect();
        self.health.not_ready(all.join("; "));
    }

    /// A watch has a complete view; `is_complete` is whether all watches have one.
    pub(super) fn watch_synced(&self, watch: &str, is_complete: bool) {
        let mut reported = self.reported();
        reported.errors.remove(watch);
        // An input that has the whole view is ready, because it bills.
        if is_complete && reported.errors.is_empty() {
            self.health.ready(if self.has_state {
                "watching"
            } else {
                "watching; the ledger is in memory only and does not survive a restart"
            });
        }
    }

    /// All events of a window have a result.
    pub(super) fn window_settled(&self) {
        self.metrics.windows.inc();
    }

    /// Updates the metrics, and logs once what cannot be corrected any more.
    pub(super) fn update(&self, ledger: &SharedLedger, now: UnixSeconds) {
        let complete_until = ledger.complete_until();
        let mut reported = self.reported();
        let current = complete_until.or(reported.current_until).unwrap_or(now);
        reported.current_until = Some(current);
        let staleness = now.saturating_sub(current).max(0);
        self.metrics.staleness.set(staleness);
        ledger.with_ledger(|ledger| {
            self.summarise(&mut reported, ledger);
            self.show(&mut reported, ledger, now);
        });
    }

    /// Shows on `/ready` which usage is not billed and why, and logs each further rejected piece that is dropped.
    fn summarise(&self, reported: &mut Reported, ledger: &Ledger<BilledObject>) {
        let is_recent = |at: Instant| at.elapsed() < BETWEEN_SUMMARIES;
        if reported.summary_at.is_some_and(is_recent) {
            return;
        }
        reported.summary_at = Some(Instant::now());
        let summary = unbilled::summary(ledger, self.resource_type);
        if summary.is_empty() {
            self.billing.ready("");
        } else {
            self.billing.ready(format!("not billed: {summary}"));
        }
        let not_kept = ledger.stats().rejected_not_kept;
        if not_kept > reported.rejected_not_kept {
            error!(
                pieces = not_kept - reported.rejected_not_kept,
                "more usage was rejected than is kept, or it is too old: the oldest of the namespace with \
                 most is dropped and can not be delivered later. /ready shows why it is rejected"
            );
            reported.rejected_not_kept = not_kept;
        }
    }

    fn show(&self, reported: &mut Reported, ledger: &Ledger<BilledObject>, now: UnixSeconds) {
        let stats = ledger.stats();
        let watermark = ledger.watermark();
        let metrics = &self.metrics;
        metrics.watermark.set(watermark);
        metrics.watermark_age.set(now.saturating_sub(watermark));
        metrics.open.set(clamp(stats.open));
        metrics.overbilled.set(clamp(stats.overbilled_seconds));
        metrics.late.set(clamp(stats.late_seconds));
        metrics.billed.set(clamp(stats.billed_seconds));
        metrics.lost.set(clamp(stats.lost_seconds));
        let overbilled: i64 = clamp(stats.overbilled_seconds);
        if overbilled > reported.overbilled {
            warn!(
                seconds = overbilled - reported.overbilled,
                "an object ended before the end of a window that was already billed; \
                 these seconds cannot be taken back (a longer `settle` prevents this)"
            );
            reported.overbilled = overbilled;
        }
    }
}

/// Shows which objects an input bills: the labels of its other metrics do not say it.
fn show_what_is_billed(metrics: &Metrics, label: &str, resource_type: ResourceType) {
    let help = "1 for each input, with the type of the objects that it bills.";
    let labels = [("label", label), ("resource_type", resource_type.word())];
    metrics.gauge("ledger_input_info", help, &labels).set(1);
}

fn clamp<T: TryInto<i64>>(number: T) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use meterline_ledger::DeliveryResult;

    use crate::kubernetes_resources::{
        testing::{Parts, WATCH, observation, options},
        watch::Cluster,
    };

    fn parts() -> Parts {
        Parts::new(options(Cluster::default()), 0)
    }

    #[test]
    fn an_input_is_ready_once_no_watch_fails_and_all_have_a_complete_view() {
        let parts = parts();
        let report = &parts.report;
        let ready = || parts.ready("input x");
        assert_eq!(ready(), (false, "connecting to the API server".to_owned()));
        report.watch_synced("a", false);
        assert!(!ready().0, "another watch has no view yet");
        report.watch_failed(&"b".into(), "refused");
        report.watch_synced("a", true);
        assert_eq!(ready(), (false, "refused".to_owned()));
        report.watch_failed(&"a".into(), "reset");
        assert_eq!(ready().1, "reset; refused");
        report.watch_synced("a", false);
        report.watch_synced("b", true);
        let (is_ready, text) = ready();
        assert!(is_ready && text.contains("in memory only"), "{text}");
        assert_eq!(parts.metric("kubernetes_watch_errors"), 2.0);
    }

    #[test]
    fn staleness_grows_while_no_view_is_complete() {
        let parts = parts();
        let staleness = |now| {
            parts.report.update(&parts.ledger, now);
            parts.metric("ledger_staleness_seconds")
        };
        assert_eq!((staleness(100), staleness(130)), (0.0, 30.0));
        parts.ledger.synced(WATCH, true);
        parts.ledger.alive(WATCH, 125);
        assert_eq!(staleness(130), 5.0);
        parts.ledger.synced(WATCH, false);
        assert_eq!(staleness(140), 15.0);
    }

    #[test]
    fn metrics_show_what_the_ledger_counts() {
        let parts = parts();
        let ledger = &parts.ledger;
        ledger.observe(observation("a", 1, None));
        ledger.synced(WATCH, true);
        ledger.alive(WATCH, 10);
        let window = ledger.next(10).0.unwrap();
        ledger.settle(window.batch.tag, |_| DeliveryResult::Delivered);
        // It ended before the end of a window that is billed.
        ledger.deleted("a", 7);
        parts.report.window_settled();
        parts.report.update(ledger, 25);
        for (name, expected) in [
            ("ledger_watermark_timestamp_seconds", 10.0),
            ("ledger_watermark_age_seconds", 15.0),
            ("ledger_billed_seconds", 9.0),
            ("ledger_overbilled_seconds", 3.0),
            ("ledger_running_objects", 0.0),
            ("ledger_windows_settled", 1.0),
            ("lost_time", 0.0),
        ] {
            assert_eq!(parts.metric(name), expected, "{name}");
        }
        let info = "ledger_input_info{label=\"x\",resource_type=\"pod\"}";
        assert_eq!(parts.metrics.values()[info], 1.0);
        assert_eq!(parts.ready("billing x"), (true, String::new()));
    }
}

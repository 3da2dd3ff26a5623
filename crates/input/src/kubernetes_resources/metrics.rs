//! What the ledger shows of itself on `/metrics`.

use meterline_core::{IntCounter, IntGauge, Metrics};

/// The ledger's own metrics.
pub(super) struct LedgerMetrics {
    pub(super) watermark: IntGauge,
    pub(super) watermark_age: IntGauge,
    pub(super) staleness: IntGauge,
    pub(super) open: IntGauge,
    pub(super) overbilled: IntGauge,
    pub(super) late: IntGauge,
    pub(super) billed: IntGauge,
    pub(super) lost: IntGauge,
    pub(super) watch_errors: IntCounter,
    pub(super) windows: IntCounter,
}

impl LedgerMetrics {
    pub(super) fn new(metrics: &Metrics, label: &str) -> Self {
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
                "Windows whose events all have a fate.",
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

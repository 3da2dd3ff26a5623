//! What the watches and the reader of one input share: the ledger, and how current it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::Config;
use meterline_core::{HealthHandle, IntCounter, IntGauge, Metrics};
use meterline_ledger::{Completeness, Emission, Ledger, Observation, Settled, Ticket, UnixSeconds};
use tokio::{sync::Notify, time::Instant};
use tracing::warn;

use super::{object::Content, resource_type::ResourceType};

/// Wall time, and the wall time of a monotonic moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clock;

impl Clock {
    /// Unix seconds, rounded down.
    pub(super) fn seconds(self) -> i64 {
        chrono::Utc::now().timestamp()
    }

    /// Unix seconds at a moment that lies not in the future, rounded down.
    pub(super) fn seconds_at(self, moment: Instant) -> i64 {
        let ago = chrono::TimeDelta::from_std(moment.elapsed()).unwrap_or_default();
        (chrono::Utc::now() - ago).timestamp()
    }

    /// How long until the wall clock shows `at`.
    pub(super) fn until(self, at: i64) -> Duration {
        let now = chrono::Utc::now();
        chrono::DateTime::from_timestamp(at, 0)
            .and_then(|at| (at - now).to_std().ok())
            .unwrap_or_default()
    }
}

struct Books {
    ledger: Ledger<Content>,
    completeness: Completeness,
    /// Why watches are not current, by watch.
    troubles: BTreeMap<Arc<str>, String>,
    overbilled_told: i64,
}

/// See the module documentation.
pub(super) struct Shared {
    books: Mutex<Books>,
    /// Something happened that may make a window ready.
    pub(super) changed: Notify,
    pub(super) clock: Clock,
    pub(super) resource_type: ResourceType,
    pub(super) label_selector: Option<String>,
    pub(super) include_pending: bool,
    pub(super) settle: Duration,
    health: HealthHandle,
    gauges: Gauges,
}

/// The ledger's own metrics.
struct Gauges {
    watermark: IntGauge,
    watermark_age: IntGauge,
    staleness: IntGauge,
    open: IntGauge,
    overbilled: IntGauge,
    late: IntGauge,
    billed: IntGauge,
    watch_errors: IntCounter,
}

impl Gauges {
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
                "Object-seconds in acknowledged events.",
            ),
            watch_errors: metrics.counter(
                "kubernetes_watch_errors",
                "Failures to list or watch.",
                &labels,
            ),
        }
    }
}

/// What [`Shared::new`] needs to know beside the books.
pub(super) struct Subject {
    pub(super) resource_type: ResourceType,
    pub(super) label_selector: Option<String>,
    pub(super) include_pending: bool,
    pub(super) settle: Duration,
}

impl Shared {
    pub(super) fn new(
        ledger: Ledger<Content>,
        completeness: Completeness,
        subject: Subject,
        health: HealthHandle,
        metrics: &Metrics,
        label: &str,
    ) -> Self {
        health.not_ready("connecting to the API server");
        Self {
            books: Mutex::new(Books {
                ledger,
                completeness,
                troubles: BTreeMap::new(),
                overbilled_told: 0,
            }),
            changed: Notify::new(),
            clock: Clock,
            resource_type: subject.resource_type,
            label_selector: subject.label_selector,
            include_pending: subject.include_pending,
            settle: subject.settle,
            health,
            gauges: Gauges::new(metrics, label),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster's address and credentials as they are now.
    pub(super) async fn cluster(&self) -> Result<Config, String> {
        Config::infer()
            .await
            .map_err(|error| format!("no usable cluster configuration: {error}"))
    }

    /// The ledger learns of an object's state.
    pub(super) fn observe(&self, observation: Observation<Content>) {
        self.books().ledger.apply(observation);
    }

    /// The ledger learns that an object is gone.
    pub(super) fn gone(&self, uid: &str, at: UnixSeconds) {
        self.books().ledger.gone(uid, at);
    }

    /// A watch has a complete view, or no longer has one.
    pub(super) fn synced(&self, watch: &str, synced: bool) {
        let mut books = self.books();
        books.completeness.synced(watch, synced);
        if synced {
            books.troubles.remove(watch);
            if books.troubles.is_empty() {
                self.health
                    .ready("watching; the ledger is in memory only and does not survive a restart");
            }
        }
        drop(books);
        self.changed.notify_one();
    }

    /// A watch lost its view, for a reason that people should know.
    pub(super) fn unsynced(&self, watch: &Arc<str>, reason: &str) {
        let mut books = self.books();
        books.completeness.synced(watch, false);
        books.troubles.insert(Arc::clone(watch), reason.to_owned());
        let all: Vec<_> = books.troubles.values().map(String::as_str).collect();
        self.health.not_ready(all.join("; "));
        self.gauges.watch_errors.inc();
    }

    /// A watch was current at `at`.
    pub(super) fn alive(&self, watch: &str, at: UnixSeconds) {
        self.books().completeness.alive(watch, at);
        self.changed.notify_one();
    }

    /// The end of the next window.
    pub(super) fn next_due(&self) -> UnixSeconds {
        self.books().ledger.next_due()
    }

    /// The next window that may be made now.
    pub(super) fn next(&self, now: UnixSeconds) -> Option<Emission<Content>> {
        let mut books = self.books();
        let complete_until = books.completeness.complete_until(now)?;
        books.ledger.next(complete_until)
    }

    /// How the events of a window ended.
    pub(super) fn settle(&self, ticket: Ticket, settled: Settled) {
        self.books().ledger.settle(ticket, settled);
    }

    /// Brings the metrics up to date and tells once of what cannot be taken back.
    pub(super) fn update_gauges(&self, now: UnixSeconds) {
        let mut books = self.books();
        let stats = books.ledger.stats();
        let watermark = books.ledger.watermark();
        self.gauges.watermark.set(watermark);
        self.gauges.watermark_age.set(now.saturating_sub(watermark));
        self.gauges.open.set(clamp(stats.open));
        self.gauges.overbilled.set(clamp(stats.overbilled_seconds));
        self.gauges.late.set(clamp(stats.late_seconds));
        self.gauges.billed.set(clamp(stats.billed_seconds));
        if let Some(current) = books.completeness.complete_until(i64::MAX) {
            self.gauges
                .staleness
                .set(now.saturating_sub(current).max(0));
        }
        let overbilled: i64 = clamp(stats.overbilled_seconds);
        if overbilled > books.overbilled_told {
            warn!(
                seconds = overbilled - books.overbilled_told,
                "an object ended before the end of a window that was already billed; \
                 these seconds cannot be taken back (a longer `settle` prevents this)"
            );
            books.overbilled_told = overbilled;
        }
    }
}

fn clamp<T: TryInto<i64>>(number: T) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

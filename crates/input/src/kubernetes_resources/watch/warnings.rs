//! What people should know of the watches although they work: `/ready` and `/metrics` show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meterline_core::{HealthHandle, IntGauge, Metrics};

/// The remarks of all watches of one input.
pub(crate) struct WatchWarnings {
    health: HealthHandle,
    known: Mutex<Known>,
    lag: IntGauge,
    missing: IntGauge,
}

#[derive(Default)]
struct Known {
    /// How late events come, by watch.
    lags: BTreeMap<String, Duration>,
    /// Namespaces that are not there.
    missing: BTreeSet<String>,
}

impl WatchWarnings {
    /// Of the input `label`.
    pub(crate) fn new(health: HealthHandle, metrics: &Metrics, label: &str) -> Self {
        health.ready("");
        let labels = [("label", label)];
        let gauge = |name, help| metrics.gauge(name, help, &labels);
        Self {
            health,
            known: Mutex::default(),
            lag: gauge(
                "kubernetes_watch_lag_seconds",
                "How late events of a watch came, at most, while lists were answered at once; windows \
                 wait for as long.",
            ),
            missing: gauge(
                "kubernetes_missing_namespaces",
                "Namespaces that the configuration names and that do not exist.",
            ),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Events of this watch come so late.
    pub(crate) fn lags(&self, watch: &str, lag: Duration) {
        let mut known = self.known();
        known.lags.insert(watch.to_owned(), lag);
        self.show(&known);
    }

    /// Whether a namespace that is watched is missing. Returns whether that is news.
    pub(crate) fn is_missing(&self, namespace: &str, is_missing: bool) -> bool {
        let mut known = self.known();
        let is_news = if is_missing {
            known.missing.insert(namespace.to_owned())
        } else {
            known.missing.remove(namespace)
        };
        if is_news {
            self.show(&known);
        }
        is_news
    }

    fn show(&self, known: &Known) {
        let longest = known.lags.values().max().copied().unwrap_or_default();
        self.lag.set(whole(longest));
        self.missing
            .set(i64::try_from(known.missing.len()).unwrap_or(i64::MAX));
        let lags = known.lags.iter().map(|(watch, lag)| {
            format!(
                "events of {watch} came up to {} s late while lists were answered at once; windows wait \
                 for as long",
                whole(*lag)
            )
        });
        let missing = known.missing.iter().map(|namespace| {
            format!("the namespace `{namespace}` does not exist, so nothing in it is billed")
        });
        let all: Vec<_> = lags.chain(missing).collect();
        self.health.ready(all.join("; "));
    }
}

/// Seconds, rounded up.
pub(crate) fn whole(lag: Duration) -> i64 {
    i64::try_from(lag.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use meterline_core::Health;

    use super::*;

    #[test]
    fn what_is_remarked_is_shown_and_goes_when_it_is_over() {
        let (health, metrics) = (Health::default(), Metrics::default());
        let remarks = WatchWarnings::new(health.register("watches x"), &metrics, "x");
        let shown = || {
            let report = health.report();
            assert!(report.ready);
            report.parts[0].2.to_string()
        };
        assert_eq!(shown(), "");
        assert!(remarks.is_missing("b", true) && !remarks.is_missing("b", true));
        assert!(remarks.is_missing("a", true));
        remarks.lags("pods in all namespaces", Duration::from_millis(4_100));
        assert_eq!(
            shown(),
            "events of pods in all namespaces came up to 5 s late while lists were answered at once; \
             windows wait for as long; the namespace `a` does not exist, so nothing in it is billed; the \
             namespace `b` does not exist, so nothing in it is billed"
        );
        assert!(remarks.is_missing("a", false) && !remarks.is_missing("a", false));
        let values = metrics.values();
        assert_eq!(values["kubernetes_missing_namespaces{label=\"x\"}"], 1.0);
        assert_eq!(values["kubernetes_watch_lag_seconds{label=\"x\"}"], 5.0);
    }
}

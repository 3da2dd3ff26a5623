//! Warnings about watches that work: events that come late, and namespaces that do not exist. `/ready` and
//! `/metrics` show them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meterline_core::{HealthHandle, IntGauge, Metrics};
use tracing::warn;

use crate::kubernetes_resources::resource_type::ResourceType;

/// The warnings of all watches of one input.
pub(crate) struct WatchWarnings {
    health: HealthHandle,
    known: Mutex<Warned>,
    lag: IntGauge,
    missing: IntGauge,
}

#[derive(Default)]
struct Warned {
    /// How late events come, by watch.
    lags: BTreeMap<String, Duration>,
    /// Namespaces that do not exist.
    missing: BTreeSet<String>,
    /// Why there are no objects of these custom resources.
    absent: BTreeMap<String, Absence>,
    /// Whether the objects of all namespaces name who pays for them.
    names_subjects: bool,
}

/// Why there are no objects of a custom resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// The cluster does not have it, and its objects would be billed.
    Unbilled,
    /// The cluster does not have it, and claims of devices are billed without.
    Unserved,
    /// It may not be read, and claims of devices are billed without.
    Forbidden,
}

impl Absence {
    /// Of a resource that the cluster does not have, or that may not be read.
    pub(crate) fn of(resource_type: ResourceType, is_served: bool) -> Self {
        match resource_type {
            ResourceType::ResourceSlice if is_served => Self::Forbidden,
            ResourceType::ResourceSlice => Self::Unserved,
            _ => Self::Unbilled,
        }
    }

    /// What it means for the bill, and the remedy.
    pub(crate) fn describe(self, plural: &str) -> String {
        match self {
            Self::Unbilled => format!(
                "the cluster does not have the custom resource {plural}, so there are none to bill"
            ),
            Self::Unserved => format!(
                "the cluster does not have {plural} in resource.k8s.io/v1 (Kubernetes 1.34), so devices of claims are \
                 billed without product, memory and fraction"
            ),
            Self::Forbidden => format!(
                "not allowed to list and watch {plural}, so devices of claims are billed without product, memory and \
                 fraction; grant the verbs get, list and watch on {plural} of resource.k8s.io with a ClusterRole"
            ),
        }
    }
}

/// Said of an input that watches all namespaces and whose objects name who pays.
const NAMES_SUBJECTS: &str = "all namespaces are watched, and whoever creates an object chooses who pays for it by the \
                              annotation openmeter.io/subject; where tenants do not trust each other set \
                              SUBJECT_FROM=namespace, or ALLOWED_SUBJECTS";

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

    fn known(&self) -> MutexGuard<'_, Warned> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the objects of all namespaces name who pays for them.
    pub(crate) fn say_who_names_subjects(&self) {
        warn!("{NAMES_SUBJECTS}");
        let mut known = self.known();
        known.names_subjects = true;
        self.show(&known);
    }

    /// Sets how late events of this watch come.
    pub(crate) fn set_lag(&self, watch: &str, lag: Duration) {
        let mut known = self.known();
        known.lags.insert(watch.to_owned(), lag);
        self.show(&known);
    }

    /// Sets whether a namespace that is watched is missing. Returns whether that has changed.
    pub(crate) fn set_missing(&self, namespace: &str, is_missing: bool) -> bool {
        let mut known = self.known();
        let has_changed = if is_missing {
            known.missing.insert(namespace.to_owned())
        } else {
            known.missing.remove(namespace)
        };
        if has_changed {
            self.show(&known);
        }
        has_changed
    }

    /// Sets why there are no objects of a custom resource, if that is so. Returns whether it has changed.
    pub(crate) fn set_absent(&self, plural: &str, absence: Option<Absence>) -> bool {
        let mut known = self.known();
        let before = match absence {
            Some(absence) => known.absent.insert(plural.to_owned(), absence),
            None => known.absent.remove(plural),
        };
        let has_changed = before != absence;
        if has_changed {
            self.show(&known);
        }
        has_changed
    }

    fn show(&self, known: &Warned) {
        let longest = known.lags.values().max().copied().unwrap_or_default();
        self.lag.set(whole_seconds(longest));
        self.missing
            .set(i64::try_from(known.missing.len()).unwrap_or(i64::MAX));
        let lags = known.lags.iter().map(|(watch, lag)| {
            format!(
                "events of {watch} came up to {} s late while lists were answered at once; windows wait \
                 for as long",
                whole_seconds(*lag)
            )
        });
        let missing = known.missing.iter().map(|namespace| {
            format!("the namespace `{namespace}` does not exist, so nothing in it is billed")
        });
        let absent = known.absent.iter();
        let absent = absent.map(|(plural, absence)| absence.describe(plural));
        let subjects = known.names_subjects.then(|| NAMES_SUBJECTS.to_owned());
        let all: Vec<_> = lags.chain(missing).chain(absent).chain(subjects).collect();
        self.health.ready(all.join("; "));
    }
}

/// Seconds, rounded up.
pub(crate) fn whole_seconds(lag: Duration) -> i64 {
    i64::try_from(lag.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use meterline_core::Health;

    use super::*;

    #[test]
    fn ready_shows_each_warning_until_its_cause_is_gone() {
        let (health, metrics) = (Health::default(), Metrics::default());
        let warnings = WatchWarnings::new(health.register("watches x"), &metrics, "x");
        let shown = || {
            let report = health.report();
            assert!(report.ready);
            report.parts[0].2.to_string()
        };
        assert_eq!(shown(), "");
        assert!(warnings.set_missing("b", true) && !warnings.set_missing("b", true));
        assert!(warnings.set_missing("a", true));
        warnings.set_lag("pods in all namespaces", Duration::from_millis(4_100));
        assert_eq!(
            shown(),
            "events of pods in all namespaces came up to 5 s late while lists were answered at once; \
             windows wait for as long; the namespace `a` does not exist, so nothing in it is billed; the \
             namespace `b` does not exist, so nothing in it is billed"
        );
        assert!(warnings.set_missing("a", false) && !warnings.set_missing("a", false));
        let unbilled = Absence::of(ResourceType::VolumeSnapshot, false);
        assert!(warnings.set_absent("volumesnapshots", Some(unbilled)));
        assert!(!warnings.set_absent("volumesnapshots", Some(unbilled)));
        assert!(
            shown().ends_with("the custom resource volumesnapshots, so there are none to bill"),
            "{}",
            shown()
        );
        assert!(warnings.set_absent("volumesnapshots", None));
        assert!(!shown().contains("volumesnapshots"));
        for (is_served, said) in [(true, "grant the verbs"), (false, "does not have")] {
            let absence = Absence::of(ResourceType::ResourceSlice, is_served);
            assert!(warnings.set_absent("resourceslices", Some(absence)));
            let shown = shown();
            assert!(
                shown.contains(said) && shown.contains("without product"),
                "{shown}"
            );
        }
        assert!(warnings.set_absent("resourceslices", None));
        warnings.say_who_names_subjects();
        assert!(shown().ends_with("or ALLOWED_SUBJECTS"), "{}", shown());
        let values = metrics.values();
        assert_eq!(values["kubernetes_missing_namespaces{label=\"x\"}"], 1.0);
        assert_eq!(values["kubernetes_watch_lag_seconds{label=\"x\"}"], 5.0);
    }
}

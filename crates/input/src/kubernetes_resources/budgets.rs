//! Counts and logs what exceeds the budget of an object or of a namespace.
//!
//! A tenant decides how often this happens, so each namespace gets a log line at once and then at growing
//! intervals.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use meterline_core::{IntCounter, LogInterval, Metrics};
use meterline_ledger::Waiting;
use tracing::warn;

use super::object::{BilledObject, Known, KnownLife};

/// The shortest and the longest interval between two log lines of one namespace.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3_600);
/// How many namespaces have log lines of their own; all others share one limit.
const MOST_NAMESPACES: usize = 1_000;

/// The budgets of one input.
pub(super) struct Budgets {
    cut: IntCounter,
    joined: IntCounter,
    beyond: IntCounter,
    forgotten: IntCounter,
    limits: Mutex<LogLimits>,
}

/// What limits the log lines.
#[derive(Default)]
struct LogLimits {
    cut: LogThrottle,
    joined: LogThrottle,
    beyond: LogThrottle,
    forgotten: LogThrottle,
}

impl Budgets {
    /// Of the input `label`.
    pub(super) fn new(metrics: &Metrics, label: &str) -> Self {
        let counter = |name, help| metrics.counter(name, help, &[("label", label)]);
        Self {
            cut: counter(
                "kubernetes_object_cut",
                "Values that were left out of objects because too much is read of the object, counted at \
                 each observation.",
            ),
            joined: counter(
                "ledger_joined_segments",
                "Changes of labels that were joined with the time before them, because too much of their \
                 namespace waits to be delivered.",
            ),
            beyond: counter(
                "ledger_segments_beyond_budget",
                "Changes that affect the bill and wait beyond the budget of their namespace.",
            ),
            forgotten: counter(
                "kubernetes_controllers_forgotten",
                "Labels and annotations of controllers at one time, for owner() in mappings, that were \
                 forgotten although pods that are observed late may need them, because there are too many \
                 in their namespace.",
            ),
            limits: Mutex::default(),
        }
    }

    /// Whether to log; see [`LogThrottle::pass`].
    fn log(&self, namespace: &str, of: impl Fn(&mut LogLimits) -> &mut LogThrottle) -> Option<u64> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        of(&mut limits).pass(namespace, Instant::now())
    }

    /// Counts what became of a change in a namespace.
    pub(super) fn waits(&self, namespace: &str, waiting: Waiting) {
        match waiting {
            Waiting::Within => {}
            Waiting::Joined => {
                self.joined.inc();
                if let Some(not_logged) = self.log(namespace, |it| &mut it.joined) {
                    warn!(
                        namespace,
                        changes_not_logged = not_logged,
                        "more than 10,000 changes or 64 MiB of this namespace wait to be delivered: \
                         further changes of labels are joined, and the time between them is billed \
                         with the first label; seconds, subjects and metrics do not change. Check \
                         whether the sink accepts events, and who changes the labels of running pods \
                         so often"
                    );
                }
            }
            Waiting::Beyond => {
                self.beyond.inc();
                if let Some(not_logged) = self.log(namespace, |it| &mut it.beyond) {
                    warn!(
                        namespace,
                        changes_not_logged = not_logged,
                        "more than 10,000 changes or 64 MiB of this namespace wait to be delivered, and \
                         further changes affect the bill: they are kept and take memory, but without \
                         labels where these are known. Check whether the sink accepts events, and who \
                         changes what running pods reserve, or the fields that the mapping reads by \
                         name, so often"
                    );
                }
            }
        }
    }

    /// Counts labels and annotations of controllers in a namespace that are forgotten early.
    pub(super) fn forgot(&self, namespace: &str, count: usize) {
        if count == 0 {
            return;
        }
        self.forgotten
            .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        if let Some(not_logged) = self.log(namespace, |it| &mut it.forgotten) {
            warn!(
                namespace,
                count,
                times_not_logged = not_logged,
                "more than 256 changes of the labels of one controller, or 16 MiB of controllers that are \
                 gone, wait to be delivered: the oldest ones are forgotten, and a pod that is observed only \
                 now has later labels in owner(), or none; seconds do not change. Check whether the sink \
                 accepts events, and who changes or deletes controllers so often"
            );
        }
    }

    /// Counts the values that were left out of an object.
    pub(super) fn came(&self, uid: &Arc<str>, content: &BilledObject) {
        if content.cut == 0 {
            return;
        }
        self.cut
            .inc_by(u64::try_from(content.cut).unwrap_or(u64::MAX));
        let known = Known::of(uid, content, KnownLife::default());
        let namespace = known.namespace.unwrap_or_default();
        if let Some(not_logged) = self.log(&namespace, |it| &mut it.cut) {
            warn!(
                namespace,
                name = known.name,
                values = content.cut,
                objects_not_logged = not_logged,
                "the mapping reads more than 256 KiB of this object: the largest values that it reads \
                 by a prefix of their key, or because it reads everything, are left out and missing in \
                 the events; values that it reads by name, and what the object reserves, are kept. Read \
                 less of each object, or ask the tenant to put less into it"
            );
        }
    }
}

/// Limits log lines for each namespace.
#[derive(Debug, Default)]
struct LogThrottle(HashMap<String, LogInterval>);

impl LogThrottle {
    /// Something happened in a namespace. Returns, if it is to be logged, how often it was not logged before.
    fn pass(&mut self, namespace: &str, now: Instant) -> Option<u64> {
        let is_known = self.0.contains_key(namespace);
        let key = if is_known || self.0.len() < MOST_NAMESPACES {
            namespace
        } else {
            // No namespace has this name.
            "*"
        };
        if let Some(interval) = self.0.get_mut(key) {
            return interval.try_log(now);
        }
        let interval = LogInterval::new(SHORTEST, LONGEST, now);
        self.0.insert(key.to_owned(), interval);
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_logged_at_once_and_then_at_growing_intervals() {
        let mut throttle = LogThrottle::default();
        let start = Instant::now();
        let logged: Vec<_> = (0..100_000)
            .filter_map(|second| {
                let not_logged = throttle.pass("a", start + Duration::from_secs(second))?;
                Some((second, not_logged))
            })
            .take(4)
            .collect();
        assert_eq!(logged, [(0, 0), (60, 59), (180, 119), (420, 239)]);
        let day = 24 * 3_600;
        let lines = (1_000..day)
            .filter(|it| {
                throttle
                    .pass("a", start + Duration::from_secs(*it))
                    .is_some()
            })
            .count();
        assert!(lines < 30, "{lines}");
        assert_eq!(throttle.pass("b", start), Some(0));
    }

    #[test]
    fn namespaces_beyond_a_bound_share_one_limit() {
        let mut throttle = LogThrottle::default();
        let now = Instant::now();
        let logged = (0..5_000)
            .filter(|number| throttle.pass(&format!("n-{number}"), now).is_some())
            .count();
        assert_eq!(
            (logged, throttle.0.len()),
            (MOST_NAMESPACES + 1, MOST_NAMESPACES + 1)
        );
    }
}

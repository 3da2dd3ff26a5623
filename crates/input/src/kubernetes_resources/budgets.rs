//! Counts and tells what tenants have too much of.
//!
//! A tenant decides how often this happens, so a log line comes at once and then at growing intervals
//! for each namespace.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use meterline_core::{IntCounter, Metrics};
use meterline_ledger::Waiting;
use tokio::time::Instant;
use tracing::warn;

use super::object::{BilledObject, Known};

/// The shortest and the longest interval between two log lines of one namespace.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3_600);
/// So many namespaces are told of one by one; all others share one turn.
const MOST_NAMESPACES: usize = 1_000;

/// What one input has to tell.
pub(super) struct Budgets {
    cut: IntCounter,
    joined: IntCounter,
    beyond: IntCounter,
    told: Mutex<Told>,
}

/// Whose turn it is to be told of what.
#[derive(Default)]
struct Told {
    cut: LogThrottle,
    joined: LogThrottle,
    beyond: LogThrottle,
}

impl Budgets {
    /// Of the input `label`.
    pub(super) fn new(metrics: &Metrics, label: &str) -> Self {
        let counter = |name, help| metrics.counter(name, help, &[("label", label)]);
        Self {
            cut: counter(
                "kubernetes_object_cut",
                "Values of objects that were left out because too much is read of the object, each \
                 time that the object came.",
            ),
            joined: counter(
                "ledger_joined_segments",
                "Changes of labels that are not billed with the label that they made, because too much \
                 of their namespace waits to be delivered.",
            ),
            beyond: counter(
                "ledger_segments_beyond_budget",
                "Changes of what is billed that wait although too much of their namespace does.",
            ),
            told: Mutex::default(),
        }
    }

    fn turn(&self, namespace: &str, turns: impl Fn(&mut Told) -> &mut LogThrottle) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        turns(&mut told).turn(namespace, Instant::now())
    }

    /// An object of a namespace changed.
    pub(super) fn waits(&self, namespace: &str, waiting: Waiting) {
        match waiting {
            Waiting::Within => {}
            Waiting::Joined => {
                self.joined.inc();
                if let Some(untold) = self.turn(namespace, |it| &mut it.joined) {
                    warn!(
                        namespace,
                        changes_not_told = untold,
                        "more than 10,000 changes or 64 MiB of this namespace wait to be delivered: \
                         further changes of labels are joined, and the time between them is billed \
                         with the label that was there first; seconds, subjects and metrics are as \
                         they would be. Look whether the sink takes events, and who changes the labels \
                         of running pods so often"
                    );
                }
            }
            Waiting::Beyond => {
                self.beyond.inc();
                if let Some(untold) = self.turn(namespace, |it| &mut it.beyond) {
                    warn!(
                        namespace,
                        changes_not_told = untold,
                        "more than 10,000 changes or 64 MiB of this namespace wait to be delivered, and \
                         more come that change what is billed: they are kept and take memory, but \
                         without labels where these are known. Look whether the sink takes events, and who changes what running pods reserve, or \
                         the fields that the mapping reads by name, so often"
                    );
                }
            }
        }
    }

    /// An object came, of which values were left out if there was too much.
    pub(super) fn came(&self, uid: &Arc<str>, content: &BilledObject) {
        if content.cut == 0 {
            return;
        }
        self.cut
            .inc_by(u64::try_from(content.cut).unwrap_or(u64::MAX));
        let known = Known::of(uid, content);
        let namespace = known.namespace.unwrap_or_default();
        if let Some(untold) = self.turn(&namespace, |it| &mut it.cut) {
            warn!(
                namespace,
                name = known.name,
                values = content.cut,
                objects_not_told = untold,
                "more than 256 KiB are read of this object: its largest values that are read by the \
                 start of their key, or because everything is read, are left out, and are missing in \
                 its events; what is read by its name, and what it reserves, is there. Read less of \
                 each object, or have the tenant put less into it"
            );
        }
    }
}

/// Whose turn it is to be told of.
#[derive(Debug, Default)]
struct LogThrottle(HashMap<String, Throttled>);

#[derive(Debug)]
struct Throttled {
    next: Instant,
    interval: Duration,
    untold: u64,
}

impl LogThrottle {
    /// Something happened in a namespace. If it is to be told, how many times it was not before.
    fn turn(&mut self, namespace: &str, now: Instant) -> Option<u64> {
        let is_known = self.0.contains_key(namespace);
        let key = if is_known || self.0.len() < MOST_NAMESPACES {
            namespace
        } else {
            // No namespace has this name.
            "*"
        };
        let Some(turn) = self.0.get_mut(key) else {
            let turn = Throttled {
                next: now + SHORTEST,
                interval: SHORTEST,
                untold: 0,
            };
            self.0.insert(key.to_owned(), turn);
            return Some(0);
        };
        if now < turn.next {
            turn.untold = turn.untold.saturating_add(1);
            return None;
        }
        turn.interval = turn.interval.saturating_mul(2).min(LONGEST);
        turn.next = now + turn.interval;
        Some(std::mem::take(&mut turn.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_told_of_at_once_and_then_ever_more_seldom() {
        let mut turns = LogThrottle::default();
        let start = Instant::now();
        let told: Vec<_> = (0..100_000)
            .filter_map(|second| {
                let untold = turns.turn("a", start + Duration::from_secs(second))?;
                Some((second, untold))
            })
            .take(4)
            .collect();
        assert_eq!(told, [(0, 0), (60, 59), (180, 119), (420, 239)]);
        let day = 24 * 3_600;
        let lines = (1_000..day)
            .filter(|it| turns.turn("a", start + Duration::from_secs(*it)).is_some())
            .count();
        assert!(lines < 30, "{lines}");
        assert_eq!(turns.turn("b", start), Some(0));
    }

    #[test]
    fn namespaces_beyond_a_bound_share_a_turn() {
        let mut turns = LogThrottle::default();
        let now = Instant::now();
        let told = (0..5_000)
            .filter(|number| turns.turn(&format!("n-{number}"), now).is_some())
            .count();
        assert_eq!(
            (told, turns.0.len()),
            (MOST_NAMESPACES + 1, MOST_NAMESPACES + 1)
        );
    }
}

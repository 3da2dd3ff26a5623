//! Up to when all events are known.

use std::{collections::BTreeMap, sync::Arc};

use crate::interval::UnixSeconds;

/// Tracks for each watch whether it has listed everything, and as of when its view is current.
#[derive(Debug, Clone)]
pub struct Completeness {
    settle: i64,
    watches: BTreeMap<Arc<str>, Watch>,
}

#[derive(Debug, Clone, Copy)]
struct Watch {
    synced: bool,
    current_as_of: UnixSeconds,
}

impl Completeness {
    /// Events may arrive up to `settle` seconds late.
    #[must_use]
    pub fn new(settle: i64) -> Self {
        Self {
            settle: settle.max(0),
            watches: BTreeMap::new(),
        }
    }

    /// Adds a watch, which has not listed anything yet.
    pub fn register(&mut self, watch: &str) {
        self.watches.insert(
            watch.into(),
            Watch {
                synced: false,
                current_as_of: UnixSeconds::MIN,
            },
        );
    }

    /// Records whether the watch has a complete view.
    pub fn synced(&mut self, watch: &str, synced: bool) {
        if let Some(watch) = self.watches.get_mut(watch) {
            watch.synced = synced;
        }
    }

    /// Records that the watch's connection was alive at `at`: what happened before is known.
    pub fn alive(&mut self, watch: &str, at: UnixSeconds) {
        if let Some(watch) = self.watches.get_mut(watch) {
            watch.current_as_of = watch.current_as_of.max(at);
        }
    }

    /// Windows that end at or before this may be handed out; `None` while a watch has no complete view.
    #[must_use]
    pub fn complete_until(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        self.watches
            .values()
            .try_fold(now.saturating_sub(self.settle), |until, watch| {
                watch.synced.then(|| until.min(watch.current_as_of))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_watch_must_be_synced_and_current() {
        let mut completeness = Completeness::new(3);
        completeness.register("a");
        completeness.register("b");
        completeness.synced("a", true);
        completeness.alive("a", 100);
        assert_eq!(completeness.complete_until(110), None);
        completeness.synced("b", true);
        completeness.alive("b", 90);
        assert_eq!(completeness.complete_until(110), Some(90));
        completeness.alive("b", 120);
        completeness.alive("a", 120);
        assert_eq!(completeness.complete_until(110), Some(107));
        completeness.synced("a", false);
        assert_eq!(completeness.complete_until(110), None);
    }

    #[test]
    fn a_watch_is_never_less_current_than_before() {
        let mut completeness = Completeness::new(0);
        completeness.register("a");
        completeness.synced("a", true);
        completeness.alive("a", 100);
        completeness.alive("a", 50);
        assert_eq!(completeness.complete_until(200), Some(100));
    }
}

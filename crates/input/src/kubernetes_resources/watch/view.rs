//! The view of a watch: what it knows of its collection, and as of when that is current. Pure: no I/O, no clock,
//! no ledger. The task of the watch ([`super::task`]) passes in each event and its moment, and applies the
//! [`Change`]s to the ledger.
//!
//! A window waits until every watch is known to be current past its end. Bytes on the watch, or an answer
//! on its connection, are a liveness signal: everything from before them has arrived. It counts only once
//! everything that arrived with it is read. After a stall, in which the process read nothing (it was suspended,
//! or had no CPU), it counts only once the server has had `settle` to send what it had queued. Where an event
//! shows that the watch lags behind the answers, a signal proves only what lies further back than that lag.

use std::{collections::HashSet, time::Duration};

use meterline_ledger::{Observation, Uid, UnixSeconds};
use tokio::time::Instant;

use super::{
    liveness::Connection,
    objects::{Objects, Restored, Rules},
    proofs::{Answer, Proofs},
    warnings::whole_seconds,
};
use crate::kubernetes_resources::{
    clock::Moment,
    object::{BilledObject, Known, Object},
};

/// How often the task checks whether a window waits, at least and at most.
const LONGEST_CHECK: Duration = Duration::from_secs(1);
const SHORTEST_CHECK: Duration = Duration::from_millis(100);
/// How old the last answer may be while the watch lags: events are dated by answers.
const ANSWERS_WHILE_LAGGING: Duration = Duration::from_secs(2);
/// An event may come after a newer answer by half of `settle`, and by this in any case.
const SHORTEST_TOLERANCE: Duration = Duration::from_millis(500);
/// The initial capacity for the changes of one event.
const MOST_CHANGES: usize = 16;

/// How far the view of a watch can be relied on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// A list is being received: it shows what there is, but not all of it yet.
    Listing {
        /// When the list was requested: it shows a state of that moment or a later one.
        since: UnixSeconds,
        /// The resource version that the server was at then.
        version: Option<u64>,
        /// The objects that the list has shown so far.
        listed: HashSet<Uid>,
    },
    /// Something may have happened that has not arrived: after a start, an error, a stall or the end of a
    /// watch, until the watch has settled.
    Behind,
    /// Everything that happened up to the last liveness signal is known.
    Current,
}

/// A change of the ledger.
#[derive(Debug)]
pub(crate) enum Change {
    /// An object was created or changed.
    Observed(Observation<BilledObject>),
    /// An object is gone since `at`.
    Deleted { uid: Uid, at: UnixSeconds },
    /// An object is gone, at an unknown time: it existed at `seen`, and at `now` it does not.
    Vanished {
        uid: Uid,
        seen: UnixSeconds,
        now: UnixSeconds,
    },
    /// Everything up to this resource version was seen.
    SeenVersion(u64),
    /// The view is complete (true), or no longer is.
    Synced(bool),
    /// The view is current as of this second.
    Alive(UnixSeconds),
}

/// What the task does next to prove that the view is current.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Check again after this time.
    After(Duration),
    /// A window waits for a liveness signal: probe the server.
    Probe,
}

/// The state of a watch between events.
pub(crate) struct WatchState {
    /// How long events may take to arrive.
    settle: Duration,
    view: View,
    objects: Objects,
    /// The last second at which the view was current. From there on lies the gap, if there is one.
    current_at: UnixSeconds,
    /// When the task last had read nothing for too long.
    stalled_at: Option<Instant>,
    /// The last answer of the server.
    answer: Option<Answer>,
    /// The answers that were taken as proof.
    proofs: Proofs,
    /// Whether there may be a liveness signal that was not evaluated yet.
    has_sign: bool,
    /// When the next check is due.
    check_at: Instant,
    changes: Vec<Change>,
}

/// When something happened, as far as the order of events and answers shows.
#[derive(Debug, Clone, Copy)]
struct Dated {
    /// The second by which it had happened.
    by: UnixSeconds,
    /// Where the event came late: the second after which it happened.
    late_since: Option<UnixSeconds>,
}

impl WatchState {
    /// A watch that begins at `now`, with what is known from before.
    pub(crate) fn new(
        rules: Rules,
        settle: Duration,
        restored: Option<Restored>,
        now: Moment,
    ) -> Self {
        let seen_at = restored.as_ref().map_or(now.seconds(), |it| it.seen_at);
        Self {
            settle,
            view: View::Behind,
            objects: Objects::new(rules, restored),
            current_at: seen_at.min(now.seconds()),
            stalled_at: None,
            answer: None,
            proofs: Proofs::default(),
            has_sign: false,
            check_at: now.at(),
            changes: Vec::new(),
        }
    }

    /// Returns the changes of the ledger since the last call, in order.
    pub(crate) fn changes(&mut self) -> std::vec::Drain<'_, Change> {
        self.changes.drain(..)
    }

    /// How many objects exist.
    pub(crate) fn objects(&self) -> usize {
        self.objects.count()
    }

    /// The newest resource version that was seen.
    pub(crate) fn version(&self) -> Option<u64> {
        self.objects.version()
    }

    /// When the next check is due.
    pub(crate) fn check_at(&self) -> Instant {
        self.check_at
    }

    /// Whether [`Self::drained`] is to be called as soon as nothing is left to read.
    pub(crate) fn has_sign(&self) -> bool {
        self.has_sign
    }

    /// A new connection to the server begins.
    pub(crate) fn connected(&mut self, now: Moment) {
        self.check_at = now.at();
    }

    /// The task woke up. If the check is overdue by more than the time between two checks, the task was
    /// kept from reading: what comes now may be old, and more may be on its way.
    pub(crate) fn woke(&mut self, now: Moment) {
        let overdue = now.at().saturating_duration_since(self.check_at);
        if overdue > self.between_checks() {
            self.stalled_at = Some(now.at());
            self.fall_behind();
            self.check_at = now.at();
        }
    }

    /// Something arrived that may be a liveness signal.
    pub(crate) fn signed(&mut self) {
        self.has_sign = true;
    }

    /// The server answered, or did not answer in time (`None`).
    pub(crate) fn answered(&mut self, answer: Option<Answer>) {
        self.answer = answer.or(self.answer);
        self.has_sign = true;
    }

    /// The watch failed.
    pub(crate) fn failed(&mut self) {
        self.fall_behind();
    }

    /// A watch that is complete falls behind. A list that is being received stays one: it is requested again.
    fn fall_behind(&mut self) {
        if self.view == View::Current {
            self.view = View::Behind;
        }
    }

    /// The watcher is about to request a list.
    pub(crate) fn list_requested(&mut self) {
        self.fall_behind();
        self.changes.push(Change::Synced(false));
    }

    /// The watcher requests the list. The server was at `version` just before.
    pub(crate) fn list_began(&mut self, version: Option<u64>, now: Moment) {
        self.objects.list_began();
        self.view = View::Listing {
            since: now.cluster_seconds(),
            version,
            listed: HashSet::new(),
        };
    }

    /// The list shows an object.
    pub(crate) fn listed(&mut self, object: Object, now: Moment) {
        if let View::Listing { listed, .. } = &mut self.view {
            listed.insert(object.uid());
        }
        self.observe(object, now.cluster_seconds());
    }

    /// The objects that existed and that the complete list did not show.
    pub(crate) fn missing_in_list(&self) -> Vec<Known> {
        let View::Listing { listed, .. } = &self.view else {
            return Vec::new();
        };
        self.objects.except(listed)
    }

    /// The list is complete. `missing` are the objects that it did not show, and `last_states` the last states of
    /// some of them, which the server still knew.
    pub(crate) fn list_completed(
        &mut self,
        missing: Vec<Known>,
        last_states: &[Object],
        now: Moment,
    ) {
        let View::Listing { since, version, .. } = std::mem::replace(&mut self.view, View::Behind)
        else {
            return;
        };
        let now = now.cluster_seconds();
        let dated = Dated {
            by: now,
            late_since: None,
        };
        for object in last_states {
            self.delete(object, dated);
        }
        for Known { uid, .. } in missing {
            if self.objects.remove(&uid) {
                // It is unknown when it was deleted; it existed when the view was last current.
                let seen = self.current_at.min(now);
                self.changes.push(Change::Vanished { uid, seen, now });
            }
        }
        // A list is the state of one moment, so it settles nothing from before. What happened since comes
        // with the watch.
        self.view = View::Current;
        self.objects.listed(version);
        self.proofs.clear();
        self.current_at = since;
        self.push_version();
        self.changes.push(Change::Synced(true));
        self.changes.push(Change::Alive(since));
    }

    /// The server repeats what happened while nothing was watched: an object was created or changed.
    pub(crate) fn changed_meanwhile(&mut self, object: Object, now: Moment) {
        self.observe(object, now.cluster_seconds());
    }

    /// The server repeats what happened while nothing was watched: an object was deleted.
    pub(crate) fn deleted_meanwhile(&mut self, object: &Object, now: Moment) {
        let dated = Dated {
            by: now.cluster_seconds(),
            late_since: None,
        };
        self.delete(object, dated);
    }

    /// The watch reports that an object was created or changed. Returns the lag of the watch if this event shows
    /// that it has grown.
    pub(crate) fn changed(
        &mut self,
        object: Object,
        connection: Connection,
        now: Moment,
    ) -> Option<Duration> {
        let (dated, lag) = self.date(&object, connection, now);
        self.observe(object, dated.by);
        lag
    }

    /// The watch reports that an object was deleted. Returns the same as [`Self::changed`].
    pub(crate) fn deleted(
        &mut self,
        object: &Object,
        connection: Connection,
        now: Moment,
    ) -> Option<Duration> {
        let (dated, lag) = self.date(object, connection, now);
        self.delete(object, dated);
        lag
    }

    /// Everything that arrived is read: evaluates the last liveness signal.
    pub(crate) fn drained(&mut self, connection: Connection, now: Moment) {
        self.has_sign = false;
        // A list that misses many objects makes many changes at once.
        self.changes.shrink_to(MOST_CHANGES);
        let Some(open_since) = connection.open_since else {
            if self.view == View::Current {
                // The server ends each watch after a while. That is no error: the watch is resumed at once,
                // and up to its end the server had sent everything.
                self.view = View::Behind;
                let ended = connection.ended_at.map(|at| now.cluster_seconds_at(at));
                self.current_at = self.current_at.max(ended.unwrap_or(i64::MIN));
            }
            return;
        };
        if let View::Listing { .. } = self.view {
            return;
        }
        let requested_at = self.answer.map(|it| it.requested_at);
        let Some(sign) = connection.last_bytes_at.max(requested_at) else {
            return;
        };
        let lag = self.proofs.lag();
        if self.view == View::Behind {
            // What happened while the watch was down comes right after the answer to it, and what happened
            // during a stall in the moments after it.
            let since = self.stalled_at.max(Some(open_since));
            if since.is_some_and(|since| sign < since + self.settle + lag) {
                return;
            }
            self.view = View::Current;
            self.changes.push(Change::Synced(true));
        }
        if let Some(answer) = self.answer {
            self.proofs.take(answer);
        }
        let at = now.cluster_seconds_at(sign.checked_sub(lag).unwrap_or(open_since));
        self.current_at = self.current_at.max(at);
        self.changes.push(Change::Alive(at));
    }

    /// The check is due, and the next window ends at `due`. Returns whether the server has to be
    /// probed. The next check is due after `pause`, which the server requested, or later.
    pub(crate) fn check(
        &mut self,
        due: UnixSeconds,
        pause: Duration,
        connection: Connection,
        now: Moment,
    ) -> Check {
        self.has_sign = true;
        let check = self.next_check(due, connection, now);
        let after = match &check {
            Check::After(after) => *after,
            Check::Probe => self.between_checks(),
        };
        self.check_at = now.at() + after.max(pause);
        check
    }

    fn next_check(&self, due: UnixSeconds, connection: Connection, now: Moment) -> Check {
        let regular = self.between_checks();
        if matches!(self.view, View::Listing { .. }) || connection.open_since.is_none() {
            return Check::After(regular);
        }
        let lag = self.proofs.lag();
        let requested_at = self.answer.map(|it| it.requested_at);
        let is_old = |at: Instant| now.at().saturating_duration_since(at) > ANSWERS_WHILE_LAGGING;
        if !lag.is_zero() && requested_at.is_none_or(is_old) {
            return Check::Probe;
        }
        let due_at = due.saturating_add(whole_seconds(lag));
        if self.view == View::Current && now.seconds() < due_at {
            let until_due = u64::try_from(due_at.saturating_sub(now.seconds())).unwrap_or(1);
            return Check::After(Duration::from_secs(until_due.max(1)).min(regular));
        }
        // Bytes alone do not show whether the watch lags: each window waits for an answer, too.
        let is_answered = requested_at.is_some_and(|it| now.cluster_seconds_at(it) >= due_at);
        if self.view == View::Current && self.current_at >= due && is_answered {
            Check::After(regular)
        } else {
            Check::Probe
        }
    }

    /// The time between two checks: what has settled is read by then.
    fn between_checks(&self) -> Duration {
        (self.settle / 3).clamp(SHORTEST_CHECK, LONGEST_CHECK)
    }

    /// Dates an event: it had happened by now or, if an answer that was taken as proof is newer than the event, by
    /// the arrival of that answer.
    fn date(
        &mut self,
        object: &Object,
        connection: Connection,
        now: Moment,
    ) -> (Dated, Option<Duration>) {
        // A list shows objects of any age.
        if let View::Listing { .. } = self.view {
            let dated = Dated {
                by: now.cluster_seconds(),
                late_since: None,
            };
            return (dated, None);
        }
        let since = self
            .stalled_at
            .max(connection.open_since)
            .unwrap_or(now.at());
        let tolerance = (self.settle / 2).max(SHORTEST_TOLERANCE);
        let version = object.known().version;
        let dated = self.proofs.event(version, (since, now.at()), tolerance);
        let lag = dated.is_news.then(|| self.proofs.lag());
        let dated = Dated {
            by: now.cluster_seconds_at(dated.by),
            late_since: dated.late_since.map(|it| now.cluster_seconds_at(it)),
        };
        (dated, lag)
    }

    fn observe(&mut self, object: Object, now: UnixSeconds) {
        let (before, observation) = self.objects.observed(object, now, self.current_at);
        self.changes.extend(before.map(Change::Observed));
        self.changes.push(Change::Observed(observation));
        self.push_version();
    }

    fn delete(&mut self, object: &Object, dated: Dated) {
        let gap = (self.view != View::Current).then_some(self.current_at);
        let since = gap.or(dated.late_since);
        let (observation, at) = self.objects.deleted(object, since, dated.by);
        self.changes.extend(observation.map(Change::Observed));
        let uid = object.uid();
        self.changes.push(Change::Deleted { uid, at });
        self.push_version();
    }

    /// The objects of a list are in no order of version, so a version counts only once the list is complete.
    fn push_version(&mut self) {
        if let (Some(version), View::Behind | View::Current) = (self.version(), &self.view) {
            self.changes.push(Change::SeenVersion(version));
        }
    }
}

#[cfg(test)]
mod tests;

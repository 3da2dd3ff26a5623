//! As of when the view of a watch is current: what it remembers between events, and what it takes for a
//! sign of life. A window waits until its end is known to be behind.
//!
//! Bytes on the watch or an answer on its connection are a sign that all from before them has arrived,
//! but only once what arrived with them is read; and after a time in which nothing was read (the process
//! slept, or was kept from running) not before the server had time to send what it held back. Where an
//! event shows that the watch lags behind the answers, a sign proves only what lies further back than that.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use meterline_ledger::UnixSeconds;
use tokio::time::Instant;

use super::{
    limits::LARGEST_PAGE,
    liveness::WatchLiveness,
    proofs::{Answer, Proofs},
    warnings::whole,
};
use crate::kubernetes_resources::{
    ledger::SharedLedger,
    lifetime::created,
    object::{Known, Object},
};

/// How often it is looked whether a window waits, at the least and at the most.
pub(crate) const LONGEST_LOOK: Duration = Duration::from_secs(1);
pub(crate) const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// How old the last answer may be while the watch lags: answers say when things happened.
const WHILE_IT_LAGS: Duration = Duration::from_secs(2);
/// An event may come behind an answer by half of `settle`, and by this in any case.
const SHORTEST_TOLERANCE: Duration = Duration::from_millis(500);

/// How old an object is at least that a watch did not show when it was made, in seconds.
const OLD: i64 = 60;

/// What is known of a collection from before.
pub(crate) struct Restored {
    /// The objects that were there.
    pub(crate) known: Vec<Known>,
    /// When the view was last complete.
    pub(crate) seen_at: UnixSeconds,
    /// The resource version up to which everything was seen.
    pub(crate) version: Option<u64>,
}

/// What a watch remembers between events.
pub(crate) struct View {
    /// Everything that exists, and the version at which it was last seen.
    pub(crate) known: HashMap<Arc<str>, Known>,
    /// What a list that is under way has shown so far.
    pub(crate) listed: Option<HashSet<Arc<str>>>,
    /// When that list was asked for: it shows what there was at the earliest then.
    pub(crate) list_began: i64,
    /// Whether the view was complete before, in this process or in the one that the state is from: what
    /// it does not know is new to it.
    pub(crate) has_seen: bool,
    /// The watch was added when its ledger had a past: what it lists was none to bill before this.
    pub(crate) added_at: Option<i64>,
    /// The last moment at which the view was current; from here on lies the gap, if there is one.
    pub(crate) current_at: i64,
    /// The newest resource version that was seen.
    pub(crate) version: Option<u64>,
    /// The version at which the server was when the last list began.
    pub(crate) listed_from: Option<u64>,
    /// Whether the view is behind: after a break or a stall, until the watch has settled.
    pub(crate) behind: bool,
    /// When this task was last found not to have read for long.
    pub(crate) stalled_at: Option<Instant>,
    /// The last answer.
    pub(crate) answer: Option<Answer>,
    /// The answers that were taken as proof.
    pub(crate) proofs: Proofs,
    /// What the present event tells of happened after this, if it came late.
    pub(crate) late_since: Option<i64>,
    /// Whether something was heard that the ledger has yet to be told, once all that came with it is
    /// read.
    pub(crate) unnoted: bool,
    pub(crate) failures: u32,
    /// So many objects are asked for at once.
    pub(crate) page: u32,
}

impl View {
    /// Of a watch that begins at `now`, with what is known from before.
    pub(crate) fn new(restored: Option<Restored>, now: i64) -> Self {
        let is_restored = restored.is_some();
        let restored = restored.unwrap_or(Restored {
            known: Vec::new(),
            seen_at: now,
            version: None,
        });
        let is_known = restored.version.is_some();
        let known = restored.known.into_iter();
        Self {
            known: known.map(|it| (Arc::clone(&it.uid), it)).collect(),
            listed: None,
            list_began: now,
            has_seen: is_known,
            added_at: (is_restored && !is_known).then_some(restored.seen_at),
            current_at: restored.seen_at.min(now),
            version: restored.version,
            listed_from: None,
            behind: true,
            stalled_at: None,
            answer: None,
            proofs: Proofs::default(),
            late_since: None,
            unnoted: false,
            failures: 0,
            page: LARGEST_PAGE,
        }
    }

    /// Nothing was read for so long that what comes now may be old, and more of it be on its way.
    pub(crate) fn stall(&mut self) {
        self.stalled_at = Some(Instant::now());
        self.behind |= self.listed.is_none();
    }

    /// Since when an object that was not known is one to bill, if it ran before that: its namespace was
    /// added to what is watched, or it was given the label that is selected by.
    pub(crate) fn in_scope_since(
        &self,
        object: &Object,
        shared: &SharedLedger,
        now: i64,
    ) -> Option<i64> {
        if self.listed.is_some()
            && let Some(added_at) = self.added_at
        {
            return Some(added_at);
        }
        let created = created(object.seen.root())?;
        let is_old = self.has_seen && created.saturating_add(OLD) < now.min(self.current_at);
        (is_old && shared.label_selector.is_some()).then(|| {
            let written = object.written.filter(|it| *it > created);
            written.map_or(now, |it| it.min(now))
        })
    }

    /// Tells the ledger how current the view is, once all that was heard is read.
    pub(crate) fn note_life(
        &mut self,
        watch: &Arc<str>,
        shared: &SharedLedger,
        line: &WatchLiveness,
    ) {
        let clock = &shared.clock;
        let Some(open_since) = line.open_since() else {
            if !self.behind && self.listed.is_none() {
                // The end of a watch's natural life is no failure: it is resumed at once, and up to
                // then everything was told.
                self.behind = true;
                let ended = line.ended_at().map(|at| clock.cluster_seconds_at(at));
                self.current_at = self.current_at.max(ended.unwrap_or(i64::MIN));
            }
            return;
        };
        if self.listed.is_some() {
            return;
        }
        let Some(heard) = line.heard_at().max(self.answer.map(|it| it.asked)) else {
            return;
        };
        let lag = self.proofs.lag();
        if self.behind {
            // What happened while the watch was down comes right behind its answer, and what happened
            // while nothing was read, in the moments after.
            let since = self.stalled_at.max(Some(open_since));
            if since.is_some_and(|since| heard < since + shared.settle + lag) {
                return;
            }
            self.behind = false;
            shared.synced(watch, true);
        }
        if let Some(answer) = self.answer {
            self.proofs.take(answer);
        }
        let at = clock.cluster_seconds_at(heard.checked_sub(lag).unwrap_or(open_since));
        self.current_at = self.current_at.max(at);
        shared.alive(watch, at);
    }

    /// The second in which what an event tells of had happened at the latest: now or, where an answer that
    /// was taken as proof is newer than the event, when that came. With it how late the event came, if
    /// that is news.
    pub(crate) fn happened_by(
        &mut self,
        object: &Object,
        shared: &SharedLedger,
        line: &WatchLiveness,
    ) -> (i64, Option<Duration>) {
        let now = Instant::now();
        let clock = &shared.clock;
        self.late_since = None;
        // What a list shows is of any age.
        if self.listed.is_some() {
            return (clock.cluster_seconds_at(now), None);
        }
        let since = self.stalled_at.max(line.open_since()).unwrap_or(now);
        let tolerance = (shared.settle / 2).max(SHORTEST_TOLERANCE);
        let dated = self
            .proofs
            .event(object.known().version, (since, now), tolerance);
        let seconds_at = |at| clock.cluster_seconds_at(at);
        self.late_since = dated.late_since.map(seconds_at);
        let lag = dated.is_news.then(|| self.proofs.lag());
        (seconds_at(dated.by), lag)
    }

    /// How long to wait before looking again; `None` if a window waits for a sign of life, which the
    /// server has to be asked for.
    pub(crate) fn look_for(
        &self,
        look: Duration,
        shared: &SharedLedger,
        line: &WatchLiveness,
    ) -> Option<Duration> {
        let now = shared.clock.seconds();
        let due = shared.next_due();
        if self.listed.is_some() || line.open_since().is_none() {
            return Some(look);
        }
        let lags = !self.proofs.lag().is_zero();
        let asked = self.answer.map(|it| it.asked);
        if lags && asked.is_none_or(|it| it.elapsed() > WHILE_IT_LAGS) {
            return None;
        }
        let due_at = due.saturating_add(whole(self.proofs.lag()));
        if !self.behind && now < due_at {
            let until_due = u64::try_from(due_at.saturating_sub(now)).unwrap_or(1);
            return Some(Duration::from_secs(until_due.max(1)).min(look));
        }
        // Bytes alone do not show whether the watch lags: each window waits for an answer, too.
        let is_answered = asked.is_some_and(|it| shared.clock.cluster_seconds_at(it) >= due_at);
        (!self.behind && self.current_at >= due && is_answered).then_some(look)
    }
}

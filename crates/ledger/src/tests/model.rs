//! Histories of pods and deliveries, and the observations of them.

use proptest::prelude::*;

use crate::{Accounting, Budget, Observation, Times};

#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) start: i64,
    /// Length of life; may reach beyond the history.
    pub(super) length: i64,
    /// Seconds after the start at which the content changes.
    pub(super) changes: Vec<i64>,
    /// How late each of start, changes and end is observed.
    pub(super) delays: Vec<i64>,
    /// Changes that are not observed (a gap of the watch).
    pub(super) hidden: Vec<bool>,
    /// Whether the end is observed in the status, or only as a deletion.
    pub(super) end_in_status: bool,
    /// When a list omits the pod for a moment.
    pub(super) vanishes_at: Option<i64>,
    /// Container restarts: later starts are reported from here on.
    pub(super) restarts_at: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Delivery {
    Arrives,
    /// Neither arrives nor is acknowledged.
    Fails,
    /// Arrives, but is acknowledged as failed.
    ArrivesUnacknowledged,
    /// Arrives and is acknowledged some ticks later.
    ArrivesSlowly,
    /// Arrives, except the pieces with these numbers, which are rejected.
    IsRejected(u8),
    /// Arrives, except the pieces with these numbers, which are dropped on purpose.
    IsDropped(u8),
}

#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) interval: i64,
    pub(super) settle: i64,
    pub(super) pods: Vec<Pod>,
    pub(super) deliveries: Vec<Delivery>,
    /// How many writes to the disk precede each crash, counted from the crash before.
    pub(super) crashes: Vec<u32>,
    /// The accounting at first and after each crash; the last one stays.
    pub(super) accountings: Vec<Accounting>,
    /// How much may wait.
    pub(super) budget: Budget,
}

/// The part of a content that is billed: every other change concerns labels only.
pub(super) fn billed_of(content: &str) -> (&str, u32) {
    let (uid, version) = content.split_once('-').unwrap_or_default();
    (uid, version.parse::<u32>().unwrap_or_default() / 2)
}

fn pod(most_delay: i64) -> impl Strategy<Value = Pod> {
    (
        0..70_i64,
        1..60_i64,
        prop::collection::vec(1..50_i64, 0..4),
        prop::collection::vec(0..=most_delay, 6),
        prop::collection::vec(prop::bool::weighted(0.2), 4),
        any::<bool>(),
        prop::option::weighted(0.15, 1..40_i64),
        prop::option::weighted(0.2, 1..40_i64),
    )
        .prop_map(
            |(start, length, mut changes, delays, hidden, end_in_status, vanishes, restarts)| {
                changes.retain(|at| *at < length);
                changes.sort_unstable();
                changes.dedup();
                let inside = |at: &i64| *at < length;
                Pod {
                    start,
                    length,
                    changes,
                    delays,
                    hidden,
                    end_in_status,
                    vanishes_at: vanishes.filter(inside),
                    restarts_at: restarts.filter(inside),
                }
            },
        )
}

pub(super) fn history(most_delay: i64, settle: i64) -> impl Strategy<Value = History> {
    let delivery = prop_oneof![
        4 => Just(Delivery::Arrives),
        1 => Just(Delivery::Fails),
        1 => Just(Delivery::ArrivesUnacknowledged),
        2 => Just(Delivery::ArrivesSlowly),
        1 => any::<u8>().prop_map(Delivery::IsRejected),
        1 => any::<u8>().prop_map(Delivery::IsDropped),
    ];
    (
        1..13_i64,
        prop::collection::vec(pod(most_delay), 1..6),
        prop::collection::vec(delivery, 40),
        prop::collection::vec(0..60_u32, 0..5),
    )
        .prop_map(move |(interval, pods, deliveries, crashes)| History {
            interval,
            settle,
            pods,
            deliveries,
            crashes,
            accountings: vec![Accounting::Exact],
            budget: Budget::default(),
        })
}

impl Pod {
    pub(super) fn end(&self) -> i64 {
        self.start + self.length
    }

    pub(super) fn content(&self, uid: usize, at: i64) -> String {
        let version = self
            .changes
            .iter()
            .filter(|it| self.start + **it <= at)
            .count();
        format!("{uid}-{version}")
    }

    /// The observations of the pod in order, each with its second.
    pub(super) fn sightings(&self, uid: usize, see_all: bool) -> Vec<(i64, Sighting)> {
        let name = format!("pod-{uid}");
        let delay = |index: usize| self.delays.get(index).copied().unwrap_or_default();
        let mut seen = Vec::new();
        let state = |at: i64, reported_start: i64, end: Option<i64>, now: i64| {
            Sighting::State(Observation {
                uid: name.as_str().into(),
                start: Some(reported_start),
                end,
                content: self.content(uid, at),
                content_since: self
                    .changes
                    .iter()
                    .map(|it| self.start + it)
                    .rfind(|it| *it <= at),
                observed_at: now,
                in_scope_since: None,
                times: Times::default(),
            })
        };
        let mut now = self.start + delay(0);
        seen.push((now, state(self.start, self.start, None, now)));
        for (index, change) in self.changes.iter().enumerate() {
            if !see_all && self.hidden.get(index) == Some(&true) {
                continue;
            }
            let at = self.start + change;
            now = now.max(at + delay(index + 1));
            let reported = match self.restarts_at {
                Some(restart) if self.start + restart <= at => self.start + restart,
                _ => self.start,
            };
            seen.push((now, state(at, reported, None, now)));
        }
        if let Some(vanishes) = self.vanishes_at {
            let at = (self.start + vanishes).max(now);
            if at < self.end() {
                seen.push((at, Sighting::Gone(name.clone(), at)));
                now = at + delay(5);
                seen.push((now, state(at, self.start, None, now)));
            }
        }
        now = now.max(self.end() + delay(5));
        if self.end_in_status {
            seen.push((now, state(self.end(), self.start, Some(self.end()), now)));
        }
        seen.push((now, Sighting::Gone(name, self.end())));
        seen
    }
}

#[derive(Debug, Clone)]
pub(super) enum Sighting {
    State(Observation<String>),
    Gone(String, i64),
}

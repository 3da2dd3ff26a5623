//! What the recording ingest API has received.

use std::collections::HashMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderMap, Method};
use serde_json::Value;

/// A request as it arrived, and what was done with it.
#[derive(Debug, Clone)]
pub struct Request {
    /// When it had been read.
    pub at: DateTime<Utc>,
    /// Its method.
    pub method: Method,
    /// Its path with the query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, empty when the connection was reset before it was read.
    pub body: Bytes,
    /// Its events; empty when the request is not valid.
    pub events: Vec<Value>,
    /// How many of its events were kept, repeated ones included.
    pub taken: usize,
    /// The answer to it.
    pub answer: Answer,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A response with this status.
    Status(u16),
    /// No response: the connection was closed after the body was read.
    Dropped,
    /// No response: the connection was reset, before or after the body was read.
    Reset,
}

/// The first copy of an event.
#[derive(Debug, Clone)]
pub struct Received {
    /// When it arrived.
    pub at: DateTime<Utc>,
    /// The event.
    pub event: Value,
}

/// The same source and id with two contents.
#[derive(Debug, Clone)]
pub struct Conflict {
    /// The one that arrived first and was kept.
    pub kept: Value,
    /// The one that arrived later.
    pub other: Value,
}

/// Everything that arrived, and what was done with it.
#[derive(Debug, Default)]
pub struct State {
    /// Every request, in the order of arrival.
    pub requests: Vec<Request>,
    /// The distinct events, by source and id, in the order of arrival.
    pub events: Vec<Received>,
    /// How many events arrived again with the same content.
    pub duplicates: usize,
    /// Events that arrived again with another content.
    pub conflicts: Vec<Conflict>,
    /// What the real API would have refused, with the reason.
    pub violations: Vec<String>,
    /// Events that were answered with a success but not kept, because a failed request had claimed
    /// their ids: see [`RecordingIngest::claim_ids_first`](super::RecordingIngest::claim_ids_first).
    pub swallowed: Vec<Value>,
    /// What a [counting](super::RecordingIngest::start_counting) server keeps in place of all the above.
    pub tally: Tally,
    /// Requests that are being answered now.
    pub in_flight: usize,
    /// The most requests that were being answered at once.
    pub max_in_flight: usize,
    known: HashMap<Key, usize>,
}

/// Counts of the accepted events.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// Events, repeated ones included.
    pub events: u64,
    /// Requests of which events were accepted.
    pub requests: u64,
    /// The most events of one request.
    pub largest: u64,
    /// Events whose time is more than [`Tally::DISORDER`] before that of an event that arrived earlier.
    pub disordered: u64,
    newest: i64,
}

impl Tally {
    /// By how many seconds an event may be older than one that arrived earlier, because requests overlap.
    pub const DISORDER: i64 = 30;

    pub(super) fn add(&mut self, events: &[Value]) {
        if events.is_empty() {
            return;
        }
        let count = events.len() as u64;
        self.events += count;
        self.requests += 1;
        self.largest = self.largest.max(count);
        for event in events {
            let time = event.get("time").and_then(Value::as_str);
            let time = time.and_then(|it| DateTime::parse_from_rfc3339(it).ok());
            if let Some(time) = time.map(|it| it.timestamp()) {
                self.disordered += u64::from(time < self.newest - Self::DISORDER);
                self.newest = self.newest.max(time);
            }
        }
    }
}

/// Identifies an event: source and id.
pub(super) type Key = (String, String);

pub(super) fn key(event: &Value) -> Key {
    let text = |field| event.get(field).and_then(Value::as_str).unwrap_or_default();
    (text("source").to_owned(), text("id").to_owned())
}

impl State {
    /// How many requests were answered with `status`.
    #[must_use]
    pub fn answered(&self, status: u16) -> usize {
        let wanted = Answer::Status(status);
        let requests = self.requests.iter();
        requests.filter(|request| request.answer == wanted).count()
    }

    pub(super) fn keep(&mut self, at: DateTime<Utc>, event: &Value) {
        let key = key(event);
        let first = self.known.get(&key).and_then(|at| self.events.get(*at));
        match first {
            None => {
                self.known.insert(key, self.events.len());
                let event = event.clone();
                self.events.push(Received { at, event });
            }
            Some(first) if first.event == *event => self.duplicates += 1,
            Some(first) => self.conflicts.push(Conflict {
                kept: first.event.clone(),
                other: event.clone(),
            }),
        }
    }
}

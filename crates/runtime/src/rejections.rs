//! Counts, logs and settles messages that can never be delivered.
//!
//! The first rejection of an object for a reason is logged. While rejections continue, the object is logged
//! again with a count, at growing intervals. So every object is named, and no object fills the log.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use meterline_core::{
    Ack, Cause, Content, FALLBACK_ERROR, IntCounter, LogInterval, Message, Metrics, Outcome, Part,
    Rejection,
};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant},
};
use tracing::error;

use crate::delivery::Delivery;

/// The interval after which an object is logged again for the same reason; it doubles up to the longest.
const FIRST_INTERVAL: Duration = Duration::from_secs(60);
const LONGEST_INTERVAL: Duration = Duration::from_secs(3_600);
/// The most combinations of object and reason that are recorded. If there are more, those without a
/// rejection for the longest interval are removed. If that frees no entry, the older half of the
/// namespace with the most entries is removed. Further objects of that namespace itself are only
/// counted.
const MOST_ENTRIES: usize = 65_536;
/// The most reasons of one object that are distinguished. A mapping may put anything into a reason.
const REASONS: u32 = 16;

/// The path of rejected messages.
pub(crate) struct Rejections {
    counter: IntCounter,
    history: Mutex<LogHistory>,
    /// The next output, which receives the messages that this one rejects, if there is one.
    next: Option<mpsc::Sender<Delivery>>,
}

impl Rejections {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            counter: metrics.counter(
                "output_rejected",
                "Messages that can never be delivered and were set aside.",
                &[],
            ),
            history: Mutex::default(),
            next: None,
        }
    }

    /// Returns a path to another output.
    pub(crate) fn to(metrics: &Metrics, next: mpsc::Sender<Delivery>) -> Self {
        Self {
            next: Some(next),
            ..Self::new(metrics)
        }
    }

    /// Rejects a message for the failure that a processor flagged. Without one, `otherwise` is the
    /// rejection.
    pub(crate) async fn reject_failed(&self, message: Message, ack: Ack, otherwise: Rejection) {
        let rejection = match message.failure() {
            Some(failure) => Rejection::new(
                failure.cause,
                Arc::clone(&failure.component),
                Arc::clone(&failure.reason),
            ),
            None => otherwise,
        };
        self.reject(message, ack, rejection).await;
    }

    /// Rejects one message. Waits until the next output can accept it.
    pub(crate) async fn reject(&self, mut message: Message, mut ack: Ack, rejection: Rejection) {
        self.counter.inc();
        let rejection = Rejection {
            subject: rejection.subject.clone().or_else(|| subject(&message)),
            ..rejection
        };
        self.log(&message, &rejection);
        let reason = Arc::clone(&rejection.reason);
        let rejection = Arc::new(of_part(&message, rejection));
        let Some(next) = &self.next else {
            ack.resolve(Outcome::Rejected(rejection));
            return;
        };
        message.clear_failure();
        message.metadata.set(FALLBACK_ERROR, reason);
        ack.refuse(rejection);
        // If the next output has ended, the ack is dropped, and the input yields the message again.
        let _ = next.send(Delivery { message, ack }).await;
    }

    fn log(&self, message: &Message, rejection: &Rejection) {
        let line = self
            .history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(message, rejection, Instant::now());
        let about = &*message.about();
        let (reason, component) = (&rejection.reason, rejection.component.as_ref());
        let subject = rejection.subject.as_deref().unwrap_or("unknown");
        let (cause, remedy) = (rejection.cause.word(), rejection.cause.remedy());
        let is_last = self.next.is_none();
        match line {
            Line::None => {}
            Line::First { seconds } if is_last => error!(
                about,
                subject, seconds, component, cause, "rejected, and not billed: {reason}; {remedy}"
            ),
            Line::First { seconds } => error!(
                about,
                subject, seconds, component, cause, "goes to the fallback: {reason}"
            ),
            Line::Again { times, seconds } => error!(
                about,
                subject,
                seconds,
                times,
                component,
                cause,
                "still rejected, and not billed: {reason}; {remedy}"
            ),
            Line::Crowd { messages } => error!(
                messages,
                "more objects are rejected than can be named here; this one is {about}: {reason}"
            ),
        }
    }
}

/// Returns the rejection with the part of the input's message that is rejected, for the input, which knows
/// whole messages only.
fn of_part(message: &Message, rejection: Rejection) -> Rejection {
    let Some(part) = message.part() else {
        return rejection;
    };
    Rejection {
        reason: format!("{part}: {}", rejection.reason).into(),
        ..rejection
    }
}

/// Returns the subject of a message that is an event.
fn subject(message: &Message) -> Option<Arc<str>> {
    let is_event = match message.content() {
        // The object that the input read is no event, so its subject is not used.
        Content::Document(document) => document.root().get("specversion").is_some(),
        Content::Raw(_) | Content::Rendered(_) => true,
    };
    if !is_event {
        return None;
    }
    let document = message.document().ok()?;
    document.root().get("subject")?.as_str().map(Into::into)
}

/// The log line for a rejection.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    None,
    /// The first one for this object and reason.
    First {
        seconds: i64,
    },
    /// The rejections since the last log line.
    Again {
        times: u64,
        seconds: i64,
    },
    /// The number of messages whose objects could not be recorded.
    Crowd {
        messages: u64,
    },
}

/// The UID of an object, and a reason. No reason: all reasons beyond those that are distinguished.
type Key = (Arc<str>, Option<(Cause, u64)>);

#[derive(Default)]
struct LogHistory {
    entries: HashMap<Key, Entry>,
    /// The number of reasons of each object.
    reasons: HashMap<Arc<str>, u32>,
    /// The number of entries of each namespace.
    namespaces: HashMap<Arc<str>, usize>,
    crowd: u64,
}

struct Entry {
    namespace: Arc<str>,
    times: u64,
    seconds: i64,
    last: Instant,
    log: LogInterval,
}

impl LogHistory {
    fn note(&mut self, message: &Message, rejection: &Rejection, now: Instant) -> Line {
        let about = message.about();
        let namespace = namespace(&about);
        let (uid, seconds) = match message.identity() {
            Some(identity) => (
                Arc::clone(&identity.uid),
                identity.end.saturating_sub(identity.start),
            ),
            None => ("".into(), 0),
        };
        let kind = kind(rejection, message.part().map(AsRef::as_ref));
        let mut key = (Arc::clone(&uid), Some((rejection.cause, kind)));
        let is_new = !self.entries.contains_key(&key);
        if is_new && self.reasons.get(&uid).is_some_and(|it| *it >= REASONS) {
            key.1 = None;
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.times = entry.times.saturating_add(1);
            entry.seconds = entry.seconds.saturating_add(seconds);
            entry.last = now;
            if entry.log.try_log(now.into_std()).is_none() {
                return Line::None;
            }
            return Line::Again {
                times: std::mem::take(&mut entry.times),
                seconds: std::mem::take(&mut entry.seconds),
            };
        }
        let is_full = self.entries.len() >= MOST_ENTRIES;
        if is_full && !self.remove_expired(now) && !self.halve_largest_except(namespace) {
            self.crowd = self.crowd.saturating_add(1);
            return if self.crowd.is_power_of_two() {
                Line::Crowd {
                    messages: self.crowd,
                }
            } else {
                Line::None
            };
        }
        self.add(key, namespace.into(), now);
        Line::First { seconds }
    }

    fn add(&mut self, key: Key, namespace: Arc<str>, now: Instant) {
        let reasons = self.reasons.entry(Arc::clone(&key.0)).or_default();
        *reasons = reasons.saturating_add(1);
        let entries = self.namespaces.entry(Arc::clone(&namespace)).or_default();
        *entries = entries.saturating_add(1);
        self.entries.insert(
            key,
            Entry {
                namespace,
                times: 0,
                seconds: 0,
                last: now,
                log: LogInterval::new(FIRST_INTERVAL, LONGEST_INTERVAL, now.into_std()),
            },
        );
    }

    /// Removes expired entries. Returns whether there are fewer than the limit then. Scans all entries only once for each doubling of `crowd`.
    fn remove_expired(&mut self, now: Instant) -> bool {
        if !self.crowd.saturating_add(1).is_power_of_two() {
            return false;
        }
        self.keep(|entry| now.duration_since(entry.last) < LONGEST_INTERVAL);
        let is_below_limit = self.entries.len() < MOST_ENTRIES;
        if is_below_limit {
            self.crowd = 0;
        }
        is_below_limit
    }

    /// Removes the older half of the namespace with the most entries, unless it is this one. Removing
    /// that many at once pays for the scan of all entries.
    fn halve_largest_except(&mut self, namespace: &str) -> bool {
        let most = self.namespaces.iter().max_by_key(|(_, entries)| **entries);
        let Some(most) = most.map(|(most, _)| Arc::clone(most)) else {
            return false;
        };
        if *most == *namespace {
            return false;
        }
        let of_most = self.entries.values().filter(|it| it.namespace == most);
        let mut last: Vec<_> = of_most.map(|it| it.last).collect();
        last.sort_unstable();
        let Some(middle) = last.get(last.len() / 2).copied() else {
            return false;
        };
        self.keep(|entry| entry.namespace != most || entry.last > middle);
        true
    }

    /// Removes all entries except the wanted ones.
    fn keep(&mut self, wanted: impl Fn(&Entry) -> bool) {
        let (reasons, namespaces) = (&mut self.reasons, &mut self.namespaces);
        self.entries.retain(|(uid, _), entry| {
            let is_wanted = wanted(entry);
            if !is_wanted {
                if let Some(count) = reasons.get_mut(uid) {
                    *count = count.saturating_sub(1);
                }
                if let Some(count) = namespaces.get_mut(&entry.namespace) {
                    *count = count.saturating_sub(1);
                }
            }
            is_wanted
        });
        reasons.retain(|_, count| *count > 0);
        namespaces.retain(|_, count| *count > 0);
    }
}

/// Returns the namespace of an object such as `pod default/web-0`; blank if it has none.
fn namespace(about: &str) -> &str {
    let name = about.split_once(' ').map_or(about, |(_, name)| name);
    name.split_once('/').map_or("", |(namespace, _)| namespace)
}

/// Returns a hash that is the same for reasons that differ only in numbers. These include hexadecimal
/// ones such as UIDs and checksums. The parts of a message differ, so that each one is named.
fn kind(rejection: &Rejection, part: Option<&Part>) -> u64 {
    let mut hasher = DefaultHasher::new();
    part.hash(&mut hasher);
    rejection.component.hash(&mut hasher);
    let is_part = |it: char| it.is_ascii_hexdigit() || it == '-';
    for part in rejection.reason.split_inclusive(|it| !is_part(it)) {
        let digits = part.trim_end_matches(|it| !is_part(it));
        match part.get(digits.len()..) {
            Some(rest) if digits.bytes().any(|it| it.is_ascii_digit()) => rest.hash(&mut hasher),
            _ => part.hash(&mut hasher),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use meterline_core::{Document, Identity};

    use super::*;

    fn message(uid: &str) -> Message {
        Message::raw("{}").with_identity(Identity {
            about: format!("pod team/{uid}").as_str().into(),
            uid: uid.into(),
            start: 10,
            end: 12,
            cluster: None,
        })
    }

    fn rejection(reason: &str) -> Rejection {
        Rejection::new(Cause::Processing, "mapping", reason)
    }

    #[tokio::test(start_paused = true)]
    async fn every_object_is_logged_once_for_each_reason_and_then_at_growing_intervals() {
        let mut history = LogHistory::default();
        let start = Instant::now();
        for pod in 0..300 {
            let line = history.note(
                &message(&format!("web-{pod}")),
                &rejection("no field 1"),
                start,
            );
            assert_eq!(line, Line::First { seconds: 2 });
        }
        let mut note = |reason: &str, at: u64| {
            history.note(
                &message("web-7"),
                &rejection(reason),
                start + Duration::from_secs(at),
            )
        };
        assert_eq!(note("no field 2", 1), Line::None);
        assert_eq!(note("another", 1), Line::First { seconds: 2 });
        let again = Line::Again {
            times: 2,
            seconds: 4,
        };
        assert_eq!(note("no field 3", 60), again);
        assert_eq!(note("no field 3", 121), Line::None);
        assert_eq!(note("no field 3", 180), again);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_of_logged_rejections_is_bounded_and_freed() {
        let mut history = LogHistory::default();
        let start = Instant::now();
        for pod in 0..MOST_ENTRIES {
            history.note(&message(&pod.to_string()), &rejection("x"), start);
        }
        let mut note =
            |uid: &str, at: Duration| history.note(&message(uid), &rejection("x"), start + at);
        assert_eq!(note("a", Duration::ZERO), Line::Crowd { messages: 1 });
        assert_eq!(note("b", Duration::ZERO), Line::Crowd { messages: 2 });
        assert_eq!(note("c", Duration::ZERO), Line::None);
        assert_eq!(note("d", LONGEST_INTERVAL), Line::First { seconds: 2 });
    }

    #[tokio::test(start_paused = true)]
    async fn reasons_that_differ_in_ids_only_are_one() {
        let mut history = LogHistory::default();
        let now = Instant::now();
        let mut note = |reason: &str| history.note(&message("a"), &rejection(reason), now);
        let first = Line::First { seconds: 2 };
        assert_eq!(note("no 3e4f-77aa at dead/9: bad"), first);
        assert_eq!(note("no 0b1c-2d at dead/10: bad"), Line::None);
        assert_eq!(
            note("no 5d1c6c2a-9c1b-4f0e-8a52-d5ab9f1c2e3d at dead/1: bad"),
            Line::None
        );
        assert_eq!(note("no 3e4f-77aa at dead/9: face"), first);
    }

    #[tokio::test(start_paused = true)]
    async fn reasons_of_one_object_are_bounded_and_the_rest_is_counted() {
        let mut history = LogHistory::default();
        let start = Instant::now();
        let word = |number: u32| -> String {
            let letters = number.to_string().into_bytes();
            letters
                .iter()
                .map(|it| char::from(it - b'0' + b'p'))
                .collect()
        };
        let mut firsts = 0;
        for number in 0..1_000 {
            let line = history.note(&message("a"), &rejection(&word(number)), start);
            firsts += u32::from(line == Line::First { seconds: 2 });
        }
        assert_eq!(firsts, REASONS + 1);
        let later = start + FIRST_INTERVAL;
        let line = history.note(&message("a"), &rejection("something else"), later);
        let rest = u64::from(1_000 - REASONS);
        assert!(
            matches!(line, Line::Again { times, .. } if times == rest),
            "{line:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_fills_the_memory_does_not_hide_others() {
        let mut history = LogHistory::default();
        let start = Instant::now();
        for pod in 0..MOST_ENTRIES + 10 {
            history.note(&message(&pod.to_string()), &rejection("x"), start);
        }
        let honest = |name: &str| {
            Message::raw("{}").with_identity(Identity {
                about: format!("pod honest/{name}").as_str().into(),
                uid: name.into(),
                start: 10,
                end: 12,
                cluster: None,
            })
        };
        for name in ["web", "db"] {
            let line = history.note(&honest(name), &rejection("x"), start);
            assert_eq!(line, Line::First { seconds: 2 });
        }
        assert_eq!(
            history.note(&honest("web"), &rejection("x"), start),
            Line::None
        );
        let counted: usize = history.namespaces.values().sum();
        assert_eq!(counted, history.entries.len());
        assert_eq!(history.reasons.len(), history.entries.len());
    }

    #[test]
    fn the_subject_is_that_of_an_event_and_of_nothing_else() {
        let event = Message::raw(r#"{"specversion":"1.0","subject":"team"}"#);
        assert_eq!(subject(&event).as_deref(), Some("team"));
        let document = Document::from_json(br#"{"subject":"none"}"#).unwrap();
        let object = Message::new(Content::Document(document));
        assert_eq!(subject(&object), None);
        assert_eq!(subject(&Message::raw("no JSON")), None);
    }
}

//! What can never be delivered: counted, logged with its reason, and settled.
//!
//! Each object is logged once for each reason, and while it goes on again with a count, at growing
//! intervals. So all are named however many there are, and none fills the log.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use meterline_core::{
    Ack, Cause, Content, FALLBACK_ERROR, IntCounter, Message, Metrics, Outcome, Rejection,
};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant},
};
use tracing::error;

use crate::sink::Delivery;

/// The pause before an object is logged again for the same reason; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
/// So many objects and reasons are remembered. When there are more, those that were not rejected for
/// the longest pause are forgotten; if that makes no room, further ones are summed up.
const REMEMBERED: usize = 65_536;

/// The path of messages that are refused.
pub(crate) struct Rejections {
    counter: IntCounter,
    told: Mutex<Told>,
    /// The output that takes what another refused, if there is one.
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
            told: Mutex::default(),
            next: None,
        }
    }

    /// The same path, but to another output.
    pub(crate) fn to(metrics: &Metrics, next: mpsc::Sender<Delivery>) -> Self {
        Self {
            next: Some(next),
            ..Self::new(metrics)
        }
    }

    /// Sets aside a message that a processor flagged, or one for `otherwise`.
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

    /// Sets one message aside. Waits until there is room where it goes.
    pub(crate) async fn reject(&self, mut message: Message, mut ack: Ack, rejection: Rejection) {
        self.counter.inc();
        let rejection = Arc::new(Rejection {
            subject: rejection.subject.clone().or_else(|| subject(&message)),
            ..rejection
        });
        self.tell(&message, &rejection);
        let Some(next) = &self.next else {
            ack.resolve(Outcome::Rejected(rejection));
            return;
        };
        message.clear_failure();
        message
            .metadata
            .set(FALLBACK_ERROR, Arc::clone(&rejection.reason));
        ack.refuse(rejection);
        // Where nobody takes it any more the ack is dropped: it comes again.
        let _ = next.send(Delivery { message, ack }).await;
    }

    fn tell(&self, message: &Message, rejection: &Rejection) {
        let told = self
            .told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(message, rejection, Instant::now());
        let about = message.about();
        let (reason, component) = (&rejection.reason, rejection.component.as_ref());
        let subject = rejection.subject.as_deref().unwrap_or("unknown");
        let (cause, remedy) = (rejection.cause.word(), rejection.cause.remedy());
        let is_last = self.next.is_none();
        match told {
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

/// The subject of a message that is an event by now.
fn subject(message: &Message) -> Option<Arc<str>> {
    let is_event = match message.content() {
        // The object that the input read is none, and not looked into.
        Content::Document(document) => document.root().get("specversion").is_some(),
        Content::Raw(_) | Content::Filled(_) => true,
    };
    if !is_event {
        return None;
    }
    let document = message.document().ok()?;
    document.root().get("subject")?.as_str().map(Into::into)
}

/// What of a rejection goes into the log.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    None,
    /// The first for this object and reason.
    First {
        seconds: i64,
    },
    /// So many more since the last line.
    Again {
        times: u64,
        seconds: i64,
    },
    /// So many of objects that could not be remembered.
    Crowd {
        messages: u64,
    },
}

/// An object, by UID, and a reason.
type Key = (Arc<str>, Cause, u64);

#[derive(Default)]
struct Told {
    entries: HashMap<Key, Entry>,
    crowd: u64,
}

struct Entry {
    times: u64,
    seconds: i64,
    last: Instant,
    next: Instant,
    pause: Duration,
}

impl Told {
    fn note(&mut self, message: &Message, rejection: &Rejection, now: Instant) -> Line {
        let (uid, seconds) = match message.identity() {
            Some(identity) => (
                Arc::clone(&identity.uid),
                identity.end.saturating_sub(identity.start),
            ),
            None => ("".into(), 0),
        };
        let key = (uid, rejection.cause, kind(rejection));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.times = entry.times.saturating_add(1);
            entry.seconds = entry.seconds.saturating_add(seconds);
            entry.last = now;
            if now < entry.next {
                return Line::None;
            }
            entry.pause = entry.pause.saturating_mul(2).min(LONGEST_PAUSE);
            entry.next = now + entry.pause;
            return Line::Again {
                times: std::mem::take(&mut entry.times),
                seconds: std::mem::take(&mut entry.seconds),
            };
        }
        if self.entries.len() >= REMEMBERED && !self.make_room(now) {
            self.crowd = self.crowd.saturating_add(1);
            return if self.crowd.is_power_of_two() {
                Line::Crowd {
                    messages: self.crowd,
                }
            } else {
                Line::None
            };
        }
        self.entries.insert(
            key,
            Entry {
                times: 0,
                seconds: 0,
                last: now,
                next: now + FIRST_PAUSE,
                pause: FIRST_PAUSE,
            },
        );
        Line::First { seconds }
    }

    /// Forgets what is over. Looks through all only once for each doubling of the crowd.
    fn make_room(&mut self, now: Instant) -> bool {
        if !self.crowd.saturating_add(1).is_power_of_two() {
            return false;
        }
        self.entries
            .retain(|_, entry| now.duration_since(entry.last) < LONGEST_PAUSE);
        let has_room = self.entries.len() < REMEMBERED;
        if has_room {
            self.crowd = 0;
        }
        has_room
    }
}

/// The same for reasons that differ in numbers only.
fn kind(rejection: &Rejection) -> u64 {
    let mut hasher = DefaultHasher::new();
    rejection.component.hash(&mut hasher);
    for byte in rejection.reason.bytes().filter(|it| !it.is_ascii_digit()) {
        byte.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use meterline_core::{Document, Identity};

    use super::*;

    fn message(uid: &str) -> Message {
        Message::raw("{}").with_identity(Identity {
            about: format!("pod team/{uid}").into(),
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
    async fn every_object_is_named_once_for_each_reason_and_then_ever_more_seldom() {
        let mut told = Told::default();
        let start = Instant::now();
        for pod in 0..300 {
            let line = told.note(
                &message(&format!("web-{pod}")),
                &rejection("no field 1"),
                start,
            );
            assert_eq!(line, Line::First { seconds: 2 });
        }
        let mut note = |reason: &str, at: u64| {
            told.note(
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
    async fn memory_of_what_was_told_is_bounded_and_frees_itself() {
        let mut told = Told::default();
        let start = Instant::now();
        for pod in 0..REMEMBERED {
            told.note(&message(&pod.to_string()), &rejection("x"), start);
        }
        let mut note =
            |uid: &str, at: Duration| told.note(&message(uid), &rejection("x"), start + at);
        assert_eq!(note("a", Duration::ZERO), Line::Crowd { messages: 1 });
        assert_eq!(note("b", Duration::ZERO), Line::Crowd { messages: 2 });
        assert_eq!(note("c", Duration::ZERO), Line::None);
        assert_eq!(note("d", LONGEST_PAUSE), Line::First { seconds: 2 });
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

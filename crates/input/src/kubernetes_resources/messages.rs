//! Turns the pieces of a window into messages.

use std::{ops::Range, sync::Arc};

use meterline_core::{
    About, Batch, Content as MessageContent, Document, Identity, Message, Metadata, Node, duration,
};
use meterline_ledger::{Interval, Kind, UsageInterval, Window, WindowBatch};

use super::{object::BilledObject, resource_type::ResourceType};

/// Returns the batch of `pieces` of one window. Each message carries the object, and as metadata the time that it
/// bills: `schedule_time` (RFC 3339) and `schedule_interval` (a Go duration) of its piece, `window_time`
/// and `window_interval` of the window.
pub(super) fn batch(
    window_batch: &WindowBatch<BilledObject>,
    pieces: Range<usize>,
    windows: Interval,
    resource_type: ResourceType,
    cluster: Option<&Arc<str>>,
) -> Batch {
    let mut window = window_batch.window;
    let mut window_time = rfc3339(window.start);
    let mut window_interval = interval(window.end.saturating_sub(window.start));
    let mut shared = metadata(&window_time, &window_interval);
    let (from, count) = (pieces.start, pieces.len());
    window_batch
        .pieces
        .iter()
        .zip(0..)
        .skip(from)
        .take(count)
        .map(|(piece, number)| {
            // Rejected pieces of several windows are sent again together.
            if window_batch.kind == Kind::Again && !holds(window, piece) {
                window = Window {
                    start: windows.floor(piece.start),
                    end: windows.next_boundary(piece.start),
                };
                window_time = rfc3339(window.start);
                window_interval = interval(window.end.saturating_sub(window.start));
                shared = metadata(&window_time, &window_interval);
            }
            let mut message =
                Message::new(MessageContent::Document(piece.content.document.clone()))
                    .with_identity(identity(piece, resource_type, cluster))
                    .with_origin(number);
            if window_batch.kind == Kind::Again {
                message = message.tried_again();
            }
            if let Some(reason) = piece.content.is_missing() {
                message.fail("kubernetes_resources", reason);
            }
            // Nearly every piece is the whole window, and shares the window's metadata.
            message.metadata = shared.clone();
            if piece.start != window.start {
                message.metadata.set("schedule_time", rfc3339(piece.start));
            }
            let seconds = piece.end.saturating_sub(piece.start);
            if seconds != window.end.saturating_sub(window.start) {
                message.metadata.set("schedule_interval", interval(seconds));
            }
            message
        })
        .collect()
}

/// Returns the metadata of messages that bill a whole window.
fn metadata(time: &Arc<str>, interval: &Arc<str>) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("schedule_time", Arc::clone(time));
    metadata.set("schedule_interval", Arc::clone(interval));
    metadata.set("window_time", Arc::clone(time));
    metadata.set("window_interval", Arc::clone(interval));
    metadata
}

fn holds(window: Window, piece: &UsageInterval<BilledObject>) -> bool {
    window.start <= piece.start && piece.end <= window.end
}

fn identity(
    piece: &UsageInterval<BilledObject>,
    resource_type: ResourceType,
    cluster: Option<&Arc<str>>,
) -> Identity {
    Identity {
        about: About::Object(
            resource_type.word(),
            piece.content.document.clone(),
            describe,
        ),
        uid: Arc::clone(&piece.uid),
        start: piece.start,
        end: piece.end,
        cluster: cluster.cloned(),
    }
}

/// Returns the name of an object for people: `pod default/web-0`.
pub(super) fn about(content: &BilledObject, resource_type: ResourceType) -> Arc<str> {
    describe(resource_type.word(), &content.document).into()
}

fn describe(word: &str, document: &Document) -> String {
    let metadata = document.root().get("metadata");
    let field = |key| metadata.and_then(|it| it.get(key)).and_then(Node::as_str);
    let name = field("name").unwrap_or_default();
    match field("namespace") {
        Some(namespace) => format!("{word} {namespace}/{name}"),
        None => format!("{word} {name}"),
    }
}

/// Unix seconds as RFC 3339 in UTC, such as `2025-01-01T00:00:15Z`.
pub(super) fn rfc3339(seconds: i64) -> Arc<str> {
    chrono::DateTime::from_timestamp(seconds, 0)
        .unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        .into()
}

fn interval(seconds: i64) -> Arc<str> {
    duration::format_seconds(seconds).into()
}

#[cfg(test)]
mod tests {
    use meterline_core::{Cause, Outcome, Reads};
    use meterline_ledger::DeliveryResult;

    use super::*;
    use crate::kubernetes_resources::{
        delivery,
        ledger::SharedLedger,
        object::Projection,
        testing::{self, WATCH, observation, options},
        watch::Cluster,
    };

    fn ledger() -> Arc<SharedLedger> {
        let ledger = testing::ledger(&options(Cluster::default()), 0);
        ledger.synced(WATCH, true);
        ledger.alive(WATCH, 1_000);
        ledger
    }

    fn next(ledger: &SharedLedger) -> WindowBatch<BilledObject> {
        ledger.next(20).0.unwrap().batch
    }

    fn messages(ledger: &SharedLedger, batch: &WindowBatch<BilledObject>) -> Batch {
        let cluster = Arc::from("c");
        let pieces = 0..batch.pieces.len();
        let interval = ledger.interval();
        super::batch(batch, pieces, interval, ResourceType::Pod, Some(&cluster))
    }

    /// Its metadata as one text.
    fn times(message: &Message) -> String {
        let keys = [
            "schedule_time",
            "schedule_interval",
            "window_time",
            "window_interval",
        ];
        let values = keys.map(|key| message.metadata.get(key).unwrap().to_string());
        values.join(" ")
    }

    #[test]
    fn each_message_has_the_time_that_it_bills_and_its_window() {
        let ledger = ledger();
        ledger.observe(observation("a", 0, None));
        ledger.observe(observation("b", 3, Some(7)));
        let window = next(&ledger);
        let messages = messages(&ledger, &window);
        assert_eq!(
            messages.iter().map(times).collect::<Vec<_>>(),
            [
                "1970-01-01T00:00:00Z 10s 1970-01-01T00:00:00Z 10s",
                "1970-01-01T00:00:03Z 4s 1970-01-01T00:00:00Z 10s",
            ]
        );
        let identity = messages[1].identity().unwrap();
        assert_eq!((identity.start, identity.end), (3, 7));
        assert_eq!(identity.about.text(), "pod n/b");
        assert_eq!(&*identity.uid, "b");
        assert_eq!(identity.cluster.as_deref(), Some("c"));
    }

    #[test]
    fn a_part_of_a_window_has_the_messages_that_the_whole_has_there() {
        let ledger = ledger();
        for name in ["a", "b", "c"] {
            ledger.observe(observation(name, 1, None));
        }
        let window = next(&ledger);
        let part = super::batch(&window, 1..3, ledger.interval(), ResourceType::Pod, None);
        let uids: Vec<_> = part
            .iter()
            .map(|it| it.identity().unwrap().uid.to_string())
            .collect();
        assert_eq!(uids, ["b", "c"]);
    }

    #[test]
    fn rejected_pieces_are_sent_again_with_their_own_window() {
        let ledger = ledger();
        ledger.observe(observation("a", 3, Some(17)));
        let rejected = Outcome::rejected(Cause::Processing, "mapping", "no");
        for _ in 0..2 {
            let window = next(&ledger);
            let fate = delivery::fate(&rejected).unwrap();
            let undelivered = window.pieces.iter().map(|it| (it.clone(), fate.clone()));
            let (at, undelivered) = (20, undelivered.collect());
            ledger.settle(window.tag, |_| DeliveryResult::Done { at, undelivered });
        }
        assert_eq!(ledger.retry_rejected(), 2);
        let again = next(&ledger);
        assert_eq!(again.kind, Kind::Again);
        assert_eq!(
            messages(&ledger, &again)
                .iter()
                .map(times)
                .collect::<Vec<_>>(),
            [
                "1970-01-01T00:00:03Z 7s 1970-01-01T00:00:00Z 10s",
                "1970-01-01T00:00:10Z 7s 1970-01-01T00:00:10Z 10s",
            ]
        );
    }

    #[test]
    fn a_message_with_incomplete_content_is_flagged_as_failed() {
        let ledger = ledger();
        let mut less = observation("a", 1, None);
        let kept_for = Arc::new(Reads::of(&["metadata.name"]));
        less.content.adapt(&kept_for, &Projection::everything());
        ledger.observe(less);
        ledger.observe(observation("b", 1, None));
        let messages = messages(&ledger, &next(&ledger));
        let failure = messages[0].failure().unwrap();
        assert_eq!(&*failure.component, "kubernetes_resources");
        assert!(messages[1].failure().is_none());
    }

    #[test]
    fn an_object_without_a_namespace_is_named_by_its_type_and_name() {
        let document =
            meterline_core::Document::from(&serde_json::json!({"metadata": {"name": "x"}}));
        let about = about(&BilledObject::from(document), ResourceType::Node);
        assert_eq!(&*about, "node x");
    }
}

//! Turns the pieces of a window into messages.

use std::{ops::Range, sync::Arc};

use meterline_core::{
    About, Batch, Content as MessageContent, Document, Identity, Message, Metadata, Node, duration,
};
use meterline_ledger::{Interval, Kind, UsageInterval, Window, WindowBatch};

use super::{object::BilledObject, resource_type::ResourceType};

/// The batch of `pieces` of one window. Each message carries the object, and as metadata which time it
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
            // What was rejected comes again whichever window it was of.
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
            // Nearly every piece is the whole window: those share the window's own texts.
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

/// What the messages of a whole window have beside the object.
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

/// An object for people: `pod default/web-0`.
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

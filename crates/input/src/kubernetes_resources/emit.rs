//! Turns the pieces of a window into messages.

use std::sync::Arc;

use meterline_core::{Batch, Content as MessageContent, Identity, Message, Node, duration};
use meterline_ledger::{Emission, Piece};

use super::{object::Content, resource_type::ResourceType};

/// The batch of one window. Each message carries the object, and as metadata which time it bills:
/// `schedule_time` (RFC 3339) and `schedule_interval` (a Go duration) of its piece, `window_time`
/// and `window_interval` of the window.
pub(super) fn batch(
    emission: &Emission<Content>,
    resource_type: ResourceType,
    cluster: Option<&Arc<str>>,
) -> Batch {
    let window = emission.window;
    let window_time = rfc3339(window.start);
    let window_interval = interval(window.end.saturating_sub(window.start));
    emission
        .pieces
        .iter()
        .zip(0..)
        .map(|(piece, number)| {
            let seconds = piece.end.saturating_sub(piece.start);
            // Nearly every piece is the whole window: those share the window's own texts.
            let schedule_time = if piece.start == window.start {
                Arc::clone(&window_time)
            } else {
                rfc3339(piece.start)
            };
            let schedule_interval = if seconds == window.end.saturating_sub(window.start) {
                Arc::clone(&window_interval)
            } else {
                interval(seconds)
            };
            let mut message = Message::new(MessageContent::Document(piece.content.0.clone()))
                .with_identity(identity(piece, resource_type, cluster))
                .with_origin(number);
            let metadata = &mut message.metadata;
            metadata.set("schedule_time", schedule_time);
            metadata.set("schedule_interval", schedule_interval);
            metadata.set("window_time", Arc::clone(&window_time));
            metadata.set("window_interval", Arc::clone(&window_interval));
            message
        })
        .collect()
}

fn identity(
    piece: &Piece<Content>,
    resource_type: ResourceType,
    cluster: Option<&Arc<str>>,
) -> Identity {
    let metadata = piece.content.0.root().get("metadata");
    let field = |key| metadata.and_then(|it| it.get(key)).and_then(Node::as_str);
    let name = field("name").unwrap_or_default();
    let word = resource_type.word();
    let about = match field("namespace") {
        Some(namespace) => format!("{word} {namespace}/{name}"),
        None => format!("{word} {name}"),
    };
    Identity {
        about: about.into(),
        uid: Arc::clone(&piece.uid),
        start: piece.start,
        end: piece.end,
        cluster: cluster.cloned(),
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

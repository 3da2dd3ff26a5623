//! Creates `this`: the parts of the message that a script reads, as script values.
//!
//! A pod has seven kilobytes, of which a mapping reads a few hundred bytes. The analysis of the script
//! determines what it reads, and only that is converted, or everything if the analysis cannot determine it.
//! The script cannot observe the difference.

use meterline_core::{Content, Message, Node, Reads, Scalar};
use rhai::{Dynamic, Map};

use crate::{decimal::Decimal, prefix};

/// Converts the parts of `message` that are read.
///
/// # Errors
/// When something is read and the content is not JSON.
pub(crate) fn this(
    message: &Message,
    reads: &Reads,
    skipped: &mut prefix::Skipped,
) -> Result<Dynamic, String> {
    if reads.is_nothing() {
        return Ok(Dynamic::UNIT);
    }
    match message.content() {
        Content::Document(document) => Ok(node(document.root(), reads, skipped)),
        Content::Raw(_) | Content::Rendered(_) => message
            .document()
            .map(|document| node(document.root(), reads, skipped))
            .map_err(|error| error.to_string()),
    }
}

fn node(node: Node<'_>, reads: &Reads, skipped: &mut prefix::Skipped) -> Dynamic {
    let Reads::Parts(parts) = reads else {
        return whole(node);
    };
    if reads.is_all() {
        return whole(node);
    }
    if node.is_object() {
        let mut map = Map::new();
        for key in parts.keys.keys() {
            if let (Some(value), Some(reads)) = (node.get(key), reads.field(key)) {
                map.insert(key.as_str().into(), self::node(value, reads, skipped));
            }
        }
        for prefix in &parts.prefixes {
            for (key, value) in prefix::first(node.entries(), prefix, &parts.keys, skipped) {
                map.insert(key.into(), whole(value));
            }
        }
        return Dynamic::from_map(map);
    }
    if let (true, Some(reads)) = (node.is_array(), reads.item()) {
        let items = node.items();
        let item = |it| self::node(it, reads, skipped);
        return Dynamic::from_array(items.map(item).collect());
    }
    whole(node)
}

/// Converts a whole node.
pub(crate) fn whole(node: Node<'_>) -> Dynamic {
    match node.scalar() {
        Some(Scalar::Null) => Dynamic::UNIT,
        Some(Scalar::Bool(value)) => Dynamic::from_bool(value),
        Some(Scalar::Integer(number)) => Dynamic::from_int(number),
        Some(Scalar::Unsigned(number)) => Dynamic::from(Decimal::from(number)),
        Some(Scalar::Float(number)) => Dynamic::from_float(number),
        Some(Scalar::Number(text)) => match text.parse::<Decimal>() {
            Ok(number) => Dynamic::from(number),
            // Neither JSON text nor a script can produce a longer one.
            Err(_) => Dynamic::from_float(text.parse().unwrap_or_default()),
        },
        Some(Scalar::Text(text)) => text.into(),
        None if node.is_array() => Dynamic::from_array(node.items().map(whole).collect()),
        None => Dynamic::from_map(
            node.entries()
                .map(|(key, value)| (key.into(), whole(value)))
                .collect(),
        ),
    }
}

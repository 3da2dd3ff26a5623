//! `this`: the parts of the message that a script reads, as script values.
//!
//! A pod is seven kilobytes of which a mapping reads a few hundred bytes. What it reads is known
//! from its text, so only that is converted; where the text does not tell, everything is. A script
//! cannot notice the difference.

use std::collections::{BTreeMap, BTreeSet};

use meterline_core::{Content, Message, Node, Scalar};
use rhai::{Dynamic, Map};

use crate::{decimal::Decimal, prefix};

/// What a script reads of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it.
    All,
    /// Parts of it, if it is an object or an array that has such parts; all of it, if it is not.
    Parts(Parts),
}

/// The parts of a value. None at all: nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Parts {
    /// Fields by their whole keys.
    keys: BTreeMap<String, Wanted>,
    /// Fields by the starts of their keys, as `select_prefix` takes them.
    prefixes: BTreeSet<String>,
    /// This of each item of an array.
    items: Option<Box<Wanted>>,
}

/// A step from a value to a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// The field of this key.
    Key(&'a str),
    /// Some item of an array.
    Item,
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Parts(Parts::default())
    }
}

impl Wanted {
    /// Adds everything below `path`.
    pub(crate) fn add(&mut self, path: &[Step<'_>]) {
        self.add_all(path, &Self::All);
    }

    /// Adds the fields below `path` whose keys start with `prefix`.
    pub(crate) fn add_prefix(&mut self, path: &[Step<'_>], prefix: &str) {
        let prefixes = BTreeSet::from([prefix.to_owned()]);
        self.add_all(
            path,
            &Self::Parts(Parts {
                prefixes,
                ..Parts::default()
            }),
        );
    }

    /// Adds `more` of what is below `path`.
    pub(crate) fn add_all(&mut self, path: &[Step<'_>], more: &Self) {
        let Self::Parts(parts) = self else {
            return;
        };
        match (path.split_first(), more) {
            (Some((Step::Key(key), rest)), _) => {
                let part = parts.keys.entry((*key).to_owned()).or_default();
                part.add_all(rest, more);
            }
            (Some((Step::Item, rest)), _) => {
                parts.items.get_or_insert_default().add_all(rest, more);
            }
            (None, Self::All) => *self = Self::All,
            (None, Self::Parts(more)) => {
                parts.prefixes.extend(more.prefixes.iter().cloned());
                for (key, more) in &more.keys {
                    let part = parts.keys.entry(key.clone()).or_default();
                    part.add_all(&[], more);
                }
                if let Some(more) = &more.items {
                    parts.items.get_or_insert_default().add_all(&[], more);
                }
            }
        }
    }

    /// Whether nothing is read.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Parts(parts) if *parts == Parts::default())
    }
}

/// The wanted parts of the content of `message`.
///
/// # Errors
/// When something is wanted of content that is not JSON.
pub(crate) fn this(
    message: &Message,
    wanted: &Wanted,
    skipped: &mut prefix::Skipped,
) -> Result<Dynamic, String> {
    if wanted.is_nothing() {
        return Ok(Dynamic::UNIT);
    }
    match message.content() {
        Content::Document(document) => Ok(node(document.root(), wanted, skipped)),
        Content::Raw(_) | Content::Filled(_) => message
            .document()
            .map(|document| node(document.root(), wanted, skipped))
            .map_err(|error| error.to_string()),
    }
}

fn node(node: Node<'_>, wanted: &Wanted, skipped: &mut prefix::Skipped) -> Dynamic {
    let Wanted::Parts(parts) = wanted else {
        return whole(node);
    };
    if node.is_object() {
        let mut map = Map::new();
        for (key, wanted) in &parts.keys {
            if let Some(value) = node.get(key) {
                map.insert(key.as_str().into(), self::node(value, wanted, skipped));
            }
        }
        for prefix in &parts.prefixes {
            for (key, value) in prefix::first(node.entries(), prefix, &parts.keys, skipped) {
                map.insert(key.into(), whole(value));
            }
        }
        return Dynamic::from_map(map);
    }
    match &parts.items {
        // Properties of an array, such as `len`, are read of all of it.
        Some(wanted) if node.is_array() && parts.keys.is_empty() && parts.prefixes.is_empty() => {
            let items = node.items();
            Dynamic::from_array(items.map(|it| self::node(it, wanted, skipped)).collect())
        }
        _ => whole(node),
    }
}

/// All of a node.
pub(crate) fn whole(node: Node<'_>) -> Dynamic {
    match node.scalar() {
        Some(Scalar::Null) => Dynamic::UNIT,
        Some(Scalar::Bool(value)) => Dynamic::from_bool(value),
        Some(Scalar::Integer(number)) => Dynamic::from_int(number),
        Some(Scalar::Unsigned(number)) => Dynamic::from(Decimal::from(number)),
        Some(Scalar::Float(number)) => Dynamic::from_float(number),
        Some(Scalar::Number(text)) => match text.parse::<Decimal>() {
            Ok(number) => Dynamic::from(number),
            // Only a document that is no outcome of JSON text or of a script has one that long.
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

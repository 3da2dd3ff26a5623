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
    /// These fields, if it is an object; all of it, if it is not. None at all: nothing.
    Fields {
        /// By their whole keys.
        keys: BTreeMap<String, Wanted>,
        /// By the starts of their keys, as `select_prefix` takes them.
        prefixes: BTreeSet<String>,
    },
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Fields {
            keys: BTreeMap::new(),
            prefixes: BTreeSet::new(),
        }
    }
}

impl Wanted {
    /// Adds everything below `path`.
    pub(crate) fn add(&mut self, path: &[&str]) {
        self.add_all(path, &Self::All);
    }

    /// Adds the fields below `path` whose keys start with `prefix`.
    pub(crate) fn add_prefix(&mut self, path: &[&str], prefix: &str) {
        let prefixes = BTreeSet::from([prefix.to_owned()]);
        let keys = BTreeMap::new();
        self.add_all(path, &Self::Fields { keys, prefixes });
    }

    /// Adds `more` of what is below `path`.
    pub(crate) fn add_all(&mut self, path: &[&str], more: &Self) {
        match (&mut *self, path.split_first(), more) {
            (Self::All, ..) => {}
            (Self::Fields { keys, .. }, Some((first, rest)), _) => {
                keys.entry((*first).to_owned())
                    .or_default()
                    .add_all(rest, more);
            }
            (_, None, Self::All) => *self = Self::All,
            (
                Self::Fields { keys, prefixes },
                None,
                Self::Fields {
                    keys: more_keys,
                    prefixes: more_prefixes,
                },
            ) => {
                prefixes.extend(more_prefixes.iter().cloned());
                for (key, more) in more_keys {
                    keys.entry(key.clone()).or_default().add_all(&[], more);
                }
            }
        }
    }

    /// Whether nothing is read.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Fields { keys, prefixes } if keys.is_empty() && prefixes.is_empty())
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
    match wanted {
        Wanted::Fields { keys, prefixes } if node.is_object() => {
            let mut map = Map::new();
            for (key, wanted) in keys {
                if let Some(value) = node.get(key) {
                    map.insert(key.as_str().into(), self::node(value, wanted, skipped));
                }
            }
            for prefix in prefixes {
                for (key, value) in prefix::first(node.entries(), prefix, keys, skipped) {
                    map.insert(key.into(), whole(value));
                }
            }
            Dynamic::from_map(map)
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

//! `select_prefix`: selects the fields with a prefix, within limits.
//!
//! A user who may create a pod may annotate it with 256 KiB, which would be part of every event. Fields
//! beyond the limits are omitted in the order of their keys, so that the same pod always has the same
//! fields.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use rhai::{Dynamic, Map};

use crate::convert;

/// The most fields.
pub(crate) const FIELDS: usize = 64;
/// The most bytes of a value.
pub(crate) const VALUE: usize = 4 << 10;
/// The most bytes of all values together.
pub(crate) const VALUES: usize = 32 << 10;
/// The most bytes of a key with its prefix: those of a qualified name in Kubernetes, which consists of a
/// DNS subdomain of 253, a slash and a name of 63.
pub(crate) const KEY: usize = 253 + 1 + 63;

/// The number of fields beyond [`FIELDS`] for each prefix. They were not converted.
pub(crate) type Skipped = HashMap<String, usize>;

/// Returns the first fields of a prefix, in the order of their keys, that `select_prefix` can select.
/// Skips those in `kept`, which are converted already.
pub(crate) fn first<'a, T, K>(
    fields: impl Iterator<Item = (&'a str, T)>,
    prefix: &str,
    kept: &BTreeMap<String, K>,
    skipped: &mut Skipped,
) -> BTreeMap<&'a str, T> {
    let mut taken = BTreeMap::new();
    let mut left = 0;
    for (key, value) in fields {
        if !is_named(key, prefix) || kept.contains_key(key) {
            continue;
        }
        if key.len() > KEY {
            left += 1;
            continue;
        }
        taken.insert(key, value);
        if taken.len() > FIELDS {
            taken.pop_last();
            left += 1;
        }
    }
    if left > 0 {
        *skipped.entry(prefix.to_owned()).or_default() += left;
    }
    taken
}

/// Whether the key consists of the prefix and a name.
fn is_named(key: &str, prefix: &str) -> bool {
    key.len() > prefix.len() && key.starts_with(prefix)
}

/// How much was omitted or truncated.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Omitted fields.
    pub(crate) fields: usize,
    /// Truncated texts.
    pub(crate) values: usize,
}

/// Returns the fields with the prefix, named without it, and how much was omitted or truncated.
pub(crate) fn select(fields: &Map, prefix: &str) -> (Map, Cut) {
    let (mut selected, mut cut) = (Map::new(), Cut::default());
    let mut space = VALUES;
    for (key, value) in fields.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)) {
        let Some(name) = key.strip_prefix(prefix) else {
            break;
        };
        if name.is_empty() {
            continue;
        }
        if key.len() > KEY || selected.len() == FIELDS {
            cut.fields += 1;
            continue;
        }
        match taken(value, space.min(VALUE)) {
            Taken::Whole(value, length) => {
                space -= length;
                selected.insert(name.into(), value);
            }
            Taken::Start(value, length) => {
                space -= length;
                cut.values += 1;
                selected.insert(name.into(), value);
            }
            Taken::Nothing => cut.fields += 1,
        }
    }
    (selected, cut)
}

/// What fits of a value, with its length.
enum Taken {
    Whole(Dynamic, usize),
    Start(Dynamic, usize),
    Nothing,
}

fn taken(value: &Dynamic, space: usize) -> Taken {
    let Ok(text) = value.as_immutable_string_ref() else {
        // Only text can be truncated. A value that JSON cannot represent fails when it is written.
        let length = convert::to_text(value).map_or(0, |text| text.len());
        return if length > space {
            Taken::Nothing
        } else {
            Taken::Whole(value.clone(), length)
        };
    };
    if text.len() <= space {
        return Taken::Whole(value.clone(), text.len());
    }
    let start = start(&text, space);
    if start.is_empty() {
        Taken::Nothing
    } else {
        Taken::Start(start.into(), start.len())
    }
}

/// Returns the longest start of the text with at most this many bytes, in whole characters.
pub(crate) fn start(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

/// Formats what was omitted or truncated.
pub(crate) fn explain(prefix: &str, cut: &Cut) -> String {
    let counted = |count: usize, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {many}")),
    };
    let parts: Vec<_> = [
        counted(cut.fields, "field is omitted", "fields are omitted"),
        counted(cut.values, "value is truncated", "values are truncated"),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!(
        "of `{prefix}` {}; the limits are {FIELDS} fields in the order of their keys, {} KiB per \
         value and {} KiB in total",
        parts.join(" and "),
        VALUE >> 10,
        VALUES >> 10
    )
}

#[cfg(test)]
mod tests;

//! Changes a parsed tree: applies overrides and defaults.

use crate::{
    diagnostic::Place,
    node::{Entry, Kind, Node},
};

/// Sets `key` of a map to `value`. Does nothing when the node is no map.
pub(crate) fn put(map: &mut Node, key: &str, value: Node) {
    let Kind::Map(entries) = &mut map.kind else {
        return;
    };
    match entries.iter_mut().find(|entry| entry.key == key) {
        Some(entry) => entry.value = value,
        None => entries.push(Entry {
            key: key.to_owned(),
            key_place: value.place,
            value,
        }),
    }
}

/// Sets the field at a dotted path, and creates missing maps on the way.
///
/// # Errors
/// Why the path does not lead to a field.
pub(crate) fn set(root: &mut Node, path: &str, value: Node) -> Result<(), String> {
    let mut node = root;
    for step in path.split('.') {
        if step.is_empty() {
            return Err("the path has an empty part".to_owned());
        }
        if matches!(node.kind, Kind::Null) {
            node.kind = Kind::Map(Vec::new());
        }
        let what = node.what();
        node = match &mut node.kind {
            Kind::List(items) => {
                let length = items.len();
                step.parse::<usize>()
                    .ok()
                    .and_then(|index| items.get_mut(index))
                    .ok_or_else(|| {
                        format!("`{step}` is not an index of a list of {length} items")
                    })?
            }
            Kind::Map(entries) => {
                if !entries.iter().any(|entry| entry.key == step) {
                    let mut created = Node::synthetic(Kind::Null);
                    created.text = value.text;
                    entries.push(Entry {
                        key: step.to_owned(),
                        key_place: Place::default(),
                        value: created,
                    });
                }
                match entries.iter_mut().find(|entry| entry.key == step) {
                    Some(entry) => &mut entry.value,
                    None => return Err(format!("`{step}` could not be added")),
                }
            }
            _ => return Err(format!("{what} has no field `{step}`")),
        };
    }
    *node = value;
    Ok(())
}

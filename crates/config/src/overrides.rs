//! Changes to a tree that was read: overrides and defaults.

use crate::{
    diagnostic::Place,
    node::{Entry, Kind, Node},
};

/// Puts `value` under `key` of a map.
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

/// Changes the field at a dotted path, making maps on the way.
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
                    let mut made = Node::synthetic(Kind::Null);
                    made.text = value.text;
                    entries.push(Entry {
                        key: step.to_owned(),
                        key_place: Place::default(),
                        value: made,
                    });
                }
                match entries.iter_mut().find(|entry| entry.key == step) {
                    Some(entry) => &mut entry.value,
                    None => return Err(format!("`{step}` could not be added")),
                }
            }
            _ => return Err(format!("`{step}` cannot be in {what}")),
        };
    }
    *node = value;
    Ok(())
}

//! The objects and their history. No I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use bytes::Bytes;
use serde_json::Value;

use crate::selector::Selector;

/// The kinds of object that it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `pods`
    Pod,
    /// `nodes`
    Node,
    /// `namespaces`
    Namespace,
    /// `persistentvolumes`
    PersistentVolume,
    /// `persistentvolumeclaims`
    PersistentVolumeClaim,
}

impl Kind {
    /// The kind that a path names.
    #[must_use]
    pub fn from_plural(plural: &str) -> Option<Self> {
        Some(match plural {
            "pods" => Self::Pod,
            "nodes" => Self::Node,
            "namespaces" => Self::Namespace,
            "persistentvolumes" => Self::PersistentVolume,
            "persistentvolumeclaims" => Self::PersistentVolumeClaim,
            _ => return None,
        })
    }

    /// Its name in objects.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::PersistentVolume => "PersistentVolume",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
        }
    }
}

/// Kind, namespace and name.
pub(crate) type Key = (Kind, String, String);

/// What selectors match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    labels: BTreeMap<String, String>,
    fields: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
struct Stored {
    facts: Facts,
    bytes: Bytes,
}

#[derive(Debug, Clone)]
struct Change {
    version: u64,
    key: Key,
    /// Before and after; `None` where it did not exist.
    before: Option<Facts>,
    after: Option<Facts>,
    bytes: Bytes,
}

/// The parameters of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Selector,
    pub(crate) fields: Selector,
}

impl Query {
    fn selects(&self, key: &Key, facts: &Facts) -> bool {
        self.namespace.as_ref().is_none_or(|it| *it == key.1)
            && self.labels.matches(&facts.labels)
            && self.fields.matches(&facts.fields)
    }
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) items: Vec<Bytes>,
    /// The key of the last item, when there is more.
    pub(crate) last: Option<Key>,
    pub(crate) remaining: usize,
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchLine {
    pub(crate) verb: &'static str,
    pub(crate) bytes: Bytes,
}

/// A resource version is older than the history that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expired;

/// All objects, by kind, namespace and name, and the changes that watches can resume from.
#[derive(Debug)]
pub struct Store {
    version: u64,
    objects: BTreeMap<Key, Stored>,
    history: VecDeque<Change>,
    keep: usize,
    /// Watches can resume from this version on.
    oldest: u64,
}

impl Store {
    /// Returns an empty store that keeps this many changes.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        Self {
            version: 1,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            keep,
            oldest: 1,
        }
    }

    /// The newest resource version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Drops all changes: every watch that is behind has to list again.
    pub fn compact(&mut self) {
        self.history.clear();
        self.oldest = self.version;
    }

    /// Creates or replaces an object. Its resource version is set.
    pub fn put(&mut self, kind: Kind, mut object: Value) {
        self.version += 1;
        set_version(&mut object, self.version);
        let (key, facts) = (key(kind, &object), facts(&object));
        let bytes = encode(kind, object);
        let stored = Stored {
            facts: facts.clone(),
            bytes: bytes.clone(),
        };
        let before = self.objects.insert(key.clone(), stored);
        self.record_change(Change {
            version: self.version,
            key,
            before: before.map(|it| it.facts),
            after: Some(facts),
            bytes,
        });
    }

    /// Deletes an object, with its last state.
    pub fn delete(&mut self, kind: Kind, mut object: Value) {
        self.version += 1;
        set_version(&mut object, self.version);
        let key = key(kind, &object);
        let Some(before) = self.objects.remove(&key) else {
            return;
        };
        self.record_change(Change {
            version: self.version,
            key,
            before: Some(before.facts),
            after: None,
            bytes: encode(kind, object),
        });
    }

    /// The object of that name.
    pub(crate) fn get(&self, key: &Key) -> Option<Bytes> {
        self.objects.get(key).map(|it| it.bytes.clone())
    }

    /// A page of the selected objects, after the key `after`.
    pub(crate) fn list(
        &self,
        kind: Kind,
        query: &Query,
        after: Option<&Key>,
        limit: usize,
    ) -> Page {
        let first = (kind, String::new(), String::new());
        let from = after.map_or(Bound::Included(&first), Bound::Excluded);
        let mut selected = self
            .objects
            .range::<Key, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.0 == kind)
            .filter(|(key, stored)| query.selects(key, &stored.facts));
        let page: Vec<_> = selected.by_ref().take(limit).collect();
        let remaining = selected.count();
        Page {
            last: (remaining > 0)
                .then(|| page.last().map(|(key, _)| (*key).clone()))
                .flatten(),
            items: page
                .iter()
                .map(|(_, stored)| stored.bytes.clone())
                .collect(),
            remaining,
        }
    }

    /// The changes after `version` that a watch has to send.
    pub(crate) fn since(
        &self,
        kind: Kind,
        query: &Query,
        version: u64,
    ) -> Result<Vec<WatchLine>, Expired> {
        if version < self.oldest {
            return Err(Expired);
        }
        let from = self.history.partition_point(|it| it.version <= version);
        Ok(self
            .history
            .range(from..)
            .filter(|change| change.key.0 == kind)
            .filter_map(|change| {
                let selected = |facts: &Option<Facts>| {
                    facts
                        .as_ref()
                        .is_some_and(|facts| query.selects(&change.key, facts))
                };
                // For a watch, an object that leaves the selection is deleted.
                let verb = match (selected(&change.before), selected(&change.after)) {
                    (false, false) => return None,
                    (false, true) => "ADDED",
                    (true, true) => "MODIFIED",
                    (true, false) => "DELETED",
                };
                Some(WatchLine {
                    verb,
                    bytes: change.bytes.clone(),
                })
            })
            .collect())
    }

    /// Whether pages and watches of that version can still be served.
    pub(crate) fn has(&self, version: u64) -> bool {
        version >= self.oldest
    }

    fn record_change(&mut self, change: Change) {
        self.history.push_back(change);
        while self.history.len() > self.keep {
            if let Some(removed) = self.history.pop_front() {
                self.oldest = removed.version;
            }
        }
    }
}

fn set_version(object: &mut Value, version: u64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), version.to_string().into());
    }
}

/// The object as the server returns it, with `kind` and `apiVersion`.
fn encode(kind: Kind, mut object: Value) -> Bytes {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("kind".to_owned(), kind.name().into());
        fields.insert("apiVersion".to_owned(), "v1".into());
    }
    serde_json::to_vec(&object).unwrap_or_default().into()
}

fn text(object: &Value, pointer: &str) -> String {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn key(kind: Kind, object: &Value) -> Key {
    (
        kind,
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name"),
    )
}

fn facts(object: &Value) -> Facts {
    let labels = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .map(|labels| {
            labels
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        })
        .unwrap_or_default();
    let fields = [
        "metadata.name",
        "metadata.namespace",
        "status.phase",
        "spec.nodeName",
    ]
    .into_iter()
    .map(|field| {
        let pointer = format!("/{}", field.replace('.', "/"));
        (field.to_owned(), text(object, &pointer))
    })
    .collect();
    Facts { labels, fields }
}

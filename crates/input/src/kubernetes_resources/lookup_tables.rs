//! The values of tables that contents have, as they were at each moment.
//!
//! A mapping looks a value up by a key that is a field of the object. The value becomes part of the content, so that a
//! change of it divides the time of the objects that it concerns, and of no others.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use meterline_core::{Builder, Document, Node};
use meterline_ledger::UnixSeconds;
use meterline_script::{LOOKUP, Table, key_at};

use super::object::{BilledObject, WantedTable};

/// How many versions of one table are kept for objects that are observed later. Beyond that the oldest ones are
/// forgotten, and such an object has the oldest one that is left.
const MOST_VERSIONS: usize = 64;

#[derive(Debug)]
struct Versions {
    wanted: WantedTable,
    /// The values that restored contents have, by key; null for a key without one.
    remembered: HashMap<Box<str>, Document>,
    /// Oldest first. The first version counts for all time before the second.
    versions: Vec<(UnixSeconds, Arc<Table>)>,
}

impl Versions {
    fn at(&self, time: UnixSeconds) -> Option<&Table> {
        let later = self.versions.partition_point(|(since, _)| *since <= time);
        let version = self.versions.get(later.saturating_sub(1));
        version.map(|(_, table)| &**table)
    }

    /// The value of a key at a time; `None` if nothing is known of the key.
    fn value(&self, key: &str, time: UnixSeconds) -> Option<Option<Node<'_>>> {
        let value = match self.at(time) {
            Some(table) => table.get(key),
            None => Some(self.remembered.get(key.trim())?.root()),
        };
        Some(value.filter(|it| !it.is_null()))
    }
}

/// What was learned of a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TableChange {
    /// Whether nothing was known of it before: contents that have no values of it get those of all time.
    pub(super) is_first: bool,
    /// Since when it counts for contents that have other values.
    pub(super) since: UnixSeconds,
    /// Whether the oldest version was forgotten for it.
    pub(super) is_full: bool,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct LookupTables(Vec<Versions>);

impl LookupTables {
    /// Tables of which nothing is known yet.
    pub(super) fn new(wanted: &[WantedTable]) -> Self {
        let of = |wanted: &WantedTable| Versions {
            wanted: wanted.clone(),
            remembered: HashMap::new(),
            versions: Vec::new(),
        };
        Self(wanted.iter().map(of).collect())
    }

    /// Remembers the values that a restored content has.
    pub(super) fn remember(&mut self, content: &BilledObject) {
        let root = content.document.root();
        for known in &mut self.0 {
            let Some(values) = root.get(LOOKUP).and_then(|it| it.get(&known.wanted.name)) else {
                continue;
            };
            for place in &known.wanted.places {
                if let Some(key) = key_at(root, place) {
                    let value = values.get(place).map(Node::to_document);
                    let value = value.unwrap_or_else(|| Document::from(&serde_json::Value::Null));
                    known.remembered.insert(key.trim().into(), value);
                }
            }
        }
    }

    /// Whether the pipeline looks nothing up.
    pub(super) fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a content with its values at a time; `None` if it has them.
    pub(super) fn joined(&self, content: &BilledObject, time: UnixSeconds) -> Option<BilledObject> {
        self.replaced(content, |_| true, time)
    }

    /// The same for one table.
    pub(super) fn joined_of(
        &self,
        table: &str,
        content: &BilledObject,
        time: UnixSeconds,
    ) -> Option<BilledObject> {
        self.replaced(content, |it| *it == *table, time)
    }

    /// Returns a content with the values at a time of the tables that are selected; `None` if it has them.
    fn replaced(
        &self,
        content: &BilledObject,
        is_selected: impl Fn(&str) -> bool,
        time: UnixSeconds,
    ) -> Option<BilledObject> {
        if self.is_nothing() {
            return None;
        }
        let root = content.document.root();
        let before = root.get(LOOKUP);
        let mut builder = Builder::default();
        let open = builder.begin_object();
        for known in &self.0 {
            let name = &known.wanted.name;
            let present = before.and_then(|it| it.get(name));
            match (is_selected(name), present) {
                (false, Some(values)) => {
                    builder.key(name);
                    builder.push_raw(values);
                }
                (false, None) => {}
                (true, _) => push_values(known, root, time, &mut builder),
            }
        }
        builder.end(open);
        let values = builder.finish();
        let is_same = before.is_some_and(|it| it.raw() == values.root().raw());
        (!is_same).then(|| content.with_field(LOOKUP, Some(values.root())))
    }

    /// Whether a content has no values of a table, because nothing was known of it.
    pub(super) fn lacks(content: &BilledObject, table: &str) -> bool {
        let values = content.document.root().path(&[LOOKUP, table]);
        values.is_none()
    }

    /// The times after `from` at which tables changed, with the tables.
    pub(super) fn changes(&self, from: UnixSeconds) -> BTreeSet<(UnixSeconds, Arc<str>)> {
        let of = |it: &Versions| {
            let name = Arc::clone(&it.wanted.name);
            let later = it.versions.iter().skip(1).map(|(since, _)| *since);
            let later = later.filter(|since| *since > from);
            later
                .map(|since| (since, Arc::clone(&name)))
                .collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of).collect()
    }

    /// Learns what a table contains since `since`. Returns the change, unless it is what is known.
    pub(super) fn learn(
        &mut self,
        name: &str,
        table: Arc<Table>,
        since: UnixSeconds,
    ) -> Option<TableChange> {
        let known = self.0.iter_mut().find(|it| *it.wanted.name == *name)?;
        let Some((known_since, before)) = known.versions.last() else {
            if !known.remembered.is_empty() {
                // What restored contents have is what the table contained until then.
                let before = table.overlaid(std::mem::take(&mut known.remembered));
                known.versions.push((UnixSeconds::MIN, Arc::new(before)));
            }
            known.versions.push((since, table));
            return Some(TableChange {
                is_first: true,
                since,
                is_full: false,
            });
        };
        if *before == table {
            return None;
        }
        let since = since.max(*known_since);
        let is_full = known.versions.len() >= MOST_VERSIONS;
        if is_full {
            known.versions.remove(0);
        }
        known.versions.push((since, table));
        Some(TableChange {
            is_first: false,
            since,
            is_full,
        })
    }

    /// Forgets the versions that nothing before `watermark` needs.
    pub(super) fn forget(&mut self, watermark: UnixSeconds) {
        for Versions { versions, .. } in &mut self.0 {
            let later = versions.partition_point(|(since, _)| *since <= watermark);
            if later > 1 {
                versions.drain(..later - 1);
            }
        }
    }
}

/// Adds the values of one table for an object, unless nothing is known of the table.
fn push_values(known: &Versions, object: Node<'_>, time: UnixSeconds, builder: &mut Builder) {
    let places = known.wanted.places.iter();
    let keys = places.filter_map(|place| Some((place, key_at(object, place)?)));
    let values: Vec<_> = keys
        .map(|(place, key)| (place, known.value(key, time)))
        .collect();
    if known.versions.is_empty() && values.iter().any(|(_, value)| value.is_none()) {
        return;
    }
    builder.key(&known.wanted.name);
    let open = builder.begin_object();
    for (place, value) in values {
        if let Some(value) = value.flatten() {
            builder.key(place);
            builder.push_raw(value);
        }
    }
    builder.end(open);
}

/// Returns the values of a content as JSON.
#[cfg(test)]
pub(super) fn values_of(content: &BilledObject) -> serde_json::Value {
    let values = content.document.root().get(LOOKUP);
    values.map_or(serde_json::Value::Null, Node::to_value)
}

#[cfg(test)]
mod tests {
    use meterline_script::TableFormat;
    use serde_json::json;

    use super::*;

    fn table(json: &serde_json::Value) -> Arc<Table> {
        Arc::new(Table::parse(TableFormat::Json, &json.to_string()).unwrap())
    }

    fn tables() -> LookupTables {
        let wanted = |name: &str, places: &[&str]| WantedTable {
            name: name.into(),
            places: places.iter().map(|it| (*it).into()).collect(),
        };
        LookupTables::new(&[
            wanted("customers", &["metadata.namespace", "=all"]),
            wanted("prices", &["spec.class"]),
        ])
    }

    fn object(namespace: &str) -> BilledObject {
        let object = json!({"metadata": {"namespace": namespace}, "spec": {"class": "fast"}});
        BilledObject::from(Document::from(&object))
    }

    fn customer(tables: &LookupTables, at: UnixSeconds) -> serde_json::Value {
        let content = tables.joined(&object("a"), at).unwrap();
        values_of(&content)["customers"]["metadata.namespace"].clone()
    }

    fn change(is_first: bool, since: UnixSeconds) -> Option<TableChange> {
        Some(TableChange {
            is_first,
            since,
            is_full: false,
        })
    }

    #[test]
    fn a_content_has_the_values_of_its_time() {
        let mut tables = tables();
        assert_eq!(customer(&tables, 5), json!(null));
        let first = table(&json!({"a": "acme", "all": 1}));
        let learned = tables.learn("customers", Arc::clone(&first), 10);
        assert_eq!(learned, change(true, 10));
        assert_eq!(tables.learn("customers", first, 15), None);
        let second = table(&json!({"a": "globex"}));
        let learned = tables.learn("customers", second, 20);
        assert_eq!(learned, change(false, 20));
        tables.learn("prices", table(&json!({"f*": 3})), 12);
        let all = [5, 19, 20, 99].map(|at| customer(&tables, at));
        assert_eq!(
            all,
            ["acme", "acme", "globex", "globex"].map(|it| json!(it))
        );
        let content = tables.joined(&object("a"), 12).unwrap();
        assert_eq!(
            values_of(&content),
            json!({"customers": {"metadata.namespace": "acme", "=all": 1}, "prices": {"spec.class": 3}})
        );
        assert!(tables.joined(&content, 13).is_none(), "it has them");
        let changed = tables.joined_of("prices", &content, 99);
        assert!(changed.is_none(), "the other table is not looked at");
        let changed = tables.joined_of("customers", &content, 99).unwrap();
        assert_eq!(
            values_of(&changed)["customers"],
            json!({"metadata.namespace": "globex"})
        );
        assert_eq!(
            tables.changes(5).into_iter().collect::<Vec<_>>(),
            [(20, "customers".into())]
        );
        assert!(tables.changes(20).is_empty());
        tables.forget(20);
        assert_eq!(
            customer(&tables, 5),
            json!("globex"),
            "nothing needs it any more"
        );
    }

    #[test]
    fn an_unknown_key_has_no_value_and_an_unknown_table_is_lacking() {
        let mut tables = tables();
        tables.learn("customers", table(&json!({"a": "acme"})), 10);
        let content = tables.joined(&object("b"), 10).unwrap();
        assert_eq!(values_of(&content), json!({"customers": {}}));
        assert!(LookupTables::lacks(&content, "prices"));
        assert!(!LookupTables::lacks(&content, "customers"));
        let nothing = LookupTables::default();
        assert!(nothing.is_nothing() && nothing.joined(&object("a"), 1).is_none());
    }

    #[test]
    fn what_restored_contents_have_counts_until_the_table_says_otherwise() {
        let mut before = tables();
        before.learn("customers", table(&json!({"a": "acme", "all": 1})), 10);
        let restored = before.joined(&object("a"), 10).unwrap();
        let mut tables = tables();
        tables.remember(&restored);
        let observed = tables.joined(&object("a"), 50).unwrap();
        assert_eq!(values_of(&observed), values_of(&restored));
        let unknown = tables.joined(&object("new"), 50).unwrap();
        assert!(LookupTables::lacks(&unknown, "customers"));
        let now = table(&json!({"a": "globex", "new": "initech"}));
        assert_eq!(tables.learn("customers", now, 40), change(true, 40));
        let all = [5, 39, 40].map(|at| customer(&tables, at));
        assert_eq!(all, ["acme", "acme", "globex"].map(|it| json!(it)));
        let values = |at| values_of(&tables.joined(&object("new"), at).unwrap());
        assert_eq!(
            values(5)["customers"],
            json!({"metadata.namespace": "initech", "=all": 1})
        );
        assert_eq!(
            values(40)["customers"],
            json!({"metadata.namespace": "initech"})
        );
    }

    #[test]
    fn versions_are_bounded() {
        let mut tables = tables();
        for at in 0..100 {
            let learned = tables.learn("customers", table(&json!({"a": at})), at);
            assert_eq!(learned.map(|it| it.is_full), Some(at >= 64));
        }
        assert_eq!(customer(&tables, 99), json!(99));
        assert_eq!(customer(&tables, 0), json!(36));
    }
}

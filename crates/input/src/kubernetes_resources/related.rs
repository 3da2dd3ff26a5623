//! Metadata of the namespaces, nodes and controllers that objects belong to, as it was at each moment.
//!
//! A value that a mapping reads belongs to the content of each object that it concerns, so that a change divides the
//! time of these objects. Changes of other objects and of the objects themselves arrive on different watches, so the
//! versions that a window may still need are kept.
//!
//! Controllers differ from namespaces and nodes in that tenants make and delete them. So what is kept of them is
//! bounded, and forgotten when they are gone; an object that has the metadata of one keeps it.

mod controllers;

use std::collections::{BTreeSet, HashMap};

use meterline_core::{Document, Node, Reads};
use meterline_ledger::{Content as _, Uid, UnixSeconds};
use meterline_script::Relation;

pub(super) use self::controllers::Controller;
use self::controllers::Controllers;
use super::object::{BilledObject, metadata};

/// How many versions of the metadata of one object are kept. An outage of hours with a change each second needs fewer;
/// beyond that the oldest ones are forgotten, and an object that is first observed later has the oldest one that is
/// left.
const MOST_VERSIONS: usize = 16_384;
/// How many versions of the metadata of a controller are kept, and how many bytes of them besides the last one.
const MOST_OF_CONTROLLER: (usize, usize) = (256, 128 << 10);

/// The metadata of one object, oldest first. The first version counts for all time before the second.
#[derive(Debug, Default)]
struct Versions(Vec<(UnixSeconds, Document)>);

impl Versions {
    /// The metadata at a time.
    fn at(&self, time: UnixSeconds) -> Option<&Document> {
        let later = self.0.partition_point(|(since, _)| *since <= time);
        self.0
            .get(later.saturating_sub(1))
            .map(|(_, document)| document)
    }

    fn latest(&self) -> Option<&(UnixSeconds, Document)> {
        self.0.last()
    }

    fn bytes(&self) -> usize {
        let sizes = self.0.iter().map(|(_, document)| document.size());
        sizes.fold(0, usize::saturating_add)
    }

    /// Forgets the oldest versions before another one is added. Returns how many these are.
    fn make_room(&mut self, relation: Relation) -> usize {
        let (versions, bytes) = match relation {
            Relation::Owner => (MOST_OF_CONTROLLER.0, Some(MOST_OF_CONTROLLER.1)),
            Relation::Namespace | Relation::Node => (MOST_VERSIONS, None),
        };
        let mut forgotten = 0;
        while self.0.len() >= versions || bytes.is_some_and(|most| self.bytes() > most) {
            self.0.remove(0);
            forgotten += 1;
        }
        forgotten
    }
}

/// What was learned of the metadata of an object.
#[derive(Debug, PartialEq)]
pub(super) struct RelatedChange {
    /// Since when it counts for objects that already have an earlier version.
    pub(super) since: UnixSeconds,
    pub(super) metadata: Document,
    /// How many older versions were forgotten for it.
    pub(super) forgotten: usize,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct RelatedObjects {
    /// What is read, by relation.
    reads: Vec<(Relation, Reads)>,
    known: HashMap<(Relation, Box<str>), Versions>,
    controllers: Controllers,
    /// Whether there may be controllers that no watch has seen.
    has_remembered: bool,
}

impl RelatedObjects {
    pub(super) fn new(reads: Vec<(Relation, Reads)>) -> Self {
        Self {
            reads,
            known: HashMap::new(),
            controllers: Controllers::default(),
            has_remembered: false,
        }
    }

    /// Remembers the metadata that a restored content has.
    pub(super) fn remember(&mut self, content: &BilledObject) {
        for (relation, _) in &self.reads {
            if let (Some(name), Some(metadata)) =
                (content.name_of(*relation), content.metadata_of(*relation))
            {
                let versions = self.known.entry((*relation, name.into())).or_default();
                if versions.0.is_empty() {
                    versions.0.push((UnixSeconds::MIN, metadata));
                }
            }
        }
        self.has_remembered = true;
    }

    /// Whether nothing of other objects is read.
    pub(super) fn is_nothing(&self) -> bool {
        self.reads.is_empty()
    }

    /// The relations of which something is read.
    fn relations(&self) -> impl Iterator<Item = Relation> {
        self.reads.iter().map(|(relation, _)| *relation)
    }

    fn versions(&self, content: &BilledObject, relation: Relation) -> Option<&Versions> {
        let name = content.name_of(relation)?;
        self.known.get(&(relation, name.into()))
    }

    /// Returns a content with the metadata of the other objects at a time.
    pub(super) fn joined(&self, mut content: BilledObject, time: UnixSeconds) -> BilledObject {
        for relation in self.relations() {
            let versions = self.versions(&content, relation);
            if let Some(metadata) = versions.and_then(|it| it.at(time)) {
                content = content.with_related(relation, Some(metadata.root()));
            }
        }
        content
    }

    /// The times after `from` at which the metadata of the other objects of a content changed.
    pub(super) fn changes(&self, content: &BilledObject, from: UnixSeconds) -> Vec<UnixSeconds> {
        let versions = self
            .relations()
            .filter_map(|it| self.versions(content, it))
            .flat_map(|it| it.0.iter().skip(1));
        let times: BTreeSet<_> = versions
            .map(|(since, _)| *since)
            .filter(|since| *since > from)
            .collect();
        times.into_iter().collect()
    }

    /// Learns the metadata of an object, which is as it is since `since`. Returns the change, unless nothing that
    /// is read changed.
    pub(super) fn learn(
        &mut self,
        (relation, name): (Relation, &str),
        object: Node<'_>,
        since: UnixSeconds,
    ) -> Option<RelatedChange> {
        let (_, reads) = self.reads.iter().find(|(it, _)| *it == relation)?;
        let metadata = metadata(name, object).project(reads);
        let versions = self.known.entry((relation, name.into())).or_default();
        let since = match versions.latest() {
            None => UnixSeconds::MIN,
            Some((_, known)) if *known == metadata => return None,
            // The labels of a node come after the node, and after the first pods on it: what is added was true
            // before.
            Some((known_since, known))
                if relation == Relation::Node && is_extended(known, &metadata) =>
            {
                let since = *known_since;
                versions.0.pop();
                since
            }
            // Two changes have the order in which they are seen.
            Some((known_since, _)) => since.max(*known_since),
        };
        let forgotten = versions.make_room(relation);
        versions.0.push((since, metadata.clone()));
        Some(RelatedChange {
            since,
            metadata,
            forgotten,
        })
    }

    /// Learns the metadata of a controller, as [`Self::learn`] does. What has its first version for all time is only
    /// what has none: another controller may have had its name before.
    pub(super) fn learn_controller(
        &mut self,
        controller: Controller<'_>,
        object: Node<'_>,
        since: UnixSeconds,
    ) -> Option<RelatedChange> {
        let is_news = self.controllers.exists(controller);
        let of = (Relation::Owner, controller.key);
        is_news.then(|| self.learn(of, object, since)).flatten()
    }

    /// A controller is gone since `at`. Returns its namespace, and how many there are forgotten before it is known that
    /// nothing needs them any more.
    pub(super) fn controller_gone(
        &mut self,
        uid: &str,
        at: UnixSeconds,
    ) -> Option<(Box<str>, usize)> {
        let key = self.controllers.gone(uid, at)?;
        let versions = self.known.get(&(Relation::Owner, key.clone()));
        let bytes = versions.map_or(0, Versions::bytes);
        let forgotten = self.controllers.keep(&key, at, bytes);
        let count = forgotten.len();
        self.drop_controllers(forgotten);
        Some((controllers::namespace(&key).into(), count))
    }

    fn drop_controllers(&mut self, keys: Vec<Box<str>>) {
        for key in keys {
            self.known.remove(&(Relation::Owner, key));
        }
    }

    /// Every watch has listed what exists: controllers that were not in any list are gone, and what has their metadata
    /// keeps it.
    pub(super) fn all_listed(&mut self) {
        if std::mem::take(&mut self.has_remembered) {
            let controllers = &self.controllers;
            self.known.retain(|(relation, key), _| {
                *relation != Relation::Owner || controllers.is_known(key)
            });
        }
    }

    /// An object has this content, and `before` was the key of its controller. `exists` tells which objects are still known.
    pub(super) fn belongs(
        &mut self,
        uid: &Uid,
        content: &BilledObject,
        before: Option<&str>,
        exists: impl Fn(&str) -> bool,
    ) {
        if let Some(key) = content.name_of(Relation::Owner)
            && before != Some(key)
        {
            self.controllers.has(key, uid, exists);
        }
    }

    /// Whether the metadata of a controller is kept.
    #[cfg(test)]
    pub(super) fn knows_controller(&self, key: &str) -> bool {
        self.known.contains_key(&(Relation::Owner, key.into()))
    }

    /// The objects that a controller made.
    pub(super) fn made_by(&self, key: &str) -> Vec<Uid> {
        self.controllers.pods(key)
    }

    /// Returns a content with the metadata that the one before it had of the same controller, if the controller is
    /// forgotten.
    pub(super) fn inherited(&self, content: BilledObject, before: &BilledObject) -> BilledObject {
        let key = content.name_of(Relation::Owner);
        let is_forgotten = key.is_some()
            && content.metadata_of(Relation::Owner).is_none()
            && key == before.name_of(Relation::Owner)
            && !before.is_partial();
        match before.metadata_of(Relation::Owner).filter(|_| is_forgotten) {
            Some(metadata) => content.with_related(Relation::Owner, Some(metadata.root())),
            None => content,
        }
    }

    /// Forgets the versions that nothing before `watermark` needs.
    pub(super) fn forget(&mut self, watermark: UnixSeconds) {
        let gone = self.controllers.forget(watermark);
        self.drop_controllers(gone);
        for versions in self.known.values_mut() {
            let later = versions.0.partition_point(|(since, _)| *since <= watermark);
            if later > 1 {
                versions.0.drain(..later - 1);
            }
        }
    }
}

/// Whether `after` has all labels and annotations of `before` unchanged, and more.
fn is_extended(before: &Document, after: &Document) -> bool {
    ["annotations", "labels"].iter().all(|key| {
        let (before, after) = (before.root().get(key), after.root().get(key));
        let mut fields = before.into_iter().flat_map(Node::entries);
        fields.all(|(name, value)| {
            let now = after.and_then(|it| it.get(name));
            now.map(Node::raw) == Some(value.raw())
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn related() -> RelatedObjects {
        let reads = Reads::of(&["labels.customer", "labels.tier"]);
        RelatedObjects::new(vec![
            (Relation::Namespace, reads.clone()),
            (Relation::Node, reads),
        ])
    }

    fn pod() -> BilledObject {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "m"}});
        BilledObject::from(Document::from(&pod))
    }

    fn learn(
        related: &mut RelatedObjects,
        (relation, name): (Relation, &str),
        labels: serde_json::Value,
        since: i64,
    ) -> Option<i64> {
        let object = Document::from(&json!({"metadata": {"labels": labels}}));
        let change = related.learn((relation, name), object.root(), since);
        change.map(|it| it.since)
    }

    fn customer(related: &RelatedObjects, at: i64) -> serde_json::Value {
        let content = related.joined(pod(), at);
        let metadata = content.related(Relation::Namespace);
        metadata.map_or(json!(null), |it| {
            it.to_value()["labels"]["customer"].clone()
        })
    }

    #[test]
    fn a_content_has_the_metadata_of_its_time() {
        let mut related = related();
        let namespace = (Relation::Namespace, "n");
        assert_eq!(customer(&related, 5), json!(null));
        let first = learn(&mut related, namespace, json!({"customer": "a"}), 10);
        assert_eq!(
            first,
            Some(i64::MIN),
            "the first version counts for all time"
        );
        assert_eq!(
            learn(
                &mut related,
                namespace,
                json!({"customer": "a", "x": "y"}),
                15
            ),
            None
        );
        assert_eq!(
            learn(&mut related, namespace, json!({"customer": "b"}), 20),
            Some(20)
        );
        // Its time was written by another clock.
        assert_eq!(
            learn(&mut related, namespace, json!({"customer": "c"}), 19),
            Some(20)
        );
        learn(
            &mut related,
            (Relation::Namespace, "other"),
            json!({"customer": "z"}),
            1,
        );
        let all = [5, 19, 20, 99].map(|at| customer(&related, at));
        assert_eq!(all, ["a", "a", "c", "c"].map(|it| json!(it)));
        assert_eq!(related.changes(&pod(), 5), [20]);
        assert_eq!(related.changes(&pod(), 20), [0; 0]);
        related.forget(20);
        assert_eq!(
            customer(&related, 5),
            json!("c"),
            "nothing needs it any more"
        );
    }

    #[test]
    fn what_is_added_to_a_node_was_true_before() {
        let mut related = related();
        let node = (Relation::Node, "m");
        assert_eq!(learn(&mut related, node, json!({}), 10), Some(i64::MIN));
        let added = learn(&mut related, node, json!({"tier": "gpu"}), 20);
        assert_eq!(added, Some(i64::MIN));
        assert_eq!(
            learn(&mut related, node, json!({"tier": "cpu"}), 30),
            Some(30)
        );
        assert_eq!(related.changes(&pod(), 5), [30]);
        let content = related.joined(pod(), 12);
        let node = content.related(Relation::Node).unwrap().to_value();
        assert_eq!(node, json!({"labels": {"tier": "gpu"}}));
    }

    /// A content of a pod of a Deployment, with what is read of its labels.
    fn owned(labels: Option<serde_json::Value>) -> BilledObject {
        let mut content =
            json!({"owner_key()": "n/Deployment/web", "owner()": {"kind": "Deployment"}});
        if let Some(labels) = labels {
            content["owner()"]["labels"] = labels;
        }
        BilledObject::from(Document::from(&content))
    }

    fn of_controllers() -> RelatedObjects {
        RelatedObjects::new(vec![(Relation::Owner, Reads::of(&["labels.team"]))])
    }

    fn learn_controller(related: &mut RelatedObjects, team: &str, since: i64) -> RelatedChange {
        let object = Document::from(&json!({"metadata": {"labels": {"team": team}}}));
        let of = Controller {
            uid: &"u".into(),
            key: "n/Deployment/web",
            created: 1,
        };
        let change = related.learn_controller(of, object.root(), since);
        change.unwrap()
    }

    #[test]
    fn what_is_restored_of_a_controller_counts_until_every_watch_has_listed() {
        let mut related = of_controllers();
        related.remember(&owned(None));
        assert!(!related.knows_controller("n/Deployment/web"));
        related.remember(&owned(Some(json!({"team": "red"}))));
        let owner = related.joined(owned(None), 5);
        let owner = owner.related(Relation::Owner).unwrap().to_value();
        assert_eq!(
            owner,
            json!({"kind": "Deployment", "labels": {"team": "red"}})
        );
        // The list shows what it became meanwhile.
        assert_eq!(learn_controller(&mut related, "blue", 20).since, 20);
        related.all_listed();
        assert!(related.knows_controller("n/Deployment/web"));

        let mut related = of_controllers();
        related.remember(&owned(Some(json!({"team": "red"}))));
        related.all_listed();
        assert!(
            !related.knows_controller("n/Deployment/web"),
            "no list shows it"
        );
    }

    #[test]
    fn a_content_inherits_only_of_the_same_controller_and_only_what_is_forgotten() {
        let related = of_controllers();
        let before = owned(Some(json!({"team": "red"})));
        let team = |content: &BilledObject| {
            let metadata = content.metadata_of(Relation::Owner);
            metadata.map(|it| it.root().to_value()["labels"]["team"].clone())
        };
        let inherited = related.inherited(owned(None), &before);
        assert_eq!(team(&inherited), Some(json!("red")));
        let other = before.with_field("owner_key()", None);
        assert_eq!(team(&related.inherited(owned(None), &other)), None);
        let known = owned(Some(json!({"team": "blue"})));
        assert_eq!(
            team(&related.inherited(known, &before)),
            Some(json!("blue"))
        );
    }

    #[test]
    fn versions_of_a_controller_are_bounded_and_those_that_are_forgotten_are_counted() {
        let mut related = of_controllers();
        let forgotten =
            (0..300).map(|at| learn_controller(&mut related, &at.to_string(), at).forgotten);
        let forgotten: usize = forgotten.sum();
        assert_eq!(forgotten, 300 - MOST_OF_CONTROLLER.0);
        let long = |at: i64| format!("{at} {}", "x".repeat(50 << 10));
        let changes = (300..310).map(|at| learn_controller(&mut related, &long(at), at));
        assert!(changes.map(|it| it.forgotten).sum::<usize>() > 250);
        let versions = &related.known[&(Relation::Owner, "n/Deployment/web".into())];
        assert!((2..=4).contains(&versions.0.len()), "{}", versions.0.len());
    }

    #[test]
    fn versions_are_bounded() {
        let mut related = related();
        for at in 0..20_000 {
            let labels = json!({"customer": at.to_string()});
            learn(&mut related, (Relation::Namespace, "n"), labels, at);
        }
        let known = &related.known[&(Relation::Namespace, "n".into())];
        assert_eq!(known.0.len(), MOST_VERSIONS);
        assert_eq!(customer(&related, 19_990), json!("19990"));
    }
}

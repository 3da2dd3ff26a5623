//! What all watches of one input use together.

use std::sync::Arc;

use meterline_core::{Health, Metrics, Node, Reads};
use meterline_ledger::{Content as _, Observation};
use meterline_script::{Relation, SliceReads};

use super::{client::Wanted, view::Change, warnings::WatchWarnings};
use crate::kubernetes_resources::{
    budgets::Budgets,
    ledger::SharedLedger,
    metrics::LedgerReport,
    object::{BilledObject, Projection, controller_key},
    options::Options,
    related::Controller,
    resource_type::ResourceType,
};

/// What all watches of one input use together.
pub(crate) struct Watched {
    pub(crate) options: Options,
    /// What the watched objects are to those that are billed; `None` if they are billed themselves.
    pub(crate) relation: Option<Relation>,
    pub(crate) ledger: Arc<SharedLedger>,
    pub(crate) report: Arc<LedgerReport>,
    pub(crate) warnings: Arc<WatchWarnings>,
    pub(crate) budgets: Arc<Budgets>,
}

impl Watched {
    /// Of the input `label`.
    pub(crate) fn new(
        options: Options,
        ledger: Arc<SharedLedger>,
        report: Arc<LedgerReport>,
        health: &Health,
        metrics: &Metrics,
        label: &str,
    ) -> Self {
        let health = health.register(format!("watches {label}"));
        Self {
            options,
            relation: None,
            ledger,
            report,
            warnings: Arc::new(WatchWarnings::new(health, metrics, label)),
            budgets: Arc::new(Budgets::new(metrics, label)),
        }
    }

    /// The same for the watch of other objects, of whose metadata this is read.
    pub(crate) fn of_related(
        &self,
        relation: Relation,
        resource_type: ResourceType,
        reads: &Reads,
    ) -> Self {
        Self {
            options: Options {
                resource_type,
                projection: Arc::new(Projection::of_related(reads, resource_type)),
                label_selector: None,
                ..self.options.clone()
            },
            relation: Some(relation),
            ledger: Arc::clone(&self.ledger),
            report: Arc::clone(&self.report),
            warnings: Arc::clone(&self.warnings),
            budgets: Arc::clone(&self.budgets),
        }
    }

    /// The same for the watch of slices, of whose devices this is read.
    pub(crate) fn of_slices(&self, reads: &SliceReads) -> Self {
        Self {
            options: Options {
                resource_type: ResourceType::ResourceSlice,
                projection: Arc::new(Projection::of_slices(reads)),
                label_selector: None,
                ..self.options.clone()
            },
            relation: None,
            ledger: Arc::clone(&self.ledger),
            report: Arc::clone(&self.report),
            warnings: Arc::clone(&self.warnings),
            budgets: Arc::clone(&self.budgets),
        }
    }

    /// What is requested of objects.
    pub(crate) fn wanted(&self) -> Wanted {
        match self.relation {
            Some(Relation::Namespace | Relation::Node | Relation::Owner) => Wanted::Metadata,
            None => Wanted::Objects,
        }
    }

    /// A watch of controllers saw one.
    fn controller_seen(&self, observation: &Observation<BilledObject>) {
        let Self {
            ledger, budgets, ..
        } = self;
        let (uid, content) = (&observation.uid, &observation.content);
        budgets.came(uid, content);
        let object = content.document.root();
        let name = object.path(&["metadata", "name"]).and_then(Node::as_str);
        let (namespace, name) = (content.owner(), name.unwrap_or_default());
        let key = controller_key(self.options.resource_type, namespace, name, uid);
        let now = observation.observed_at;
        let since = observation.content_since.unwrap_or(now);
        let controller = Controller {
            uid,
            key: &key,
            created: observation.start.unwrap_or(now),
        };
        let amended = ledger.controller(controller, object, (since, now));
        budgets.forgot(namespace, amended.forgotten);
        for (owner, waiting) in amended.divided {
            budgets.waits(&owner, waiting);
        }
    }

    /// Applies a change that a watch saw to the ledger.
    pub(crate) fn apply(&self, watch: &Arc<str>, change: Change) {
        let Self {
            ledger,
            report,
            budgets,
            ..
        } = self;
        let is_slice = self.options.resource_type == ResourceType::ResourceSlice;
        match change {
            Change::Observed(observation) if self.relation == Some(Relation::Owner) => {
                self.controller_seen(&observation);
            }
            Change::Deleted { uid, at } | Change::Vanished { uid, now: at, .. }
                if self.relation == Some(Relation::Owner) =>
            {
                if let Some((namespace, forgotten)) = ledger.controller_gone(&uid, at) {
                    budgets.forgot(&namespace, forgotten);
                }
            }
            Change::Observed(observation) if is_slice => {
                let slice = observation.content.document.root();
                for (owner, waiting) in ledger.slice(&observation.uid, slice) {
                    budgets.waits(&owner, waiting);
                }
            }
            Change::Deleted { uid, .. } | Change::Vanished { uid, .. } if is_slice => {
                ledger.slice_gone(&uid);
            }
            Change::Observed(observation) if let Some(relation) = self.relation => {
                let now = observation.observed_at;
                let object = observation.content.document.root();
                let name = object.path(&["metadata", "name"]).and_then(Node::as_str);
                let since = observation.content_since.unwrap_or(now);
                let name = (relation, name.unwrap_or_default());
                for (owner, waiting) in ledger.related(name, object, (since, now)) {
                    budgets.waits(&owner, waiting);
                }
            }
            // The last value of an object that is gone counts for those that it leaves.
            Change::Deleted { .. } | Change::Vanished { .. } if self.relation.is_some() => {}
            Change::Observed(observation) => {
                let content = &observation.content;
                budgets.came(&observation.uid, content);
                let owner = content.owner().to_owned();
                budgets.waits(&owner, ledger.observe(observation));
            }
            Change::Deleted { uid, at } => ledger.deleted(&uid, at),
            Change::Vanished { uid, seen, now } => ledger.vanished(&uid, seen, now),
            Change::SeenVersion(version) => ledger.seen_version(watch, version),
            Change::Synced(is_synced) => {
                let is_complete = ledger.synced(watch, is_synced);
                if is_synced {
                    report.watch_synced(watch, is_complete);
                }
            }
            Change::Alive(at) => ledger.alive(watch, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::Document;
    use meterline_ledger::Uid;
    use serde_json::json;

    use super::*;
    use crate::kubernetes_resources::{
        testing::{Parts, WATCH, observation, options},
        watch::Cluster,
    };

    #[test]
    fn slices_describe_the_devices_of_claims_and_are_not_billed() {
        use meterline_core::Document;
        use meterline_ledger::Observation;
        use serde_json::json;

        use crate::kubernetes_resources::object::BilledObject;

        let mut options = options(Cluster::default());
        let reads = [
            "claim_devices()",
            "device_attributes().gpu~1nvidia~1com.productName",
            "status.allocation.devices.results",
        ];
        options.resource_type = ResourceType::ResourceClaim;
        options.projection = Arc::new(Projection::of(
            &Reads::of(&reads),
            ResourceType::ResourceClaim,
        ));
        let parts = Parts::new(options, 0);
        let claims = parts.watched();
        let slices = claims.of_slices(parts.options.projection.slices.as_ref().unwrap());
        assert_eq!(slices.wanted(), Wanted::Objects);
        let watch: Arc<str> = WATCH.into();
        let seen = |uid: &str, object: serde_json::Value| {
            Change::Observed(Observation {
                content: BilledObject::from(Document::from(&object)),
                ..observation(uid, 1, None)
            })
        };
        let device = json!({"name": "0", "attributes": {"productName": {"string": "A100"}}});
        let spec = json!({"driver": "gpu.nvidia.com", "pool": {"name": "n", "generation": 1},
            "devices": [device]});
        slices.apply(&watch, seen("s", json!({"spec": spec})));
        let result = json!({"driver": "gpu.nvidia.com", "pool": "n", "device": "0"});
        let status = json!({"allocation": {"devices": {"results": [result]}}});
        let product = |uid: &str| {
            claims.apply(&watch, seen(uid, json!({"status": status})));
            let content = parts.ledger.with_ledger(|it| it.content(uid).cloned());
            let content = content.unwrap().document.root().to_value();
            content["claim_devices()"][0]["attributes"]["productName"].clone()
        };
        assert_eq!(product("a"), "A100");
        let (uid, at) = ("s".into(), 5);
        slices.apply(&watch, Change::Deleted { uid, at });
        assert_eq!(product("b"), json!(null));
        assert_eq!(product("a"), "A100");
        let existing = parts.ledger.with_ledger(|it| it.existing().count());
        assert_eq!(existing, 2);
    }

    #[test]
    fn changes_reach_the_ledger_and_a_complete_view_is_ready() {
        let parts = Parts::new(options(Cluster::default()), 0);
        let watched = parts.watched();
        let watch: Arc<str> = WATCH.into();
        let apply = |change| watched.apply(&watch, change);
        apply(Change::Observed(observation("a", 1, None)));
        apply(Change::Observed(observation("b", 1, None)));
        apply(Change::Observed(observation("c", 1, None)));
        apply(Change::SeenVersion(7));
        assert_eq!(parts.existing(), ["a", "b", "c"]);
        assert!(!parts.ready("input x").0);
        apply(Change::Synced(true));
        assert!(parts.ready("input x").0);
        apply(Change::Alive(20));
        assert_eq!(parts.ledger.complete_until(), Some(20));
        let at = 5;
        apply(Change::Deleted {
            uid: "a".into(),
            at,
        });
        let (seen, now) = (4, 9);
        let uid = "b".into();
        apply(Change::Vanished { uid, seen, now });
        assert_eq!(parts.existing(), ["c"]);
        let (.., seen) = parts.ledger.take_changes(false);
        assert_eq!((seen.at, seen.versions[&watch]), (20, 7));
        apply(Change::Synced(false));
        assert_eq!(parts.ledger.complete_until(), None);
    }

    #[test]
    fn what_a_watch_of_controllers_sees_belongs_to_their_pods() {
        let mut options = options(Cluster::default());
        let reads = Reads::of(&["owner().labels.team"]);
        options.projection = Arc::new(Projection::of(&reads, ResourceType::Pod));
        let parts = Parts::new(options, 0);
        let pods = parts.watched();
        let (relation, reads) = &parts.options.projection.related[0];
        let sets = pods.of_related(*relation, ResourceType::StatefulSet, reads);
        assert!(sets.wanted() == Wanted::Metadata && pods.wanted() == Wanted::Objects);
        let watch: Arc<str> = WATCH.into();
        let mut pod = observation("a", 1, None);
        let metadata = json!({"namespace": "n", "ownerReferences": [{"apiVersion": "apps/v1",
            "kind": "StatefulSet", "name": "db", "uid": "s", "controller": true}]});
        let metadata = Document::from(&metadata);
        let document = pod
            .content
            .document
            .with_field("metadata", Some(metadata.root()));
        pod.content = BilledObject::of(&document, &parts.options.projection);
        pods.apply(&watch, Change::Observed(pod));
        let seen = |team: &str, since: i64| {
            let mut seen = observation("s", since, None);
            let set =
                json!({"metadata": {"name": "db", "namespace": "n", "labels": {"team": team}}});
            seen.content = BilledObject::of(&Document::from(&set), &sets.options.projection);
            seen.content_since = Some(since);
            sets.apply(&watch, Change::Observed(seen));
        };
        let teams = || -> Vec<String> {
            parts.ledger.with_ledger(|ledger| {
                let contents = ledger.newest_of_all();
                let team = |(_, content): (&_, &BilledObject)| {
                    let owner = content.related(Relation::Owner)?.path(&["labels", "team"]);
                    owner?.as_str().map(ToOwned::to_owned)
                };
                contents.filter_map(team).collect()
            })
        };
        assert_eq!(teams(), [""; 0]);
        seen("red", 5);
        assert_eq!(teams(), ["red"]);
        seen("blue", 8);
        assert_eq!(teams(), ["blue"]);
        let (uid, at): (Uid, _) = ("s".into(), 9);
        sets.apply(&watch, Change::Deleted { uid, at });
        assert_eq!(
            teams(),
            ["blue"],
            "the last value counts for what it leaves"
        );
        assert_eq!(parts.existing(), ["a"]);
        assert_eq!(parts.metric("kubernetes_controllers_forgotten"), 0.0);
    }
}

//! What the ledger learns of the controllers that made the objects that are billed.
//!
//! A controller concerns the objects that it made alone, which are known by its key: tenants make controllers by the
//! thousand, and each of them must not cost a look at every object.

use std::sync::Arc;

use meterline_core::Node;
use meterline_ledger::{Budget, Ledger, Observation, Uid, UnixSeconds, Waiting};
use meterline_script::Relation;

use super::{SharedLedger, State};
use crate::kubernetes_resources::{object::BilledObject, related::Controller};

/// What followed from the metadata of a controller.
#[derive(Debug, Default)]
pub(in crate::kubernetes_resources) struct Amended {
    /// The effect of the budgets on the objects whose time it divided, with their owners.
    pub(in crate::kubernetes_resources) divided: Vec<(Arc<str>, Waiting)>,
    /// How many older versions of the metadata were forgotten.
    pub(in crate::kubernetes_resources) forgotten: usize,
}

/// The effect of the budgets on objects, with their owners.
pub(super) fn with_owners(
    ledger: &Ledger<BilledObject>,
    divided: Vec<(Uid, Waiting)>,
) -> Vec<(Arc<str>, Waiting)> {
    let divided = divided.into_iter();
    divided
        .map(|(uid, waiting)| (ledger.owner(&uid).unwrap_or_default(), waiting))
        .collect()
}

impl State {
    /// Adds the observed state of an object, which may have another controller than before.
    pub(super) fn observe_owned(
        &mut self,
        observation: Observation<BilledObject>,
        bill: impl Fn(&BilledObject) -> Option<BilledObject>,
    ) -> Waiting {
        let uid = Arc::clone(&observation.uid);
        let before = self.controller_of(&uid);
        let waiting = self.observe_joined(observation, bill);
        self.belongs(&uid, before.as_deref());
        waiting
    }

    /// Returns a content with what belongs to it at a time.
    pub(super) fn joined(&self, content: BilledObject, time: UnixSeconds) -> BilledObject {
        let content = self.related.joined(content, time);
        self.tables.joined(&content, time).unwrap_or(content)
    }

    /// Returns the content of a known object with what belongs to it now.
    pub(super) fn joined_now(&self, uid: &str, content: BilledObject) -> BilledObject {
        let mut content = self.related.joined(content, UnixSeconds::MAX);
        if let Some(before) = self.ledger.newest(uid) {
            content = self.related.inherited(content, before);
        }
        let joined = self.tables.joined(&content, UnixSeconds::MAX);
        joined.unwrap_or(content)
    }

    /// The key of the controller of a known object.
    fn controller_of(&self, uid: &str) -> Option<Box<str>> {
        let content = self.ledger.newest(uid)?;
        content.name_of(Relation::Owner).map(Into::into)
    }

    /// An object was observed, whose controller had the key `before`.
    fn belongs(&mut self, uid: &Uid, before: Option<&str>) {
        let Self {
            ledger, related, ..
        } = self;
        if let Some(content) = ledger.newest(uid) {
            related.belongs(uid, content, before, |it| ledger.knows(it));
        }
    }

    /// Another replica delivered what it learned of: what this one has seen by then, it needs no more.
    pub(super) fn forget_controllers(&mut self) {
        if let Some(seen) = self.completeness.complete_until(i64::MAX) {
            self.related.forget(self.ledger.watermark().min(seen));
        }
    }

    /// Gives the contents of an object that `wants` selects the metadata of its controller from `at` on, and the values
    /// of tables that follow from it.
    fn amend_owner(
        &mut self,
        (uid, key): (&Uid, &str),
        metadata: Node<'_>,
        at: UnixSeconds,
        bill: impl Fn(&BilledObject) -> Option<BilledObject>,
        wants: impl Fn(&BilledObject) -> bool,
    ) -> Vec<(Uid, Waiting)> {
        let Self { ledger, tables, .. } = self;
        let budget = Budget::default();
        let concerns = |it: &BilledObject| it.name_of(Relation::Owner) == Some(key);
        let mut amend = |content: &BilledObject| {
            if !concerns(content) || !wants(content) {
                return None;
            }
            let joined = content.with_related(Relation::Owner, Some(metadata));
            let owner = |it: &BilledObject| it.metadata_of(Relation::Owner);
            // The values of tables that follow from what did not change are of later times.
            if owner(&joined) == owner(content) {
                return None;
            }
            Some(tables.joined(&joined, at).unwrap_or(joined))
        };
        let mut divided = ledger.amend(Some(uid), at, budget, &bill, &mut amend);
        // The keys of tables may be among what changed.
        for (at, _) in tables.changes(at) {
            let mut amend = |content: &BilledObject| {
                let joined = || tables.joined(content, at);
                concerns(content).then(joined).flatten()
            };
            divided.extend(ledger.amend(Some(uid), at, budget, &bill, &mut amend));
        }
        divided
    }
}

impl SharedLedger {
    /// The metadata of a controller was seen at `now`, as it is since `since`.
    pub(in crate::kubernetes_resources) fn controller(
        &self,
        controller: Controller<'_>,
        object: Node<'_>,
        (since, now): (UnixSeconds, UnixSeconds),
    ) -> Amended {
        let since = since.min(now);
        let key = controller.key;
        let learn = |state: &mut State| state.related.learn_controller(controller, object, since);
        // Most events of a controller change nothing that is read.
        let Some(change) = learn(&mut self.state()) else {
            return Amended::default();
        };
        self.change(|state| {
            let metadata = change.metadata.root();
            let bill = |content: &BilledObject| content.bill(&self.projection);
            let mut divided = Vec::new();
            for pod in state.related.made_by(key) {
                let of = (&pod, key);
                if change.since == UnixSeconds::MIN {
                    // It came after the object that it made, which waits for it.
                    let lacks = |it: &BilledObject| it.metadata_of(Relation::Owner).is_none();
                    divided.extend(state.amend_owner(of, metadata, change.since, bill, lacks));
                }
                let at = change.since.max(since);
                divided.extend(state.amend_owner(of, metadata, at, bill, |_| true));
            }
            Amended {
                divided: with_owners(&state.ledger, divided),
                forgotten: change.forgotten,
            }
        })
    }

    /// A controller is gone since `at`; what it made keeps its metadata. Returns its namespace, and how many there
    /// are forgotten before it is known that nothing needs them any more.
    pub(in crate::kubernetes_resources) fn controller_gone(
        &self,
        uid: &str,
        at: UnixSeconds,
    ) -> Option<(Box<str>, usize)> {
        self.state().related.controller_gone(uid, at)
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::{Document, Reads};
    use meterline_ledger::DeliveryResult;
    use serde_json::json;

    use super::*;
    use crate::kubernetes_resources::{
        ledger::Signer,
        object::Projection,
        options::Options,
        testing::{WATCH, ledger, observation, options},
        watch::Cluster,
    };

    const WEB: &str = "n/Deployment/web";

    fn shared(change: impl FnOnce(&mut Options)) -> Arc<SharedLedger> {
        let mut options = options(Cluster::default());
        let reads = Reads::of(&["owner().kind", "owner().labels.team"]);
        options.projection = Arc::new(Projection::of(&reads, options.resource_type));
        change(&mut options);
        let ledger = ledger(&options, 0);
        ledger.synced(WATCH, true);
        ledger
    }

    /// A pod that a Deployment made is observed at `now`.
    fn observe(ledger: &SharedLedger, pod: &str, deployment: &str, now: i64) {
        let mut seen = observation(pod, 1, None);
        let metadata = json!({
            "name": pod, "namespace": "n", "labels": {"pod-template-hash": "5d9"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "r",
                "name": format!("{deployment}-5d9"), "controller": true}],
        });
        let document = seen.content.document.clone();
        let metadata = Document::from(&metadata);
        let document = document.with_field("metadata", Some(metadata.root()));
        seen.content = BilledObject::of(&document, &ledger.projection);
        seen.observed_at = now;
        ledger.observe(seen);
    }

    /// The Deployment has this team since then. Returns how many pods were divided.
    fn team(ledger: &SharedLedger, (uid, key): (&str, &str), team: &str, since: i64) -> usize {
        let object = Document::from(&json!({"metadata": {"labels": {"team": team}}}));
        let times = (since, since);
        let controller = Controller {
            uid: &uid.into(),
            key,
            created: since,
        };
        let amended = ledger.controller(controller, object.root(), times);
        amended.divided.len()
    }

    /// Pod, start, end and team of what is handed out up to `until`.
    fn billed(ledger: &SharedLedger, until: i64) -> Vec<String> {
        ledger.alive(WATCH, until);
        let mut found = Vec::new();
        while let Some(window) = ledger.next(until).0 {
            for it in &window.batch.pieces {
                let owner = it.content.related(Relation::Owner).unwrap().to_value();
                assert_eq!(owner["kind"], "Deployment");
                let team = owner["labels"]["team"].as_str().unwrap_or("-");
                found.push(format!("{} {}..{} {team}", it.uid, it.start, it.end));
            }
            ledger.settle(window.batch.tag, |_| DeliveryResult::Delivered);
        }
        found
    }

    #[test]
    fn a_controller_that_comes_after_its_pods_counts_for_those_that_wait_for_it() {
        let ledger = shared(|_| ());
        observe(&ledger, "a", "web", 2);
        observe(&ledger, "b", "other", 2);
        assert_eq!(team(&ledger, ("u", WEB), "red", 3), 0, "from the start");
        observe(&ledger, "c", "web", 4);
        assert_eq!(
            team(&ledger, ("u", WEB), "red", 5),
            0,
            "nothing that is read changed"
        );
        assert_eq!(team(&ledger, ("u", WEB), "blue", 6), 2);
        observe(&ledger, "d", "web", 7);
        observe(&ledger, "a", "web", 8);
        let expected = [
            "a 1..6 red",
            "a 6..10 blue",
            "b 1..10 -",
            "c 1..6 red",
            "c 6..10 blue",
            "d 1..6 red",
            "d 6..10 blue",
        ];
        assert_eq!(billed(&ledger, 10), expected);
    }

    #[test]
    fn a_pod_keeps_the_labels_of_a_controller_that_is_gone_until_another_has_its_name() {
        let ledger = shared(|_| ());
        observe(&ledger, "a", "web", 2);
        team(&ledger, ("u", WEB), "red", 3);
        assert_eq!(ledger.controller_gone("u", 8), Some(("n".into(), 0)));
        assert_eq!(billed(&ledger, 10), ["a 1..10 red"]);
        assert!(
            !ledger.state().related.knows_controller(WEB),
            "it is forgotten"
        );
        observe(&ledger, "a", "web", 12);
        observe(&ledger, "late", "web", 13);
        assert_eq!(team(&ledger, ("v", WEB), "blue", 15), 1);
        let again = billed(&ledger, 20);
        // No watch had anything to show for it when that time was billed.
        assert_eq!(again[0], "late 1..10 -");
        assert_eq!(
            again[1..],
            ["a 10..15 red", "a 15..20 blue", "late 10..20 blue"]
        );
    }

    #[test]
    fn a_pod_that_another_controller_adopts_has_its_labels() {
        let ledger = shared(|_| ());
        team(&ledger, ("u", WEB), "red", 1);
        team(&ledger, ("v", "n/Deployment/shop"), "blue", 1);
        observe(&ledger, "a", "web", 2);
        observe(&ledger, "a", "shop", 6);
        team(&ledger, ("u", WEB), "green", 7);
        team(&ledger, ("v", "n/Deployment/shop"), "black", 8);
        let expected = ["a 1..6 red", "a 6..8 blue", "a 8..10 black"];
        assert_eq!(billed(&ledger, 10), expected);
    }

    #[test]
    fn a_replica_that_stands_by_forgets_controllers_that_are_gone() {
        let ledger = shared(|it| it.is_elected = true);
        ledger.learn(None, Signer::Unknown);
        team(&ledger, ("u", WEB), "red", 3);
        ledger.controller_gone("u", 8);
        ledger.alive(WATCH, 9);
        ledger.learn(Some(7), Signer::Another);
        assert!(ledger.state().related.knows_controller(WEB));
        ledger.learn(Some(20), Signer::Another);
        assert!(!ledger.state().related.knows_controller(WEB));
    }
}

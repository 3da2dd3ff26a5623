//! What the ledger learns of the controllers that made the objects that are billed.
//!
//! A controller concerns the objects that it made alone, which are known by its key: tenants make controllers by the
//! thousand, and each of them must not cost a look at every object.

use std::sync::Arc;

use meterline_core::Node;
use meterline_ledger::{Budget, Uid, UnixSeconds, Waiting};
use meterline_script::Relation;

use super::{SharedLedger, State, with_owners};
use crate::kubernetes_resources::object::BilledObject;

/// What followed from the metadata of a controller.
#[derive(Debug, Default)]
pub(in crate::kubernetes_resources) struct Amended {
    /// The effect of the budgets on the objects whose time it divided, with their owners.
    pub(in crate::kubernetes_resources) divided: Vec<(Arc<str>, Waiting)>,
    /// How many older versions of the metadata were forgotten.
    pub(in crate::kubernetes_resources) forgotten: usize,
}

impl State {
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
    pub(super) fn controller_of(&self, uid: &str) -> Option<Box<str>> {
        let content = self.ledger.newest(uid)?;
        content.name_of(Relation::Owner).map(Into::into)
    }

    /// An object was observed, whose controller had the key `before`.
    pub(super) fn belongs(&mut self, uid: &Uid, before: Option<&str>) {
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
            let joined = tables.joined(&joined, at).unwrap_or(joined);
            (joined != *content).then_some(joined)
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
    /// The metadata of the controller with this UID and key was seen at `now`, as it is since `since`.
    pub(in crate::kubernetes_resources) fn controller(
        &self,
        (uid, key): (&Uid, &str),
        object: Node<'_>,
        (since, now): (UnixSeconds, UnixSeconds),
    ) -> Amended {
        let since = since.min(now);
        let learn = |state: &mut State| state.related.learn_controller((uid, key), object, since);
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

//! What the ledger learns of the devices of claims.

use std::sync::Arc;

use meterline_core::Node;
use meterline_ledger::{Budget, Observation, Uid, UnixSeconds, Waiting};

use super::{SharedLedger, State, with_owners};
use crate::kubernetes_resources::object::BilledObject;

impl State {
    /// Adds what is known of its devices to the observed state of a claim. What is known of a device counts for all
    /// time of its allocation, so the contents that the ledger has already have it.
    pub(super) fn describe_devices(&mut self, observation: &mut Observation<BilledObject>) {
        let Self { ledger, slices, .. } = self;
        if slices.is_nothing() {
            return;
        }
        let uid = &observation.uid;
        slices.used(uid, &observation.content, |uid| ledger.knows(uid));
        let known = ledger.content(uid);
        observation.content = slices.joined(observation.content.clone(), known);
    }
}

impl SharedLedger {
    /// A slice was seen. Returns the effect of the budgets on the claims that have its devices, with their owners.
    pub(in crate::kubernetes_resources) fn slice(
        &self,
        uid: &Uid,
        slice: Node<'_>,
    ) -> Vec<(Arc<str>, Waiting)> {
        let claims = self.state().slices.learn(uid, slice);
        // Most slices change while no claim has their devices.
        if claims.is_empty() {
            return Vec::new();
        }
        self.change(|state| {
            let State { ledger, slices, .. } = state;
            let bill = |content: &BilledObject| content.bill(&self.projection);
            let mut amend = |content: &BilledObject| {
                let joined = slices.joined(content.clone(), Some(content));
                (joined != *content).then_some(joined)
            };
            let divided = claims.iter().flat_map(|claim| {
                let budget = Budget::default();
                ledger.amend(Some(claim), UnixSeconds::MIN, budget, bill, &mut amend)
            });
            let divided = divided.collect();
            with_owners(ledger, divided)
        })
    }

    /// A slice is gone.
    pub(in crate::kubernetes_resources) fn slice_gone(&self, uid: &str) {
        self.state().slices.gone(uid);
    }
}

#[cfg(test)]
mod tests;

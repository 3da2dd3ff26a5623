//! Whether a node is ready, and since when.
//!
//! Nodes report themselves every few seconds, so their conditions are not kept. What is kept is whether the condition
//! `Ready` is true, for mappings that call `node_ready()`: only a change of that divides the time of a node. The kubelet or
//! the node controller record the change by their clocks, which the ledger trusts only between what it knew before and the
//! moment at which it sees the change.

use meterline_core::{Document, Node};

use crate::kubernetes_resources::lifetime;

/// A node that is first seen as not ready, and became so within this many seconds of its creation, never was ready: it
/// reports itself when it creates its object, by a clock that may be ahead.
const NEW: i64 = 60;

/// See the module documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) is_ready: bool,
    /// Since when, if the condition says so.
    pub(super) since: Option<i64>,
    created: Option<i64>,
}

impl Readiness {
    pub(super) fn of(node: Node<'_>) -> Self {
        let conditions = node.path(&["status", "conditions"]);
        let mut conditions = conditions.into_iter().flat_map(Node::items);
        let is = |it: Node<'_>, key, text| it.get(key).is_some_and(|it| it.is_text(text));
        let ready = conditions.find(|it| is(*it, "type", "Ready"));
        let since = ready.and_then(|it| it.get("lastTransitionTime")?.as_str());
        Self {
            is_ready: ready.is_some_and(|it| is(it, "status", "True")),
            since: since.and_then(lifetime::seconds),
            created: lifetime::created(node),
        }
    }

    /// The field of the content.
    pub(super) fn field(is_ready: bool) -> Document {
        Document::from(&serde_json::Value::Bool(is_ready))
    }

    /// Returns when the node became what it is, if it was the opposite before, as far as the condition shows.
    pub(super) fn turned(self) -> Option<i64> {
        let since = self.since?;
        let is_old = |created: i64| since > created.saturating_add(NEW);
        (self.is_ready || self.created.is_none_or(is_old)).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use meterline_kubesim::rfc3339;
    use serde_json::{Value, json};

    use super::*;

    fn readiness(conditions: Value) -> Readiness {
        let node = json!({"metadata": {"creationTimestamp": rfc3339(1_000)},
            "status": {"conditions": conditions}});
        Readiness::of(Document::from(&node).root())
    }

    fn ready(status: &str, since: i64) -> Readiness {
        let since = rfc3339(since);
        readiness(json!([
            {"type": "DiskPressure", "status": "False", "lastTransitionTime": rfc3339(1)},
            {"type": "Ready", "status": status, "lastTransitionTime": since}]))
    }

    #[test]
    fn a_node_is_ready_while_its_condition_is_true() {
        for (status, is_ready) in [("True", true), ("False", false), ("Unknown", false)] {
            let found = ready(status, 2_000);
            assert_eq!(
                (found.is_ready, found.since),
                (is_ready, Some(2_000)),
                "{status}"
            );
        }
        for none in [json!([]), json!(null), json!([{"type": "Ready"}])] {
            let found = readiness(none);
            assert_eq!((found.is_ready, found.turned()), (false, None));
        }
        let undated = readiness(json!([{"type": "Ready", "status": "True"}]));
        assert_eq!((undated.is_ready, undated.turned()), (true, None));
    }

    #[test]
    fn a_node_was_not_ready_before_and_a_new_one_never_was() {
        assert_eq!(ready("True", 1_005).turned(), Some(1_005));
        assert_eq!(ready("False", 1_005).turned(), None);
        assert_eq!(ready("Unknown", 2_000).turned(), Some(2_000));
    }
}

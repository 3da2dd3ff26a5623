//! Events that arrived before.

use std::collections::HashSet;

use serde_json::Value;

/// Records which events arrived, by `source` and `id`, as CloudEvents defines the same event.
///
/// See CloudEvents 1.0, "id": producers must make `source` and `id` unique for each distinct event.
#[derive(Debug, Default)]
pub struct Deduplicator {
    seen: HashSet<(String, String)>,
}

impl Deduplicator {
    /// Whether this event arrives for the first time. False for an event without a source or an id.
    pub fn is_new(&mut self, event: &Value) -> bool {
        let text = |key| event.get(key).and_then(Value::as_str);
        let (Some(source), Some(id)) = (text("source"), text("id")) else {
            return false;
        };
        self.seen.insert((source.to_owned(), id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_its_source_and_id() {
        let mut seen = Deduplicator::default();
        assert!(seen.is_new(&json!({"source": "a", "id": "1"})));
        assert!(!seen.is_new(&json!({"source": "a", "id": "1", "data": 2})));
        assert!(seen.is_new(&json!({"source": "b", "id": "1"})));
        assert!(!seen.is_new(&json!({"source": "b"})));
    }
}

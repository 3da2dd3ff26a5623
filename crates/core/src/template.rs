//! Encoded JSON with gaps, for messages that differ only in a few text fields.
//!
//! The event of a pod that did not change has the same bytes in every window, except its id and its time. A
//! mapping stores a [`JsonTemplate`] with the pod's [`Document`] and fills it for each window.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::{
    document::{Document, Node, encode_text},
    scratch::Scratch,
};

/// Returns a new number, never 0, that identifies a component that stores values with documents and templates.
#[must_use]
pub fn new_owner() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A JSON object with gaps in place of some of its own text fields.
#[derive(Debug)]
pub struct JsonTemplate {
    /// The text without the values that go into the gaps.
    text: Box<[u8]>,
    /// The positions of the gaps in the text, in order.
    gaps: Box<[usize]>,
    /// The number of the check that the rendered JSON passed, 0 for none.
    checked_by: AtomicU64,
}

impl JsonTemplate {
    /// Encodes `value` with gaps for the fields `gaps`. Returns the template and the order in which the gaps
    /// are to be filled, as indexes into `gaps`; `None` unless `value` is an object with text at each of
    /// them.
    #[must_use]
    pub fn new(value: Node<'_>, gaps: &[&str]) -> Option<(Self, Vec<usize>)> {
        if !value.is_object() {
            return None;
        }
        let mut text = Scratch::default();
        text.push(b'{');
        let (mut places, mut order) = (Vec::new(), Vec::new());
        let mut fields = value.entries();
        while let Some((key, value)) = fields.next_node() {
            if text.len() > 1 {
                text.push(b',');
            }
            key.write_json(&mut text).ok()?;
            text.push(b':');
            match gaps.iter().position(|gap| key.is_text(gap)) {
                Some(gap) => {
                    value.as_str()?;
                    places.push(text.len());
                    order.push(gap);
                }
                None => value.write_json(&mut text).ok()?,
            }
        }
        text.push(b'}');
        let template = Self {
            text: text.to_box(),
            gaps: places.into(),
            checked_by: AtomicU64::new(0),
        };
        (order.len() == gaps.len()).then_some((template, order))
    }

    /// Records that the rendered JSON passed a check that does not depend on the gaps.
    pub fn set_checked_by(&self, check: u64) {
        self.checked_by.store(check, Ordering::Relaxed);
    }

    /// Whether the last check that was recorded is this one.
    #[must_use]
    pub fn is_checked_by(&self, check: u64) -> bool {
        self.checked_by.load(Ordering::Relaxed) == check
    }
}

/// A template with the values of its gaps.
#[derive(Debug, Clone)]
pub struct RenderedJson {
    template: Arc<JsonTemplate>,
    values: Box<[Arc<str>]>,
    /// The document that it was rendered from, if it is available.
    document: Option<Document>,
}

impl RenderedJson {
    /// Fills the gaps with `values`, in the order of the gaps. A gap without a value stays `""`.
    #[must_use]
    pub fn new(template: Arc<JsonTemplate>, values: Box<[Arc<str>]>) -> Self {
        Self {
            template,
            values,
            document: None,
        }
    }

    /// The same, with the document that it was rendered from.
    #[must_use]
    pub fn with_document(mut self, document: Document) -> Self {
        self.document = Some(document);
        self
    }

    /// The template.
    #[must_use]
    pub fn template(&self) -> &JsonTemplate {
        &self.template
    }

    /// The JSON text: equal to the encoding of the whole value.
    ///
    /// # Errors
    /// An error of `serde_json`; no text causes one.
    pub fn bytes(&self) -> Result<Bytes, serde_json::Error> {
        let JsonTemplate { text, gaps, .. } = &*self.template;
        let more: usize = self.values.iter().map(|value| value.len() + 2).sum();
        let mut bytes = Vec::with_capacity(text.len() + more);
        let mut from = 0;
        for (index, gap) in gaps.iter().enumerate() {
            bytes.extend_from_slice(text.get(from..*gap).unwrap_or_default());
            let value = self.values.get(index).map_or("", AsRef::as_ref);
            encode_text(value.as_bytes(), &mut bytes)?;
            from = *gap;
        }
        bytes.extend_from_slice(text.get(from..).unwrap_or_default());
        Ok(bytes.into())
    }

    /// The value as a document.
    ///
    /// # Errors
    /// As [`RenderedJson::bytes`].
    pub fn document(&self) -> Result<Document, serde_json::Error> {
        match &self.document {
            Some(document) => Ok(document.clone()),
            None => Document::from_json(&self.bytes()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_top_level_text_fields_can_be_gaps() {
        let value = Document::from(&json!({"id": "a", "n": 1, "data": {"id": "b"}}));
        assert!(JsonTemplate::new(value.root(), &["id"]).is_some());
        assert!(JsonTemplate::new(value.root(), &["n"]).is_none());
        assert!(JsonTemplate::new(value.root(), &["absent"]).is_none());
        assert!(JsonTemplate::new(Document::from(&json!([1])).root(), &[]).is_none());
    }

    #[test]
    fn a_check_is_remembered() {
        let (template, _) = JsonTemplate::new(Document::from(&json!({})).root(), &[]).unwrap();
        assert!(!template.is_checked_by(7));
        template.set_checked_by(7);
        assert!(template.is_checked_by(7));
    }

    proptest! {
        #[test]
        fn a_filled_template_is_the_encoding_of_the_value(
            id in ".*", time in ".*", other in any::<(String, i64, f64)>(), key in "[a-z]{0,6}",
        ) {
            let value = |id: &str, time: &str| json!({
                "id": id, "time": time, "data": {"id": "x", "list": [other.0, other.1, other.2]},
                (key.as_str()): other.0.as_str(),
            });
            prop_assume!(!["id", "time", "data"].contains(&key.as_str()));
            let (template, order) = JsonTemplate::new(
                Document::from(&value("", "")).root(),
                &["time", "id"],
            )
            .unwrap();
            let values = [Arc::from(time.as_str()), Arc::from(id.as_str())];
            let values = order.iter().filter_map(|gap| values.get(*gap).cloned()).collect();
            let filled = RenderedJson::new(Arc::new(template), values);
            let expected = value(&id, &time);
            prop_assert_eq!(filled.bytes().unwrap(), serde_json::to_vec(&expected).unwrap());
            prop_assert_eq!(filled.document().unwrap().root().to_value(), expected);
        }
    }
}

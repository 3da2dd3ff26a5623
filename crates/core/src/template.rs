//! Encoded JSON with gaps, for messages that differ only in a few text fields.
//!
//! The event of a pod that did not change has the same bytes in every window, except its id and its time. A
//! mapping stores a [`JsonTemplate`] with the pod's [`Document`] and fills it for each window. The events of
//! different pods have the same keys in the same order, which are most of their text: their templates share it.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use crate::{
    document::{Document, Node, encode_text, encoded_size},
    scratch::Scratch,
};

/// How many forms are shared. A tenant can choose the keys of an event, and so make up forms.
const MOST_FORMS: usize = 256;

/// Separates values. JSON text of a scalar has no control character in it.
const SEPARATOR: u8 = b'\n';

/// Returns a new number, never 0, that identifies a component that stores values with documents and templates.
#[must_use]
pub fn new_owner() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The JSON text of an object without its scalars.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Form {
    text: Box<[u8]>,
    /// The places of the scalars in the text, in order.
    places: Box<[Place]>,
}

/// The place of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    /// The position in the text.
    at: u32,
    /// The index of the gap that this is, if it is one.
    gap: Option<u16>,
}

/// The forms of the templates of one mapping.
#[derive(Debug, Default)]
pub struct Forms(Mutex<HashSet<Arc<Form>>>);

impl Forms {
    /// Returns the form equal to this one that others have, if it is known.
    fn shared(&self, form: Form) -> Arc<Form> {
        let mut forms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = forms.get(&form) {
            return Arc::clone(known);
        }
        if forms.len() >= MOST_FORMS {
            // The templates keep theirs.
            forms.clear();
        }
        let form = Arc::new(form);
        forms.insert(Arc::clone(&form));
        form
    }
}

/// A JSON object with gaps in place of some of its own text fields.
#[derive(Debug)]
pub struct JsonTemplate {
    form: Arc<Form>,
    /// The JSON texts of the scalars that are not gaps, each followed by the separator.
    values: Box<[u8]>,
    /// The number of the check that the rendered JSON passed, 0 for none.
    checked_by: AtomicU64,
}

impl JsonTemplate {
    /// Encodes `value` with gaps for the fields `gaps`. Returns `None` unless `value` is an object with text at
    /// each of them.
    #[must_use]
    pub fn new(value: Node<'_>, gaps: &[&str], forms: &Forms) -> Option<Self> {
        if !value.is_object() {
            return None;
        }
        let mut writer = Writer::default();
        let mut found = 0;
        writer.object(value, |writer, key, value| {
            let gap = gaps.iter().position(|gap| key.is_text(gap));
            let Some(gap) = gap else {
                return writer.value(value);
            };
            value.as_str()?;
            found += 1;
            writer.place(Some(u16::try_from(gap).ok()?))
        })?;
        let form = Form {
            text: writer.text.to_box(),
            places: writer.places.into(),
        };
        (found == gaps.len()).then(|| Self {
            form: forms.shared(form),
            values: writer.values.to_box(),
            checked_by: AtomicU64::new(0),
        })
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

/// Separates the form of a value from its scalars.
#[derive(Default)]
struct Writer {
    text: Scratch,
    places: Vec<Place>,
    values: Scratch,
}

impl Writer {
    fn place(&mut self, gap: Option<u16>) -> Option<()> {
        let at = u32::try_from(self.text.len()).ok()?;
        self.places.push(Place { at, gap });
        Some(())
    }

    fn value(&mut self, value: Node<'_>) -> Option<()> {
        if value.is_object() {
            return self.object(value, |writer, _, value| writer.value(value));
        }
        if value.is_array() {
            self.text.push(b'[');
            for (index, item) in value.items().enumerate() {
                if index > 0 {
                    self.text.push(b',');
                }
                self.value(item)?;
            }
            self.text.push(b']');
            return Some(());
        }
        self.place(None)?;
        value.write_json(&mut self.values).ok()?;
        self.values.push(SEPARATOR);
        Some(())
    }

    fn object(
        &mut self,
        value: Node<'_>,
        mut field: impl FnMut(&mut Self, Node<'_>, Node<'_>) -> Option<()>,
    ) -> Option<()> {
        self.text.push(b'{');
        let mut fields = value.entries();
        let mut is_first = true;
        while let Some((key, value)) = fields.next_node() {
            if !is_first {
                self.text.push(b',');
            }
            is_first = false;
            key.write_json(&mut self.text).ok()?;
            self.text.push(b':');
            field(self, key, value)?;
        }
        self.text.push(b'}');
        Some(())
    }
}

/// A template with the values of its gaps.
#[derive(Debug, Clone)]
pub struct RenderedJson {
    template: Arc<JsonTemplate>,
    values: Box<[Arc<str>]>,
    /// The length of the JSON text in bytes.
    size: usize,
    /// The document that it was rendered from, if it is available.
    document: Option<Document>,
}

impl RenderedJson {
    /// Fills the gaps with `values`, in the order in which [`JsonTemplate::new`] was given the gaps. A gap
    /// without a value stays `""`.
    #[must_use]
    pub fn new(template: Arc<JsonTemplate>, values: Box<[Arc<str>]>) -> Self {
        let JsonTemplate {
            form,
            values: scalars,
            ..
        } = &*template;
        let mut size = form.text.len().saturating_add(scalars.len());
        for place in &form.places {
            size = match place.gap {
                Some(gap) => {
                    let value = values.get(usize::from(gap));
                    size.saturating_add(encoded_size(value.map_or("", AsRef::as_ref)))
                }
                // The separator is not written.
                None => size.saturating_sub(1),
            };
        }
        Self {
            template,
            values,
            size,
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

    /// The same, without the document that it was rendered from.
    #[must_use]
    pub fn without_document(mut self) -> Self {
        self.document = None;
        self
    }

    /// Whether it keeps the document that it was rendered from.
    #[must_use]
    pub fn has_document(&self) -> bool {
        self.document.is_some()
    }

    /// The length of the JSON text in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The value of a gap.
    fn value(&self, gap: Option<u16>) -> &str {
        let value = gap.and_then(|gap| self.values.get(usize::from(gap)));
        value.map_or("", AsRef::as_ref)
    }

    /// The JSON text: equal to the encoding of the whole value.
    ///
    /// # Errors
    /// An error of `serde_json`; no text causes one.
    pub fn bytes(&self) -> Result<Bytes, serde_json::Error> {
        let mut bytes = Vec::with_capacity(self.size());
        self.append_to(&mut bytes)?;
        Ok(bytes.into())
    }

    /// Appends the JSON text.
    ///
    /// # Errors
    /// As [`RenderedJson::bytes`].
    pub fn append_to(&self, bytes: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let JsonTemplate { form, values, .. } = &*self.template;
        let mut scalars = values.split(|byte| *byte == SEPARATOR);
        let mut from = 0;
        for place in &form.places {
            // What fitted 32 bits when it was written fits an index of memory.
            let at = usize::try_from(place.at).unwrap_or(usize::MAX);
            bytes.extend_from_slice(form.text.get(from..at).unwrap_or_default());
            match place.gap {
                Some(_) => encode_text(self.value(place.gap).as_bytes(), bytes)?,
                None => bytes.extend_from_slice(scalars.next().unwrap_or_default()),
            }
            from = at;
        }
        bytes.extend_from_slice(form.text.get(from..).unwrap_or_default());
        Ok(())
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
        let forms = Forms::default();
        let new = |value: &Document, gaps: &[&str]| JsonTemplate::new(value.root(), gaps, &forms);
        assert!(new(&value, &["id"]).is_some());
        assert!(new(&value, &["n"]).is_none());
        assert!(new(&value, &["absent"]).is_none());
        assert!(new(&Document::from(&json!([1])), &[]).is_none());
    }

    #[test]
    fn a_check_is_remembered() {
        let value = Document::from(&json!({}));
        let template = JsonTemplate::new(value.root(), &[], &Forms::default()).unwrap();
        assert!(!template.is_checked_by(7));
        template.set_checked_by(7);
        assert!(template.is_checked_by(7));
    }

    #[test]
    fn events_with_the_same_keys_share_their_text_and_forms_are_bounded() {
        let forms = Forms::default();
        let new =
            |value| JsonTemplate::new(Document::from(&value).root(), &["id"], &forms).unwrap();
        let one = new(json!({"id": "a", "data": {"n": 1, "list": [null, {}]}}));
        let other = new(json!({"id": "b", "data": {"n": "text", "list": [false, {}]}}));
        assert!(Arc::ptr_eq(&one.form, &other.form));
        for number in 0..MOST_FORMS {
            let key = number.to_string();
            new(json!({"id": "c", (key.as_str()): 1}));
        }
        assert!(forms.0.lock().unwrap().len() <= MOST_FORMS);
        let rendered = RenderedJson::new(Arc::new(other), [Arc::from("x")].into());
        let expected = r#"{"data":{"list":[false,{}],"n":"text"},"id":"x"}"#;
        assert_eq!(rendered.bytes().unwrap(), expected);
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
            let template = JsonTemplate::new(
                Document::from(&value("", "")).root(),
                &["time", "id"],
                &Forms::default(),
            )
            .unwrap();
            let values = [Arc::from(time.as_str()), Arc::from(id.as_str())];
            let filled = RenderedJson::new(Arc::new(template), values.into());
            let expected = value(&id, &time);
            prop_assert_eq!(filled.bytes().unwrap(), serde_json::to_vec(&expected).unwrap());
            prop_assert_eq!(filled.size(), filled.bytes().unwrap().len());
            prop_assert_eq!(filled.document().unwrap().root().to_value(), expected);
        }
    }
}

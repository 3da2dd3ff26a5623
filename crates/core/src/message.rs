//! Messages and batches.

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use serde_json::Value;
use thiserror::Error;

use crate::{
    document::Document,
    fate::Cause,
    part::{BatchLimit, Part},
    template::RenderedJson,
};

/// The content of a message.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes that have not been parsed.
    Raw(Bytes),
    /// A shared document, as the ledger keeps it.
    Document(Document),
    /// Encoded JSON that was rendered from a template.
    Rendered(RenderedJson),
}

/// The content of a message is not JSON.
#[derive(Debug, Error)]
#[error("the message is not valid JSON: {0}")]
pub struct ContentError(#[from] serde_json::Error);

/// A readable name of what a message is about: `pod default/web-0`. The text is made on request, because it
/// is not needed for most messages.
#[derive(Clone)]
pub enum About {
    /// The text itself.
    Text(Arc<str>),
    /// An object of this kind, and the function that describes it.
    Object(&'static str, Document, fn(&str, &Document) -> String),
}

impl About {
    /// The text.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Object(kind, document, describe) => Cow::Owned(describe(kind, document)),
        }
    }
}

impl From<&str> for About {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl fmt::Debug for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text(), f)
    }
}

impl PartialEq for About {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for About {}

/// Which usage a message represents. The stable id of its event is computed from this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// A readable name of what the message is about.
    pub about: About,
    /// The object's UID.
    pub uid: Arc<str>,
    /// Start of the usage interval, Unix seconds.
    pub start: i64,
    /// The second after its last, Unix seconds.
    pub end: i64,
    /// The cluster, if the operator named it.
    pub cluster: Option<Arc<str>>,
}

/// Why a message is flagged as failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The component that failed, as a label or a path in the configuration.
    pub component: Arc<str>,
    /// What went wrong, without a final period.
    pub reason: Arc<str>,
    /// The kind of reason.
    pub cause: Cause,
}

/// Text values by name. A message has few, so a list is smaller and faster than a map. Clones share
/// the list until one of them changes it, because the messages of a window have equal metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Arc<Vec<(Cow<'static, str>, Arc<str>)>>);

impl Metadata {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// Sets `key`, replacing its previous value.
    pub fn set(&mut self, key: impl Into<Cow<'static, str>>, value: impl Into<Arc<str>>) {
        let (key, value) = (key.into(), value.into());
        if self.get(&key) == Some(&value) {
            return;
        }
        let list = Arc::make_mut(&mut self.0);
        match list.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => list.push((key, value)),
        }
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) {
        if self.get(key).is_some() {
            Arc::make_mut(&mut self.0).retain(|(name, _)| name != key);
        }
    }

    /// All entries, in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value))
    }
}

/// One unit of data that passes from an input to an output.
#[derive(Debug, Clone)]
pub struct Message {
    content: Content,
    /// Values besides the content: `meta("key")` in a mapping.
    pub metadata: Metadata,
    identity: Option<Arc<Identity>>,
    origin: Option<u32>,
    was_rejected: bool,
    part: Option<Arc<Part>>,
    batch_limit: Option<Arc<BatchLimit>>,
    failure: Option<Box<Failure>>,
    caught: bool,
}

impl Message {
    /// A message with neither metadata nor identity.
    #[must_use]
    pub fn new(content: Content) -> Self {
        Self {
            content,
            metadata: Metadata::default(),
            identity: None,
            origin: None,
            was_rejected: false,
            part: None,
            batch_limit: None,
            failure: None,
            caught: false,
        }
    }

    /// A message of unparsed bytes.
    #[must_use]
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::new(Content::Raw(bytes.into()))
    }

    /// A message of a JSON value.
    #[must_use]
    pub fn value(value: &Value) -> Self {
        Self::new(Content::Document(Document::from(value)))
    }

    /// The same message with this `identity`.
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.identity = Some(Arc::new(identity));
        self
    }

    /// Which usage this message represents, if its input set it.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_deref()
    }

    /// The same message with this number in its input's batch. Messages that are made from it keep the
    /// number, by which the input learns the fate of the original.
    #[must_use]
    pub fn with_origin(mut self, origin: u32) -> Self {
        self.origin = Some(origin);
        self
    }

    /// The number of the message in its input's batch from which this one was made, if the input set one.
    #[must_use]
    pub fn origin(&self) -> Option<u32> {
        self.origin
    }

    /// The same message, marked as one that was rejected before and is tried again.
    #[must_use]
    pub fn tried_again(mut self) -> Self {
        self.was_rejected = true;
        self
    }

    /// Whether it was rejected before. If it is rejected again, the health of the pipeline does not change.
    #[must_use]
    pub fn was_rejected(&self) -> bool {
        self.was_rejected
    }

    /// Divides the message into one for each content. The parts have its metadata, its identity and its
    /// number, so the input learns one fate for all of them. A single part is the message itself.
    pub fn divide(self, contents: Vec<Content>) -> impl Iterator<Item = Self> {
        let (count, whole) = (contents.len(), self);
        contents.into_iter().zip(1..).map(move |(content, number)| {
            let mut message = whole.clone();
            message.content = content;
            if count > 1 {
                let of = whole.part.clone();
                message.part = Some(Arc::new(Part { number, count, of }));
            }
            message
        })
    }

    /// Which part of a message it is, if it is one of several.
    #[must_use]
    pub fn part(&self) -> Option<&Arc<Part>> {
        self.part.as_ref()
    }

    /// The same message as this part, as a buffer restores it.
    #[must_use]
    pub fn with_part(mut self, part: Option<Arc<Part>>) -> Self {
        self.part = part;
        self
    }

    /// Adds a limit to the batches that hold this message.
    pub fn limit_batch(&mut self, limit: &Arc<BatchLimit>) {
        self.batch_limit = Some(match &self.batch_limit {
            Some(known) if **known != **limit => Arc::new(known.and(**limit)),
            _ => Arc::clone(limit),
        });
    }

    /// The most that a batch holds which holds this message.
    #[must_use]
    pub fn batch_limit(&self) -> Option<&BatchLimit> {
        self.batch_limit.as_deref()
    }

    /// What the message is about, for logs: the name of its identity, or "message"; and which part of it
    /// this is.
    #[must_use]
    pub fn about(&self) -> Cow<'_, str> {
        let about = self
            .identity()
            .map_or(Cow::Borrowed("message"), |it| it.about.text());
        match &self.part {
            Some(part) => Cow::Owned(format!("{about}, {part}")),
            None => about,
        }
    }

    /// The content in its current form.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Replaces the content.
    pub fn set_content(&mut self, content: Content) {
        self.content = content;
    }

    /// The content as a document, parsed if necessary.
    ///
    /// # Errors
    /// When raw bytes are not JSON.
    pub fn document(&self) -> Result<Document, ContentError> {
        Ok(match &self.content {
            Content::Raw(bytes) => Document::from_json(bytes)?,
            Content::Document(document) => document.clone(),
            Content::Rendered(filled) => filled.document()?,
        })
    }

    /// The content as a tree.
    ///
    /// # Errors
    /// When raw bytes are not JSON.
    pub fn tree(&self) -> Result<Value, ContentError> {
        Ok(self.document()?.root().to_value())
    }

    /// The content as bytes: raw bytes as they are, anything else as compact JSON.
    ///
    /// # Errors
    /// When the content cannot be written as JSON.
    pub fn bytes(&self) -> Result<Bytes, ContentError> {
        Ok(match &self.content {
            Content::Raw(bytes) => bytes.clone(),
            Content::Document(document) => {
                let mut bytes = Vec::with_capacity(document.size());
                document.root().write_json(&mut bytes)?;
                bytes.into()
            }
            Content::Rendered(filled) => filled.bytes()?,
        })
    }

    /// Appends the content, as [`Message::bytes`] returns it.
    ///
    /// # Errors
    /// As [`Message::bytes`].
    pub fn append_to(&self, bytes: &mut Vec<u8>) -> Result<(), ContentError> {
        match &self.content {
            Content::Raw(content) => bytes.extend_from_slice(content),
            Content::Document(document) => document.root().write_json(bytes)?,
            Content::Rendered(filled) => filled.append_to(bytes)?,
        }
        Ok(())
    }

    /// Fixes the content for an output: keeps what is needed to write it, and nothing that it was made
    /// from. A message that is written again has the same bytes again.
    ///
    /// # Errors
    /// When the content cannot be written as JSON.
    pub fn fix(&mut self) -> Result<(), ContentError> {
        match &self.content {
            Content::Raw(_) => {}
            Content::Document(_) => self.content = Content::Raw(self.bytes()?),
            Content::Rendered(filled) if filled.has_document() => {
                self.content = Content::Rendered(filled.clone().without_document());
            }
            Content::Rendered(_) => {}
        }
        Ok(())
    }

    /// The length in bytes of a content that was fixed.
    #[must_use]
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Raw(bytes) => bytes.len(),
            Content::Document(_) => 0,
            Content::Rendered(filled) => filled.size(),
        }
    }

    /// Whether a content that was fixed is a JSON object, as far as its first character tells.
    #[must_use]
    pub fn is_object(&self) -> bool {
        match &self.content {
            Content::Raw(bytes) => bytes.trim_ascii_start().starts_with(b"{"),
            Content::Document(document) => document.root().is_object(),
            Content::Rendered(_) => true,
        }
    }

    /// Why the message is flagged as failed, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_deref()
    }

    /// Flags the message as failed. It continues through the pipeline: `catch` handles it, a strict output
    /// rejects it.
    ///
    /// The first failure is kept, because later ones follow from it. Only a failure that is being caught is
    /// replaced.
    pub fn fail(&mut self, component: impl Into<Arc<str>>, reason: impl Into<Arc<str>>) {
        self.fail_with(Cause::Processing, component, reason);
    }

    /// Flags the message as failed, with a kind of reason.
    pub fn fail_with(
        &mut self,
        cause: Cause,
        component: impl Into<Arc<str>>,
        reason: impl Into<Arc<str>>,
    ) {
        if self.failure.is_none() || self.caught {
            self.caught = false;
            self.failure = Some(Box::new(Failure {
                component: component.into(),
                reason: reason.into(),
                cause,
            }));
        }
    }

    /// Marks the failure as being caught: it can still be read, and the next one replaces it.
    pub fn catch_failure(&mut self) {
        self.caught = self.failure.is_some();
    }

    /// Whether the current failure is being caught.
    #[must_use]
    pub fn is_caught(&self) -> bool {
        self.caught
    }

    /// Removes the flag and returns it.
    pub fn clear_failure(&mut self) -> Option<Failure> {
        self.caught = false;
        self.failure.take().map(|failure| *failure)
    }
}

/// Messages that are processed and acknowledged together.
pub type Batch = Vec<Message>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::template::{Forms, JsonTemplate};

    #[test]
    fn raw_bytes_are_parsed_only_on_request() {
        let message = Message::raw(&b"not json"[..]);
        assert_eq!(&message.bytes().unwrap()[..], b"not json");
        assert!(message.tree().is_err());
        assert_eq!(&message.bytes().unwrap()[..], b"not json");
    }

    #[test]
    fn every_kind_of_content_converts_to_every_other() {
        let value = json!({"a": [1, 2.5, null]});
        let document = Document::from(&value);
        let template = JsonTemplate::new(document.root(), &[], &Forms::default()).unwrap();
        for content in [
            Content::Raw(Bytes::from_static(br#"{"a":[1,2.5,null]}"#)),
            Content::Document(document),
            Content::Rendered(RenderedJson::new(Arc::new(template), Box::default())),
        ] {
            let message = Message::new(content);
            assert_eq!(&message.bytes().unwrap()[..], br#"{"a":[1,2.5,null]}"#);
            assert_eq!(message.document().unwrap().root().to_value(), value);
            assert_eq!(message.tree().unwrap(), value);
        }
    }

    #[test]
    fn a_fixed_content_has_its_bytes_and_nothing_that_they_were_made_from() {
        let value = json!({"id": "a", "n": [1]});
        let document = Document::from(&value);
        let forms = Forms::default();
        let template = JsonTemplate::new(document.root(), &["id"], &forms).unwrap();
        let rendered = RenderedJson::new(Arc::new(template), [Arc::from("a")].into());
        let text = br#"{"id":"a","n":[1]}"#;
        for content in [
            Content::Raw(Bytes::from_static(text)),
            Content::Document(document.clone()),
            Content::Rendered(rendered.with_document(document)),
        ] {
            let mut message = Message::new(content);
            message.fix().unwrap();
            let mut bytes = Vec::new();
            message.append_to(&mut bytes).unwrap();
            assert_eq!((bytes.as_slice(), message.size()), (&text[..], text.len()));
            assert!(message.is_object());
            match message.content() {
                Content::Raw(_) => {}
                Content::Document(_) => panic!("it is not encoded"),
                Content::Rendered(rendered) => assert!(!rendered.has_document()),
            }
        }
    }

    #[test]
    fn parts_share_everything_but_the_content_and_say_which_they_are() {
        let identity = Identity {
            about: "pod a/b".into(),
            uid: "u".into(),
            start: 1,
            end: 2,
            cluster: None,
        };
        let mut whole = Message::raw("[1,2]")
            .with_identity(identity)
            .with_origin(7)
            .tried_again();
        whole.metadata.set("k", "v");
        let raw = |text: &'static str| Content::Raw(Bytes::from_static(text.as_bytes()));
        let parts: Vec<_> = whole.clone().divide(vec![raw("1"), raw("2")]).collect();
        let about: Vec<_> = parts.iter().map(|it| it.about().into_owned()).collect();
        assert_eq!(about, ["pod a/b, part 1 of 2", "pod a/b, part 2 of 2"]);
        for (part, content) in parts.iter().zip(["1", "2"]) {
            assert_eq!(part.bytes().unwrap(), content);
            assert_eq!((part.origin(), part.was_rejected()), (Some(7), true));
            assert_eq!(part.identity(), whole.identity());
            assert_eq!(part.metadata, whole.metadata);
        }
        let inner: Vec<_> = parts[1]
            .clone()
            .divide(vec![raw("3"), raw("4")])
            .map(|it| it.about().into_owned())
            .collect();
        assert_eq!(inner[0], "pod a/b, part 1 of 2 of part 2 of 2");
        let mut single = whole.clone().divide(vec![raw("1")]);
        assert_eq!(single.next().unwrap().about(), "pod a/b");
        assert!(whole.divide(Vec::new()).next().is_none());
    }

    #[test]
    fn several_limits_of_a_batch_apply_together() {
        let limit = |count, byte_size| Arc::new(BatchLimit { count, byte_size });
        let mut message = Message::raw("x");
        assert_eq!(message.batch_limit(), None);
        message.limit_batch(&limit(10, 100));
        message.limit_batch(&limit(20, 50));
        assert_eq!(message.batch_limit(), Some(&*limit(10, 50)));
    }

    #[test]
    fn metadata_is_set_once_per_key() {
        let mut metadata = Metadata::default();
        metadata.set("a", "1");
        metadata.set("a".to_owned(), "2");
        assert_eq!(metadata.iter().count(), 1);
        assert_eq!(metadata.get("a").map(AsRef::as_ref), Some("2"));
        metadata.remove("a");
        assert_eq!(metadata.get("a"), None);
    }

    #[test]
    fn the_first_failure_stays_until_it_is_caught_or_cleared() {
        let mut message = Message::value(&json!(1));
        message.fail("mapping", "no");
        message.fail("json_schema", "not an event, because of that");
        assert_eq!(message.failure().unwrap().reason.as_ref(), "no");
        message.catch_failure();
        assert!(message.is_caught());
        message.fail("log", "while catching");
        assert!(!message.is_caught());
        let failure = message.clear_failure().unwrap();
        assert_eq!(failure.reason.as_ref(), "while catching");
        assert!(message.failure().is_none());
    }
}

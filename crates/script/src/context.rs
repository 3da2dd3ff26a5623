//! What a running script can ask about the message at hand.

use std::{
    cell::Cell,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use meterline_core::{Content, Document, Failure, Identity, Message, Metadata};
use rhai::{EvalAltResult, NativeCallContext};

use crate::{convert, engine::EventId, materialise, pod::Totals};

/// The message as native functions see it. It travels as the tag of the call, so that a function
/// finds it wherever it is called from, in a function value too.
#[derive(Clone)]
pub(crate) struct Context(Arc<Inner>);

struct Inner {
    metadata: Metadata,
    failure: Option<Failure>,
    identity: Option<Identity>,
    content: Content,
    document: OnceLock<Result<Document, String>>,
    totals: OnceLock<Totals>,
    event_id: EventId,
}

impl Context {
    /// The context of a run over `message`. The content is copied only `with_content`: a tree of
    /// its own would cost more than the run.
    pub(crate) fn new(message: &Message, with_content: bool, event_id: EventId) -> Self {
        let content = match message.content() {
            Content::Value(_) if !with_content => Content::Value(serde_json::Value::Null),
            content => content.clone(),
        };
        Self(Arc::new(Inner {
            metadata: message.metadata.clone(),
            failure: message.failure().cloned(),
            identity: message.identity().cloned(),
            content,
            document: OnceLock::new(),
            totals: OnceLock::new(),
            event_id,
        }))
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.0.failure.as_ref()
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref()
    }

    pub(crate) fn event_id(&self) -> EventId {
        self.0.event_id
    }

    /// The content as bytes.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, String> {
        match &self.0.content {
            Content::Raw(bytes) => Ok(bytes.to_vec()),
            Content::Document(document) => serde_json::to_vec(document).map_err(text),
            Content::Value(value) => serde_json::to_vec(value).map_err(text),
        }
    }

    /// The content as a script value.
    pub(crate) fn this(&self) -> Result<rhai::Dynamic, String> {
        match &self.0.content {
            Content::Value(value) => Ok(convert::from_json(value)),
            _ => Ok(materialise::whole(self.document()?.root())),
        }
    }

    /// What the pod at hand reserves, read at most once a run.
    pub(crate) fn totals(&self) -> Result<&Totals, String> {
        let document = self.document()?;
        Ok(self.0.totals.get_or_init(|| Totals::of(document.root())))
    }

    /// The content as a document, made at most once a run.
    pub(crate) fn document(&self) -> Result<&Document, String> {
        self.0
            .document
            .get_or_init(|| match &self.0.content {
                Content::Raw(bytes) => Document::from_json(bytes)
                    .map_err(|error| format!("the message is not valid JSON: {error}")),
                Content::Document(document) => Ok(document.clone()),
                Content::Value(value) => Ok(Document::from(value)),
            })
            .as_ref()
            .map_err(Clone::clone)
    }
}

fn text(error: serde_json::Error) -> String {
    error.to_string()
}

/// The message of the call that a native function answers.
///
/// # Errors
/// When there is none, which no way of calling a script leads to.
pub(crate) fn of(call: &NativeCallContext<'_>) -> Result<Context, Box<EvalAltResult>> {
    call.tag()
        .and_then(|tag| tag.read_lock::<Context>())
        .map(|context| context.clone())
        .ok_or_else(|| "this function needs a message".into())
}

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sets the wall deadline of the calling thread until dropped.
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn start(limit: Duration) -> Self {
        Self(DEADLINE.replace(Instant::now().checked_add(limit)))
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        DEADLINE.set(self.0);
    }
}

/// Whether the running script has had its time.
pub(crate) fn is_late() -> bool {
    DEADLINE
        .get()
        .is_some_and(|deadline| Instant::now() >= deadline)
}

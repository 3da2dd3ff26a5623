//! What a running script can ask about the message at hand.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use meterline_core::{Document, Failure, Identity, Message, Metadata};
use rhai::{EvalAltResult, NativeCallContext};

use crate::{
    materialise,
    notes::{Loss, Note, Notes},
    prefix::Skipped,
};

/// The message as native functions see it. It travels as the tag of the call, so that a function
/// finds it wherever it is called from, in a function value too.
#[derive(Clone)]
pub(crate) struct Context(Arc<Inner>);

struct Inner {
    message: Message,
    document: OnceLock<Result<Document, String>>,
    notes: Mutex<Notes>,
    skipped: OnceLock<Skipped>,
}

impl Context {
    /// The context of a run over `message`.
    pub(crate) fn new(message: Message) -> Self {
        Self(Arc::new(Inner {
            message,
            skipped: OnceLock::new(),
            document: OnceLock::new(),
            notes: Mutex::default(),
        }))
    }

    /// The message back, after the run, and what was noted.
    pub(crate) fn into_parts(self) -> (Message, Vec<Note>) {
        let taken = std::mem::take(&mut *self.notes()).into_vec();
        // Nothing that outlives a run holds a context; if something did, a copy is as good.
        let message = Arc::try_unwrap(self.0)
            .map_or_else(|inner| inner.message.clone(), |inner| inner.message);
        (message, taken)
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which fields `this` does not have, though a prefix of theirs is read.
    pub(crate) fn set_skipped(&self, skipped: Skipped) {
        // Once a run, before the script starts.
        let _ = self.0.skipped.set(skipped);
    }

    /// How many fields of a prefix `this` does not have, as they are too many.
    pub(crate) fn skipped(&self, prefix: &str) -> usize {
        let skipped = self.0.skipped.get();
        skipped.and_then(|it| it.get(prefix)).copied().unwrap_or(0)
    }

    /// Notes that something was left out or cut.
    pub(crate) fn note(&self, loss: Loss, text: String) {
        self.notes().add(loss, text);
    }

    pub(crate) fn message(&self) -> &Message {
        &self.0.message
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.0.message.metadata
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.0.message.failure()
    }

    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.0.message.identity()
    }

    /// The content as bytes.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, String> {
        let bytes = self.message().bytes();
        bytes.map(Vec::from).map_err(|error| error.to_string())
    }

    /// The content as a script value.
    pub(crate) fn this(&self) -> Result<rhai::Dynamic, String> {
        Ok(materialise::whole(self.document()?.root()))
    }

    /// The content as a document, made at most once a run.
    pub(crate) fn document(&self) -> Result<&Document, String> {
        self.0
            .document
            .get_or_init(|| self.message().document().map_err(|error| error.to_string()))
            .as_ref()
            .map_err(Clone::clone)
    }
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

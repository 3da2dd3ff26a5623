//! What native functions can access of the current message.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use meterline_core::{Document, Failure, Identity, Message, Metadata};
use rhai::{EvalAltResult, NativeCallContext};

use crate::{
    materialise,
    notes::{Loss, Note, Notes},
    prefix::{self, Cut, Skipped},
};

/// The message as native functions see it. It is the tag of the call, so that functions find it wherever
/// they are called, including in function values.
#[derive(Clone)]
pub(crate) struct Context(Arc<Inner>);

struct Inner {
    message: Message,
    document: OnceLock<Result<Document, String>>,
    notes: Mutex<Notes>,
    skipped: OnceLock<Skipped>,
}

impl Context {
    /// Creates the context of a run over `message`.
    pub(crate) fn new(message: Message) -> Self {
        Self(Arc::new(Inner {
            message,
            skipped: OnceLock::new(),
            document: OnceLock::new(),
            notes: Mutex::default(),
        }))
    }

    /// Returns the message and the notes after a run.
    pub(crate) fn into_parts(self) -> (Message, Vec<Note>) {
        let taken = std::mem::take(&mut *self.notes()).into_vec();
        // Nothing that outlives a run holds a context; otherwise a copy is returned.
        let message = Arc::try_unwrap(self.0)
            .map_or_else(|inner| inner.message.clone(), |inner| inner.message);
        (message, taken)
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how many fields of each prefix are missing in `this`.
    pub(crate) fn set_skipped(&self, skipped: Skipped) {
        // Called once per run, before the script starts.
        let _ = self.0.skipped.set(skipped);
    }

    /// Returns how many fields of a prefix are missing in `this`, because there are too many.
    pub(crate) fn skipped(&self, prefix: &str) -> usize {
        let skipped = self.0.skipped.get();
        skipped.and_then(|it| it.get(prefix)).copied().unwrap_or(0)
    }

    /// Notes that something was omitted or truncated.
    pub(crate) fn note(&self, loss: Loss, text: String) {
        self.notes().add(loss, text);
    }

    /// Notes what was omitted or truncated of the fields of a prefix, if anything was.
    pub(crate) fn note_cut(&self, prefix: &str, cut: &Cut) {
        if *cut != Cut::default() {
            self.note(Loss::Text, prefix::explain(prefix, cut));
        }
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

    /// Returns the content as bytes.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, String> {
        let bytes = self.message().bytes();
        bytes.map(Vec::from).map_err(|error| error.to_string())
    }

    /// Returns the content as a script value.
    pub(crate) fn this(&self) -> Result<rhai::Dynamic, String> {
        Ok(materialise::whole(self.document()?.root()))
    }

    /// Returns the content as a document, which is parsed at most once per run.
    pub(crate) fn document(&self) -> Result<&Document, String> {
        self.0
            .document
            .get_or_init(|| self.message().document().map_err(|error| error.to_string()))
            .as_ref()
            .map_err(Clone::clone)
    }
}

/// Returns the context of a call.
///
/// # Errors
/// When the call has none, which does not happen in a run.
pub(crate) fn of(call: &NativeCallContext<'_>) -> Result<Context, Box<EvalAltResult>> {
    call.tag()
        .and_then(|tag| tag.read_lock::<Context>())
        .map(|context| context.clone())
        .ok_or_else(|| "this function needs a message".into())
}

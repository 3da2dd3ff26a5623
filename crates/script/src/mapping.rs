//! A script that transforms a message.

use meterline_core::{
    Content, Document, Message, Metadata, Reads, foreseen::Foreseen, template::new_owner,
};
use rhai::{Dynamic, Map, Scope};

use crate::{
    Engine, RunError, ScriptError,
    convert::{self, Deleted},
    notes::Note,
    script::{Done, Script},
};

/// The tag of a `root` without an assignment. An assignment to `root` replaces the value and the tag; an
/// assignment to a field keeps the tag but fills the map.
const UNTOUCHED: i32 = 1;

/// A compiled mapping.
pub struct Mapping {
    script: Script,
    id: u64,
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapping").finish_non_exhaustive()
    }
}

/// The result of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapped {
    /// The message is kept, changed or not.
    Kept,
    /// The mapping dropped the message with `root = deleted()`.
    Dropped,
}

/// What an evaluation does to the content.
enum Outcome {
    Unchanged,
    Changed(Document),
    Dropped,
}

impl Outcome {
    fn apply(self, message: &mut Message) -> Mapped {
        match self {
            Self::Unchanged => Mapped::Kept,
            Self::Changed(document) => {
                message.set_content(Content::Document(document));
                Mapped::Kept
            }
            Self::Dropped => Mapped::Dropped,
        }
    }
}

impl Engine {
    /// Compiles a mapping.
    ///
    /// # Errors
    /// Every error that can be found without a message.
    pub fn compile_mapping(&self, source: &str) -> Result<Mapping, Vec<ScriptError>> {
        Mapping::compile(self, source)
    }
}

impl Mapping {
    fn compile(engine: &Engine, source: &str) -> Result<Self, Vec<ScriptError>> {
        Ok(Self {
            script: Script::compile(engine, source, (1, 1))?,
            id: new_owner(),
        })
    }

    /// Maps `message` in place.
    ///
    /// If the script allows it, the result is stored with the document, and reused when the same
    /// document is mapped again.
    ///
    /// # Errors
    /// When the script fails; the message is then unchanged.
    pub fn run(&self, message: &mut Message) -> Result<Mapped, RunError> {
        self.run_noting(message, &mut Vec::new())
    }

    /// As [`Mapping::run`]; also adds to `notes` what was omitted or truncated. A reused result adds no
    /// notes.
    ///
    /// # Errors
    /// As [`Mapping::run`].
    pub fn run_noting(
        &self,
        message: &mut Message,
        notes: &mut Vec<Note>,
    ) -> Result<Mapped, RunError> {
        let Some(reuse) = &self.script.analysis.reuse else {
            let outcome = self.evaluate(message, notes)?;
            return Ok(outcome.apply(message));
        };
        if let Some(filled) = reuse.recall(self.id, message) {
            message.set_content(Content::Rendered(filled));
            return Ok(Mapped::Kept);
        }
        let document = match message.content() {
            Content::Document(document) => document.clone(),
            _ => {
                let outcome = self.evaluate(message, notes)?;
                return Ok(outcome.apply(message));
            }
        };
        Ok(match self.evaluate(message, notes)? {
            Outcome::Changed(result) => {
                let content = reuse.remember(self.id, &document, message, result);
                message.set_content(content);
                Mapped::Kept
            }
            outcome => outcome.apply(message),
        })
    }

    /// Evaluates the script. Returns the new content; changes the metadata in place.
    fn evaluate(&self, message: &mut Message, notes: &mut Vec<Note>) -> Result<Outcome, RunError> {
        let variables = |message: &Message| {
            let mut scope = Scope::new();
            let mut root = Dynamic::from_map(Map::new());
            root.set_tag(UNTOUCHED);
            scope.push_dynamic("root", root);
            if self.script.analysis.uses_meta_variable {
                scope.push_dynamic("meta", metadata_map(&message.metadata));
            }
            scope
        };
        // The result of a mapping is `root`, not the value of its last statement.
        let Done {
            mut scope,
            notes: noted,
            ..
        } = self.script.run(message, variables)?;
        notes.extend(noted);

        let root = take(&mut scope, "root");
        if root.is::<Deleted>() {
            return Ok(Outcome::Dropped);
        }
        let metadata = if self.script.analysis.uses_meta_variable {
            Some(changed(&message.metadata, take(&mut scope, "meta"))?)
        } else {
            None
        };
        let outcome = if is_untouched(&root) {
            Outcome::Unchanged
        } else {
            Outcome::Changed(convert::to_document(&root).map_err(RunError::nowhere)?)
        };
        if let Some(metadata) = metadata {
            message.metadata = metadata;
        }
        Ok(outcome)
    }

    /// Returns what the mapping reads of the content.
    #[must_use]
    pub fn reads(&self) -> &Reads {
        &self.script.analysis.reads
    }

    /// The tables that the mapping looks up by name: the message of each is the name.
    pub(crate) fn tables(&self) -> &[ScriptError] {
        &self.script.analysis.tables
    }

    /// Whether the result depends only on the message, so that equal messages become equal bytes.
    #[must_use]
    pub fn is_pure(&self) -> bool {
        self.script.analysis.is_pure
    }

    /// Derives what is known about messages after the mapping from what is known before it. `text` is
    /// the number of the script's text in the configuration.
    #[must_use]
    pub fn foresee(&self, before: &Foreseen, text: Option<u64>) -> Foreseen {
        self.script.foresee(before, text)
    }

    /// Returns warnings about what works but is likely a mistake.
    #[must_use]
    pub fn lints(&self) -> Vec<ScriptError> {
        self.script.analysis.lints.clone()
    }
}

fn take(scope: &mut Scope<'_>, name: &str) -> Dynamic {
    scope
        .get_mut(name)
        .map(std::mem::take)
        .unwrap_or_default()
        .flatten()
}

fn is_untouched(root: &Dynamic) -> bool {
    root.tag() == UNTOUCHED && root.as_map_ref().is_ok_and(|map| map.is_empty())
}

fn metadata_map(metadata: &Metadata) -> Dynamic {
    Dynamic::from_map(
        metadata
            .iter()
            .map(|(key, value)| (key.into(), Dynamic::from(value.to_string())))
            .collect(),
    )
}

/// Returns the metadata after the script: keys keep their order, and a key set to `()` is removed.
fn changed(before: &Metadata, after: Dynamic) -> Result<Metadata, RunError> {
    let Some(mut after) = after.try_cast::<Map>() else {
        return Err(RunError::nowhere(
            "`meta` is no longer an object; set `meta[\"key\"]` instead of `meta`",
        ));
    };
    let mut metadata = before.clone();
    for (key, old) in before.iter() {
        match after.remove(key) {
            None => metadata.remove(key),
            Some(value) if value.is_unit() || value.is::<Deleted>() => metadata.remove(key),
            Some(value) => {
                let text = text(key, value)?;
                if text != **old {
                    metadata.set(key.to_owned(), text);
                }
            }
        }
    }
    for (key, value) in after {
        if !value.is_unit() && !value.is::<Deleted>() {
            let text = text(&key, value)?;
            metadata.set(key.to_string(), text);
        }
    }
    Ok(metadata)
}

fn text(key: &str, value: Dynamic) -> Result<String, RunError> {
    convert::to_plain_text(&value)
        .map_err(|reason| RunError::nowhere(format!("meta[\"{key}\"]: {reason}")))
}

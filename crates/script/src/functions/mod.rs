//! The function library, in addition to Rhai's own arithmetic, text, array and object functions. One
//! file per group declares its functions with their documentation and examples; a test runs the
//! examples.

mod claim_devices;
mod collections;
mod collections_docs;
mod devices;
mod gpu_type;
mod ids;
mod known;
pub(crate) mod known_devices;
mod kubernetes;
mod labelled;
mod lookup;
mod message;
mod node_ready;
mod objects;
mod operators;
mod quantities;
mod related;
mod reserved;
mod signature;
mod subject;

mod text;
mod time;
mod values;

use std::{collections::HashMap, sync::LazyLock};

use meterline_core::Reads;
use rhai::{Engine, EvalAltResult};

pub(crate) use gpu_type::gpu_type_reads;
pub(crate) use known::{changes_its_argument, is_known, nearest};
use kubernetes::unit;
pub(crate) use labelled::data_annotations_reads;
use labelled::wrong_owner;
pub use node_ready::NODE_READY;
pub(crate) use signature::{Type, mismatch, result, wrong_word};
pub(crate) use subject::subject_reads;
use subject::wrong_source;

use crate::paths::{self, MAKE_PATH};

/// What the result of a function depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purity {
    /// The arguments, and the message except its content: metadata, identity, failure.
    Pure,
    /// The arguments, the message, and these parts of its content, in the syntax of [`Reads::of`].
    Content(&'static [&'static str]),
    /// Also the clock or random numbers.
    World,
}

/// A chapter of the function reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The message.
    Message,
    /// Ids.
    Ids,
    /// Kubernetes quantities and pods.
    Kubernetes,
    /// Times and durations.
    Time,
    /// Arrays and objects.
    Collections,
    /// Text.
    Text,
    /// Numbers and other conversions.
    Values,
}

/// A script with its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Example {
    /// An expression.
    pub script: &'static str,
    /// The content of the message as JSON, where it matters.
    pub input: &'static str,
    /// The value as JSON, or the error.
    pub output: &'static str,
}

/// A function of the library.
#[derive(Debug, Clone, Copy)]
pub struct FunctionDoc {
    /// The name.
    pub name: &'static str,
    /// Arguments and result. A receiver can also be passed as the first argument.
    pub signature: &'static str,
    /// What the function returns or does.
    pub summary: &'static str,
    /// The chapter it belongs to.
    pub group: Group,
    /// What its result depends on.
    pub purity: Purity,
    /// Examples that run.
    pub examples: &'static [Example],
}

/// The result of a native function.
pub(crate) type NativeResult<T> = Result<T, Box<EvalAltResult>>;

static DOCS: LazyLock<Vec<FunctionDoc>> = LazyLock::new(|| {
    [
        message::DOCS,
        ids::DOCS,
        quantities::DOCS,
        kubernetes::DOCS,
        gpu_type::DOCS,
        reserved::DOCS,
        devices::DOCS,
        claim_devices::DOCS,
        objects::DOCS,
        node_ready::DOCS,
        related::DOCS,
        subject::DOCS,
        labelled::DOCS,
        lookup::DOCS,
        time::DOCS,
        collections_docs::DOCS,
        text::DOCS,
        values::DOCS,
    ]
    .concat()
});

static PURITY: LazyLock<HashMap<&'static str, Purity>> =
    LazyLock::new(|| DOCS.iter().map(|doc| (doc.name, doc.purity)).collect());

pub(crate) fn docs() -> &'static [FunctionDoc] {
    &DOCS
}

/// Returns what a function reads of the content.
pub(crate) fn reads(name: &str) -> Reads {
    match purity(name) {
        Some(Purity::Content(paths)) => Reads::of(paths),
        _ => Reads::default(),
    }
}

/// Returns what the result of a function depends on; `None` for Rhai's own functions, which are pure.
pub(crate) fn purity(name: &str) -> Option<Purity> {
    PURITY.get(name).copied()
}

pub(crate) fn register(engine: &mut Engine) {
    engine.register_fn(MAKE_PATH, paths::make_path);
    message::register(engine);
    ids::register(engine);
    quantities::register(engine);
    kubernetes::register(engine);
    gpu_type::register(engine);
    reserved::register(engine);
    devices::register(engine);
    claim_devices::register(engine);
    objects::register(engine);
    node_ready::register(engine);
    related::register(engine);
    subject::register(engine);
    labelled::register(engine);
    lookup::register(engine);
    time::register(engine);
    collections::register(engine);
    text::register(engine);
    values::register(engine);
    operators::register(engine);
}

#[cfg(test)]
mod tests {
    use meterline_core::{Content, Document, Message};

    use super::*;
    use crate::{DeviceReads, Engine, Limits};

    #[test]
    fn every_function_has_examples_with_the_right_results() {
        let engine = Engine::new(Limits::default());
        let mut wrong = String::new();
        for doc in docs() {
            assert!(!doc.examples.is_empty(), "{} has no example", doc.name);
            assert!(doc.signature.contains(doc.name), "{}", doc.name);
            assert!(
                doc.summary.ends_with('.') || doc.summary.ends_with(')'),
                "{}",
                doc.name
            );
            for example in doc.examples {
                let message = Message::raw(example.input.as_bytes().to_vec());
                let output = match engine.compile_expression(example.script) {
                    Ok(expression) => match expression.evaluate(&message) {
                        Ok(value) => Message::new(Content::Document(value))
                            .bytes()
                            .map(|bytes| String::from_utf8(bytes.into()).unwrap())
                            .unwrap(),
                        Err(error) => error.to_string(),
                    },
                    Err(errors) => format!("{errors:?}"),
                };
                if output != example.output {
                    wrong += &format!(
                        "{}\n  returns  {output}\n  not      {}\n",
                        example.script, example.output
                    );
                }
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    }

    /// Each example has the same result when the content is reduced to what the functions declare.
    #[test]
    fn functions_read_only_what_they_declare() {
        let engine = Engine::new(Limits::default());
        for doc in docs() {
            for example in doc.examples {
                let Ok(expression) = engine.compile_expression(example.script) else {
                    continue;
                };
                let whole = Document::from_json(example.input.as_bytes()).unwrap();
                let mut reads = expression.reads().clone();
                DeviceReads::take(&mut reads).read_labels(&mut reads);
                let kept = whole.project(&reads);
                let value = |content: Document| {
                    let message = Message::new(Content::Document(content));
                    let value = expression.evaluate(&message);
                    value
                        .map(|it| it.root().to_value())
                        .map_err(|it| it.to_string())
                };
                // The id of a message without an identity depends on the whole content.
                if doc.name != "event_id" {
                    assert_eq!(value(kept), value(whole), "{}", example.script);
                }
            }
        }
    }

    #[test]
    fn no_function_is_declared_twice() {
        let mut names: Vec<_> = docs().iter().map(|doc| doc.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}

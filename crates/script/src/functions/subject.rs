//! The function that returns who pays.

use meterline_core::{Node, Reads, Step};
use rhai::{Dynamic, Engine, NativeCallContext};

use super::{Example, FunctionDoc, Group, NativeResult, Purity, text::nonblank};
use crate::{context, relation::Relation};

/// The annotation of a pod or of a namespace that names the subject.
const ANNOTATION: &str = "openmeter.io/subject";

pub(super) const DOCS: &[FunctionDoc] = &[FunctionDoc {
    name: "subject",
    signature: "subject(source) -> text | ()",
    summary: "Returns who pays for the object. `pod`: its annotation `openmeter.io/subject`, else its name; whoever \
              creates the object writes both. `namespace`: the same of its namespace, which a tenant cannot \
              write. `namespace-label:KEY`: a label of its namespace, else the name of the namespace. \
              `node-label:KEY`: a label of its node, else the name of its namespace. Values are trimmed, and \
              blank ones count as missing, as with `nonblank`. () if the object has no such name. What it reads \
              follows from the source.",
    group: Group::Kubernetes,
    purity: Purity::Content(&[
        "metadata.annotations.openmeter~1io/subject",
        "metadata.name",
        "metadata.namespace",
        "namespace()",
        "node()",
    ]),
    examples: &[Example {
        script: r#"["pod", "namespace", "namespace-label:tier", "node-label:owner"].map_each(|it| subject(it))"#,
        input: r#"{"metadata":{"name":"web","namespace":"shop","annotations":{"openmeter.io/subject":"me"}},"namespace()":{"name":"shop","annotations":{"openmeter.io/subject":"acme"},"labels":{"tier":"gold"}}}"#,
        output: r#"["me","acme","gold","shop"]"#,
    }],
}];

/// Where the subject comes from.
enum Source<'a> {
    Pod,
    Namespace,
    Label(Relation, &'a str),
}

impl<'a> Source<'a> {
    /// Parses the word for it.
    fn of(text: &'a str) -> Result<Self, String> {
        let label = |prefix| {
            text.strip_prefix(prefix)
                .filter(|key: &&str| !key.is_empty())
        };
        match text {
            "pod" => return Ok(Self::Pod),
            "namespace" => return Ok(Self::Namespace),
            _ => {}
        }
        if let Some(key) = label("namespace-label:") {
            return Ok(Self::Label(Relation::Namespace, key));
        }
        if let Some(key) = label("node-label:") {
            return Ok(Self::Label(Relation::Node, key));
        }
        Err(format!(
            "`{text}` is no source of a subject; use pod, namespace, namespace-label:KEY or node-label:KEY"
        ))
    }

    /// The path of the text that it names.
    fn path(&self) -> [&'a str; 3] {
        match self {
            Self::Pod => ["metadata", "annotations", ANNOTATION],
            Self::Namespace => [Relation::Namespace.key(), "annotations", ANNOTATION],
            Self::Label(relation, key) => [relation.key(), "labels", key],
        }
    }

    /// The path of the name that stands for a missing text.
    fn name(&self) -> [&'static str; 2] {
        match self {
            Self::Pod => ["metadata", "name"],
            Self::Namespace | Self::Label(..) => ["metadata", "namespace"],
        }
    }
}

/// Returns what the function reads if its argument is this text.
pub(crate) fn subject_reads(source: &str) -> Reads {
    let Ok(source) = Source::of(source) else {
        return super::reads("subject");
    };
    let mut reads = Reads::default();
    reads.add(&source.path().map(Step::Key));
    reads.add(&source.name().map(Step::Key));
    reads
}

/// Returns the error of an argument that is this text.
pub(super) fn wrong_source(source: &str) -> Option<String> {
    Source::of(source).err()
}

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn(
        "subject",
        |call: NativeCallContext, source: &str| -> NativeResult<Dynamic> {
            let source = Source::of(source)?;
            let context = context::of(&call)?;
            let root = context.document()?.root();
            let text = |path: &[&str]| root.path(path).and_then(Node::as_str);
            if let Some(text) = text(&source.path()) {
                let subject = nonblank(call, text)?;
                if !subject.is_unit() {
                    return Ok(subject);
                }
            }
            Ok(text(&source.name()).map_or(Dynamic::UNIT, Into::into))
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_source_names_is_read() {
        for (source, paths) in [
            (
                "pod",
                "metadata.annotations.openmeter~1io/subject, metadata.name",
            ),
            (
                "namespace",
                "metadata.namespace, namespace().annotations.openmeter~1io/subject",
            ),
            (
                "namespace-label:a.b/c",
                "metadata.namespace, namespace().labels.a~1b/c",
            ),
            ("node-label:x", "metadata.namespace, node().labels.x"),
        ] {
            assert_eq!(subject_reads(source).to_string(), paths, "{source}");
            assert_eq!(wrong_source(source), None);
        }
        for wrong in ["", "pods", "namespace-label:", "table:x"] {
            let error = wrong_source(wrong).unwrap();
            assert!(error.contains("use pod, namespace"), "{error}");
        }
    }
}

//! The function that returns who pays.

use meterline_core::{Node, Reads, Step};
use rhai::{Dynamic, Engine, NativeCallContext};

use super::{Example, FunctionDoc, Group, NativeResult, Purity, lookup, text::nonblank};
use crate::{context, lookups, relation::Relation, table::TableFormat, wildcard};

/// The annotation of a pod or of a namespace that names the subject.
const ANNOTATION: &str = "openmeter.io/subject";

pub(super) const DOCS: &[FunctionDoc] = &[FunctionDoc {
    name: "subject",
    signature: "subject(source) -> text | (), subject(source, patterns) -> text | ()",
    summary: "Returns who pays for the object. `pod`: its annotation `openmeter.io/subject`, else its name; whoever \
              creates the object writes both. `namespace`: the same of its namespace, which a tenant cannot \
              write. `namespace-label:KEY`: a label of its namespace, else the name of the namespace. \
              `node-label:KEY`: a label of its node, or of the object itself if it is a node, else the name of its \
              namespace. `table:PATH`: the value of \
              its namespace in a file, as with `lookup`, or the field `subject` of that value; else the name of \
              the namespace. The namespace of a persistent volume is that of its claim; for an object \
              without a namespace its own name stands for the namespace's. Values are trimmed, and blank ones \
              count as missing, as with `nonblank`. () if the object has no such name. What it reads \
              follows from the source. With a comma-separated list of the subjects that are known, in which `*` \
              stands for any text, any other subject is an error, so that its usage is rejected and not \
              delivered; an empty list allows all.",
    group: Group::Kubernetes,
    purity: Purity::Content(&[
        "metadata.annotations.openmeter~1io/subject",
        "metadata.name",
        "metadata.namespace",
        "namespace()",
        "node()",
        "spec.claimRef.namespace",
    ]),
    examples: &[
        Example {
            script: r#"["pod", "namespace", "namespace-label:tier", "node-label:owner"].map_each(|it| subject(it))"#,
            input: r#"{"metadata":{"name":"web","namespace":"shop","annotations":{"openmeter.io/subject":"me"}},"namespace()":{"name":"shop","annotations":{"openmeter.io/subject":"acme"},"labels":{"tier":"gold"}}}"#,
            output: r#"["me","acme","gold","shop"]"#,
        },
        Example {
            script: r#"subject("table:/etc/customers.csv", "acme, test-*")"#,
            input: r#"{"metadata":{"namespace":"shop"},"lookup()":{"table:/etc/customers.csv":{"metadata.namespace":"acme"}}}"#,
            output: r#""acme""#,
        },
    ],
}];

/// Where the subject comes from.
enum Source<'a> {
    Pod,
    Namespace,
    Label(Relation, &'a str),
    /// A table by the namespace, by the name that it has in `lookup()`.
    Table(&'a str),
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
        if let Some(path) = label(lookups::TABLE) {
            TableFormat::of(path)?;
            return Ok(Self::Table(text));
        }
        Err(format!(
            "`{text}` is no source of a subject; use pod, namespace, namespace-label:KEY, node-label:KEY or \
             table:PATH"
        ))
    }

    /// The path of the text that it names.
    fn path(&self) -> [&'a str; 3] {
        match self {
            Self::Pod => ["metadata", "annotations", ANNOTATION],
            Self::Namespace => [Relation::Namespace.key(), "annotations", ANNOTATION],
            Self::Label(relation, key) => [relation.key(), "labels", key],
            Self::Table(table) => [lookups::LOOKUP, table, NAMESPACE_PLACE],
        }
    }

    /// The text that it names in the content of a message.
    fn text<'n>(&self, root: Node<'n>) -> Result<Option<&'n str>, String> {
        let text = |path: &[&str]| root.path(path).and_then(Node::as_str);
        let Self::Table(table) = self else {
            return Ok(text(&self.path()));
        };
        let of_claim = || text(&["spec", "claimRef", "namespace"]);
        let Some(namespace) = text(&["metadata", "namespace"]).or_else(of_claim) else {
            return Ok(None);
        };
        let value = lookup::value(root, table, namespace)?;
        Ok(value.and_then(|it| it.as_str().or_else(|| it.get("subject")?.as_str())))
    }

    /// The paths of the names that stand for a missing text: the first that the object has. A node and a persistent
    /// volume are in no namespace.
    fn names(&self) -> &'static [&'static [&'static str]] {
        const NAME: &[&str] = &["metadata", "name"];
        match self {
            Self::Pod => &[NAME],
            Self::Namespace | Self::Label(..) | Self::Table(_) => &[
                &["metadata", "namespace"],
                &["spec", "claimRef", "namespace"],
                NAME,
            ],
        }
    }
}

/// The places of a namespace's name as the key of a table.
const NAMESPACE_PLACE: &str = "metadata.namespace";
const NAMESPACE_OF_CLAIM: &str = "spec.claimRef.namespace";

/// Returns what the function reads if its argument is this text.
pub(crate) fn subject_reads(source: &str) -> Reads {
    let Ok(source) = Source::of(source) else {
        return super::reads("subject");
    };
    let mut reads = Reads::default();
    reads.add(&source.path().map(Step::Key));
    if let Source::Table(table) = source {
        lookups::add(&mut reads, table, NAMESPACE_OF_CLAIM);
    }
    for name in source.names() {
        reads.add(&name.iter().map(|key| Step::Key(key)).collect::<Vec<_>>());
    }
    reads
}

/// Returns the error of an argument that is this text.
pub(super) fn wrong_source(source: &str) -> Option<String> {
    Source::of(source).err()
}

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn(
        "subject",
        |call: NativeCallContext, source: &str| -> NativeResult<Dynamic> { subject(call, source) },
    );
    engine.register_fn(
        "subject",
        |call: NativeCallContext, source: &str, patterns: &str| -> NativeResult<Dynamic> {
            let subject = subject(call, source)?;
            if let Ok(subject) = subject.as_immutable_string_ref() {
                check(&subject, patterns)?;
            }
            Ok(subject)
        },
    );
}

fn subject(call: NativeCallContext, source: &str) -> NativeResult<Dynamic> {
    let source = Source::of(source)?;
    let context = context::of(&call)?;
    let root = context.document()?.root();
    if let Some(text) = source.text(root)? {
        let subject = nonblank(call, text)?;
        if !subject.is_unit() {
            return Ok(subject);
        }
    }
    let mut names = source
        .names()
        .iter()
        .filter_map(|it| root.path(it)?.as_str());
    Ok(names.next().map_or(Dynamic::UNIT, Into::into))
}

/// Checks a subject against a comma-separated list of patterns; an empty one allows all.
fn check(subject: &str, patterns: &str) -> Result<(), String> {
    let mut patterns = patterns
        .split(',')
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .peekable();
    if patterns.peek().is_none() || patterns.any(|it| wildcard::matches(it, subject)) {
        return Ok(());
    }
    Err(format!(
        "the subject `{subject}` is not one of those that are allowed"
    ))
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
                "metadata.name, metadata.namespace, namespace().annotations.openmeter~1io/subject, spec.claimRef.namespace",
            ),
            (
                "namespace-label:a.b/c",
                "metadata.name, metadata.namespace, namespace().labels.a~1b/c, spec.claimRef.namespace",
            ),
            (
                "node-label:x",
                "metadata.name, metadata.namespace, node().labels.x, spec.claimRef.namespace",
            ),
            (
                "table:/etc/c.csv",
                "lookup().table:/etc/c~1csv.metadata~1namespace, lookup().table:/etc/c~1csv.spec~1claimRef~1namespace, metadata.name, metadata.namespace, spec.claimRef.namespace",
            ),
        ] {
            assert_eq!(subject_reads(source).to_string(), paths, "{source}");
            assert_eq!(wrong_source(source), None);
        }
        for wrong in ["", "pods", "namespace-label:", "table:"] {
            let error = wrong_source(wrong).unwrap();
            assert!(error.contains("use pod, namespace"), "{error}");
        }
        let error = wrong_source("table:/etc/customers").unwrap();
        assert!(error.contains("end in .csv"), "{error}");
    }

    #[test]
    fn a_list_of_subjects_allows_what_matches_and_an_empty_one_all() {
        for (patterns, allowed) in [
            ("", true),
            (" , ", true),
            ("acme", true),
            ("globex, ac*", true),
            ("globex", false),
            ("ACME,acm", false),
        ] {
            let checked = check("acme", patterns);
            assert_eq!(checked.is_ok(), allowed, "{patterns}: {checked:?}");
        }
        assert!(check("x", "y").unwrap_err().contains("`x` is not one of"));
    }
}

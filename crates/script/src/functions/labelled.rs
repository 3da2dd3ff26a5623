//! The function that returns the additional data of an event.

use std::collections::BTreeMap;

use meterline_core::{Node, Reads, Step};
use rhai::{Dynamic, Engine, Map, NativeCallContext};

use super::{Example, FunctionDoc, Group, NativeResult, Purity};
use crate::{context, materialise, prefix, relation::Relation};

/// The start of the annotations that become fields of an event's data.
const PREFIX: &str = "data.openmeter.io/";

pub(super) const DOCS: &[FunctionDoc] = &[FunctionDoc {
    name: "data_annotations",
    signature: "data_annotations(owner) -> object",
    summary: "Returns the values of the annotations `data.openmeter.io/NAME`, by NAME: those of the object (`pods`), \
              which whoever creates the object writes; those of its namespace (`namespaces`), which a tenant cannot \
              write; or nothing (`none`). What is beyond the limits of `select_prefix` is omitted.",
    group: Group::Kubernetes,
    purity: Purity::Content(&[
        "metadata.annotations.data~1openmeter~1io/^^",
        "namespace().annotations.data~1openmeter~1io/^^",
    ]),
    examples: &[Example {
        script: r#"["pods", "namespaces", "none"].map_each(|it| data_annotations(it))"#,
        input: r#"{"metadata":{"annotations":{"data.openmeter.io/team":"a","other":"b"}},"namespace()":{"annotations":{"data.openmeter.io/tier":"gold"}}}"#,
        output: r#"[{"team":"a"},{"tier":"gold"},{}]"#,
    }],
}];

/// The path of the annotations of an owner.
pub(super) fn path(owner: &str) -> Result<&'static [&'static str], String> {
    const NAMESPACE: &str = Relation::Namespace.key();
    match owner {
        "pods" => Ok(&["metadata", "annotations"]),
        "namespaces" => Ok(&[NAMESPACE, "annotations"]),
        "none" => Ok(&[]),
        _ => Err(format!(
            "`{owner}` has no annotations for the data of an event; use pods, namespaces or none"
        )),
    }
}

/// Returns what the function reads if its argument is this text. `is_label` is whether the result only becomes data.
pub(crate) fn data_annotations_reads(owner: &str, is_label: bool) -> Reads {
    let mut reads = Reads::default();
    let Ok(path) = path(owner) else {
        return reads;
    };
    let path: Vec<_> = path.iter().map(|key| Step::Key(key)).collect();
    match path.as_slice() {
        [] => {}
        path if is_label => reads.add_prefix(path, PREFIX),
        path => reads.add_needed_prefix(path, PREFIX),
    }
    reads
}

/// Returns the error of an argument that is this text.
pub(super) fn wrong_owner(owner: &str) -> Option<String> {
    path(owner).err()
}

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn(
        "data_annotations",
        |call: NativeCallContext, owner: &str| -> NativeResult<Map> {
            let path = path(owner)?;
            let context = context::of(&call)?;
            let annotations = context.document()?.root().path(path);
            let Some(annotations) = annotations.filter(|_| !path.is_empty()) else {
                return Ok(Map::new());
            };
            let (selected, cut) = selected(annotations);
            context.note_cut(PREFIX, &cut);
            Ok(selected)
        },
    );
}

/// The fields with the prefix, within limits.
fn selected(annotations: Node<'_>) -> (Map, prefix::Cut) {
    let nothing = BTreeMap::<String, Dynamic>::new();
    let mut skipped = prefix::Skipped::new();
    let first = prefix::first(annotations.entries(), PREFIX, &nothing, &mut skipped);
    let fields = first
        .into_iter()
        .map(|(key, value)| (key.into(), materialise::whole(value)))
        .collect();
    let (selected, mut cut) = prefix::select(&fields, PREFIX);
    cut.fields += skipped.values().sum::<usize>();
    (selected, cut)
}

#[cfg(test)]
mod tests {
    use meterline_core::Document;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_owner_names_is_read() {
        for (owner, is_label, paths) in [
            ("pods", true, "metadata.annotations.data~1openmeter~1io/^"),
            ("pods", false, "metadata.annotations.data~1openmeter~1io/^^"),
            (
                "namespaces",
                true,
                "namespace().annotations.data~1openmeter~1io/^",
            ),
            ("none", true, "nothing"),
        ] {
            let reads = data_annotations_reads(owner, is_label);
            assert_eq!(reads.to_string(), paths, "{owner}");
            assert_eq!(wrong_owner(owner), None);
        }
        let error = wrong_owner("pod").unwrap();
        assert!(error.contains("use pods, namespaces or none"), "{error}");
    }

    #[test]
    fn what_a_tenant_writes_is_within_limits() {
        let many: serde_json::Map<_, _> = (0..12_000)
            .map(|at| (format!("{PREFIX}{at:05}"), json!("x")))
            .collect();
        let (selected, cut) = selected(Document::from(&json!(many)).root());
        assert_eq!(selected.len(), prefix::FIELDS);
        assert_eq!(cut.fields, 12_000 - prefix::FIELDS);
    }
}

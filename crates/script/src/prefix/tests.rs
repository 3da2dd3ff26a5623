use std::sync::LazyLock;

use meterline_core::{Document, Message};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Engine, Limits, Loss, Note};

const SOURCE: &str = "let annotations = this.metadata?.annotations ?? #{};
    root = #{ subject: annotations[\"openmeter.io/subject\"],
        data: annotations.select_prefix(\"data.openmeter.io/\") }";

/// Created once, because setting up the interpreter takes milliseconds.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(Limits::default()));

/// Returns the result of the mapping for these annotations, and its notes.
fn mapped_by(source: &str, annotations: &Value) -> (Value, Vec<Note>) {
    let mapping = ENGINE.compile_mapping(source).unwrap();
    let mut message = Message::value(&json!({"metadata": {"annotations": annotations}}));
    let mut notes = Vec::new();
    mapping.run_noting(&mut message, &mut notes).unwrap();
    (message.tree().unwrap(), notes)
}

fn mapped(annotations: &Value) -> (Value, Vec<Note>) {
    mapped_by(SOURCE, annotations)
}

fn many(count: usize, value: &str) -> Value {
    (0..count)
        .map(|index| (format!("data.openmeter.io/k{index:05}"), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[test]
fn a_pod_may_have_any_number_of_annotations() {
    for (key, fields) in [("other.io/k", 0), ("data.openmeter.io/k", FIELDS)] {
        let mut annotations: serde_json::Map<_, _> = (0..30_000)
            .map(|index| (format!("{key}{index}"), json!("x")))
            .collect();
        annotations.insert("openmeter.io/subject".into(), json!("customer"));
        let (event, notes) = mapped(&annotations.into());
        assert_eq!(event["subject"], "customer");
        assert_eq!(event["data"].as_object().unwrap().len(), fields);
        assert_eq!(notes.len(), usize::from(fields > 0), "{notes:?}");
    }
}

#[test]
fn the_first_fields_by_key_are_selected_and_the_others_counted() {
    let (event, notes) = mapped(&many(FIELDS, "x"));
    assert_eq!(event["data"].as_object().unwrap().len(), FIELDS);
    assert!(notes.is_empty(), "{notes:?}");

    let (event, notes) = mapped(&many(FIELDS + 3, "x"));
    let data = event["data"].as_object().unwrap();
    assert!(data.contains_key("k00000") && data.contains_key("k00063"));
    assert_eq!(data.len(), FIELDS);
    let [
        Note {
            loss: Loss::Text,
            text,
        },
    ] = notes.as_slice()
    else {
        panic!("{notes:?}");
    };
    insta::assert_snapshot!(text, @"of `data.openmeter.io/` 3 fields are omitted; the limits are 64 fields in the order of their keys, 4 KiB per value and 32 KiB in total");
}

#[test]
fn a_field_that_is_also_read_directly_is_not_counted_twice() {
    let source = format!("{SOURCE}; root.last = annotations[\"data.openmeter.io/k00066\"]");
    let (event, notes) = mapped_by(&source, &many(FIELDS + 3, "x"));
    assert_eq!(event["last"], "x");
    assert_eq!(event["data"].as_object().unwrap().len(), FIELDS);
    assert!(notes[0].text.contains(" 3 fields"), "{notes:?}");
}

#[test]
fn a_long_value_is_truncated_between_characters() {
    let text = "é".repeat(VALUE);
    let annotations = json!({
        "data.openmeter.io/a": "x".repeat(VALUE),
        "data.openmeter.io/b": "x".repeat(VALUE + 1),
        "data.openmeter.io/c": format!("x{text}"),
    });
    let (event, notes) = mapped(&annotations);
    let length = |key: &str| event["data"][key].as_str().unwrap().len();
    assert_eq!(["a", "b", "c"].map(length), [VALUE, VALUE, VALUE - 1]);
    assert!(
        notes[0].text.contains("2 values are truncated"),
        "{notes:?}"
    );
}

#[test]
fn all_values_together_are_limited() {
    let (event, notes) = mapped(&many(20, &"x".repeat(3_000)));
    let data = event["data"].as_object().unwrap();
    // Ten whole values, one truncated value, and nine omitted ones.
    assert_eq!(data.len(), 11);
    let all: usize = data.values().map(|it| it.as_str().unwrap().len()).sum();
    assert_eq!(all, VALUES);
    assert!(
        notes[0]
            .text
            .contains("9 fields are omitted and 1 value is truncated"),
        "{notes:?}"
    );
}

#[test]
fn a_key_that_kubernetes_would_refuse_is_omitted() {
    let long = format!("data.openmeter.io/{}", "k".repeat(KEY));
    let (event, notes) =
        mapped(&json!({long: "x", "data.openmeter.io/": "y", "data.openmeter.io/k": "z"}));
    assert_eq!(event["data"], json!({"k": "z"}));
    assert!(notes[0].text.contains("1 field is omitted"), "{notes:?}");
}

#[test]
fn a_value_other_than_text_is_whole_or_omitted() {
    let (event, notes) = mapped(&json!({
        "data.openmeter.io/a": [1, 2.5, null], "data.openmeter.io/b": vec!["x"; VALUE],
    }));
    assert_eq!(event["data"], json!({"a": [1, 2.5, null]}));
    assert_eq!(notes.len(), 1);
}

proptest! {
    /// The fields are the same whether or not the analysis finds what the script reads.
    #[test]
    fn the_selection_does_not_depend_on_how_it_is_read(
        annotations in prop::collection::btree_map(
            "(data\\.openmeter\\.io/|d|other/)[a-f]{0,4}", ".{0,6000}", 0..100)
    ) {
        let annotations = json!(annotations);
        let (all, _) = mapped_by("let all = this; root = all.metadata.annotations
            .select_prefix(\"data.openmeter.io/\")", &annotations);
        let (event, _) = mapped(&annotations);
        prop_assert_eq!(&event["data"], &all);
        let document = Document::from(&event);
        let mut bytes = Vec::new();
        document.root().write_json(&mut bytes).unwrap();
        prop_assert!(std::str::from_utf8(&bytes).is_ok());
        let values: usize = all.as_object().unwrap().values().map(|it| it.as_str().unwrap().len()).sum();
        prop_assert!(values <= VALUES);
    }
}

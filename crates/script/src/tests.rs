//! The language as people meet it.

use meterline_core::{Content, Document, Identity, Message};
use serde_json::{Value, json};

use crate::{Engine, Limits, Mapped, ScriptError};

fn message(value: &Value) -> Message {
    let mut message = Message::new(Content::Document(Document::from(value)));
    message.metadata.set("window", "w1");
    message
}

/// What a mapping makes of a value, or the error as text.
fn map(source: &str, input: &Value) -> Result<Value, String> {
    let mapping = Engine::new(Limits::default())
        .compile_mapping(source)
        .map_err(|errors| text(&errors))?;
    let mut message = message(input);
    match mapping.run(&mut message) {
        Ok(Mapped::Kept) => Ok(message.tree().unwrap().clone()),
        Ok(Mapped::Dropped) => Ok(json!("dropped")),
        Err(error) => Err(error.to_string()),
    }
}

fn evaluate(source: &str, input: &Value) -> Result<Value, String> {
    Engine::new(Limits::default())
        .compile_expression(source)
        .map_err(|errors| text(&errors))?
        .evaluate(&message(input))
        .map_err(|error| error.to_string())
}

fn text(errors: &[ScriptError]) -> String {
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn root_is_what_the_message_becomes() {
    let input = json!({"a": {"b": 1}, "n": null});
    for (source, output) in [
        ("", input.clone()),
        ("let x = this.a;", input.clone()),
        ("root = this", input.clone()),
        ("root = #{ x: this.a.b + 1 }", json!({"x": 2})),
        (
            "root = this; root.a.b = 7",
            json!({"a": {"b": 7}, "n": null}),
        ),
        ("root = this.n", json!(null)),
        ("root = \"text\"", json!("text")),
        ("root = [1, 2.5]", json!([1, 2.5])),
        ("root.x = 1", json!({"x": 1})),
        (
            "root.x.y[\"z w\"].v = 1",
            json!({"x": {"y": {"z w": {"v": 1}}}}),
        ),
        (
            "root = this; root.fresh.deep = this.a",
            json!({"a": {"b": 1}, "n": null, "fresh": {"deep": {"b": 1}}}),
        ),
        ("root = this; root.a = deleted()", json!({"n": null})),
        ("root = deleted()", json!("dropped")),
        (
            "if this.missing == () { root.yes.it = \"is\" }",
            json!({"yes": {"it": "is"}}),
        ),
        (
            "root = this.missing?.deeper?.still ?? \"default\"",
            json!("default"),
        ),
        ("root = this?.a?[\"b\"]", json!(1)),
        ("root = #{}", json!({})),
    ] {
        assert_eq!(map(source, &input), Ok(output), "{source}");
    }
}

#[test]
fn metadata_is_read_and_set() {
    let mapping = Engine::new(Limits::default())
        .compile_mapping(
            r#"
            root = #{ function: meta("window"), variable: meta["window"], none: meta("none") };
            meta["new"] = 5;
            meta["window"] = ();
            "#,
        )
        .unwrap();
    let mut message = message(&json!({}));
    mapping.run(&mut message).unwrap();
    assert_eq!(
        message.tree().unwrap(),
        &json!({"function": "w1", "variable": "w1", "none": null})
    );
    let metadata: Vec<_> = message.metadata.iter().map(|(k, v)| (k, &**v)).collect();
    assert_eq!(metadata, [("new", "5")]);
}

#[test]
fn a_failed_run_leaves_the_message_as_it_was() {
    let mapping = Engine::new(Limits::default())
        .compile_mapping("meta[\"window\"] = \"changed\"; root = #{ a: 1 }; root.b = 1 / 0")
        .unwrap();
    let mut message = message(&json!({"was": "here"}));
    assert!(mapping.run(&mut message).is_err());
    assert_eq!(message.tree().unwrap(), &json!({"was": "here"}));
    assert_eq!(message.metadata.get("window").map(|v| &**v), Some("w1"));
}

#[test]
fn the_id_follows_the_identity() {
    let expression = Engine::new(Limits::default())
        .compile_expression("event_id(\"t\")")
        .unwrap();
    let identity = Identity {
        about: "pod a/b".into(),
        uid: "u".into(),
        start: 5,
        cluster: None,
    };
    let message = Message::value(json!({"any": 1})).with_identity(identity);
    assert_eq!(
        expression.evaluate(&message).unwrap(),
        json!(meterline_core::event_id(None, "t", "u", 5).to_string())
    );
}

use meterline_core::{Identity, event_id};
use serde_json::{Value, json};

use super::*;
use crate::{Engine, Limits, Mapped, Mapping};

const PRESET_LIKE: &str = r#"
    let seconds = meta("schedule_interval").parse_duration() / 1000000000;
    root = #{
        id: event_id("t"),
        time: meta("schedule_time"),
        data: #{ name: this.metadata.name, seconds: seconds, cpu: pod_request("cpu") },
    };
"#;

fn mapping(source: &str) -> Mapping {
    Engine::new(Limits::default())
        .compile_mapping(source)
        .unwrap()
}

fn serves_again(source: &str) -> bool {
    let engine = Engine::new(Limits::default());
    let script = crate::script::Script::compile(&engine, source, (1, 1));
    script.map_err(|_| ()).unwrap().analysis.reuse.is_some()
}

fn message(document: &Document, start: i64, interval: &str) -> Message {
    let mut message = Message::new(Content::Document(document.clone()));
    message
        .metadata
        .set("schedule_time", format!("time {start}"));
    message.metadata.set("schedule_interval", interval);
    message.with_identity(Identity {
        about: "pod".into(),
        uid: "u".into(),
        start,
        end: start,
        cluster: None,
    })
}

fn pod() -> Document {
    Document::from(&json!({"metadata": {"name": "a"}, "spec": {}}))
}

/// Maps the message; returns the result and whether it was reused.
fn run(mapping: &Mapping, mut message: Message) -> (String, bool) {
    let kept = |content: &Content| match content {
        Content::Document(document) => document.recall::<Memo>(),
        _ => None,
    };
    let document = message.content().clone();
    let before = kept(&document);
    assert_eq!(mapping.run(&mut message).unwrap(), Mapped::Kept);
    let text = String::from_utf8(message.bytes().unwrap().to_vec()).unwrap();
    let tree = message.tree().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), tree);
    let after = kept(&document);
    let is_same = before.zip(after).is_some_and(|(a, b)| Arc::ptr_eq(&a, &b));
    (text, is_same)
}

#[test]
fn a_result_is_reused_for_another_window() {
    let (mapping, pod) = (mapping(PRESET_LIKE), pod());
    let (first, kept) = run(&mapping, message(&pod, 0, "15s"));
    assert!(!kept);
    let (second, kept) = run(&mapping, message(&pod, 15, "15s"));
    assert!(kept);
    assert_ne!(first, second);
    // The result of a new document.
    let (evaluated, kept) = run(&mapping, message(&self::pod(), 15, "15s"));
    assert!(!kept);
    assert_eq!(second, evaluated);
    assert!(second.contains(&event_id(None, "t", "u", 15).to_string()));
    assert!(second.contains("time 15"));
}

#[test]
fn a_fixed_key_is_part_of_the_id_that_fills_a_gap() {
    let source =
        r#"root = #{ id: event_id("t", "cpu"), other: event_id("t"), more: event_id("t", "") }"#;
    let (mapping, pod) = (mapping(source), pod());
    let expected = |start: i64| {
        let id = |key: &str| meterline_core::part_id(None, "t", key, "u", start);
        let other = event_id(None, "t", "u", start);
        json!({"id": id("cpu").to_string(), "other": other.to_string(), "more": id("").to_string()})
    };
    for (start, is_reused) in [(0, false), (15, true), (30, true)] {
        let (text, kept) = run(&mapping, message(&pod, start, "15s"));
        assert_eq!(kept, is_reused);
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            expected(start)
        );
    }
}

#[test]
fn another_length_another_document_and_another_mapping_are_evaluated() {
    let (first, pod) = (mapping(PRESET_LIKE), pod());
    run(&first, message(&pod, 0, "15s"));
    let (shorter, kept) = run(&first, message(&pod, 15, "7s"));
    assert!(!kept && shorter.contains(r#""seconds":7"#), "{shorter}");
    let other = Document::from(&json!({"metadata": {"name": "b"}}));
    assert!(!run(&first, message(&other, 15, "7s")).1);
    let second = mapping(PRESET_LIKE);
    assert!(!run(&second, message(&pod, 15, "7s")).1);
    assert!(run(&second, message(&pod, 30, "7s")).1);
}

#[test]
fn a_gap_other_than_text_is_evaluated() {
    let (mapping, pod) = (mapping("root = #{a: meta(\"absent\")};"), pod());
    assert_eq!(run(&mapping, message(&pod, 0, "1s")).0, r#"{"a":null}"#);
    assert_eq!(
        run(&mapping, message(&pod, 1, "1s")),
        (r#"{"a":null}"#.to_owned(), false)
    );
}

#[test]
fn scripts_with_unknown_dependencies_are_evaluated_each_time() {
    assert!(serves_again(PRESET_LIKE));
    assert!(serves_again("root = #{ a: this.a }"));
    assert!(serves_again(r#"root = #{ id: event_id("t", "cpu") }"#));
    for source in [
        // The time affects other values, or may affect them.
        r#"root = #{ id: event_id("t") + "x" }"#,
        r#"let id = event_id("t"); root = #{ id: id }"#,
        r#"root = #{ data: #{ id: event_id("t") } }"#,
        r#"root = #{ id: event_id(this.name) }"#,
        r#"root = #{ id: event_id("t", this.name) }"#,
        r#"root = #{ id: event_id(this.name, "k") }"#,
        r#"root = #{ data: #{ id: event_id("t", "k") } }"#,
        r#"root = #{ id: event_id("t", "k"), other: this.a + event_id("t", "l") }"#,
        r#"let f = Fn("event_id"); root = #{ id: f.call("t") }"#,
        r#"let f = Fn("meta"); root = #{ t: f.call("schedule_time") }"#,
        r#"let k = "schedule_" + "time"; root = #{ t: meta(k) }"#,
        r#"root = #{ t: meta["schedule_time"] }"#,
        // The result changes after the last assignment, or may be another one.
        r#"root = #{ id: event_id("t") }; root.id += "x";"#,
        r#"root = #{ id: event_id("t") }; if root.id == "x" { root = deleted(); }"#,
        r#"if this.a { root = #{ id: event_id("t") }; }"#,
        r#"root.id = event_id("t");"#,
        "root = this",
        // The result depends on more than the message.
        "root = #{ a: now() }",
        "root = #{ a: uuid_v4() }",
        "root = #{ a: error() }",
    ] {
        assert!(!serves_again(source), "{source}");
    }
    // The result depends on the time, so it is never reused.
    let (mapping, pod) = (
        mapping(r#"root = #{ t: meta("schedule_time").len() };"#),
        pod(),
    );
    assert_eq!(run(&mapping, message(&pod, 0, "1s")).0, r#"{"t":6}"#);
    assert_eq!(run(&mapping, message(&pod, 10, "1s")).0, r#"{"t":7}"#);
}

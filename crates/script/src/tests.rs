//! Tests of the language as users see it.

use meterline_core::{Content, Document, Identity, Message};
use serde_json::{Value, json};

use crate::{Engine, Limits, Mapped, ScriptError};

mod errors;
mod limits;
mod reading;
mod template;

fn message(value: &Value) -> Message {
    let mut message = Message::new(Content::Document(Document::from(value)));
    message.metadata.set("window", "w1");
    message
}

/// Maps a value; the error is text.
fn map(source: &str, input: &Value) -> Result<Value, String> {
    let mapping = Engine::new(Limits::default())
        .compile_mapping(source)
        .map_err(|errors| text(&errors))?;
    let mut message = message(input);
    match mapping.run(&mut message) {
        Ok(Mapped::Kept) => Ok(message.tree().unwrap()),
        Ok(Mapped::Dropped) => Ok(json!("dropped")),
        Err(error) => Err(error.to_string()),
    }
}

fn evaluate(source: &str, input: &Value) -> Result<Value, String> {
    Engine::new(Limits::default())
        .compile_expression(source)
        .map_err(|errors| text(&errors))?
        .evaluate(&message(input))
        .map(|value| value.root().to_value())
        .map_err(|error| error.to_string())
}

fn text(errors: &[ScriptError]) -> String {
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn root_is_the_new_content_of_the_message() {
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
        (
            "let b = this.a.b; root = [1, 2].map_each(|n| n + b)",
            json!([2, 3]),
        ),
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
        json!({"function": "w1", "variable": "w1", "none": null})
    );
    let metadata: Vec<_> = message.metadata.iter().map(|(k, v)| (k, &**v)).collect();
    assert_eq!(metadata, [("new", "5")]);
}

#[test]
fn a_failed_run_does_not_change_the_message() {
    let mapping = Engine::new(Limits::default())
        .compile_mapping("meta[\"window\"] = \"changed\"; root = #{ a: 1 }; root.b = 1 / 0")
        .unwrap();
    let mut message = message(&json!({"was": "here"}));
    assert!(mapping.run(&mut message).is_err());
    assert_eq!(message.tree().unwrap(), json!({"was": "here"}));
    assert_eq!(message.metadata.get("window").map(|v| &**v), Some("w1"));
}

#[test]
fn the_event_id_depends_on_the_identity() {
    let expression = Engine::new(Limits::default())
        .compile_expression("event_id(\"t\")")
        .unwrap();
    let identity = Identity {
        about: "pod a/b".into(),
        uid: "u".into(),
        start: 5,
        end: 6,
        cluster: None,
    };
    let message = Message::value(&json!({"any": 1})).with_identity(identity);
    assert_eq!(
        expression.evaluate(&message).unwrap().root().to_value(),
        json!(meterline_core::event_id(None, "t", "u", 5).to_string())
    );
}

/// Evaluates an expression with a message of this content that represents usage, or does not.
fn id(script: &str, content: &Value, is_usage: bool) -> Value {
    let expression = Engine::new(Limits::default())
        .compile_expression(script)
        .unwrap();
    let mut message = Message::value(content);
    if is_usage {
        message = message.with_identity(Identity {
            about: "pod a/b".into(),
            uid: "u".into(),
            start: 5,
            end: 6,
            cluster: Some("c".into()),
        });
    }
    expression.evaluate(&message).unwrap().root().to_value()
}

#[test]
fn a_key_distinguishes_events_of_one_type() {
    let content = json!({"kind": "cpu"});
    let expected = meterline_core::part_id(Some("c"), "t", "cpu", "u", 5).to_string();
    for script in ["event_id(\"t\", \"cpu\")", "event_id(\"t\", this.kind)"] {
        assert_eq!(id(script, &content, true), json!(expected));
    }
    // Also where the id is derived from the content.
    for is_usage in [true, false] {
        let mut ids = std::collections::HashSet::new();
        for script in [
            "event_id()",
            "event_id(\"t\")",
            "event_id(\"t\", \"\")",
            "event_id(\"t\", \"k\")",
            "event_id(\"tk\")",
            "event_id(\"tk\", \"\")",
            "event_id(\"\", \"tk\")",
            "event_id(\"k\", \"t\")",
        ] {
            let id = id(script, &content, is_usage);
            assert!(ids.insert(id.as_str().unwrap().to_owned()), "{script}");
        }
    }
    let other = json!({"kind": "memory"});
    let script = "event_id(\"t\", \"k\")";
    assert_ne!(id(script, &content, false), id(script, &other, false));
}

/// The documented example "Capture CPU and memory limits" of the OpenMeter collector, in Rhai.
#[test]
fn gib_hours_are_exact_in_any_unit_of_the_other_metrics() {
    let pod = json!({"spec": {"containers": [{"resources": {
        "requests": {"memory": "3Gi", "ephemeral-storage": "512Mi"},
        "limits": {"ephemeral-storage": "1Ki"}}}]}});
    for (seconds, expected) in [
        (1200, [json!(1), json!(0.166_666_666_666_666_66)]),
        (3600, [json!(3), json!(0.5)]),
        (15, [json!(0.0125), json!(0.002_083_333_333_333_333_5)]),
        (0, [json!(0), json!(0)]),
    ] {
        for unit in ["second", "minute", "hour"] {
            let source = format!("root = pod_metrics({seconds}, \"{unit}\")");
            let metrics = map(&source, &pod).unwrap();
            let names = [
                "memory_request_gib_hours",
                "ephemeral_storage_request_gib_hours",
            ];
            assert_eq!(names.map(|it| metrics[it].clone()), expected, "{metrics}");
            assert_eq!(metrics["ephemeral_storage_request_bytes"], 1 << 29);
            assert_eq!(metrics["ephemeral_storage_limit_bytes"], 1024);
            assert_eq!(metrics.as_object().unwrap().len(), 20);
        }
    }
}

#[test]
fn the_documented_mapping_works() {
    let source = r#"
        root = #{
          "id": event_id(),
          "specversion": "1.0",
          "type": "kube-pod-exec-time",
          "source": "kubernetes-api",
          "time": meta("schedule_time"),
          "subject": this.metadata.annotations?["openmeter.io/subject"] ?? this.metadata.name,
          "data": (this.metadata.annotations ?? #{})
            .filter(|item| item.key.has_prefix("data.openmeter.io/"))
            .map_each_key(|key| key.trim_prefix("data.openmeter.io/"))
            .assign(#{
              "pod_name": this.metadata.name,
              "pod_namespace": this.metadata.namespace,
              "duration_seconds": (meta("schedule_interval").parse_duration() / 1000 / 1000 / 1000).round().int64(),
              "memory_limit": this.spec.containers[0].resources.limits?.memory,
              "memory_requests": this.spec.containers.index(0).resources.requests?.memory,
              "cpu_limit": this.spec.containers[0].resources.limits?.cpu ?? deleted(),
            }),
        };
    "#;
    let mapping = Engine::new(Limits::default())
        .compile_mapping(source)
        .unwrap();
    let mut annotated = Message::value(&json!({
        "metadata": {
            "name": "web-0", "namespace": "shop",
            "annotations": {"openmeter.io/subject": "customer", "data.openmeter.io/plan": "gold", "x": "y"},
        },
        "spec": {"containers": [{"resources": {"limits": {"memory": "1Gi"}}}]},
    }));
    annotated
        .metadata
        .set("schedule_time", "2025-01-01T00:00:00Z");
    annotated.metadata.set("schedule_interval", "15s");
    let mut bare = annotated.clone();
    bare.set_content(Content::Document(Document::from(&json!({
        "metadata": {"name": "web-0", "namespace": "shop"},
        "spec": {"containers": [{"resources": {}}]},
    }))));

    mapping.run(&mut annotated).unwrap();
    let event = annotated.tree().unwrap();
    assert_eq!(event["subject"], "customer");
    assert_eq!(
        event["data"],
        json!({
            "plan": "gold", "pod_name": "web-0", "pod_namespace": "shop", "duration_seconds": 15,
            "memory_limit": "1Gi", "memory_requests": null,
        })
    );

    mapping.run(&mut bare).unwrap();
    let event = bare.tree().unwrap();
    assert_eq!(event["subject"], "web-0");
    assert_eq!(event["time"], "2025-01-01T00:00:00Z");
    assert_eq!(
        event["data"],
        json!({
            "pod_name": "web-0", "pod_namespace": "shop", "duration_seconds": 15,
            "memory_limit": null, "memory_requests": null,
        })
    );
    // Without an identity the id depends on the content.
    let ids = [&mut annotated, &mut bare].map(|message| message.tree().unwrap()["id"].clone());
    assert_ne!(ids[0], ids[1]);
}

use meterline_core::{Message, Reads};
use serde_json::{Value, json};

use crate::{Engine, Limits, notes::Note};

/// Runs a mapping and returns its result and its notes.
fn map(source: &str, pod: &Value) -> (Value, Vec<Note>) {
    let engine = Engine::new(Limits::default());
    let mapping = engine.compile_mapping(source).unwrap();
    let mut message = Message::value(pod);
    let mut notes = Vec::new();
    mapping.run_noting(&mut message, &mut notes).unwrap();
    (message.tree().unwrap(), notes)
}

fn pod(resources: &Value) -> Value {
    json!({"spec": {"containers": [{"name": "a", "resources": {"requests": resources}}]}})
}

#[test]
fn known_devices_come_first_and_a_malformed_amount_omits_only_itself() {
    let resources = json!({
        "a.example.com/x": "1", "nvidia.com/gpu": "1", "amd.com/gpu": "x", "google.com/tpu": "1e400",
    });
    let (names, notes) = map(
        "root = devices().map_each(|it| it.resource)",
        &pod(&resources),
    );
    assert_eq!(names, json!(["nvidia.com/gpu", "a.example.com/x"]));
    let texts: Vec<_> = notes.iter().map(|it| it.text.as_str()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].contains("amd.com/gpu"), "{texts:?}");
    assert!(texts[1].contains("google.com/tpu"), "{texts:?}");
}

#[test]
fn a_tenant_cannot_exceed_the_limits_of_scripts_by_names_of_devices() {
    let many = (0..20_000).map(|index| (format!("a.example.com/{index}"), json!("1")));
    let mut many: serde_json::Map<_, _> = many.collect();
    many.insert("nvidia.com/gpu".into(), json!("8"));
    let source = "let all = devices(); root = #{ count: all.len(), first: all[0].count }";
    let (event, notes) = map(source, &pod(&many.into()));
    assert_eq!(event, json!({"count": 200, "first": 8}));
    let texts: Vec<_> = notes.iter().map(|it| it.text.as_str()).collect();
    assert_eq!(texts, ["devices() omits 19801 devices beyond 200"]);
}

#[test]
fn a_wrong_table_is_an_error_before_the_script_runs() {
    let engine = Engine::new(Limits::default());
    for (table, expected) in [
        (r#"#{ "a.b/c": 1 }"#, "`a.b/c` needs an object"),
        (
            r#"#{ "a.b/c": #{ unit: 1 } }"#,
            "`unit` of `a.b/c` is not text",
        ),
        (
            r#"#{ "a.b/c": #{ unit: "gpu" } }"#,
            "`gpu` is not a unit of `a.b/c`",
        ),
        (
            r#"#{ "a.b/c": #{ units: "card" } }"#,
            "`units` is not a field of `a.b/c`",
        ),
    ] {
        let source = format!("root = #{{ all: devices({table}) }}");
        let errors = engine.compile_mapping(&source).unwrap_err();
        let [error] = errors.as_slice() else {
            panic!("{errors:?}");
        };
        assert!(error.message.starts_with(expected), "{error:?}");
        // A table that is only known at run time fails the message.
        let source = format!("let table = {table}; root = devices(table)");
        let mapping = engine.compile_mapping(&source).unwrap();
        let error = mapping.run(&mut Message::value(&json!({}))).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let right = r#"root = devices(#{ "a.b/c": #{}, "a.b/d": #{ vendor: "x", unit: "chip", product: "y" } })"#;
    assert!(engine.compile_mapping(right).is_ok());
}

/// The label that a table names is known only when the script runs, so all of the selector is read.
#[test]
fn a_table_can_name_any_label_of_the_selector() {
    let engine = Engine::new(Limits::default());
    let expression = engine.compile_expression("devices()").unwrap();
    let mut reads = Reads::of(crate::pod::REQUESTS);
    reads.join(&Reads::of(&[
        "spec.nodeSelector",
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
    ]));
    assert_eq!(*expression.reads(), reads);
}

use meterline_core::{Message, Reads};
use serde_json::{Value, json};

use crate::{DeviceReads, Engine, Limits, notes::Note};

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
    }
    for source in [
        r#"let table = #{ "a.b/c": #{} }; root = devices(table)"#,
        "root = devices(this.table)",
        "root = pod_metrics(1, \"second\", this)",
        r#"let key = "x"; root = pod_gpu_request(#{ "a.b/c": #{ product: key } })"#,
    ] {
        let errors = engine.compile_mapping(source).unwrap_err();
        let [error] = errors.as_slice() else {
            panic!("{errors:?}");
        };
        assert!(error.message.ends_with("is not constant"), "{error:?}");
    }
    let right = r#"root = devices(#{ "a.b/c": #{}, "a.b/d": #{ vendor: "x", unit: "chip", product: "y" } })"#;
    assert!(engine.compile_mapping(right).is_ok());
}

#[test]
fn a_table_is_known_with_its_labels_before_the_script_runs() {
    let engine = Engine::new(Limits::default());
    let reads = |call: &str| engine.compile_expression(call).unwrap().reads().clone();
    let table = r#"#{ "a.b/c": #{ product: "a.b/kind" }, "a.b/d": #{ unit: "share" } }"#;
    for (call, declared, selector) in [
        (format!("devices({table})"), crate::pod::DEVICES, false),
        (
            format!("pod_gpu_type(\"none\", {table})"),
            crate::pod::GPU_TYPE,
            true,
        ),
        (
            format!("pod_gpu_request({table})"),
            crate::pod::GPU_REQUESTS,
            true,
        ),
        (
            format!("pod_gpu_limit({table})"),
            crate::pod::GPU_LIMITS,
            true,
        ),
        (
            format!("pod_gpu_request_seconds(1, 2, {table})"),
            crate::pod::GPU_REQUESTS,
            true,
        ),
        (
            format!("pod_metrics(1, \"hour\", {table})"),
            crate::pod::GPU_REQUESTS,
            true,
        ),
    ] {
        let mut expected = Reads::of(declared);
        expected.join(&Reads::of(&[
            "node_labels().a~1b/kind",
            "devices().named.a~1b/c~",
            "devices().named.a~1b/d~",
        ]));
        if selector {
            expected.join(&Reads::of(&["spec.nodeSelector.a~1b/kind"]));
        }
        assert_eq!(reads(&call), expected, "{call}");
    }
    let named = r#"[pod_request("a.b/c"), container_limit("main", "a.b/d")]"#;
    let told = DeviceReads::take(&mut reads(named));
    assert!(!told.counts);
    assert!(["a.b/c", "a.b/d"].iter().all(|it| told.named.contains(*it)));
}

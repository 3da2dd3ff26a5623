//! The catalogue against what the presets emit, and against the rules of the server.

use std::{collections::BTreeSet, sync::Arc};

use meterline_components::{ApiVersion, PRESETS, registry};
use meterline_config::load;
use meterline_core::{BuildContext, Content, Document, Drops, Identity, Message};
use serde_json::{Value, json};

use super::*;
use crate::lint;

/// An object of each type of event, with everything that a preset reads of one.
fn sample(event_type: &str) -> Value {
    match event_type {
        "kube-pod-exec-time" | "kube-pod-device-time" => json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "6b1c5a1e"},
            "spec": {
                "nodeSelector": {"nvidia.com/gpu.product": "A100"},
                "containers": [{"name": "main", "image": "x", "resources": {
                    "requests": {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "2Gi"},
                    "limits": {"cpu": "1", "memory": "2Gi", "ephemeral-storage": "4Gi",
                               "nvidia.com/gpu": "1"}}}],
            },
            "status": {"phase": "Running"},
        }),
        "kube-node-time" => json!({
            "metadata": {"name": "node-1", "uid": "6b1c5a1e", "labels": {
                "node.kubernetes.io/instance-type": "m5.large",
                "topology.kubernetes.io/zone": "eu-1a"}},
            "spec": {"providerID": "aws:///eu-1a/i-1"},
            "status": {"capacity": {"cpu": "2", "memory": "8Gi"}},
            "node_ready()": true,
        }),
        "kube-loadbalancer-time" => json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "6b1c5a1e"},
            "spec": {"type": "LoadBalancer"},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
        }),
        "kube-volume-time" => json!({
            "metadata": {"name": "data", "namespace": "default", "uid": "6b1c5a1e"},
            "spec": {"storageClassName": "fast", "volumeName": "pv-1"},
            "status": {"phase": "Bound", "capacity": {"storage": "10Gi"}},
        }),
        "kube-snapshot-time" => json!({
            "metadata": {"name": "daily", "namespace": "default", "uid": "6b1c5a1e"},
            "spec": {"volumeSnapshotClassName": "csi"},
            "status": {"readyToUse": true, "restoreSize": "10Gi"},
        }),
        other => panic!("add a sample object whose events have the type {other}"),
    }
}

/// A claim of devices, whose events have the type of those of pods with devices.
fn device_claim() -> Value {
    json!({
        "metadata": {"name": "gpu", "namespace": "default", "uid": "6b1c5a1e"},
        "status": {"allocation": {"devices": {"results": [
            {"request": "gpu", "driver": "gpu.nvidia.com", "pool": "node-1", "device": "gpu-0"}]}}},
        "claim_devices()": [
            {"driver": "gpu.nvidia.com", "pool": "node-1", "device": "gpu-0",
                "attributes": {"type": "gpu", "productName": "A100"}}],
    })
}

/// A preset with the processors of one of its inputs, if they have some, at the beginning of those of all.
fn with_processors_of_input(text: &str, number: usize) -> String {
    let mut of_inputs = text.split("\n        processors:\n").skip(1);
    let Some(of_input) = of_inputs.nth(number) else {
        assert_eq!(number, 0);
        return text.to_owned();
    };
    let lines = of_input.lines();
    let lines = lines.take_while(|it| it.starts_with("          "));
    let lines: Vec<_> = lines.map(|it| it.strip_prefix("      ").unwrap()).collect();
    let begin = "\npipeline:\n  processors:\n";
    text.replace(begin, &format!("{begin}{}\n", lines.join("\n")))
}

/// The event that a preset makes from an object of one of its inputs, with this name of the cluster.
fn event(preset: &str, object: &Value, input: usize, cluster: Option<&str>) -> Value {
    let mut source = lint::preset(preset).unwrap();
    source.text = with_processors_of_input(&source.text, input);
    let registry = registry().unwrap();
    let variable = |name: &str| match name {
        "CLUSTER_NAME" => cluster.map(str::to_owned),
        // Those of the object itself, whatever the default is.
        "DATA_ANNOTATIONS" => Some("pods".to_owned()),
        _ => None,
    };
    let loaded = load(&source, &[], &variable, &registry);
    let (loaded, _) = loaded.unwrap_or_else(|errors| panic!("{errors:?}"));
    let cx = BuildContext::default();
    let text = serde_json::to_vec(object).unwrap();
    let document = Document::from_json(&text).unwrap();
    let mut message = Message::new(Content::Document(document));
    for key in ["schedule_time", "window_time"] {
        let time: Arc<str> = "2025-01-01T00:00:00Z".into();
        message.metadata.set(key, time);
    }
    for key in ["schedule_interval", "window_interval"] {
        let interval: Arc<str> = "15s".into();
        message.metadata.set(key, interval);
    }
    let message = message.with_identity(Identity {
        about: "an object".into(),
        uid: "6b1c5a1e".into(),
        start: 1_735_689_600,
        end: 1_735_689_615,
        cluster: None,
    });
    let mut drops = Drops::default();
    let processed = loaded.processors.iter().fold(vec![message], |batch, plan| {
        plan.build(&cx).unwrap().process(batch, &mut drops)
    });
    let events: Vec<_> = processed.iter().collect();
    let [event] = events.as_slice() else {
        panic!("{} events", events.len());
    };
    assert!(event.failure().is_none(), "{:?}", event.failure());
    serde_json::from_slice(&event.bytes().unwrap()).unwrap()
}

#[test]
fn every_field_of_the_catalogue_is_emitted() {
    let mut wrong = Vec::new();
    for events in CATALOGUE {
        let of_first = events
            .presets
            .iter()
            .map(|it| (*it, sample(events.event_type), 0));
        let of_claims = ("kubernetes-pod-device-time", device_claim(), 1);
        let of_claims = Some(of_claims).filter(|it| events.presets.contains(&it.0));
        for (preset, object, input) in of_first.chain(of_claims) {
            let event = event(preset, &object, input, Some("eu-1"));
            assert_eq!(event["type"], events.event_type);
            for meter in events.meters {
                let value = match meter.measure {
                    Measure::Count => None,
                    Measure::Sum(field) => Some(field),
                };
                if let Some(field) = value
                    && !event["data"][field].is_number()
                {
                    wrong.push(format!("{preset}: {}: {field} is no number", meter.slug));
                }
                for (_, field) in meter.group_by() {
                    let value = &event["data"][field];
                    if !value.is_string() && !value.is_boolean() {
                        wrong.push(format!("{preset}: {}: {field} is no word", meter.slug));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_cluster_is_named_by_the_operator_and_never_by_an_annotation() {
    for events in CATALOGUE {
        for preset in events.presets {
            let mut object = sample(events.event_type);
            object["metadata"]["annotations"] =
                json!({"data.openmeter.io/cluster": "forged", "data.openmeter.io/plan": "gold"});
            let cluster = |name| {
                let event = event(preset, &object, 0, name);
                let is_of_a_tenant = *preset != "kubernetes-node-time";
                assert_eq!(event["data"]["plan"] == "gold", is_of_a_tenant, "{preset}");
                event["data"].get("cluster").cloned()
            };
            assert_eq!(cluster(Some(" eu-1 ")), Some(json!("eu-1")), "{preset}");
            for name in [None, Some(""), Some(" ")] {
                assert_eq!(cluster(name), None, "{preset}: {name:?}");
            }
        }
    }
}

#[test]
fn every_preset_has_meters() {
    for preset in PRESETS {
        let meters = definitions(Some(preset.name));
        assert!(!meters.is_empty(), "{} has no meters", preset.name);
    }
    let known: BTreeSet<_> = PRESETS.iter().map(|preset| preset.name).collect();
    for events in CATALOGUE {
        for preset in events.presets {
            assert!(known.contains(preset), "there is no preset {preset}");
        }
    }
}

#[test]
fn definitions_follow_the_rules_of_the_server() {
    let meters = definitions(None);
    let slugs: BTreeSet<_> = meters.iter().map(|it| &it.slug).collect();
    assert_eq!(slugs.len(), meters.len(), "a slug is used twice");
    for meter in &meters {
        let slug = &meter.slug;
        assert!(super::super::definition::is_slug(slug), "{slug}");
        let body: Value = serde_json::from_str(&meter.body(ApiVersion::V1).unwrap()).unwrap();
        let value = body.get("valueProperty").and_then(Value::as_str);
        assert_eq!(value.is_none(), body["aggregation"] == "COUNT", "{slug}");
        assert!(value.is_none_or(|it| it.starts_with("$.")), "{slug}");
        for (name, path) in body["groupBy"].as_object().into_iter().flatten() {
            let mut letters = name.bytes();
            let first = letters.next().unwrap();
            assert!(
                first.is_ascii_alphabetic() || first == b'_',
                "{slug}: {name}"
            );
            assert!(
                letters.all(|it| it.is_ascii_alphanumeric() || it == b'_'),
                "{slug}: {name}"
            );
            assert!(
                !["subject", "customer_id"].contains(&name.as_str()),
                "{slug}: {name}"
            );
            let path = path.as_str().unwrap();
            assert!(
                path.starts_with("$.") && Some(path) != value,
                "{slug}: {path}"
            );
        }
    }
}

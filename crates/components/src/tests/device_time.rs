//! The mapping of the preset `kubernetes-pod-device-time`, with the processors around it.

use std::path::Path;

use meterline_config::{Source, load};
use meterline_core::{About, BuildContext, Document, Drops, Identity, Message, Processor, part_id};
use serde_json::{Value, json};

use crate::{PRESETS, registry};

const TYPE: &str = "kube-pod-device-time";
const START: i64 = 1_700_000_000;

/// The objects of one of the inputs of the preset.
#[derive(Debug, Clone, Copy)]
enum Of {
    Pods,
    Claims,
}

/// The preset with the processors of one of its inputs at the beginning of those of all.
fn preset(of: Of) -> String {
    let preset = PRESETS.iter().find(|it| it.name.ends_with("device-time"));
    let text = preset.unwrap().text;
    let of_inputs = text.split("\n        processors:\n").skip(1);
    let mut of_inputs = of_inputs.map(|it| {
        let lines = it.lines().take_while(|it| it.starts_with("          "));
        let lines = lines.map(|it| it.strip_prefix("      ").unwrap());
        lines.collect::<Vec<_>>().join("\n")
    });
    let processors = match of {
        Of::Pods => of_inputs.next(),
        Of::Claims => of_inputs.nth(1),
    };
    let begin = "\npipeline:\n  processors:\n";
    text.replace(begin, &format!("{begin}{}\n", processors.unwrap()))
}

/// The processors of the preset for the objects of one of its inputs.
fn processors(of: Of) -> Vec<Box<dyn Processor>> {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas");
    let source = Source {
        name: "preset".to_owned(),
        text: preset(of),
        dir: Some(schemas),
    };
    let loaded = load(&source, &[], &|_: &str| None, &registry().unwrap());
    let (loaded, _) = loaded.unwrap_or_else(|errors| panic!("{errors:?}"));
    let cx = BuildContext::default();
    let build = loaded.processors.iter().map(|plan| plan.build(&cx));
    build
        .map(|it| it.unwrap_or_else(|error| panic!("{error:?}")))
        .collect()
}

fn message(pod: &Value, seconds: i64) -> Message {
    let mut message = Message::new(meterline_core::Content::Document(Document::from(pod)));
    let times = [
        ("schedule_time", "2023-11-14T22:13:20Z".to_owned()),
        ("schedule_interval", format!("{seconds}s")),
    ];
    for (key, value) in times {
        message.metadata.set(key, value);
    }
    message
        .with_identity(Identity {
            about: About::Text("pod default/a".into()),
            uid: "uid-a".into(),
            start: START,
            end: START + seconds,
            cluster: None,
        })
        .with_origin(0)
}

/// What the preset makes of a pod that ran for some seconds, and where it dropped the message.
fn run(pod: &Value, seconds: i64) -> (Vec<Value>, Vec<String>) {
    made(Of::Pods, pod, seconds)
}

/// What the preset makes of an object.
fn made(of: Of, object: &Value, seconds: i64) -> (Vec<Value>, Vec<String>) {
    // They install the frequent keys of documents, so they come first.
    let processors = processors(of);
    let (mut batch, mut drops) = (vec![message(object, seconds)], Drops::default());
    for mut processor in processors {
        batch = processor.process(batch, &mut drops);
    }
    for message in &batch {
        assert!(message.failure().is_none(), "{:?}", message.failure());
    }
    let events = batch.iter().map(|message| message.tree().unwrap());
    let drops = drops.iter().map(|it| it.place.to_string());
    (events.collect(), drops.collect())
}

fn events(pod: &Value, seconds: i64) -> Vec<Value> {
    let (events, drops) = run(pod, seconds);
    assert!(drops.is_empty(), "{drops:?}");
    events
}

fn pod(limits: &Value) -> Value {
    json!({
        "metadata": {"name": "a", "namespace": "default", "uid": "uid-a"},
        "spec": {"containers": [{"name": "main", "resources": {"limits": limits}}]},
    })
}

#[test]
fn each_kind_of_device_has_an_event_with_an_id_of_its_own() {
    let mut pod = pod(&json!({
        "cpu": "8", "nvidia.com/gpu": "2", "nvidia.com/mig-1g.5gb": "3", "example.com/npu": "1",
    }));
    pod["metadata"]["annotations"] = json!({
        "openmeter.io/subject": " customer-1 ", "data.openmeter.io/plan": "gold", "noise": "x",
    });
    pod["spec"]["nodeSelector"] = json!({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"});
    let event = |resource: &str, more: Value| {
        let mut data = json!({
            "plan": "gold", "pod_name": "a", "pod_namespace": "default", "duration_seconds": 15,
            "resource": resource, "vendor": "nvidia", "gpu_type": "NVIDIA-A100-SXM4-40GB",
            "sharing": "none",
        });
        let more = more.as_object().unwrap().clone();
        data.as_object_mut().unwrap().extend(more);
        json!({
            "id": part_id(None, TYPE, resource, "uid-a", START).to_string(), "specversion": "1.0", "type": TYPE,
            "source": "kubernetes-api", "time": "2023-11-14T22:13:20Z", "subject": "customer-1",
            "data": data,
        })
    };
    let card = json!({
        "unit": "card", "partition": "", "device_count": 2, "device_fraction": 1,
        "device_hours": 0.008_333_333_333_333_333, "gpu_equivalent_hours": 0.008_333_333_333_333_333,
    });
    let slice = json!({
        "unit": "slice", "partition": "1g.5gb", "device_count": 3, "device_hours": 0.0125,
        "device_fraction": 0.142_857_142_857_142_85, "gpu_equivalent_hours": 0.001_785_714_285_714_285_6,
    });
    assert_eq!(
        events(&pod, 15),
        [
            event("nvidia.com/gpu", card),
            event("nvidia.com/mig-1g.5gb", slice),
        ]
    );
}

#[test]
fn a_pod_without_devices_makes_no_event_and_is_dropped_by_the_array() {
    for limits in [
        json!({"cpu": "8"}),
        json!({"example.com/npu": "1"}),
        json!({"nvidia.com/gpumem": "1"}),
    ] {
        let (events, drops) = run(&pod(&limits), 15);
        assert_eq!(events, [Value::Null; 0], "{limits}");
        assert_eq!(drops, ["pipeline.processors.2.unarchive"], "{limits}");
    }
}

#[test]
fn hours_are_exact_and_a_share_of_a_card_counts_as_its_part() {
    let data = |limits: &Value, seconds: i64| {
        let events = events(&pod(limits), seconds);
        let [event] = events.as_slice() else {
            panic!("{events:?}");
        };
        event["data"].clone()
    };
    let half = json!({"nvidia.com/gpu": "3", "nvidia.com/gpumem-percentage": "30"});
    let half = data(&half, 36);
    assert_eq!(half["device_hours"], json!(0.03));
    assert_eq!(half["gpu_equivalent_hours"], json!(0.009));
    assert_eq!(half["device_fraction"], json!(0.3));
    assert_eq!(half["unit"], "share");
    let hour = data(&json!({"amd.com/gpu": "8"}), 3600);
    assert_eq!(hour["device_hours"], json!(8));
    assert_eq!(hour["gpu_equivalent_hours"], json!(8));
    let slot = data(&json!({"nvidia.com/gpu.shared": "1"}), 900);
    assert_eq!(slot["device_hours"], json!(0.25));
    assert_eq!(slot["sharing"], "unknown");
    for unknown in [
        "gpu_equivalent_hours",
        "device_fraction",
        "gpu_type",
        "gpu_memory_bytes",
    ] {
        assert_eq!(slot.get(unknown), None, "{unknown}");
    }
}

/// What the labels of the node say, as the input adds them.
#[test]
fn labels_of_the_node_make_events_of_shared_slots_and_slices_complete() {
    let data = |resource: &str, labels: Value| {
        let mut pod = pod(&json!({resource: "2"}));
        pod["spec"]["nodeSelector"] = json!({"nvidia.com/gpu.product": "demanded"});
        pod["node()"] = json!({"name": "node-1", "labels": labels});
        let mut data = events(&pod, 3600).remove(0)["data"].take();
        for key in [
            "pod_name",
            "pod_namespace",
            "duration_seconds",
            "vendor",
            "device_count",
        ] {
            data.as_object_mut().unwrap().remove(key);
        }
        data
    };
    let slot = data(
        "nvidia.com/gpu.shared",
        json!({
            "nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.memory": "15360",
            "nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "mps",
        }),
    );
    let expected = json!({
        "resource": "nvidia.com/gpu.shared", "unit": "slot", "gpu_type": "Tesla-T4",
        "gpu_memory_bytes": 16_106_127_360_i64, "partition": "", "sharing": "mps",
        "device_fraction": 0.25, "device_hours": 2, "gpu_equivalent_hours": 0.5,
    });
    assert_eq!(slot, expected);
    let slice = data(
        "nvidia.com/gpu",
        json!({
            "nvidia.com/gpu.product": "NVIDIA-A30-MIG-1g.6gb", "nvidia.com/gpu.memory": "5952",
            "nvidia.com/gpu.replicas": "0", "nvidia.com/gpu.sharing-strategy": "none",
        }),
    );
    let expected = json!({
        "resource": "nvidia.com/gpu", "unit": "slice", "gpu_type": "NVIDIA-A30-MIG-1g.6gb",
        "gpu_memory_bytes": 6_241_124_352_i64, "partition": "1g.6gb", "sharing": "none",
        "device_fraction": 0.25, "device_hours": 2, "gpu_equivalent_hours": 0.5,
    });
    assert_eq!(slice, expected);
    // A node whose labels are not there yet.
    let bare = data("nvidia.com/gpu.shared", json!({}));
    assert_eq!(bare["gpu_type"], "demanded");
    assert_eq!(bare.get("gpu_equivalent_hours"), None);
}

/// An annotation names the type only where nothing else does, and no other field that is measured.
#[test]
fn annotations_change_no_measured_field() {
    let spoofed = |selector: &Value, kind: &str| {
        let mut pod = pod(&json!({"nvidia.com/mig-1g.5gb": "1"}));
        let prefix = "data.openmeter.io/";
        let names = [
            "pod_name",
            "pod_namespace",
            "duration_seconds",
            "resource",
            "vendor",
            "unit",
            "gpu_memory_bytes",
            "partition",
            "sharing",
            "device_count",
            "device_fraction",
            "device_hours",
            "gpu_equivalent_hours",
        ];
        let spoofs = names.map(|name| (format!("{prefix}{name}"), json!("0")));
        let mut spoofs: serde_json::Map<_, _> = spoofs.into_iter().collect();
        spoofs.insert(format!("{prefix}gpu_type"), kind.into());
        pod["metadata"]["annotations"] = spoofs.into();
        pod["spec"]["nodeSelector"] = selector.clone();
        events(&pod, 36).remove(0)["data"].take()
    };
    let mut expected = json!({
        "pod_name": "a", "pod_namespace": "default", "duration_seconds": 36,
        "resource": "nvidia.com/mig-1g.5gb", "vendor": "nvidia", "unit": "slice",
        "partition": "1g.5gb", "sharing": "none", "device_count": 1, "device_hours": 0.01,
    });
    assert_eq!(spoofed(&json!({}), "  "), expected);
    expected["gpu_type"] = "T4".into();
    assert_eq!(spoofed(&json!({}), " T4"), expected);
    expected["gpu_type"] = "X1".into();
    assert_eq!(
        spoofed(&json!({"nvidia.com/gpu.product": "X1"}), "T4"),
        expected
    );
}

/// Nothing but the token is missing, and no whole object is kept.
#[test]
fn the_preset_has_no_other_warning_than_that_of_the_token() {
    let preset = PRESETS.iter().find(|it| it.name.ends_with("device-time"));
    let source = Source {
        name: "preset".to_owned(),
        text: preset.unwrap().text.to_owned(),
        dir: None,
    };
    let loaded = load(&source, &[], &|_: &str| None, &registry().unwrap());
    let (_, warnings) = loaded.unwrap_or_else(|errors| panic!("{errors:?}"));
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    let [warning] = warnings.as_slice() else {
        panic!("{warnings:?}");
    };
    assert!(warning.contains("there is no token"), "{warning}");
}

/// A claim with a MIG slice, a share of a card, a card for administration, and a device of another driver.
fn claim() -> Value {
    let result = |driver: &str, device: &str| json!({"request": "gpu", "driver": driver, "pool": "node-1", "device": device});
    let nvidia = |device: &str| result("gpu.nvidia.com", device);
    let mut share = nvidia("gpu-1");
    share["shareID"] = "a1".into();
    share["consumedCapacity"] = json!({"memory": "10Gi"});
    let mut look = nvidia("gpu-2");
    look["adminAccess"] = true.into();
    let facts = |device: &str, attributes: Value, memory: &str| {
        json!({"driver": "gpu.nvidia.com", "pool": "node-1", "device": device,
            "attributes": attributes, "capacity": {"memory": memory}})
    };
    let product = "NVIDIA A100-SXM4-40GB";
    json!({
        "metadata": {"name": "c", "namespace": "default", "uid": "uid-a", "annotations": {
            "openmeter.io/subject": "someone", "data.openmeter.io/gpu_type": "cheap"}},
        "status": {"allocation": {"devices": {"results":
            [nvidia("gpu-0-mig-1"), share, look, result("dra.net", "nic-0")]}}},
        "namespace()": {"name": "default", "annotations": {
            "openmeter.io/subject": "customer-1", "data.openmeter.io/plan": "gold",
            "data.openmeter.io/gpu_type": "wrong"}},
        "claim_devices()": [
            facts("gpu-0-mig-1", json!({"type": "mig", "productName": product, "profile": "1g.5gb"}), "5Gi"),
            facts("gpu-1", json!({"type": "gpu", "productName": product}), "40Gi"),
        ],
    })
}

#[test]
fn each_device_of_a_claim_has_an_event_that_looks_like_that_of_a_pod() {
    let (events, drops) = made(Of::Claims, &claim(), 15);
    assert!(drops.is_empty(), "{drops:?}");
    let event = |device: &str, more: Value| {
        let mut data = json!({
            "plan": "gold", "claim_name": "c", "pod_namespace": "default", "duration_seconds": 15,
            "resource": "gpu.nvidia.com", "driver": "gpu.nvidia.com", "pool": "node-1", "device": device,
            "request": "gpu", "vendor": "nvidia", "gpu_type": "NVIDIA A100-SXM4-40GB", "device_count": 1,
            "device_hours": 0.004_166_666_666_666_667,
        });
        data.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let share = data["share_id"].as_str().unwrap_or_default();
        let part = format!("gpu.nvidia.com/node-1/{device}/{share}");
        json!({
            "id": part_id(None, TYPE, &part, "uid-a", START).to_string(), "specversion": "1.0", "type": TYPE,
            "source": "kubernetes-api", "time": "2023-11-14T22:13:20Z", "subject": "customer-1",
            "data": data,
        })
    };
    let slice = json!({
        "unit": "slice", "partition": "1g.5gb", "sharing": "none", "gpu_memory_bytes": 5_368_709_120_i64,
        "device_fraction": 0.142_857_142_857_142_85, "gpu_equivalent_hours": 0.000_595_238_095_238_095_2,
    });
    let share = json!({
        "unit": "share", "partition": "", "sharing": "consumable", "share_id": "a1",
        "gpu_memory_bytes": 42_949_672_960_i64, "device_fraction": 0.25,
        "gpu_equivalent_hours": 0.001_041_666_666_666_666_7,
    });
    assert_eq!(events, [event("gpu-0-mig-1", slice), event("gpu-1", share)]);
}

#[test]
fn a_claim_without_slices_has_no_product_and_one_without_known_devices_is_dropped() {
    let mut without = claim();
    without["claim_devices()"] = Value::Null;
    let (events, _) = made(Of::Claims, &without, 15);
    let [mig, share] = events.as_slice() else {
        panic!("{events:?}");
    };
    for (event, unit) in [(mig, ""), (share, "share")] {
        assert_eq!(event["data"]["unit"], unit);
        for key in [
            "gpu_type",
            "gpu_memory_bytes",
            "device_fraction",
            "gpu_equivalent_hours",
        ] {
            assert_eq!(event["data"].get(key), None, "{key} of {event}");
        }
    }
    let results = json!([{"request": "nic", "driver": "dra.net", "pool": "n", "device": "nic-0"}]);
    without["status"]["allocation"]["devices"]["results"] = results;
    let (events, drops) = made(Of::Claims, &without, 15);
    assert_eq!((events.len(), drops.len()), (0, 1));
}

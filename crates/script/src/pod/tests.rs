use meterline_core::Document;
use serde_json::{Value, json};

use super::*;
use crate::{accelerators::Unit, quantity::Quantity};

mod resizes;
mod scheduler;

fn pod(spec: Value) -> Document {
    Document::from(&json!({ "spec": spec }))
}

fn request(spec: Value, resource: &str) -> Result<String, String> {
    Reserved::of(pod(spec).root())
        .total(Section::Requests, resource)
        .map(|it| it.to_string())
}

fn container(requests: Value) -> Value {
    json!({"resources": {"requests": requests}})
}

#[test]
fn containers_and_sidecars_are_summed_and_other_init_containers_need_room() {
    let spec = |init: &str| {
        json!({
            "containers": [container(json!({"cpu": "500m"})), container(json!({"cpu": "1"})), {}],
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                container(json!({"cpu": init})),
            ],
        })
    };
    assert_eq!(request(spec("1"), "cpu"), Ok("1.6".into()));
    assert_eq!(request(spec("32"), "cpu"), Ok("32.1".into()));
}

#[test]
fn absent_resources_count_as_zero() {
    for spec in [
        json!({}),
        json!(null),
        json!({"containers": []}),
        json!({"containers": [{"name": "a"}, {"resources": {}}, {"resources": {"requests": null}}]}),
        json!({"containers": [container(json!({"memory": "1Gi", "cpu": null}))]}),
    ] {
        assert_eq!(request(spec.clone(), "cpu"), Ok("0".into()), "{spec}");
    }
    let nothing = Document::from(&json!([1]));
    assert_eq!(
        Reserved::of(nothing.root()).total(Section::Limits, "cpu"),
        Ok(Quantity::ZERO)
    );
}

#[test]
fn resources_of_the_whole_pod_are_the_total() {
    let spec = json!({
        "resources": {"requests": {"cpu": "2"}},
        "containers": [container(json!({"cpu": "500m", "memory": "1Gi"}))],
    });
    assert_eq!(request(spec.clone(), "cpu"), Ok("2".into()));
    assert_eq!(request(spec, "memory"), Ok("1073741824".into()));
}

/// A `restartPolicy` of a regular container, and anything but `Always`, changes nothing.
#[test]
fn only_init_containers_that_restart_always_are_sidecars() {
    let main = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
    for (policy, expected) in [
        (json!("Always"), "4"),
        (json!("OnFailure"), "3"),
        (json!("always"), "3"),
        (json!(null), "3"),
    ] {
        let init = json!({"restartPolicy": policy, "resources": {"requests": {"cpu": "3"}}});
        let spec = json!({"containers": [main.clone()], "initContainers": [init]});
        assert_eq!(request(spec, "cpu"), Ok(expected.into()), "{policy}");
    }
}

#[test]
fn ephemeral_containers_reserve_nothing() {
    let one = container(json!({"cpu": "1"}));
    let pod = json!({
        "spec": {"containers": [one], "ephemeralContainers": [container(json!({"cpu": "8"}))]},
        "status": {"ephemeralContainerStatuses": [
            {"name": "debug", "allocatedResources": {"cpu": "8"}, "resources": {"requests": {"cpu": "8"}}},
        ]},
    });
    let pod = Document::from(&pod);
    let total = Reserved::of(pod.root()).total(Section::Requests, "cpu");
    assert_eq!(total.map(|it| it.to_string()), Ok("1".into()));
}

#[test]
fn lists_and_objects_that_are_null_or_of_another_type_count_as_absent() {
    for absent in [json!(null), json!("x"), json!(1), json!([])] {
        let pod = json!({
            "spec": {
                "resources": absent, "overhead": absent, "initContainers": absent,
                "containers": [
                    {"name": "a", "resources": {"requests": {"cpu": "1"}, "limits": absent}},
                    {"name": "b", "resources": absent},
                ],
            },
            "status": {
                "resources": absent, "allocatedResources": absent, "initContainerStatuses": absent,
                "containerStatuses": [{"name": "a", "resources": absent, "allocatedResources": absent}, absent],
            },
        });
        let document = Document::from(&pod);
        let reserved = Reserved::of(document.root());
        let text = |total: Result<Quantity, String>| total.map(|it| it.to_string());
        assert_eq!(
            text(reserved.total(Section::Requests, "cpu")),
            Ok("1".into()),
            "{pod}"
        );
        assert_eq!(
            text(reserved.total(Section::Limits, "cpu")),
            Ok("0".into()),
            "{pod}"
        );
        assert_eq!(
            text(reserved.limit_or_request("cpu")),
            Ok("1".into()),
            "{pod}"
        );
    }
    for absent in [json!(null), json!({}), json!("x")] {
        let pod = json!({"spec": {"containers": absent}, "status": {"containerStatuses": absent}});
        let pod = Document::from(&pod);
        assert!(Reserved::of(pod.root()).containers().is_empty());
    }
}

#[test]
fn sums_beyond_128_bits_do_not_wrap() {
    let huge = container(json!({"memory": format!("9{}", "0".repeat(30))}));
    let spec = json!({"containers": [huge.clone(), huge.clone()], "initContainers": [huge],
        "overhead": {"memory": "1"}});
    let expected = format!("18{}1", "0".repeat(29));
    assert_eq!(request(spec, "memory"), Ok(expected));
    // No float has this text, though one is near.
    let spec = json!({"containers": [
        container(json!({"memory": "1802T"})), container(json!({"memory": "1362.3"}))]});
    let number = crate::exact::number(
        &Reserved::of(pod(spec).root())
            .total(Section::Requests, "memory")
            .unwrap(),
    );
    let number = format!("{:?}", number.unwrap());
    assert!(number.starts_with("Decimal"), "{number}");
    let most = container(json!({"memory": "9223372036854775807"}));
    let spec = json!({"containers": [most.clone(), most]});
    assert_eq!(request(spec, "memory"), Ok("18446744073709551614".into()));
}

#[test]
fn errors_name_the_field() {
    let broken = |value: Value| {
        request(
            json!({"containers": [{}, container(json!({"cpu": value}))]}),
            "cpu",
        )
        .unwrap_err()
    };
    insta::assert_snapshot!(broken(json!("1e400")), @"spec.containers[1].resources.requests.cpu: `1e400` is out of range");
    insta::assert_snapshot!(broken(json!("-5")), @"spec.containers[1].resources.requests.cpu: `-5` is negative");
    insta::assert_snapshot!(broken(json!("")), @"spec.containers[1].resources.requests.cpu: `` is not a Kubernetes quantity; use a value such as `500m`, `0.5`, `2Gi` or `1e3`");
    insta::assert_snapshot!(broken(json!([1])), @"spec.containers[1].resources.requests.cpu: is not a Kubernetes quantity");
    let overhead = json!({"overhead": {"cpu": "x"}});
    insta::assert_snapshot!(request(overhead, "cpu").unwrap_err(), @"spec.overhead.cpu: `x` is not a Kubernetes quantity; use a value such as `500m`, `0.5`, `2Gi` or `1e3`");
    let of_pod = json!({"resources": {"requests": {"cpu": "-1"}}});
    insta::assert_snapshot!(request(of_pod, "cpu").unwrap_err(), @"spec.resources.requests.cpu: `-1` is negative");
    let status = json!({"name": "b", "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": true}}});
    let pod_with_status = json!({
        "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
        "status": {"containerStatuses": [{"name": "a"}, status]},
    });
    let pod_with_status = Document::from(&pod_with_status);
    let total = Reserved::of(pod_with_status.root()).total(Section::Requests, "cpu");
    insta::assert_snapshot!(total.unwrap_err(), @"status.containerStatuses[1].resources.requests.cpu: is not a Kubernetes quantity");
    let gpu = pod(json!({"initContainers": [
        {"restartPolicy": "Always", "resources": {"limits": {"nvidia.com/gpu": "NaN"}}},
    ]}));
    insta::assert_snapshot!(Reserved::of(gpu.root()).gpus(Section::Requests, &Added::new()).unwrap_err(), @r#"spec.initContainers[0].resources.limits["nvidia.com/gpu"]: `NaN` is not a Kubernetes quantity; use a value such as `500m`, `0.5`, `2Gi` or `1e3`"#);
}

#[test]
fn numbers_without_quotes_are_parsed() {
    let spec =
        json!({"containers": [container(json!({"cpu": 2})), container(json!({"cpu": 0.1}))]});
    assert_eq!(request(spec, "cpu"), Ok("2.1".into()));
}

#[test]
fn gpus_of_all_vendors_count_and_limits_replace_missing_requests() {
    let spec = json!({"containers": [
        {"resources": {"limits": {"nvidia.com/gpu": "2", "cpu": "9"}}},
        {"resources": {
            "requests": {"nvidia.com/mig-1g.5gb": "3"},
            "limits": {"nvidia.com/mig-1g.5gb": "3", "gpu.intel.com/i915": "1"},
        }},
        {"resources": {"limits": {"gpu.intel.com/millicores": "500", "amd.com/gpu": "1"}}},
        {"resources": {"limits": {"gpu.intel.com/xe": 1}}},
    ]});
    let pod = pod(spec);
    let count = |section| {
        Reserved::of(pod.root())
            .gpus(section, &Added::new())
            .unwrap()
            .to_string()
    };
    assert_eq!(count(Section::Requests), "8");
    assert_eq!(count(Section::Limits), "8");
}

/// The number of GPUs is the sum of the totals of their resources, and each total has its own peak.
#[test]
fn gpus_of_init_containers_and_overhead_count_as_in_totals() {
    let spec = json!({
        "resources": {"requests": {"nvidia.com/gpu": "99", "cpu": "1"}},
        "overhead": {"amd.com/gpu": "1", "gpu.intel.com/xe": "1"},
        "containers": [{"resources": {"limits": {"nvidia.com/gpu": "2", "amd.com/gpu": "1"}}}],
        "initContainers": [
            {"resources": {"limits": {"nvidia.com/gpu": "1", "nvidia.com/mig-1g.5gb": "4"}}},
            {"restartPolicy": "Always", "resources": {"limits": {"nvidia.com/gpu": "1"}}},
            {"resources": {"limits": {"nvidia.com/gpu": "3"}}},
        ],
    });
    let pod = pod(spec);
    let reserved = Reserved::of(pod.root());
    for (section, expected) in [
        (
            Section::Requests,
            [
                ("nvidia.com/gpu", 4),
                ("nvidia.com/mig-1g.5gb", 4),
                ("amd.com/gpu", 2),
                ("gpu.intel.com/xe", 1),
            ],
        ),
        (
            Section::Limits,
            [
                ("nvidia.com/gpu", 4),
                ("nvidia.com/mig-1g.5gb", 4),
                ("amd.com/gpu", 2),
                ("gpu.intel.com/xe", 0),
            ],
        ),
    ] {
        let mut sum = 0;
        for (name, count) in expected {
            let total = reserved.total(section, name).unwrap().to_string();
            assert_eq!(total, count.to_string(), "{section:?} {name}");
            sum += count;
        }
        assert_eq!(
            reserved.gpus(section, &Added::new()).unwrap().to_string(),
            sum.to_string(),
            "{section:?}"
        );
    }
}

/// Each resource is counted with others of its kind, and what measures a share of a device is not counted.
#[test]
fn every_device_counts_and_shares_of_devices_do_not() {
    for (resources, expected) in [
        (json!({"nvidia.com/gpu.shared": "1"}), "1"),
        (json!({"nvidia.com/mig-2g.10gb.shared": "2"}), "2"),
        (
            json!({"nvidia.com/mig-1g.5gb": "1", "nvidia.com/mig-3g.20gb": "1"}),
            "2",
        ),
        (
            json!({"nvidia.com/gpu": "1", "nvidia.com/gpucores": "30", "nvidia.com/gpumem": "3000"}),
            "1",
        ),
        (json!({"nvidia.com/gpumem-percentage": "50"}), "0"),
        (
            json!({"gpu.intel.com/xe_monitoring": "1", "gpu.intel.com/memory.max": "1000"}),
            "0",
        ),
        (json!({"habana.ai/gaudi": "8"}), "8"),
        (json!({"google.com/tpu": "4"}), "4"),
        (
            json!({"huawei.com/Ascend910B3": "1", "huawei.com/Ascend910B3-memory": "2000"}),
            "1",
        ),
        (json!({"k8s.amazonaws.com/vgpu": "3"}), "3"),
        (json!({"aws.amazon.com/neuroncore": "2"}), "2"),
        // The same chips in three units.
        (
            json!({"aws.amazon.com/neuron": "1", "aws.amazon.com/neuroncore": "2",
                "aws.amazon.com/neurondevice": "1", "google.com/tpu": "4"}),
            "6",
        ),
        (json!({"example.com/npu": "1", "cpu": "9"}), "0"),
    ] {
        let pod = pod(json!({"containers": [{"resources": {"limits": resources}}]}));
        for section in [Section::Requests, Section::Limits] {
            let count = Reserved::of(pod.root())
                .gpus(section, &Added::new())
                .unwrap();
            assert_eq!(count.to_string(), expected, "{resources} {section:?}");
        }
    }
}

/// The API server sets the request of an extended resource to its limit.
#[test]
fn a_limit_is_the_request_of_every_extended_resource() {
    let limits = json!({"example.com/npu": "2", "kubernetes.io/x": "2", "cpu": "2"});
    let spec = json!({"containers": [{"resources": {"limits": limits}}]});
    assert_eq!(request(spec.clone(), "example.com/npu"), Ok("2".into()));
    assert_eq!(request(spec.clone(), "kubernetes.io/x"), Ok("0".into()));
    assert_eq!(request(spec, "cpu"), Ok("0".into()));
}

#[test]
fn totals_by_name_are_the_totals_and_an_error_affects_its_resource_only() {
    let spec = json!({
        "overhead": {"a.example/x": "1", "cpu": "1"},
        "containers": [
            {"resources": {"requests": {"a.example/x": "2", "b.example/x": "?", "cpu": "1"}}},
            {"resources": {"requests": {"a.example/x": "1", "b.example/x": "1"}}},
        ],
        "initContainers": [{"resources": {"requests": {"a.example/x": "5", "c.example/x": "3"}}}],
    });
    let pod = pod(spec);
    let reserved = Reserved::of(pod.root());
    let totals = reserved.totals(Section::Requests, |name| name != "cpu");
    assert_eq!(
        totals.keys().copied().collect::<Vec<_>>(),
        ["a.example/x", "b.example/x", "c.example/x"]
    );
    for (name, total) in totals {
        assert_eq!(total, reserved.total(Section::Requests, name), "{name}");
        assert_eq!(total.is_err(), name.starts_with('b'), "{name}");
    }
}

#[test]
fn a_malformed_field_affects_only_its_resource() {
    let spec = json!({"containers": [container(json!({"cpu": "NaN", "memory": "1Ki"}))]});
    assert_eq!(request(spec.clone(), "memory"), Ok("1024".into()));
    assert!(request(spec, "cpu").is_err());
}

#[test]
fn a_duplicate_field_counts_once() {
    let text = br#"{"spec":{"containers":[{"resources":{"requests":{"cpu":"1","cpu":"2"}}}]}}"#;
    let pod = Document::from_json(text).unwrap();
    let total = Reserved::of(pod.root()).total(Section::Requests, "cpu");
    assert_eq!(total.map(|it| it.to_string()), Ok("2".into()));
}

/// With a linear search for each of twenty thousand names this would take seconds.
#[test]
fn other_resources_cost_little_time() {
    let mut many: serde_json::Map<String, Value> = (0..20_000)
        .map(|index| (format!("nvidia.com/mig-{index}"), json!("0")))
        .collect();
    many.extend((0..20_000).map(|index| (format!("example.com/x-{index}"), json!("1"))));
    many.insert("cpu".into(), json!("1500m"));
    many.insert("nvidia.com/gpu".into(), json!("8"));
    let spec = json!({"containers": [{"resources": {"requests": many.clone(), "limits": many}}]});
    let pod = pod(spec);
    let reserved = Reserved::of(pod.root());
    let text = |total: Result<Quantity, String>| total.unwrap().to_string();
    assert_eq!(text(reserved.total(Section::Requests, "cpu")), "1.5");
    assert_eq!(text(reserved.gpus(Section::Requests, &Added::new())), "8");
    assert_eq!(text(reserved.gpus(Section::Limits, &Added::new())), "8");
}

#[test]
fn the_configuration_says_what_counts_beside_the_table() {
    let requests = json!({"nvidia.com/gpu": "1", "example.com/npu": "2", "aws.amazon.com/neuron": "1",
        "aws.amazon.com/neuroncore": "4"});
    let pod = pod(json!({"containers": [container(requests)]}));
    let count = |entries: &[(&str, Unit)]| {
        let configured = |(name, unit): &(&str, Unit)| {
            let configured = Configured {
                vendor: String::new(),
                unit: *unit,
                product: None,
            };
            ((*name).to_owned(), configured)
        };
        let added: Added = entries.iter().map(configured).collect();
        let total = Reserved::of(pod.root()).gpus(Section::Requests, &added);
        total.unwrap().to_string()
    };
    assert_eq!(count(&[]), "5");
    assert_eq!(count(&[("example.com/npu", Unit::Chip)]), "7");
    assert_eq!(count(&[("example.com/npu", Unit::Share)]), "5");
    assert_eq!(count(&[("nvidia.com/gpu", Unit::Share)]), "4");
    assert_eq!(count(&[("aws.amazon.com/neuroncore", Unit::Share)]), "2");
}

use meterline_core::{Document, Reads};
use serde_json::{Value, json};

use super::*;
use crate::device_reads::NODE_LABELS;

mod vectors;

const GIB: i64 = 1 << 30;

/// A pod whose containers request these resources.
fn pod_of(containers: &[Value]) -> Value {
    let containers = containers.iter();
    let containers: Vec<_> = containers
        .map(|it| json!({"resources": {"requests": it, "limits": it}}))
        .collect();
    json!({"spec": {"containers": containers}})
}

/// Describes each device of a pod in one line.
fn listed(pod: &Value, labels: Option<&Value>, added: &Added) -> Vec<String> {
    let (pod, labels) = (Document::from(pod), labels.map(Document::from));
    let labels = labels.as_ref().map(Document::root);
    let found = devices(pod.root(), labels, added);
    // What the function declares to read is enough for it.
    let reads = Reads::of(super::super::DEVICES);
    let kept = pod.project(&reads);
    let labels = labels.map(|it| it.to_document().project(reads.field(NODE_LABELS).unwrap()));
    let labels = labels.as_ref().map(Document::root);
    assert_eq!(devices(kept.root(), labels, added), found);
    found.iter().map(line).collect()
}

fn line(device: &Result<Device<'_>, String>) -> String {
    let device = match device {
        Ok(device) => device,
        Err(reason) => return reason.clone(),
    };
    let unit = device.unit.map_or("?", Unit::word);
    let mut text = format!("{} {} {unit}", device.count, device.resource);
    if !device.vendor.is_empty() {
        text += &format!(" of {}", device.vendor);
    }
    for (name, value) in [
        ("partition", device.partition),
        ("sharing", device.sharing),
        ("type", device.product.unwrap_or_default()),
    ] {
        if !value.is_empty() && value != "none" {
            text += &format!(", {name} {value}");
        }
    }
    if let Some(memory) = device.memory {
        text += &format!(", {memory} bytes");
    }
    if let Some(fraction) = device.fraction {
        let (over, under) = (fraction.numerator, fraction.denominator);
        let common = common(over, under);
        text += &format!(", {}/{}", over / common, under / common);
    }
    text
}

fn common(one: i128, other: i128) -> i128 {
    if other == 0 {
        one
    } else {
        common(other, one % other)
    }
}

fn of(resources: &Value) -> Vec<String> {
    listed(
        &pod_of(std::slice::from_ref(resources)),
        None,
        &Added::new(),
    )
}

fn on(resources: &Value, labels: &Value) -> Vec<String> {
    listed(
        &pod_of(std::slice::from_ref(resources)),
        Some(labels),
        &Added::new(),
    )
}

#[test]
fn each_kind_is_listed_as_what_it_is() {
    for (resource, expected) in [
        ("nvidia.com/gpu", "2 nvidia.com/gpu card of nvidia, 1/1"),
        (
            "nvidia.com/gpu.shared",
            "2 nvidia.com/gpu.shared slot of nvidia, sharing unknown",
        ),
        (
            "nvidia.com/mig-1g.5gb",
            "2 nvidia.com/mig-1g.5gb slice of nvidia, partition 1g.5gb",
        ),
        (
            "nvidia.com/mig-1g.5gb.shared",
            "2 nvidia.com/mig-1g.5gb.shared slice of nvidia, partition 1g.5gb, sharing unknown",
        ),
        ("amd.com/gpu", "2 amd.com/gpu card of amd, 1/1"),
        ("gpu.intel.com/xe", "2 gpu.intel.com/xe card of intel, 1/1"),
        ("habana.ai/gaudi", "2 habana.ai/gaudi card of habana, 1/1"),
        ("google.com/tpu", "2 google.com/tpu chip of google, 1/1"),
        (
            "aws.amazon.com/neuron",
            "2 aws.amazon.com/neuron chip of aws, 1/1",
        ),
        (
            "aws.amazon.com/neuroncore",
            "2 aws.amazon.com/neuroncore core of aws",
        ),
        (
            "huawei.com/Ascend310P",
            "2 huawei.com/Ascend310P card of huawei, type Ascend310P, 1/1",
        ),
        (
            "huawei.com/Ascend910-4c",
            "2 huawei.com/Ascend910-4c slice of huawei, partition 4c, type Ascend910",
        ),
        (
            "k8s.amazonaws.com/vgpu",
            "2 k8s.amazonaws.com/vgpu slot of nvidia, sharing unknown",
        ),
        ("example.com/npu", "2 example.com/npu ?, sharing unknown"),
    ] {
        assert_eq!(of(&json!({resource: "2"})), [expected]);
    }
}

#[test]
fn what_is_no_device_is_not_listed() {
    let none: [&str; 0] = [];
    for resources in [
        json!({"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi", "hugepages-2Mi": "2Mi"}),
        json!({"nvidia.com/gpumem": "3000", "nvidia.com/gpucores": "30"}),
        json!({"gpu.intel.com/millicores": "100", "gpu.intel.com/i915_monitoring": "1"}),
        json!({"huawei.com/Ascend910B3-memory": "1000"}),
        json!({"deviceclass.resource.kubernetes.io/gpu": "1"}),
        json!({"nvidia.com/gpu": "0", "example.com/npu": 0}),
        json!({}),
    ] {
        assert_eq!(of(&resources), none, "{resources}");
    }
    assert_eq!(listed(&json!({}), None, &Added::new()), none);
}

#[test]
fn counts_are_those_of_the_scheduler_and_a_malformed_one_hides_no_other() {
    let limits = |limits: Value| json!({"resources": {"limits": limits}});
    let pod = json!({"spec": {
        "overhead": {"amd.com/gpu": "1"},
        "containers": [
            limits(json!({"nvidia.com/gpu": "1", "nvidia.com/mig-1g.5gb": "-1"})),
            limits(json!({"nvidia.com/gpu": "2"})),
        ],
        "initContainers": [
            limits(json!({"nvidia.com/gpu": "4", "nvidia.com/mig-2g.10gb": "1"})),
        ],
    }});
    assert_eq!(
        listed(&pod, None, &Added::new()),
        [
            "1 amd.com/gpu card of amd, 1/1",
            "4 nvidia.com/gpu card of nvidia, 1/1",
            "spec.containers[0].resources.limits[\"nvidia.com/mig-1g.5gb\"]: `-1` is negative",
            "1 nvidia.com/mig-2g.10gb slice of nvidia, partition 2g.10gb",
        ]
    );
}

/// Chips and cores are no sum: each is listed under its own name.
#[test]
fn resources_of_one_family_are_listed_apart() {
    let resources = json!({"aws.amazon.com/neuron": "1", "aws.amazon.com/neuroncore": "4"});
    assert_eq!(
        of(&resources),
        [
            "1 aws.amazon.com/neuron chip of aws, 1/1",
            "4 aws.amazon.com/neuroncore core of aws",
        ]
    );
}

#[test]
fn each_device_has_the_product_of_its_own_vendor() {
    let mut pod = pod_of(&[json!({
        "nvidia.com/mig-1g.10gb": "1", "google.com/tpu": "4", "amd.com/gpu": "1",
        "aws.amazon.com/neuron": "1",
    })]);
    pod["spec"]["nodeSelector"] = json!({
        "nvidia.com/gpu.product": "H100",
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "karpenter.k8s.aws/instance-accelerator-name": "inferentia2",
    });
    assert_eq!(
        listed(&pod, None, &Added::new()),
        [
            "1 amd.com/gpu card of amd, 1/1",
            "1 aws.amazon.com/neuron chip of aws, type inferentia2, 1/1",
            "4 google.com/tpu chip of google, type tpu-v5-lite-podslice, 1/1",
            "1 nvidia.com/mig-1g.10gb slice of nvidia, partition 1g.10gb, type H100, 1/7",
        ]
    );
}

/// A pod's annotation names a type of all its GPUs, and its owner writes it.
#[test]
fn the_annotation_names_no_device() {
    let mut pod = pod_of(&[json!({"nvidia.com/gpu": "1"})]);
    pod["metadata"] = json!({"annotations": {"data.openmeter.io/gpu_type": "T4"}});
    let found = listed(&pod, None, &Added::new());
    assert_eq!(found, ["1 nvidia.com/gpu card of nvidia, 1/1"]);
}

/// A node can offer slices or slots as `nvidia.com/gpu`. Its product says so, and a pod can demand it.
#[test]
fn a_product_tells_slices_and_slots_under_the_name_of_a_card() {
    let select = |product: &str| {
        let mut pod = pod_of(&[json!({"nvidia.com/gpu": "1"})]);
        pod["spec"]["nodeSelector"] = json!({"nvidia.com/gpu.product": product});
        listed(&pod, None, &Added::new())
    };
    assert_eq!(
        select("A100-SXM4-40GB-MIG-1g.5gb"),
        ["1 nvidia.com/gpu slice of nvidia, partition 1g.5gb, type A100-SXM4-40GB-MIG-1g.5gb, 1/7"]
    );
    assert_eq!(
        select("Tesla-T4-SHARED"),
        ["1 nvidia.com/gpu slot of nvidia, sharing unknown, type Tesla-T4-SHARED"]
    );
    assert_eq!(
        select("A100-MIG-1g.5gb-SHARED"),
        [
            "1 nvidia.com/gpu slice of nvidia, partition 1g.5gb, sharing unknown, type A100-MIG-1g.5gb-SHARED"
        ]
    );
}

#[test]
fn labels_of_the_node_tell_product_memory_and_sharing() {
    let labels = |replicas: &str, strategy: &str| {
        json!({
            "nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.memory": "15360",
            "nvidia.com/gpu.replicas": replicas, "nvidia.com/gpu.sharing-strategy": strategy,
        })
    };
    let card = json!({"nvidia.com/gpu": "1"});
    let slot = json!({"nvidia.com/gpu.shared": "1"});
    let bytes = 15 * GIB;
    assert_eq!(
        on(&card, &labels("1", "none")),
        [format!(
            "1 nvidia.com/gpu card of nvidia, type Tesla-T4, {bytes} bytes, 1/1"
        )]
    );
    assert_eq!(
        on(&card, &labels("0", "none")),
        [format!(
            "1 nvidia.com/gpu card of nvidia, type Tesla-T4, {bytes} bytes, 1/1"
        )]
    );
    assert_eq!(
        on(&card, &labels("4", "time-slicing")),
        [format!(
            "1 nvidia.com/gpu slot of nvidia, sharing time-slicing, type Tesla-T4, {bytes} bytes, 1/4"
        )]
    );
    assert_eq!(
        on(&slot, &labels("3", "mps")),
        [format!(
            "1 nvidia.com/gpu.shared slot of nvidia, sharing mps, type Tesla-T4, {bytes} bytes, 1/3"
        )]
    );
    let mig = json!({
        "nvidia.com/gpu.product": "A100", "nvidia.com/gpu.memory": "40960",
        "nvidia.com/mig-1g.5gb.memory": "4864", "nvidia.com/mig-1g.5gb.replicas": "2",
    });
    let bytes = 4864_i64 << 20;
    assert_eq!(
        on(&json!({"nvidia.com/mig-1g.5gb.shared": "1"}), &mig),
        [format!(
            "1 nvidia.com/mig-1g.5gb.shared slice of nvidia, partition 1g.5gb, sharing unknown, type A100, {bytes} bytes, 1/14"
        )]
    );
    let amd = json!({"amd.com/gpu.product-name": "MI300X", "amd.com/gpu.vram": "192G"});
    assert_eq!(
        on(&json!({"amd.com/gpu": "8"}), &amd),
        [format!(
            "8 amd.com/gpu card of amd, type MI300X, {} bytes, 1/1",
            192 * GIB
        )]
    );
}

/// The larger one of the shares of memory and cores cannot be used by others.
#[test]
fn a_share_of_a_card_is_what_others_cannot_use() {
    let share = |shares: Value, labels: Option<&Value>| {
        let mut resources = shares;
        resources["nvidia.com/gpu"] = json!("1");
        listed(&pod_of(&[resources]), labels, &Added::new())
    };
    let [percent, mib, cores] = [
        "nvidia.com/gpumem-percentage",
        "nvidia.com/gpumem",
        "nvidia.com/gpucores",
    ];
    let unknown = "1 nvidia.com/gpu share of nvidia, sharing unknown";
    let labels = json!({"nvidia.com/gpu.memory": "10000"});
    let memory = 10_000_i64 << 20;
    for (shares, fraction, on_node) in [
        (json!({percent: "50", cores: "30"}), ", 1/2", ", 1/2"),
        (json!({percent: "20", cores: "30"}), ", 3/10", ", 3/10"),
        (json!({percent: "25"}), ", 1/4", ", 1/4"),
        (json!({percent: "150"}), ", 1/1", ", 1/1"),
        // Without a share of the memory a container has all of it.
        (json!({cores: "30"}), ", 1/1", ", 1/1"),
        (json!({mib: "3000"}), "", ", 3/10"),
        (json!({mib: "3000", cores: "40"}), "", ", 2/5"),
        (json!({mib: "3000", cores: "100"}), ", 1/1", ", 1/1"),
        (json!({percent: "x"}), "", ""),
    ] {
        let found = share(shares.clone(), None);
        assert_eq!(found, [format!("{unknown}{fraction}")], "{shares}");
        let found = share(shares.clone(), Some(&labels));
        assert_eq!(
            found,
            [format!("{unknown}, {memory} bytes{on_node}")],
            "{shares}"
        );
    }
    let whole = share(json!({percent: "0", cores: "0"}), None);
    assert_eq!(whole, ["1 nvidia.com/gpu card of nvidia, 1/1"]);
    let ascend = json!({"huawei.com/Ascend910B3": "1", "huawei.com/Ascend910B3-memory": "2000"});
    assert_eq!(
        of(&ascend),
        ["1 huawei.com/Ascend910B3 share of huawei, sharing unknown, type Ascend910B3"]
    );
}

#[test]
fn containers_with_different_shares_have_no_common_fraction() {
    let half = json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "50"});
    let whole = json!({"nvidia.com/gpu": "1"});
    let none = json!({"cpu": "1", "nvidia.com/gpumem-percentage": "10"});
    let of = |containers: &[Value]| listed(&pod_of(containers), None, &Added::new());
    let unknown = "2 nvidia.com/gpu share of nvidia, sharing unknown";
    assert_eq!(
        of(&[half.clone(), half.clone()]),
        [format!("{unknown}, 1/2")]
    );
    assert_eq!(of(&[half.clone(), whole]), [unknown]);
    assert_eq!(
        of(&[half, none]),
        ["1 nvidia.com/gpu share of nvidia, sharing unknown, 1/2"]
    );
}

#[test]
fn the_configuration_adds_resources_and_replaces_those_of_the_table() {
    let configured = |vendor: &str, unit, product: Option<&str>| Configured {
        vendor: vendor.into(),
        unit,
        product: product.map(Into::into),
    };
    let added = Added::from([
        (
            "example.com/npu".into(),
            configured("example", Unit::Card, Some("example.com/kind")),
        ),
        (
            "example.com/core".into(),
            configured("example", Unit::Core, None),
        ),
        ("example.com/fuse".into(), configured("", Unit::Share, None)),
        (
            "gpu.intel.com/i915".into(),
            configured("intel", Unit::Slot, None),
        ),
    ]);
    let mut pod = pod_of(&[json!({
        "example.com/npu": "2", "example.com/core": "3", "example.com/fuse": "1",
        "example.com/other": "1", "gpu.intel.com/i915": "1",
    })]);
    pod["spec"]["nodeSelector"] = json!({"example.com/kind": "N1"});
    assert_eq!(
        listed(&pod, None, &added),
        [
            "3 example.com/core core of example",
            "2 example.com/npu card of example, type N1, 1/1",
            "1 example.com/other ?, sharing unknown",
            "1 gpu.intel.com/i915 slot of intel, sharing unknown",
        ]
    );
}

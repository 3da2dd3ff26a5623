use super::*;

fn described(resource: &str) -> String {
    let Some(row) = Accelerator::of(resource) else {
        return "not in the table".into();
    };
    let mut text = format!("{} {}", row.vendor, row.unit.word());
    let partition = row.partition(resource);
    if !partition.is_empty() {
        text += &format!(" {partition}");
    }
    if row.is_shared {
        text += " shared";
    }
    if let Some(product) = row.product(resource) {
        text += &format!(" of {product}");
    }
    text
}

#[test]
fn every_resource_is_what_its_plugin_means() {
    for (resource, expected) in [
        ("nvidia.com/gpu", "nvidia card"),
        ("nvidia.com/gpu.shared", "nvidia slot shared"),
        ("nvidia.com/mig-1g.5gb", "nvidia slice 1g.5gb"),
        ("nvidia.com/mig-1g.5gb.me", "nvidia slice 1g.5gb.me"),
        (
            "nvidia.com/mig-3g.20gb.shared",
            "nvidia slice 3g.20gb shared",
        ),
        ("nvidia.com/gpucores", "nvidia share"),
        ("nvidia.com/gpumem", "nvidia share"),
        ("nvidia.com/gpumem-percentage", "nvidia share"),
        ("amd.com/gpu", "amd card"),
        ("gpu.intel.com/i915", "intel card"),
        ("gpu.intel.com/xe", "intel card"),
        ("gpu.intel.com/millicores", "intel share"),
        ("gpu.intel.com/memory.max", "intel share"),
        ("gpu.intel.com/tiles", "intel share"),
        ("gpu.intel.com/i915_monitoring", "intel share"),
        ("gpu.intel.com/xe_monitoring", "intel share"),
        ("habana.ai/gaudi", "habana card"),
        ("google.com/tpu", "google chip"),
        ("aws.amazon.com/neuron", "aws chip"),
        ("aws.amazon.com/neurondevice", "aws chip"),
        ("aws.amazon.com/neuroncore", "aws core"),
        ("huawei.com/Ascend910", "huawei card of Ascend910"),
        ("huawei.com/Ascend310P", "huawei card of Ascend310P"),
        (
            "huawei.com/Ascend910B3-memory",
            "huawei share of Ascend910B3",
        ),
        ("huawei.com/Ascend910-4c", "huawei slice 4c of Ascend910"),
        ("k8s.amazonaws.com/vgpu", "nvidia slot shared"),
        ("nvidia.com/mig-", "not in the table"),
        ("nvidia.com/GPU", "not in the table"),
        ("nvidia.com/gpu-", "not in the table"),
        ("example.com/npu", "not in the table"),
        ("cpu", "not in the table"),
        ("hugepages-2Mi", "not in the table"),
    ] {
        assert_eq!(described(resource), expected, "{resource}");
        let is_device = !expected.contains("share of")
            && !expected.ends_with("share")
            && expected != "not in the table";
        assert_eq!(super::is_device(resource), is_device, "{resource}");
    }
}

#[test]
fn every_row_has_a_vendor_and_keys_of_the_list_in_its_order() {
    for row in ACCELERATORS {
        assert!(!row.vendor.is_empty(), "{row:?}");
        let place = |key| PRODUCTS.iter().position(|it| *it == key);
        let places: Vec<_> = row.products.iter().map(|key| place(*key)).collect();
        assert!(places.iter().all(Option::is_some), "{row:?}");
        assert!(places.is_sorted(), "{row:?}");
        for (share, _) in row.shares {
            let share = Accelerator::of(&named(share, "huawei.com/Ascend910"));
            assert_eq!(share.map(|it| it.unit), Some(Unit::Share), "{row:?}");
        }
    }
    for key in PRODUCTS {
        let mut rows = ACCELERATORS.iter();
        assert!(rows.any(|row| row.products.contains(key)), "{key}");
    }
}

#[test]
fn units_have_different_words_that_are_read_back() {
    for unit in Unit::ALL {
        assert_eq!(Unit::of(unit.word()), Some(*unit));
    }
    assert_eq!(Unit::of("piece"), None);
}

#[test]
fn memory_is_in_bytes_by_the_unit_of_its_label() {
    for (resource, key, value, expected) in [
        (
            "nvidia.com/gpu",
            "nvidia.com/gpu.memory",
            "81559",
            Some(81_559 << 20),
        ),
        (
            "nvidia.com/gpu.shared",
            "nvidia.com/gpu.memory",
            "15360",
            Some(15_360 << 20),
        ),
        (
            "nvidia.com/mig-1g.5gb",
            "nvidia.com/mig-1g.5gb.memory",
            "4864",
            Some(4864 << 20),
        ),
        (
            "nvidia.com/mig-1g.5gb.shared",
            "nvidia.com/mig-1g.5gb.memory",
            "4864",
            Some(4864 << 20),
        ),
        (
            "nvidia.com/mig-1g.5gb",
            "nvidia.com/gpu.memory",
            "40960",
            None,
        ),
        ("amd.com/gpu", "amd.com/gpu.vram", "192G", Some(192 << 30)),
        (
            "amd.com/gpu",
            "beta.amd.com/gpu.vram",
            "512M",
            Some(512 << 20),
        ),
        ("amd.com/gpu", "amd.com/gpu.vram", "192", None),
        (
            "gpu.intel.com/xe",
            "gpu.intel.com/memory",
            "49152",
            Some(49_152 << 20),
        ),
        ("nvidia.com/gpu", "nvidia.com/gpu.memory", "", None),
        ("nvidia.com/gpu", "nvidia.com/gpu.memory", "-1", None),
        (
            "nvidia.com/gpu",
            "nvidia.com/gpu.memory",
            "9223372036854775807",
            None,
        ),
        ("google.com/tpu", "google.com/tpu.memory", "1", None),
    ] {
        let row = Accelerator::of(resource).unwrap();
        let memory = row.memory(resource, |label| (label == key).then_some(value));
        assert_eq!(memory, expected, "{resource} {key}={value}");
    }
}

#[test]
fn sharing_is_read_from_the_labels_of_the_device() {
    let row = Accelerator::of("nvidia.com/gpu.shared").unwrap();
    let sharing = |replicas: &'static str| {
        row.sharing("nvidia.com/gpu.shared", |label| match label {
            "nvidia.com/gpu.replicas" => Some(replicas),
            "nvidia.com/gpu.sharing-strategy" => Some("mps"),
            _ => None,
        })
    };
    assert_eq!(sharing("4"), (Some(4), Some("mps")));
    assert_eq!(sharing("0"), (Some(1), Some("mps")));
    assert_eq!(sharing("-2"), (None, Some("mps")));
    assert_eq!(sharing("many"), (None, Some("mps")));
    let amd = Accelerator::of("amd.com/gpu").unwrap();
    assert_eq!(amd.sharing("amd.com/gpu", |_| Some("4")), (None, None));
}

#[test]
fn an_extended_resource_has_a_domain_that_is_not_of_kubernetes() {
    for (resource, expected) in [
        ("example.com/npu", true),
        ("nvidia.com/gpu", true),
        ("notkubernetes.io/x", true),
        ("kubernetes.io/x", false),
        ("deviceclass.resource.kubernetes.io/gpu", false),
        ("cpu", false),
        ("ephemeral-storage", false),
        ("hugepages-2Mi", false),
        ("attachable-volumes-aws-ebs", false),
    ] {
        assert_eq!(is_extended(resource), expected, "{resource}");
    }
}

#[test]
fn a_label_that_only_says_true_names_no_product() {
    assert!(!is_product(NODE_GROUP, "true"));
    assert!(is_product(NODE_GROUP, "nvidia-tesla-v100"));
    assert!(is_product(GKE, "true"));
}

use serde_json::{Value, json};

use super::on;

/// How much of a physical device each way to offer one is, by the labels that its software writes on the node.
#[test]
fn every_way_to_offer_a_device_has_its_part_of_a_physical_one() {
    let nvidia = |product: &str, memory: &str, more: Value| {
        let mut labels = json!({
            "nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": memory,
            "nvidia.com/gpu.count": "8", "nvidia.com/gpu.replicas": "1",
            "nvidia.com/gpu.sharing-strategy": "none",
        });
        labels
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        labels
    };
    let shared = |strategy: &str| json!({"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": strategy});
    let mixed = json!({
        "nvidia.com/mig.strategy": "mixed", "nvidia.com/mig-1g.5gb.memory": "4864",
        "nvidia.com/mig-1g.5gb.replicas": "2",
        "nvidia.com/mig-1g.5gb.sharing-strategy": "time-slicing",
        "nvidia.com/mig-3g.20gb.memory": "19968", "nvidia.com/mig-3g.20gb.replicas": "0",
    });
    let mixed = nvidia("NVIDIA-A100-SXM4-40GB", "40960", mixed);
    let gke = json!({
        "cloud.google.com/gke-accelerator": "nvidia-tesla-a100",
        "cloud.google.com/gke-gpu-partition-size": "2g.10gb",
        "cloud.google.com/gke-gpu-sharing-strategy": "time-sharing",
        "cloud.google.com/gke-max-shared-clients-per-gpu": "3",
    });
    let h100 = nvidia("NVIDIA-H100-80GB-HBM3", "81559", json!({}));
    for (resources, labels, expected) in [
        // A whole card, also where the labeller has no configuration of sharing.
        (
            json!({"nvidia.com/gpu": "8"}),
            h100.clone(),
            "8 nvidia.com/gpu card of nvidia, type NVIDIA-H100-80GB-HBM3, 85520809984 bytes, 1/1",
        ),
        (
            json!({"nvidia.com/gpu": "1"}),
            nvidia("Tesla-T4", "15360", json!({"nvidia.com/gpu.replicas": "0"})),
            "1 nvidia.com/gpu card of nvidia, type Tesla-T4, 16106127360 bytes, 1/1",
        ),
        // Time-slicing and MPS, under the name of the card and under another one.
        (
            json!({"nvidia.com/gpu": "1"}),
            nvidia("Tesla-T4-SHARED", "15360", shared("time-slicing")),
            "1 nvidia.com/gpu slot of nvidia, sharing time-slicing, type Tesla-T4-SHARED, 16106127360 bytes, 1/4",
        ),
        (
            json!({"nvidia.com/gpu.shared": "2"}),
            nvidia("Tesla-T4", "15360", shared("time-slicing")),
            "2 nvidia.com/gpu.shared slot of nvidia, sharing time-slicing, type Tesla-T4, 16106127360 bytes, 1/4",
        ),
        (
            json!({"nvidia.com/gpu": "1"}),
            nvidia("Tesla-T4-SHARED", "15360", shared("mps")),
            "1 nvidia.com/gpu slot of nvidia, sharing mps, type Tesla-T4-SHARED, 16106127360 bytes, 1/4",
        ),
        // MIG slices as cards, and also shared.
        (
            json!({"nvidia.com/gpu": "1"}),
            nvidia("NVIDIA-A100-SXM4-40GB-MIG-1g.10gb", "9856", json!({})),
            "1 nvidia.com/gpu slice of nvidia, partition 1g.10gb, type NVIDIA-A100-SXM4-40GB-MIG-1g.10gb, 10334765056 bytes, 1/4",
        ),
        (
            json!({"nvidia.com/gpu": "1"}),
            nvidia(
                "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb-SHARED",
                "4864",
                shared("time-slicing"),
            ),
            "1 nvidia.com/gpu slice of nvidia, partition 1g.5gb, sharing time-slicing, type NVIDIA-A100-SXM4-40GB-MIG-1g.5gb-SHARED, 5100273664 bytes, 1/28",
        ),
        // MIG slices under names of their own, beside whole cards.
        (
            json!({"nvidia.com/mig-1g.5gb.shared": "1"}),
            mixed.clone(),
            "1 nvidia.com/mig-1g.5gb.shared slice of nvidia, partition 1g.5gb, sharing time-slicing, type NVIDIA-A100-SXM4-40GB, 5100273664 bytes, 1/14",
        ),
        (
            json!({"nvidia.com/mig-3g.20gb": "2"}),
            mixed.clone(),
            "2 nvidia.com/mig-3g.20gb slice of nvidia, partition 3g.20gb, type NVIDIA-A100-SXM4-40GB, 20937965568 bytes, 1/2",
        ),
        (
            json!({"nvidia.com/gpu": "1"}),
            mixed,
            "1 nvidia.com/gpu card of nvidia, type NVIDIA-A100-SXM4-40GB, 42949672960 bytes, 1/1",
        ),
        // Google Cloud has labels of its own for both.
        (
            json!({"nvidia.com/gpu": "1"}),
            gke,
            "1 nvidia.com/gpu slice of nvidia, partition 2g.10gb, sharing time-slicing, type nvidia-tesla-a100, 2/21",
        ),
        (
            json!({"nvidia.com/gpu": "1", "nvidia.com/gpumem": "20390", "nvidia.com/gpucores": "30"}),
            h100,
            "1 nvidia.com/gpu share of nvidia, sharing unknown, type NVIDIA-H100-80GB-HBM3, 85520809984 bytes, 3/10",
        ),
        (
            json!({"amd.com/gpu": "1"}),
            json!({"amd.com/gpu.product-name": "MI300X", "amd.com/gpu.vram": "192G"}),
            "1 amd.com/gpu card of amd, type MI300X, 206158430208 bytes, 1/1",
        ),
        (
            json!({"gpu.intel.com/xe": "1"}),
            json!({"gpu.intel.com/product": "Max_1550", "gpu.intel.com/memory": "131072"}),
            "1 gpu.intel.com/xe card of intel, type Max_1550, 137438953472 bytes, 1/1",
        ),
        (
            json!({"google.com/tpu": "4"}),
            json!({"cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice"}),
            "4 google.com/tpu chip of google, type tpu-v6e-slice, 1/1",
        ),
        (
            json!({"aws.amazon.com/neuron": "16"}),
            json!({"karpenter.k8s.aws/instance-accelerator-name": "trainium2"}),
            "16 aws.amazon.com/neuron chip of aws, type trainium2, 1/1",
        ),
        // How many cores a chip has is on no label.
        (
            json!({"aws.amazon.com/neuroncore": "2"}),
            json!({"karpenter.k8s.aws/instance-accelerator-name": "inferentia2"}),
            "2 aws.amazon.com/neuroncore core of aws, type inferentia2",
        ),
        (
            json!({"habana.ai/gaudi": "8"}),
            json!({"karpenter.k8s.aws/instance-gpu-name": "gaudi-hl-205"}),
            "8 habana.ai/gaudi card of habana, type gaudi-hl-205, 1/1",
        ),
        (
            json!({"huawei.com/Ascend910": "1"}),
            json!({}),
            "1 huawei.com/Ascend910 card of huawei, type Ascend910, 1/1",
        ),
        (
            json!({"huawei.com/Ascend310P-4c": "1"}),
            json!({}),
            "1 huawei.com/Ascend310P-4c slice of huawei, partition 4c, type Ascend310P",
        ),
    ] {
        assert_eq!(on(&resources, &labels), [expected]);
    }
}

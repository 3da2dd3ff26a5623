//! The accelerators that nodes offer as extended resources: what one of each resource is, and which node
//! labels describe it.
//!
//! One row describes a resource, or resources whose names follow a pattern. The first row that matches a
//! name counts. A `*` in a label stands for the name of the resource without `.shared`.

/// What one of a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A whole card.
    Card,
    /// One of the places of a device that several pods share.
    Slot,
    /// A part of a card that is a device of its own.
    Slice,
    /// A chip.
    Chip,
    /// A core of a chip.
    Core,
    /// A share of a device. A resource that only measures shares, such as their memory, counts no devices.
    Share,
}

impl Unit {
    /// All units.
    pub(crate) const ALL: &[Self] = &[
        Self::Card,
        Self::Slot,
        Self::Slice,
        Self::Chip,
        Self::Core,
        Self::Share,
    ];

    /// The name in mappings and events.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Slot => "slot",
            Self::Slice => "slice",
            Self::Chip => "chip",
            Self::Core => "core",
            Self::Share => "share",
        }
    }

    /// Returns the unit of this name.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|unit| unit.word() == word)
    }

    /// Whether one of it is a whole physical device.
    pub(crate) fn is_whole(self) -> bool {
        matches!(self, Self::Card | Self::Chip)
    }
}

/// Which resources a row describes.
#[derive(Debug, Clone, Copy)]
enum Names {
    /// This one.
    Exactly(&'static str),
    /// Those with this start and end; what is between them is the partition.
    Between(&'static str, &'static str),
    /// Those with this start and a hyphen; what follows the hyphen is the partition.
    BeforeHyphen(&'static str),
    /// Those with this start.
    From(&'static str),
    /// Those with this start and end.
    FromTo(&'static str, &'static str),
}

impl Names {
    /// Returns the partition if the row describes the resource.
    fn partition(self, name: &str) -> Option<&str> {
        match self {
            Self::Exactly(exactly) => (name == exactly).then_some(""),
            Self::Between(start, end) => name
                .strip_prefix(start)?
                .strip_suffix(end)
                .filter(|it| !it.is_empty()),
            Self::BeforeHyphen(start) => {
                let (_, partition) = name.strip_prefix(start)?.split_once('-')?;
                (!partition.is_empty()).then_some(partition)
            }
            Self::From(start) => name.starts_with(start).then_some(""),
            Self::FromTo(start, end) => {
                (name.starts_with(start) && name.ends_with(end)).then_some("")
            }
        }
    }
}

/// The unit of a node label that holds the memory of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemoryUnit {
    /// A number of MiB.
    Mebibytes,
    /// A number that ends in `M` or `G`, powers of 1024.
    Suffixed,
}

/// What a share of a device measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// MiB of the memory of each device.
    Mebibytes,
    /// Percent of the memory of each device.
    MemoryPercent,
    /// Percent of the cores of each device.
    CorePercent,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Accelerator {
    names: Names,
    /// The vendor, in lower case.
    pub(crate) vendor: &'static str,
    pub(crate) unit: Unit,
    /// Whether the name says that pods share the device.
    pub(crate) is_shared: bool,
    /// The keys that name the product, the most trusted first. A node has them as labels, and a pod demands
    /// them by its node selector or affinity.
    pub(crate) products: &'static [&'static str],
    /// The node labels that hold the memory of one device.
    memory: &'static [(&'static str, MemoryUnit)],
    /// The node labels that say among how many pods a device is shared, and how.
    sharing: &'static [(&'static str, &'static str)],
    /// The node label that names the slice of a card that is offered as a card.
    pub(crate) slice: Option<&'static str>,
    /// The resources that measure a share of each device. A `*` is the name of this resource.
    pub(crate) shares: &'static [(&'static str, Measure)],
    /// Whether the name of the resource names the product.
    is_product: bool,
    /// Resources of one family offer the same silicon in different units.
    pub(crate) family: Option<&'static str>,
}

/// A row that says nothing.
const NOTHING: Accelerator = Accelerator {
    names: Names::Exactly(""),
    vendor: "",
    unit: Unit::Card,
    is_shared: false,
    products: &[],
    memory: &[],
    sharing: &[],
    slice: None,
    shares: &[],
    is_product: false,
    family: None,
};

const GKE: &str = "cloud.google.com/gke-accelerator";
/// Google Cloud offers MIG slices and shared cards as `nvidia.com/gpu`, and says so by these labels.
const GKE_SLICE: &str = "cloud.google.com/gke-gpu-partition-size";
const GKE_CLIENTS: &str = "cloud.google.com/gke-max-shared-clients-per-gpu";
const GKE_STRATEGY: &str = "cloud.google.com/gke-gpu-sharing-strategy";
const GKE_TPU: &str = "cloud.google.com/gke-tpu-accelerator";
const EKS_GPU: &str = "eks.amazonaws.com/instance-gpu-name";
const KARPENTER_GPU: &str = "karpenter.k8s.aws/instance-gpu-name";
const KARPENTER_ACCELERATOR: &str = "karpenter.k8s.aws/instance-accelerator-name";
/// People write this label, often only as `true`.
const NODE_GROUP: &str = "k8s.amazonaws.com/accelerator";
const NVIDIA_PRODUCT: &str = "nvidia.com/gpu.product";
const AMD_PRODUCT: &str = "amd.com/gpu.product-name";
const AMD_BETA_PRODUCT: &str = "beta.amd.com/gpu.product-name";
const INTEL_PRODUCT: &str = "gpu.intel.com/product";

/// All keys that name a product, the most trusted first: what the vendor's software measured on the node,
/// then what the cloud or its provisioner wrote, then what people wrote.
pub(crate) const PRODUCTS: &[&str] = &[
    NVIDIA_PRODUCT,
    AMD_PRODUCT,
    AMD_BETA_PRODUCT,
    INTEL_PRODUCT,
    GKE,
    GKE_TPU,
    EKS_GPU,
    KARPENTER_GPU,
    KARPENTER_ACCELERATOR,
    NODE_GROUP,
];

const NVIDIA: Accelerator = Accelerator {
    vendor: "nvidia",
    products: &[NVIDIA_PRODUCT, GKE, EKS_GPU, KARPENTER_GPU, NODE_GROUP],
    memory: &[("*.memory", MemoryUnit::Mebibytes)],
    sharing: &[
        ("*.replicas", "*.sharing-strategy"),
        (GKE_CLIENTS, GKE_STRATEGY),
    ],
    ..NOTHING
};
const AMD: Accelerator = Accelerator {
    vendor: "amd",
    products: &[
        AMD_PRODUCT,
        AMD_BETA_PRODUCT,
        GKE,
        EKS_GPU,
        KARPENTER_GPU,
        NODE_GROUP,
    ],
    memory: &[
        ("*.vram", MemoryUnit::Suffixed),
        ("beta.*.vram", MemoryUnit::Suffixed),
    ],
    ..NOTHING
};
const INTEL: Accelerator = Accelerator {
    vendor: "intel",
    products: &[INTEL_PRODUCT],
    memory: &[("gpu.intel.com/memory", MemoryUnit::Mebibytes)],
    ..NOTHING
};
const HABANA: Accelerator = Accelerator {
    vendor: "habana",
    products: &[EKS_GPU, KARPENTER_GPU, KARPENTER_ACCELERATOR, NODE_GROUP],
    ..NOTHING
};
const GOOGLE: Accelerator = Accelerator {
    vendor: "google",
    unit: Unit::Chip,
    products: &[GKE_TPU],
    ..NOTHING
};
const AWS: Accelerator = Accelerator {
    vendor: "aws",
    products: &[KARPENTER_ACCELERATOR, NODE_GROUP],
    family: Some("neuron"),
    ..NOTHING
};
const HUAWEI: Accelerator = Accelerator {
    vendor: "huawei",
    is_product: true,
    ..NOTHING
};

/// The table.
#[rustfmt::skip]
static ACCELERATORS: &[Accelerator] = &[
    Accelerator {
        names: Names::Exactly("nvidia.com/gpu"),
        slice: Some(GKE_SLICE),
        shares: &[
            ("nvidia.com/gpumem-percentage", Measure::MemoryPercent),
            ("nvidia.com/gpumem", Measure::Mebibytes),
            ("nvidia.com/gpucores", Measure::CorePercent),
        ],
        ..NVIDIA
    },
    Accelerator { names: Names::Exactly("nvidia.com/gpu.shared"), unit: Unit::Slot, is_shared: true, ..NVIDIA },
    Accelerator { names: Names::Between("nvidia.com/mig-", ".shared"), unit: Unit::Slice, is_shared: true, ..NVIDIA },
    Accelerator { names: Names::Between("nvidia.com/mig-", ""), unit: Unit::Slice, ..NVIDIA },
    Accelerator { names: Names::Exactly("nvidia.com/gpucores"), unit: Unit::Share, ..NVIDIA },
    Accelerator { names: Names::Exactly("nvidia.com/gpumem"), unit: Unit::Share, ..NVIDIA },
    Accelerator { names: Names::Exactly("nvidia.com/gpumem-percentage"), unit: Unit::Share, ..NVIDIA },
    Accelerator { names: Names::Exactly("amd.com/gpu"), ..AMD },
    Accelerator { names: Names::Exactly("gpu.intel.com/i915"), ..INTEL },
    Accelerator { names: Names::Exactly("gpu.intel.com/xe"), ..INTEL },
    Accelerator { names: Names::Exactly("gpu.intel.com/millicores"), unit: Unit::Share, ..INTEL },
    Accelerator { names: Names::Exactly("gpu.intel.com/memory.max"), unit: Unit::Share, ..INTEL },
    Accelerator { names: Names::Exactly("gpu.intel.com/tiles"), unit: Unit::Share, ..INTEL },
    Accelerator { names: Names::FromTo("gpu.intel.com/", "_monitoring"), unit: Unit::Share, ..INTEL },
    Accelerator { names: Names::Exactly("habana.ai/gaudi"), ..HABANA },
    Accelerator { names: Names::Exactly("google.com/tpu"), ..GOOGLE },
    Accelerator { names: Names::Exactly("aws.amazon.com/neuron"), unit: Unit::Chip, ..AWS },
    Accelerator { names: Names::Exactly("aws.amazon.com/neurondevice"), unit: Unit::Chip, ..AWS },
    Accelerator { names: Names::Exactly("aws.amazon.com/neuroncore"), unit: Unit::Core, ..AWS },
    Accelerator { names: Names::FromTo("huawei.com/Ascend", "-memory"), unit: Unit::Share, ..HUAWEI },
    Accelerator { names: Names::BeforeHyphen("huawei.com/Ascend"), unit: Unit::Slice, ..HUAWEI },
    Accelerator { names: Names::From("huawei.com/Ascend"), shares: &[("*-memory", Measure::Mebibytes)], ..HUAWEI },
    Accelerator {
        names: Names::Exactly("k8s.amazonaws.com/vgpu"),
        vendor: "nvidia",
        unit: Unit::Slot,
        is_shared: true,
        products: NVIDIA.products,
        ..NOTHING
    },
];

impl Accelerator {
    /// Returns the row of a resource.
    pub(crate) fn of(resource: &str) -> Option<&'static Self> {
        // Most resources, such as `cpu`, have no domain.
        resource.contains('/').then_some(())?;
        let mut rows = ACCELERATORS.iter();
        rows.find(|row| row.names.partition(resource).is_some())
    }

    /// Returns the partition that the name of the resource states, such as `1g.5gb`; empty for a whole device.
    pub(crate) fn partition<'a>(&self, resource: &'a str) -> &'a str {
        self.names.partition(resource).unwrap_or_default()
    }

    /// Returns the product that the name of the resource states.
    pub(crate) fn product<'a>(&self, resource: &'a str) -> Option<&'a str> {
        let (_, name) = resource.split_once('/').filter(|_| self.is_product)?;
        Some(name.split_once('-').map_or(name, |(product, _)| product))
    }

    /// Returns the bytes of memory of one device, from the labels of its node.
    pub(crate) fn memory<'a>(
        &self,
        resource: &str,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> Option<i64> {
        self.memory.iter().find_map(|(key, unit)| {
            let text = label(&named(key, resource))?;
            let (number, shift) = match unit {
                MemoryUnit::Mebibytes => (text, 20),
                MemoryUnit::Suffixed => match (text.strip_suffix('M'), text.strip_suffix('G')) {
                    (Some(number), _) => (number, 20),
                    (_, Some(number)) => (number, 30),
                    _ => return None,
                },
            };
            let number: i64 = number.parse().ok().filter(|number| *number > 0)?;
            number.checked_mul(1 << shift)
        })
    }

    /// Returns among how many pods a device is shared, and the strategy, from the labels of its node. The label
    /// has 0 where sharing is not configured, which is 1.
    pub(crate) fn sharing<'a>(
        &self,
        resource: &str,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> (Option<i64>, Option<&'a str>) {
        let stated = self.sharing.iter().map(|(replicas, strategy)| {
            let replicas = label(&named(replicas, resource)).and_then(|it| it.parse::<i64>().ok());
            let replicas = replicas.filter(|it| *it >= 0).map(|it| it.max(1));
            (replicas, label(&named(strategy, resource)))
        });
        let mut stated = stated.filter(|it| *it != (None, None));
        stated.next().unwrap_or_default()
    }
}

/// Whether a resource counts devices of the table.
pub(crate) fn is_device(resource: &str) -> bool {
    Accelerator::of(resource).is_some_and(|row| row.unit != Unit::Share)
}

/// Whether a resource is an extended one: it has a domain, which is not one of Kubernetes.
pub(crate) fn is_extended(resource: &str) -> bool {
    resource.split_once('/').is_some_and(|(domain, _)| {
        let is_of_kubernetes = domain
            .strip_suffix("kubernetes.io")
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        !is_of_kubernetes && !resource.starts_with("hugepages-")
    })
}

/// Whether the value of a product key names a product.
pub(crate) fn is_product(key: &str, value: &str) -> bool {
    key != NODE_GROUP || value != "true"
}

/// Replaces the `*` in a name of the table by the name of a resource.
pub(crate) fn named(pattern: &str, resource: &str) -> String {
    pattern.replace('*', resource.strip_suffix(".shared").unwrap_or(resource))
}

#[cfg(test)]
mod tests;

//! Functions for what objects other than pods cost: nodes, load balancers and volumes.

use meterline_core::Node;
use rhai::{Dynamic, Engine, Identifier, NativeCallContext};

use super::{
    Example, FunctionDoc, Group, NativeResult, Purity,
    kubernetes::{GIB_HOUR, or_omitted, plain, times, unit},
    values,
};
use crate::{
    context,
    exact::Number,
    pod::{Added, device_count, parse_amount},
    quantity::Quantity,
};

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "node_capacity_type",
        signature: "node_capacity_type() -> text",
        summary: "Returns how the cloud sells a node: `on-demand`, `spot` or `reserved`. It follows from the first \
                  of these labels that the node has: `karpenter.sh/capacity-type`, `eks.amazonaws.com/capacityType`, \
                  `cloud.google.com/gke-spot`, `cloud.google.com/gke-preemptible`, \
                  `kubernetes.azure.com/scalesetpriority`. A capacity block is `reserved`, a preemptible node is \
                  `spot`; without such a label, or with another value, it is `on-demand`.",
        group: Group::Kubernetes,
        purity: Purity::Content(&[
            "metadata.labels.cloud~1google~1com/gke-preemptible",
            "metadata.labels.cloud~1google~1com/gke-spot",
            "metadata.labels.eks~1amazonaws~1com/capacityType",
            "metadata.labels.karpenter~1sh/capacity-type",
            "metadata.labels.kubernetes~1azure~1com/scalesetpriority",
        ]),
        examples: &[
            Example {
                script: "node_capacity_type()",
                input: r#"{"metadata":{"labels":{"eks.amazonaws.com/capacityType":"SPOT"}}}"#,
                output: r#""spot""#,
            },
            Example {
                script: "node_capacity_type()",
                input: r#"{"metadata":{"labels":{"kubernetes.io/arch":"arm64"}}}"#,
                output: r#""on-demand""#,
            },
        ],
    },
    FunctionDoc {
        name: "node_pool",
        signature: "node_pool() -> text",
        summary: "Returns the name of the group of nodes that a node belongs to: the first of the labels \
                  `karpenter.sh/nodepool`, `eks.amazonaws.com/nodegroup`, `cloud.google.com/gke-nodepool` and \
                  `kubernetes.azure.com/agentpool`, else empty text.",
        group: Group::Kubernetes,
        purity: Purity::Content(&[
            "metadata.labels.cloud~1google~1com/gke-nodepool",
            "metadata.labels.eks~1amazonaws~1com/nodegroup",
            "metadata.labels.karpenter~1sh/nodepool",
            "metadata.labels.kubernetes~1azure~1com/agentpool",
        ]),
        examples: &[Example {
            script: "node_pool()",
            input: r#"{"metadata":{"labels":{"cloud.google.com/gke-nodepool":"gpu"}}}"#,
            output: r#""gpu""#,
        }],
    },
    FunctionDoc {
        name: "node_metrics",
        signature: "node_metrics() -> object",
        summary: "Returns what a node has, from its `status.capacity`: `cpu_capacity_cores`, \
                  `memory_capacity_bytes` and `gpu_capacity_count`, which counts the resources that \
                  `pod_gpu_request` counts. What is missing is 0; an invalid metric is omitted, as in \
                  `pod_request`.",
        group: Group::Kubernetes,
        purity: Purity::Content(&["status.capacity"]),
        examples: &[Example {
            script: "node_metrics()",
            input: r#"{"status":{"capacity":{"cpu":"3920m","memory":"16Gi","nvidia.com/gpu":"4","pods":"110"}}}"#,
            output: r#"{"cpu_capacity_cores":3.92,"gpu_capacity_count":4,"memory_capacity_bytes":17179869184}"#,
        }],
    },
    FunctionDoc {
        name: "load_balancer",
        signature: "load_balancer() -> object",
        summary: "Returns what a service of the type `LoadBalancer` costs by: `load_balancer_class` is \
                  `spec.loadBalancerClass`, or empty; `ip_count` is the number of its addresses in \
                  `status.loadBalancer.ingress`, whatever they are; `internal` is whether an annotation makes its \
                  cloud create one that the internet does not reach: `networking.gke.io/load-balancer-type` or \
                  `cloud.google.com/load-balancer-type` with `Internal`, \
                  `service.beta.kubernetes.io/aws-load-balancer-scheme` with `internal`, \
                  `service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type` with `intranet`, \
                  `service.kubernetes.io/ibm-load-balancer-cloud-provider-ip-type` with `private`, and \
                  `service.beta.kubernetes.io/aws-load-balancer-internal`, \
                  `service.beta.kubernetes.io/azure-load-balancer-internal`, \
                  `service.beta.kubernetes.io/oci-load-balancer-internal`, \
                  `service.beta.kubernetes.io/openstack-internal-load-balancer` and \
                  `service.kubernetes.io/qcloud-loadbalancer-internal-subnetid` with anything but `false`.",
        group: Group::Kubernetes,
        purity: Purity::Content(LOAD_BALANCER),
        examples: &[Example {
            script: "load_balancer()",
            input: r#"{"metadata":{"annotations":{"networking.gke.io/load-balancer-type":"Internal"}},"status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}]}}}"#,
            output: r#"{"internal":true,"ip_count":2,"load_balancer_class":""}"#,
        }],
    },
    FunctionDoc {
        name: "volume_metrics",
        signature: "volume_metrics(seconds) -> object, volume_metrics(seconds, unit) -> object",
        summary: "Returns what a claim or a persistent volume reserves: `capacity_bytes` is `storage` in \
                  `status.capacity` of a claim, which is what it has and not what it asks for, or in \
                  `spec.capacity` of a volume; `capacity_bytes_per_second` is that × seconds, or ÷ 60 or 3600 with \
                  the unit `minute` or `hour`, which changes the suffix; `capacity_gib_hours` is bytes × seconds ÷ \
                  (2³⁰ × 3600) with any unit. A size that is missing is 0; invalid metrics are omitted, as in \
                  `pod_request`.",
        group: Group::Kubernetes,
        purity: Purity::Content(&["spec.capacity.storage", "status.capacity.storage"]),
        examples: &[Example {
            script: "volume_metrics(300)",
            input: r#"{"status":{"capacity":{"storage":"10Gi"}}}"#,
            output: r#"{"capacity_bytes":10737418240,"capacity_bytes_per_second":3221225472000,"capacity_gib_hours":0.8333333333333334}"#,
        }],
    },
];

/// What `load_balancer()` reads.
const LOAD_BALANCER: &[&str] = &[
    "metadata.annotations.cloud~1google~1com/load-balancer-type",
    "metadata.annotations.networking~1gke~1io/load-balancer-type",
    "metadata.annotations.service~1beta~1kubernetes~1io/alibaba-cloud-loadbalancer-address-type",
    "metadata.annotations.service~1beta~1kubernetes~1io/aws-load-balancer-internal",
    "metadata.annotations.service~1beta~1kubernetes~1io/aws-load-balancer-scheme",
    "metadata.annotations.service~1beta~1kubernetes~1io/azure-load-balancer-internal",
    "metadata.annotations.service~1beta~1kubernetes~1io/oci-load-balancer-internal",
    "metadata.annotations.service~1beta~1kubernetes~1io/openstack-internal-load-balancer",
    "metadata.annotations.service~1kubernetes~1io/ibm-load-balancer-cloud-provider-ip-type",
    "metadata.annotations.service~1kubernetes~1io/qcloud-loadbalancer-internal-subnetid",
    "spec.loadBalancerClass",
    "status.loadBalancer.ingress.*~",
];

/// The annotations that make a load balancer internal, with the value that does; `None`: anything but `false`.
const INTERNAL: &[(&str, Option<&str>)] = &[
    ("networking.gke.io/load-balancer-type", Some("internal")),
    ("cloud.google.com/load-balancer-type", Some("internal")),
    (
        "service.beta.kubernetes.io/aws-load-balancer-scheme",
        Some("internal"),
    ),
    (
        "service.beta.kubernetes.io/alibaba-cloud-loadbalancer-address-type",
        Some("intranet"),
    ),
    (
        "service.kubernetes.io/ibm-load-balancer-cloud-provider-ip-type",
        Some("private"),
    ),
    (
        "service.beta.kubernetes.io/aws-load-balancer-internal",
        None,
    ),
    (
        "service.beta.kubernetes.io/azure-load-balancer-internal",
        None,
    ),
    (
        "service.beta.kubernetes.io/oci-load-balancer-internal",
        None,
    ),
    (
        "service.beta.kubernetes.io/openstack-internal-load-balancer",
        None,
    ),
    (
        "service.kubernetes.io/qcloud-loadbalancer-internal-subnetid",
        None,
    ),
];

/// The labels that name the group of a node.
const POOLS: [&str; 4] = [
    "karpenter.sh/nodepool",
    "eks.amazonaws.com/nodegroup",
    "cloud.google.com/gke-nodepool",
    "kubernetes.azure.com/agentpool",
];

/// The labels that say how a node is sold. Those of one value are `true` on the nodes that have it.
const CAPACITY_TYPES: [&str; 5] = [
    "karpenter.sh/capacity-type",
    "eks.amazonaws.com/capacityType",
    "cloud.google.com/gke-spot",
    "cloud.google.com/gke-preemptible",
    "kubernetes.azure.com/scalesetpriority",
];

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn(
        "node_capacity_type",
        |call: NativeCallContext| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            Ok(capacity_type(context.document()?.root()).into())
        },
    );
    engine.register_fn(
        "node_pool",
        |call: NativeCallContext| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            let root = context.document()?.root();
            let mut names = POOLS.iter().filter_map(|key| metadata(root, "labels", key));
            Ok(names.next().unwrap_or_default().into())
        },
    );
    engine.register_fn("node_metrics", |call: NativeCallContext| {
        node_metrics(&call)
    });
    engine.register_fn(
        "load_balancer",
        |call: NativeCallContext| -> NativeResult<Dynamic> {
            let context = context::of(&call)?;
            load_balancer(context.document()?.root())
        },
    );
    engine.register_fn(
        "volume_metrics",
        |call: NativeCallContext, seconds: Dynamic| volume_metrics(&call, &seconds, "second"),
    );
    engine.register_fn(
        "volume_metrics",
        |call: NativeCallContext, seconds: Dynamic, unit: &str| {
            volume_metrics(&call, &seconds, unit)
        },
    );
}

/// A label or an annotation that is not empty.
fn metadata<'a>(root: Node<'a>, part: &str, key: &str) -> Option<&'a str> {
    let text = root.path(&["metadata", part, key])?.as_str();
    text.filter(|it| !it.is_empty())
}

/// How a node is sold.
fn capacity_type(node: Node<'_>) -> &'static str {
    let mut labels = CAPACITY_TYPES.iter();
    let label = labels.find_map(|key| metadata(node, "labels", key));
    let value = label.unwrap_or_default().to_ascii_lowercase();
    match value.as_str() {
        "spot" | "true" => "spot",
        "reserved" | "capacity_block" => "reserved",
        _ => "on-demand",
    }
}

fn object<const N: usize>(fields: [(&str, Dynamic); N]) -> Dynamic {
    let fields = fields.into_iter();
    Dynamic::from_map(
        fields
            .map(|(name, value)| (Identifier::from(name), value))
            .collect(),
    )
}

fn load_balancer(service: Node<'_>) -> NativeResult<Dynamic> {
    let class = service.path(&["spec", "loadBalancerClass"]);
    let addresses = service.path(&["status", "loadBalancer", "ingress"]);
    let addresses = addresses.map_or(0, |it| it.items().count());
    let addresses = i64::try_from(addresses).map_err(|error| error.to_string())?;
    let is_internal = INTERNAL.iter().any(|(key, value)| {
        let found = metadata(service, "annotations", key);
        found.is_some_and(|found| match value {
            Some(value) => found.eq_ignore_ascii_case(value),
            None => !found.eq_ignore_ascii_case("false"),
        })
    });
    let class = class.and_then(Node::as_str).unwrap_or_default();
    Ok(object([
        ("load_balancer_class", class.into()),
        ("ip_count", addresses.into()),
        ("internal", is_internal.into()),
    ]))
}

/// Parses a quantity; 0 if there is none.
fn quantity(node: Option<Node<'_>>) -> Result<Quantity, String> {
    match node.filter(|it| !it.is_null()) {
        None => Ok(Quantity::ZERO),
        Some(node) => parse_amount(node),
    }
}

fn node_metrics(call: &NativeCallContext<'_>) -> NativeResult<Dynamic> {
    let context = context::of(call)?;
    let document = context.document()?;
    let capacity = document.root().path(&["status", "capacity"]);
    let field = |key: &str| {
        let number = quantity(capacity.and_then(|it| it.get(key)));
        number
            .and_then(|it| plain(&it))
            .map_err(|reason| format!("`{key}`: {reason}"))
    };
    let amounts = capacity.into_iter().flat_map(Node::entries);
    let amounts = amounts.map(|(name, amount)| (name, quantity(Some(amount))));
    let gpus = device_count(amounts, &Added::new());
    let gpus = gpus.and_then(|it| plain(&it));
    let number = |number: Result<Number, String>| or_omitted(&context, number);
    Ok(object([
        ("cpu_capacity_cores", number(field("cpu"))),
        ("memory_capacity_bytes", number(field("memory"))),
        ("gpu_capacity_count", number(gpus)),
    ]))
}

fn volume_metrics(
    call: &NativeCallContext<'_>,
    seconds: &Dynamic,
    name: &str,
) -> NativeResult<Dynamic> {
    let (_, divisor) = unit(name)?;
    let context = context::of(call)?;
    let document = context.document()?;
    let root = document.root();
    let size = |part| root.path(&[part, "capacity", "storage"]);
    let bytes = quantity(size("status").or_else(|| size("spec")));
    let factor = values::decimal(seconds)?;
    let product = |divisor: i64| {
        let bytes = bytes.as_ref().map_err(Clone::clone);
        bytes.and_then(|it| times(it, &factor, &divisor.into()))
    };
    let number = |number: Result<Number, String>| or_omitted(&context, number);
    Ok(object([
        (
            "capacity_bytes",
            number(bytes.as_ref().map_err(Clone::clone).and_then(plain)),
        ),
        (
            &format!("capacity_bytes_per_{name}"),
            number(product(divisor)),
        ),
        ("capacity_gib_hours", number(product(GIB_HOUR))),
    ]))
}

#[cfg(test)]
mod tests {
    use meterline_core::{Document, Reads};
    use serde_json::{Value, json};

    use super::*;

    fn with(part: &str, key: &str, value: &str) -> Document {
        Document::from(&json!({"metadata": {part: {key: value}}}))
    }

    /// What a function declares to read contains what it looks for.
    fn is_declared(name: &str, part: &str, key: &str) -> bool {
        let document = with(part, key, "x");
        let kept = document.project(&super::super::reads(name));
        kept.root().path(&["metadata", part, key]).is_some()
    }

    #[test]
    fn labels_and_annotations_are_declared() {
        for (key, _) in INTERNAL {
            assert!(is_declared("load_balancer", "annotations", key), "{key}");
        }
        for key in POOLS {
            assert!(is_declared("node_pool", "labels", key), "{key}");
        }
        for key in CAPACITY_TYPES {
            assert!(is_declared("node_capacity_type", "labels", key), "{key}");
        }
        assert!(Reads::of(LOAD_BALANCER).paths().len() > INTERNAL.len());
    }

    #[test]
    fn each_cloud_says_how_it_sells_a_node() {
        for (key, value, expected) in [
            ("karpenter.sh/capacity-type", "on-demand", "on-demand"),
            ("karpenter.sh/capacity-type", "spot", "spot"),
            ("karpenter.sh/capacity-type", "reserved", "reserved"),
            ("eks.amazonaws.com/capacityType", "ON_DEMAND", "on-demand"),
            ("eks.amazonaws.com/capacityType", "SPOT", "spot"),
            (
                "eks.amazonaws.com/capacityType",
                "CAPACITY_BLOCK",
                "reserved",
            ),
            ("cloud.google.com/gke-spot", "true", "spot"),
            ("cloud.google.com/gke-spot", "false", "on-demand"),
            ("cloud.google.com/gke-preemptible", "true", "spot"),
            ("kubernetes.azure.com/scalesetpriority", "spot", "spot"),
            (
                "kubernetes.azure.com/scalesetpriority",
                "regular",
                "on-demand",
            ),
            ("other", "spot", "on-demand"),
        ] {
            let node = with("labels", key, value);
            assert_eq!(capacity_type(node.root()), expected, "{key}: {value}");
        }
    }

    #[test]
    fn annotations_make_a_load_balancer_internal() {
        let is_internal = |service: Document| {
            let map = load_balancer(service.root()).unwrap().cast::<rhai::Map>();
            map["internal"].as_bool().unwrap()
        };
        for (key, value) in INTERNAL {
            let word = value.map_or("true".to_owned(), str::to_uppercase);
            assert!(is_internal(with("annotations", key, &word)), "{key}");
            for not in ["", "false", "External"] {
                let expected = value.is_none() && not == "External";
                let service = with("annotations", key, not);
                assert_eq!(is_internal(service), expected, "{key}: {not}");
            }
        }
        assert!(!is_internal(Document::from(&Value::Null)));
    }
}

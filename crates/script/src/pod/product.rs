//! Finds the product of a pod's devices: on its node, or in what the pod demands of its node.

use meterline_core::Node;

use super::added::Added;
use crate::{
    accelerators::{self, PRODUCTS},
    blank,
};

/// The paths that [`gpu_type`] reads of a pod, and of the labels of its node.
pub(crate) const GPU_TYPE: &[&str] = &[
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
    "spec.nodeSelector.amd~1com/gpu~1product-name",
    "spec.nodeSelector.beta~1amd~1com/gpu~1product-name",
    "spec.nodeSelector.cloud~1google~1com/gke-accelerator",
    "spec.nodeSelector.cloud~1google~1com/gke-tpu-accelerator",
    "spec.nodeSelector.eks~1amazonaws~1com/instance-gpu-name",
    "spec.nodeSelector.gpu~1intel~1com/product",
    "spec.nodeSelector.k8s~1amazonaws~1com/accelerator",
    "spec.nodeSelector.karpenter~1k8s~1aws/instance-accelerator-name",
    "spec.nodeSelector.karpenter~1k8s~1aws/instance-gpu-name",
    "spec.nodeSelector.nvidia~1com/gpu~1product",
    "node_labels().amd~1com/gpu~1product-name",
    "node_labels().beta~1amd~1com/gpu~1product-name",
    "node_labels().cloud~1google~1com/gke-accelerator",
    "node_labels().cloud~1google~1com/gke-tpu-accelerator",
    "node_labels().eks~1amazonaws~1com/instance-gpu-name",
    "node_labels().gpu~1intel~1com/product",
    "node_labels().k8s~1amazonaws~1com/accelerator",
    "node_labels().karpenter~1k8s~1aws/instance-accelerator-name",
    "node_labels().karpenter~1k8s~1aws/instance-gpu-name",
    "node_labels().nvidia~1com/gpu~1product",
];

/// Returns the product of the pod's GPUs: what its node or else its demands say. Blank values are ignored. `labels` are
/// those of its node, if they are known, and `added` are resources that the table does not have: their keys count most.
pub(crate) fn gpu_type<'a>(
    pod: Node<'a>,
    labels: Option<Node<'a>>,
    added: &Added,
) -> Option<&'a str> {
    let added = added.values().filter_map(|it| it.product.as_deref());
    let keys: Vec<_> = added.chain(PRODUCTS.iter().copied()).collect();
    Place::of(pod, labels).product(&keys)
}

/// Where a pod runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The labels of the pod's node, if they are known.
    labels: Option<Node<'a>>,
    /// The labels that the pod demands of its node.
    selector: Option<Node<'a>>,
    /// The alternatives of the required node affinity.
    terms: Option<Node<'a>>,
}

impl<'a> Place<'a> {
    /// The place of a pod; `labels` are those of its node, if they are known.
    pub(crate) fn of(pod: Node<'a>, labels: Option<Node<'a>>) -> Self {
        let terms = [
            "spec",
            "affinity",
            "nodeAffinity",
            "requiredDuringSchedulingIgnoredDuringExecution",
            "nodeSelectorTerms",
        ];
        Self {
            labels,
            selector: pod.path(&["spec", "nodeSelector"]),
            terms: pod.path(&terms),
        }
    }

    /// Returns a label of the node.
    fn label(&self, key: &str) -> Option<&'a str> {
        text(self.labels?.get(key)?)
    }

    /// Returns a label of the node, or what the pod demands of it.
    pub(crate) fn stated(&self, key: &str) -> Option<&'a str> {
        self.label(key).or_else(|| self.demanded(key))
    }

    /// Returns the product that the first of these keys names, on the node or else in the pod's demands.
    pub(crate) fn product(&self, keys: &[&str]) -> Option<&'a str> {
        let first = |value: &dyn Fn(&str) -> Option<&'a str>| {
            let named = |key: &&str| value(key).filter(|it| accelerators::is_product(key, it));
            keys.iter().find_map(named)
        };
        first(&|key| self.label(key)).or_else(|| first(&|key| self.demanded(key)))
    }

    /// Returns the value that the pod demands of a label of its node. The scheduler enforces the selector
    /// and the affinity.
    fn demanded(&self, key: &str) -> Option<&'a str> {
        let selected = || text(self.selector?.get(key)?);
        selected().or_else(|| self.required(key))
    }

    /// Returns the value that all alternatives of the affinity demand.
    fn required(&self, key: &str) -> Option<&'a str> {
        let mut value = None;
        for term in self.terms?.items() {
            let mut expressions = term.get("matchExpressions")?.items();
            let demanded = expressions.find_map(|it| only_value(it, key))?;
            if *value.get_or_insert(demanded) != demanded {
                return None;
            }
        }
        value
    }
}

fn text(node: Node<'_>) -> Option<&str> {
    node.as_str().and_then(blank::trimmed)
}

/// Returns the value of a label if a match expression admits exactly one.
fn only_value<'a>(expression: Node<'a>, key: &str) -> Option<&'a str> {
    let field = |name| expression.get(name).and_then(Node::as_str);
    if field("key") != Some(key) || field("operator") != Some("In") {
        return None;
    }
    let mut values = expression.get("values")?.items();
    let first = text(values.next()?)?;
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests;

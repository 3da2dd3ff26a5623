//! Lists what a pod holds that may be devices, and that no mapping can bill.

use std::collections::BTreeSet;

use meterline_core::Node;

use super::{reserved::Reserved, resources::Section};
use crate::{
    accelerators::{self, Accelerator},
    quantity::{NANO, Quantity},
};

/// The devices that a pod claims instead of requesting them as a resource. Their claims are objects of their own.
const CLAIMS: &str = "spec.resourceClaims";
/// The domain of resources that stand for the devices of a class.
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";

/// A resource of which nothing says whether it is a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownDevice<'a> {
    /// The name, or `spec.resourceClaims`.
    pub resource: &'a str,
    /// How many the pod holds.
    pub count: i64,
}

/// The path that [`unknown_devices`] reads beside the requests of a pod: how many claims there are.
pub const UNKNOWN_DEVICES: &str = "spec.resourceClaims.*~";

/// Lists what a pod holds that may be devices: extended resources that neither the table of accelerators nor the
/// pipeline names, and resource claims. A malformed amount is not listed.
#[must_use]
pub fn unknown_devices<'a>(pod: Node<'a>, named: &BTreeSet<String>) -> Vec<UnknownDevice<'a>> {
    let is_unknown = |name: &str| {
        let may_be = accelerators::is_extended(name) || name.starts_with(DEVICE_CLASS);
        may_be && Accelerator::of(name).is_none() && !named.contains(name)
    };
    let mut found = Vec::new();
    if requests_any(pod, is_unknown) {
        let totals = Reserved::of(pod).totals(Section::Requests, is_unknown);
        found.extend(totals.into_iter().filter_map(|(resource, total)| {
            let count = whole(&total.ok()?)?;
            (count > 0).then_some(UnknownDevice { resource, count })
        }));
    }
    let claims = pod.path(&["spec", "resourceClaims"]);
    let claims = claims.map_or(0, |it| it.items().count());
    if claims > 0 && !named.contains(CLAIMS) {
        found.push(UnknownDevice {
            resource: CLAIMS,
            count: i64::try_from(claims).unwrap_or(i64::MAX),
        });
    }
    found
}

/// Whether a container requests or is limited to a resource with such a name. This is the case of very few pods, and
/// totals cost more than a look at the names.
fn requests_any(pod: Node<'_>, wanted: impl Fn(&str) -> bool) -> bool {
    let spec = pod.get("spec");
    let lists = ["containers", "initContainers"].map(|list| spec.and_then(|it| it.get(list)));
    let containers = lists.into_iter().flatten().flat_map(Node::items);
    let mut resources = containers.filter_map(|it| it.get("resources"));
    resources.any(|resources| {
        let sections = ["requests", "limits"].map(|section| resources.get(section));
        let mut names = sections.into_iter().flatten().flat_map(Node::entries);
        names.any(|(name, _)| wanted(name))
    })
}

/// The number of devices, rounded up.
fn whole(quantity: &Quantity) -> Option<i64> {
    let nanos = quantity.nanos()?;
    let whole = nanos.checked_add(NANO - 1)?.div_euclid(NANO);
    i64::try_from(whole).ok()
}

#[cfg(test)]
mod tests {
    use meterline_core::{Document, Reads};
    use serde_json::{Value, json};

    use super::*;

    fn found(spec: &Value, named: &[&str]) -> Vec<(String, i64)> {
        let pod = Document::from(&json!({ "spec": spec }));
        let named = named.iter().map(|&it| it.to_owned()).collect();
        let list = |pod: Node<'_>| -> Vec<(String, i64)> {
            let found = unknown_devices(pod, &named).into_iter();
            found.map(|it| (it.resource.to_owned(), it.count)).collect()
        };
        let found = list(pod.root());
        // What is kept is enough for it.
        let mut reads = Reads::of(super::super::GPU_REQUESTS);
        reads.join(&Reads::of(&[UNKNOWN_DEVICES]));
        assert_eq!(list(pod.project(&reads).root()), found);
        found
    }

    #[test]
    fn what_neither_the_table_nor_the_pipeline_names_is_listed() {
        let spec = json!({
            "containers": [
                {"resources": {"limits": {"cpu": "1", "example.com/npu": "2", "nvidia.com/gpu": "1",
                    "nvidia.com/gpumem": "10", "hugepages-2Mi": "2Mi", "a.kubernetes.io/x": "1"}}},
                {"resources": {"requests": {"example.com/npu": "1", "example.com/zero": "0",
                    "example.com/wrong": "x", "deviceclass.resource.kubernetes.io/gpu": "1"}}},
            ],
            "initContainers": [{"resources": {"limits": {"example.com/init": "4"}}}],
            "resourceClaims": [{"name": "a", "resourceClaimName": "x"}, {"name": "b"}],
        });
        let item = |name: &str, count| (name.to_owned(), count);
        let all = [
            item("deviceclass.resource.kubernetes.io/gpu", 1),
            item("example.com/init", 4),
            item("example.com/npu", 3),
            item("spec.resourceClaims", 2),
        ];
        assert_eq!(found(&spec, &[]), all);
        let named = ["example.com/npu", "spec.resourceClaims"];
        assert_eq!(found(&spec, &named), [all[0].clone(), all[1].clone()]);
    }

    #[test]
    fn most_pods_have_nothing_unknown() {
        for spec in [
            json!({}),
            json!({"containers": [{"name": "a"}, {"resources": {"limits": null}}]}),
            json!({"containers": [{"resources": {"limits": {"cpu": "1", "amd.com/gpu": "1"}}}]}),
            json!({"containers": [], "resourceClaims": []}),
        ] {
            assert_eq!(found(&spec, &[]), [], "{spec}");
        }
    }
}

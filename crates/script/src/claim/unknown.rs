//! Lists what a claim has of drivers of which nothing says whether they are those of accelerators.

use std::collections::{BTreeMap, BTreeSet};

use meterline_core::Node;

use super::{
    devices::{is_admin, results},
    drivers::Driver,
};
use crate::pod::UnknownDevice;

/// Lists the drivers of the devices of a claim that neither the table of drivers nor the pipeline names, with how many
/// devices of theirs the claim has. Access for administration leaves a device to others.
#[must_use]
pub fn unknown_claim_devices<'a>(
    claim: Node<'a>,
    named: &BTreeSet<String>,
) -> Vec<UnknownDevice<'a>> {
    let mut found: BTreeMap<&str, i64> = BTreeMap::new();
    for result in results(claim).filter(|it| !is_admin(*it)) {
        let driver = result.get("driver").and_then(Node::as_str);
        let is_unknown = |name: &&str| Driver::known(name).is_none() && !named.contains(*name);
        if let Some(driver) = driver.filter(is_unknown) {
            let count = found.entry(driver).or_default();
            *count = count.saturating_add(1);
        }
    }
    let found = found.into_iter();
    found
        .map(|(resource, count)| UnknownDevice { resource, count })
        .collect()
}

#[cfg(test)]
mod tests {
    use meterline_core::Document;
    use serde_json::json;

    use super::*;

    #[test]
    fn drivers_that_nothing_names_are_listed_and_administration_is_free() {
        let result = |driver: &str| json!({"driver": driver, "pool": "n", "device": "d"});
        let mut look = result("dra.net");
        look["adminAccess"] = true.into();
        let results = [
            result("gpu.nvidia.com"),
            result("compute-domain.nvidia.com"),
            result("dra.net"),
            result("example.com"),
            result("dra.net"),
            look,
        ];
        let claim = json!({"status": {"allocation": {"devices": {"results": results}}}});
        let claim = Document::from(&claim);
        let found = |named: &[&str]| -> Vec<(String, i64)> {
            let named = named.iter().map(|&it| it.to_owned()).collect();
            let found = unknown_claim_devices(claim.root(), &named).into_iter();
            found.map(|it| (it.resource.to_owned(), it.count)).collect()
        };
        let nets = ("dra.net".to_owned(), 2);
        assert_eq!(found(&[]), [nets.clone(), ("example.com".to_owned(), 1)]);
        assert_eq!(found(&["example.com"]), [nets]);
        let nothing = Document::from(&json!({}));
        assert_eq!(unknown_claim_devices(nothing.root(), &BTreeSet::new()), []);
    }
}

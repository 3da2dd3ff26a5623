//! The argument that adds resources to the table of accelerators.

use meterline_core::{Reads, Step};
use rhai::{Dynamic, Map};

use crate::{
    accelerators::Unit,
    device_reads::{self, NODE_LABELS},
    pod::{Added, Configured},
    slice_reads,
};

/// Returns which of `count` arguments of a function is a table, if one is.
pub(crate) fn place(name: &str, count: usize) -> Option<usize> {
    let place = match name {
        "claim_devices" | "devices" | "pod_gpu_request" | "pod_gpu_limit" => 0,
        "pod_gpu_type" => 1,
        "pod_gpu_request_seconds" | "pod_gpu_limit_seconds" | "pod_metrics" => 2,
        _ => return None,
    };
    (place < count).then_some(place)
}

/// Whether a function counts the resources that its arguments name.
pub(crate) fn names_resources(name: &str) -> bool {
    matches!(
        name,
        "pod_request"
            | "pod_request_seconds"
            | "pod_limit"
            | "pod_limit_seconds"
            | "pod_limit_or_request"
            | "container_request"
            | "container_limit"
    )
}

/// Returns what a function reads because of its table, which is a constant.
///
/// # Errors
/// What is wrong with the table.
pub(crate) fn reads(function: &str, table: &Dynamic) -> Result<Reads, String> {
    let mut reads = Reads::default();
    // Another type is reported by the check of arguments.
    let Ok(table) = table.as_map_ref() else {
        return Ok(reads);
    };
    for (name, configured) in added(&table)? {
        reads.join(&device_reads::names(&name));
        if function == "claim_devices" {
            reads.join(&slice_reads::names(&name, configured.product.as_deref()));
        } else if let Some(product) = &configured.product {
            reads.add(&["spec", "nodeSelector", product].map(Step::Key));
            reads.add(&[NODE_LABELS, product].map(Step::Key));
        }
    }
    Ok(reads)
}

/// Reads the resources that a mapping adds to the table.
pub(super) fn added(table: &Map) -> Result<Added, String> {
    let mut added = Added::new();
    for (name, entry) in table {
        let Ok(entry) = entry.as_map_ref() else {
            return Err(format!(
                "`{name}` needs an object, such as `#{{ vendor: \"example\", unit: \"card\" }}`"
            ));
        };
        let mut configured = Configured {
            vendor: String::new(),
            unit: Unit::Card,
            product: None,
        };
        for (key, value) in entry.iter() {
            let Ok(text) = value.as_immutable_string_ref() else {
                return Err(format!("`{key}` of `{name}` is not text"));
            };
            let text = text.as_str();
            match key.as_str() {
                "vendor" => configured.vendor = text.to_string(),
                "product" => configured.product = Some(text.to_string()),
                "unit" => {
                    configured.unit = Unit::of(text).ok_or_else(|| {
                        format!(
                            "`{text}` is not a unit of `{name}`; use card, slot, slice, chip, core or share"
                        )
                    })?;
                }
                _ => {
                    return Err(format!(
                        "`{key}` is not a field of `{name}`; use vendor, unit or product"
                    ));
                }
            }
        }
        added.insert(name.to_string(), configured);
    }
    Ok(added)
}

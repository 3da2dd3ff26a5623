//! What functions for claims of devices tell an input: that it has to add what drivers say of the devices of a claim,
//! and which attributes of devices are read.
//!
//! They declare it with what they read, under keys that no object has. What is added has a key of its own, too, like the
//! metadata of other objects.

use std::collections::{BTreeMap, BTreeSet};

use meterline_core::{Reads, Step};

/// The key of what the input adds to a claim: a list with one object for each allocated device that a slice describes,
/// with `driver`, `pool`, `device`, the `generation` of the pool, `attributes` and `capacity`. Names are without the
/// domain of the driver.
pub const CLAIM_DEVICES: &str = "claim_devices()";
/// The key of the attributes that are read, by driver.
const ATTRIBUTES: &str = "device_attributes()";

/// What is read of the devices of claims: the attributes, by driver. Nothing is read of what other drivers say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SliceReads {
    /// The names of attributes, without the domain of the driver.
    pub attributes: BTreeMap<String, BTreeSet<String>>,
}

impl SliceReads {
    /// Finds it in what a pipeline reads; `None` if it reads no devices of claims.
    #[must_use]
    pub fn of(reads: &Reads) -> Option<Self> {
        let Reads::Parts(parts) = reads else {
            return None;
        };
        parts.keys.get(CLAIM_DEVICES)?;
        let keys = |reads: &Reads| match reads {
            Reads::Parts(parts) => parts.keys.clone(),
            Reads::All => BTreeMap::new(),
        };
        let drivers = parts.keys.get(ATTRIBUTES).map(keys).unwrap_or_default();
        let attributes = drivers.iter().map(|(driver, attributes)| {
            let attributes = keys(attributes).into_keys().collect();
            (driver.clone(), attributes)
        });
        Some(Self {
            attributes: attributes.collect(),
        })
    }
}

/// What a script declares that names a driver, and the attribute that names the product of its devices.
pub(crate) fn names(driver: &str, product: Option<&str>) -> Reads {
    let mut reads = Reads::default();
    match product {
        Some(product) => reads.add(&[ATTRIBUTES, driver, product].map(Step::Key)),
        // Its devices have capacities, such as their memory.
        None => reads.add_all(&[ATTRIBUTES, driver].map(Step::Key), &Reads::default()),
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_of_slices_is_found_by_driver() {
        let mut reads = Reads::of(&[
            "status.phase",
            "claim_devices()",
            "device_attributes().gpu~1nvidia~1com.productName",
            "device_attributes().gpu~1nvidia~1com.type",
        ]);
        reads.join(&names("npu.example.com", Some("model")));
        reads.join(&names("nic.example.com", None));
        let mut all = reads.clone();
        all.join(&Reads::All);
        let expected: BTreeMap<_, BTreeSet<_>> = [
            ("gpu.nvidia.com", vec!["productName", "type"]),
            ("nic.example.com", vec![]),
            ("npu.example.com", vec!["model"]),
        ]
        .map(|(driver, names)| {
            let names = names.into_iter().map(ToOwned::to_owned);
            (driver.to_owned(), names.collect())
        })
        .into();
        for reads in [reads, all] {
            assert_eq!(SliceReads::of(&reads).unwrap().attributes, expected);
        }
        assert_eq!(SliceReads::of(&Reads::All), None);
        assert_eq!(SliceReads::of(&Reads::of(&["status"])), None);
    }
}

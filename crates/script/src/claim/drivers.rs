//! The drivers whose devices are billed, and which of their attributes describe a device.
//!
//! Names of attributes are without a domain, which then is that of the driver. (Sources: the device attributes that
//! the drivers of NVIDIA, AMD, Intel and AWS publish.)

use crate::{accelerators::Unit, pod::Added};

/// How the devices of one driver are described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Driver<'a> {
    /// The vendor, in lower case.
    pub(super) vendor: &'a str,
    /// What a device is that is no part of another one. A `share` is no device.
    pub(super) unit: Unit,
    /// The attribute that names the product.
    pub(super) product: Option<&'a str>,
    /// The attribute that names the part of a card that a device is.
    pub(super) partition: Option<&'a str>,
    /// The values of the attribute `type` of devices that are no part of another one. A whole card may name a profile,
    /// too.
    pub(super) whole: &'a [&'a str],
    /// Whether parts are MIG slices.
    pub(super) is_mig: bool,
}

/// A row that says nothing.
const NOTHING: Driver<'_> = Driver {
    vendor: "",
    unit: Unit::Card,
    product: None,
    partition: None,
    whole: &[],
    is_mig: false,
};

/// The table.
const DRIVERS: &[(&str, Driver<'static>)] = &[
    (
        "gpu.nvidia.com",
        Driver {
            vendor: "nvidia",
            product: Some("productName"),
            partition: Some("profile"),
            whole: &["gpu", "vfio"],
            is_mig: true,
            ..NOTHING
        },
    ),
    (
        "gpu.amd.com",
        Driver {
            vendor: "amd",
            product: Some("productName"),
            partition: Some("partitionProfile"),
            whole: &["amdgpu"],
            ..NOTHING
        },
    ),
    (
        "gpu.intel.com",
        Driver {
            vendor: "intel",
            product: Some("model"),
            ..NOTHING
        },
    ),
    (
        "gaudi.intel.com",
        Driver {
            vendor: "habana",
            product: Some("model"),
            ..NOTHING
        },
    ),
    (
        "neuron.aws.com",
        Driver {
            vendor: "aws",
            unit: Unit::Chip,
            ..NOTHING
        },
    ),
    // Channels for the memory of other nodes' cards.
    (
        "compute-domain.nvidia.com",
        Driver {
            vendor: "nvidia",
            unit: Unit::Share,
            ..NOTHING
        },
    ),
];

/// The attribute that says what kind of device a device is.
pub(super) const TYPE: &str = "type";

impl<'a> Driver<'a> {
    /// Returns the row of a driver: of the configuration, or of the table.
    pub(super) fn of(name: &str, added: &'a Added) -> Option<Self> {
        match added.get(name) {
            Some(added) => Some(Self {
                vendor: &added.vendor,
                unit: added.unit,
                product: added.product.as_deref(),
                ..NOTHING
            }),
            None => Self::known(name),
        }
    }

    /// Returns the row of the table.
    pub(super) fn known(name: &str) -> Option<Self> {
        let mut rows = DRIVERS.iter();
        rows.find(|(known, _)| *known == name).map(|(_, row)| *row)
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::{Reads, Step};

    use super::*;
    use crate::{claim::CLAIM_DEVICES, pod::Configured};

    #[test]
    fn the_input_keeps_the_attributes_that_the_table_names_and_no_others() {
        let mut named = Reads::default();
        for (driver, row) in DRIVERS {
            let kind = row.partition.map(|_| TYPE);
            for attribute in [row.product, row.partition, kind].into_iter().flatten() {
                named.add(&["device_attributes()", driver, attribute].map(Step::Key));
            }
        }
        let declared = CLAIM_DEVICES.iter().copied();
        let declared = declared.filter(|it| it.starts_with("device_attributes()"));
        assert_eq!(named, Reads::of(&declared.collect::<Vec<_>>()));
    }

    #[test]
    fn the_configuration_replaces_a_row() {
        let configured = Configured {
            vendor: "example".to_owned(),
            unit: Unit::Chip,
            product: Some("model".to_owned()),
        };
        let added = Added::from([("gpu.nvidia.com".to_owned(), configured)]);
        let row = Driver::of("gpu.nvidia.com", &added).unwrap();
        let expected = Driver {
            vendor: "example",
            unit: Unit::Chip,
            product: Some("model"),
            ..NOTHING
        };
        assert_eq!(row, expected);
        assert_eq!(Driver::of("gpu.amd.com", &added).unwrap().vendor, "amd");
        assert_eq!(Driver::of("dranet", &added), None);
    }
}

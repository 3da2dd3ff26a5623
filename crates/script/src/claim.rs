//! Reads the devices that are allocated to a claim (dynamic resource allocation) directly from its document, with what
//! their drivers say of them.

mod devices;
mod drivers;
mod unknown;

pub(crate) use devices::{ClaimDevice, claim_devices};
pub use unknown::unknown_claim_devices;

/// The paths that the devices of a claim are read from: its allocation, what the input adds of each device, and the
/// attributes of devices that the input keeps for it.
pub(crate) const CLAIM_DEVICES: &[&str] = &[
    "claim_devices()",
    "device_attributes().gaudi~1intel~1com.model",
    "device_attributes().gpu~1amd~1com.partitionProfile",
    "device_attributes().gpu~1amd~1com.productName",
    "device_attributes().gpu~1amd~1com.type",
    "device_attributes().gpu~1intel~1com.model",
    "device_attributes().gpu~1nvidia~1com.productName",
    "device_attributes().gpu~1nvidia~1com.profile",
    "device_attributes().gpu~1nvidia~1com.type",
    "devices().counts~",
    "status.allocation.devices.results.*.adminAccess",
    "status.allocation.devices.results.*.consumedCapacity",
    "status.allocation.devices.results.*.device",
    "status.allocation.devices.results.*.driver",
    "status.allocation.devices.results.*.pool",
    "status.allocation.devices.results.*.request",
    "status.allocation.devices.results.*.shareID",
];

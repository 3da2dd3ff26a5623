//! Lists the devices that are allocated to a claim and that are billed.
//!
//! The allocation names a device by its driver, pool and name. What a device is, its driver says in a `ResourceSlice`; the
//! input adds it to the claim (`claim_devices()`), so that it remains known when the slice is gone.

use meterline_core::{Node, Scalar};

use super::drivers::{Driver, TYPE};
use crate::{
    accelerators::Unit,
    blank,
    pod::{Added, Fraction, mig_fraction},
    quantity::Quantity,
    slice_reads::CLAIM_DEVICES,
};

/// A device that is allocated to a claim, or a share of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimDevice<'a> {
    pub(crate) driver: &'a str,
    pub(crate) pool: &'a str,
    pub(crate) device: &'a str,
    /// The request of the claim that it is for.
    pub(crate) request: &'a str,
    /// Which share of the device it is.
    pub(crate) share_id: Option<&'a str>,
    pub(crate) vendor: &'a str,
    /// What it is; `None` if it may be a part of a card, and nothing says so.
    pub(crate) unit: Option<Unit>,
    /// The part of a card that it is, such as `1g.5gb`; empty for anything else.
    pub(crate) partition: &'a str,
    pub(crate) is_shared: bool,
    pub(crate) product: Option<&'a str>,
    /// The bytes of memory of the device.
    pub(crate) memory: Option<i64>,
    /// How much of a physical device it is.
    pub(crate) fraction: Option<Fraction>,
}

/// Lists the devices of a claim, of the drivers in the table and those that the configuration adds. Access for
/// administration leaves a device to others, so it is not listed.
pub(crate) fn claim_devices<'a>(claim: Node<'a>, added: &'a Added) -> Vec<ClaimDevice<'a>> {
    let described = claim.get(CLAIM_DEVICES);
    let listed = results(claim).filter(|it| !is_admin(*it));
    let listed = listed.filter_map(|result| {
        let driver = Driver::of(text(result, "driver"), added)?;
        if driver.unit == Unit::Share {
            return None;
        }
        let mut described = described.into_iter().flat_map(Node::items);
        let facts = described.find(|it| {
            let is_same = |key| text(*it, key) == text(result, key);
            is_same("driver") && is_same("pool") && is_same("device")
        });
        Some(device(result, driver, facts))
    });
    listed.collect()
}

/// The results of the allocation of a claim.
pub(super) fn results(claim: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    let results = claim.path(&["status", "allocation", "devices", "results"]);
    results.into_iter().flat_map(Node::items)
}

/// Whether a result is access for administration.
pub(super) fn is_admin(result: Node<'_>) -> bool {
    let access = result.get("adminAccess").and_then(|it| it.scalar());
    matches!(access, Some(Scalar::Bool(true)))
}

/// Describes the device of a result; `facts` is what its driver says of it.
fn device<'a>(result: Node<'a>, driver: Driver<'a>, facts: Option<Node<'a>>) -> ClaimDevice<'a> {
    let attribute = |name: &str| {
        let value = facts?.path(&["attributes", name])?.as_str();
        value.and_then(blank::trimmed)
    };
    let product = driver.product.and_then(attribute);
    let is_whole = attribute(TYPE).is_some_and(|it| driver.whole.contains(&it));
    let partition = driver.partition.filter(|_| !is_whole);
    let partition = partition.and_then(attribute).unwrap_or_default();
    let consumed = result.get("consumedCapacity").filter(|it| it.is_object());
    let share_id = Some(text(result, "shareID")).filter(|it| !it.is_empty());
    let is_shared = consumed.is_some() || share_id.is_some();
    // Of a driver with parts, a device is known to be whole only if it says so.
    let is_known = !partition.is_empty() || is_whole || driver.partition.is_none();
    let unit = if is_shared {
        Unit::Share
    } else if partition.is_empty() {
        driver.unit
    } else {
        Unit::Slice
    };
    let of_card = match (partition, product) {
        ("", _) => Some(Fraction::ONE).filter(|_| driver.unit.is_whole()),
        (profile, Some(product)) if driver.is_mig => mig_fraction(profile, product, None),
        _ => None,
    };
    let of_card = of_card.filter(|_| is_known);
    let fraction = if is_shared {
        let share = consumed.and_then(|it| share(it, text(result, "driver"), facts?));
        of_card.and_then(|it| it.times(share?))
    } else {
        of_card
    };
    let memory = ["memory", "addressableMemory"].iter();
    let mut memory = memory.filter_map(|name| whole(&capacity(facts?, name)?));
    ClaimDevice {
        driver: text(result, "driver"),
        pool: text(result, "pool"),
        device: text(result, "device"),
        request: text(result, "request"),
        share_id,
        vendor: driver.vendor,
        unit: Some(unit).filter(|_| is_known || is_shared),
        partition,
        is_shared,
        product,
        memory: memory.next(),
        fraction,
    }
}

/// Finds how much of a device others cannot use: the largest one of the parts of its capacities that are consumed.
fn share(consumed: Node<'_>, driver: &str, facts: Node<'_>) -> Option<Fraction> {
    let mut largest: Option<Fraction> = None;
    for (name, amount) in consumed.entries() {
        let capacity = capacity(facts, local_name(name, driver))?;
        let amount = Quantity::parse(amount.as_str()?).ok()?;
        let part = Fraction::of(amount.nanos()?, capacity.nanos()?)?;
        largest = Some(match largest {
            Some(known) => known.larger(part)?,
            None => part,
        });
    }
    largest
}

/// Returns a name without the domain of its driver.
fn local_name<'a>(name: &'a str, driver: &str) -> &'a str {
    let rest = name.strip_prefix(driver);
    rest.and_then(|it| it.strip_prefix('/')).unwrap_or(name)
}

fn capacity(facts: Node<'_>, name: &str) -> Option<Quantity> {
    let amount = facts.path(&["capacity", name])?.as_str()?;
    Quantity::parse(amount).ok()
}

/// The bytes of a quantity, rounded down.
fn whole(quantity: &Quantity) -> Option<i64> {
    let bytes = quantity.nanos()?.div_euclid(crate::quantity::NANO);
    i64::try_from(bytes).ok().filter(|it| *it > 0)
}

fn text<'a>(object: Node<'a>, key: &str) -> &'a str {
    let value = object.get(key).and_then(Node::as_str);
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests;

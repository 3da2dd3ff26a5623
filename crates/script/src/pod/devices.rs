//! Lists the devices that a pod requests, one entry for each resource that counts them.

use meterline_core::Node;

use super::{
    added::{Added, Configured},
    fraction::Fraction,
    mig,
    product::Place,
    reserved::Reserved,
    resources::Section,
};
use crate::{
    accelerators::{self, Accelerator, Measure, Unit},
    quantity::{NANO, Quantity},
};

/// Devices of one kind that a pod requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device<'a> {
    pub(crate) resource: &'a str,
    pub(crate) vendor: &'a str,
    pub(crate) count: Quantity,
    /// What one of them is; `None` for a resource that is neither in the table nor configured.
    pub(crate) unit: Option<Unit>,
    /// The part of a card that each of them is, such as `1g.5gb`; empty for anything else.
    pub(crate) partition: &'a str,
    /// How pods share the device.
    pub(crate) sharing: &'static str,
    pub(crate) product: Option<&'a str>,
    /// The bytes of memory of one device.
    pub(crate) memory: Option<i64>,
    /// How much of a physical device each of them is.
    pub(crate) fraction: Option<Fraction>,
}

impl Device<'_> {
    /// Whether the resource is in the table or configured.
    pub(crate) fn is_known(&self) -> bool {
        self.unit.is_some()
    }
}

/// Lists the devices that a pod requests, by resource: those of the table, those that the configuration
/// adds, and other extended resources, which may be devices. `labels` are those of the pod's node, if they
/// are known. An error is that of a malformed amount.
pub(crate) fn devices<'a>(
    pod: Node<'a>,
    labels: Option<Node<'a>>,
    added: &'a Added,
) -> Vec<Result<Device<'a>, String>> {
    let reader = Reader {
        reserved: Reserved::of(pod),
        place: Place::of(pod, labels),
        added,
    };
    let wanted = |name: &str| match (added.get(name), Accelerator::of(name)) {
        (Some(added), _) => added.unit != Unit::Share,
        (None, Some(row)) => row.unit != Unit::Share,
        (None, None) => accelerators::is_extended(name),
    };
    let totals = reader.reserved.totals(Section::Requests, wanted);
    let requested = totals
        .into_iter()
        .filter(|(_, total)| total.as_ref().ok() != Some(&Quantity::ZERO));
    requested
        .map(|(name, total)| Ok(reader.device(name, total?)))
        .collect()
}

struct Reader<'a> {
    reserved: Reserved<'a>,
    place: Place<'a>,
    added: &'a Added,
}

impl<'a> Reader<'a> {
    fn device(&self, resource: &'a str, count: Quantity) -> Device<'a> {
        let device = Device {
            resource,
            vendor: "",
            count,
            unit: None,
            partition: "",
            sharing: UNKNOWN,
            product: None,
            memory: None,
            fraction: None,
        };
        match (self.added.get(resource), Accelerator::of(resource)) {
            (Some(added), _) => self.added(device, added),
            (None, Some(row)) => self.described(device, row),
            (None, None) => device,
        }
    }

    fn added(&self, device: Device<'a>, added: &'a Configured) -> Device<'a> {
        let key = added.product.as_deref();
        Device {
            vendor: &added.vendor,
            unit: Some(added.unit),
            sharing: if added.unit == Unit::Slot {
                UNKNOWN
            } else {
                NONE
            },
            product: key.and_then(|key| self.place.product(&[key])),
            fraction: added.unit.is_whole().then_some(Fraction::ONE),
            ..device
        }
    }

    fn described(&self, device: Device<'a>, row: &'static Accelerator) -> Device<'a> {
        let resource = device.resource;
        let named = self.place.product(row.products);
        let product = named.or_else(|| row.product(resource));
        // A node can offer slices of its cards under the name of a card. Its product then names the slice, or a label
        // of its own does.
        let slice = product.filter(|_| row.vendor == "nvidia");
        let slice = slice.and_then(|it| Some(it.split_once(MIG)?.1));
        let slice = slice.map(|it| it.strip_suffix(SHARED).unwrap_or(it));
        let slice = slice.or_else(|| self.place.stated(row.slice?));
        let (replicas, strategy) = row.sharing(resource, |key| self.place.stated(key));
        let memory = row.memory(resource, |key| self.place.stated(key));
        let share = self.share(resource, row, memory);
        let is_shared = row.is_shared
            || share != Share::Whole
            || replicas.is_some_and(|it| it > 1)
            || product.is_some_and(|it| it.ends_with(SHARED));
        let sharing = match strategy {
            Some("time-slicing" | "time-sharing") => "time-slicing",
            Some("mps") => "mps",
            _ if is_shared => UNKNOWN,
            _ => NONE,
        };
        let partition = slice.unwrap_or_else(|| row.partition(resource));
        let unit = match row.unit {
            _ if share != Share::Whole => Unit::Share,
            _ if !partition.is_empty() => Unit::Slice,
            Unit::Card if sharing != NONE => Unit::Slot,
            unit => unit,
        };
        let of_card = match (unit, share) {
            (Unit::Share, Share::Part(fraction)) => Some(fraction),
            (Unit::Card | Unit::Chip | Unit::Slot, _) => Some(Fraction::ONE),
            (Unit::Slice, _) => self.slice(resource, partition, product),
            _ => None,
        };
        let fraction = match replicas {
            _ if unit == Unit::Share => of_card,
            Some(replicas) => of_card.and_then(|it| it.times(Fraction::of(1, replicas.into())?)),
            None => of_card.filter(|_| sharing == NONE),
        };
        Device {
            vendor: row.vendor,
            unit: Some(unit),
            partition,
            sharing,
            product,
            memory,
            fraction,
            ..device
        }
    }

    /// Finds how much of its card a slice is.
    fn slice(&self, resource: &str, partition: &str, product: Option<&str>) -> Option<Fraction> {
        let product = product?;
        let card = product.split_once(MIG).map_or(product, |(card, _)| card);
        let card = card.strip_suffix(SHARED).unwrap_or(card);
        // What is offered as a card has the memory of a slice.
        let bytes = (resource != CARD).then(|| {
            let row = Accelerator::of(CARD)?;
            row.memory(CARD, |key| self.place.stated(key))
        });
        mig::fraction(partition, card, bytes.flatten())
    }

    /// Finds how much of each device the pod asks for. It is unknown if its containers ask for different shares.
    fn share(&self, resource: &str, row: &Accelerator, memory: Option<i64>) -> Share {
        if row.shares.is_empty() {
            return Share::Whole;
        }
        let containers = self.reserved.containers().iter();
        let with_device = containers.filter(|it| {
            let amount = it.amount(Section::Requests, resource);
            !matches!(amount, Ok(None)) && amount != Ok(Some(Quantity::ZERO))
        });
        let mut shares = with_device.map(|container| {
            let amounts = row.shares.iter().map(|(share, measure)| {
                let name = accelerators::named(share, resource);
                let amount = container.amount(Section::Requests, &name);
                // 0 stands for the default.
                let amount = amount.map(|it| it.filter(|it| *it != Quantity::ZERO));
                Ok((*measure, amount?))
            });
            match amounts.collect::<Result<Vec<_>, String>>() {
                Ok(amounts) => Share::of(&amounts, memory),
                Err(_) => Share::Unknown,
            }
        });
        let Some(first) = shares.next() else {
            return Share::Whole;
        };
        let mut others = shares;
        if others.all(|it| it == first) {
            first
        } else {
            Share::Unknown
        }
    }
}

/// How much of each device a container asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    /// All of it.
    Whole,
    Part(Fraction),
    /// An unknown part.
    Unknown,
}

impl Share {
    /// What others cannot use of a device is its share of the memory or of the cores, whichever is larger.
    /// Without a share of the memory a container gets all of it.
    fn of(amounts: &[(Measure, Option<Quantity>)], memory: Option<i64>) -> Self {
        let of = |measure| {
            let mut amounts = amounts.iter();
            let found = amounts.find(|(it, _)| *it == measure);
            found.and_then(|(_, amount)| amount.as_ref())
        };
        let percent = |amount: &Quantity| Fraction::of(amount.nanos()?, 100 * NANO);
        let cores = of(Measure::CorePercent);
        let of_memory = match (of(Measure::MemoryPercent), of(Measure::Mebibytes)) {
            (Some(share), _) => percent(share),
            (None, Some(share)) => memory.and_then(|memory| {
                let bytes = share.nanos()?.checked_mul(1 << 20)?;
                Fraction::of(bytes, i128::from(memory).checked_mul(NANO)?)
            }),
            (None, None) if cores.is_none() => return Self::Whole,
            (None, None) => Some(Fraction::ONE),
        };
        let of_cores = match cores {
            Some(share) => percent(share),
            None => Fraction::of(0, 1),
        };
        let larger = match (of_memory, of_cores) {
            (Some(memory), Some(cores)) => memory.larger(cores),
            // All cores are all of the device.
            (None, cores) => cores.filter(|it| *it == Fraction::ONE),
            (Some(_), None) => None,
        };
        larger.map_or(Self::Unknown, Self::Part)
    }
}

const NONE: &str = "none";
const UNKNOWN: &str = "unknown";
/// What separates a card from its slice in the product of a slice that is offered as a card.
const MIG: &str = "-MIG-";
/// The resource of NVIDIA's cards.
const CARD: &str = "nvidia.com/gpu";
/// The end of the product of a card that is shared under its own name.
const SHARED: &str = "-SHARED";

#[cfg(test)]
mod tests;

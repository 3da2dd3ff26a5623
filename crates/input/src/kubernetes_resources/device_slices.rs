//! What drivers say of their devices (`ResourceSlice`), for the claims that have the devices.
//!
//! An allocation names a device by driver, pool and name; only a slice says what the device is, and it vanishes with its
//! node. So what it says becomes a part of the content of each claim that has the device, like the metadata of other
//! objects, and remains there. A driver replaces the slices of a pool by slices of a higher generation, so the highest one
//! that has the device counts, for all time of the allocation: what a device is does not change while it is allocated.
//!
//! Drivers write slices, and no tenant can. What is kept of a device is bounded by the API: the attributes that are read,
//! and its capacities.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use meterline_core::{Builder, Document, Node, Scalar};
use meterline_ledger::{Content as _, Uid};
use meterline_script::{CLAIM_DEVICES, SliceReads};

use super::object::BilledObject;

/// A pool of devices, by its driver and its name.
type PoolName = (Arc<str>, Arc<str>);

/// The devices of one slice.
#[derive(Debug, PartialEq)]
struct Slice {
    generation: i64,
    /// What is kept of each device: `attributes` and `capacity`.
    devices: BTreeMap<Box<str>, Document>,
}

/// What is known of one pool.
#[derive(Debug, Default)]
struct Pool {
    slices: HashMap<Uid, Slice>,
    /// The claims that have devices of it.
    claims: BTreeSet<Uid>,
}

impl Pool {
    /// Returns what the highest generation that has a device says of it.
    fn device(&self, name: &str) -> Option<(i64, &Document)> {
        let slices = self.slices.values();
        let found = slices.filter_map(|it| Some((it.generation, it.devices.get(name)?)));
        // One generation has a device once. If a driver breaks that rule, the order of slices must not decide.
        found.max_by(|(one, device), (other, another)| {
            let raw = |it: &Document| it.root().raw().to_vec();
            one.cmp(other).then_with(|| raw(device).cmp(&raw(another)))
        })
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct DeviceSlices {
    /// What is read of devices; `None` if the pipeline reads none.
    reads: Option<SliceReads>,
    pools: HashMap<PoolName, Pool>,
    /// The pool of each slice.
    slices: HashMap<Uid, PoolName>,
    /// How many entries `claims` of all pools have.
    claims: usize,
    /// How many they may have before those of unknown claims are forgotten.
    most_claims: usize,
}

/// The entries of unknown claims are looked for when there are this many.
const FEW_CLAIMS: usize = 1_024;

impl DeviceSlices {
    pub(super) fn new(reads: Option<SliceReads>) -> Self {
        Self {
            reads,
            most_claims: FEW_CLAIMS,
            ..Self::default()
        }
    }

    /// Whether nothing of devices is read.
    pub(super) fn is_nothing(&self) -> bool {
        self.reads.is_none()
    }

    /// Remembers which claim has these devices. `knows` is whether the ledger knows a claim.
    pub(super) fn used(
        &mut self,
        claim: &Uid,
        content: &BilledObject,
        knows: impl Fn(&Uid) -> bool,
    ) {
        for (driver, pool, _) in self.allocated(content) {
            let pool = self.pools.entry((driver.into(), pool.into()));
            let is_new = pool.or_default().claims.insert(Arc::clone(claim));
            self.claims = self.claims.saturating_add(usize::from(is_new));
        }
        if self.claims > self.most_claims {
            for pool in self.pools.values_mut() {
                pool.claims.retain(|it| it == claim || knows(it));
            }
            self.pools
                .retain(|_, it| !it.slices.is_empty() || !it.claims.is_empty());
            self.claims = self.pools.values().map(|it| it.claims.len()).sum();
            self.most_claims = self.claims.saturating_mul(2).max(FEW_CLAIMS);
        }
    }

    /// Learns a slice. Returns the claims that have devices of its pool, unless nothing that is read changed.
    pub(super) fn learn(&mut self, uid: &Uid, slice: Node<'_>) -> Vec<Uid> {
        let text = |path: &[&str]| slice.path(path).and_then(Node::as_str);
        let driver = text(&["spec", "driver"]).unwrap_or_default();
        let wanted = self.reads.as_ref().and_then(|it| it.attributes.get(driver));
        let Some(wanted) = wanted else {
            return Vec::new();
        };
        let generation = slice.path(&["spec", "pool", "generation"]);
        let devices = slice.path(&["spec", "devices"]);
        let devices = devices.into_iter().flat_map(Node::items);
        let devices = devices.filter_map(|device| {
            let name = device.get("name").and_then(Node::as_str)?;
            Some((name.into(), kept(device, driver, wanted)))
        });
        let learned = Slice {
            generation: generation.and_then(Node::as_i64).unwrap_or_default(),
            devices: devices.collect(),
        };
        let pool = text(&["spec", "pool", "name"]).unwrap_or_default();
        let name: PoolName = (driver.into(), pool.into());
        // A slice stays in its pool.
        if self.slices.get(uid).is_some_and(|it| *it != name) {
            self.gone(uid);
        }
        self.slices.insert(Arc::clone(uid), name.clone());
        let pool = self.pools.entry(name).or_default();
        if pool.slices.get(uid) == Some(&learned) {
            return Vec::new();
        }
        pool.slices.insert(Arc::clone(uid), learned);
        pool.claims.iter().map(Arc::clone).collect()
    }

    /// A slice is gone. What it said remains with the claims that have its devices.
    pub(super) fn gone(&mut self, uid: &str) {
        let Some(name) = self.slices.remove(uid) else {
            return;
        };
        if let Some(pool) = self.pools.get_mut(&name) {
            pool.slices.remove(uid);
            if pool.slices.is_empty() && pool.claims.is_empty() {
                self.pools.remove(&name);
            }
        }
    }

    /// Returns the content of a claim with what is known of its devices. `known` is its content so far.
    pub(super) fn joined(
        &self,
        content: BilledObject,
        known: Option<&BilledObject>,
    ) -> BilledObject {
        if self.is_nothing() {
            return content;
        }
        // What an earlier configuration kept may lack attributes.
        let is_whole = known.is_some_and(|it| !it.is_partial());
        let known = known.and_then(|it| it.document.root().get(CLAIM_DEVICES));
        let mut builder = Builder::default();
        let open = builder.begin_array();
        let mut is_empty = true;
        for (driver, pool, device) in self.allocated(&content) {
            let live = self.pools.get(&(driver.into(), pool.into()));
            let live = live.and_then(|it| it.device(device));
            let mut entries = known.into_iter().flat_map(Node::items);
            let known = entries.find(|it| is_of(*it, (driver, pool, device)));
            let whole = known.filter(|_| is_whole);
            let generation = whole.and_then(|it| it.get("generation")?.as_i64());
            let entry = match (live, known) {
                (Some((now, facts)), _) if generation.is_none_or(|then| now > then) => {
                    described((driver, pool, device), now, facts)
                }
                (_, Some(known)) => known.to_document(),
                (_, None) => continue,
            };
            builder.push_raw(entry.root());
            is_empty = false;
        }
        builder.end(open);
        let list = builder.finish();
        content.with_field(CLAIM_DEVICES, Some(list.root()).filter(|_| !is_empty))
    }

    /// The devices that are allocated to a claim, each once, of drivers of whose devices something is read: driver,
    /// pool and device.
    fn allocated<'a>(&self, content: &'a BilledObject) -> BTreeSet<(&'a str, &'a str, &'a str)> {
        let results = ["status", "allocation", "devices", "results"];
        let results = content.document.root().path(&results);
        let results = results.into_iter().flat_map(Node::items);
        let device = |it: Node<'a>| {
            let text = |key: &str| it.get(key).and_then(Node::as_str);
            Some((text("driver")?, text("pool")?, text("device")?))
        };
        let reads = self.reads.as_ref();
        let is_read = |driver: &str| reads.is_some_and(|it| it.attributes.contains_key(driver));
        let devices = results.filter_map(device);
        devices.filter(|(driver, ..)| is_read(driver)).collect()
    }
}

/// Whether an entry of a content is of this device.
fn is_of(entry: Node<'_>, (driver, pool, device): (&str, &str, &str)) -> bool {
    let is = |key: &str, value: &str| entry.get(key).is_some_and(|it| it.is_text(value));
    is("driver", driver) && is("pool", pool) && is("device", device)
}

/// What is kept of a device: the attributes that are read, as far as they are texts, and its capacities: all of a device
/// that is shared, whose shares consume them, else its memory.
fn kept(device: Node<'_>, driver: &str, wanted: &BTreeSet<String>) -> Document {
    let entries = |key: &str| {
        let entries = device.get(key).into_iter().flat_map(Node::entries);
        entries.map(|(name, value)| (local_name(name, driver), value))
    };
    let mut builder = Builder::default();
    let open = builder.begin_object();
    builder.key("attributes");
    let attributes = entries("attributes").filter(|(name, _)| wanted.contains(*name));
    let text = |(name, value): (_, Node<'_>)| Some((name, value.get("string")?.as_str()?.into()));
    push(&mut builder, attributes.filter_map(text).collect());
    builder.key("capacity");
    let is_shared = device.get("allowMultipleAllocations");
    let is_shared = is_shared.and_then(|it| it.scalar()) == Some(Scalar::Bool(true));
    let is_read = |name: &str| is_shared || matches!(name, "memory" | "addressableMemory");
    let capacity = entries("capacity").filter(|(name, _)| is_read(name));
    let amount = |(name, value): (_, Node<'_>)| Some((name, value.get("value")?.as_str()?.into()));
    push(&mut builder, capacity.filter_map(amount).collect());
    builder.end(open);
    builder.finish()
}

/// Writes an object of texts, in the order of their names.
fn push(builder: &mut Builder, texts: BTreeMap<&str, Box<str>>) {
    let open = builder.begin_object();
    for (name, text) in texts {
        builder.key(name);
        builder.scalar(Scalar::Text(&text));
    }
    builder.end(open);
}

/// What a content has of a device.
fn described(
    (driver, pool, device): (&str, &str, &str),
    generation: i64,
    facts: &Document,
) -> Document {
    let mut builder = Builder::default();
    let open = builder.begin_object();
    for (key, text) in [("driver", driver), ("pool", pool), ("device", device)] {
        builder.key(key);
        builder.scalar(Scalar::Text(text));
    }
    builder.key("generation");
    builder.push(&generation.into());
    for (key, value) in facts.root().entries() {
        builder.key(key);
        builder.push_raw(value);
    }
    builder.end(open);
    builder.finish()
}

/// A name without its domain, if that is the driver's.
fn local_name<'a>(name: &'a str, driver: &str) -> &'a str {
    let rest = name.strip_prefix(driver);
    rest.and_then(|it| it.strip_prefix('/')).unwrap_or(name)
}

#[cfg(test)]
mod tests;

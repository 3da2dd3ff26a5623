//! What functions for devices tell an input besides what they read of an object.
//!
//! They declare it with what they read, under keys that no object has, and the input takes it out. So it has the same
//! way through a pipeline.

use std::collections::BTreeSet;

use meterline_core::{Reads, Step};

use crate::relation::Relation;

/// The key of the labels of the object's node that are used if the input has them. Unlike `node()`, they do not make
/// the input watch nodes.
pub(crate) const NODE_LABELS: &str = "node_labels()";
/// The key of what devices are counted.
const DEVICES: &str = "devices()";
/// Below it: that devices are counted.
const COUNTS: &str = "counts";
/// Below it: the resources that a script names.
const NAMED: &str = "named";

/// See the module documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceReads {
    /// The labels of the object's node that are used if the input has them.
    labels: Reads,
    /// Whether devices are counted.
    pub counts: bool,
    /// The resources that the pipeline names, so that it knows whether they are devices.
    pub named: BTreeSet<String>,
}

impl DeviceReads {
    /// Takes it out of what a pipeline reads.
    #[must_use]
    pub fn take(reads: &mut Reads) -> Self {
        let Reads::Parts(parts) = reads else {
            return Self::default();
        };
        let labels = parts.keys.remove(NODE_LABELS).unwrap_or_default();
        let devices = parts.keys.remove(DEVICES).unwrap_or_default();
        let named = match devices.field(NAMED) {
            Some(Reads::Parts(named)) => named.keys.keys().cloned().collect(),
            _ => BTreeSet::new(),
        };
        Self {
            labels,
            counts: devices.field(COUNTS).is_some(),
            named,
        }
    }

    /// Adds the labels of the object's node to what is read of it.
    pub fn read_labels(&self, reads: &mut Reads) {
        if !self.labels.is_nothing() {
            let path = [Relation::Node.key(), "labels"].map(Step::Key);
            reads.add_all(&path, &self.labels);
        }
    }
}

/// What a script declares that names a resource.
pub(crate) fn names(resource: &str) -> Reads {
    let mut reads = Reads::default();
    let path = [DEVICES, NAMED, resource].map(Step::Key);
    reads.add_all(&path, &Reads::default());
    reads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_taken_out_of_what_is_read() {
        let paths = [
            "a.b",
            "node().labels.x",
            "node_labels().y",
            "devices().counts~",
        ];
        let mut reads = Reads::of(&paths);
        reads.join(&names("example.com/npu"));
        let mut all = reads.clone();
        all.join(&Reads::All);
        for (mut reads, rest) in [(reads, false), (all, true)] {
            let told = DeviceReads::take(&mut reads);
            assert!(told.counts);
            assert_eq!(told.named, BTreeSet::from(["example.com/npu".to_owned()]));
            let mut expected = Reads::of(&["a.b", "node().labels.x"]);
            if rest {
                expected.join(&Reads::All);
            }
            assert_eq!(reads, expected);
            told.read_labels(&mut reads);
            expected.join(&Reads::of(&["node().labels.y"]));
            assert_eq!(reads, expected);
            assert_eq!(DeviceReads::take(&mut expected), DeviceReads::default());
        }
        assert_eq!(DeviceReads::take(&mut Reads::All), DeviceReads::default());
    }
}

//! The stable id of an event.

use sha1::{Digest, Sha1};
use uuid::Uuid;

/// The UUID namespace of all event ids.
const USAGE: Uuid = Uuid::from_u128(0x3c1f_7e52_08b4_4d19_a6e7_92d5_c04b_81f3);

/// The id of the event of `event_type` for the usage of the object `uid` that starts at `start`
/// (Unix seconds), in `cluster` if the operator named it. The same usage always has the same id,
/// whichever replica computes it. Deduplication depends on this.
#[must_use]
pub fn event_id(cluster: Option<&str>, event_type: &str, uid: &str, start: i64) -> Uuid {
    // Every part is preceded by its length, so that no two different usages have the same name, and an
    // absent cluster differs from an empty one.
    let mut name = Vec::with_capacity(64 + event_type.len() + uid.len());
    match cluster {
        None => name.push(0),
        Some(cluster) => {
            name.push(1);
            part(&mut name, cluster);
        }
    }
    part(&mut name, event_type);
    part(&mut name, uid);
    name.extend(start.to_be_bytes());
    uuid_v5(&USAGE, &name)
}

/// The UUID of a name in a namespace (RFC 9562, version 5). One is made for each event, so the hash is
/// the processor's own where it has one.
#[must_use]
pub fn uuid_v5(namespace: &Uuid, name: &[u8]) -> Uuid {
    let hash = Sha1::new()
        .chain_update(namespace.as_bytes())
        .chain_update(name)
        .finalize();
    let mut bytes = [0; 16];
    for (byte, of_hash) in bytes.iter_mut().zip(hash) {
        *byte = of_hash;
    }
    uuid::Builder::from_sha1_bytes(bytes).into_uuid()
}

fn part(name: &mut Vec<u8>, text: &str) {
    name.extend((text.len() as u64).to_be_bytes());
    name.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_and_its_boundaries_change_the_id() {
        let ids = [
            event_id(None, "t", "u", 1),
            event_id(Some(""), "t", "u", 1),
            event_id(Some("c"), "t", "u", 1),
            event_id(None, "tu", "", 1),
            event_id(None, "", "tu", 1),
            event_id(None, "t", "u", 2),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    /// If ids changed between versions, usage that is repeated after an upgrade would be billed twice.
    #[test]
    fn the_formula_never_changes() {
        assert_eq!(
            event_id(None, "kube-pod-exec-time", "uid-1", 1_700_000_000).to_string(),
            "444e8200-3e97-5149-8900-8345b6f0c7a2"
        );
    }
}

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
    uuid_v5(&USAGE, &name(cluster, event_type, uid, start))
}

/// The id of one of several events of `event_type` for the same usage, which differ by `key`. It differs from
/// the [`event_id`] of every usage.
#[must_use]
pub fn part_id(cluster: Option<&str>, event_type: &str, key: &str, uid: &str, start: i64) -> Uuid {
    let mut name = name(cluster, event_type, uid, start);
    // The name without a key ends here, so no name with a key equals one without.
    part(&mut name, key);
    uuid_v5(&USAGE, &name)
}

/// The name of a usage.
fn name(cluster: Option<&str>, event_type: &str, uid: &str, start: i64) -> Vec<u8> {
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
    name
}

/// The UUID of a name in a namespace (RFC 9562, version 5). One is computed for each event, so the hash uses
/// the instructions of the processor if it has them.
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

    #[test]
    fn every_type_and_key_has_an_id_of_its_own() {
        let mut ids = vec![
            event_id(None, "t", "u", 1),
            event_id(None, "tk", "u", 1),
            event_id(None, "t", "uk", 1),
        ];
        for (event_type, key) in [
            ("t", ""),
            ("t", "k"),
            ("t", "kk"),
            ("tk", ""),
            ("tk", "k"),
            ("", "tk"),
            ("k", "t"),
        ] {
            ids.push(part_id(None, event_type, key, "u", 1));
            ids.push(part_id(Some(key), event_type, "", "u", 1));
        }
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
        assert_eq!(
            part_id(None, "kube-pod-exec-time", "cpu", "uid-1", 1_700_000_000).to_string(),
            "f8ed0951-b0d7-5be1-bf1e-4980be8c93bb"
        );
    }
}

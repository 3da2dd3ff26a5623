use meterline_core::{Document, Reads};
use meterline_ledger::{DeliveryResult, Times};
use serde_json::{Value, json};

use super::*;
use crate::kubernetes_resources::{
    object::Projection,
    resource_type::ResourceType,
    testing::{WATCH, ledger, options},
    watch::Cluster,
};

fn claims() -> Arc<SharedLedger> {
    let mut options = options(Cluster::default());
    let reads = Reads::of(&[
        "claim_devices()",
        "device_attributes().gpu~1nvidia~1com.productName",
        "status.allocation.devices.results",
    ]);
    options.resource_type = ResourceType::ResourceClaim;
    options.projection = Arc::new(Projection::of(&reads, ResourceType::ResourceClaim));
    ledger(&options, 0)
}

/// A claim that has a device since `start`.
fn claim(uid: &str, start: i64, end: Option<i64>) -> Observation<BilledObject> {
    let content = json!({
        "metadata": {"name": uid, "namespace": "shop"},
        "status": {"allocation": {"devices": {"results": [
            {"driver": "gpu.nvidia.com", "pool": "n", "device": "gpu-0"}]}}},
    });
    Observation {
        uid: uid.into(),
        start: Some(start),
        end,
        content: BilledObject::from(Document::from(&content)),
        content_since: None,
        observed_at: end.unwrap_or(start),
        in_scope_since: None,
        times: Times::default(),
    }
}

fn slice(generation: i64, product: &str) -> Document {
    let device = json!({"name": "gpu-0", "attributes": {"productName": {"string": product}}});
    let pool = json!({"name": "n", "generation": generation});
    Document::from(
        &json!({"spec": {"driver": "gpu.nvidia.com", "pool": pool, "devices": [device]}}),
    )
}

/// Uid, start, end and product of what is handed out up to `until`.
fn products(ledger: &SharedLedger, until: i64) -> Vec<(String, i64, i64, Value)> {
    ledger.synced(WATCH, true);
    ledger.alive(WATCH, 1_000);
    let mut found = Vec::new();
    while let Some(window) = ledger.next(until).0 {
        for piece in &window.batch.pieces {
            let content = piece.content.document.root().to_value();
            let product = content["claim_devices()"][0]["attributes"]["productName"].clone();
            found.push((piece.uid.to_string(), piece.start, piece.end, product));
        }
        ledger.settle(window.batch.tag, |_| DeliveryResult::Delivered);
    }
    found
}

#[test]
fn what_a_device_is_counts_for_all_time_of_a_claim_whichever_is_seen_first() {
    for slice_first in [true, false] {
        let ledger = claims();
        let learn = || ledger.slice(&"s".into(), slice(1, "A100").root());
        if slice_first {
            assert_eq!(learn().len(), 0);
        }
        ledger.observe(claim("a", 1, None));
        ledger.observe(claim("b", 2, Some(8)));
        if !slice_first {
            assert_eq!(learn().len(), 0, "no time is divided");
        }
        ledger.slice_gone("s");
        ledger.observe(claim("a", 1, Some(15)));
        let piece = |uid: &str, from, to| (uid.to_owned(), from, to, json!("A100"));
        let expected = [piece("a", 1, 10), piece("b", 2, 8), piece("a", 10, 15)];
        assert_eq!(products(&ledger, 20), expected, "{slice_first}");
    }
}

#[test]
fn what_was_handed_out_is_not_changed_and_a_higher_generation_counts_from_then_on() {
    let ledger = claims();
    ledger.observe(claim("a", 1, None));
    let piece = |from, to, product| ("a".to_owned(), from, to, product);
    assert_eq!(products(&ledger, 10), [piece(1, 10, Value::Null)]);
    ledger.slice(&"s".into(), slice(1, "A100").root());
    assert_eq!(products(&ledger, 20), [piece(10, 20, json!("A100"))]);
    ledger.slice(&"t".into(), slice(2, "H100").root());
    ledger.slice_gone("s");
    assert_eq!(products(&ledger, 30), [piece(20, 30, json!("H100"))]);
}

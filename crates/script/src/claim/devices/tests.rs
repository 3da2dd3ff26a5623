use meterline_core::Document;
use serde_json::{Value, json};

use super::*;
use crate::pod::Configured;

/// What is listed of one device with this result and these facts: unit, partition, product, memory and fraction.
type Listed = (
    Option<&'static str>,
    String,
    Option<String>,
    Option<i64>,
    Option<(i128, i128)>,
);

fn listed(result: &Value, facts: Option<Value>, added: &Added) -> Vec<Listed> {
    let mut result = result.clone();
    for (key, value) in [("pool", "n"), ("device", "d")] {
        result[key] = value.into();
    }
    let mut claim = json!({"status": {"allocation": {"devices": {"results": [result]}}}});
    // A device of another pool comes first.
    let other = json!({"driver": result["driver"], "pool": "m", "device": "d",
        "attributes": {"productName": "wrong"}});
    claim[CLAIM_DEVICES] = json!([other]);
    if let Some(mut facts) = facts {
        for key in ["driver", "pool", "device"] {
            facts[key] = result[key].clone();
        }
        claim[CLAIM_DEVICES].as_array_mut().unwrap().push(facts);
    }
    let claim = Document::from(&claim);
    let devices = claim_devices(claim.root(), added).into_iter();
    devices
        .map(|it| {
            let fraction = it.fraction.map(|it| (it.numerator, it.denominator));
            let product = it.product.map(ToOwned::to_owned);
            let unit = it.unit.map(Unit::word);
            (unit, it.partition.to_owned(), product, it.memory, fraction)
        })
        .collect()
}

fn nvidia(more: &Value) -> Value {
    let mut result = json!({"driver": "gpu.nvidia.com"});
    for (key, value) in more.as_object().unwrap() {
        result[key] = value.clone();
    }
    result
}

fn facts(attributes: &Value, capacity: &Value) -> Option<Value> {
    Some(json!({"attributes": attributes, "capacity": capacity}))
}

const A100: &str = "NVIDIA A100-SXM4-40GB";

#[test]
fn a_device_is_what_its_driver_says() {
    let nothing = Added::new();
    let amd = json!({"driver": "gpu.amd.com"});
    let a100 = || Some(A100.to_owned());
    let of = |text: &str| Some(text.to_owned());
    let gib = |count: i64| Some(count << 30);
    let card = json!({"type": "gpu", "productName": A100});
    let mig = json!({"type": "mig", "productName": A100, "profile": "3g.20gb"});
    let spx = json!({"type": "amdgpu", "productName": "MI300X", "partitionProfile": "spx_nps1"});
    let cpx = json!({"type": "amdgpu-partition", "productName": "MI300X", "partitionProfile": "cpx_nps4"});
    for (result, facts, expected) in [
        (
            nvidia(&json!({})),
            facts(&card, &json!({"memory": "40Gi"})),
            (Some("card"), "", a100(), gib(40), Some((1, 1))),
        ),
        (
            nvidia(&json!({})),
            facts(
                &json!({"type": "vfio"}),
                &json!({"addressableMemory": "40Gi"}),
            ),
            (Some("card"), "", None, gib(40), Some((1, 1))),
        ),
        (
            nvidia(&json!({})),
            facts(&mig, &json!({"memory": "20Gi"})),
            (Some("slice"), "3g.20gb", a100(), gib(20), Some((4, 8))),
        ),
        // Nothing says whether it is a part of a card.
        (nvidia(&json!({})), None, (None, "", None, None, None)),
        (
            amd.clone(),
            facts(&spx, &json!({"memory": "192Gi"})),
            (Some("card"), "", of("MI300X"), gib(192), Some((1, 1))),
        ),
        (
            amd,
            facts(&cpx, &json!({"memory": "24Gi"})),
            (Some("slice"), "cpx_nps4", of("MI300X"), gib(24), None),
        ),
        (
            json!({"driver": "gpu.intel.com"}),
            facts(&json!({"model": " "}), &json!({"memory": "x"})),
            (Some("card"), "", None, None, Some((1, 1))),
        ),
        (
            json!({"driver": "neuron.aws.com"}),
            None,
            (Some("chip"), "", None, None, Some((1, 1))),
        ),
    ] {
        let (unit, partition, product, memory, fraction) = expected;
        let expected = (unit, partition.to_owned(), product, memory, fraction);
        assert_eq!(listed(&result, facts, &nothing), [expected], "{result}");
    }
}

#[test]
fn a_share_is_the_largest_part_of_a_capacity_that_it_consumes() {
    let card = json!({"type": "gpu", "productName": A100});
    let mig = json!({"type": "mig", "productName": A100, "profile": "3g.20gb"});
    let capacity = json!({"memory": "40Gi", "cores": "100"});
    let consumed = |amounts: Value| nvidia(&json!({"shareID": "s", "consumedCapacity": amounts}));
    const GIB: i128 = 1 << 30;
    let nano = i128::from(1_000_000_000);
    for (result, attributes, expected) in [
        (
            consumed(json!({"memory": "10Gi", "cores": "10"})),
            &card,
            Some((10 * GIB * nano, 40 * GIB * nano)),
        ),
        (
            consumed(json!({"gpu.nvidia.com/memory": "10Gi", "cores": "50"})),
            &card,
            Some((50 * nano, 100 * nano)),
        ),
        // More than all is all.
        (consumed(json!({"memory": "50Gi"})), &card, Some((1, 1))),
        (
            consumed(json!({"cores": "50"})),
            &mig,
            Some((4 * 50 * nano, 8 * 100 * nano)),
        ),
        (consumed(json!({"bandwidth": "1"})), &card, None),
        (consumed(json!({"memory": "many"})), &card, None),
        (consumed(json!({})), &card, None),
        (nvidia(&json!({"shareID": "s"})), &card, None),
    ] {
        let listed = listed(&result, facts(attributes, &capacity), &Added::new());
        let [(unit, .., fraction)] = listed.as_slice() else {
            panic!("{listed:?}");
        };
        assert_eq!((*unit, *fraction), (Some("share"), expected), "{result}");
    }
    let share = consumed(json!({"memory": "10Gi"}));
    let unknown = listed(&share, None, &Added::new());
    assert_eq!(unknown, [(Some("share"), String::new(), None, None, None)]);
}

#[test]
fn only_devices_of_drivers_that_are_listed_and_not_for_administration_are_listed() {
    let added = |unit| {
        let configured = Configured {
            vendor: "example".to_owned(),
            unit,
            product: Some("model".to_owned()),
        };
        Added::from([("npu.example.com".to_owned(), configured)])
    };
    let result = json!({"driver": "npu.example.com"});
    let known = || facts(&json!({"model": "N1"}), &json!({}));
    assert_eq!(listed(&result, known(), &Added::new()), []);
    assert_eq!(listed(&result, known(), &added(Unit::Share)), []);
    let card = (
        Some("card"),
        String::new(),
        Some("N1".to_owned()),
        None,
        Some((1, 1)),
    );
    assert_eq!(listed(&result, known(), &added(Unit::Card)), [card]);
    let slot = listed(&result, known(), &added(Unit::Slot));
    assert_eq!((slot[0].0, slot[0].4), (Some("slot"), None));
    let channel = json!({"driver": "compute-domain.nvidia.com"});
    assert_eq!(listed(&channel, None, &Added::new()), []);
    let admin = nvidia(&json!({"adminAccess": true}));
    assert_eq!(listed(&admin, None, &Added::new()), []);
    let user = nvidia(&json!({"adminAccess": false}));
    assert_eq!(listed(&user, None, &Added::new()).len(), 1);
}

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const DRIVER: &str = "gpu.nvidia.com";

fn slices() -> DeviceSlices {
    let attributes = ["productName", "profile"].map(ToOwned::to_owned);
    let attributes = BTreeMap::from([(DRIVER.to_owned(), attributes.into())]);
    DeviceSlices::new(Some(SliceReads { attributes }))
}

/// A slice of the pool `n` with these devices and their products.
fn slice(generation: i64, devices: &[(&str, &str)]) -> Document {
    let devices = devices.iter().map(|(name, product)| {
        json!({"name": name, "attributes": {"productName": {"string": product}},
            "capacity": {"memory": {"value": "40Gi"}}})
    });
    let devices: Vec<_> = devices.collect();
    let pool = json!({"name": "n", "generation": generation, "resourceSliceCount": 1});
    Document::from(&json!({"spec": {"driver": DRIVER, "pool": pool, "devices": devices}}))
}

/// A claim that has these devices of the pool `n`.
fn claim(devices: &[&str]) -> BilledObject {
    let results = devices
        .iter()
        .map(|device| json!({"request": "gpu", "driver": DRIVER, "pool": "n", "device": device}));
    let results: Vec<_> = results.collect();
    let claim = json!({"metadata": {"name": "c", "namespace": "shop"},
        "status": {"allocation": {"devices": {"results": results}}}});
    BilledObject::from(Document::from(&claim))
}

/// What a claim has of its devices.
fn described(content: &BilledObject) -> Value {
    let list = content.document.root().get(CLAIM_DEVICES);
    list.map_or(Value::Null, Node::to_value)
}

/// The products of the devices of a claim.
fn products(content: &BilledObject) -> Vec<String> {
    let list = described(content);
    let list = list.as_array().into_iter().flatten();
    list.map(|it| {
        let (device, product) = (&it["device"], &it["attributes"]["productName"]);
        format!("{device} {product}").replace('"', "")
    })
    .collect()
}

#[test]
fn a_claim_has_what_the_highest_generation_says_of_its_devices() {
    let mut slices = slices();
    let joined = |slices: &DeviceSlices| products(&slices.joined(claim(&["a", "b"]), None));
    assert_eq!(joined(&slices), [""; 0]);
    slices.learn(&"two".into(), slice(2, &[("a", "new")]).root());
    slices.learn(
        &"one".into(),
        slice(1, &[("a", "old"), ("b", "old")]).root(),
    );
    assert_eq!(joined(&slices), ["a new", "b old"]);
    // Slices of another pool and of another driver are of other devices.
    let mut other = slice(9, &[("a", "other")]).root().to_value();
    other["spec"]["pool"]["name"] = "m".into();
    slices.learn(&"three".into(), Document::from(&other).root());
    other["spec"]["driver"] = "dra.net".into();
    slices.learn(&"four".into(), Document::from(&other).root());
    assert_eq!(joined(&slices), ["a new", "b old"]);
    assert_eq!(slices.slices.len(), 3);
}

#[test]
fn what_is_known_remains_when_the_slice_is_gone_and_only_a_higher_generation_replaces_it() {
    let mut slices = slices();
    slices.learn(&"two".into(), slice(2, &[("a", "first")]).root());
    let known = slices.joined(claim(&["a"]), None);
    slices.gone("two");
    assert!(slices.slices.is_empty() && slices.pools.is_empty());
    let of = |slices: &DeviceSlices| products(&slices.joined(claim(&["a"]), Some(&known)));
    assert_eq!(of(&slices), ["a first"]);
    assert_eq!(
        products(&slices.joined(claim(&["b"]), Some(&known))),
        [""; 0]
    );
    // A new node of this name begins anew.
    for generation in [1, 2] {
        slices.learn(
            &"again".into(),
            slice(generation, &[("a", "second")]).root(),
        );
        assert_eq!(of(&slices), ["a first"]);
    }
    slices.learn(&"again".into(), slice(3, &[("a", "third")]).root());
    assert_eq!(of(&slices), ["a third"]);
}

#[test]
fn only_what_is_read_is_kept_and_names_lose_the_domain_of_the_driver() {
    let mut slices = slices();
    let capacity = json!({"memory": {"value": "40Gi"}, "gpu.nvidia.com/cores": {"value": "100"},
        "example.com/other": {"value": "1"}});
    let device = |name: &str, is_shared: bool| {
        json!({"name": name, "allowMultipleAllocations": is_shared, "capacity": capacity,
            "attributes": {
                "gpu.nvidia.com/productName": {"string": "A100"}, "uuid": {"string": "u"},
                "profile": {"version": "1.0.0"}, "example.com/profile": {"string": "x"}}})
    };
    let spec = json!({"driver": DRIVER, "pool": {"name": "n", "generation": 1},
        "devices": [device("a", false), device("b", true), {"attributes": {}}]});
    slices.learn(&"s".into(), Document::from(&json!({"spec": spec})).root());
    let entry = |device: &str, capacity: Value| {
        json!({"driver": DRIVER, "pool": "n", "device": device, "generation": 1,
            "attributes": {"productName": "A100"}, "capacity": capacity})
    };
    // A device of which a claim has two shares is described once.
    let content = slices.joined(claim(&["b", "a", "b"]), None);
    let shared = json!({"memory": "40Gi", "cores": "100", "example.com/other": "1"});
    assert_eq!(
        described(&content),
        json!([entry("a", json!({"memory": "40Gi"})), entry("b", shared)])
    );
}

#[test]
fn a_slice_concerns_the_claims_of_its_pool_if_something_changed() {
    let mut slices = slices();
    let claims: [Uid; 2] = ["x".into(), "y".into()];
    for uid in &claims {
        slices.used(uid, &claim(&["a"]), |_| true);
    }
    let other = json!({"status": {"allocation": {"devices": {"results": [
        {"driver": DRIVER, "pool": "m", "device": "a"}, {"driver": "dra.net", "pool": "n"}]}}}});
    let other = BilledObject::from(Document::from(&other));
    slices.used(&"z".into(), &other, |_| true);
    let uid: Uid = "s".into();
    let mut learn =
        |generation, product| slices.learn(&uid, slice(generation, &[("a", product)]).root());
    assert_eq!(learn(1, "A100"), claims);
    assert_eq!(learn(1, "A100"), [""; 0].map(Uid::from));
    assert_eq!(learn(2, "A100"), claims);
}

#[test]
fn a_pipeline_that_reads_no_devices_keeps_nothing() {
    let mut slices = DeviceSlices::new(None);
    assert!(slices.is_nothing());
    slices.used(&"x".into(), &claim(&["a"]), |_| true);
    slices.learn(&"s".into(), slice(1, &[("a", "A100")]).root());
    assert!(slices.pools.is_empty() && slices.slices.is_empty());
    assert_eq!(products(&slices.joined(claim(&["a"]), None)), [""; 0]);
}

#[test]
fn claims_that_the_ledger_no_longer_knows_are_forgotten() {
    let mut slices = slices();
    for number in 0..10_000 {
        let uid: Uid = number.to_string().into();
        slices.used(&uid, &claim(&["a"]), |it| &**it == "7");
    }
    let pool = slices.pools.values().next().unwrap();
    assert!(pool.claims.len() <= FEW_CLAIMS, "{}", pool.claims.len());
    assert_eq!(pool.claims.len(), slices.claims);
    assert!(pool.claims.contains("7") && pool.claims.contains("9999"));
}

/// One thing that is learned.
#[derive(Debug, Clone)]
enum Fact {
    /// A slice: its generation, which of the slices of this generation it is, and its devices with their products.
    Slice(i64, u8, Vec<(u8, u8)>),
    /// A claim, by its number, with its devices.
    Claim(usize, Vec<u8>),
}

/// Slices, of which those of one generation have each device once, and claims.
fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let devices = prop::collection::btree_map((0..4_i64, 0..4_u8), 0..3_u8, 0..12);
    let claims = prop::collection::vec(prop::collection::vec(0..4_u8, 0..3), 1..4);
    (devices, claims).prop_map(|(devices, claims)| {
        let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((generation, device), product) in devices {
            let slice = slices.entry((generation, device % 2));
            slice.or_default().push((device, product));
        }
        let slices = slices.into_iter();
        let slices = slices.map(|((generation, part), it)| Fact::Slice(generation, part, it));
        let claims = claims.into_iter().enumerate();
        let claims = claims.map(|(number, devices)| Fact::Claim(number, devices));
        slices.chain(claims).collect()
    })
}

/// What each claim has of its devices after all facts, each claim being joined again whenever its pool changes.
fn learned(facts: &[Fact]) -> BTreeMap<usize, Value> {
    let mut slices = slices();
    let mut claims: BTreeMap<usize, BilledObject> = BTreeMap::new();
    for fact in facts {
        match fact {
            Fact::Slice(generation, part, devices) => {
                let devices = devices.iter();
                let devices =
                    devices.map(|(name, product)| (name.to_string(), product.to_string()));
                let devices: Vec<_> = devices.collect();
                let devices: Vec<_> = devices
                    .iter()
                    .map(|(name, product)| (name.as_str(), product.as_str()))
                    .collect();
                let slice = slice(*generation, &devices);
                for uid in slices.learn(&format!("{generation} {part}").into(), slice.root()) {
                    let number = uid.parse().unwrap();
                    let known = claims.get(&number).unwrap();
                    let joined = slices.joined(known.clone(), Some(known));
                    claims.insert(number, joined);
                }
            }
            Fact::Claim(number, devices) => {
                let devices: Vec<_> = devices.iter().map(ToString::to_string).collect();
                let devices: Vec<_> = devices.iter().map(String::as_str).collect();
                let content = claim(&devices);
                slices.used(&number.to_string().into(), &content, |_| true);
                let joined = slices.joined(content, claims.get(number));
                claims.insert(*number, joined);
            }
        }
    }
    let claims = claims.iter();
    claims
        .map(|(number, it)| (*number, described(it)))
        .collect()
}

proptest! {
    #[test]
    fn any_order_of_slices_and_claims_gives_the_same_devices(
        (facts, shuffled) in facts().prop_flat_map(|facts| {
            let shuffled = Just(facts.clone()).prop_shuffle();
            (Just(facts), shuffled)
        }),
    ) {
        prop_assert_eq!(learned(&facts), learned(&shuffled));
    }
}

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("finite", |f| f.is_finite())
            .prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,5}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn holds_exactly_what_serde_json_holds(value in any_json()) {
        let text = serde_json::to_vec(&value).unwrap();
        let document = Document::from_json(&text).unwrap();
        prop_assert_eq!(&document.root().to_value(), &value);
        prop_assert_eq!(serde_json::to_vec(&document).unwrap(), text);
        prop_assert_eq!(&Document::from(&value), &document);
    }
}

#[test]
fn fields_are_found_and_missing_ones_are_none() {
    let document = Document::from(&json!({"a": {"b": [1, "x"]}, "c": null}));
    let root = document.root();
    let items: Vec<_> = root.path(&["a", "b"]).unwrap().items().collect();
    assert_eq!(items[0].as_i64(), Some(1));
    assert_eq!(items[1].as_str(), Some("x"));
    assert!(root.get("c").unwrap().is_null());
    assert!(root.get("d").is_none());
    assert!(root.path(&["c", "b"]).is_none());
}

#[test]
fn text_of_every_length_is_kept() {
    for length in [
        0,
        1,
        LONGEST_SHORT - 1,
        LONGEST_SHORT,
        LONGEST_SHORT + 1,
        70_000,
    ] {
        let text = "é".repeat(length / 2) + &"x".repeat(length % 2);
        let value = json!({(text.as_str()): [text.as_str(), 1]});
        let document = Document::from(&value);
        assert_eq!(document.root().to_value(), value);
        let items = document.root().get(&text).unwrap();
        assert_eq!(items.items().nth(1).unwrap().as_i64(), Some(1));
    }
}

#[test]
fn the_last_of_two_equal_keys_counts() {
    let document = Document::from_json(br#"{"a":1,"a":2}"#).unwrap();
    assert_eq!(document.root().get("a").and_then(Node::as_i64), Some(2));
    assert_eq!(document.root().to_value(), json!({"a": 2}));
}

#[test]
fn what_is_not_json_is_refused() {
    assert!(Document::from_json(b"{\"a\":}").is_err());
    assert!(Document::from_json(b"1 2").is_err());
    assert!(Document::from_json("[".repeat(100_000).as_bytes()).is_err());
}

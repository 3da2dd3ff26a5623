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
fn text_of_every_length_is_preserved() {
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

proptest! {
    /// Few keys, known and unknown, and enough of them for both ways of comparing.
    #[test]
    fn of_equal_keys_the_last_stays(
        fields in prop::collection::vec(("name|spec|[ab]{1,4}", any_json()), 0..40)
    ) {
        let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let text = format!("[{{\"inner\":{{{}}}}}, 1]", fields.join(","));
        let document = Document::from_json(text.as_bytes()).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(document.root().to_value(), value.clone());
        let inner = document.root().items().next().unwrap().get("inner").unwrap();
        let fields = value[0]["inner"].as_object().unwrap();
        prop_assert_eq!(inner.count_entries(), fields.len());
        for (key, value) in fields {
            prop_assert_eq!(&inner.get(key).unwrap().to_value(), value);
        }
    }

    #[test]
    fn is_written_as_serde_json_writes_it(value in any_json()) {
        let mut text = Vec::new();
        Document::from(&value).root().write_json(&mut text).unwrap();
        prop_assert_eq!(text, serde_json::to_vec(&value).unwrap());
    }
}

#[test]
fn invalid_json_is_rejected() {
    assert!(Document::from_json(b"{\"a\":}").is_err());
    assert!(Document::from_json(b"1 2").is_err());
    assert!(Document::from_json("[".repeat(100_000).as_bytes()).is_err());
}

#[test]
fn a_number_keeps_all_its_digits() {
    for number in [
        "9223372036854775808",
        "18446744073709551616",
        "-9223372036854775809",
        "33204139332677193910190",
        "0.1234567890123456789",
        "9007199254740993.5",
        "1.00000000000000000000000001e-7",
    ] {
        for text in [
            number.to_owned(),
            format!("[1,{number},\"-1.23456789012345678901234\\\"9\",{number},0.1,\"x\"]"),
            format!("{{\"1.5\":{{\"b\":{number}}},\"c\":[{number}]}}"),
        ] {
            let document = Document::from_json(text.as_bytes()).unwrap();
            let mut written = Vec::new();
            document.root().write_json(&mut written).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), text);
        }
    }
    let repeated = br#"{"a":0.12345678901234567891,"b":0.98765432109876543219,"a":2.5}"#;
    let document = Document::from_json(repeated).unwrap();
    let mut written = Vec::new();
    document.root().write_json(&mut written).unwrap();
    assert_eq!(written, br#"{"b":0.98765432109876543219,"a":2.5}"#);
}

#[test]
fn a_number_that_a_float_holds_becomes_a_float_in_any_notation() {
    for text in [
        "0.10", "1e2", "100.0", "-0", "-0.0", "1E+2", "0.1e1", "5e-324", "0e999",
    ] {
        let document = Document::from_json(text.as_bytes()).unwrap();
        let scalar = document.root().scalar();
        assert!(
            matches!(scalar, Some(Scalar::Float(_))),
            "{text}: {scalar:?}"
        );
    }
}

proptest! {
    #[test]
    fn any_number_is_written_as_the_number_it_was(
        number in "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,30})?"
    ) {
        let document = Document::from_json(number.as_bytes()).unwrap();
        let mut written = Vec::new();
        document.root().write_json(&mut written).unwrap();
        let plain = |text: &str| {
            let text = text.trim_start_matches('-');
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            (whole.to_owned(), fraction.trim_end_matches('0').to_owned())
        };
        let written = String::from_utf8(written).unwrap();
        // Short floats with many zeros are written with an exponent.
        prop_assume!(!written.contains('e'));
        prop_assert_eq!(plain(&written), plain(&number));
    }
}

#[test]
fn a_field_is_added_replaced_and_removed() {
    let document = |value: serde_json::Value| Document::from(&value);
    let pod = document(json!({"metadata": {"name": "a"}, "spec": [1]}));
    let one = document(json!({"labels": {"tier": "gold"}}));
    let with = pod.with_field("namespace()", Some(one.root()));
    assert_eq!(
        with.root().to_value(),
        json!({"metadata": {"name": "a"}, "spec": [1], "namespace()": {"labels": {"tier": "gold"}}})
    );
    let other = document(json!({"labels": {}}));
    let replaced = with.with_field("namespace()", Some(other.root()));
    assert_eq!(
        replaced.root().get("namespace()").unwrap().to_value(),
        json!({"labels": {}})
    );
    assert_eq!(replaced.with_field("namespace()", None), pod);
    let text = document(json!("text"));
    assert_eq!(text.with_field("a", Some(one.root())), text);
}

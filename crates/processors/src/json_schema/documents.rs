//! Lets the validator read documents directly, without a conversion to `serde_json::Value`.

use std::borrow::Cow;

use jsonschema::{
    JsonType,
    json::{self, Json, NodeIdentity},
};
use meterline_core::{Builder, Document, Entries, Items, Node, Scalar};
use serde_json::{Number, Value};

/// The representation.
pub(super) struct Documents;

/// A value of a document.
#[derive(Clone, Copy)]
pub(super) struct In<'a>(pub(super) Node<'a>);

/// A value that is an object.
pub(super) struct Object<'a>(Node<'a>);

/// A value that is an array.
pub(super) struct Array<'a>(Node<'a>);

impl Json for Documents {
    type Node<'a> = In<'a>;
    type PreparedKey = String;
    type StringBuffer = Option<Document>;

    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(
        buffer: &mut Option<Document>,
        string: &str,
        f: impl FnOnce(In<'_>) -> T,
    ) -> T {
        let mut builder = Builder::default();
        builder.scalar(Scalar::Text(string));
        f(In(buffer.insert(builder.finish()).root()))
    }
}

impl<'a> json::Node<'a, Documents> for In<'a> {
    type Object = Object<'a>;
    type Array = Array<'a>;
    type Number = Number;

    fn as_object(&self) -> Option<Object<'a>> {
        self.0.is_object().then_some(Object(self.0))
    }

    fn as_array(&self) -> Option<Array<'a>> {
        self.0.is_array().then_some(Array(self.0))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        self.0.as_str().map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<Number> {
        match self.0.scalar()? {
            Scalar::Integer(number) => Some(number.into()),
            Scalar::Unsigned(number) => Some(number.into()),
            Scalar::Float(number) => Number::from_f64(number),
            // The validator compares 17 digits; the document keeps all of them.
            Scalar::Number(text) => text.parse().ok().and_then(Number::from_f64),
            Scalar::Null | Scalar::Bool(_) | Scalar::Text(_) => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        match self.0.scalar()? {
            Scalar::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn is_null(&self) -> bool {
        self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        match self.0.scalar() {
            Some(Scalar::Null) => JsonType::Null,
            Some(Scalar::Bool(_)) => JsonType::Boolean,
            Some(
                Scalar::Integer(_) | Scalar::Unsigned(_) | Scalar::Float(_) | Scalar::Number(_),
            ) => JsonType::Number,
            Some(Scalar::Text(_)) => JsonType::String,
            None if self.0.is_array() => JsonType::Array,
            None => JsonType::Object,
        }
    }

    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Owned(self.0.to_value())
    }

    fn identity(&self) -> Option<NodeIdentity> {
        // The address of the value. A document does not move while it is borrowed.
        Some(NodeIdentity::new(self.0.raw().as_ptr() as usize))
    }
}

impl<'a> json::Object<'a, Documents> for Object<'a> {
    type Node = In<'a>;
    type MemberName = &'a str;
    type MembersIter = std::iter::Map<Entries<'a>, fn((&'a str, Node<'a>)) -> (&'a str, In<'a>)>;

    fn len(&self) -> usize {
        self.0.count_entries()
    }

    fn get(&self, key: &String) -> Option<In<'a>> {
        self.0.get(key).map(In)
    }

    fn members(&self) -> Self::MembersIter {
        self.0.entries().map(|(key, value)| (key, In(value)))
    }
}

impl<'a> json::Array<'a, Documents> for Array<'a> {
    type Node = In<'a>;
    type ElementsIter = std::iter::Map<Items<'a>, fn(Node<'a>) -> In<'a>>;

    fn len(&self) -> usize {
        self.0.items().count()
    }

    fn elements(&self) -> Self::ElementsIter {
        self.0.items().map(In)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3_i64..3).prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// All keywords have the same result as for a `serde_json::Value`.
        #[test]
        fn a_document_validates_like_its_json_value(value in any_json()) {
            let document = Document::from(&value);
            for schema in [
                json!({"type": ["object", "integer", "null"]}),
                json!({"required": ["a"], "minProperties": 2, "propertyNames": {"enum": ["a", "b"]}}),
                json!({"properties": {"a": {"type": "string", "minLength": 2}},
                    "additionalProperties": {"type": ["number", "array"]}}),
                json!({"items": {"minimum": 0, "maximum": 100}, "uniqueItems": true, "maxItems": 2}),
                json!({"anyOf": [{"const": [1]}, {"enum": [{"a": 1}, null, true, 2]},
                    {"contains": {"const": 1}}]}),
                json!({"$defs": {"t": {"properties": {"a": {"$ref": "#/$defs/t"}},
                    "type": ["object", "number"]}}, "$ref": "#/$defs/t"}),
            ] {
                let ours = jsonschema::options_for::<Documents>().build(&schema).unwrap();
                let theirs = jsonschema::validator_for(&schema).unwrap();
                prop_assert_eq!(
                    ours.is_valid(In(document.root())), theirs.is_valid(&value), "{}", schema);
            }
        }
    }
}

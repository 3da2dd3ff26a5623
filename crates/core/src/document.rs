//! A JSON document in one compact allocation that is read without being parsed again.
//!
//! Ten thousand pods of seven kilobytes are kept for as long as they run, and each window reads a
//! few fields of each. As a tree of maps they would cost half a gigabyte, as text a full parse for
//! every window. A [`Document`] is the bytes of the tree in depth-first order in which every
//! container carries its length, so that a reader steps over what it does not want.
//!
//! Layout: a tag byte, then the payload. Integers and floats are eight bytes little endian, text is
//! a `u32` length and UTF-8, arrays and objects a `u32` length of the body and the body; an object's
//! body alternates keys (length and text) and values. Where a key is repeated the last one counts,
//! as in `serde_json`.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INTEGER: u8 = 3;
const UNSIGNED: u8 = 4;
const FLOAT: u8 = 5;
const TEXT: u8 = 6;
const ARRAY: u8 = 7;
const OBJECT: u8 = 8;

/// An immutable JSON document; cloning shares the bytes. Two documents are equal when their values
/// and the order of their keys are.
#[derive(Clone, PartialEq, Eq)]
pub struct Document(Arc<[u8]>);

impl Document {
    /// The outermost value.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        Node { bytes: &self.0 }
    }

    /// Parses JSON text.
    ///
    /// # Errors
    /// What `serde_json` says of text that is not JSON.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({} bytes)", self.0.len())
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.root().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut builder = Builder::default();
        builder.value().deserialize(deserializer)?;
        Ok(builder.finish())
    }
}

impl From<&serde_json::Value> for Document {
    fn from(value: &serde_json::Value) -> Self {
        let mut builder = Builder::default();
        builder.push(value);
        builder.finish()
    }
}

/// A scalar of a [`Document`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    /// JSON null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number that fits 64 signed bits.
    Integer(i64),
    /// A whole number above `i64::MAX`.
    Unsigned(u64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(&'a str),
}

/// One value inside a [`Document`].
#[derive(Clone, Copy)]
pub struct Node<'a> {
    /// Starts with this value; may go on behind it.
    bytes: &'a [u8],
}

impl<'a> Node<'a> {
    fn tag(self) -> u8 {
        self.bytes.first().copied().unwrap_or(NULL)
    }

    fn eight(self) -> [u8; 8] {
        self.bytes
            .get(1..9)
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or_default()
    }

    /// The payload behind a length, for text and containers.
    fn body(self) -> &'a [u8] {
        let length = self
            .bytes
            .get(1..5)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_le_bytes) as usize;
        self.bytes.get(5..5 + length).unwrap_or_default()
    }

    /// How many bytes this value takes.
    fn size(self) -> usize {
        match self.tag() {
            NULL | FALSE | TRUE => 1,
            INTEGER | UNSIGNED | FLOAT => 9,
            _ => 5 + self.body().len(),
        }
    }

    /// The bytes of this value alone; equal bytes are equal values.
    #[must_use]
    pub fn raw(self) -> &'a [u8] {
        self.bytes.get(..self.size()).unwrap_or_default()
    }

    /// The scalar, or `None` for an array or an object.
    #[must_use]
    pub fn scalar(self) -> Option<Scalar<'a>> {
        Some(match self.tag() {
            NULL => Scalar::Null,
            FALSE => Scalar::Bool(false),
            TRUE => Scalar::Bool(true),
            INTEGER => Scalar::Integer(i64::from_le_bytes(self.eight())),
            UNSIGNED => Scalar::Unsigned(u64::from_le_bytes(self.eight())),
            FLOAT => Scalar::Float(f64::from_le_bytes(self.eight())),
            // Only text is ever written under this tag.
            TEXT => Scalar::Text(std::str::from_utf8(self.body()).unwrap_or_default()),
            _ => return None,
        })
    }

    /// The text, if it is text.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        match self.scalar() {
            Some(Scalar::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one within 64 signed bits.
    #[must_use]
    pub fn as_i64(self) -> Option<i64> {
        match self.scalar() {
            Some(Scalar::Integer(number)) => Some(number),
            _ => None,
        }
    }

    /// Whether this is JSON null.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.tag() == NULL
    }

    /// Whether this is an object.
    #[must_use]
    pub fn is_object(self) -> bool {
        self.tag() == OBJECT
    }

    /// Whether this is an array.
    #[must_use]
    pub fn is_array(self) -> bool {
        self.tag() == ARRAY
    }

    /// The field of an object; `None` when absent or when this is no object.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Self> {
        let mut found = None;
        let mut rest = self.entries().bytes;
        // Keys are compared as bytes: checking each for UTF-8 first costs more than finding one.
        while !rest.is_empty() {
            let name = Node { bytes: rest };
            let value = Node {
                bytes: rest.get(name.size()..).unwrap_or_default(),
            };
            rest = value.bytes.get(value.size()..).unwrap_or_default();
            if name.body() == key.as_bytes() {
                found = Some(value);
            }
        }
        found
    }

    /// A field of a field; `None` when a step is missing.
    #[must_use]
    pub fn path(self, keys: &[&str]) -> Option<Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The items of an array; nothing for any other value.
    #[must_use]
    pub fn items(self) -> Items<'a> {
        Items {
            bytes: if self.is_array() { self.body() } else { &[] },
        }
    }

    /// The fields of an object in the order of the document; nothing for any other value.
    #[must_use]
    pub fn entries(self) -> Entries<'a> {
        Entries {
            bytes: if self.is_object() { self.body() } else { &[] },
        }
    }

    /// This value as a tree.
    #[must_use]
    pub fn to_value(self) -> serde_json::Value {
        use serde_json::Value;
        match self.scalar() {
            Some(Scalar::Null) => Value::Null,
            Some(Scalar::Bool(value)) => Value::Bool(value),
            Some(Scalar::Integer(number)) => Value::from(number),
            Some(Scalar::Unsigned(number)) => Value::from(number),
            Some(Scalar::Float(number)) => Value::from(number),
            Some(Scalar::Text(text)) => Value::from(text),
            None if self.is_array() => Value::Array(self.items().map(Node::to_value).collect()),
            None => Value::Object(
                self.entries()
                    .map(|(key, value)| (key.to_owned(), value.to_value()))
                    .collect(),
            ),
        }
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_value(), f)
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.scalar() {
            Some(Scalar::Null) => serializer.serialize_unit(),
            Some(Scalar::Bool(value)) => serializer.serialize_bool(value),
            Some(Scalar::Integer(number)) => serializer.serialize_i64(number),
            Some(Scalar::Unsigned(number)) => serializer.serialize_u64(number),
            Some(Scalar::Float(number)) => serializer.serialize_f64(number),
            Some(Scalar::Text(text)) => serializer.serialize_str(text),
            None if self.is_array() => {
                let mut sequence = serializer.serialize_seq(None)?;
                for item in self.items() {
                    sequence.serialize_element(&item)?;
                }
                sequence.end()
            }
            None => {
                let mut map = serializer.serialize_map(None)?;
                for (key, value) in self.entries() {
                    map.serialize_entry(key, &value)?;
                }
                map.end()
            }
        }
    }
}

/// The items of an array.
#[derive(Clone)]
pub struct Items<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Items<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        if self.bytes.is_empty() {
            return None;
        }
        let node = Node { bytes: self.bytes };
        self.bytes = self.bytes.get(node.size()..).unwrap_or_default();
        Some(node)
    }
}

/// The fields of an object.
#[derive(Clone)]
pub struct Entries<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a str, Node<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let key = Node { bytes: self.bytes };
        let value = Node {
            bytes: self.bytes.get(key.size()..).unwrap_or_default(),
        };
        self.bytes = value.bytes.get(value.size()..).unwrap_or_default();
        Some((key.as_str().unwrap_or_default(), value))
    }
}

/// Writes a [`Document`] from the front to the back.
///
/// An object is written as [`Builder::begin_object`], then [`Builder::key`] and one value for each
/// field, then [`Builder::end`]. Callers that want to leave something out write the object by hand
/// and pass everything else through [`Builder::value`].
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
}

/// Where an unfinished container starts.
#[derive(Debug)]
#[must_use = "an object must be ended"]
pub struct Open(usize);

impl Builder {
    /// Starts an object.
    pub fn begin_object(&mut self) -> Open {
        self.begin(OBJECT)
    }

    /// Writes the key of the next value.
    pub fn key(&mut self, key: &str) {
        self.text(key);
    }

    /// Ends the container that `open` started.
    pub fn end(&mut self, open: Open) {
        let length = self.bytes.len().saturating_sub(open.0 + 5);
        // A body of four gigabytes cannot come through a 64 MiB response; should it ever, an empty
        // length makes the container read as empty instead of as something else.
        let length = u32::try_from(length).unwrap_or(0);
        if let Some(place) = self.bytes.get_mut(open.0 + 1..open.0 + 5) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// A seed that writes exactly one value, whatever it is.
    pub fn value(&mut self) -> impl for<'de> DeserializeSeed<'de, Value = ()> + '_ {
        Seed(self)
    }

    /// Writes a value from a tree.
    pub fn push(&mut self, value: &serde_json::Value) {
        use serde_json::Value;
        match value {
            Value::Null => self.bytes.push(NULL),
            Value::Bool(value) => self.bytes.push(if *value { TRUE } else { FALSE }),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => self.integer(number),
                (None, Some(number)) => self.unsigned(number),
                (None, None) => self.float(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => self.text(text),
            Value::Array(items) => {
                let open = self.begin(ARRAY);
                items.iter().for_each(|item| self.push(item));
                self.end(open);
            }
            Value::Object(fields) => {
                let open = self.begin(OBJECT);
                for (key, value) in fields {
                    self.key(key);
                    self.push(value);
                }
                self.end(open);
            }
        }
    }

    /// The finished document.
    #[must_use]
    pub fn finish(self) -> Document {
        Document(self.bytes.into())
    }

    fn begin(&mut self, tag: u8) -> Open {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[tag, 0, 0, 0, 0]);
        Open(at)
    }

    fn text(&mut self, text: &str) {
        let open = self.begin(TEXT);
        self.bytes.extend_from_slice(text.as_bytes());
        self.end(open);
    }

    fn integer(&mut self, number: i64) {
        self.bytes.push(INTEGER);
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    fn unsigned(&mut self, number: u64) {
        self.bytes.push(UNSIGNED);
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    fn float(&mut self, number: f64) {
        self.bytes.push(FLOAT);
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }
}

struct Seed<'a>(&'a mut Builder);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.bytes.push(NULL);
        Ok(())
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.0.bytes.push(if value { TRUE } else { FALSE });
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.0.integer(number);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        match i64::try_from(number) {
            Ok(number) => self.0.integer(number),
            Err(_) => self.0.unsigned(number),
        }
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        if !number.is_finite() {
            return Err(E::custom("a number must be finite"));
        }
        self.0.float(number);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.text(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let open = self.0.begin(ARRAY);
        while sequence.next_element_seed(Seed(self.0))?.is_some() {}
        self.0.end(open);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let open = self.0.begin(OBJECT);
        while map.next_key_seed(KeySeed(self.0))?.is_some() {
            map.next_value_seed(Seed(self.0))?;
        }
        self.0.end(open);
        Ok(())
    }
}

/// Writes a key without an allocation of its own.
struct KeySeed<'a>(&'a mut Builder);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<(), E> {
        self.0.key(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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
}

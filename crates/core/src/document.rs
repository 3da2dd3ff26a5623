//! A JSON document in one compact allocation that is read without being parsed again.
//!
//! The objects that are billed are kept for as long as they exist, and each window reads a few fields of
//! each. As trees of maps ten thousand pods would cost half a gigabyte; as text they would be parsed for
//! every window. A [`Document`] holds the bytes of the tree in depth-first order, in which every container
//! is preceded by its length, so that a reader can skip it.
//!
//! Layout: a tag byte, then the payload. Integers and floats are eight bytes, little endian. Text is a `u32`
//! length and UTF-8; short text, which is the usual case, is UTF-8 after a tag that includes the length. A
//! number that neither an integer nor a float holds exactly is its JSON text, written like a long text.
//! Arrays and objects are a `u32` length of the body and the body; an object's body alternates keys and
//! values. A key is text, or the number of a key in the dictionary of the process ([`KeyDictionary`]). No key is
//! repeated: if the JSON text repeats one, the last one is kept, as in `serde_json`.
//!
//! The bytes exist in memory only. What is persisted is JSON.

mod builder;
mod cut;
mod encode;
mod keys;
mod numbers;
mod project;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::DeserializeSeed,
    ser::{SerializeMap, SerializeSeq},
};

pub(crate) use self::encode::{text as encode_text, text_size as encoded_size};
pub use self::{
    builder::{Builder, Mark, Open},
    cut::Limits,
    keys::{DictionaryInUse, KeyDictionary},
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
/// A known key; the next byte is its number.
const KNOWN: u8 = 9;
/// A number as its JSON text.
const NUMBER: u8 = 10;
/// A tag from here on is that of a text of `tag - SHORT` bytes.
const SHORT: u8 = 16;
/// The longest text with such a tag.
const LONGEST_SHORT: usize = (u8::MAX - SHORT) as usize;

/// An immutable JSON document; cloning shares the bytes. Two documents are equal when their values
/// and the order of their keys are.
#[derive(Clone)]
pub struct Document(Arc<Inner>);

struct Inner {
    bytes: Box<[u8]>,
    /// A value that was computed from the document. It is dropped with the document.
    memo: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for Document {}

impl Document {
    fn new(bytes: Box<[u8]>) -> Self {
        Self(Arc::new(Inner {
            bytes,
            memo: Mutex::new(None),
        }))
    }

    /// The outermost value.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        Node {
            bytes: &self.0.bytes,
        }
    }

    /// Parses JSON text. Numbers keep all their digits.
    ///
    /// # Errors
    /// The error of `serde_json` for text that is not JSON. A number beyond the range of 64-bit floats is such an
    /// error.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        let read = |mut builder: Builder| -> Result<Builder, serde_json::Error> {
            let mut deserializer = serde_json::Deserializer::from_slice(text);
            builder.value().deserialize(&mut deserializer)?;
            deserializer.end()?;
            Ok(builder)
        };
        let builder = read(Builder::default())?;
        // Few texts have a number with a decimal point, and few of these have one that a float cannot hold.
        match builder.floats().then(|| numbers::inexact(text)).flatten() {
            Some(literals) => Ok(read(Builder::with_literals(literals))?.finish()),
            None => Ok(builder.finish()),
        }
    }

    /// Returns the value that [`Document::remember`] stored last, if it is of this type.
    #[must_use]
    pub fn recall<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let memo = self.0.memo.lock().unwrap_or_else(PoisonError::into_inner);
        memo.clone()?.downcast().ok()
    }

    /// Stores a value that was computed from this document for as long as the document lives.
    pub fn remember<T: Any + Send + Sync>(&self, memo: T) {
        let mut place = self.0.memo.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(Arc::new(memo));
    }

    /// Returns this object with a field of this key and value in place of any that it has, or without one. A
    /// document that is no object is returned as it is.
    #[must_use]
    pub fn with_field(&self, key: &str, value: Option<Node<'_>>) -> Self {
        let root = self.root();
        if !root.is_object() {
            return self.clone();
        }
        let added = value.map_or(0, |value| key.len() + value.raw().len() + 8);
        let mut builder = Builder::with_capacity(self.size() + added);
        let open = builder.begin_object();
        for (name, field) in root.entries() {
            if name != key {
                builder.key(name);
                builder.push_raw(field);
            }
        }
        if let Some(value) = value {
            builder.key(key);
            builder.push_raw(value);
        }
        builder.end(open);
        builder.finish()
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.bytes.len()
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({} bytes)", self.0.bytes.len())
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
    /// A number that a 64-bit float holds exactly.
    Float(f64),
    /// Any other number, as its JSON text: an integer of more than 64 bits, or a decimal with more digits than a
    /// float holds.
    Number(&'a str),
    /// Text.
    Text(&'a str),
}

/// One value inside a [`Document`].
#[derive(Clone, Copy)]
pub struct Node<'a> {
    /// Starts with this value; other values may follow.
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

    /// The payload of a text or a container.
    fn body(self) -> &'a [u8] {
        self.split().0
    }

    /// How many bytes this value occupies.
    fn size(self) -> usize {
        let tag = self.tag();
        match tag {
            NULL | FALSE | TRUE => 1,
            INTEGER | UNSIGNED | FLOAT => 9,
            KNOWN => 2,
            SHORT.. => 1 + usize::from(tag - SHORT),
            _ => 5 + self.length(),
        }
    }

    /// The length after the tag of a long text or a container.
    fn length(self) -> usize {
        let length = self.bytes.get(1..5).and_then(|bytes| bytes.try_into().ok());
        length.map_or(0, u32::from_le_bytes) as usize
    }

    /// The payload of a text or a container, and the bytes after it.
    fn split(self) -> (&'a [u8], &'a [u8]) {
        let tag = self.tag();
        if tag == KNOWN {
            let name = keys::name(self.bytes.get(1).copied());
            return (name.as_bytes(), self.bytes.get(2..).unwrap_or_default());
        }
        let (start, length) = if tag >= SHORT {
            (1, usize::from(tag - SHORT))
        } else {
            (5, self.length())
        };
        let rest = self.bytes.get(start..).unwrap_or_default();
        rest.split_at_checked(length).unwrap_or_default()
    }

    /// The bytes of this value alone. Equal bytes are equal values.
    #[must_use]
    pub fn raw(self) -> &'a [u8] {
        self.bytes.get(..self.size()).unwrap_or_default()
    }

    /// The scalar, or `None` for an array or an object.
    #[must_use]
    pub fn scalar(self) -> Option<Scalar<'a>> {
        Some(match self.scalar_but_text()? {
            // Only UTF-8 is written with the tags of text.
            Scalar::Text(_) => Scalar::Text(std::str::from_utf8(self.body()).unwrap_or_default()),
            Scalar::Number(_) => Scalar::Number(std::str::from_utf8(self.body()).unwrap_or("0")),
            scalar => scalar,
        })
    }

    /// The scalar without the content of a text or a long number, whose UTF-8 check costs most.
    fn scalar_but_text(self) -> Option<Scalar<'static>> {
        Some(match self.tag() {
            NULL => Scalar::Null,
            FALSE => Scalar::Bool(false),
            TRUE => Scalar::Bool(true),
            INTEGER => Scalar::Integer(i64::from_le_bytes(self.eight())),
            UNSIGNED => Scalar::Unsigned(u64::from_le_bytes(self.eight())),
            FLOAT => Scalar::Float(f64::from_le_bytes(self.eight())),
            TEXT | KNOWN | SHORT.. => Scalar::Text(""),
            NUMBER => Scalar::Number("0"),
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

    /// Whether this is exactly this text.
    #[must_use]
    pub fn is_text(self, text: &str) -> bool {
        matches!(self.tag(), TEXT | KNOWN | SHORT..) && self.body() == text.as_bytes()
    }

    /// The whole number, if it is one that fits 64 signed bits.
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

    /// The field of an object; `None` if it is missing or this is not an object.
    #[must_use]
    pub fn get(self, key: &str) -> Option<Self> {
        let mut rest = self.entries().bytes;
        // Keys are compared as bytes: a UTF-8 check of each would cost more than the search.
        while !rest.is_empty() {
            let (name, behind) = Node { bytes: rest }.split();
            let value = Node { bytes: behind };
            if name == key.as_bytes() {
                return Some(value);
            }
            rest = behind.get(value.size()..).unwrap_or_default();
        }
        None
    }

    /// A nested field; `None` if a step is missing.
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

    /// How many fields an object has.
    #[must_use]
    pub fn count_entries(self) -> usize {
        let mut entries = self.entries();
        std::iter::from_fn(|| entries.next_node()).count()
    }

    /// The fields of an object in the order of the document; nothing for any other value.
    #[must_use]
    pub fn entries(self) -> Entries<'a> {
        Entries {
            bytes: if self.is_object() { self.body() } else { &[] },
        }
    }

    /// This value as a tree. A number that 64 bits do not hold becomes the nearest float; only
    /// [`Node::write_json`] keeps all of its digits.
    #[must_use]
    pub fn to_value(self) -> serde_json::Value {
        use serde_json::Value;
        match self.scalar() {
            Some(Scalar::Null) => Value::Null,
            Some(Scalar::Bool(value)) => Value::Bool(value),
            Some(Scalar::Integer(number)) => Value::from(number),
            Some(Scalar::Unsigned(number)) => Value::from(number),
            Some(Scalar::Float(number)) => Value::from(number),
            Some(Scalar::Number(text)) => Value::from(numbers::nearest(text)),
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
            // Only objects of the API server are serialised, and these have no such numbers.
            Some(Scalar::Number(text)) => serializer.serialize_f64(numbers::nearest(text)),
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
        let (key, value) = self.next_node()?;
        Some((key.as_str().unwrap_or_default(), value))
    }
}

impl<'a> Entries<'a> {
    /// The next field with its encoded key.
    pub(crate) fn next_node(&mut self) -> Option<(Node<'a>, Node<'a>)> {
        if self.bytes.is_empty() {
            return None;
        }
        let key = Node { bytes: self.bytes };
        let value = Node {
            bytes: self.bytes.get(key.size()..).unwrap_or_default(),
        };
        self.bytes = value.bytes.get(value.size()..).unwrap_or_default();
        Some((key, value))
    }
}

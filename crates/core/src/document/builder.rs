//! Writing documents.

use std::fmt;

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::{
    ARRAY, Document, FALSE, FLOAT, INTEGER, KNOWN, LONGEST_SHORT, NULL, OBJECT, SHORT, TEXT, TRUE,
    UNSIGNED, keys,
};

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
        match keys::number(key) {
            Some(number) => self.bytes.extend_from_slice(&[KNOWN, number]),
            None => self.text(key),
        }
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
        Document::new(self.bytes.into())
    }

    fn begin(&mut self, tag: u8) -> Open {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[tag, 0, 0, 0, 0]);
        Open(at)
    }

    fn text(&mut self, text: &str) {
        if let Ok(length) = u8::try_from(text.len())
            && text.len() <= LONGEST_SHORT
        {
            self.bytes.push(SHORT + length);
            self.bytes.extend_from_slice(text.as_bytes());
            return;
        }
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

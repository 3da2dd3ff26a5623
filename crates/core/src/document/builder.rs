//! Builds documents.

use std::{collections::HashSet, fmt, vec};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use crate::scratch::Scratch;

use super::{
    ARRAY, Document, Entries, FALSE, FLOAT, INTEGER, KNOWN, LONGEST_SHORT, NULL, NUMBER, Node,
    OBJECT, SHORT, Scalar, TEXT, TRUE, UNSIGNED, keys,
};

/// Writes a [`Document`] sequentially.
///
/// An object is written as [`Builder::begin_object`], then [`Builder::key`] and one value for each
/// field, then [`Builder::end`]. A caller that leaves something out writes the object with these
/// methods and everything else with [`Builder::value`].
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Scratch,
    /// Whether a float was deserialised. It may have had more digits in the text.
    has_floats: bool,
    /// For each float to come, its text if the float is not exactly that number.
    literals: vec::IntoIter<Option<Box<str>>>,
}

/// A position in what a [`Builder`] has written.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

/// The start of an unfinished container.
#[derive(Debug)]
#[must_use = "an object must be ended"]
pub struct Open(usize);

impl Builder {
    /// A builder with this initial capacity in bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Scratch::with_capacity(bytes),
            ..Self::default()
        }
    }

    /// A builder that replaces each float that it deserialises by the literal given here, if there is one.
    pub(super) fn with_literals(literals: Vec<Option<Box<str>>>) -> Self {
        Self {
            literals: literals.into_iter(),
            ..Self::default()
        }
    }

    /// Whether a float was deserialised.
    pub(super) fn floats(&self) -> bool {
        self.has_floats
    }

    /// The current position.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.bytes.len())
    }

    /// Removes all that was written since `mark`, such as a key without a value.
    pub fn take_back(&mut self, mark: Mark) {
        self.bytes.truncate(mark.0);
    }

    /// Starts an array, whose items follow.
    pub fn begin_array(&mut self) -> Open {
        self.begin(ARRAY)
    }

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

    /// Writes the key as text. This is faster and takes more memory, so it suits a short-lived document.
    pub fn key_as_text(&mut self, key: &str) {
        self.text(key);
    }

    /// Ends the container that `open` started.
    pub fn end(&mut self, open: Open) {
        let length = self.bytes.len().saturating_sub(open.0 + 5);
        // A response of at most 64 MiB cannot have a body of four gigabytes. If it did, a length of zero
        // would make the container read as empty instead of as something else.
        let length = u32::try_from(length).unwrap_or(0);
        if let Some(place) = self.bytes.get_mut(open.0 + 1..open.0 + 5) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// A seed that writes exactly one value of any kind.
    pub fn value(&mut self) -> impl for<'de> DeserializeSeed<'de, Value = ()> + '_ {
        Seed(self)
    }

    /// Writes a scalar.
    pub fn scalar(&mut self, scalar: Scalar<'_>) {
        match scalar {
            Scalar::Null => self.bytes.push(NULL),
            Scalar::Bool(value) => self.bytes.push(if value { TRUE } else { FALSE }),
            Scalar::Integer(number) => self.integer(number),
            Scalar::Unsigned(number) => self.unsigned(number),
            Scalar::Float(number) => self.float(number),
            Scalar::Number(text) => self.number(text),
            Scalar::Text(text) => self.text(text),
        }
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
        Document::new(self.bytes.to_box())
    }

    /// Of repeated fields of the unfinished object at `open`, keeps the last.
    fn drop_repeated(&mut self, open: &Open) {
        let body = self.bytes.split_off(open.0 + 5);
        let mut fields = Entries { bytes: &body };
        let fields: Vec<_> = std::iter::from_fn(|| fields.next_node()).collect();
        let mut later = HashSet::with_capacity(fields.len());
        let mut kept: Vec<_> = fields
            .into_iter()
            .rev()
            .filter(|(key, _)| later.insert(key.raw()))
            .collect();
        kept.reverse();
        for (key, value) in kept {
            self.bytes.extend_from_slice(key.raw());
            self.bytes.extend_from_slice(value.raw());
        }
    }

    /// Of repeated fields of the unfinished object at `open`, keeps the last. `keys` are the positions of its
    /// keys.
    pub(super) fn drop_repeated_of(&mut self, open: &Open, keys: &[Mark]) {
        if is_any_repeated(keys, &self.bytes) {
            self.drop_repeated(open);
        }
    }

    /// Writes a value of another document.
    pub fn push_raw(&mut self, node: Node<'_>) {
        self.bytes.extend_from_slice(node.raw());
    }

    pub(super) fn begin(&mut self, tag: u8) -> Open {
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

    fn number(&mut self, text: &str) {
        let open = self.begin(NUMBER);
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

/// Writes one value of any kind.
pub(super) struct Seed<'a>(pub(super) &'a mut Builder);

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
        self.0.has_floats = true;
        match self.0.literals.next().flatten() {
            Some(text) => self.0.number(&text),
            None => self.0.float(number),
        }
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
        let mut seen = Seen::default();
        let mut key = self.0.mark();
        while map.next_key_seed(KeySeed(self.0))?.is_some() {
            seen.add(self.0.bytes.get(key.0..).unwrap_or_default(), key);
            map.next_value_seed(Seed(self.0))?;
            key = self.0.mark();
        }
        if seen.is_any_repeated(&self.0.bytes) {
            self.0.drop_repeated(&open);
        }
        self.0.end(open);
        Ok(())
    }
}

/// The keys of an object so far, to detect repeated ones. The API server repeats none, so detection has to be
/// cheap, and the repair need not be.
#[derive(Default)]
struct Seen {
    known: [u64; 4],
    is_known_repeated: bool,
    /// The positions of those that were written as text.
    texts: Vec<Mark>,
}

impl Seen {
    fn add(&mut self, key: &[u8], at: Mark) {
        if let [KNOWN, number] = key {
            let bit = 1 << (number % 64);
            if let Some(bits) = self.known.get_mut(usize::from(number / 64)) {
                self.is_known_repeated |= *bits & bit != 0;
                *bits |= bit;
            }
        } else {
            self.texts.push(at);
        }
    }

    fn is_any_repeated(&self, bytes: &[u8]) -> bool {
        self.is_known_repeated || is_any_repeated(&self.texts, bytes)
    }
}

/// Whether two of the keys at these positions are equal.
fn is_any_repeated(keys: &[Mark], bytes: &[u8]) -> bool {
    // For the usual number of labels and annotations, comparing is faster than hashing.
    const FEW: usize = 12;
    let key = |at: &Mark| bytes.get(at.0..).map(|bytes| Node { bytes }.raw());
    if keys.len() <= FEW {
        let mut keys = keys.iter();
        std::iter::from_fn(|| keys.next().map(|one| (one, keys.clone())))
            .any(|(one, mut later)| later.any(|other| key(one) == key(other)))
    } else {
        let mut known = HashSet::with_capacity(keys.len());
        !keys.iter().all(|at| known.insert(key(at)))
    }
}

/// Writes a key without allocating.
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

//! YAML as a tree of nodes with places, and the deserialization of typed values from it.

use std::fmt;

use serde::{
    Deserialize,
    de::{
        self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::SeqDeserializer,
    },
};
use serde_saphyr::Spanned;

use crate::diagnostic::Place;

/// A value of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Its number in the document, by which children are looked up.
    pub(crate) id: u64,
    /// The number of the text that it was read from.
    pub(crate) text: usize,
    /// Where it starts.
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) value: Node,
}

impl Node {
    /// Returns a node that is not from a text.
    pub(crate) fn synthetic(kind: Kind) -> Self {
        Self {
            id: 0,
            text: 0,
            place: Place::default(),
            kind,
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    pub(crate) fn children(&self) -> Vec<&Self> {
        match &self.kind {
            Kind::List(items) => items.iter().collect(),
            Kind::Map(entries) => entries.iter().map(|entry| &entry.value).collect(),
            _ => Vec::new(),
        }
    }

    /// Sets the number of the text for this node and all below it.
    pub(crate) fn set_text(&mut self, text: usize) {
        self.text = text;
        match &mut self.kind {
            Kind::List(items) => items.iter_mut().for_each(|item| item.set_text(text)),
            Kind::Map(entries) => entries
                .iter_mut()
                .for_each(|entry| entry.value.set_text(text)),
            _ => {}
        }
    }

    /// Numbers this node and all below it, starting from `next`.
    pub(crate) fn number(&mut self, next: &mut u64) {
        self.id = *next;
        *next += 1;
        match &mut self.kind {
            Kind::List(items) => items.iter_mut().for_each(|item| item.number(next)),
            Kind::Map(entries) => entries
                .iter_mut()
                .for_each(|entry| entry.value.number(next)),
            _ => {}
        }
    }

    /// Returns the type of the value, as used in messages.
    pub(crate) fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "a boolean",
            Kind::Integer(_) | Kind::Unsigned(_) => "a whole number",
            Kind::Float(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }
}

// --- parsing the tree -----------------------------------------------------------------------

struct Raw(Kind);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Raw>::deserialize(deserializer)?;
        Ok(Self {
            id: 0,
            text: 0,
            place: to_place(&spanned.referenced),
            kind: spanned.value.0,
        })
    }
}

fn to_place(location: &serde_saphyr::Location) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(1);
    Place {
        line: number(location.line()),
        column: number(location.column()),
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw(Kind::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw(Kind::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw(Kind::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw(Kind::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw(
            i64::try_from(value).map_or(Kind::Unsigned(value), Kind::Integer)
        ))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw(Kind::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw(Kind::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element::<Node>()? {
            items.push(item);
        }
        Ok(Raw(Kind::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            entries.push(Entry {
                key_place: to_place(&key.referenced),
                key: key.value,
                value: map.next_value::<Node>()?,
            });
        }
        Ok(Raw(Kind::Map(entries)))
    }
}

// --- typed values from the tree -------------------------------------------------------------

/// Why a value does not have the type of its field.
#[derive(Debug)]
pub(crate) struct TypeError {
    pub(crate) kind: TypeErrorKind,
    /// The place of the innermost value or key with the error.
    pub(crate) place: Option<Place>,
    /// The keys from the component to the error, innermost first.
    pub(crate) path: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum TypeErrorKind {
    UnknownField {
        field: String,
        expected: &'static [&'static str],
    },
    MissingField(&'static str),
    Other(String),
}

impl TypeError {
    fn new(kind: TypeErrorKind) -> Self {
        Self {
            kind,
            place: None,
            path: Vec::new(),
        }
    }

    fn or_at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            TypeErrorKind::UnknownField { field, expected } => write!(
                f,
                "unknown field `{field}`{}",
                crate::diagnostic::suggestion(field, expected)
            ),
            TypeErrorKind::MissingField(field) => write!(f, "the field `{field}` is required"),
            TypeErrorKind::Other(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for TypeError {}

impl de::Error for TypeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(TypeErrorKind::Other(message.to_string()))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(TypeErrorKind::UnknownField {
            field: field.to_owned(),
            expected,
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(TypeErrorKind::MissingField(field))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(TypeErrorKind::Other(format!(
            "`{variant}` is not one of {}{}",
            expected.join(", "),
            meterline_core::nearest(variant, expected.iter().copied())
                .map(|near| format!("; did you mean `{near}`?"))
                .unwrap_or_default()
        )))
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        // The value may be a secret, so only its type is shown.
        let found = match found {
            de::Unexpected::Bool(_) => "a boolean",
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) => "a whole number",
            de::Unexpected::Float(_) => "a number",
            de::Unexpected::Str(_) | de::Unexpected::Char(_) => "text",
            de::Unexpected::Unit | de::Unexpected::Option => "nothing",
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a map",
            _ => "something else",
        };
        let expected = match expected.to_string().as_str() {
            "a string" => "text (put it in quotes)".to_owned(),
            "a boolean" => "`true` or `false`".to_owned(),
            "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number, zero or more".to_owned(),
            "i64" | "i32" | "isize" => "a whole number".to_owned(),
            "a sequence" => "a list".to_owned(),
            other => other.replace("struct Config", "a map of fields"),
        };
        Self::new(TypeErrorKind::Other(format!(
            "expected {expected}, found {found}"
        )))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }
}

/// The names that mark the types of this crate in [`de::Deserializer::deserialize_newtype_struct`].
pub(crate) const CHILD: &str = "$meterline::child";
pub(crate) const LOCATED: &str = "$meterline::located";

/// Defines methods that read a number, with or without quotes.
macro_rules! numbers {
    ($($($method:ident)+ => $visit:ident,)+) => {$($(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
            match self.parsed() {
                Some(number) => visitor.$visit(number).map_err(|error: TypeError| error.or_at(self.place)),
                None => self.deserialize_any(visitor),
            }
        }
    )+)+};
}

impl<'de> de::Deserializer<'de> for &Node {
    type Error = TypeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match &self.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(*value),
            Kind::Integer(value) => visitor.visit_i64(*value),
            Kind::Unsigned(value) => visitor.visit_u64(*value),
            Kind::Float(value) => visitor.visit_f64(*value),
            Kind::Text(value) => visitor.visit_str(value),
            Kind::List(items) => visitor.visit_seq(SeqDeserializer::new(items.iter().map(Item))),
            Kind::Map(entries) => visitor.visit_map(Fields {
                entries: entries.iter(),
                current: None,
            }),
        }
        .map_err(|error: TypeError| error.or_at(self.place))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TypeError> {
        match name {
            CHILD => visitor.visit_u64(self.id),
            LOCATED => visitor.visit_seq(LocatedAccess {
                node: self,
                step: 0,
            }),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypeError> {
        match self.kind {
            // A component without any fields may be left blank.
            Kind::Null => visitor.visit_map(Fields {
                entries: [].iter(),
                current: None,
            }),
            _ => self.deserialize_any(visitor),
        }
        .map_err(|error: TypeError| error.or_at(self.place))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypeError> {
        match &self.kind {
            Kind::Text(variant) => visitor.visit_enum(variant.as_str().into_deserializer()),
            _ => Err(de::Error::custom(format!(
                "expected a word, found {}",
                self.what()
            ))),
        }
        .map_err(|error: TypeError| error.or_at(self.place))
    }

    /// As in Benthos, a boolean or a number may be in quotes, which are common around variables.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match self.parsed() {
            Some(value) => visitor.visit_bool(value),
            None => self.deserialize_any(visitor),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 => visit_i64,
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 => visit_u64,
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier ignored_any
    }
}

impl Node {
    /// Parses a text as `T`; `None` for other nodes and texts.
    fn parsed<T: std::str::FromStr>(&self) -> Option<T> {
        match &self.kind {
            Kind::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

struct Item<'a>(&'a Node);

impl<'a> IntoDeserializer<'_, TypeError> for Item<'a> {
    type Deserializer = &'a Node;

    fn into_deserializer(self) -> &'a Node {
        self.0
    }
}

struct Fields<'a> {
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = TypeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, TypeError> {
        self.current = self.entries.next();
        self.current
            .map(|entry| {
                seed.deserialize(entry.key.as_str().into_deserializer())
                    .map_err(|error: TypeError| error.or_at(entry.key_place))
            })
            .transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, TypeError> {
        let Some(entry) = self.current else {
            return Err(de::Error::custom("a value was requested before its key"));
        };
        seed.deserialize(&entry.value).map_err(|mut error| {
            error.path.push(entry.key.clone());
            error
        })
    }
}

/// Yields the value, then its number.
struct LocatedAccess<'a> {
    node: &'a Node,
    step: u8,
}

impl<'de> SeqAccess<'de> for LocatedAccess<'_> {
    type Error = TypeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, TypeError> {
        self.step += 1;
        match self.step {
            1 => seed.deserialize(self.node).map(Some),
            2 => seed.deserialize(self.node.id.into_deserializer()).map(Some),
            _ => Ok(None),
        }
    }
}

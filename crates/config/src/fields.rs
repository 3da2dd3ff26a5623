//! Types for the fields of a component's configuration.

use std::{fmt, ops::Deref, time::Duration};

use meterline_core::duration;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use crate::node::{CHILD, LOCATED};

/// A component inside a component, which [`crate::PlanContext`] plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child(pub(crate) u64);

impl<'de> Deserialize<'de> for Child {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Child;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a component")
            }

            fn visit_u64<E>(self, id: u64) -> Result<Child, E> {
                Ok(Child(id))
            }
        }
        deserializer.deserialize_newtype_struct(CHILD, Number)
    }
}

/// A value with its place in the configuration, for errors that are found later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// The number of the value in the document; `None` for a default.
    pub(crate) id: Option<u64>,
}

impl<T> Located<T> {
    /// The number of the value in the document; `None` for a default.
    #[must_use]
    pub const fn number(&self) -> Option<u64> {
        self.id
    }
}

impl<T> From<T> for Located<T> {
    /// A value that is not in the configuration, such as a default.
    fn from(value: T) -> Self {
        Self { value, id: None }
    }
}

impl<T> Deref for Located<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pair<T> {
            type Value = Located<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut pair: A) -> Result<Located<T>, A::Error> {
                let Some(value) = pair.next_element()? else {
                    return Err(de::Error::custom("a value is missing"));
                };
                Ok(Located {
                    value,
                    id: pair.next_element()?,
                })
            }
        }
        deserializer.deserialize_newtype_struct(LOCATED, Pair(std::marker::PhantomData))
    }
}

/// A non-negative duration in Go's format, such as `15s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as `15s`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                let nanoseconds = duration::parse(text.trim()).map_err(E::custom)?;
                let nanoseconds = u64::try_from(nanoseconds)
                    .map_err(|_| E::custom(format!("the duration `{text}` is negative")))?;
                Ok(GoDuration(Duration::from_nanos(nanoseconds)))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Reads an optional duration; empty text counts as none, as in Benthos. For
/// `#[serde(deserialize_with)]`.
///
/// # Errors
/// When the value is neither a duration nor empty.
pub fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<GoDuration>, D::Error> {
    struct Maybe;
    impl<'de> Visitor<'de> for Maybe {
        type Value = Option<GoDuration>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as `15s`, or nothing")
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, some: D) -> Result<Self::Value, D::Error> {
            some.deserialize_str(self)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            if text.trim().is_empty() {
                return Ok(None);
            }
            GoDuration::deserialize(de::value::StrDeserializer::new(text)).map(Some)
        }
    }
    deserializer.deserialize_option(Maybe)
}

//! Projection: writes only what is read of a value.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{ARRAY, Builder, Document, Node, OBJECT, builder::Seed};
use crate::{Reads, Scalar};

impl Builder {
    /// A seed that writes the parts of exactly one value that `reads` names. What is left out is never kept in
    /// memory, not even while the text is read.
    pub fn parts<'a>(
        &'a mut self,
        reads: &'a Reads,
    ) -> impl for<'de> DeserializeSeed<'de, Value = ()> + 'a {
        Projected {
            builder: self,
            reads,
        }
    }

    /// Writes the parts of `node` that `reads` names.
    pub fn push_parts(&mut self, node: Node<'_>, reads: &Reads) {
        if reads.is_all() {
            self.push_raw(node);
        } else if node.is_object() {
            let open = self.begin(OBJECT);
            let mut entries = node.entries();
            while let Some((key, value)) = entries.next_node() {
                // Only a `Builder` writes keys, and it writes text.
                let name = key.as_str().unwrap_or_default();
                if let Some(reads) = reads.field(name) {
                    self.push_raw(key);
                    self.push_parts(value, reads);
                }
            }
            self.end(open);
        } else if node.is_array() {
            let open = self.begin(ARRAY);
            for item in node.items() {
                reads.item().inspect(|reads| self.push_parts(item, reads));
            }
            self.end(open);
        } else {
            self.push_raw(node);
        }
    }
}

impl Document {
    /// The parts of the document that `reads` names, and nothing else.
    #[must_use]
    pub fn project(&self, reads: &Reads) -> Self {
        if reads.is_all() {
            return self.clone();
        }
        let mut builder = Builder::default();
        builder.push_parts(self.root(), reads);
        builder.finish()
    }
}

impl Node<'_> {
    /// This value as a document.
    #[must_use]
    pub fn to_document(self) -> Document {
        let mut builder = Builder::default();
        builder.push_raw(self);
        builder.finish()
    }
}

struct Projected<'a> {
    builder: &'a mut Builder,
    reads: &'a Reads,
}

impl<'de> DeserializeSeed<'de> for Projected<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.reads.is_all() {
            Seed(self.builder).deserialize(deserializer)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

/// Objects and arrays are projected; anything else is read as a whole.
impl<'de> Visitor<'de> for Projected<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.builder.scalar(Scalar::Null);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.builder.scalar(Scalar::Bool(value));
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(), E> {
        Seed(self.builder).visit_i64(number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<(), E> {
        Seed(self.builder).visit_u64(number)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<(), E> {
        Seed(self.builder).visit_f64(number)
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.builder.scalar(Scalar::Text(text));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let open = self.builder.begin(ARRAY);
        let Some(reads) = self.reads.item() else {
            while sequence.next_element::<IgnoredAny>()?.is_some() {}
            self.builder.end(open);
            return Ok(());
        };
        while sequence
            .next_element_seed(Projected {
                builder: self.builder,
                reads,
            })?
            .is_some()
        {}
        self.builder.end(open);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let open = self.builder.begin(OBJECT);
        let mut keys = Vec::new();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            let Some(reads) = self.reads.field(&key.0) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            keys.push(self.builder.mark());
            self.builder.key(&key.0);
            map.next_value_seed(Projected {
                builder: self.builder,
                reads,
            })?;
        }
        self.builder.drop_repeated_of(&open, &keys);
        self.builder.end(open);
        Ok(())
    }
}

/// A key, borrowed from the text unless it has escapes. Serde itself does not borrow for a `Cow`.
struct Key<'de>(Cow<'de, str>);

impl<'de> de::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn projected(value: &Value, reads: &Reads) -> Value {
        let text = value.to_string();
        let mut builder = Builder::default();
        let mut deserializer = serde_json::Deserializer::from_str(&text);
        builder.parts(reads).deserialize(&mut deserializer).unwrap();
        let read = builder.finish();
        let copied = Document::from(value).project(reads);
        assert_eq!(read, copied);
        read.root().to_value()
    }

    #[test]
    fn what_is_not_read_is_left_out() {
        let pod = json!({
            "metadata": {"name": "a", "labels": {"x": "y"}, "annotations": {"p/a": "1", "q/b": "2"}},
            "spec": {"containers": [{"name": "c", "env": [{"name": "SECRET"}], "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": "Running"},
        });
        let reads = Reads::of(&[
            "metadata.name",
            "metadata.annotations.p/^",
            "spec.containers.*.resources",
        ]);
        assert_eq!(
            projected(&pod, &reads),
            json!({
                "metadata": {"name": "a", "annotations": {"p/a": "1"}},
                "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]},
            })
        );
        assert_eq!(projected(&pod, &Reads::default()), json!({}));
        assert_eq!(projected(&pod, &Reads::All), pod);
    }

    #[test]
    fn scalars_and_unexpected_arrays_are_read_as_a_whole() {
        let reads = Reads::of(&["a.b", "c.*.d"]);
        let value = json!({"a": "text", "c": {"d": 1}, "e": null});
        assert_eq!(projected(&value, &reads), json!({"a": "text", "c": {}}));
        let value = json!({"a": [1, {"x": 2}], "c": [1.5, -2, null, true, [{"d": 1}]]});
        assert_eq!(
            projected(&value, &reads),
            json!({"a": [1, {"x": 2}], "c": [1.5, -2, null, true, [{"d": 1}]]})
        );
    }

    #[test]
    fn the_last_of_repeated_keys_wins() {
        let reads = Reads::of(&["a.b", "x"]);
        let text = r#"{"a":{"b":1},"x":1,"y":0,"a":{"b":2,"c":3},"x":2}"#;
        let mut builder = Builder::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        builder
            .parts(&reads)
            .deserialize(&mut deserializer)
            .unwrap();
        assert_eq!(
            builder.finish().root().to_value(),
            json!({"a": {"b": 2}, "x": 2})
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{1,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn reads() -> impl Strategy<Value = Reads> {
        let path = prop::collection::vec(prop_oneof!["[a-c]{1,2}", Just("*".to_owned())], 1..4);
        let path = (path, any::<bool>()).prop_map(|(path, is_prefix)| {
            let suffix = if is_prefix && path.last().is_some_and(|it| it != "*") {
                "^"
            } else {
                ""
            };
            path.join(".") + suffix
        });
        prop::collection::vec(path, 0..4).prop_map(|paths| {
            let paths: Vec<_> = paths.iter().map(String::as_str).collect();
            Reads::of(&paths)
        })
    }

    proptest! {
        /// A reader finds in what was kept for a larger set everything that it finds in the whole value.
        #[test]
        fn a_projection_for_two_readers_serves_each(value in value(), one in reads(), other in reads()) {
            let mut both = one.clone();
            both.join(&other);
            let kept = projected(&value, &both);
            prop_assert_eq!(projected(&kept, &one), projected(&value, &one));
            prop_assert_eq!(projected(&kept, &other), projected(&value, &other));
            prop_assert_eq!(projected(&kept, &both), kept);
        }
    }
}

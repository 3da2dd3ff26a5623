//! What is known statically of the messages of a pipeline.
//!
//! The check of a configuration follows what its components make of a message, as far as their source
//! texts show it. This is enough to detect events that would share an id, or would not be events. What is
//! not known is assumed to be harmless, so that no valid configuration is refused.

use std::{collections::BTreeMap, sync::Arc};

/// A position in a text of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// The number of the text in the document; `None` for a text that the user did not write.
    pub text: Option<u64>,
    /// The line in the text, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// The kind of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Anything.
    Unknown,
    /// The marker of a message, field or item that is left out.
    Deleted,
    /// Null, or nothing.
    Null,
    /// True or false.
    Bool,
    /// A number.
    Number,
    /// Text, with its value if it is known.
    Text(Option<Arc<str>>),
    /// The id of the usage for this event type and, if there is one, this key.
    EventId(Arc<str>, Option<Arc<str>>),
    /// An array.
    Array,
    /// An object.
    Object,
    /// A function value.
    Function,
}

impl Kind {
    /// Its name in messages, if it is certainly not an object.
    #[must_use]
    pub fn no_object(&self) -> Option<&'static str> {
        match self {
            Self::Unknown | Self::Deleted | Self::Object => None,
            Self::Null => Some("null"),
            Self::Bool => Some("true or false"),
            Self::Number => Some("a number"),
            Self::Text(_) | Self::EventId(..) => Some("text"),
            Self::Array => Some("an array"),
            Self::Function => Some("a function"),
        }
    }

    fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Deleted, kept) | (kept, Self::Deleted) => kept,
            (one, other) if one == other => one,
            (Self::Text(_) | Self::EventId(..), Self::Text(_) | Self::EventId(..)) => {
                Self::Text(None)
            }
            _ => Self::Unknown,
        }
    }
}

/// What is known of a value as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it is.
    pub kind: Kind,
    /// Whether it may differ between messages of one object: it may depend on the time, the usage, chance,
    /// or on what is not known.
    pub varies: bool,
    /// Its position in the source.
    pub spot: Option<Spot>,
}

impl Fact {
    /// A value of this kind without a known position.
    #[must_use]
    pub const fn new(kind: Kind, varies: bool) -> Self {
        Self {
            kind,
            varies,
            spot: None,
        }
    }

    /// What is known of a value that is either this or the other.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            kind: self.kind.join(other.kind),
            varies: self.varies || other.varies,
            spot: self.spot.or(other.spot),
        }
    }
}

/// What is known of a value and, if it is an object, of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The value as a whole. It varies if any of its fields does.
    pub whole: Fact,
    /// Its known fields, if it is an object.
    pub fields: BTreeMap<Arc<str>, Fact>,
    /// Whether other fields vary; `None` if there are no others.
    pub others: Option<bool>,
}

impl Shape {
    /// A value whose fields are not known.
    #[must_use]
    pub const fn new(kind: Kind, varies: bool) -> Self {
        Self {
            whole: Fact::new(kind, varies),
            fields: BTreeMap::new(),
            others: Some(varies),
        }
    }

    /// An object without fields.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            whole: Fact::new(Kind::Object, false),
            fields: BTreeMap::new(),
            others: None,
        }
    }

    /// What is known of a field.
    #[must_use]
    pub fn field(&self, key: &str) -> Fact {
        match (self.fields.get(key), self.others) {
            (Some(fact), _) => fact.clone(),
            (None, None) if self.whole.kind == Kind::Object => Fact::new(Kind::Null, false),
            (None, others) => Fact::new(Kind::Unknown, others.unwrap_or(self.whole.varies)),
        }
    }

    /// Sets a field.
    pub fn set(&mut self, key: &str, fact: Fact) {
        self.whole.varies |= fact.varies;
        self.fields.insert(key.into(), fact);
    }

    /// Records that it was made under a condition that varies.
    pub fn depends(&mut self, varies: bool) {
        if varies {
            self.whole.varies = true;
            self.others = self.others.map(|_| true);
            self.fields.values_mut().for_each(|it| it.varies = true);
        }
    }

    /// Merges two objects recursively. If both have a field, that of `other` wins, and objects in them are
    /// merged as well.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        if let Some(varies) = other.others {
            let any = Fact::new(Kind::Unknown, varies);
            for fact in self.fields.values_mut() {
                *fact = fact.clone().join(any.clone());
            }
            self.others = Some(varies || self.others.unwrap_or(false));
        }
        self.whole.varies |= other.whole.varies;
        for (key, fact) in other.fields {
            let stays = matches!(fact.kind, Kind::Unknown | Kind::Object);
            let fact = if stays {
                let spot = fact.spot;
                let joined = self.field(&key).join(fact);
                Fact {
                    spot: spot.or(joined.spot),
                    ..joined
                }
            } else {
                fact
            };
            self.fields.insert(key, fact);
        }
        self
    }

    /// What is still known after any field may have been replaced by a value that varies, or does not.
    pub fn blur(&mut self, varies: bool) {
        self.whole.varies |= varies;
        let varies = self.whole.varies;
        self.fields.clear();
        self.others = Some(varies);
    }

    /// What is known of a value that is either this or the other.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        match (&self.whole.kind, &other.whole.kind) {
            (Kind::Deleted, _) => return other,
            (_, Kind::Deleted) => return self,
            _ => {}
        }
        let keys = self.fields.keys().chain(other.fields.keys());
        let fields = keys
            .map(|key| (Arc::clone(key), self.field(key).join(other.field(key))))
            .collect();
        Self {
            fields,
            others: match (self.others, other.others) {
                (None, others) | (others, None) => others,
                (Some(one), Some(other)) => Some(one || other),
            },
            whole: self.whole.join(other.whole),
        }
    }
}

/// What is known of the messages at one point of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// The content.
    pub content: Shape,
    /// Whether metadata other than the times of the window and of the usage may vary.
    pub metadata: bool,
    /// Whether successive messages represent the usage of one object.
    pub is_usage: bool,
    /// Whether a message that did not fail may still have the content that the input gave it. A message that
    /// failed may have it at any point.
    pub is_original: bool,
    /// Whether the last also holds for messages of inputs whose own processors replaced the content before the inputs
    /// came together: one that failed there, and is passed on as if it had not, has it.
    pub is_recovered: bool,
    /// Whether a message may be one of several parts of a message, which share its identity.
    pub is_part: bool,
}

impl Default for Foreseen {
    /// Nothing is known.
    fn default() -> Self {
        Self {
            content: Shape::new(Kind::Unknown, true),
            metadata: true,
            is_usage: false,
            is_original: true,
            is_recovered: true,
            is_part: false,
        }
    }
}

impl Foreseen {
    /// Messages that hold an unchanged object and represent its usage.
    #[must_use]
    pub fn usage() -> Self {
        Self {
            content: Shape::new(Kind::Object, false),
            metadata: false,
            is_usage: true,
            is_original: true,
            is_recovered: true,
            is_part: false,
        }
    }

    /// What is known where two branches join.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            content: self.content.join(other.content),
            metadata: self.metadata || other.metadata,
            is_usage: self.is_usage && other.is_usage,
            is_original: self.is_original || other.is_original,
            is_recovered: self.is_recovered || other.is_recovered,
            is_part: self.is_part || other.is_part,
        }
    }

    /// What is known where the messages of two inputs come together: of a message that is from one or from the
    /// other, but that is from the same one as all other messages of its object. So an `id` that one of them gives to
    /// all usage of an object still is such an `id`, whatever the other one does.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        let ids = [&self, &other].map(|it| it.content.fields.get("id"));
        let is_same = |id: &&Fact| !id.varies && !matches!(id.kind, Kind::Null | Kind::Deleted);
        let spot = ids.into_iter().flatten().find(is_same).map(|id| id.spot);
        let mut together = self.join(other);
        if let (Some(spot), true) = (spot, together.is_usage) {
            let kind = together.content.field("id").kind;
            let varies = false;
            let id = Fact { kind, varies, spot };
            together.content.fields.insert("id".into(), id);
        }
        together
    }

    /// What is known of the parts that a processor makes of each message.
    #[must_use]
    pub fn divided(self) -> Self {
        Self {
            content: Shape::new(Kind::Unknown, self.content.whole.varies),
            is_part: true,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_id(kind: Kind, varies: bool) -> Shape {
        let mut shape = Shape::empty();
        shape.set("id", Fact::new(kind, varies));
        shape
    }

    #[test]
    fn after_a_join_what_both_branches_have_is_known() {
        let id = |shape: &Shape| shape.field("id");
        let one = with_id(Kind::EventId("a".into(), None), true);
        let joined = one
            .clone()
            .join(with_id(Kind::EventId("b".into(), None), true));
        assert_eq!(id(&joined), Fact::new(Kind::Text(None), true));
        assert_eq!(joined.others, None);
        let joined = one.clone().join(Shape::new(Kind::Deleted, true));
        assert_eq!(joined, one);
        let joined = one.clone().join(Shape::new(Kind::Text(None), false));
        assert_eq!(joined.whole.kind, Kind::Unknown);
        // A field that only one branch has may be missing.
        let joined = one.join(Shape::empty());
        assert_eq!(id(&joined), Fact::new(Kind::Unknown, true));
    }

    #[test]
    fn an_id_that_is_the_same_for_an_object_stays_so_beside_one_that_varies() {
        let usage = |content| Foreseen {
            content,
            ..Foreseen::usage()
        };
        let spot = Some(Spot {
            text: Some(1),
            line: 2,
            column: 3,
        });
        let mut same = Shape::empty();
        let id = Fact {
            spot,
            ..Fact::new(Kind::Text(None), false)
        };
        same.set("id", id.clone());
        let varies = with_id(Kind::EventId("a".into(), None), true);
        for (one, other) in [(&same, &varies), (&varies, &same)] {
            let together = usage(one.clone()).beside(usage(other.clone()));
            assert_eq!(together.content.fields["id"], id);
            assert!(usage(one.clone()).join(usage(other.clone())).content.fields["id"].varies);
        }
        let together = usage(varies.clone()).beside(usage(varies.clone()));
        assert!(together.content.fields["id"].varies);
        // Without an id there is nothing to compare with.
        let together = usage(varies).beside(usage(Shape::empty()));
        assert!(together.content.fields["id"].varies);
        let foreign = Foreseen {
            is_usage: false,
            ..usage(Shape::empty())
        };
        assert!(!usage(same).beside(foreign).is_usage);
    }

    #[test]
    fn a_field_that_was_not_set_is_missing_or_unknown() {
        assert_eq!(Shape::empty().field("x").kind, Kind::Null);
        assert!(!Foreseen::usage().content.field("x").varies);
        assert!(Foreseen::default().content.field("x").varies);
        let mut shape = with_id(Kind::Text(None), false);
        shape.blur(true);
        assert!(shape.field("id").varies && shape.field("x").varies);
    }
}

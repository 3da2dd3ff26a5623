//! Other objects whose metadata belongs to an object that is billed.
//!
//! An input that knows such an object adds its metadata to the content of each message, under a key that no
//! Kubernetes object has: the call that returns it in mappings. So what a mapping reads of it is kept, compared and
//! stored like any other field, and is as it was when the object ran.

use meterline_core::Node;

/// What another object is to the object that is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// The namespace that it is in.
    Namespace,
    /// The node that it runs on.
    Node,
    /// The controller that made it. Its kind and name are in the object itself.
    Owner,
}

impl Relation {
    /// Every relation.
    pub const ALL: [Self; 3] = [Self::Namespace, Self::Node, Self::Owner];

    /// The function that returns the metadata of the object in mappings.
    #[must_use]
    pub const fn function(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Node => "node",
            Self::Owner => "owner",
        }
    }

    /// The key of the metadata in the content of a message.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Namespace => "namespace()",
            Self::Node => "node()",
            Self::Owner => "owner()",
        }
    }

    /// The labels of the object in the content of a message.
    pub(crate) fn labels(self, content: Node<'_>) -> Option<Node<'_>> {
        content.path(&[self.key(), "labels"])
    }

    /// The relation that a function of mappings returns.
    #[must_use]
    pub fn of_function(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.function() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_relation_has_a_function_and_the_key_is_its_call() {
        for relation in Relation::ALL {
            assert_eq!(Relation::of_function(relation.function()), Some(relation));
            assert_eq!(relation.key(), format!("{}()", relation.function()));
        }
        assert_eq!(Relation::of_function("pod"), None);
    }
}

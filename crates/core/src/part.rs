//! The parts that a processor makes of one message, and how many of them share a batch.

use std::{fmt, sync::Arc};

/// Which part of a message a message is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// Its position among the parts, from 1.
    pub number: usize,
    /// How many parts there are.
    pub count: usize,
    /// Which part the divided message was itself, if it was one.
    pub of: Option<Arc<Part>>,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {} of {}", self.number, self.count)?;
        match &self.of {
            Some(outer) => write!(f, " of {outer}"),
            None => Ok(()),
        }
    }
}

/// The most that a batch holds which an output writes as it arrives. It belongs to a message, and applies to
/// every batch that holds the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimit {
    /// The most messages; `usize::MAX`: no such rule.
    pub count: usize,
    /// The most bytes, unless a single message is larger; `usize::MAX`: no such rule.
    pub byte_size: usize,
}

impl BatchLimit {
    /// No limit.
    pub const NONE: Self = Self {
        count: usize::MAX,
        byte_size: usize::MAX,
    };

    /// What both limits allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            count: self.count.min(other.count),
            byte_size: self.byte_size.min(other.byte_size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_part_names_both() {
        let outer = Part {
            number: 1,
            count: 2,
            of: None,
        };
        let inner = Part {
            number: 3,
            count: 4,
            of: Some(Arc::new(outer)),
        };
        assert_eq!(inner.to_string(), "part 3 of 4 of part 1 of 2");
    }

    #[test]
    fn of_two_limits_the_smaller_numbers_apply() {
        let (one, other) = (
            BatchLimit {
                count: 3,
                ..BatchLimit::NONE
            },
            BatchLimit {
                count: 10,
                byte_size: 100,
            },
        );
        let both = BatchLimit {
            count: 3,
            byte_size: 100,
        };
        assert_eq!(one.and(other), both);
        assert_eq!(both.and(BatchLimit::NONE), both);
    }
}

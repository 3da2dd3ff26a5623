//! The time that other replicas handed out, and this one did not.

use serde::{Deserialize, Serialize};

use crate::interval::{Span, UnixSeconds};

/// The most spans that are kept. Each change of leaders adds one; nothing new is learned of older ones.
const MOST: usize = 64;

/// Spans of time that other replicas handed out, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Others(Vec<Span>);

impl Others {
    /// Adds a span, which is later than all before.
    pub(crate) fn add(&mut self, from: UnixSeconds, to: UnixSeconds) {
        if from >= to {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => self.0.push((from, to)),
        }
        let beyond = self.0.len().saturating_sub(MOST);
        self.0.drain(..beyond);
    }

    /// How many seconds of a span other replicas did not hand out.
    pub(crate) fn without(&self, (from, to): Span) -> i64 {
        let shared = self
            .0
            .iter()
            .map(|(begin, end)| to.min(*end).saturating_sub(from.max(*begin)).max(0));
        shared.fold(to.saturating_sub(from).max(0), i64::saturating_sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_joined_and_bounded() {
        let mut others = Others::default();
        others.add(10, 20);
        others.add(20, 30);
        others.add(40, 50);
        assert_eq!(others.0, [(10, 30), (40, 50)]);
        assert_eq!(others.without((0, 100)), 70);
        assert_eq!(others.without((25, 45)), 10);
        assert_eq!(others.without((12, 28)), 0);
        assert_eq!(others.without((5, 3)), 0);
        for hour in 1..=100 {
            others.add(hour * 100, hour * 100 + 1);
        }
        assert_eq!(others.0.len(), MOST);
        assert_eq!(others.without((10_000, 10_002)), 1);
    }
}

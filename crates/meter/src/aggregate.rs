//! The running value of one row.

use std::collections::HashSet;

use chrono::{DateTime, FixedOffset};
use rust_decimal::Decimal;

use crate::Aggregation;

/// What one event contributes.
pub(crate) struct Sample {
    /// The value as a number; `None` where the aggregation needs none.
    pub(crate) number: Option<Decimal>,
    /// The value as text.
    pub(crate) text: String,
    /// When the event happened; an event without a time counts as the earliest.
    pub(crate) time: Option<DateTime<FixedOffset>>,
}

/// A value that grows with each event.
#[derive(Debug)]
pub(crate) enum Running {
    Sum(Decimal),
    Count(u64),
    Avg { sum: Decimal, count: u64 },
    Min(Option<Decimal>),
    Max(Option<Decimal>),
    UniqueCount(HashSet<String>),
    Latest(Option<(Option<DateTime<FixedOffset>>, Decimal)>),
}

impl Running {
    pub(crate) fn new(aggregation: Aggregation) -> Self {
        match aggregation {
            Aggregation::Sum => Self::Sum(Decimal::ZERO),
            Aggregation::Count => Self::Count(0),
            Aggregation::Avg => Self::Avg {
                sum: Decimal::ZERO,
                count: 0,
            },
            Aggregation::Min => Self::Min(None),
            Aggregation::Max => Self::Max(None),
            Aggregation::UniqueCount => Self::UniqueCount(HashSet::new()),
            Aggregation::Latest => Self::Latest(None),
        }
    }

    /// Adds one event; `None` when the sum exceeds what a decimal can hold.
    pub(crate) fn add(&mut self, sample: Sample) -> Option<()> {
        let number = sample.number.unwrap_or_default();
        match self {
            Self::Sum(sum) => *sum = sum.checked_add(number)?,
            Self::Count(count) => *count += 1,
            Self::Avg { sum, count } => {
                *sum = sum.checked_add(number)?;
                *count += 1;
            }
            Self::Min(least) => *least = Some(least.map_or(number, |least| least.min(number))),
            Self::Max(most) => *most = Some(most.map_or(number, |most| most.max(number))),
            Self::UniqueCount(seen) => {
                seen.insert(sample.text);
            }
            Self::Latest(latest) => {
                if latest.as_ref().is_none_or(|(time, _)| *time <= sample.time) {
                    *latest = Some((sample.time, number));
                }
            }
        }
        Some(())
    }

    pub(crate) fn value(&self) -> Decimal {
        match self {
            Self::Sum(sum) => *sum,
            Self::Count(count) => Decimal::from(*count),
            Self::Avg { sum, count } => sum.checked_div(Decimal::from(*count)).unwrap_or_default(),
            Self::Min(value) | Self::Max(value) => value.unwrap_or_default(),
            Self::UniqueCount(seen) => Decimal::from(seen.len()),
            Self::Latest(latest) => latest.map_or(Decimal::ZERO, |(_, value)| value),
        }
    }
}

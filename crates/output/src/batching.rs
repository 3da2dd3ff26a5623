//! The `batching` field that writing outputs share.

use meterline_config::{GoDuration, optional_duration};
use meterline_core::BatchPolicy;
use serde::Deserialize;

/// How messages are gathered. With none of the fields set, batches are written as they come: a
/// window of the schedule in one request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Batching {
    /// How many messages to wait for, and the most in one batch. 0: no such rule.
    count: usize,
    /// The longest that a message waits for others.
    #[serde(deserialize_with = "optional_duration")]
    period: Option<GoDuration>,
    /// How many bytes to wait for, and the most in one batch. 0: no such rule.
    byte_size: usize,
}

impl From<Batching> for BatchPolicy {
    fn from(batching: Batching) -> Self {
        Self {
            count: batching.count,
            period: batching
                .period
                .map(|GoDuration(period)| period)
                .filter(|period| !period.is_zero()),
            byte_size: batching.byte_size,
        }
    }
}

//! The `batching` field that outputs share.

use meterline_config::{GoDuration, optional_duration};
use meterline_core::BatchPolicy;
use serde::Deserialize;

/// How messages are collected into batches. If no field is set, a batch is written as it arrives: a
/// window of the schedule in one request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Batching {
    /// The number of messages to wait for, which is also the most in one batch. 0: no such rule.
    count: usize,
    /// The longest time that a message waits for others.
    #[serde(deserialize_with = "optional_duration")]
    period: Option<GoDuration>,
    /// The number of bytes to wait for, which is also the most in one batch. 0: no such rule.
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

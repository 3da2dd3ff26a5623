//! A small local meter, configured like a generic meter of OpenMeter: an event type, a value
//! property as JSONPath, an aggregation and what to group by.
//!
//! It computes what a customer would be billed from events that a collector delivered, exactly: all
//! numbers are decimals. [`Deduplicator`] drops what an ingest endpoint would drop.

mod aggregate;
mod config;
mod dedupe;
mod meter;

pub use config::{Aggregation, GroupBy, MeterConfig};
pub use dedupe::Deduplicator;
pub use meter::{BuildError, Meter, Refused, Row};
pub use rust_decimal::Decimal;

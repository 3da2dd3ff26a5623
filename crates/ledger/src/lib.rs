//! Exact metering without I/O, without a clock and without Kubernetes.
//!
//! The ledger keeps, for each object, the *segments* in which it ran with unchanged content. Time is
//! cut into aligned *windows*; a window cuts segments into *pieces*, and each piece becomes one
//! event. **The pieces of a window are a function of the ledger and the window**: what was handed out
//! is never changed, only added to, so a window that is handed out again has the same pieces. The
//! *watermark* is the end of the last window of the unbroken run that was delivered.
//!
//! What is learned after a window was handed out:
//! - a start becomes a separate *late* piece of the old window, and so does the time up to a later end;
//! - an end cannot be taken back, nor a start that was assumed too early: both are counted in
//!   [`Stats::overbilled_seconds`];
//! - a change of content counts from the end of the last window that was handed out.
//!
//! The ledger counts by object-second what was delivered, what was not, and why ([`Seconds`]): each
//! object-second that ran has one fate. Rejected pieces are kept, and handed out again on request.
//!
//! Time is an argument, in Unix seconds. [`Ledger`] has an example.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "no bill depends on a test")
)]

mod amend;
mod budget;
mod checkpoint;
mod completeness;
mod entry;
mod group;
mod interval;
mod late;
mod ledger;
mod objects;
mod others;
mod quarantine;
mod seconds;
mod segment;
#[cfg(test)]
mod tests;
mod timeline;
mod types;
mod windows;

pub use budget::{Budget, Waiting};
pub use checkpoint::{Changes, Checkpoint};
pub use completeness::Completeness;
pub use entry::{Record, RecordChange};
pub use group::{Group, GroupChange, GroupKey};
pub use interval::{Interval, UnixSeconds, Window};
pub use late::{BatchChanges, LateBatch, LateChanges, LateSpan};
pub use ledger::Ledger;
pub use seconds::{OTHER, Seconds, Tally, Unbilled};
pub use segment::SegmentChange;
pub use types::{
    Accounting, Certainty, Content, DeliveryResult, DeliveryTag, Existing, Fate, Kind, Observation,
    Refusal, Stats, Times, Uid, UsageInterval, WindowBatch,
};

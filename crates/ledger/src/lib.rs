//! Exact metering without I/O, without a clock and without Kubernetes.
//!
//! The ledger keeps, for each object, the *segments* in which it ran with unchanged content. Time is
//! cut into aligned *windows*; a window cuts segments into *pieces*, and each piece becomes one
//! event. **The pieces of a window are a function of the ledger and the window**: what was handed out
//! is never changed, only added to, so whatever has to come again comes again as it was. The
//! *watermark* is the end of the last window of the unbroken run that was delivered.
//!
//! What is learned after a window was handed out:
//! - a start becomes a *late* piece of its own for the old window;
//! - an end cannot be taken back, and is counted in [`Stats::overbilled_seconds`];
//! - a change of content counts from the end of the last window that was handed out.
//!
//! What was delivered, what was not and why is counted by object-second ([`Seconds`]): each that ran has
//! one fate. Rejected pieces are kept, and handed out again when that is asked for.
//!
//! Time comes in as an argument, in Unix seconds.
//!
//! ```
//! use meterline_ledger::{Accounting, Content, DeliveryResult, Interval, Ledger, Observation};
//!
//! #[derive(Debug, Clone, PartialEq)]
//! struct Pod {
//!     namespace: &'static str,
//!     cores: u32,
//! }
//!
//! impl Content for Pod {
//!     fn owner(&self) -> &str {
//!         self.namespace
//!     }
//!
//!     fn weight(&self) -> usize {
//!         size_of::<Self>()
//!     }
//! }
//!
//! let minute = Interval::new(60).unwrap();
//! let mut ledger = Ledger::new(minute, Accounting::Exact, 0);
//! ledger.apply(Observation {
//!     uid: "a".into(),
//!     start: Some(10),
//!     end: None,
//!     content: Pod { namespace: "default", cores: 2 },
//!     content_since: None,
//!     observed_at: 12,
//!     in_scope_since: None,
//! });
//! assert!(ledger.next(59).is_none(), "the window is not over");
//!
//! let window = ledger.next(60).unwrap();
//! assert_eq!(window.pieces[0].seconds(), 50);
//!
//! // What was not delivered comes again as it was, and the watermark waits for it.
//! ledger.settle(window.tag, DeliveryResult::Failed);
//! let again = ledger.next(60).unwrap();
//! assert_eq!(again.pieces, window.pieces);
//! assert_eq!(ledger.watermark(), 0);
//! ledger.settle(again.tag, DeliveryResult::Delivered);
//! assert_eq!(ledger.watermark(), 60);
//! ```

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "no bill depends on a test")
)]

mod budget;
mod completeness;
mod contents;
mod durable;
mod entry;
mod group;
mod interval;
mod late;
mod ledger;
mod others;
mod quarantine;
mod seconds;
mod segment;
#[cfg(test)]
mod tests;
mod types;
mod unproved;
mod windows;

pub use budget::{Budget, Waiting};
pub use completeness::Completeness;
pub use durable::{Changes, Checkpoint, Record, RecordChange};
pub use group::{Group, GroupChange, GroupKey};
pub use interval::{Interval, UnixSeconds, Window};
pub use late::{BatchChanges, LateBatch, LateChanges, LateSpan};
pub use ledger::Ledger;
pub use seconds::{OTHER, Seconds, Tally, Unbilled};
pub use segment::SegmentChange;
pub use types::{
    Accounting, Content, DeliveryResult, DeliveryTag, Fate, Kind, Observation, Refusal, Stats, Uid,
    UsageInterval, WindowBatch,
};

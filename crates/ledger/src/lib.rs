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

mod completeness;
mod contents;
mod durable;
mod entry;
mod interval;
mod late;
mod ledger;
mod others;
mod quarantine;
mod seconds;
#[cfg(test)]
mod tests;
mod unproved;
mod words;

pub use completeness::Completeness;
pub use durable::{Changes, Head, Record, RecordChange};
pub use entry::{LateEmission, LateSpan, SegmentChange};
pub use interval::{Interval, UnixSeconds, Window};
pub use late::{EmissionChanges, LateChanges};
pub use ledger::Ledger;
pub use quarantine::{Group, GroupChange, GroupKey};
pub use seconds::{OTHER, Seconds, Tally, Unbilled};
pub use words::{
    Accounting, Content, Emission, Fate, Kind, Observation, Piece, Refusal, Settled, Stats, Ticket,
    Uid,
};

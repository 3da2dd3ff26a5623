//! The election of the replica that bills, by a Lease.
//!
//! As in client-go: the holder renews the Lease. Another replica takes it once it was not renewed for its
//! duration, by that replica's own monotonic clock, or was released. Each write names the version that it
//! replaces, so of two replicas that take the Lease at once one fails. An annotation carries the watermark: a
//! new leader continues where the old one was acknowledged. Only what the holder wrote counts: a watermark from
//! another writer is logged, and the next renewal overwrites it. Object-seconds before the watermark that this
//! replica did not send, and that no other replica confirms as delivered, are counted as unproved.
//!
//! A process leads with all of its ledgers or with none. Each has a watermark of its own in the Lease.

pub(super) mod claim;
mod election;
mod elector;
mod process;

pub use self::election::LeaderElection;
pub(super) use self::process::{Membership, ProcessElection};

#[cfg(test)]
mod tests;

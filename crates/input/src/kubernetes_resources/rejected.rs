//! What is rejected, for the endpoint that lists it and has it made again.

use std::sync::Weak;

use meterline_core::{RejectedPage, RejectedStore};

use super::{
    fates::{self, Cursor},
    ledger::SharedLedger,
};

/// The rejected usage of one input, for as long as the input is there.
pub(super) struct RejectedUsage(pub(super) Weak<SharedLedger>);

impl RejectedStore for RejectedUsage {
    fn page(&self, after: Option<&str>, limit: usize) -> Result<RejectedPage, String> {
        let from = after.map(Cursor::parse).transpose()?;
        let Some(shared) = self.0.upgrade() else {
            return Err("the input has ended".to_owned());
        };
        let (now, kind) = (shared.clock.seconds(), shared.resource_type);
        Ok(shared.with_ledger(|ledger| fates::page(ledger, from.as_ref(), limit, kind, now)))
    }

    fn retry(&self) -> Result<usize, String> {
        let Some(shared) = self.0.upgrade() else {
            return Err("the input has ended".to_owned());
        };
        match shared.leader() {
            None => Ok(shared.retry_rejected()),
            Some(leader) => Err(format!(
                "this replica does not lead, and delivers nothing; ask `{leader}`, which does. What was \
                 rejected while this one led is tried again once it leads"
            )),
        }
    }
}

//! Small changes, which wait in one page each until many of them are written to the tables together.
//!
//! A change of one object changes a row, a content and the row that says how far the view went, and SQLite writes
//! each of their pages and, where a page is split or added, the pages above it. A change that waits writes one page:
//! its slot has its size already. Changes that are written together share pages.
//!
//! Slots are used from the first on and again after each time that the waiting changes were written to the tables.
//! Until then a slot contains a change that does not count any more, like the log.

use meterline_ledger::Checkpoint;
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    contents::Contents,
    rows::{StateError, Tables, bytes, damaged, parse, put, value},
    tables::{self, Records},
};
use crate::{kubernetes_resources::object::BilledObject, sqlite};

/// Creates the table.
pub(super) const MIGRATION: &str = "CREATE TABLE pending (slot INTEGER PRIMARY KEY, number INTEGER NOT NULL, change BLOB NOT NULL, sum INTEGER NOT NULL);";

/// How many changes wait at most. More of them share more pages, but the slots themselves are written, too.
pub(super) const SLOTS: i64 = 2_048;
/// Bytes of a slot: as many as fit in a page with their number and checksum.
const SLOT: usize = 960;
/// How many slots are added at a time.
const MORE: i64 = 32;
/// The row of the table `ledger` that has the number of the last change that was written to the tables.
const WRITTEN: &str = "written";

/// What changed since the last write. Only what is different is given.
#[derive(Serialize, Deserialize)]
pub(super) struct Waiting<S, H, R> {
    /// How far the view went.
    pub(super) seen: Option<S>,
    /// The ledger without its objects.
    pub(super) head: Option<H>,
    /// The objects.
    pub(super) records: R,
}

/// The changes that wait.
#[derive(Debug, Default)]
pub(super) struct Pending {
    slots: i64,
    /// How many slots, from the first on, have a change that is not in the tables.
    used: i64,
    /// The number of the last change that is in the tables.
    written: i64,
}

impl Pending {
    /// Reads how many changes wait.
    pub(super) fn read(tables: Tables<'_>) -> Result<Self, StateError> {
        let written = value(tables, WRITTEN)?.unwrap_or_default();
        let count = "SELECT count(*), count(CASE WHEN number > ?1 THEN 1 END) FROM pending$";
        let (slots, used) = tables
            .prepare(count)?
            .query_row([written], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Self {
            slots,
            used,
            written,
        })
    }

    pub(super) const fn has_changes(&self) -> bool {
        self.used > 0
    }

    /// Adds a change, if a slot is free and it fits in. Returns whether it did.
    pub(super) fn add<S: Serialize, H: Serialize, R: Serialize>(
        &mut self,
        tables: Tables<'_>,
        waiting: &Waiting<S, H, R>,
    ) -> Result<bool, StateError> {
        if self.used >= SLOTS {
            return Ok(false);
        }
        // Spaces after JSON mean nothing.
        let mut change = [b' '; SLOT];
        match serde_json::to_writer(change.as_mut_slice(), waiting) {
            Err(error) if error.is_io() => return Ok(false),
            written => written.map_err(|error| {
                StateError::Unusable(format!("a change cannot be written: {error}"))
            })?,
        }
        if self.used >= self.slots {
            self.grow(tables)?;
        }
        let slot = self.used.saturating_add(1);
        let number = self.written.saturating_add(slot);
        tables
            .prepare_cached(
                "UPDATE pending$ SET number = ?2, change = ?3, sum = ?4 WHERE slot = ?1",
            )?
            .execute(params![
                slot,
                number,
                change,
                sqlite::sum(&key(number), &change)
            ])?;
        self.used = slot;
        Ok(true)
    }

    fn grow(&mut self, tables: Tables<'_>) -> Result<(), StateError> {
        let mut insert = tables.prepare_cached(
            "INSERT INTO pending$ (slot, number, change, sum) VALUES (?1, 0, ?2, 0)",
        )?;
        for _ in 0..MORE {
            self.slots = self.slots.saturating_add(1);
            insert.execute(params![self.slots, [0_u8; SLOT]])?;
        }
        Ok(())
    }

    /// Writes the changes that wait to the tables.
    pub(super) fn settle(
        &mut self,
        tables: Tables<'_>,
        contents: &mut Contents,
    ) -> Result<(), StateError> {
        if self.used == 0 {
            return Ok(());
        }
        let mut writer = tables::Writer::new(tables, contents);
        let (mut seen, mut head) = (None, None);
        let mut select = tables.prepare_cached(
            "SELECT number, change, sum FROM pending$ WHERE slot <= ?1 ORDER BY slot",
        )?;
        let mut rows = select.query([self.used])?;
        let mut number = self.written;
        while let Some(row) = rows.next()? {
            number = number.saturating_add(1);
            if row.get::<_, i64>(0).map_err(damaged)? != number {
                return Err(StateError::Damaged(format!("it lacks change {number}")));
            }
            let change: Vec<u8> = row.get(1).map_err(damaged)?;
            let sum = row.get(2).map_err(damaged)?;
            let waiting: Waiting<serde_json::Value, Checkpoint<BilledObject>, Records> =
                parse(&key(number), &change, sum)?;
            writer.records(&waiting.records)?;
            seen = waiting.seen.or(seen);
            head = waiting.head.or(head);
        }
        if let Some(seen) = seen {
            put(tables, "seen", &bytes(&seen)?)?;
        }
        if let Some(head) = head {
            put(tables, "head", &bytes(&head)?)?;
        }
        put(tables, WRITTEN, &bytes(&number)?)?;
        self.used = 0;
        self.written = number;
        Ok(())
    }

    /// Deletes all slots, and with them what changes contained that are in the tables, or shall not be.
    pub(super) fn clear(&mut self, tables: Tables<'_>) -> Result<(), StateError> {
        tables.execute("DELETE FROM pending$", [])?;
        put(tables, WRITTEN, &bytes(&0)?)?;
        *self = Self::default();
        Ok(())
    }

    pub(super) const fn has_slots(&self) -> bool {
        self.slots > 0
    }
}

/// Returns the key of the checksum of a change.
fn key(number: i64) -> String {
    format!("change {number}")
}

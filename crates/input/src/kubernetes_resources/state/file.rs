//! One ledger in a state file, which survives a crash.
//!
//! Each row has a checksum, because SQLite detects a damaged page only where the page has structure.
//!
//! A change writes only the rows that it changes ([`tables`]). SQLite writes each of their pages once to the log
//! and once, with the changes of many commits, to the file. So pages are small, and the log is long; and a small
//! change waits in one page ([`super::pending`]) until many are written to the tables together. Deleted rows
//! are overwritten: the file contains nothing that no mapping reads any more.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use meterline_core::Reads;
use meterline_ledger::{Changes, Checkpoint, Group, GroupKey, Record, Uid, UnixSeconds};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::{
    contents::Contents,
    older,
    pending::{Pending, Waiting},
    place::Change,
    rows::{StateError, Tables, bytes, put, value},
    shared::{HeldFile, SharedFile},
    tables,
};
use crate::kubernetes_resources::{ledger_name::LedgerName, object::BilledObject};

/// A ledger in a state file.
pub(crate) struct StateFile {
    shared: SharedFile,
    name: LedgerName,
    /// The number of its tables.
    number: u32,
    /// What is kept of objects.
    reads: Reads,
    /// The rows of the table `ledger` as they were written, in the order of [`KEYS`].
    rows: Rows,
    pub(super) contents: Contents,
    pending: Pending,
    /// Whether it has an earlier version, and has to be rewritten.
    is_older: bool,
    /// The epoch of the file in which this ledger was read or written as a whole.
    epoch: u64,
    /// The epoch of the file when it was asked last whether the next write must contain the whole ledger.
    asked: u64,
}

/// The keys of the table `ledger`.
const KEYS: [&str; 5] = ["head", "seen", "subject", "label", "reads"];

/// A row for each of [`KEYS`].
type Rows = [Vec<u8>; 5];

/// What the file contained.
pub(crate) struct Saved {
    pub(crate) checkpoint: Checkpoint<BilledObject>,
    pub(crate) records: Vec<(Uid, Record<BilledObject>)>,
    /// What was rejected.
    pub(crate) rejected: Vec<(GroupKey, Group<BilledObject>)>,
    pub(crate) seen: SeenUntil,
    /// What the configuration that wrote it kept of objects.
    pub(crate) reads: Reads,
}

/// Up to when the view of the API server was complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenUntil {
    /// The second up to which it was complete.
    pub(crate) at: UnixSeconds,
    /// The resource version up to which each watch had seen everything.
    pub(crate) versions: BTreeMap<Arc<str>, u64>,
}

impl StateFile {
    /// Opens the ledger of this name, of whose objects `reads` is kept. Returns what the file contained of it, and why
    /// something damaged was moved aside or copied, and where to.
    ///
    /// # Errors
    /// When the file cannot be used. Damage is no error.
    pub(crate) fn of(
        shared: &SharedFile,
        name: &LedgerName,
        reads: &Reads,
        now: UnixSeconds,
    ) -> Result<(Self, Option<Saved>, Option<String>), StateError> {
        let mut held = shared.hold();
        let mut file = Self {
            shared: shared.clone(),
            name: name.clone(),
            number: held.number(name)?,
            reads: reads.clone(),
            rows: Rows::default(),
            contents: Contents::default(),
            pending: Pending::default(),
            is_older: false,
            epoch: held.epoch,
            asked: held.epoch,
        };
        match file.load(&mut held) {
            Ok(saved) => Ok((file, saved, held.damage.clone())),
            Err(StateError::Damaged(reason)) => {
                let done = held.replace(file.number, now)?;
                file.load(&mut held)?;
                Ok((file, None, Some(format!("{reason}; {done}"))))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads everything that the file contains of the ledger.
    fn load(&mut self, held: &mut HeldFile) -> Result<Option<Saved>, StateError> {
        let connection = held.connected_mut()?;
        let tables = Tables::new(connection, self.number);
        self.is_older = older::is_there(tables)?;
        self.pending = Pending::read(tables)?;
        let mut saved = self.read(tables)?;
        if self.pending.has_slots() {
            let has_changes = self.pending.has_changes();
            if has_changes {
                // Read again below.
                saved = None;
            }
            let transaction = connection.transaction()?;
            let tables = Tables::new(&transaction, self.number);
            self.pending.settle(tables, &mut self.contents)?;
            self.pending.clear(tables)?;
            transaction.commit()?;
            if has_changes {
                saved = self.read(Tables::new(connection, self.number))?;
            }
        }
        if !self.is_older {
            held.compact();
        }
        held.note();
        (self.epoch, self.asked) = (held.epoch, held.epoch);
        Ok(saved)
    }

    /// Reads the tables.
    fn read(&mut self, tables: Tables<'_>) -> Result<Option<Saved>, StateError> {
        let Some(checkpoint) = value::<Checkpoint<BilledObject>>(tables, "head")? else {
            return Ok(None);
        };
        let held = if self.is_older {
            older::read(tables, checkpoint)?
        } else {
            let (held, contents) = tables::read(tables, checkpoint)?;
            self.contents = contents;
            held
        };
        Ok(Some(Saved {
            checkpoint: held.checkpoint,
            records: held.records,
            rejected: held.rejected,
            seen: value(tables, "seen")?.unwrap_or_default(),
            // Earlier versions kept everything, and did not record it.
            reads: value(tables, "reads")?.unwrap_or(Reads::All),
        }))
    }

    /// Checks that the file is still what this process wrote. If it is not, the file is no longer trusted, and the
    /// next write must contain the whole ledger. Returns what happened, until that write.
    pub(crate) fn check(&mut self) -> Option<Change> {
        self.shared.hold().check()
    }

    /// Whether the next write must contain the whole ledger.
    pub(crate) fn needs_everything(&mut self) -> bool {
        self.asked = self.shared.hold().epoch;
        self.asked != self.epoch || self.is_older
    }

    /// Writes changes in one transaction. After an error the file is not trusted, and the next write must contain
    /// the whole ledger.
    pub(crate) fn write(
        &mut self,
        changes: &Changes<BilledObject>,
        seen: &SeenUntil,
    ) -> Result<(), StateError> {
        let shared = self.shared.clone();
        let mut held = shared.hold();
        if self.asked != held.epoch {
            let reason = "another write to it failed, and now everything is written again";
            return Err(StateError::Unusable(reason.to_owned()));
        }
        let everything = self.epoch != held.epoch || self.is_older;
        let rows = [
            bytes(&changes.checkpoint)?,
            bytes(seen)?,
            bytes(&self.name.subject)?,
            bytes(&self.name.label)?,
            bytes(&self.reads)?,
        ];
        let is_head_only = changes.records.is_empty()
            && changes.late.is_empty()
            && changes.batches.is_empty()
            && changes.rejected.is_empty();
        if is_head_only && self.rows == rows && !everything {
            return Ok(());
        }
        held.reconnect()?;
        let connection = held.connected_mut()?;
        let before = (!everything).then_some(&self.rows);
        let tables = (self.number, &mut self.contents, &mut self.pending);
        let written = transact(connection, tables, changes, (seen, &rows), before);
        // A write to a file that is no longer at its path is lost.
        let written = written.and_then(|()| match held.moved() {
            None => Ok(()),
            Some(change) => Err(StateError::Unusable(format!("it {change}"))),
        });
        match written {
            Ok(()) => {
                (self.is_older, self.epoch) = (false, held.epoch);
                let [.., read_before] = std::mem::replace(&mut self.rows, rows);
                let [.., reads] = &self.rows;
                if everything || read_before != *reads {
                    held.compact();
                }
                held.note();
            }
            // After a failed sync it is unknown which of the bytes are on the disk.
            Err(_) => held.failed(),
        }
        written
    }

    /// Returns where a file that another process put there was moved to, if that happened since the last call.
    pub(crate) fn take_aside(&mut self) -> Option<PathBuf> {
        self.shared.hold().take_aside()
    }
}

/// Writes the changes and the rows that differ from those before in one transaction; all of them where there is
/// nothing `before`. A small change is written so that it waits ([`pending`](super::pending)).
fn transact(
    connection: &mut Connection,
    (number, contents, pending): (u32, &mut Contents, &mut Pending),
    changes: &Changes<BilledObject>,
    (seen, rows): (&SeenUntil, &Rows),
    before: Option<&Rows>,
) -> Result<(), StateError> {
    let transaction = connection.transaction()?;
    let tables = Tables::new(&transaction, number);
    match before {
        None => {
            tables::Writer::new(tables, contents).clear()?;
            pending.clear(tables)?;
            older::remove(tables)?;
        }
        Some(before) => {
            let [head_before, seen_before, rest_before @ ..] = before;
            let [head_now, seen_now, rest_now @ ..] = rows;
            let are_only_records = changes.late.is_empty()
                && changes.batches.is_empty()
                && changes.rejected.is_empty();
            let waiting = Waiting {
                seen: (seen_now != seen_before).then_some(seen),
                head: (head_now != head_before).then_some(&changes.checkpoint),
                records: &changes.records,
            };
            let is_same_configuration = rest_now == rest_before;
            if are_only_records && is_same_configuration && pending.add(tables, &waiting)? {
                transaction.commit()?;
                return Ok(());
            }
            pending.settle(tables, contents)?;
            if !is_same_configuration && pending.has_slots() {
                // Changes in slots that are used again may contain what an earlier configuration kept.
                pending.clear(tables)?;
            }
        }
    }
    tables::Writer::new(tables, contents).write(changes)?;
    for (index, (key, row)) in KEYS.iter().zip(rows).enumerate() {
        if before.and_then(|it| it.get(index)) != Some(row) {
            put(tables, key, row)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
impl StateFile {
    /// Opens or creates a file for the only ledger of a process.
    pub(crate) fn open(
        path: &std::path::Path,
        subject: &str,
        reads: &Reads,
        now: UnixSeconds,
    ) -> Result<(Self, Option<Saved>, Option<String>), StateError> {
        let name = LedgerName::new(subject, None);
        let shared = SharedFile::open(path, std::slice::from_ref(&name), now)?;
        Self::of(&shared, &name, reads, now)
    }

    /// Writes the changes that wait to the tables.
    pub(super) fn settle(&mut self) -> Result<(), StateError> {
        let mut held = self.shared.hold();
        if let Some(connection) = &mut held.connection {
            let transaction = connection.transaction()?;
            let tables = Tables::new(&transaction, self.number);
            self.pending.settle(tables, &mut self.contents)?;
            transaction.commit()?;
            held.note();
        }
        Ok(())
    }

    /// How many rows a table of the ledger has.
    pub(super) fn count(&self, table: &str) -> i64 {
        self.connected(|connection| {
            let count = format!("SELECT count(*) FROM {table}$");
            let mut count = Tables::new(connection, self.number)
                .prepare(&count)
                .unwrap();
            count.query_row([], |row| row.get(0)).unwrap()
        })
    }

    /// Uses the connection.
    pub(super) fn connected<T>(&self, with: impl FnOnce(&Connection) -> T) -> T {
        with(self.shared.hold().connection.as_ref().unwrap())
    }
}

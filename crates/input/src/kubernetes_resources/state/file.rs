//! The state file, which survives a crash.
//!
//! SQLite with a write-ahead log and `synchronous=FULL`: a commit survives a power cut. One process holds the
//! file. Each row has a checksum, because SQLite detects a damaged page only where the page has structure. A
//! damaged file is moved aside, never deleted; the ledger is then rebuilt from the API server.
//!
//! A change writes only the rows that it changes ([`tables`]). SQLite writes each of their pages once to the log
//! and once, with the changes of many commits, to the file. So pages are small, and the log is long; and a small
//! change waits in one page ([`pending`]) until many are written to the tables together. Deleted rows
//! are overwritten: the file contains nothing that no mapping reads any more.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use meterline_core::Reads;
use meterline_ledger::{Changes, Checkpoint, Group, GroupKey, Record, Uid, UnixSeconds};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    contents::Contents,
    older,
    pending::{self, Pending, Waiting},
    place::{Change, LOCK_TIMEOUT, Place},
    rows::{StateError, bytes, put, value},
    tables,
};
use crate::{kubernetes_resources::object::BilledObject, sqlite};

/// Step `n` turns version `n` of the file into version `n + 1`. Steps are only added, never changed.
pub(crate) const MIGRATIONS: &[&str] = &[
    // 1: the ledger without its objects, and the objects.
    "CREATE TABLE ledger (key TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL)
         WITHOUT ROWID;
     CREATE TABLE objects (uid TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL)
         WITHOUT ROWID;",
    // 2: pieces that were rejected.
    "CREATE TABLE rejected (key TEXT PRIMARY KEY, pieces BLOB NOT NULL, sum INTEGER NOT NULL)
         WITHOUT ROWID;",
    // 3: the content of rejected pieces, which does not change while pieces come and go. A row of `rejected`
    // without a row here contains its content itself.
    "CREATE TABLE rejected_contents (key TEXT PRIMARY KEY, content BLOB NOT NULL, sum INTEGER NOT NULL)
         WITHOUT ROWID;",
    // 4: rows for each segment, late span and late window batch, and for contents. The older tables are dropped
    // once these are written.
    tables::MIGRATION,
    // 5: small changes that are not in the other tables yet.
    pending::MIGRATION,
];

/// Bytes of a page. Most changes touch one or two rows of a hundred bytes on pages of which they change
/// nothing else.
pub(crate) const PAGE_SIZE: u32 = 1_024;
/// How many pages the log has before SQLite writes them to the file.
///
/// A page of the file that changed in many commits is written once, and 1 KiB of the file costs 4 KiB on the disk.
pub(super) const LOG_PAGES: i64 = 16_384;

/// The file, held by this process.
pub(crate) struct StateFile {
    path: PathBuf,
    place: Place,
    /// What another process did to the file, until it is rewritten.
    lost: Option<Change>,
    /// Where a file that another process put there was moved to.
    aside: Option<PathBuf>,
    subject: String,
    /// What is kept of objects.
    reads: Reads,
    /// `None` after a write failed: the connection's view of the file is not trusted any more.
    pub(super) connection: Option<Connection>,
    /// The rows of the table `ledger` as they were written, in the order of [`KEYS`].
    rows: [Vec<u8>; 4],
    pub(super) contents: Contents,
    pending: Pending,
    /// Whether it has an earlier version, and has to be rewritten.
    is_older: bool,
}

/// The keys of the table `ledger`.
const KEYS: [&str; 4] = ["head", "seen", "subject", "reads"];

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
    /// Opens or creates the file at `path` for the ledger of `subject`, of whose objects `reads` is kept. Returns
    /// what the file contained, and why a damaged file was moved aside, and where to.
    ///
    /// # Errors
    /// When the file cannot be used. A damaged file is replaced and is no error.
    pub(crate) fn open(
        path: &Path,
        subject: &str,
        reads: &Reads,
        now: UnixSeconds,
    ) -> Result<(Self, Option<Saved>, Option<String>), StateError> {
        let mut file = Self {
            path: path.to_owned(),
            place: Place::new(path),
            lost: None,
            aside: None,
            subject: subject.to_owned(),
            reads: reads.clone(),
            connection: None,
            rows: Default::default(),
            contents: Contents::default(),
            pending: Pending::default(),
            is_older: false,
        };
        file.place.hold(LOCK_TIMEOUT)?;
        match file.load() {
            Ok(saved) => Ok((file, saved, None)),
            Err(StateError::Damaged(reason)) => {
                file.connection = None;
                let aside = sqlite::move_aside(path, "damaged", now)?;
                file.load()?;
                let reason = format!("{reason}; it was moved to {}", aside.display());
                Ok((file, None, Some(reason)))
            }
            Err(error) => Err(error),
        }
    }

    /// Opens, locks and migrates the file.
    fn connect(&self) -> Result<Connection, StateError> {
        let connection = sqlite::open_in_pages(&self.path, PAGE_SIZE, MIGRATIONS)?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        let most = i64::from(PAGE_SIZE).saturating_mul(LOG_PAGES);
        connection.pragma_update(None, "journal_size_limit", most)?;
        connection.pragma_update(None, "secure_delete", true)?;
        connection.set_prepared_statement_cache_capacity(64);
        match value::<String>(&connection, "subject")? {
            Some(other) if other != self.subject => Err(StateError::OtherSubject(other)),
            _ => Ok(connection),
        }
    }

    /// Opens the file and reads everything that it contains.
    fn load(&mut self) -> Result<Option<Saved>, StateError> {
        let mut connection = self.connect()?;
        self.is_older = older::is_there(&connection)?;
        self.pending = Pending::read(&connection)?;
        let mut saved = self.read(&connection)?;
        if self.pending.has_slots() {
            let has_changes = self.pending.has_changes();
            if has_changes {
                // Read again below.
                saved = None;
            }
            let transaction = connection.transaction()?;
            self.pending.settle(&transaction, &mut self.contents)?;
            self.pending.clear(&transaction)?;
            transaction.commit()?;
            if has_changes {
                saved = self.read(&connection)?;
            }
        }
        if !self.is_older {
            compact(&connection);
        }
        self.connection = Some(connection);
        self.place.note();
        Ok(saved)
    }

    /// Reads the tables.
    fn read(&mut self, connection: &Connection) -> Result<Option<Saved>, StateError> {
        let Some(checkpoint) = value::<Checkpoint<BilledObject>>(connection, "head")? else {
            return Ok(None);
        };
        let held = if self.is_older {
            older::read(connection, checkpoint)?
        } else {
            let (held, contents) = tables::read(connection, checkpoint)?;
            self.contents = contents;
            held
        };
        Ok(Some(Saved {
            checkpoint: held.checkpoint,
            records: held.records,
            rejected: held.rejected,
            seen: value(connection, "seen")?.unwrap_or_default(),
            // Earlier versions kept everything, and did not record it.
            reads: value(connection, "reads")?.unwrap_or(Reads::All),
        }))
    }

    /// Checks that the file is still what this process wrote. If it is not, the file is no longer trusted, and the
    /// next write must contain the whole ledger. Returns what happened, until that write.
    pub(crate) fn check(&mut self) -> Option<Change> {
        if self.lost.is_none() {
            self.lost = self.place.change();
        }
        if self.lost.is_some() {
            self.connection = None;
        } else if self.connection.is_some() {
            // Another process may have the lock now, but the file itself is still this process's.
            let _ = self.place.hold(Duration::ZERO);
        }
        self.lost
    }

    /// Opens the file again after it was given up. A file that another process put there, or that is damaged, is
    /// moved aside, and everything is rewritten.
    fn reconnect(&mut self) -> Result<Connection, StateError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "a damaged file is moved aside under the time of day"
        )]
        let now = chrono::Utc::now().timestamp();
        self.place.hold(Duration::ZERO)?;
        if let Some(change) = self.lost {
            self.aside = self.place.clear(change, now)?;
        }
        let connection = match self.connect() {
            Err(StateError::Damaged(_)) => {
                self.aside = Some(sqlite::move_aside(&self.path, "damaged", now)?);
                self.connect()?
            }
            connected => connected?,
        };
        self.place.note();
        self.lost = None;
        Ok(connection)
    }

    /// Closes the file after a failed write. What SQLite changes while it closes the file is this process's change.
    fn disconnect(&mut self) {
        let moved = self.place.moved();
        self.connection = None;
        match moved {
            None => self.place.note(),
            moved => self.lost = moved,
        }
    }

    /// Whether the next write must contain the whole ledger.
    pub(crate) fn needs_everything(&self) -> bool {
        self.connection.is_none() || self.is_older
    }

    /// Writes changes in one transaction. After an error the file is not trusted, and the next write must contain
    /// the whole ledger.
    pub(crate) fn write(
        &mut self,
        changes: &Changes<BilledObject>,
        seen: &SeenUntil,
    ) -> Result<(), StateError> {
        let everything = self.needs_everything();
        let rows = [
            bytes(&changes.checkpoint)?,
            bytes(seen)?,
            bytes(&self.subject)?,
            bytes(&self.reads)?,
        ];
        let is_head_only = changes.records.is_empty()
            && changes.late.is_empty()
            && changes.batches.is_empty()
            && changes.rejected.is_empty();
        if is_head_only && self.rows == rows && !everything {
            return Ok(());
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.reconnect()?,
        };
        let connection = self.connection.insert(connection);
        let before = (!everything).then_some(&self.rows);
        let tables = (&mut self.contents, &mut self.pending);
        let written = transact(connection, tables, changes, (seen, &rows), before);
        // A write to a file that is no longer at its path is lost.
        let written = written.and_then(|()| match self.place.moved() {
            None => Ok(()),
            Some(change) => Err(StateError::Unusable(format!("it {change}"))),
        });
        match written {
            Ok(()) => {
                self.is_older = false;
                let [.., read_before] = std::mem::replace(&mut self.rows, rows);
                let [.., reads] = &self.rows;
                let is_to_shrink = everything || read_before != *reads;
                if let Some(connection) = self.connection.as_ref().filter(|_| is_to_shrink) {
                    compact(connection);
                }
                self.place.note();
            }
            // After a failed sync it is unknown which of the bytes are on the disk.
            Err(_) => self.disconnect(),
        }
        written
    }

    /// Writes the changes that wait to the tables.
    #[cfg(test)]
    pub(super) fn settle(&mut self) -> Result<(), StateError> {
        if let Some(connection) = &mut self.connection {
            let transaction = connection.transaction()?;
            self.pending.settle(&transaction, &mut self.contents)?;
            transaction.commit()?;
            self.place.note();
        }
        Ok(())
    }

    /// Returns where a file that another process put there was moved to, if that happened since the last call.
    pub(crate) fn take_aside(&mut self) -> Option<PathBuf> {
        self.aside.take()
    }
}

/// Writes the changes and the rows that differ from those before in one transaction; all of them where there is
/// nothing `before`. A small change is written so that it waits ([`pending`](super::pending)).
fn transact(
    connection: &mut Connection,
    (contents, pending): (&mut Contents, &mut Pending),
    changes: &Changes<BilledObject>,
    (seen, rows): (&SeenUntil, &[Vec<u8>; 4]),
    before: Option<&[Vec<u8>; 4]>,
) -> Result<(), StateError> {
    let transaction = connection.transaction()?;
    match before {
        None => {
            tables::Writer::new(&transaction, contents).clear()?;
            pending.clear(&transaction)?;
            older::remove(&transaction)?;
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
            if are_only_records && is_same_configuration && pending.add(&transaction, &waiting)? {
                transaction.commit()?;
                return Ok(());
            }
            pending.settle(&transaction, contents)?;
            if !is_same_configuration && pending.has_slots() {
                // Changes in slots that are used again may contain what an earlier configuration kept.
                pending.clear(&transaction)?;
            }
        }
    }
    tables::Writer::new(&transaction, contents).write(changes)?;
    for (index, (key, row)) in KEYS.iter().zip(rows).enumerate() {
        if before.and_then(|it| it.get(index)) != Some(row) {
            put(&transaction, key, row)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Makes the file as small as possible and the log empty, so that neither contains what an earlier configuration
/// kept.
fn compact(connection: &Connection) {
    let compacted = sqlite::is_wasteful(connection, PAGE_SIZE).and_then(|is_wasteful| {
        if is_wasteful {
            sqlite::compact(connection, PAGE_SIZE)?;
        }
        Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    });
    if let Err(error) = compacted {
        let error = StateError::from(error);
        warn!(
            "cannot make the state file smaller: {error}; it stays in use, and takes more space on the disk"
        );
    }
}

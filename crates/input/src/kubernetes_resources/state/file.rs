//! The state file: the ledger where a crash does not reach.
//!
//! SQLite with a write-ahead log and `synchronous=FULL`: what was committed is there after a power
//! cut. One process holds the file. Each row carries a sum of its bytes, for SQLite notices a damaged
//! page only where it has structure. A damaged file is moved aside, never deleted; the ledger is then
//! rebuilt from the API server.
//!
//! A change writes the rows that it changes ([`tables`]), and of the pages of these each once to the log
//! and once, with the changes of many commits, to the file. So pages are small, and the log is long. What
//! is deleted is overwritten: nobody finds in the file what no mapping reads any more.

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
    place::{Change, PATIENCE, Place},
    rows::{StateError, bytes, put, value},
    tables,
};
use crate::{kubernetes_resources::object::BilledObject, sqlite};

/// What makes of version `n` of the file version `n + 1`. Never changed, only added to.
pub(crate) const MIGRATIONS: &[&str] = &[
    // 1: all of the ledger but its objects, and the objects.
    "CREATE TABLE ledger (key TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL)
         WITHOUT ROWID;
     CREATE TABLE objects (uid TEXT PRIMARY KEY, record BLOB NOT NULL, sum INTEGER NOT NULL)
         WITHOUT ROWID;",
    // 2: pieces that were rejected.
    "CREATE TABLE rejected (key TEXT PRIMARY KEY, pieces BLOB NOT NULL, sum INTEGER NOT NULL)
         WITHOUT ROWID;",
    // 3: what they bill, which stays as it is while pieces come and go. Without it a row of `rejected`
    // holds that itself.
    "CREATE TABLE rejected_contents (key TEXT PRIMARY KEY, content BLOB NOT NULL, sum INTEGER NOT NULL)
         WITHOUT ROWID;",
    // 4: rows for each segment, late span and late window batch, and for contents. The tables before go once
    // these are written.
    tables::MIGRATION,
];

/// Bytes of a page. Most changes touch one or two rows of a hundred bytes on pages of which they change
/// nothing else.
pub(crate) const PAGE_SIZE: u32 = 1_024;
/// So many pages are written to the log before they are written to the file.
pub(super) const LOG_PAGES: i64 = 8_192;

/// The file, held by this process.
pub(crate) struct StateFile {
    path: PathBuf,
    place: Place,
    /// What happened to the file under this process, until it is written anew.
    lost: Option<Change>,
    /// Where what was there instead was moved to.
    aside: Option<PathBuf>,
    subject: String,
    /// What is kept of objects.
    reads: Reads,
    /// `None` after a write failed: what such a connection believes is not trusted.
    pub(super) connection: Option<Connection>,
    /// The rows of the table `ledger` as they were written, in the order of [`KEYS`].
    rows: [Vec<u8>; 4],
    pub(super) contents: Contents,
    /// Whether it is of an earlier version, and is to be written anew.
    is_older: bool,
}

/// The keys of the table `ledger`.
const KEYS: [&str; 4] = ["head", "seen", "subject", "reads"];

/// What the file held.
pub(crate) struct Saved {
    pub(crate) checkpoint: Checkpoint<BilledObject>,
    pub(crate) records: Vec<(Uid, Record<BilledObject>)>,
    /// What was rejected.
    pub(crate) rejected: Vec<(GroupKey, Group<BilledObject>)>,
    pub(crate) seen: SeenUntil,
    /// What was kept of objects.
    pub(crate) reads: Reads,
}

/// How far the view of the API server went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenUntil {
    /// Up to when it was complete.
    pub(crate) at: UnixSeconds,
    /// The resource version up to which each watch had seen everything.
    pub(crate) versions: BTreeMap<Arc<str>, u64>,
}

impl StateFile {
    /// Takes the file at `path`, which is made if it is not there, for the ledger of `subject`, of
    /// which `reads` is kept.
    /// Gives back what it held, and where a damaged file was moved to and why.
    ///
    /// # Errors
    /// When it cannot be used; a damaged one can.
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
            is_older: false,
        };
        file.place.hold(PATIENCE)?;
        match file.load() {
            Ok(saved) => Ok((file, saved, None)),
            Err(StateError::Damaged(reason)) => {
                file.connection = None;
                let aside = sqlite::move_aside(path, "damaged", now)?;
                file.load()?;
                let told = format!("{reason}; it was moved to {}", aside.display());
                Ok((file, None, Some(told)))
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

    /// Opens the file and reads all that it holds.
    fn load(&mut self) -> Result<Option<Saved>, StateError> {
        let connection = self.connect()?;
        self.is_older = older::is_there(&connection)?;
        let saved = match value::<Checkpoint<BilledObject>>(&connection, "head")? {
            None => None,
            Some(checkpoint) => {
                let held = if self.is_older {
                    older::read(&connection, checkpoint)?
                } else {
                    let (held, contents) = tables::read(&connection, checkpoint)?;
                    self.contents = contents;
                    held
                };
                Some(Saved {
                    checkpoint: held.checkpoint,
                    records: held.records,
                    rejected: held.rejected,
                    seen: value(&connection, "seen")?.unwrap_or_default(),
                    // Earlier versions kept everything, and did not say so.
                    reads: value(&connection, "reads")?.unwrap_or(Reads::All),
                })
            }
        };
        if !self.is_older {
            compact(&connection);
        }
        self.connection = Some(connection);
        self.place.note();
        Ok(saved)
    }

    /// Looks whether the file is still what this process wrote. If it is not, it is no longer relied on,
    /// and what is written next must be everything that the ledger holds. Returns what happened, until
    /// that is done.
    pub(crate) fn check(&mut self) -> Option<Change> {
        if self.lost.is_none() {
            self.lost = self.place.change();
        }
        if self.lost.is_some() {
            self.connection = None;
        } else if self.connection.is_some() {
            // If somebody else has the lock now, the file itself still is this process's.
            let _ = self.place.hold(Duration::ZERO);
        }
        self.lost
    }

    /// Opens the file again after it was given up. What is there instead, or is damaged, is moved aside:
    /// everything is written anew.
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

    /// After a failed write: what SQLite does to the file when it is closed is this process's doing.
    fn disconnect(&mut self) {
        let moved = self.place.moved();
        self.connection = None;
        match moved {
            None => self.place.note(),
            moved => self.lost = moved,
        }
    }

    /// Whether the next write must be of everything: the file does not hold what it should.
    pub(crate) fn needs_everything(&self) -> bool {
        self.connection.is_none() || self.is_older
    }

    /// Writes changes as one. After an error nothing of them is relied on, and what is written next
    /// must be everything that the ledger holds.
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
        let written = transact(connection, &mut self.contents, changes, &rows, before);
        // What was written to a file that nobody finds any more is not kept.
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
            // A failed sync says nothing of what it had before it.
            Err(_) => self.disconnect(),
        }
        written
    }

    /// Where what was there instead of the file was moved to, since this was last asked.
    pub(crate) fn take_aside(&mut self) -> Option<PathBuf> {
        self.aside.take()
    }
}

/// Writes the changes and the rows that differ from those before in one transaction; all of them where there is
/// nothing `before`.
fn transact(
    connection: &mut Connection,
    contents: &mut Contents,
    changes: &Changes<BilledObject>,
    rows: &[Vec<u8>; 4],
    before: Option<&[Vec<u8>; 4]>,
) -> Result<(), StateError> {
    let transaction = connection.transaction()?;
    let mut writer = tables::Writer::new(&transaction, contents);
    if before.is_none() {
        writer.clear()?;
        older::remove(&transaction)?;
    }
    writer.write(changes)?;
    for (index, (key, row)) in KEYS.iter().zip(rows).enumerate() {
        if before.and_then(|it| it.get(index)) != Some(row) {
            put(&transaction, key, row)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Makes the file as small as it can be, and the log empty: what an earlier configuration kept is in
/// neither.
fn compact(connection: &Connection) {
    let compacted = sqlite::is_wasteful(connection, PAGE_SIZE).and_then(|is_wasteful| {
        if is_wasteful {
            sqlite::compact(connection, PAGE_SIZE)?;
        }
        Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    });
    if let Err(error) = compacted {
        let error = StateError::from(error);
        warn!("the state file stays larger than it need be: {error}");
    }
}

//! A state file, held by this process for all of its ledgers.
//!
//! SQLite with a write-ahead log and `synchronous=FULL`: a commit survives a power cut. One process holds the
//! file. A damaged file is moved aside, never deleted; the ledgers are then rebuilt from the API server.
//!
//! Its ledgers are written by turns, through one connection. Once a write has failed the file is not trusted, and
//! each ledger is written again as a whole: the epoch of the file, which grows with each such failure, tells it so.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::Connection;
use tracing::{info, warn};

use super::{
    ledgers, pending,
    place::{Change, LOCK_TIMEOUT, Place},
    rows::{StateError, Tables},
    tables,
};
use crate::{kubernetes_resources::ledger_name::LedgerName, sqlite};

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

/// The file. Clones share it.
#[derive(Clone)]
pub(crate) struct SharedFile(Arc<Mutex<HeldFile>>);

/// The file while one of its ledgers uses it.
pub(super) struct HeldFile {
    path: PathBuf,
    place: Place,
    /// What another process did to the file, until it is rewritten.
    lost: Option<Change>,
    /// Where a file that another process put there was moved to.
    aside: Option<PathBuf>,
    /// `None` after a write failed: the connection's view of the file is not trusted any more.
    pub(super) connection: Option<Connection>,
    /// Grows each time that the connection is given up.
    pub(super) epoch: u64,
    /// The ledgers of this process, with their numbers.
    numbers: Vec<(LedgerName, u32)>,
    /// Whether the file has other ledgers, too.
    has_others: bool,
    /// Why the whole file was moved aside at the start, and where to.
    pub(super) damage: Option<String>,
}

impl SharedFile {
    /// Opens or creates the file at `path` for ledgers of these names.
    ///
    /// # Errors
    /// When the file cannot be used. A damaged file is replaced and is no error.
    pub(crate) fn open(path: &Path, names: &[LedgerName], now: i64) -> Result<Self, StateError> {
        let mut file = HeldFile {
            path: path.to_owned(),
            place: Place::new(path),
            lost: None,
            aside: None,
            connection: None,
            epoch: 0,
            numbers: Vec::new(),
            has_others: false,
            damage: None,
        };
        file.place.hold(LOCK_TIMEOUT)?;
        match file.begin(names) {
            Ok(()) => {}
            Err(StateError::Damaged(reason)) => {
                file.connection = None;
                let aside = sqlite::move_aside(path, "damaged", now)?;
                file.begin(names)?;
                file.damage = Some(format!("{reason}; it was moved to {}", aside.display()));
            }
            Err(error) => return Err(error),
        }
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// Waits until no other ledger uses the file.
    pub(super) fn hold(&self) -> MutexGuard<'_, HeldFile> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldFile {
    /// Opens the file, and finds the ledgers of these names in it.
    fn begin(&mut self, names: &[LedgerName]) -> Result<(), StateError> {
        let connection = self.connect()?;
        let assigned = ledgers::assign(&ledgers::find(&connection)?, names);
        for (before, now) in &assigned.renamed {
            info!("the ledger `{before}` of the state file is continued as `{now}`");
        }
        if !assigned.others.is_empty() {
            let others: Vec<_> = assigned.others.iter().map(|it| format!("`{it}`")).collect();
            warn!(
                path = %self.path.display(),
                "the state file also has ledgers that the configuration does not name: {}. They stay in it \
                 unchanged, and what they have that was not delivered is not billed until an input of that \
                 type and label uses the file again",
                others.join(", ")
            );
        }
        self.has_others = !assigned.others.is_empty();
        self.numbers = names.iter().cloned().zip(assigned.numbers).collect();
        self.begin_with(connection)
    }

    /// Opens, locks and migrates the file.
    fn connect(&self) -> Result<Connection, StateError> {
        let connection = sqlite::open_in_pages(&self.path, PAGE_SIZE, MIGRATIONS)?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        let most = i64::from(PAGE_SIZE).saturating_mul(LOG_PAGES);
        connection.pragma_update(None, "journal_size_limit", most)?;
        connection.pragma_update(None, "secure_delete", true)?;
        connection.set_prepared_statement_cache_capacity(256);
        Ok(connection)
    }

    /// Creates the tables of the ledgers that are not in the file, and uses it from here on.
    fn begin_with(&mut self, connection: Connection) -> Result<(), StateError> {
        let mut numbers = self.numbers.iter();
        numbers.try_for_each(|(_, number)| ledgers::create(&connection, *number))?;
        self.connection = Some(connection);
        self.place.note();
        Ok(())
    }

    /// The number of the ledger of this name.
    pub(super) fn number(&self, name: &LedgerName) -> Result<u32, StateError> {
        let found = self.numbers.iter().find(|(it, _)| it == name);
        let unknown = || StateError::Unusable(format!("it was not opened for the ledger `{name}`"));
        found.map(|(_, number)| *number).ok_or_else(unknown)
    }

    /// Makes place for a new ledger instead of one that is damaged. The file is moved aside or, if it has other ledgers,
    /// copied. Returns what was done.
    pub(super) fn replace(&mut self, number: u32, now: i64) -> Result<String, StateError> {
        let is_only = self.numbers.len() <= 1 && !self.has_others;
        if is_only {
            self.give_up();
            let aside = sqlite::move_aside(&self.path, "damaged", now)?;
            let connection = self.connect()?;
            self.begin_with(connection)?;
            return Ok(format!("it was moved to {}", aside.display()));
        }
        let connection = self.connected()?;
        let copied = sqlite::copy_aside(connection, &self.path, "damaged", now);
        let aside = copied.map_err(|error| {
            let error = StateError::from(error);
            StateError::Unusable(format!("it is damaged and cannot be copied: {error}"))
        })?;
        let transaction = self.connected_mut()?.transaction()?;
        ledgers::empty(Tables::new(&transaction, number))?;
        transaction.commit()?;
        self.place.note();
        Ok(format!(
            "a copy of it is at {}; its other ledgers are used on",
            aside.display()
        ))
    }

    fn connected(&self) -> Result<&Connection, StateError> {
        let closed = || StateError::Unusable("it is closed".to_owned());
        self.connection.as_ref().ok_or_else(closed)
    }

    /// The connection.
    pub(super) fn connected_mut(&mut self) -> Result<&mut Connection, StateError> {
        let closed = || StateError::Unusable("it is closed".to_owned());
        self.connection.as_mut().ok_or_else(closed)
    }

    /// Closes the file, so that each ledger must be written again as a whole.
    fn give_up(&mut self) {
        self.connection = None;
        self.epoch = self.epoch.saturating_add(1);
    }

    /// Checks that the file is still what this process wrote. If it is not, the file is given up. Returns what
    /// happened, until the file is opened again.
    pub(super) fn check(&mut self) -> Option<Change> {
        if self.lost.is_none() {
            self.lost = self.place.change();
        }
        if self.connection.is_some() {
            if self.lost.is_some() {
                self.give_up();
            } else {
                // Another process may have the lock now, but the file itself is still this process's.
                let _ = self.place.hold(Duration::ZERO);
            }
        }
        self.lost
    }

    /// Returns whether the files at the path are not those that this process has open.
    pub(super) fn moved(&self) -> Option<Change> {
        self.place.moved()
    }

    /// Opens the file again after it was given up. A file that another process put there, or that is damaged, is
    /// moved aside.
    pub(super) fn reconnect(&mut self) -> Result<(), StateError> {
        if self.connection.is_some() {
            return Ok(());
        }
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
        self.begin_with(connection)?;
        self.lost = None;
        Ok(())
    }

    /// Gives the file up after a failed write. What SQLite changes while it closes the file is this process's change.
    pub(super) fn failed(&mut self) {
        let moved = self.place.moved();
        self.give_up();
        match moved {
            None => self.place.note(),
            moved => self.lost = moved,
        }
    }

    /// Records that this process has just written to the file.
    pub(super) fn note(&mut self) {
        self.place.note();
    }

    /// Makes the file as small as possible and the log empty, so that neither contains what an earlier configuration
    /// kept.
    pub(super) fn compact(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
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

    /// Returns where a file that another process put there was moved to, if that happened since the last call.
    pub(super) fn take_aside(&mut self) -> Option<PathBuf> {
        self.aside.take()
    }
}

//! The state file: the ledger where a crash does not reach.
//!
//! SQLite with a write-ahead log and `synchronous=FULL`: what was committed is there after a power
//! cut. One process holds the file. Each row carries a sum of its bytes, for SQLite notices a damaged
//! page only where it has structure. A damaged file is moved aside, never deleted; the ledger is then
//! rebuilt from the API server.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use meterline_core::Reads;
use meterline_ledger::{Changes, Group, GroupKey, Head, Record, Uid, UnixSeconds};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    object::Content,
    place::{Change, PATIENCE, Place},
};
use crate::sqlite;

/// What makes of version `n` of the file version `n + 1`. Never changed, only added to.
const MIGRATIONS: &[&str] = &[
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
];

/// The file, held by this process.
pub(super) struct StateFile {
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
    connection: Option<Connection>,
    /// The rows of the table `ledger` as they were written, in the order of [`KEYS`].
    rows: Option<[Vec<u8>; 4]>,
}

/// The keys of the table `ledger`.
const KEYS: [&str; 4] = ["head", "seen", "subject", "reads"];

/// What the file held.
pub(super) struct Saved {
    pub(super) head: Head<Content>,
    pub(super) records: Vec<(Uid, Record<Content>)>,
    /// What was rejected.
    pub(super) rejected: Vec<(GroupKey, Group<Content>)>,
    pub(super) seen: SeenUntil,
    /// What was kept of objects.
    pub(super) reads: Reads,
}

/// How far the view of the API server went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SeenUntil {
    /// Up to when it was complete.
    pub(super) at: UnixSeconds,
    /// The resource version up to which each watch had seen everything.
    pub(super) versions: BTreeMap<Arc<str>, u64>,
}

/// Why the file cannot be used.
#[derive(Debug)]
pub(super) enum StateError {
    /// Another process holds it.
    InUse,
    /// It holds something else than it should, for this reason.
    Damaged(String),
    /// It was written for objects of this other type.
    OtherSubject(String),
    /// It cannot be opened, read or written.
    Unusable(String),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => {
                f.write_str("another process uses it; each collector needs a state file of its own")
            }
            Self::Damaged(reason) => write!(f, "it is damaged: {reason}"),
            Self::OtherSubject(other) => write!(
                f,
                "it was written for another configuration ({other}); give each input a file of its \
                 own"
            ),
            Self::Unusable(reason) => f.write_str(reason),
        }
    }
}

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        sqlite::Error::from(error).into()
    }
}

impl From<sqlite::Error> for StateError {
    fn from(error: sqlite::Error) -> Self {
        match error {
            sqlite::Error::InUse => Self::InUse,
            sqlite::Error::Damaged(reason) => Self::Damaged(reason),
            sqlite::Error::Unusable(reason) => Self::Unusable(reason),
        }
    }
}

impl StateFile {
    /// Takes the file at `path`, which is made if it is not there, for the ledger of `subject`, of
    /// which `reads` is kept.
    /// Gives back what it held, and where a damaged file was moved to and why.
    ///
    /// # Errors
    /// When it cannot be used; a damaged one can.
    pub(super) fn open(
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
            rows: None,
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
        let connection = sqlite::open(&self.path, MIGRATIONS)?;
        match value::<String>(&connection, "subject")? {
            Some(other) if other != self.subject => Err(StateError::OtherSubject(other)),
            _ => Ok(connection),
        }
    }

    /// Opens the file and reads all that it holds.
    fn load(&mut self) -> Result<Option<Saved>, StateError> {
        let connection = self.connect()?;
        let saved = match value::<Head<Content>>(&connection, "head")? {
            None => None,
            Some(head) => Some(Saved {
                head,
                records: rows(&connection, "SELECT uid, record, sum FROM objects")?,
                rejected: rejected(&connection)?,
                seen: value(&connection, "seen")?.unwrap_or_default(),
                // Earlier versions kept everything, and did not say so.
                reads: value(&connection, "reads")?.unwrap_or(Reads::All),
            }),
        };
        self.connection = Some(connection);
        self.place.note();
        Ok(saved)
    }

    /// Looks whether the file is still what this process wrote. If it is not, it is no longer relied on,
    /// and what is written next must be everything that the ledger holds. Returns what happened, until
    /// that is done.
    pub(super) fn check(&mut self) -> Option<Change> {
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
    pub(super) fn needs_everything(&self) -> bool {
        self.connection.is_none()
    }

    /// Writes changes as one. After an error nothing of them is relied on, and what is written next
    /// must be everything that the ledger holds.
    pub(super) fn write(
        &mut self,
        changes: &Changes<Content>,
        seen: &SeenUntil,
    ) -> Result<(), StateError> {
        let everything = self.needs_everything();
        let rows = [
            bytes(&changes.head)?,
            bytes(seen)?,
            bytes(&self.subject)?,
            bytes(&self.reads)?,
        ];
        let is_head_only = changes.records.is_empty() && changes.rejected.is_empty();
        if is_head_only && self.rows.as_ref() == Some(&rows) && !everything {
            return Ok(());
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.reconnect()?,
        };
        let connection = self.connection.insert(connection);
        let written = connection
            .transaction()
            .map_err(StateError::from)
            .and_then(|transaction| {
                if everything {
                    transaction.execute("DELETE FROM objects", [])?;
                    transaction.execute("DELETE FROM rejected", [])?;
                    transaction.execute("DELETE FROM rejected_contents", [])?;
                }
                write_records(&transaction, changes)?;
                write_rejected(&transaction, changes)?;
                for (key, row) in KEYS.iter().zip(&rows) {
                    put(&transaction, key, row)?;
                }
                transaction.commit()?;
                Ok(())
            });
        // What was written to a file that nobody finds any more is not kept.
        let written = written.and_then(|()| match self.place.moved() {
            None => Ok(()),
            Some(change) => Err(StateError::Unusable(format!("it {change}"))),
        });
        match written {
            Ok(()) => {
                self.rows = Some(rows);
                self.place.note();
            }
            // A failed sync says nothing of what it had before it.
            Err(_) => self.disconnect(),
        }
        written
    }

    /// Where what was there instead of the file was moved to, since this was last asked.
    pub(super) fn take_aside(&mut self) -> Option<PathBuf> {
        self.aside.take()
    }
}

fn write_records(
    transaction: &Transaction<'_>,
    changes: &Changes<Content>,
) -> Result<(), StateError> {
    let mut insert = transaction
        .prepare("INSERT OR REPLACE INTO objects (uid, record, sum) VALUES (?1, ?2, ?3)")?;
    let mut delete = transaction.prepare("DELETE FROM objects WHERE uid = ?1")?;
    for (uid, record) in &changes.records {
        match record {
            Some(record) => {
                let bytes = bytes(record)?;
                insert.execute(params![uid.as_ref(), bytes, sqlite::sum(uid, &bytes)])?
            }
            None => delete.execute(params![uid.as_ref()])?,
        };
    }
    Ok(())
}

fn write_rejected(
    transaction: &Transaction<'_>,
    changes: &Changes<Content>,
) -> Result<(), StateError> {
    let mut insert = transaction
        .prepare("INSERT OR REPLACE INTO rejected (key, pieces, sum) VALUES (?1, ?2, ?3)")?;
    let mut insert_content = transaction.prepare(
        "INSERT OR REPLACE INTO rejected_contents (key, content, sum) VALUES (?1, ?2, ?3)",
    )?;
    let mut delete = transaction.prepare("DELETE FROM rejected WHERE key = ?1")?;
    let mut delete_content = transaction.prepare("DELETE FROM rejected_contents WHERE key = ?1")?;
    for (key, change) in &changes.rejected {
        let key = key.to_string();
        let Some(change) = change else {
            delete.execute(params![key])?;
            delete_content.execute(params![key])?;
            continue;
        };
        let pieces = bytes(&change.group.clone().with(()))?;
        insert.execute(params![key, pieces, sqlite::sum(&key, &pieces)])?;
        if change.is_new {
            let content = bytes(&change.group.content)?;
            insert_content.execute(params![key, content, sqlite::sum(&key, &content)])?;
        }
    }
    Ok(())
}

/// What was rejected, as it was kept.
fn rejected(connection: &Connection) -> Result<Vec<(GroupKey, Group<Content>)>, StateError> {
    let contents = rows(
        connection,
        "SELECT key, content, sum FROM rejected_contents",
    )?;
    let mut contents: HashMap<_, Content> = contents.into_iter().collect();
    let groups: Vec<(Arc<str>, Group<Option<Content>>)> =
        rows(connection, "SELECT key, pieces, sum FROM rejected")?;
    let whole = groups.into_iter().map(|(key, mut group)| {
        let content = group.content.take().or_else(|| contents.remove(&key));
        let named = content.zip(key.parse().ok());
        let (content, name) =
            named.ok_or_else(|| StateError::Damaged(format!("`{key}` lacks its content")))?;
        Ok((name, group.with(content)))
    });
    whole.collect()
}

/// The rows of a query for key, value and sum.
fn rows<T: DeserializeOwned>(
    connection: &Connection,
    query: &str,
) -> Result<Vec<(Arc<str>, T)>, StateError> {
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    let mut values = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0).map_err(damaged)?;
        let bytes: Vec<u8> = row.get(1).map_err(damaged)?;
        let value = parse(&key, &bytes, row.get(2).map_err(damaged)?)?;
        values.push((Arc::from(key), value));
    }
    Ok(values)
}

fn value<T: DeserializeOwned>(connection: &Connection, key: &str) -> Result<Option<T>, StateError> {
    let row = connection
        .query_row(
            "SELECT value, sum FROM ledger WHERE key = ?1",
            [key],
            |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?)),
        )
        .optional()
        .map_err(|error| match error {
            rusqlite::Error::InvalidColumnType(..) => damaged(error),
            error => error.into(),
        })?;
    row.map(|(bytes, sum)| parse(key, &bytes, sum)).transpose()
}

fn put(transaction: &Transaction<'_>, key: &str, bytes: &[u8]) -> Result<(), StateError> {
    transaction.execute(
        "INSERT OR REPLACE INTO ledger (key, value, sum) VALUES (?1, ?2, ?3)",
        params![key, bytes, sqlite::sum(key, bytes)],
    )?;
    Ok(())
}

fn bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, StateError> {
    serde_json::to_vec(value)
        .map_err(|error| StateError::Unusable(format!("it cannot be written: {error}")))
}

fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8], expected: i64) -> Result<T, StateError> {
    if sqlite::sum(key, bytes) != expected {
        return Err(StateError::Damaged(format!("`{key}` has another sum")));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| StateError::Damaged(format!("`{key}` is not what it was: {error}")))
}

fn damaged(error: rusqlite::Error) -> StateError {
    StateError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests;

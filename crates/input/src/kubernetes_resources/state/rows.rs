//! Writes and reads rows with a checksum, and the errors of that.

use std::{fmt, sync::Arc};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Statement, params};
use serde::{Serialize, de::DeserializeOwned};

use crate::sqlite;

/// Why the file cannot be used.
#[derive(Debug)]
pub(crate) enum StateError {
    /// Another process holds it.
    InUse,
    /// It is damaged, for this reason.
    Damaged(String),
    /// It cannot be opened, read or written.
    Unusable(String),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => {
                f.write_str("another process uses it; each collector needs its own state file")
            }
            Self::Damaged(reason) => write!(f, "it is damaged: {reason}"),
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

/// The tables of one ledger of a file. In a statement `$` stands for the end of their names.
#[derive(Clone, Copy)]
pub(super) struct Tables<'a> {
    connection: &'a Connection,
    number: u32,
}

impl<'a> Tables<'a> {
    /// The tables of the ledger of this number. Within a transaction, `connection` is the transaction.
    pub(super) const fn new(connection: &'a Connection, number: u32) -> Self {
        Self { connection, number }
    }

    /// Whether they are those that every file has.
    pub(super) const fn is_first(self) -> bool {
        self.number == 0
    }

    fn named(self, sql: &str) -> String {
        match self.number {
            0 => sql.replace('$', ""),
            number => sql.replace('$', &format!("_{number}")),
        }
    }

    pub(super) fn prepare(self, sql: &str) -> rusqlite::Result<Statement<'a>> {
        self.connection.prepare(&self.named(sql))
    }

    pub(super) fn prepare_cached(self, sql: &str) -> rusqlite::Result<CachedStatement<'a>> {
        self.connection.prepare_cached(&self.named(sql))
    }

    pub(super) fn execute(self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.connection.execute(&self.named(sql), params)
    }

    pub(super) fn execute_batch(self, sql: &str) -> rusqlite::Result<()> {
        self.connection.execute_batch(&self.named(sql))
    }
}

/// Returns the rows of a query for key, value and checksum.
pub(super) fn rows<T: DeserializeOwned>(
    tables: Tables<'_>,
    query: &str,
) -> Result<Vec<(Arc<str>, T)>, StateError> {
    let mut statement = tables.prepare(query)?;
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

pub(super) fn value<T: DeserializeOwned>(
    tables: Tables<'_>,
    key: &str,
) -> Result<Option<T>, StateError> {
    let row = tables
        .prepare("SELECT value, sum FROM ledger$ WHERE key = ?1")?
        .query_row([key], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?))
        })
        .optional()
        .map_err(|error| match error {
            rusqlite::Error::InvalidColumnType(..) => damaged(error),
            error => error.into(),
        })?;
    row.map(|(bytes, sum)| parse(key, &bytes, sum)).transpose()
}

pub(super) fn put(tables: Tables<'_>, key: &str, bytes: &[u8]) -> Result<(), StateError> {
    tables.execute(
        "INSERT OR REPLACE INTO ledger$ (key, value, sum) VALUES (?1, ?2, ?3)",
        params![key, bytes, sqlite::sum(key, bytes)],
    )?;
    Ok(())
}

pub(super) fn bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, StateError> {
    serde_json::to_vec(value)
        .map_err(|error| StateError::Unusable(format!("it cannot be written: {error}")))
}

pub(super) fn parse<T: DeserializeOwned>(
    key: &str,
    bytes: &[u8],
    expected: i64,
) -> Result<T, StateError> {
    if sqlite::sum(key, bytes) != expected {
        return Err(StateError::Damaged(format!(
            "`{key}` does not match its checksum"
        )));
    }
    serde_json::from_slice(bytes)
        .map_err(|error| StateError::Damaged(format!("`{key}` cannot be parsed: {error}")))
}

pub(super) fn damaged(error: rusqlite::Error) -> StateError {
    StateError::Damaged(error.to_string())
}

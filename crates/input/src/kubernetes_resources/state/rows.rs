//! Writes and reads rows with a checksum, and the errors of that.

use std::{fmt, sync::Arc};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Serialize, de::DeserializeOwned};

use crate::sqlite;

/// Why the file cannot be used.
#[derive(Debug)]
pub(crate) enum StateError {
    /// Another process holds it.
    InUse,
    /// It is damaged, for this reason.
    Damaged(String),
    /// It was written for this other type of objects.
    OtherSubject(String),
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
            Self::OtherSubject(other) => write!(
                f,
                "it was written for another configuration ({other}); give each input \
                 its own file"
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

/// Returns the rows of a query for key, value and checksum.
pub(super) fn rows<T: DeserializeOwned>(
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

pub(super) fn value<T: DeserializeOwned>(
    connection: &Connection,
    key: &str,
) -> Result<Option<T>, StateError> {
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

pub(super) fn put(
    transaction: &Transaction<'_>,
    key: &str,
    bytes: &[u8],
) -> Result<(), StateError> {
    transaction.execute(
        "INSERT OR REPLACE INTO ledger (key, value, sum) VALUES (?1, ?2, ?3)",
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

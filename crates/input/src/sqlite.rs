//! SQLite files that one process holds: opened, checked, migrated, and moved aside when damaged.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode};
use sha2::{Digest, Sha256};

/// How long another process that is about to end may hold the file.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a file cannot be used.
#[derive(Debug)]
pub(crate) enum Error {
    /// Another process holds it.
    InUse,
    /// It holds something else than it should, for this reason.
    Damaged(String),
    /// It cannot be opened, read or written.
    Unusable(String),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        // What is asked is always the same: the tables are not those that the file says it has.
        if matches!(error, rusqlite::Error::SqlInputError { .. }) {
            return Self::Damaged(error.to_string());
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse,
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Self::Damaged(error.to_string())
            }
            Some(ErrorCode::DiskFull) => Self::Unusable("the disk is full".to_owned()),
            _ => Self::Unusable(error.to_string()),
        }
    }
}

/// Opens the file, which is made if it is not there, for this process alone: a write-ahead log, each
/// commit synced. Step `n` of `migrations` makes of version `n` of the file version `n + 1`.
///
/// # Errors
/// When it cannot be used.
pub(crate) fn open(path: &Path, migrations: &[&str]) -> Result<Connection, Error> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)
            .map_err(|error| Error::Unusable(format!("cannot make {}: {error}", dir.display())))?;
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let outcome: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if outcome != "ok" {
        return Err(Error::Damaged(outcome));
    }
    migrate(&connection, migrations)?;
    Ok(connection)
}

fn migrate(connection: &Connection, migrations: &[&str]) -> Result<(), Error> {
    // Taking the write lock now tells of another process now.
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let steps = usize::try_from(version)
        .ok()
        .and_then(|version| migrations.get(version..));
    let Some(steps) = steps else {
        return Err(Error::Damaged(format!(
            "its version is {version}, and this program knows versions up to {known}"
        )));
    };
    for step in steps {
        connection
            .execute_batch(step)
            .map_err(|error| match error.sqlite_error_code() {
                // The tables are not those of the version that the file says it has.
                Some(ErrorCode::Unknown) => Error::Damaged(error.to_string()),
                _ => error.into(),
            })?;
    }
    connection.pragma_update(None, "user_version", known)?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// The first eight bytes of the SHA-256 of key and value: SQLite does not notice a flipped bit in a
/// value.
pub(crate) fn sum(key: &str, bytes: &[u8]) -> i64 {
    let mut hash = Sha256::new();
    hash.update(key.as_bytes());
    hash.update([0]);
    hash.update(bytes);
    let hash = hash.finalize();
    let first = hash.first_chunk::<8>().copied().unwrap_or_default();
    i64::from_le_bytes(first)
}

/// Whether another program is about to write to the file.
pub(crate) fn is_in_use(path: &Path) -> bool {
    let tried = Connection::open(path).and_then(|it| it.execute_batch("BEGIN IMMEDIATE; ROLLBACK"));
    tried.is_err_and(|error| matches!(Error::from(error), Error::InUse))
}

/// Renames the file and what belongs to it; `word` says why. Gives back the new name.
///
/// # Errors
/// When it cannot be renamed.
pub(crate) fn move_aside(path: &Path, word: &str, now: i64) -> Result<PathBuf, Error> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut aside = beside(&format!(".{word}-{now}"));
    let mut again = 1_u32;
    while aside.exists() {
        again = again.saturating_add(1);
        aside = beside(&format!(".{word}-{now}-{again}"));
    }
    let rename = |from: &Path, to: &Path| {
        std::fs::rename(from, to)
            .map_err(|error| Error::Unusable(format!("it cannot be moved aside: {error}")))
    };
    rename(path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        let companion = beside(suffix);
        if companion.exists() {
            let mut name = aside.as_os_str().to_owned();
            name.push(suffix);
            rename(&companion, Path::new(&name))?;
        }
    }
    Ok(aside)
}

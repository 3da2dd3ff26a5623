//! Opens, checks and migrates SQLite files that one process holds, and moves damaged ones aside.

use std::{
    fs::{OpenOptions, Permissions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode};
use sha2::{Digest, Sha256};
use tracing::warn;

/// The mode of the files that this process writes. No other user may read what tenants run.
pub(crate) const PRIVATE: u32 = 0o600;
/// A file is mostly free when more than one in this many of its pages is free.
const LEAST_USED: i64 = 2;
/// In bytes; a file up to this size never counts as mostly free.
const SMALL: i64 = 4 << 20;
/// How long to wait for another process that holds the file, which may be about to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a file cannot be used.
#[derive(Debug)]
pub(crate) enum Error {
    /// Another process holds the file.
    InUse,
    /// The contents of the file are not valid, for this reason.
    Damaged(String),
    /// The file cannot be opened, read or written, for this reason.
    Unusable(String),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        // The SQL texts are constants, so the tables do not match the version of the file.
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

/// Opens the file for this process alone, and creates it if it does not exist. The file has a write-ahead
/// log, and each commit is synced. Step `n` of `migrations` migrates the file from version `n` to `n + 1`.
///
/// # Errors
/// When the file cannot be used.
pub(crate) fn open(path: &Path, migrations: &[&str]) -> Result<Connection, Error> {
    open_in_pages(path, 4_096, migrations)
}

/// Like [`open`], with the size in bytes of the pages of a new file. SQLite writes a whole page when one
/// byte of it changes.
///
/// # Errors
/// When the file cannot be used.
pub(crate) fn open_in_pages(
    path: &Path,
    page_size: u32,
    migrations: &[&str],
) -> Result<Connection, Error> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(|error| {
            Error::Unusable(format!("cannot create {}: {error}", dir.display()))
        })?;
    }
    make_private(path)?;
    let connection = Connection::open(path)?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "page_size", page_size)?;
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

/// Creates the file, if it does not exist, so that only this user can read and write it. Removes the
/// rights of other users from an existing file. SQLite gives its companion files the mode of this one.
fn make_private(path: &Path) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(PRIVATE);
    options
        .open(path)
        .map_err(|error| Error::Unusable(format!("cannot open {}: {error}", path.display())))?;
    for suffix in ["", "-wal", "-shm"] {
        narrow(&beside(path, suffix));
    }
    Ok(())
}

/// Removes the rights of other users from a file, if it exists.
pub(crate) fn narrow(path: &Path) {
    let Ok(metadata) = std::fs::metadata(path) else {
        return;
    };
    if metadata.permissions().mode() & 0o777 & !PRIVATE == 0 {
        return;
    }
    if let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(PRIVATE)) {
        warn!(
            "other users may read or write {}, and this cannot be changed ({error}); make it this user's, \
             with mode 600",
            path.display()
        );
    }
}

/// Whether the pages of the file have another size than `page_size`, or the file is mostly free.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn is_wasteful(connection: &Connection, page_size: u32) -> Result<bool, Error> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (is, pages, free) = (
        number("page_size")?,
        number("page_count")?,
        number("freelist_count")?,
    );
    let is_mostly_free = free > pages / LEAST_USED && pages.saturating_mul(is) > SMALL;
    Ok(is != i64::from(page_size) || is_mostly_free)
}

/// Rewrites the file atomically, with pages of this size and without free pages.
///
/// # Errors
/// When the file cannot be rewritten; it is then unchanged.
pub(crate) fn compact(connection: &Connection, page_size: u32) -> Result<(), Error> {
    // The copy is made in memory, because there may be no folder for temporary files.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    connection.pragma_update(None, "page_size", page_size)?;
    let compacted = connection.execute_batch("VACUUM");
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(compacted?)
}

fn migrate(connection: &Connection, migrations: &[&str]) -> Result<(), Error> {
    // Takes the write lock first, so that another process that holds the file is noticed here.
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let steps = usize::try_from(version)
        .ok()
        .and_then(|version| migrations.get(version..));
    let Some(steps) = steps else {
        return Err(Error::Damaged(format!(
            "its version is {version}, and this program supports versions up to {known}"
        )));
    };
    for step in steps {
        connection
            .execute_batch(step)
            .map_err(|error| match error.sqlite_error_code() {
                // The tables do not match the version of the file.
                Some(ErrorCode::Unknown) => Error::Damaged(error.to_string()),
                _ => error.into(),
            })?;
    }
    connection.pragma_update(None, "user_version", known)?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// Returns the first eight bytes of the SHA-256 of the key, a zero byte and the value, as a checksum.
/// SQLite does not notice a flipped bit in a value.
pub(crate) fn sum(key: &str, bytes: &[u8]) -> i64 {
    let mut hash = Sha256::new();
    hash.update(key.as_bytes());
    hash.update([0]);
    hash.update(bytes);
    let hash = hash.finalize();
    let first = hash.first_chunk::<8>().copied().unwrap_or_default();
    i64::from_le_bytes(first)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether another process holds a lock that prevents writing to the file.
pub(crate) fn is_in_use(path: &Path) -> bool {
    let tried = Connection::open(path).and_then(|it| it.execute_batch("BEGIN IMMEDIATE; ROLLBACK"));
    tried.is_err_and(|error| matches!(Error::from(error), Error::InUse))
}

/// Returns an unused path beside the file. `word`, the reason, becomes part of the name; `now` is in seconds since
/// the Unix epoch.
fn unused(path: &Path, word: &str, now: i64) -> PathBuf {
    let beside = |suffix: &str| beside(path, suffix);
    let mut aside = beside(&format!(".{word}-{now}"));
    let mut again = 1_u32;
    while aside.exists() {
        again = again.saturating_add(1);
        aside = beside(&format!(".{word}-{now}-{again}"));
    }
    aside
}

/// Copies the file that is open to a path beside it, and returns that path. See [`move_aside`].
///
/// # Errors
/// When the file cannot be copied.
pub(crate) fn copy_aside(
    connection: &Connection,
    path: &Path,
    word: &str,
    now: i64,
) -> Result<PathBuf, Error> {
    let aside = unused(path, word, now);
    // SQLite gives a file that it creates the usual rights.
    make_private(&aside)?;
    let name = aside.to_string_lossy();
    let copied = connection.execute("VACUUM INTO ?1", [name.as_ref()]);
    let synced = copied.map_err(Error::from).and_then(|_| {
        let copy = std::fs::File::open(&aside).and_then(|it| it.sync_all());
        copy.map_err(|error| Error::Unusable(error.to_string()))
    });
    if synced.is_err() {
        // An incomplete copy is of no use, and may fill the disk.
        let _ = std::fs::remove_file(&aside);
    }
    synced.map(|()| aside)
}

/// Renames the file and its companion files, and returns the new path. `word`, the reason, becomes
/// part of the name; `now` is in seconds since the Unix epoch.
///
/// # Errors
/// When a file cannot be renamed.
pub(crate) fn move_aside(path: &Path, word: &str, now: i64) -> Result<PathBuf, Error> {
    let beside = |suffix: &str| beside(path, suffix);
    let aside = unused(path, word, now);
    let rename = |from: &Path, to: &Path| {
        std::fs::rename(from, to)
            .map_err(|error| Error::Unusable(format!("it cannot be moved aside: {error}")))
    };
    rename(path, &aside)?;
    for suffix in ["-wal", "-shm", "-journal"] {
        let companion = beside(suffix);
        if companion.exists() {
            let mut name = aside.as_os_str().to_owned();
            name.push(suffix);
            rename(&companion, Path::new(&name))?;
        }
    }
    Ok(aside)
}

//! The path of the state file: a lock keeps it for this process alone, and checks show whether the file there is
//! still the one that this process wrote.
//!
//! SQLite locks the file that it has open, wherever that file is. If the file is deleted or replaced by another
//! one, a second process could open the new one. So the path has its own lock, a file beside it, and each
//! write begins and ends with a check of the files at the path.

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::ErrorKind,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::sqlite::{self, Error};

/// How long another process that is about to end may keep the lock.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// The time between two attempts to lock.
const POLL: Duration = Duration::from_millis(50);
/// `ENOLCK`: the file system has no locks.
const NO_LOCKS: i32 = 37;

/// The identity of a file, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    length: u64,
}

impl Mark {
    fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|it| Self::of(&it))
    }

    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
        }
    }

    fn is_same_file(self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// What another process did to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was deleted.
    Deleted,
    /// Another file is at its path.
    Replaced,
    /// Another process wrote to it or truncated it.
    Overwritten,
    /// Its write-ahead log was deleted or replaced.
    LogLost,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "was deleted",
            Self::Replaced => "was replaced by another file",
            Self::Overwritten => "was overwritten by another process",
            Self::LogLost => "lost its write-ahead log (the file beside it that ends in `-wal`)",
        })
    }
}

/// The files that this process left at the path.
#[derive(Debug, Clone, Copy)]
struct Left {
    file: Mark,
    log: Option<Mark>,
}

/// The path of the state file, locked by this process.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Locked as long as it is open.
    lock: Option<File>,
    left: Option<Left>,
}

impl Place {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            lock: None,
            left: None,
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    }

    /// Locks the path, also if the lock file was deleted. Waits up to `limit` for another process to end.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process has the lock; another error if the lock file cannot be created.
    pub(super) fn hold(&mut self, limit: Duration) -> Result<(), Error> {
        let path = self.beside(".lock");
        let is_there = |lock: &File| {
            let ours = lock.metadata().ok().map(|it| Mark::of(&it));
            ours.zip(Mark::at(&path))
                .is_some_and(|(ours, there)| ours.is_same_file(there))
        };
        if self.lock.as_ref().is_some_and(is_there) {
            return Ok(());
        }
        let unusable = |error: std::io::Error| {
            Error::Unusable(format!("cannot create {}: {error}", path.display()))
        };
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).map_err(|error| {
                Error::Unusable(format!("cannot create {}: {error}", folder.display()))
            })?;
        }
        let begun = Instant::now();
        loop {
            let mut options = OpenOptions::new();
            options.create(true).append(true).mode(sqlite::PRIVATE);
            let lock = options.open(&path).map_err(unusable)?;
            sqlite::narrow(&path);
            match lock.try_lock() {
                // The lock file may have been deleted meanwhile, and another process may have created a new one.
                Ok(()) if is_there(&lock) => {
                    self.lock = Some(lock);
                    return Ok(());
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if begun.elapsed() >= limit => {
                    return Err(Error::InUse);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(POLL),
                // SQLite's own lock remains, which is of another kind.
                Err(TryLockError::Error(error))
                    if error.kind() == ErrorKind::Unsupported
                        || error.raw_os_error() == Some(NO_LOCKS) =>
                {
                    return Ok(());
                }
                Err(TryLockError::Error(error)) => return Err(unusable(error)),
            }
        }
    }

    /// Records the files at the path: this process has just written them, or found them at its start.
    pub(super) fn note(&mut self) {
        self.left = Mark::at(&self.path).map(|file| Left {
            file,
            log: Mark::at(&self.beside("-wal")),
        });
    }

    /// Returns what another process did to the file since then, if anything.
    pub(super) fn change(&self) -> Option<Change> {
        let left = self.left?;
        self.moved().or_else(|| {
            let has_changed = Mark::at(&self.path) != Some(left.file);
            let log = Mark::at(&self.beside("-wal"));
            match (has_changed, log == left.log) {
                (true, _) => Some(Change::Overwritten),
                (false, true) => None,
                (false, false) => Some(Change::LogLost),
            }
        })
    }

    /// Returns whether the files at the path are not those that this process has open, regardless of their
    /// content.
    pub(super) fn moved(&self) -> Option<Change> {
        let left = self.left?;
        let log = || Mark::at(&self.beside("-wal"));
        match Mark::at(&self.path) {
            None => Some(Change::Deleted),
            Some(there) if !there.is_same_file(left.file) => Some(Change::Replaced),
            Some(_) => {
                let is_lost = |ours: &Mark| log().is_none_or(|there| !there.is_same_file(*ours));
                left.log
                    .as_ref()
                    .is_some_and(is_lost)
                    .then_some(Change::LogLost)
            }
        }
    }

    /// Clears the path for a new file, after this process has closed its own. A file that another
    /// process put there is moved aside, never deleted, unless that process uses it. Returns its new path.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process uses the file; another error if it cannot be moved.
    pub(super) fn clear(&self, change: Change, now: i64) -> Result<Option<PathBuf>, Error> {
        let log = self.beside("-wal");
        let ours = self.left.and_then(|it| it.log);
        let is_ours = |there: Mark| ours.is_some_and(|ours| there.is_same_file(ours));
        if Mark::at(&log).is_some_and(is_ours) {
            // This log belongs to a file that is gone, and SQLite would apply it to the next file.
            std::fs::remove_file(&log).map_err(|error| {
                Error::Unusable(format!("cannot remove {}: {error}", log.display()))
            })?;
        }
        if change == Change::LogLost || !self.path.exists() {
            return Ok(None);
        }
        if sqlite::is_in_use(&self.path) {
            return Err(Error::InUse);
        }
        sqlite::move_aside(&self.path, "replaced", now).map(Some)
    }
}

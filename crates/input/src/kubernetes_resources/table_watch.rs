//! Follows the file of a table.
//!
//! The file is looked at each second, through links, so that the update of a ConfigMap is seen, which exchanges a link.
//! A file that changed is read when two looks see the same file: otherwise half of what somebody writes would count
//! for a moment. The content counts since the file was written, as far as it was not seen unchanged after that.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use meterline_core::{HealthHandle, IntGauge, Metrics};
use meterline_ledger::UnixSeconds;
use meterline_script::{MOST_TABLE_BYTES, Table, TableFormat};
use tracing::{info, warn};

use super::{budgets::Budgets, clock::Clock, ledger::SharedLedger};

/// How often the file is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// How many looks in succession wait for a file that is written again and again. Windows wait meanwhile.
const MOST_WAITS: u32 = 5;

/// What distinguishes a file from the one that was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Signature {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

impl Signature {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What was seen of the file.
#[derive(Debug, Default)]
struct Seen {
    /// The file that was read last, also if it could not be used.
    read: Option<Signature>,
    /// Another file that the last look found.
    found: Option<Signature>,
    /// When the file was last seen as it was read.
    unchanged: Option<UnixSeconds>,
    /// How many looks in succession found another file.
    waits: u32,
    /// Whether a table could ever be read.
    has_table: bool,
}

/// What to do after a look at the file.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The file is as it was read.
    Unchanged,
    /// The file may still be written to.
    Wait,
    /// The file is to be read, and counts since this second.
    Read(UnixSeconds),
}

impl Seen {
    /// Decides what to do after a look at `now` found this file.
    fn next(&mut self, signature: Signature, now: UnixSeconds) -> Next {
        if self.read == Some(signature) {
            self.found = None;
            self.waits = 0;
            self.unchanged = Some(now);
            return Next::Unchanged;
        }
        // Nothing is billed before the first table, so there is nothing to wait for.
        let is_stable = self.found == Some(signature) || !self.has_table;
        self.found = Some(signature);
        self.waits = self.waits.saturating_add(1);
        if !is_stable && self.waits <= MOST_WAITS {
            return Next::Wait;
        }
        self.waits = 0;
        let (modified, _) = signature.modified;
        // Without anything that was known before, it counts for all time.
        let since = self
            .unchanged
            .map_or(UnixSeconds::MIN, |it| it.max(modified));
        Next::Read(since.min(now))
    }

    /// There is no file.
    fn is_gone(&mut self) {
        self.read = None;
        self.found = None;
    }
}

/// What operators see of the table.
pub(super) struct TableReport {
    pub(super) health: HealthHandle,
    broken: IntGauge,
}

impl TableReport {
    /// Of a table of the input `label`.
    pub(super) fn new(health: HealthHandle, metrics: &Metrics, label: &str, table: &str) -> Self {
        health.not_ready("the file was not read yet");
        let labels = [("label", label), ("table", table)];
        let help =
            "Whether the file of a table cannot be read; its last content counts until it can.";
        Self {
            health,
            broken: metrics.gauge("lookup_table_broken", help, &labels),
        }
    }
}

/// Follows the file of one table.
pub(super) struct TableWatch {
    /// The name of the table, which is also that of the watch.
    pub(super) name: Arc<str>,
    pub(super) path: PathBuf,
    pub(super) ledger: Arc<SharedLedger>,
    pub(super) budgets: Arc<Budgets>,
    pub(super) clock: Clock,
    pub(super) report: TableReport,
    /// When the values that a restored ledger has were last known to be right.
    pub(super) restored_at: Option<UnixSeconds>,
}

impl TableWatch {
    /// Never ends.
    pub(super) async fn run(self) {
        self.ledger.is_open().await;
        let mut seen = Seen {
            unchanged: self.restored_at,
            ..Seen::default()
        };
        loop {
            self.look(&mut seen).await;
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn look(&self, seen: &mut Seen) {
        let now = self.clock.moment().cluster_seconds();
        let metadata = match tokio::fs::metadata(&self.path).await {
            Ok(metadata) => metadata,
            Err(error) => {
                seen.is_gone();
                return self.is_broken(seen, &error.to_string(), now);
            }
        };
        let signature = Signature::of(&metadata);
        match seen.next(signature, now) {
            Next::Unchanged if seen.has_table => self.ledger.alive(&self.name, now),
            Next::Unchanged | Next::Wait => {}
            Next::Read(since) => {
                seen.read = Some(signature);
                match read(&self.path, signature.size).await {
                    Ok(table) => self.learn(seen, table, since, now),
                    Err(error) => self.is_broken(seen, &error, now),
                }
            }
        }
    }

    fn learn(&self, seen: &mut Seen, table: Table, since: UnixSeconds, now: UnixSeconds) {
        info!(
            table = %self.name,
            path = %self.path.display(),
            keys = table.len(),
            "read a table"
        );
        seen.has_table = true;
        seen.unchanged = Some(now);
        let (divided, is_full) = self.ledger.table(&self.name, Arc::new(table), since);
        for (owner, waiting) in divided {
            self.budgets.waits(&owner, waiting);
        }
        if is_full {
            warn!(
                table = %self.name,
                "the table changed more often than windows were delivered: objects that are observed late have \
                 the oldest content that is still kept"
            );
        }
        self.report.broken.set(0);
        self.report.health.ready("");
        self.ledger.synced(&self.name, true);
        self.ledger.alive(&self.name, now);
    }

    /// The file cannot be used. What was read last counts on; before that nothing can be billed.
    fn is_broken(&self, seen: &mut Seen, error: &str, now: UnixSeconds) {
        let path = self.path.display();
        let is_news = self.report.broken.get() == 0;
        self.report.broken.set(1);
        if seen.has_table {
            let text = format!(
                "cannot read {path}: {error}; what was read last counts until it can be read"
            );
            if is_news {
                warn!(table = %self.name, "{text}");
            }
            self.report.health.ready(text);
            seen.unchanged = Some(now);
            self.ledger.alive(&self.name, now);
        } else {
            let text = format!(
                "cannot read {path}: {error}; nothing is delivered until it can be read, and nothing is lost"
            );
            if is_news {
                warn!(table = %self.name, "{text}");
            }
            self.report.health.not_ready(text);
        }
    }
}

/// Reads a file of this size.
async fn read(path: &Path, size: u64) -> Result<Table, String> {
    if size > MOST_TABLE_BYTES as u64 {
        return Err(format!(
            "it has {size} bytes; a table has at most {MOST_TABLE_BYTES}"
        ));
    }
    let format = TableFormat::of(&path.to_string_lossy())?;
    let text = tokio::fs::read_to_string(path).await;
    Table::parse(format, &text.map_err(|it| it.to_string())?)
}

#[cfg(test)]
mod tests;

//! Keeps the state file up with the ledger.

use std::{sync::Arc, time::Duration};

use meterline_core::{HealthHandle, IntCounter, Metrics};
use tokio::{sync::Notify, time::timeout};
use tracing::{error, info};

use super::{file::StateFile, place::Change, rows::StateError};
use crate::kubernetes_resources::{ledger::SharedLedger, messages};

/// Changes that come closer together than this are written as one.
const GATHER: Duration = Duration::from_millis(20);
/// How old the file's notion of when the view was complete may become, and how long it may go unnoticed
/// that the file is gone.
const HEARTBEAT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What people learn of the file.
pub(crate) struct Report {
    health: HealthHandle,
    replaced: IntCounter,
    failures: u32,
    /// What happened to the file, while it is not yet written anew.
    lost: Option<Change>,
    /// What was the last thing that happened to it.
    detail: String,
}

impl Report {
    /// Of the file of the input `label`.
    pub(crate) fn new(health: HealthHandle, metrics: &Metrics, label: &str) -> Self {
        health.ready("");
        Self {
            health,
            replaced: metrics.counter(
                "state_file_replaced",
                "How often the state file was deleted, replaced or written over under the process.",
                &[("label", label)],
            ),
            failures: 0,
            lost: None,
            detail: String::new(),
        }
    }

    /// The file was looked at.
    fn looked(&mut self, shared: &SharedLedger, change: Option<Change>) {
        let (Some(change), None) = (change, self.lost) else {
            return;
        };
        self.lost = Some(change);
        self.replaced.inc();
        self.detail = format!(
            "at {} the state file {change}",
            messages::rfc3339(shared.clock.seconds())
        );
        error!(
            "the state file {change} while this process used it; all of the ledger is written anew, and \
             windows wait until that is done. Find out who did it: a crash in between would have lost \
             the ledger"
        );
    }

    fn wrote(&mut self, file: &mut StateFile) {
        if self.failures == 0 && self.lost.is_none() {
            return;
        }
        if self.failures > 0 {
            info!(
                failures = self.failures,
                "the state file can be written again"
            );
        }
        let aside = file.take_aside();
        if self.lost.is_some() || aside.is_some() {
            let aside = aside.map_or_else(String::new, |aside| {
                format!("; what was there instead is {}", aside.display())
            });
            info!("the state file is written anew, with all of the ledger{aside}");
            self.detail.push_str("; it is written anew");
            self.detail.push_str(&aside);
        }
        (self.failures, self.lost) = (0, None);
        self.health.ready(self.detail.as_str());
    }

    fn failed(&mut self, reason: &StateError) {
        self.failures = self.failures.saturating_add(1);
        let told = format!("the state file cannot be written: {reason}");
        if self.failures.is_power_of_two() {
            error!(
                failures = self.failures,
                "{told}; trying again, windows wait and nothing is lost"
            );
        }
        self.health.not_ready(match self.lost {
            Some(_) => format!("{}; {told}", self.detail),
            None => told,
        });
    }
}

/// Writes what changes until `end`, and then what is left. Nothing goes out that is not written, so
/// a disk that is full holds back windows; it loses none.
pub(crate) async fn keep(
    shared: Arc<SharedLedger>,
    mut file: StateFile,
    mut report: Report,
    end: Arc<Notify>,
) {
    let mut ending = false;
    loop {
        let books = Arc::clone(&shared);
        let write = tokio::task::spawn_blocking(move || {
            let lost = file.check();
            let (changes, generation, seen) = books.take_changes(file.needs_everything());
            let written = file.write(&changes, &seen).map(|()| generation);
            (file, lost, written)
        });
        let (lost, written);
        (file, lost, written) = match write.await {
            Ok(outcome) => outcome,
            // Writing does not panic; and without the file nothing more goes out.
            Err(panic) => {
                let told = format!("the state file is lost: {panic}");
                report.health.not_ready(told);
                return;
            }
        };
        report.looked(&shared, lost);
        match written {
            Ok(generation) => {
                report.wrote(&mut file);
                shared.written(generation);
            }
            Err(reason) => report.failed(&reason),
        }
        if ending {
            return;
        }
        let failures = report.failures;
        let pause = if failures == 0 {
            GATHER
        } else {
            let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
            FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
        };
        ending = timeout(pause, end.notified()).await.is_ok();
        if !ending && failures == 0 {
            tokio::select! {
                () = end.notified() => ending = true,
                () = shared.dirty.notified() => {}
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
        }
    }
}

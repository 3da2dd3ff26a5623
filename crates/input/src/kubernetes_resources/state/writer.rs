//! Writes what changes in the ledger to the state file.

use std::{sync::Arc, time::Duration};

use meterline_core::{Backoff, HealthHandle, IntCounter, Metrics};
use tokio::{sync::Notify, time::timeout};
use tracing::{error, info};

use super::{file::StateFile, place::Change, rows::StateError};
use crate::kubernetes_resources::{clock::Clock, ledger::SharedLedger, messages};

/// Changes within this time are written together.
const GATHER: Duration = Duration::from_millis(20);
/// How often the file is written and checked when nothing changes: it records up to when the view was
/// complete, and it may be deleted.
const HEARTBEAT: Duration = Duration::from_secs(1);
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Writes the state file until it is notified to end.
pub(crate) struct StateWriter {
    file: StateFile,
    ledger: Arc<SharedLedger>,
    clock: Clock,
    report: FileReport,
}

/// What is reported of the file.
struct FileReport {
    health: HealthHandle,
    replaced: IntCounter,
    failures: u32,
    /// What another process did to the file, until it is rewritten.
    lost: Option<Change>,
    /// The last event of the file, for `/ready`.
    detail: String,
}

impl StateWriter {
    /// Of the input `label`.
    pub(crate) fn new(
        file: StateFile,
        ledger: Arc<SharedLedger>,
        clock: Clock,
        health: HealthHandle,
        metrics: &Metrics,
        label: &str,
    ) -> Self {
        health.ready("");
        let report = FileReport {
            health,
            replaced: metrics.counter(
                "state_file_replaced",
                "How often the state file was deleted, replaced or overwritten while the process used it.",
                &[("label", label)],
            ),
            failures: 0,
            lost: None,
            detail: String::new(),
        };
        Self {
            file,
            ledger,
            clock,
            report,
        }
    }

    /// Writes what changes until `end`, and then the rest. No window is sent before it is written, so a full disk
    /// delays windows and loses none.
    pub(crate) async fn run(self, end: Arc<Notify>) {
        let Self {
            mut file,
            ledger,
            clock,
            mut report,
        } = self;
        let mut is_ending = false;
        loop {
            let shared = Arc::clone(&ledger);
            let write = tokio::task::spawn_blocking(move || {
                let change = file.check();
                let (changes, generation, seen) = shared.take_changes(file.needs_everything());
                let written = file.write(&changes, &seen).map(|()| generation);
                (file, change, written)
            });
            let (change, written);
            (file, change, written) = match write.await {
                Ok(outcome) => outcome,
                // Writing does not panic. If it ever did, nothing more would be sent.
                Err(panic) => {
                    let text = format!("the state file is lost: {panic}");
                    report.health.not_ready(text);
                    return;
                }
            };
            report.checked(change, &clock);
            match written {
                Ok(generation) => {
                    report.written(&mut file);
                    ledger.written(generation);
                }
                Err(error) => report.failed(&error),
            }
            if is_ending {
                return;
            }
            is_ending = timeout(pause(report.failures), end.notified())
                .await
                .is_ok();
            if !is_ending && report.failures == 0 {
                tokio::select! {
                    () = end.notified() => is_ending = true,
                    () = ledger.dirty.notified() => {}
                    () = tokio::time::sleep(HEARTBEAT) => {}
                }
            }
        }
    }
}

/// How long to wait after a write that succeeded, or after so many failures in a row.
fn pause(failures: u32) -> Duration {
    if failures == 0 {
        GATHER
    } else {
        RETRY.pause(failures)
    }
}

impl FileReport {
    /// The file was checked.
    fn checked(&mut self, change: Option<Change>, clock: &Clock) {
        let (Some(change), None) = (change, self.lost) else {
            return;
        };
        self.lost = Some(change);
        self.replaced.inc();
        self.detail = format!(
            "at {} the state file {change}",
            messages::rfc3339(clock.seconds())
        );
        error!(
            "the state file {change} while this process used it; the whole ledger is written again, and \
             windows wait until that is done. Find out what changed the file: a crash in between would have \
             lost the ledger"
        );
    }

    fn written(&mut self, file: &mut StateFile) {
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
                format!(
                    "; the file that was there instead was moved to {}",
                    aside.display()
                )
            });
            info!("the state file was rewritten with the whole ledger{aside}");
            self.detail.push_str("; it was rewritten");
            self.detail.push_str(&aside);
        }
        (self.failures, self.lost) = (0, None);
        self.health.ready(self.detail.as_str());
    }

    fn failed(&mut self, error: &StateError) {
        self.failures = self.failures.saturating_add(1);
        let text = format!("the state file cannot be written: {error}");
        if self.failures.is_power_of_two() {
            error!(
                failures = self.failures,
                "{text}; trying again, windows wait and nothing is lost"
            );
        }
        self.health.not_ready(match self.lost {
            Some(_) => format!("{}; {text}", self.detail),
            None => text,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use meterline_core::{Health, Reads};
    use tokio::task::JoinSet;

    use super::*;
    use crate::kubernetes_resources::{
        ledger_name::LedgerName,
        state::shared::SharedFile,
        testing::{Parts, observation, options, until},
        watch::Cluster,
    };

    struct Scene {
        parts: Parts,
        health: Health,
        end: Arc<Notify>,
        task: JoinSet<()>,
    }

    fn open(path: &Path) -> (StateFile, Option<crate::kubernetes_resources::state::Saved>) {
        let (file, saved, damage) = StateFile::open(path, "pod", &Reads::All, 0).unwrap();
        assert_eq!(damage, None);
        (file, saved)
    }

    impl Scene {
        fn new(path: &Path) -> Self {
            Self::of(open(path).0)
        }

        fn of(file: StateFile) -> Self {
            let mut options = options(Cluster::default());
            options.has_state = true;
            let parts = Parts::new(options, 0);
            let health = Health::default();
            let writer = StateWriter::new(
                file,
                Arc::clone(&parts.ledger),
                parts.options.clock.clone(),
                health.register("state x"),
                &parts.metrics,
                "x",
            );
            let end = Arc::new(Notify::new());
            let mut task = JoinSet::new();
            task.spawn(writer.run(Arc::clone(&end)));
            Self {
                parts,
                health,
                end,
                task,
            }
        }

        fn ready(&self) -> (bool, String) {
            let report = self.health.report();
            let (_, is_ready, detail) = &report.parts[0];
            (*is_ready, detail.to_string())
        }

        async fn end(mut self) {
            self.end.notify_one();
            self.task.join_next().await.unwrap().unwrap();
        }
    }

    fn saved(path: &Path) -> Vec<String> {
        let records = open(path).1.unwrap().records;
        records.iter().map(|(uid, _)| uid.to_string()).collect()
    }

    #[tokio::test]
    async fn what_changes_is_written_and_the_rest_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let scene = Scene::new(&path);
        let ledger = Arc::clone(&scene.parts.ledger);
        ledger.observe(observation("a", 1, None));
        assert!(!ledger.is_written(1));
        until(|| ledger.is_written(1)).await;
        // The writer is notified to end before it has written this.
        ledger.observe(observation("b", 1, None));
        scene.end().await;
        assert!(ledger.is_written(2));
        assert_eq!(saved(&path), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_deleted_file_is_rewritten_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let scene = Scene::new(&path);
        scene.parts.ledger.observe(observation("a", 1, None));
        until(|| scene.parts.ledger.is_written(1)).await;
        std::fs::remove_file(&path).unwrap();
        until(|| scene.ready().1.contains("it was rewritten")).await;
        assert!(scene.ready().0);
        assert_eq!(scene.parts.metric("state_file_replaced"), 1.0);
        scene.end().await;
        assert_eq!(saved(&path), ["a"]);
    }

    #[tokio::test]
    async fn the_ledgers_of_a_file_are_written_by_turns_and_all_are_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        let names = ["pod", "node"].map(|subject| LedgerName::new(subject, None));
        let open = || {
            let shared = SharedFile::open(&path, &names, 0).unwrap();
            names.each_ref().map(|name| {
                let (file, saved, damage) = StateFile::of(&shared, name, &Reads::All, 0).unwrap();
                assert_eq!(damage, None);
                (file, saved)
            })
        };
        let scenes = open().map(|(file, _)| Scene::of(file));
        for round in 1..=20_u64 {
            for scene in &scenes {
                let name = format!("{round}");
                scene.parts.ledger.observe(observation(&name, 1, None));
            }
            if round == 10 {
                std::fs::remove_file(&path).unwrap();
            }
            for scene in &scenes {
                until(|| scene.parts.ledger.is_written(round)).await;
            }
        }
        until(|| {
            scenes
                .iter()
                .any(|it| it.ready().1.contains("it was rewritten"))
        })
        .await;
        for scene in scenes {
            scene.end().await;
        }
        for (_, saved) in open() {
            assert_eq!(saved.unwrap().records.len(), 20);
        }
    }

    #[tokio::test]
    async fn while_the_file_cannot_be_written_nothing_counts_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder/state.sqlite");
        let scene = Scene::new(&path);
        let folder = path.parent().unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        std::fs::write(folder, "no folder").unwrap();
        until(|| !scene.ready().0).await;
        let (_, text) = scene.ready();
        assert!(text.contains("the state file cannot be written"), "{text}");
        scene.parts.ledger.observe(observation("a", 1, None));
        let (_, generation, _) = scene.parts.ledger.take_changes(false);
        assert!(!scene.parts.ledger.is_written(generation));
        std::fs::remove_file(folder).unwrap();
        until(|| scene.parts.ledger.is_written(generation)).await;
        until(|| scene.ready().0).await;
        scene.end().await;
        assert_eq!(
            saved(&path),
            ["a"],
            "what was taken and not written is written again"
        );
    }

    #[test]
    fn changes_are_gathered_and_a_failed_write_waits_longer() {
        assert_eq!(pause(0), GATHER);
        assert!(pause(1) > GATHER);
        assert!(pause(20) > pause(1));
    }
}

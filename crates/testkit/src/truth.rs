//! When each pod ran, as the API server reports it to a watch that is independent of the tested program.
//!
//! A pod lives from the earliest `startedAt` of its containers to the latest `finishedAt` once it has
//! succeeded or failed. A pod that is deleted without an end ends in the second in which the watch saw
//! the deletion; another watch may see it a second apart. [`Truth::unreported`] names those pods, and
//! exact tests have none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::bail;
use chrono::{DateTime, Utc};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::audit::Life;
use crate::pods;

#[derive(Debug, Default)]
struct Record {
    pods: BTreeMap<String, Entry>,
    /// UIDs listed since the last `Init`.
    listed: BTreeSet<String>,
    synced: bool,
}

#[derive(Debug)]
struct Entry {
    life: Life,
    started: bool,
    reported: bool,
}

/// Keeps the lives of all pods of a cluster; see the [module](self).
#[derive(Debug)]
pub struct Truth {
    record: watch::Receiver<Record>,
    task: JoinHandle<()>,
}

impl Truth {
    /// Starts to watch all pods and waits for the first list.
    ///
    /// # Errors
    /// When there is no list within 30 seconds.
    pub async fn watch(client: Client) -> anyhow::Result<Self> {
        const LIMIT: Duration = Duration::from_secs(30);
        let (sender, mut record) = watch::channel(Record::default());
        let task = tokio::spawn(follow(client, sender));
        let synced = async { record.wait_for(|record| record.synced).await.is_ok() };
        let synced = tokio::time::timeout(LIMIT, synced).await.unwrap_or(false);
        if !synced {
            task.abort();
            bail!("no list of pods within {LIMIT:?}");
        }
        Ok(Self { record, task })
    }

    /// The lives of all pods that have started, including deleted ones.
    #[must_use]
    pub fn lives(&self) -> Vec<Life> {
        lives(&self.record.borrow())
    }

    /// Deleted pods whose end no status reported.
    #[must_use]
    pub fn unreported(&self) -> Vec<Life> {
        let record = self.record.borrow();
        let pods = record.pods.values();
        pods.filter(|entry| entry.started && entry.life.end.is_some() && !entry.reported)
            .map(|entry| entry.life.clone())
            .collect()
    }

    /// Waits until `count` pods or more have started and every pod that has started has ended.
    ///
    /// # Errors
    /// When they have not within a minute.
    pub async fn wait_for_ends(&self, count: usize) -> anyhow::Result<()> {
        const LIMIT: Duration = Duration::from_secs(60);
        let is_over =
            |lives: &[Life]| lives.len() >= count && lives.iter().all(|life| life.end.is_some());
        self.wait_until(LIMIT, is_over).await
    }

    /// Waits until `condition` holds for [`Truth::lives`].
    ///
    /// # Errors
    /// When it does not hold within `limit`.
    pub async fn wait_until(
        &self,
        limit: Duration,
        condition: impl Fn(&[Life]) -> bool,
    ) -> anyhow::Result<()> {
        let mut record = self.record.clone();
        let met = record.wait_for(|record| condition(&lives(record)));
        match tokio::time::timeout(limit, met).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("the watch behind the truth has ended"),
            Err(_) => {
                let lives = self.lives();
                let ended = lives.iter().filter(|life| life.end.is_some()).count();
                bail!(
                    "after {limit:?}: {} pods started, {ended} ended",
                    lives.len()
                )
            }
        }
    }
}

impl Drop for Truth {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lives(record: &Record) -> Vec<Life> {
    let entries = record.pods.values().filter(|entry| entry.started);
    entries.map(|entry| entry.life.clone()).collect()
}

async fn follow(client: Client, record: watch::Sender<Record>) {
    let api: Api<Pod> = Api::all(client);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        // An error means that the API server is unavailable; the stream continues by itself.
        if let Ok(event) = event {
            record.send_modify(|record| record.apply(event, pods::now()));
        }
    }
}

impl Record {
    fn apply(&mut self, event: watcher::Event<Pod>, now: DateTime<Utc>) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(pod) => {
                self.listed.extend(pod.metadata.uid.clone());
                self.update(&pod);
            }
            watcher::Event::InitDone => {
                self.synced = true;
                for (uid, entry) in &mut self.pods {
                    if !self.listed.contains(uid) {
                        entry.life.end.get_or_insert(now);
                    }
                }
            }
            watcher::Event::Apply(pod) => self.update(&pod),
            watcher::Event::Delete(pod) => {
                self.update(&pod);
                let uid = pod.metadata.uid.unwrap_or_default();
                if let Some(entry) = self.pods.get_mut(&uid) {
                    entry.life.end.get_or_insert(now);
                }
            }
        }
    }

    fn update(&mut self, pod: &Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let entry = self.pods.entry(uid.clone()).or_insert_with(|| Entry {
            life: Life {
                uid,
                namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                name: pod.metadata.name.clone().unwrap_or_default(),
                start: DateTime::<Utc>::MAX_UTC,
                end: None,
            },
            started: false,
            reported: false,
        });
        if let Some(start) = states(pod).filter_map(started).min() {
            entry.life.start = entry.life.start.min(start);
            entry.started = true;
        }
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed"))
            && let Some(end) = states(pod).filter_map(finished).max()
        {
            entry.life.end = Some(end);
            entry.reported = true;
        }
    }
}

fn states(pod: &Pod) -> impl Iterator<Item = &ContainerState> {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| &status.container_statuses);
    let statuses = statuses.flatten();
    statuses.flat_map(|status| status.state.iter().chain(&status.last_state))
}

fn started(state: &ContainerState) -> Option<DateTime<Utc>> {
    let running = state.running.as_ref().and_then(|it| it.started_at.as_ref());
    let terminated = state.terminated.as_ref();
    let terminated = terminated.and_then(|it| it.started_at.as_ref());
    running.or(terminated).and_then(second)
}

fn finished(state: &ContainerState) -> Option<DateTime<Utc>> {
    let terminated = state.terminated.as_ref();
    terminated
        .and_then(|it| it.finished_at.as_ref())
        .and_then(second)
}

fn second(time: &Time) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.0.as_second(), 0)
}

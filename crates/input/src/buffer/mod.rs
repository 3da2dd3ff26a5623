//! Buffers: they keep what an input yields, acknowledge it to the input, and pass it on.
//!
//! A buffer is for an input that cannot yield a message again, for example when a client waits for the
//! response to its request. `kubernetes_resources` must not have a buffer: its ledger keeps usage
//! until it is delivered, and would count messages as delivered when the buffer has stored them.

mod memory;
mod sqlite;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use meterline_config::{BufferSpec, Configure, PlanContext, Spec};
use meterline_core::{
    Ack, Backoff, Batch, BufferPlan, BuildContext, BuildError, HealthHandle, Input, InputError,
    IntCounter, IntGauge, Outcome, Undelivered,
};
use serde::Deserialize;
use tokio::{sync::Notify, task::JoinSet, time::sleep};
use tracing::{error, info, warn};

use crate::settlements::Settlements;

/// Every buffer, by the name it has in a configuration.
pub const BUFFERS: &[BufferSpec] = &[memory::SPEC, NONE, sqlite::SPEC];

const NONE: BufferSpec = Spec::new::<NoneConfig>(
    "none",
    "Keeps nothing: what is read is acknowledged once it is delivered.",
    &["none: {}"],
);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoneConfig {}

impl Configure for NoneConfig {
    type Plan = dyn BufferPlan;

    fn plan(self, _: &mut PlanContext<'_>) -> Option<Box<dyn BufferPlan>> {
        Some(Box::new(self))
    }
}

#[async_trait]
impl BufferPlan for NoneConfig {
    async fn build(
        self: Box<Self>,
        input: Box<dyn Input>,
        _: &BuildContext,
    ) -> Result<Box<dyn Input>, BuildError> {
        Ok(input)
    }
}

/// Keeps batches in order. A call that returns an error has no effect; the error is the reason.
trait Store: Send {
    /// Keeps a batch. Once this returns, the batch survives everything that the store is made to survive.
    fn push(&mut self, batch: Batch) -> Result<(), String>;
    /// Returns the oldest batch that is not handed out, with its number.
    fn next(&mut self) -> Result<Option<(u64, Batch)>, String>;
    /// Deletes a batch that was handed out and is settled.
    fn done(&mut self, number: u64) -> Result<(), String>;
    /// Marks a batch that was handed out to be handed out again.
    fn again(&mut self, number: u64);
    /// Returns how many bytes are kept.
    fn bytes(&self) -> u64;
    /// Returns how many batches are kept, whether handed out or not.
    fn batches(&mut self) -> usize;
    /// Whether the batches survive the process.
    fn survives(&self) -> bool;
    /// Returns how many batches were found damaged since the last call.
    fn quarantined(&mut self) -> u64 {
        0
    }
}

/// The pauses after the store refused a batch or could not be read, for example because the disk is full.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));

struct Shared {
    store: Mutex<Box<dyn Store>>,
    limit: u64,
    /// Notified when a batch was stored, or the input has ended.
    news: Notify,
    /// Notified when the store has become smaller.
    shrunk: Notify,
    ended: AtomicBool,
    /// The reason why the input can never yield again, once it has failed.
    failure: OnceLock<String>,
    /// What the input still held when it was closed.
    behind: OnceLock<Undelivered>,
    health: HealthHandle,
    kept: IntGauge,
    received: IntCounter,
    quarantined: IntCounter,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Box<dyn Store>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `run` with the store and updates the metrics.
    fn with<T>(&self, run: impl FnOnce(&mut dyn Store) -> T) -> T {
        let mut store = self.store();
        let before = store.bytes();
        let outcome = run(store.as_mut());
        if store.bytes() < before {
            self.shrunk.notify_one();
        }
        self.kept
            .set(i64::try_from(store.bytes()).unwrap_or(i64::MAX));
        self.quarantined.inc_by(store.quarantined());
        outcome
    }

    fn is_full(&self) -> bool {
        self.store().bytes() >= self.limit
    }
}

/// An input whose batches go through a store.
struct Buffered {
    /// The input, until the first read starts the task that reads it.
    input: Option<Box<dyn Input>>,
    /// The task that fills the store. It is aborted when this is dropped.
    writer: JoinSet<()>,
    /// Signals that task to stop reading and to end.
    end: Arc<Notify>,
    shared: Arc<Shared>,
    unsettled: Settlements<u64>,
    /// The batches that are settled, but not deleted from the store yet.
    finished: Vec<u64>,
}

fn buffered(
    store: Box<dyn Store>,
    limit: u64,
    input: Box<dyn Input>,
    cx: &BuildContext,
) -> Box<dyn Input> {
    let labels = [("label", cx.label.as_ref())];
    let health = cx.health.register(format!("buffer {}", cx.label));
    health.ready("");
    let kept = cx.metrics.gauge(
        "buffer_bytes",
        "Bytes of messages that a buffer keeps.",
        &labels,
    );
    let received = cx.metrics.counter(
        "buffer_received",
        "Messages that a buffer accepted.",
        &labels,
    );
    let quarantined = cx.metrics.counter(
        "buffer_quarantined",
        "Batches that a buffer found damaged and set aside.",
        &labels,
    );
    Box::new(Buffered {
        input: Some(input),
        writer: JoinSet::new(),
        end: Arc::new(Notify::new()),
        shared: Arc::new(Shared {
            store: Mutex::new(store),
            limit: limit.max(1),
            news: Notify::new(),
            shrunk: Notify::new(),
            ended: AtomicBool::new(false),
            failure: OnceLock::new(),
            behind: OnceLock::new(),
            health,
            kept,
            received,
            quarantined,
        }),
        unsettled: Settlements::default(),
        finished: Vec::new(),
    })
}

/// Reads the input into the store until the input ends or `end` is notified.
async fn fill(mut input: Box<dyn Input>, shared: Arc<Shared>, end: Arc<Notify>) {
    let read = match take_in(input.as_mut(), &shared, &end).await {
        Ok(Filled::Ended) => Ok(()),
        Ok(Filled::Stopped) => store_remaining(input.as_mut(), &shared).await,
        Err(error) => Err(error),
    };
    if let Err(InputError(reason)) = read {
        error!(
            "the input of a buffer has ended; the buffer still delivers what it keeps: {reason}"
        );
        let detail = format!("its input has ended: {reason}");
        shared.health.not_ready(detail);
        let _ = shared.failure.set(reason);
    }
    input.close().await;
    let _ = shared.behind.set(input.left());
    shared.ended.store(true, Ordering::Release);
    shared.news.notify_one();
}

/// Why [`take_in`] returned.
enum Filled {
    /// The input has ended.
    Ended,
    /// The buffer was stopped or closed.
    Stopped,
}

async fn take_in(
    input: &mut dyn Input,
    shared: &Arc<Shared>,
    end: &Notify,
) -> Result<Filled, InputError> {
    let mut stopped = std::pin::pin!(end.notified());
    let mut refused = 0_u32;
    loop {
        while shared.is_full() {
            // Nothing is dropped: the input waits, and so does its sender.
            tokio::select! {
                () = &mut stopped => return Ok(Filled::Stopped),
                () = shared.shrunk.notified() => {}
            }
        }
        let read = tokio::select! {
            biased;
            () = &mut stopped => return Ok(Filled::Stopped),
            read = input.read() => read?,
        };
        let (batch, ack) = match read {
            Some(read) => read,
            None if refused == 0 => return Ok(Filled::Ended),
            None => {
                // The input yields the refused batches again when it is read again.
                sleep(RETRY.pause(refused)).await;
                refused = 0;
                continue;
            }
        };
        match keep(shared, batch, ack).await {
            Ok(()) => {
                if refused > 0 {
                    info!("the buffer accepts messages again");
                    shared.health.ready("");
                    refused = 0;
                }
            }
            Err(reason) => {
                refused = refused.saturating_add(1);
                if refused.is_power_of_two() {
                    warn!(
                        refused,
                        "the buffer cannot store messages: {reason}; they are refused, not lost"
                    );
                }
                shared
                    .health
                    .not_ready(format!("the buffer cannot store messages: {reason}"));
                sleep(RETRY.pause(refused)).await;
            }
        }
    }
}

/// Puts a batch into the store and acknowledges it; an error is the reason why the store refused it.
async fn keep(shared: &Arc<Shared>, batch: Batch, ack: Ack) -> Result<(), String> {
    let count = batch.len() as u64;
    let store = Arc::clone(shared);
    let kept = tokio::task::spawn_blocking(move || store.with(|store| store.push(batch))).await;
    match kept.unwrap_or_else(|panic| Err(panic.to_string())) {
        Ok(()) => {
            shared.received.inc_by(count);
            ack.resolve(Outcome::Delivered);
            shared.news.notify_one();
            Ok(())
        }
        Err(reason) => {
            ack.resolve(Outcome::Failed(reason.clone()));
            Err(reason)
        }
    }
}

/// After a stop: stores the batches that only the input has, even when the store is full, because there are
/// no more of them than were in flight. Each batch is tried once. The input counts a refused batch as lost.
async fn store_remaining(input: &mut dyn Input, shared: &Arc<Shared>) -> Result<(), InputError> {
    if !input.stop() {
        return Ok(());
    }
    while let Some((batch, ack)) = input.read().await? {
        if let Err(reason) = keep(shared, batch, ack).await {
            warn!(
                "the buffer cannot store the last messages of its input: {reason}; they are lost"
            );
            break;
        }
    }
    Ok(())
}

impl Buffered {
    fn begin(&mut self) {
        if let Some(input) = self.input.take() {
            let (shared, end) = (Arc::clone(&self.shared), Arc::clone(&self.end));
            self.writer.spawn(fill(input, shared, end));
        }
    }

    fn settle(&mut self, number: u64, outcome: &Outcome) {
        if outcome.is_settled() {
            self.finished.push(number);
        } else {
            self.shared.with(|store| store.again(number));
        }
        // A batch that the store cannot delete now is tried again when the next batch is settled.
        let shared = &self.shared;
        self.finished
            .retain(|number| shared.with(|store| store.done(*number)).is_err());
    }

    /// Returns the result of a read when there is nothing to hand out and the input has ended.
    fn end(&self) -> Result<Option<(Batch, Ack)>, InputError> {
        match self.shared.failure.get() {
            Some(reason) if self.unsettled.is_empty() => Err(InputError(reason.clone())),
            // The pipeline reads again once everything is settled.
            _ => Ok(None),
        }
    }
}

#[async_trait]
impl Input for Buffered {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        self.begin();
        let mut failures = 0_u32;
        loop {
            // Settlements are handled first, because a read at the end must take all of them into account.
            while let Some((number, settled)) = self.unsettled.try_next() {
                self.settle(number, &settled.outcome);
            }
            // Read before the store, so that a batch that is stored last is not missed.
            let ended = self.shared.ended.load(Ordering::Acquire);
            match self.shared.with(|store| store.next()) {
                Ok(Some((number, batch))) => {
                    return Ok(Some((batch, self.unsettled.add(number))));
                }
                Ok(None) if ended => return self.end(),
                Ok(None) => {}
                Err(reason) => {
                    self.shared
                        .health
                        .not_ready(format!("the buffer cannot be read: {reason}"));
                    failures = failures.saturating_add(1);
                    sleep(RETRY.pause(failures)).await;
                    continue;
                }
            }
            tokio::select! {
                Some((number, settled)) = self.unsettled.next() => self.settle(number, &settled.outcome),
                () = self.shared.news.notified() => {}
            }
        }
    }

    fn stop(&mut self) -> bool {
        self.end.notify_one();
        !self.shared.store().survives()
    }

    async fn close(&mut self) {
        self.end.notify_one();
        if let Some(mut input) = self.input.take() {
            // The input was never read.
            input.close().await;
            let _ = self.shared.behind.set(input.left());
        }
        while self.writer.join_next().await.is_some() {}
        while let Some((number, settled)) = self.unsettled.next().await {
            self.settle(number, &settled.outcome);
        }
    }

    fn left(&self) -> Undelivered {
        let mut left = self.shared.behind.get().copied().unwrap_or_default();
        let (batches, survives) = self
            .shared
            .with(|store| (store.batches(), store.survives()));
        if survives {
            left.persisted = left.persisted.saturating_add(batches);
        } else {
            left.lost = left.lost.saturating_add(batches);
        }
        left
    }
}

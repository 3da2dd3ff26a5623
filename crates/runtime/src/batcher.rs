//! Collects the messages of one output into batches and has them written.

use std::{collections::VecDeque, sync::Arc};

use meterline_core::{
    BatchLimit, BatchPolicy, Cause, Health, HealthHandle, IntCounter, Metrics, Rejection,
    WriterNode,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::info;

use crate::{
    delivery::{Delivery, MessageBatch},
    rejections::Rejections,
    write::BatchWriter,
};

/// Runs until the channel closes and everything is written.
pub(crate) async fn run(
    node: WriterNode,
    mut batches: mpsc::Receiver<MessageBatch>,
    metrics: Metrics,
    health: Health,
    rejections: Arc<Rejections>,
) {
    let mut batcher = Batcher::new(&node, &metrics, &health);
    let rules = Rules {
        accepts_failed: node.accepts_failed,
        objects_only: node.objects_only,
    };
    let writer = Arc::new(BatchWriter::new(
        node,
        &metrics,
        &health,
        Arc::clone(&rejections),
    ));
    let mut writes = JoinSet::new();
    let mut open = true;
    loop {
        while writes.try_join_next().is_some() {}
        let ready = batcher.ready();
        if !ready && !open && batcher.waiting.is_empty() {
            break;
        }
        tokio::select! {
            slot = writer.slot(), if ready => {
                let batch = batcher.take(writer.limit());
                let writer = Arc::clone(&writer);
                writes.spawn(async move { writer.write(batch, slot).await });
            }
            // While a full batch waits for a slot, no messages are received. This is the back-pressure.
            batch = batches.recv(), if open && !ready => match batch {
                Some(batch) => batcher.add(batch, rules, &rejections).await,
                None => {
                    open = false;
                    batcher.flush();
                }
            },
            () = until(batcher.due), if !ready && batcher.due.is_some() => batcher.flush(),
        }
    }
    while writes.join_next().await.is_some() {}
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

const NO_OBJECT: &str = "the message is not a JSON object, so it is not an event; create one with a mapping: \
     `root = #{ … }`";

/// Which messages the output accepts.
#[derive(Clone, Copy)]
struct Rules {
    accepts_failed: bool,
    objects_only: bool,
}

/// The messages that wait to be written.
struct Batcher {
    policy: BatchPolicy,
    waiting: VecDeque<Delivery>,
    bytes: usize,
    /// The number of waiting messages, from the front, that must not wait for others.
    flushing: usize,
    /// When the period of the oldest message ends.
    due: Option<Instant>,
    has_logged_wait: bool,
    /// Reports which messages wait for others.
    health: HealthHandle,
    label: Arc<str>,
    created: IntCounter,
}

impl Batcher {
    fn new(node: &WriterNode, metrics: &Metrics, health: &Health) -> Self {
        let health = health.register(format!("batching {}", node.label));
        health.ready("");
        Self {
            policy: node.batching.clone(),
            waiting: VecDeque::new(),
            bytes: 0,
            flushing: 0,
            due: None,
            has_logged_wait: false,
            health,
            label: Arc::clone(&node.label),
            created: metrics.counter(
                "batch_created",
                "Batches that were made for an output.",
                &[("label", &node.label)],
            ),
        }
    }

    async fn add(&mut self, batch: MessageBatch, rules: Rules, rejections: &Rejections) {
        for Delivery { mut message, ack } in batch.deliveries {
            if !rules.accepts_failed && message.failure().is_some() {
                let rejection = Rejection::new(Cause::Processing, Arc::clone(&self.label), "");
                rejections.reject_failed(message, ack, rejection).await;
                continue;
            }
            // From here on the bytes are fixed, so every retry sends the same.
            match message.fix() {
                Ok(()) if rules.objects_only && !message.is_object() => {
                    let rejection =
                        Rejection::new(Cause::Schema, Arc::clone(&self.label), NO_OBJECT);
                    rejections.reject(message, ack, rejection).await;
                    continue;
                }
                Ok(()) => {}
                Err(error) => {
                    let label = Arc::clone(&self.label);
                    let rejection = Rejection::new(Cause::Encoding, label, error.to_string());
                    rejections.reject(message, ack, rejection).await;
                    continue;
                }
            }
            self.bytes = self.bytes.saturating_add(message.size());
            self.waiting.push_back(Delivery { message, ack });
        }
        if self.due.is_none() && !self.waiting.is_empty() {
            self.due = self.policy.period.map(|period| Instant::now() + period);
        }
        if batch.flush || (batch.ends_batch && self.writes_as_it_comes()) {
            self.flush();
        }
        if batch.ends_batch {
            self.report_waiting();
        }
    }

    fn writes_as_it_comes(&self) -> bool {
        self.policy.count == 0 && self.policy.byte_size == 0 && self.policy.period.is_none()
    }

    /// Reports on `/ready` which messages wait for others, and logs once how to bound the wait.
    fn report_waiting(&mut self) {
        if self.writes_as_it_comes() {
            return;
        }
        let waits = !self.waiting.is_empty() && !self.ready();
        self.health.ready(if waits {
            self.waits_for()
        } else {
            String::new()
        });
        if waits && self.policy.period.is_none() && !self.has_logged_wait {
            self.has_logged_wait = true;
            info!(
                output = %self.label,
                waiting = self.waiting.len(),
                count = self.policy.count,
                "events wait until a batch is full; to bound the wait set `batching.period` \
                 (the variable BATCH_PERIOD of the presets)"
            );
        }
    }

    fn waits_for(&self) -> String {
        let BatchPolicy {
            count,
            period,
            byte_size,
        } = self.policy;
        let mut rules = Vec::new();
        if count > 0 {
            rules.push(format!("BATCH_SIZE={count} (batching.count)"));
        }
        if byte_size > 0 {
            rules.push(format!("{byte_size} bytes (batching.byte_size)"));
        }
        if let Some(period) = period {
            rules.push(format!("BATCH_PERIOD={period:?} (batching.period)"));
        }
        let unset = if period.is_none() {
            "; BATCH_PERIOD (batching.period) is not set"
        } else {
            ""
        };
        let events = self.waiting.len();
        format!("{events} events wait for {}{unset}", rules.join(" or "))
    }

    fn flush(&mut self) {
        self.flushing = self.waiting.len();
        self.due = None;
    }

    /// Whether a batch is ready to be written.
    fn ready(&self) -> bool {
        let BatchPolicy {
            count, byte_size, ..
        } = self.policy;
        self.flushing > 0
            || (count > 0 && self.waiting.len() >= count)
            || (byte_size > 0 && self.bytes >= byte_size)
    }

    /// Takes the next batch of at most `limit` bytes. A single message may be larger.
    fn take(&mut self, limit: usize) -> Vec<Delivery> {
        let or_any = |most: usize| if most == 0 { usize::MAX } else { most };
        let mut most = BatchLimit {
            count: or_any(self.policy.count),
            byte_size: or_any(self.policy.byte_size).min(limit),
        };
        // The batches of an output that collects messages are its own, whatever their limits were before.
        let has_limits = self.writes_as_it_comes();
        let mut batch = Vec::new();
        let mut bytes = 0_usize;
        while let Some(next) = self.waiting.front() {
            if has_limits && let Some(limit) = next.message.batch_limit() {
                most = most.and(*limit);
            }
            let size = next.message.size();
            let is_over = batch.len() >= most.count || bytes.saturating_add(size) > most.byte_size;
            // Messages after a flush belong to the next batch.
            let is_behind = self.flushing > 0 && batch.len() >= self.flushing;
            if (is_over && !batch.is_empty()) || is_behind {
                break;
            }
            bytes = bytes.saturating_add(size);
            batch.extend(self.waiting.pop_front());
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.flushing = self.flushing.saturating_sub(batch.len());
        if self.waiting.is_empty() {
            self.due = None;
            self.health.ready("");
        }
        self.created.inc();
        batch
    }
}

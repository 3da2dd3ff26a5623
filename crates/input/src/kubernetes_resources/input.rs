//! The input: yields windows, and passes the results of their delivery to the ledger.

use std::{sync::Arc, time::Duration, vec};

use async_trait::async_trait;
use meterline_core::{Ack, Batch, Input, InputError, Outcome, Settled, Undelivered};
use meterline_ledger::{DeliveryResult, DeliveryTag, WindowBatch};
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout},
};
use tracing::{debug, error, warn};

use super::{
    delivery,
    leader::Membership,
    ledger::{DueWindow, SharedLedger},
    messages,
    metrics::LedgerReport,
    object::BilledObject,
    options::Options,
    state::StateWriter,
    table_watch::TableWatch,
    unknown_devices::UnknownDevices,
    watch::Watch,
};
use crate::settlements::Settlements;

/// How long the last write of the state file may take.
const LAST_WRITE: Duration = Duration::from_secs(5);
/// How many pieces of a window one batch has. As messages, the pieces of a hundred thousand objects take more
/// memory than the ledger of them, so each batch is made when the pipeline can accept it.
const PIECES: usize = 1_024;
/// Outputs retry by themselves, so a window that failed met something unexpected: it is not sent again at once.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long a read waits at most before it checks again. The wall clock may be set meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// A window that is being sent.
struct OutgoingWindow {
    batch: WindowBatch<BilledObject>,
    /// How many of its pieces were yielded.
    sent: usize,
    /// The acknowledgement of each batch that is still to be yielded.
    acks: vec::IntoIter<Ack>,
}

/// A task, and the signal that ends it.
struct Running {
    task: JoinHandle<()>,
    end: Arc<Notify>,
}

/// The input itself.
pub(super) struct KubernetesResources {
    options: Options,
    ledger: Arc<SharedLedger>,
    report: Arc<LedgerReport>,
    /// Watches that the first read starts.
    waiting: Vec<Watch>,
    /// What follows the files of tables; the first read starts it.
    tables: Vec<TableWatch>,
    /// Aborted when this is dropped.
    watches: JoinSet<()>,
    /// Writes the state file, if there is one; the first read starts it.
    writer: Option<StateWriter>,
    writing: Option<Running>,
    /// Takes part in the election of a leader, if there is one, from the first read on.
    election: Option<Membership>,
    /// A window that is sent once the state file has it.
    due: Option<DueWindow>,
    /// A window of which a part was yielded.
    outgoing: Option<OutgoingWindow>,
    /// Whether no further window is begun.
    is_stopping: bool,
    unsettled: Settlements<DeliveryTag>,
    /// Reports devices that no mapping can bill, if any are billed.
    unknown: Option<UnknownDevices>,
    /// After a window failed, when the next one may be sent.
    paused_until: Option<Instant>,
}

impl KubernetesResources {
    pub(super) fn new(
        waiting: Vec<Watch>,
        tables: Vec<TableWatch>,
        writer: Option<StateWriter>,
        election: Option<Membership>,
        options: Options,
        ledger: Arc<SharedLedger>,
        report: Arc<LedgerReport>,
    ) -> Self {
        Self {
            options,
            ledger,
            report,
            waiting,
            tables,
            watches: JoinSet::new(),
            writer,
            writing: None,
            election,
            due: None,
            outgoing: None,
            is_stopping: false,
            unsettled: Settlements::default(),
            unknown: None,
            paused_until: None,
        }
    }

    /// Reports devices that no mapping can bill.
    pub(super) fn reporting(self, unknown: UnknownDevices) -> Self {
        Self {
            unknown: Some(unknown),
            ..self
        }
    }

    /// Starts the tasks, the first time.
    #[expect(
        clippy::disallowed_methods,
        reason = "the input waits for the task when it is closed"
    )]
    fn start(&mut self) {
        if let Some(election) = &self.election {
            election.start();
        }
        for watch in std::mem::take(&mut self.waiting) {
            self.watches.spawn(watch.run());
        }
        for table in std::mem::take(&mut self.tables) {
            self.watches.spawn(table.run());
        }
        if let Some(writer) = self.writer.take() {
            let end = Arc::new(Notify::new());
            let task = tokio::spawn(writer.run(Arc::clone(&end)));
            self.writing = Some(Running { task, end });
        }
    }

    /// Passes the result of a window to the ledger.
    fn settle(&mut self, tag: DeliveryTag, outcomes: Settled) {
        if outcomes.outcome.is_settled() {
            self.report.window_settled();
        } else {
            warn!(
                outcome = ?outcomes.outcome,
                "a window was not delivered; its events are sent again"
            );
            self.paused_until = Some(Instant::now() + PAUSE_AFTER_FAILURE);
        }
        if let Some(unknown) = &mut self.unknown {
            unknown.settled(tag, &outcomes);
        }
        let now = self.options.clock.seconds();
        self.ledger.settle(tag, |ledger| {
            let is_plain =
                outcomes.outcome == Outcome::Delivered && outcomes.undelivered.is_empty();
            if is_plain {
                return DeliveryResult::Delivered;
            }
            delivery::result(ledger.handed_out(tag), outcomes, now)
        });
    }

    /// The next batch, if one is ready.
    fn next(&mut self) -> Option<(Batch, Ack)> {
        if self.outgoing.is_none() {
            self.outgoing = self.next_window();
        }
        let outgoing = self.outgoing.as_mut()?;
        let pieces = outgoing.batch.pieces.len();
        let end = outgoing.sent.saturating_add(PIECES).min(pieces);
        let ack = outgoing.acks.next()?;
        let batch = messages::batch(
            &outgoing.batch,
            outgoing.sent..end,
            self.ledger.interval(),
            self.options.resource_type,
            self.options.cluster_name.as_ref(),
        );
        outgoing.sent = end;
        // If the Lease ran out meanwhile the rest is not settled, and all of the window is sent again.
        if end == pieces || !self.ledger.is_leader() {
            self.outgoing = None;
        }
        Some((batch, ack))
    }

    /// The next window, if one is ready.
    fn next_window(&mut self) -> Option<OutgoingWindow> {
        let is_paused = self
            .paused_until
            .is_some_and(|until| Instant::now() < until);
        if is_paused || self.is_stopping {
            return None;
        }
        if self.due.is_none() {
            self.due = self.due_window();
        }
        let due = self.due.as_ref()?;
        if !self.ledger.is_written(due.generation) {
            return None;
        }
        let DueWindow { batch, .. } = self.due.take()?;
        if !self.ledger.is_leader() {
            // The Lease ran out while the state was written. The window is made again once this replica leads.
            self.ledger.settle(batch.tag, |_| DeliveryResult::Failed);
            return None;
        }
        debug!(
            window = %messages::rfc3339(batch.window.start),
            pieces = batch.pieces.len(),
            kind = ?batch.kind,
            "sending a window"
        );
        if let Some(unknown) = &mut self.unknown {
            unknown.sent(&batch);
        }
        let ack = self.unsettled.add(batch.tag);
        let batches = batch.pieces.len().div_ceil(PIECES).max(1);
        Some(OutgoingWindow {
            batch,
            sent: 0,
            acks: ack.split(batches).into_iter(),
        })
    }

    fn due_window(&self) -> Option<DueWindow> {
        let (window, lost) = self.ledger.next(self.options.clock.seconds());
        if lost > 0 {
            error!(
                seconds = lost,
                "windows older than `max_backlog` could not be delivered and are given up: these \
                 object-seconds are not billed"
            );
        }
        window
    }

    /// How long until a window may be ready.
    fn wait(&self) -> Duration {
        let until_due = self.options.clock.until(self.ledger.next_due());
        until_due
            .saturating_add(self.options.settle)
            .clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }
}

#[async_trait]
impl Input for KubernetesResources {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        self.start();
        loop {
            if let Some(batch) = self.next() {
                return Ok(Some(batch));
            }
            if self.is_stopping {
                return Ok(None);
            }
            let wait = self.wait();
            tokio::select! {
                Some((tag, outcomes)) = self.unsettled.next() => self.settle(tag, outcomes),
                () = self.ledger.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
                Some(ended) = self.watches.join_next() => {
                    // A watch never ends by itself, so it panicked.
                    return Err(InputError(format!("a watch stopped unexpectedly: {ended:?}")));
                }
            }
        }
    }

    /// What was not delivered is restored from the state file, or from the times that the API server has. Only a
    /// window of which a part was yielded is completed: otherwise that part would arrive again.
    fn stop(&mut self) -> bool {
        self.is_stopping = true;
        self.outgoing.is_some()
    }

    async fn close(&mut self) {
        self.watches.shutdown().await;
        self.outgoing = None;
        // Every acknowledgement has been resolved or dropped by now.
        while let Some((tag, outcomes)) = self.unsettled.next().await {
            self.settle(tag, outcomes);
        }
        self.report
            .update(&self.ledger, self.options.clock.seconds());
        if let Some(election) = self.election.take() {
            election.leave().await;
        }
        if let Some(Running { task, end }) = self.writing.take() {
            end.notify_one();
            // It ends with a last write; the process does not wait for a disk that hangs.
            let _ = timeout(LAST_WRITE, task).await;
        }
    }

    /// No batch exists only in this process.
    fn left(&self) -> Undelivered {
        Undelivered::default()
    }
}

#[cfg(test)]
mod tests;

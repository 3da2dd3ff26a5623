//! The reader: hands out windows, and learns what became of them.

use std::{pin::Pin, sync::Arc, time::Duration, vec};

use async_trait::async_trait;
use futures::{StreamExt, stream::FuturesUnordered};
use meterline_core::{Ack, Batch, Input, InputError, Settled, Settlement, Undelivered};
use meterline_ledger::{DeliveryTag, WindowBatch};
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout},
};
use tracing::{debug, warn};

use super::{
    leader::LeaderElector,
    ledger::SharedLedger,
    messages,
    object::BilledObject,
    state::{Report, StateFile, keep},
    watch::Watch,
};

/// How long the last write of the state file may take.
const LAST_WRITE: Duration = Duration::from_secs(5);
/// A window goes out in batches of so many pieces, each when there is room for it: as messages, the
/// pieces of a hundred thousand objects take more memory than the ledger of them.
const PIECES: usize = 4_096;
/// Outputs retry by themselves, so a window that failed met something unexpected: not in a hot loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

type Unsettled = Pin<Box<dyn Future<Output = (DeliveryTag, Settled)> + Send>>;

/// A window that goes out.
struct OutgoingWindow {
    window_batch: WindowBatch<BilledObject>,
    /// How many of its pieces went out.
    sent: usize,
    /// A part of the duty to settle it for each batch that is still to go out.
    acks: vec::IntoIter<Ack>,
}

/// The input itself.
pub(super) struct KubernetesResources {
    /// Watches that the first read begins.
    waiting: Vec<Watch>,
    /// Ended when this is dropped.
    watches: JoinSet<()>,
    /// Keeps the state file, if there is one.
    journal: Option<StateWriter>,
    /// Takes part in the election of a leader, if there is one.
    candidate: Option<LeaderElector>,
    /// The candidate's task, and what ends it.
    election: Option<(JoinHandle<()>, Arc<Notify>)>,
    /// A window that goes out once the state file has it, which is from this generation on.
    held: Option<(WindowBatch<BilledObject>, u64)>,
    /// A window of which a part went out.
    outgoing: Option<OutgoingWindow>,
    /// Whether no further window is begun.
    is_stopping: bool,
    unsettled: FuturesUnordered<Unsettled>,
    cluster: Option<Arc<str>>,
    shared: Arc<SharedLedger>,
    /// After a window failed, the pause before it comes again.
    paused_until: Option<Instant>,
}

/// What keeps the state file.
pub(super) enum StateWriter {
    /// Begun by the first read.
    Waiting(Box<(StateFile, Report)>),
    /// The task, and what ends it.
    Running(JoinHandle<()>, Arc<Notify>),
}

impl KubernetesResources {
    pub(super) fn new(
        waiting: Vec<Watch>,
        journal: Option<StateWriter>,
        candidate: Option<LeaderElector>,
        cluster: Option<Arc<str>>,
        shared: Arc<SharedLedger>,
    ) -> Self {
        Self {
            waiting,
            watches: JoinSet::new(),
            journal,
            candidate,
            election: None,
            held: None,
            outgoing: None,
            is_stopping: false,
            unsettled: FuturesUnordered::new(),
            cluster,
            shared,
            paused_until: None,
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the reader waits for both tasks when it is closed"
    )]
    fn begin(&mut self) {
        if let Some(candidate) = self.candidate.take() {
            let end = Arc::new(Notify::new());
            let task = tokio::spawn(candidate.run(Arc::clone(&end)));
            self.election = Some((task, end));
        }
        for watch in std::mem::take(&mut self.waiting) {
            self.watches.spawn(watch.run());
        }
        self.journal = self.journal.take().map(|journal| match journal {
            StateWriter::Waiting(waiting) => {
                let (file, report) = *waiting;
                let end = Arc::new(Notify::new());
                let shared = Arc::clone(&self.shared);
                let task = tokio::spawn(keep(shared, file, report, Arc::clone(&end)));
                StateWriter::Running(task, end)
            }
            running @ StateWriter::Running(..) => running,
        });
    }

    fn settle(&mut self, tag: DeliveryTag, outcomes: Settled) {
        if !outcomes.outcome.is_settled() {
            warn!(
                outcome = ?outcomes.outcome,
                "a window was not delivered; its events come again"
            );
            self.paused_until = Some(Instant::now() + PAUSE_AFTER_FAILURE);
        }
        self.shared.settle(tag, outcomes);
    }

    /// The next batch if one is ready.
    fn next(&mut self) -> Option<(Batch, Ack)> {
        if self.outgoing.is_none() {
            self.outgoing = self.next_window();
        }
        let outgoing = self.outgoing.as_mut()?;
        let pieces = outgoing.window_batch.pieces.len();
        let end = outgoing.sent.saturating_add(PIECES).min(pieces);
        let ack = outgoing.acks.next()?;
        let batch = messages::batch(
            &outgoing.window_batch,
            outgoing.sent..end,
            self.shared.windows(),
            self.shared.resource_type,
            self.cluster.as_ref(),
        );
        outgoing.sent = end;
        // If the Lease ran out meanwhile the rest is not settled, and all of the window comes again.
        if end == pieces || !self.shared.is_leader() {
            self.outgoing = None;
        }
        Some((batch, ack))
    }

    /// The next window if one is ready.
    fn next_window(&mut self) -> Option<OutgoingWindow> {
        let is_paused = self
            .paused_until
            .is_some_and(|until| Instant::now() < until);
        if is_paused || self.is_stopping {
            return None;
        }
        if self.held.is_none() {
            self.held = self.shared.next(self.shared.clock.seconds());
        }
        let (_, generation) = self.held.as_ref()?;
        if !self.shared.is_written(*generation) {
            return None;
        }
        let (window_batch, _) = self.held.take()?;
        if !self.shared.is_leader() {
            // The Lease ran out while the state was written; if it comes back, so does the window.
            self.shared.withdraw(window_batch.tag);
            return None;
        }
        debug!(
            window = %messages::rfc3339(window_batch.window.start),
            pieces = window_batch.pieces.len(),
            kind = ?window_batch.kind,
            "a window goes out"
        );
        let (ack, settlement) = Ack::new();
        self.unsettled
            .push(Box::pin(settled(window_batch.tag, settlement)));
        let batches = window_batch.pieces.len().div_ceil(PIECES).max(1);
        Some(OutgoingWindow {
            window_batch,
            sent: 0,
            acks: ack.split(batches).into_iter(),
        })
    }
}

async fn settled(tag: DeliveryTag, mut settlement: Settlement) -> (DeliveryTag, Settled) {
    (tag, settlement.settled().await)
}

#[async_trait]
impl Input for KubernetesResources {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        self.begin();
        loop {
            if let Some(batch) = self.next() {
                return Ok(Some(batch));
            }
            if self.is_stopping {
                return Ok(None);
            }
            let due = self.shared.next_due();
            let ready_in = self
                .shared
                .clock
                .until(due)
                .saturating_add(self.shared.settle)
                // The wall clock may be set while we sleep, so never sleep for long by it.
                .clamp(Duration::from_millis(20), Duration::from_secs(1));
            tokio::select! {
                Some((tag, outcomes)) = self.unsettled.next() => self.settle(tag, outcomes),
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep(ready_in) => {}
                Some(ended) = self.watches.join_next() => {
                    // A watch never ends by itself, so it panicked.
                    return Err(InputError(format!("a watch stopped unexpectedly: {ended:?}")));
                }
            }
        }
    }

    /// The ledger knows what was not delivered; the state file, or the times that the API server has,
    /// bring it again. Only a window that is going out goes out whole: else what arrived of it would
    /// arrive again.
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
        self.shared.update_gauges(self.shared.clock.seconds());
        if let Some((task, end)) = self.election.take() {
            end.notify_one();
            // It gives the Lease back, within a time limit of its own.
            let _ = task.await;
        }
        if let Some(StateWriter::Running(task, end)) = self.journal.take() {
            end.notify_one();
            // It ends with a last write; a disk that hangs is not waited for.
            let _ = timeout(LAST_WRITE, task).await;
        }
    }

    /// Windows are no batches that only this process has.
    fn left(&self) -> Undelivered {
        Undelivered::default()
    }
}

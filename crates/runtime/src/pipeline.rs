//! Runs a pipeline from its first batch to its last ack.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use meterline_core::{
    Ack, Batch, Chain, Health, Input, InputError, IntCounter, Message, Metrics, OutputNode,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    output_tree::OutputTree,
    process::{self, Job},
    rejections::Rejections,
};

/// All parts of a pipeline, built and ready to run.
pub struct Pipeline {
    /// The source of the batches.
    pub input: Box<dyn Input>,
    /// The processors of the batches: one chain for each thread, all alike.
    pub chains: Vec<Chain>,
    /// The destination of the processed messages.
    pub output: OutputNode,
    /// The metrics of all parts.
    pub metrics: Metrics,
    /// The health of all parts.
    pub health: Health,
    /// How long a stop may take. After that, the pipeline gives up what is not delivered.
    pub shutdown_timeout: Duration,
}

/// Why a pipeline ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The input has no more batches.
    Input,
    /// The pipeline was stopped.
    Stopped,
    /// The input can never yield again, for this reason.
    Failed(String),
}

/// How a pipeline ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Why the pipeline ended.
    pub ended: Ended,
    /// Batches that were read, and were neither delivered nor rejected before the deadline.
    pub unsettled: usize,
    /// Batches that a buffer keeps for the next start.
    pub persisted: usize,
}

/// Whether a batch is settled, once its outcome is known.
type Pending = FuturesUnordered<BoxFuture<'static, bool>>;

const BROKEN: &str = "a part of the pipeline panicked; what is not delivered is not acknowledged";

impl Pipeline {
    /// Runs until the input has no more batches. After `stop` it runs for at most `shutdown_timeout`.
    ///
    /// After a stop the input accepts no new data. The pipeline processes what it has read, and what a
    /// buffer would lose. It flushes waiting messages and finishes the requests in flight. What is left
    /// at the deadline is not acknowledged, so the input yields it again.
    pub async fn run(mut self, stop: CancellationToken) -> Report {
        let rejections = Arc::new(Rejections::new(&self.metrics));
        let mut leaves = JoinSet::new();
        let mut stages = JoinSet::new();
        let sink = OutputTree::start(
            self.output,
            &self.metrics,
            &self.health,
            &rejections,
            &mut leaves,
        );
        let (sender, receiver) = mpsc::channel(1);
        process::start(
            self.chains,
            receiver,
            sink,
            &self.metrics,
            &self.health,
            &mut stages,
        );
        let mut reader = Reader::new(self.input.as_mut(), sender, &self.metrics);
        let mut ended = reader.read(stop.cancelled()).await;
        let deadline = stop
            .is_cancelled()
            .then(|| Instant::now() + self.shutdown_timeout);
        if let (Ended::Stopped, Some(deadline)) = (&ended, deadline)
            && let Ended::Failed(reason) = reader.finish(deadline).await
        {
            ended = Ended::Failed(reason);
        }
        let mut drain = Drain {
            // Without the reader and its sender, each stage ends in turn and flushes its messages.
            pending: reader.pending,
            stages,
            leaves,
            unsettled: 0,
            panicked: false,
        };
        drop(reader.sender);
        drop(reader.held);
        drain.run(&stop, deadline, self.shutdown_timeout).await;
        let (unsettled, panicked) = drain.end().await;
        if panicked && !matches!(ended, Ended::Failed(_)) {
            ended = Ended::Failed(BROKEN.to_owned());
        }
        self.input.close().await;
        let left = self.input.left();
        let report = Report {
            ended,
            unsettled: unsettled.max(left.lost),
            persisted: left.persisted,
        };
        report.log(left.lost);
        report
    }
}

impl Report {
    fn log(&self, lost: usize) {
        if lost > 0 {
            error!(
                batches = lost,
                "not everything was delivered in time; the remaining batches are lost"
            );
        } else if self.unsettled > 0 {
            warn!(
                batches = self.unsettled,
                "not everything was delivered in time; the input yields the remaining batches again"
            );
        }
        if self.persisted > 0 {
            info!(
                batches = self.persisted,
                "a buffer keeps the undelivered batches; the next start delivers them"
            );
        }
    }
}

struct Reader<'a> {
    input: &'a mut dyn Input,
    sender: mpsc::Sender<Job>,
    pending: Pending,
    /// The job that was read and not forwarded yet.
    held: Option<Job>,
    received: IntCounter,
    delivered: IntCounter,
}

impl<'a> Reader<'a> {
    fn new(input: &'a mut dyn Input, sender: mpsc::Sender<Job>, metrics: &Metrics) -> Self {
        Self {
            input,
            sender,
            pending: Pending::new(),
            held: None,
            received: metrics.counter("input_received", "Messages that were read.", &[]),
            delivered: metrics.counter(
                "input_delivered",
                "Messages of the input that were delivered, each counted once, independent of the number of outputs.",
                &[],
            ),
        }
    }

    /// Reads until the input has no more batches or until `stop`. The job that was read last may be
    /// held.
    async fn read(&mut self, stop: impl Future<Output = ()>) -> Ended {
        let mut stop = pin!(stop);
        loop {
            if let Err(ended) = self.forward(stop.as_mut()).await {
                return ended;
            }
            let batch = tokio::select! {
                biased;
                () = &mut stop => return Ended::Stopped,
                Some(_) = self.pending.next() => continue,
                batch = self.input.read() => batch,
            };
            match batch {
                Ok(Some((batch, ack))) => {
                    self.held = Some(self.tracked(batch, ack));
                }
                Ok(None) => {
                    // Waiting messages must be flushed now, and the input may yield failed ones again.
                    self.held = Some(Job::Flush);
                    if let Err(ended) = self.forward(stop.as_mut()).await {
                        return ended;
                    }
                    if self.pending.is_empty() {
                        info!("the input has ended");
                        return Ended::Input;
                    }
                    while !self.pending.is_empty() {
                        tokio::select! {
                            () = &mut stop => return Ended::Stopped,
                            _ = self.pending.next() => {}
                        }
                    }
                }
                Err(InputError(reason)) => return Ended::Failed(reason),
            }
        }
    }

    /// After a stop, and until `deadline`: forwards the held job, and reads what only this process has.
    async fn finish(&mut self, deadline: Instant) -> Ended {
        let late = sleep_until(deadline);
        if self.input.stop() {
            return self.read(late).await;
        }
        match self.forward(pin!(late)).await {
            Ok(()) => Ended::Stopped,
            Err(ended) => ended,
        }
    }

    /// Returns a job for this batch. Its outcome is counted here before the input gets it.
    fn tracked(&self, batch: Batch, ack: Ack) -> Job {
        let (inner, mut settlement) = Ack::new();
        let batch = numbered(batch);
        let (count, delivered) = (count(&batch), self.delivered.clone());
        self.received.inc_by(count as u64);
        self.pending.push(Box::pin(async move {
            let settled = settlement.settled().await;
            let is_settled = settled.outcome.is_settled();
            if is_settled {
                let delivered_now = count.saturating_sub(settled.undelivered.len());
                delivered.inc_by(delivered_now as u64);
            }
            ack.resolve_as(settled);
            is_settled
        }));
        Job::Batch(batch, inner)
    }

    /// Forwards the held job as soon as the next stage can accept it. Acks are forwarded meanwhile. If
    /// `stop` comes first, the job stays held.
    async fn forward(&mut self, mut stop: Pin<&mut impl Future<Output = ()>>) -> Result<(), Ended> {
        while self.held.is_some() {
            tokio::select! {
                biased;
                permit = self.sender.reserve() => {
                    let Ok(permit) = permit else {
                        return Err(Ended::Failed(BROKEN.to_owned()));
                    };
                    if let Some(work) = self.held.take() {
                        permit.send(work);
                    }
                }
                Some(_) = self.pending.next() => {}
                () = &mut stop => return Err(Ended::Stopped),
            }
        }
        Ok(())
    }
}

/// Numbers the messages of a batch, so that the outcome of each one is known.
fn numbered(batch: Batch) -> Batch {
    if batch.iter().any(|message| message.origin().is_some()) {
        return batch;
    }
    let numbers = batch.into_iter().zip(0..);
    numbers
        .map(|(message, number)| message.with_origin(number))
        .collect()
}

/// Returns how many messages of the input a numbered batch holds. The processors of the input may have made
/// several of one, which follow each other.
fn count(batch: &[Message]) -> usize {
    batch
        .chunk_by(|one, next| one.origin().is_some() && one.origin() == next.origin())
        .count()
}

/// What is left when reading has ended.
struct Drain {
    pending: Pending,
    stages: JoinSet<()>,
    leaves: JoinSet<()>,
    /// Batches that ended without being settled, and that are not read again.
    unsettled: usize,
    panicked: bool,
}

impl Drain {
    /// Waits until everything has ended; after a stop, only until the deadline.
    async fn run(
        &mut self,
        stop: &CancellationToken,
        mut deadline: Option<Instant>,
        timeout: Duration,
    ) {
        while !(self.pending.is_empty() && self.stages.is_empty() && self.leaves.is_empty()) {
            tokio::select! {
                Some(is_settled) = self.pending.next() => self.count(usize::from(!is_settled)),
                Some(ended) = self.stages.join_next() => self.panicked |= ended.is_err(),
                Some(ended) = self.leaves.join_next() => self.panicked |= ended.is_err(),
                () = stop.cancelled(), if deadline.is_none() => {
                    deadline = Some(Instant::now() + timeout);
                }
                () = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline).await,
                        None => std::future::pending().await,
                    }
                } => {
                    self.count(self.pending.len());
                    // Something is in flight, even if no batch is counted.
                    self.unsettled = self.unsettled.max(1);
                    return;
                }
            }
        }
    }

    fn count(&mut self, unsettled: usize) {
        self.unsettled = self.unsettled.saturating_add(unsettled);
    }

    /// Drops the remaining acks, which reports their batches to the input as lost.
    async fn end(mut self) -> (usize, bool) {
        self.stages.shutdown().await;
        self.leaves.shutdown().await;
        (self.unsettled, self.panicked)
    }
}

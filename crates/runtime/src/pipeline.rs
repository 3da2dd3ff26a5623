//! A pipeline from its first batch to its last ack.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use meterline_core::{
    Ack, Batch, Chain, Health, Input, InputError, IntCounter, Metrics, OutputNode,
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

/// Everything that a pipeline is made of, built and ready to run.
pub struct Pipeline {
    /// Where batches come from.
    pub input: Box<dyn Input>,
    /// What happens to them: one chain of processors for each thread, all alike.
    pub chains: Vec<Chain>,
    /// Where they go.
    pub output: OutputNode,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// Where everything says how it is.
    pub health: Health,
    /// How long a stop may take until what is not delivered is given up.
    pub shutdown_timeout: Duration,
}

/// Why a pipeline ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The input has no more.
    Input,
    /// It was told to stop.
    Stopped,
    /// The input can never yield again, for this reason.
    Failed(String),
}

/// How a pipeline ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Why.
    pub ended: Ended,
    /// Batches that were read and neither delivered nor rejected when the time was over.
    pub unsettled: usize,
    /// Batches that a buffer keeps for the next start.
    pub persisted: usize,
}

/// Whether a batch is settled, once its outcome is known.
type Pending = FuturesUnordered<BoxFuture<'static, bool>>;

const BROKEN: &str = "a part of the pipeline panicked; what is not delivered is not acknowledged";

impl Pipeline {
    /// Runs until the input has no more, or until `stop` and then for at most `shutdown_timeout`.
    ///
    /// A stop is orderly: the input takes nothing in any more, what was read and what a buffer would
    /// lose is processed, what waits is flushed, and what is being written is written. What is left
    /// when the time is over is given up unacknowledged, so that its input brings it again.
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
            // With the reader and its sender every stage ends in turn, and flushes what it has.
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
        report.tell(left.lost);
        report
    }
}

impl Report {
    fn tell(&self, lost: usize) {
        if lost > 0 {
            error!(
                batches = lost,
                "not everything was delivered in time; nothing else has what is left: it is lost"
            );
        } else if self.unsettled > 0 {
            warn!(
                batches = self.unsettled,
                "not everything was delivered in time; what is left comes again"
            );
        }
        if self.persisted > 0 {
            info!(
                batches = self.persisted,
                "a buffer keeps what is not delivered; the next start delivers it"
            );
        }
    }
}

struct Reader<'a> {
    input: &'a mut dyn Input,
    sender: mpsc::Sender<Job>,
    pending: Pending,
    /// Read and not handed on yet.
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
                "Messages of the input that were delivered, each once, however many outputs took it.",
                &[],
            ),
        }
    }

    /// Reads until the input has no more or until `stop`. What was read last may be held.
    async fn read(&mut self, stop: impl Future<Output = ()>) -> Ended {
        let mut stop = pin!(stop);
        loop {
            if let Err(ended) = self.hand_on(stop.as_mut()).await {
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
                    self.received.inc_by(batch.len() as u64);
                    self.held = Some(self.tracked(batch, ack));
                }
                Ok(None) => {
                    // What waits for company must go now; and what fails may have to come again.
                    self.held = Some(Job::Flush);
                    if let Err(ended) = self.hand_on(stop.as_mut()).await {
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

    /// After a stop, and until `deadline`: hands on what is held, and reads what only this process has.
    async fn finish(&mut self, deadline: Instant) -> Ended {
        let late = sleep_until(deadline);
        if self.input.stop() {
            return self.read(late).await;
        }
        match self.hand_on(pin!(late)).await {
            Ok(()) => Ended::Stopped,
            Err(ended) => ended,
        }
    }

    /// A batch whose outcome is known here before it goes back to the input.
    fn tracked(&self, batch: Batch, ack: Ack) -> Job {
        let (inner, mut settlement) = Ack::new();
        let batch = numbered(batch);
        let (count, delivered) = (batch.len(), self.delivered.clone());
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

    /// Waits for room for what is held; acks are forwarded meanwhile. What there is no room for until
    /// `stop` stays held.
    async fn hand_on(&mut self, mut stop: Pin<&mut impl Future<Output = ()>>) -> Result<(), Ended> {
        while self.held.is_some() {
            tokio::select! {
                biased;
                room = self.sender.reserve() => {
                    let Ok(room) = room else {
                        return Err(Ended::Failed(BROKEN.to_owned()));
                    };
                    if let Some(work) = self.held.take() {
                        room.send(work);
                    }
                }
                Some(_) = self.pending.next() => {}
                () = &mut stop => return Err(Ended::Stopped),
            }
        }
        Ok(())
    }
}

/// A batch whose messages have numbers, so that it is known what became of each.
fn numbered(batch: Batch) -> Batch {
    if batch.iter().any(|message| message.origin().is_some()) {
        return batch;
    }
    let numbers = batch.into_iter().zip(0..);
    numbers
        .map(|(message, number)| message.with_origin(number))
        .collect()
}

/// What is left when nothing is read any more.
struct Drain {
    pending: Pending,
    stages: JoinSet<()>,
    leaves: JoinSet<()>,
    /// Batches that came to an end without being settled; nobody reads them again.
    unsettled: usize,
    panicked: bool,
}

impl Drain {
    /// Waits until everything has come to an end; after a stop only so long.
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
                    // Something is under way, though it is nothing that can be counted.
                    self.unsettled = self.unsettled.max(1);
                    return;
                }
            }
        }
    }

    fn count(&mut self, unsettled: usize) {
        self.unsettled = self.unsettled.saturating_add(unsettled);
    }

    /// Whatever still holds an ack is dropped here, which says "lost" to the input.
    async fn end(mut self) -> (usize, bool) {
        self.stages.shutdown().await;
        self.leaves.shutdown().await;
        (self.unsettled, self.panicked)
    }
}

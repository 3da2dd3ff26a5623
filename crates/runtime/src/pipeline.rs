//! A pipeline from its first batch to its last ack.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use meterline_core::{Ack, Batch, Health, Input, InputError, IntCounter, Metrics, OutputNode};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    process::{self, Chain, Work},
    rejections::Rejections,
    sink::Sink,
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
    /// Batches that were read and not settled when the time was over.
    pub unsettled: usize,
}

type Pending = FuturesUnordered<BoxFuture<'static, ()>>;

impl Pipeline {
    /// Runs until the input has no more, or until `stop` and then for at most `shutdown_timeout`.
    ///
    /// A stop is orderly: the input is not read any more, what was read is processed, what waits
    /// is flushed, and what is being written is written. What is left when the time is over is
    /// given up unacknowledged, so that its input brings it again.
    pub async fn run(mut self, stop: CancellationToken) -> Report {
        let rejections = Arc::new(Rejections::new(&self.metrics));
        let mut leaves = JoinSet::new();
        let mut stages = JoinSet::new();
        let sink = Sink::start(
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
        let mut reader = Reader {
            input: self.input.as_mut(),
            sender,
            pending: Pending::new(),
            received: self
                .metrics
                .counter("input_received", "Messages that were read.", &[]),
        };
        let ended = reader.read(&stop).await;
        let Reader {
            sender, pending, ..
        } = reader;
        // With the sender every stage ends in turn, and flushes what it has.
        drop(sender);
        let unsettled = drain(
            pending,
            &mut stages,
            &mut leaves,
            &stop,
            self.shutdown_timeout,
        )
        .await;
        // Whatever still holds an ack is dropped here, which says "lost" to the input.
        stages.shutdown().await;
        leaves.shutdown().await;
        self.input.close().await;
        if unsettled > 0 {
            warn!(
                batches = unsettled,
                "not everything was delivered in time; what is left comes again"
            );
        }
        Report { ended, unsettled }
    }
}

struct Reader<'a> {
    input: &'a mut dyn Input,
    sender: mpsc::Sender<Work>,
    pending: Pending,
    received: IntCounter,
}

impl Reader<'_> {
    async fn read(&mut self, stop: &CancellationToken) -> Ended {
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopped,
                Some(()) = self.pending.next() => continue,
                batch = self.input.read() => batch,
            };
            match batch {
                Ok(Some((batch, ack))) => {
                    self.received.inc_by(batch.len() as u64);
                    let work = self.tracked(batch, ack);
                    if !self.hand_on(work, stop).await {
                        return Ended::Stopped;
                    }
                }
                Ok(None) => {
                    // What waits for company must go now; and what fails may have to come again.
                    if !self.hand_on(Work::Flush, stop).await {
                        return Ended::Stopped;
                    }
                    if self.pending.is_empty() {
                        info!("the input has ended");
                        return Ended::Input;
                    }
                    while !self.pending.is_empty() {
                        tokio::select! {
                            () = stop.cancelled() => return Ended::Stopped,
                            _ = self.pending.next() => {}
                        }
                    }
                }
                Err(InputError(reason)) => return Ended::Failed(reason),
            }
        }
    }

    /// A batch whose outcome is known here before it goes back to the input.
    fn tracked(&self, batch: Batch, ack: Ack) -> Work {
        let (inner, mut settlement) = Ack::new();
        self.pending.push(Box::pin(async move {
            ack.resolve(settlement.outcome().await);
        }));
        Work::Batch(batch, inner)
    }

    /// Waits for room; acks are forwarded meanwhile. False when it was told to stop.
    async fn hand_on(&mut self, work: Work, stop: &CancellationToken) -> bool {
        let mut sending = pin!(self.sender.send(work));
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return sent.is_ok(),
                Some(()) = self.pending.next() => {}
                () = stop.cancelled() => return false,
            }
        }
    }
}

/// Waits until everything is settled; after a stop only so long. Gives back how much is not.
async fn drain(
    mut pending: Pending,
    stages: &mut JoinSet<()>,
    leaves: &mut JoinSet<()>,
    stop: &CancellationToken,
    timeout: Duration,
) -> usize {
    let mut deadline = stop.is_cancelled().then(|| Instant::now() + timeout);
    loop {
        if pending.is_empty() && stages.is_empty() && leaves.is_empty() {
            return 0;
        }
        tokio::select! {
            Some(()) = pending.next() => {}
            Some(_) = stages.join_next() => {}
            Some(_) = leaves.join_next() => {}
            () = stop.cancelled(), if deadline.is_none() => {
                deadline = Some(Instant::now() + timeout);
            }
            () = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => return pending.len().max(1),
        }
    }
}

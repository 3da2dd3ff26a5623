//! An input with its own processors.

use async_trait::async_trait;
use futures::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesOrdered,
};
use meterline_core::{Ack, Batch, BuildContext, Chain, Input, InputError, Outcome, Undelivered};

use crate::{
    process::PANICKED,
    workers::{Processed, Results, Workers, cut},
};

/// A batch of the input after processing; `None` if the processing did not return.
type Working = BoxFuture<'static, (Option<Processed>, Ack)>;

/// An input whose batches are processed on threads and come out in the order in which they were read.
struct ProcessedInput {
    input: Box<dyn Input>,
    workers: Workers,
    results: Results,
    /// The most batches that are processed at once.
    most: usize,
    working: FuturesOrdered<Working>,
    /// How the input ended. It is returned after all batches that the input yielded before.
    ended: Option<Result<(), InputError>>,
    /// Set after a stop if the input has no more batches. It is not read again.
    is_over: bool,
}

/// Returns an input that yields the batches of `input`, processed by `chains`, one for each thread.
pub fn processed(input: Box<dyn Input>, chains: Vec<Chain>, cx: &BuildContext) -> Box<dyn Input> {
    let health = cx.health.register(format!("processors of {}", cx.label));
    Box::new(ProcessedInput {
        input,
        most: chains.len().max(1),
        workers: Workers::new(chains, &cx.label, &cx.metrics),
        results: Results::new(health, &cx.label, &cx.metrics),
        working: FuturesOrdered::new(),
        ended: None,
        is_over: false,
    })
}

async fn process(workers: Workers, batch: Batch, ack: Ack) -> (Option<Processed>, Ack) {
    let mut started = Vec::new();
    for part in cut(batch) {
        started.push(workers.start(part).await);
    }
    let mut all = Some(Processed::default());
    for part in join_all(started).await {
        match (&mut all, part) {
            (Some(all), Ok(part)) => all.add(part),
            _ => all = None,
        }
    }
    (all, ack)
}

#[async_trait]
impl Input for ProcessedInput {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        loop {
            let reads = self.ended.is_none() && !self.is_over && self.working.len() < self.most;
            tokio::select! {
                biased;
                Some((processed, ack)) = self.working.next() => match processed {
                    Some(processed) => {
                        let batch = self.results.take(processed, &ack);
                        return Ok(Some((batch, ack)));
                    }
                    None => ack.resolve(Outcome::Failed(PANICKED.to_owned())),
                },
                read = self.input.read(), if reads => match read {
                    Ok(Some((batch, ack))) => {
                        let work = process(self.workers.clone(), batch, ack);
                        self.working.push_back(Box::pin(work));
                    }
                    Ok(None) => self.ended = Some(Ok(())),
                    Err(error) => self.ended = Some(Err(error)),
                },
                // Nothing is being processed, and nothing is left to read.
                else => return match self.ended.take() {
                    Some(Err(error)) => Err(error),
                    Some(Ok(())) | None => Ok(None),
                },
            }
        }
    }

    fn stop(&mut self) -> bool {
        let reads_on = self.input.stop();
        self.is_over = !reads_on;
        reads_on || !self.working.is_empty()
    }

    async fn close(&mut self) {
        // Batches that are still being processed are lost. The input waits for these outcomes.
        self.working.clear();
        self.input.close().await;
    }

    fn left(&self) -> Undelivered {
        self.input.left()
    }
}

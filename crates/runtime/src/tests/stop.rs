//! Tests of what a stop does with the messages in flight.

use super::{processors::cx, *};
use crate::processed;

/// An input with this many batches of one message. Some of them exist only in the process.
#[derive(Default)]
struct Holder {
    batches: u32,
    /// The batches that are yielded after a stop as well.
    after_stop: u32,
    stopped: bool,
    left: Undelivered,
    settlements: Arc<Mutex<Vec<Settlement>>>,
}

#[async_trait]
impl Input for Holder {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        let left = if self.stopped {
            &mut self.after_stop
        } else {
            &mut self.batches
        };
        if *left == 0 {
            if self.stopped {
                return Ok(None);
            }
            return std::future::pending().await;
        }
        *left -= 1;
        let (ack, settlement) = Ack::new();
        self.settlements.lock().unwrap().push(settlement);
        Ok(Some((vec![Message::raw("a")], ack)))
    }

    fn stop(&mut self) -> bool {
        self.stopped = true;
        self.after_stop > 0
    }

    async fn close(&mut self) {}

    fn left(&self) -> Undelivered {
        self.left
    }
}

/// Panics at every message.
struct Panics;

impl Processor for Panics {
    fn process(&mut self, _: Batch, _: &mut Drops) -> Batch {
        panic!("panic of the test");
    }
}

/// Runs the pipeline and stops it after `at`. Returns the report and the outcome of each batch.
async fn stopped(input: Holder, output: OutputNode, at: Duration) -> (Report, Vec<Outcome>) {
    let settlements = Arc::clone(&input.settlements);
    stopped_input(Box::new(input), &settlements, output, at).await
}

async fn stopped_input(
    input: Box<dyn Input>,
    settlements: &Mutex<Vec<Settlement>>,
    output: OutputNode,
    at: Duration,
) -> (Report, Vec<Outcome>) {
    let pipeline = Pipeline {
        input,
        chains: vec![vec![Box::new(ByName) as _]],
        output,
        metrics: Metrics::default(),
        health: Health::default(),
        shutdown_timeout: Duration::from_secs(20),
    };
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(pipeline.run(stop.clone()));
    tokio::time::sleep(at).await;
    stop.cancel();
    let report = running.join_next().await.unwrap().unwrap();
    let mut outcomes = Vec::new();
    let settlements = std::mem::take(&mut *settlements.lock().unwrap());
    for mut settlement in settlements {
        outcomes.push(settlement.outcome().await);
    }
    (report, outcomes)
}

/// Fails until this time, then accepts everything.
struct Away(tokio::time::Instant);

#[async_trait]
impl Writer for Away {
    async fn write(&self, _: &[Message]) -> Result<(), WriteError> {
        if tokio::time::Instant::now() < self.0 {
            return Err(WriteError::Retry {
                reason: "away".to_owned(),
                after: Some(Duration::from_secs(1)),
            });
        }
        Ok(())
    }
}

fn away(seconds: u64) -> OutputNode {
    let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
    writer(Arc::new(Away(until)), count(1))
}

#[tokio::test(start_paused = true)]
async fn held_batches_are_delivered_within_the_deadline() {
    for (back_after, delivered) in [(15, true), (300, false)] {
        let input = Holder {
            batches: 100,
            ..Holder::default()
        };
        let (report, outcomes) = stopped(input, away(back_after), Duration::from_secs(10)).await;
        assert_eq!(report.ended, Ended::Stopped);
        let lost = outcomes.iter().filter(|it| !it.is_settled()).count();
        assert!(!outcomes.is_empty() && outcomes.len() < 100);
        assert_eq!(report.unsettled, lost);
        assert_eq!(lost == 0, delivered);
    }
}

/// An input with its own processors is stopped, and its remaining batches are read, like any other input.
#[tokio::test(start_paused = true)]
async fn batches_that_only_the_process_has_are_read_after_a_stop_or_counted_as_lost() {
    for (back_after, lost, has_processors) in
        [(1, 0, false), (300, 7, false), (1, 0, true), (300, 7, true)]
    {
        let input = Holder {
            batches: 1,
            after_stop: 5,
            left: Undelivered { lost, persisted: 3 },
            ..Holder::default()
        };
        let settlements = Arc::clone(&input.settlements);
        let mut input: Box<dyn Input> = Box::new(input);
        if has_processors {
            input = processed(input, vec![vec![Box::new(ByName) as _]], &cx());
        }
        let output = away(back_after);
        let at = Duration::from_secs(2);
        let (report, outcomes) = stopped_input(input, &settlements, output, at).await;
        assert_eq!(report.ended, Ended::Stopped);
        assert_eq!(report.persisted, 3);
        assert_eq!(report.unsettled, lost);
        if lost == 0 {
            assert_eq!(outcomes, vec![Outcome::Delivered; 6]);
        }
    }
}

/// A message that panics in an output's own processors is rejected, as in other processors.
#[tokio::test(start_paused = true)]
async fn a_panic_in_the_processors_of_an_output_rejects_the_message() {
    let child = Box::new(away(0));
    let output = OutputNode::Process {
        processors: vec![Box::new(Panics)],
        child,
    };
    let input = Holder {
        after_stop: 1,
        ..Holder::default()
    };
    let (report, outcomes) = stopped(input, output, Duration::from_secs(1)).await;
    assert!(
        matches!(&outcomes[..], [Outcome::Rejected(_)]),
        "{outcomes:?}"
    );
    assert_eq!(report.unsettled, 0);
}

/// A fallback output that never works does not stop the output that works.
#[tokio::test(start_paused = true)]
async fn a_fallback_that_is_down_does_not_block_other_outputs() {
    let sink = Arc::new(Sink(Mutex::new(generous())));
    let output = OutputNode::Fallback {
        children: vec![writer(Arc::clone(&sink) as _, count(0)), away(1_000_000)],
    };
    let settlements = Arc::default();
    let window = |number: u32| {
        let mut names: Vec<_> = (0..500).map(|it| format!("bad-{number}-{it}")).collect();
        names.push(format!("good-{number}"));
        names.into_iter().map(Message::raw).collect()
    };
    let pipeline = Pipeline {
        input: Box::new(Source {
            batches: (0..10).map(window).collect::<Vec<_>>().into_iter(),
            settlements: Arc::clone(&settlements),
        }),
        chains: vec![vec![Box::new(ByName) as _]],
        output,
        metrics: Metrics::default(),
        health: Health::default(),
        shutdown_timeout: Duration::from_secs(1),
    };
    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(pipeline.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert_eq!(sink.0.lock().unwrap().arrived.len(), 10);
    stop.cancel();
    let report = running.join_next().await.unwrap().unwrap();
    assert_eq!(report.unsettled, 10);
}

//! Runs a pipeline between an input that records the outcomes and a writer that behaves as the test
//! wants. Time is simulated.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use meterline_core::{
    Ack, Batch, BatchPolicy, Cause, Chain, Drops, FALLBACK_ERROR, Health, Input, InputError,
    Message, Metrics, Outcome, OutputNode, Processor, RetryPolicy, Router, Routing, Settled,
    Settlement, Taken, Undelivered, WriteError, Writer, WriterNode,
};
use proptest::prelude::*;
use tokio::{runtime::Builder, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Ended, Pipeline, Report};

mod outputs;
mod parts;
mod poison;
mod processors;
mod refusals;
mod stop;

/// What the writer does with one request.
#[derive(Debug, Clone, Copy)]
enum Response {
    Accept,
    Retry,
    RetryAfter(u64),
    AcceptWithoutAnswer,
    Unauthorized,
}

#[derive(Debug, Default)]
struct SinkState {
    responses: Vec<Response>,
    most: usize,
    most_bytes: Option<usize>,
    /// How often each message arrived, by name.
    arrived: BTreeMap<String, usize>,
    /// The names in every request.
    requests: Vec<Vec<String>>,
    in_flight: usize,
    most_in_flight: usize,
}

#[derive(Debug, Default)]
struct Sink(Mutex<SinkState>);

fn names(batch: &[Message]) -> Vec<String> {
    let name = |message: &Message| String::from_utf8(message.bytes().unwrap().to_vec()).unwrap();
    batch.iter().map(name).collect()
}

#[async_trait]
impl Writer for Sink {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let names = names(batch);
        let (response, too_large) = {
            let mut sink_state = self.0.lock().unwrap();
            sink_state.requests.push(names.clone());
            sink_state.in_flight += 1;
            sink_state.most_in_flight = sink_state.most_in_flight.max(sink_state.in_flight);
            let bytes = names.iter().map(String::len).sum();
            let too_large = names.len() > sink_state.most
                || sink_state.most_bytes.is_some_and(|most| most < bytes);
            (
                sink_state.responses.pop().unwrap_or(Response::Accept),
                too_large,
            )
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut sink_state = self.0.lock().unwrap();
        sink_state.in_flight -= 1;
        let reason = "because".to_owned();
        let mut take = || {
            for name in &names {
                *sink_state.arrived.entry(name.clone()).or_default() += 1;
            }
        };
        match response {
            _ if too_large => Err(WriteError::TooLarge { reason }),
            _ if names.iter().any(|name| name.starts_with("bad")) => {
                Err(WriteError::Rejected { reason })
            }
            Response::Accept => {
                take();
                Ok(())
            }
            Response::AcceptWithoutAnswer => {
                take();
                Err(WriteError::Retry {
                    reason,
                    after: None,
                })
            }
            Response::Retry => Err(WriteError::Retry {
                reason,
                after: None,
            }),
            Response::RetryAfter(seconds) => Err(WriteError::Retry {
                reason,
                after: Some(Duration::from_secs(seconds)),
            }),
            Response::Unauthorized => Err(WriteError::Unauthorized { reason }),
        }
    }
}

/// Yields batches in order, each once, and records their outcomes.
struct Source {
    batches: std::vec::IntoIter<Batch>,
    settlements: Arc<Mutex<Vec<Settlement>>>,
}

#[async_trait]
impl Input for Source {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        Ok(self.batches.next().map(|batch| {
            let (ack, settlement) = Ack::new();
            self.settlements.lock().unwrap().push(settlement);
            (batch, ack)
        }))
    }

    fn stop(&mut self) -> bool {
        false
    }

    async fn close(&mut self) {}

    fn left(&self) -> Undelivered {
        Undelivered::default()
    }
}

/// Flags or drops a message, or panics, depending on its name.
struct ByName;

impl Processor for ByName {
    fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch {
        let mut kept = Vec::new();
        for mut message in batch {
            let name = names(std::slice::from_ref(&message)).remove(0);
            assert!(!name.starts_with("panic"), "panic of the test");
            if name.starts_with("failed") {
                message.fail("by name", "as it is called");
            }
            if name.starts_with("dropped") {
                drops.note(&message, &"by name".into());
            } else {
                kept.push(message);
            }
        }
        kept
    }
}

struct Run {
    report: Report,
    outcomes: Vec<Outcome>,
    /// The undelivered messages of each batch.
    undelivered: Vec<Vec<(u32, Outcome)>>,
    sink: Arc<Sink>,
    rejected: f64,
}

/// Runs batches of messages with these names through a pipeline until it ends, or for `limit`.
fn run(
    batches: &[Vec<String>],
    sink_state: SinkState,
    batching: BatchPolicy,
    limit: Option<Duration>,
) -> Run {
    let sink = Arc::new(Sink(Mutex::new(sink_state)));
    let batches = batches.iter().map(|it| messages(it)).collect();
    let chain = || vec![Box::new(ByName) as _];
    let output = writer(Arc::clone(&sink) as _, batching);
    let left = run_input(|source| source, batches, chain, output, limit);
    let settled = left.settled;
    Run {
        report: left.report,
        outcomes: settled.iter().map(|it| it.outcome.clone()).collect(),
        undelivered: settled.into_iter().map(|it| it.undelivered).collect(),
        sink,
        rejected: left.metrics.get("output_rejected").copied().unwrap_or(0.0),
    }
}

/// What a run of a pipeline leaves.
struct Left {
    report: Report,
    settled: Vec<Settled>,
    metrics: BTreeMap<String, f64>,
}

/// Runs batches through an input that `wrap` makes of their source and through these processors, until all are
/// settled, or for `limit`.
fn run_input(
    wrap: impl FnOnce(Box<dyn Input>) -> Box<dyn Input>,
    batches: Vec<Batch>,
    chain: impl Fn() -> Chain,
    output: OutputNode,
    limit: Option<Duration>,
) -> Left {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let settlements = Arc::new(Mutex::new(Vec::new()));
        let metrics = Metrics::default();
        let source = Source {
            batches: batches.into_iter(),
            settlements: Arc::clone(&settlements),
        };
        let pipeline = Pipeline {
            input: wrap(Box::new(source)),
            chains: vec![chain(), chain()],
            output,
            metrics: metrics.clone(),
            health: Health::default(),
            shutdown_timeout: Duration::from_secs(20),
        };
        let stop = CancellationToken::new();
        let mut stopper = JoinSet::new();
        if let Some(limit) = limit {
            let stop = stop.clone();
            stopper.spawn(async move {
                tokio::time::sleep(limit).await;
                stop.cancel();
            });
        }
        let report = pipeline.run(stop).await;
        Left {
            report,
            settled: settled(&settlements).await,
            metrics: metrics.values(),
        }
    })
}

/// Messages with these names. They are numbered as by an input that needs the outcome of each message.
fn messages(names: &[String]) -> Batch {
    let numbered = |(name, number): (&String, u32)| Message::raw(name.clone()).with_origin(number);
    names.iter().zip(0..).map(numbered).collect()
}

async fn settled(settlements: &Mutex<Vec<Settlement>>) -> Vec<Settled> {
    let settlements = std::mem::take(&mut *settlements.lock().unwrap());
    let mut settled = Vec::new();
    for mut settlement in settlements {
        settled.push(settlement.settled().await);
    }
    settled
}

fn count(count: usize) -> BatchPolicy {
    BatchPolicy {
        count,
        ..BatchPolicy::default()
    }
}

fn generous() -> SinkState {
    SinkState {
        most: usize::MAX,
        ..SinkState::default()
    }
}

fn batch(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_failed_message_is_rejected_alone() {
    let batches = [batch(&["a", "failed", "b"]), batch(&["c", "dropped"])];
    let run = run(&batches, generous(), count(2), None);
    assert_eq!(run.report.ended, Ended::Input);
    let sink_state = run.sink.0.lock().unwrap();
    assert_eq!(
        sink_state.arrived.keys().collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    assert!(matches!(run.outcomes[0], Outcome::Rejected(_)));
    assert_eq!(run.outcomes[1], Outcome::Delivered);
    assert_eq!(run.rejected, 1.0);
}

#[test]
fn a_message_whose_processing_panics_is_rejected_alone() {
    let batches = [batch(&["a", "panic", "dropped", "b"]), batch(&["c"])];
    let run = run(&batches, generous(), count(0), None);
    let place = "pipeline.processors";
    assert_eq!(
        run.undelivered[0],
        [
            (
                1,
                Outcome::rejected(Cause::Processing, place, "a processor panicked")
            ),
            (2, Outcome::Dropped("by name".into())),
        ]
    );
    assert_eq!(run.outcomes[1], Outcome::Delivered);
    let sink_state = run.sink.0.lock().unwrap();
    assert_eq!(
        sink_state.arrived.keys().collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
}

#[test]
fn a_stop_flushes_incomplete_batches() {
    let run = run(
        &[batch(&["a"])],
        generous(),
        count(100),
        Some(Duration::from_secs(5)),
    );
    assert_eq!(run.outcomes, [Outcome::Delivered]);
    assert_eq!(run.report.unsettled, 0);
}

#[test]
fn a_stop_that_cannot_deliver_gives_up_and_reports_it() {
    let sink_state = SinkState {
        responses: vec![Response::Retry; 1_000],
        ..generous()
    };
    let run = run(
        &[batch(&["a"])],
        sink_state,
        count(1),
        Some(Duration::from_secs(5)),
    );
    assert_eq!(run.outcomes, [Outcome::Lost]);
    assert_eq!(run.report.ended, Ended::Stopped);
    assert_eq!(run.report.unsettled, 1);
}

fn responses() -> impl Strategy<Value = Vec<Response>> {
    let response = prop_oneof![
        4 => Just(Response::Accept),
        2 => Just(Response::Retry),
        1 => (1_u64..400).prop_map(Response::RetryAfter),
        2 => Just(Response::AcceptWithoutAnswer),
        1 => Just(Response::Unauthorized),
    ];
    prop::collection::vec(response, 0..40)
}

fn batches() -> impl Strategy<Value = Vec<Vec<String>>> {
    let kind = prop_oneof![
        12 => Just("m"), 1 => Just("bad"), 1 => Just("failed"), 1 => Just("dropped"),
    ];
    let batch = prop::collection::vec(kind, 0..30);
    // If no message can ever be accepted, all messages wait and the run does not end.
    let batches = prop::collection::vec(batch, 1..8);
    let batches = batches.prop_filter("one that is taken", |it| {
        it.iter().flatten().any(|kind| *kind == "m")
    });
    batches.prop_map(|batches| {
        let mut number = 0;
        let mut named = |kind: &str| {
            number += 1;
            format!("{kind}-{number}")
        };
        batches
            .iter()
            .map(|batch| batch.iter().map(|kind| named(kind)).collect())
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Every message arrives or is rejected for any behaviour of the writer. A message arrives more than once
    /// only if a response was lost. The limits on the size and the number of requests are kept.
    #[test]
    fn everything_arrives_or_is_rejected(
        batches in batches(),
        responses in responses(),
        most in prop_oneof![Just(usize::MAX), 1_usize..10],
        size in 0_usize..12,
        period in prop::option::of(1_u64..5),
    ) {
        let lost = responses.iter().filter(|it| matches!(it, Response::AcceptWithoutAnswer)).count();
        let failing = responses.iter().filter(|it| !matches!(it, Response::Accept)).count();
        let sink_state = SinkState { responses, most, ..SinkState::default() };
        let batching = BatchPolicy {
            count: size,
            period: period.map(Duration::from_secs),
            byte_size: 0,
        };
        let run = run(&batches, sink_state, batching, None);
        prop_assert_eq!(run.report, Report { ended: Ended::Input, unsettled: 0, persisted: 0 });
        let sink_state = run.sink.0.lock().unwrap();
        let mut rejected = 0;
        for (batch, undelivered) in batches.iter().zip(&run.undelivered) {
            let fate = |name: &String| match name.split('-').next() {
                Some("bad") => Some(Outcome::rejected(Cause::Refused, "output", "because")),
                Some("failed") => {
                    Some(Outcome::rejected(Cause::Processing, "by name", "as it is called"))
                }
                Some("dropped") => Some(Outcome::Dropped("by name".into())),
                _ => None,
            };
            let expected: Vec<_> = batch
                .iter()
                .zip(0..)
                .filter_map(|(name, number)| Some((number, fate(name)?)))
                .collect();
            prop_assert_eq!(undelivered, &expected);
        }
        for (batch, outcome) in batches.iter().zip(&run.outcomes) {
            let mut refused = false;
            for name in batch {
                let arrived = sink_state.arrived.get(name).copied().unwrap_or(0);
                let is_refused = name.starts_with("bad") || name.starts_with("failed");
                refused |= is_refused;
                rejected += u64::from(is_refused);
                if name.starts_with("m-") {
                    prop_assert!(arrived >= 1, "{} did not arrive", name);
                    prop_assert!(arrived <= 1 + lost, "{} arrived {} times", name, arrived);
                } else {
                    prop_assert_eq!(arrived, 0, "{}", name);
                }
            }
            prop_assert!(outcome.is_settled());
            prop_assert_eq!(matches!(outcome, Outcome::Rejected(_)), refused);
        }
        prop_assert_eq!(run.rejected, rejected as f64);
        // One request beyond `max_in_flight` is for suspects.
        prop_assert!(sink_state.most_in_flight <= 3 + 1);
        for request in &sink_state.requests {
            prop_assert!(!request.is_empty());
            prop_assert!(size == 0 || request.len() <= size);
        }
        // Messages are tried for the first time in the order in which they were read, unless pieces of
        // batches are tried in an outage.
        let mut seen = HashSet::new();
        let firsts: Vec<_> =
            sink_state.requests.iter().flatten().filter(|name| seen.insert(*name)).collect();
        let sent = |name: &&String| name.starts_with("m-") || name.starts_with("bad");
        let read: Vec<_> = batches.iter().flatten().filter(sent).collect();
        prop_assert!(failing >= 4 || firsts == read, "{:?} {:?}", firsts, read);
    }
}

fn writer(writer: Arc<dyn Writer>, batching: BatchPolicy) -> OutputNode {
    OutputNode::Writer(WriterNode {
        label: "output".into(),
        writer,
        batching,
        max_in_flight: 3,
        accepts_failed: false,
        retry: RetryPolicy::default(),
        drops: None,
        objects_only: false,
        taken: Taken::Delivered,
    })
}

//! Tests of requests that the server rejects: as too large, or permanently.

use super::{
    outputs::{Letters, run_to},
    *,
};
use crate::{delivery::Delivery, rejections::Rejections, write::BatchWriter};

/// Ten windows of this many messages. All names have the same length.
fn windows(kind: &str, messages: usize) -> Vec<Vec<String>> {
    let window = |window: usize| {
        (0..messages)
            .map(|message| format!("{kind}-{window:02}-{message:03}"))
            .collect()
    };
    (0..10).map(window).collect()
}

#[test]
fn a_batch_that_is_too_large_does_not_limit_small_messages() {
    let sink_state = SinkState {
        most_bytes: Some(8_000),
        ..generous()
    };
    let large = |name: &str| name.repeat(5_000);
    let mut batches = vec![vec![large("a"), large("b")]];
    batches.extend(windows("m", 30));
    let run = run(&batches, sink_state, count(0), None);
    assert!(run.outcomes.iter().all(|it| *it == Outcome::Delivered));
    let requests = run.sink.0.lock().unwrap().requests.len();
    assert_eq!(requests, 3 + 10);
}

#[test]
fn a_permanent_rejection_is_not_a_size_limit() {
    let sink_state = SinkState {
        most: 4,
        ..generous()
    };
    let mut batches = windows("bad", 8);
    batches.truncate(1);
    batches.extend(windows("mmm", 8));
    let run = run(&batches, sink_state, count(0), None);
    let sink_state = run.sink.0.lock().unwrap();
    assert_eq!(sink_state.arrived.len(), 80);
    let good = sink_state
        .requests
        .iter()
        .filter(|names| names.iter().all(|name| name.starts_with("mmm")));
    // Two per window, except for those that were made before the limit was known.
    assert!(good.clone().all(|names| names.len() >= 4));
    assert!(good.count() <= 10 * 2 + 3);
}

/// Returns the batch writer of an output with this writer, and its health.
fn batch_writer(writer: Arc<dyn Writer>) -> (BatchWriter, Health) {
    let (health, metrics) = (Health::default(), Metrics::default());
    let OutputNode::Writer(node) = super::writer(writer, count(0)) else {
        unreachable!();
    };
    let rejections = Arc::new(Rejections::new(&metrics));
    (
        BatchWriter::new(node, &metrics, &health, rejections),
        health,
    )
}

async fn write(batch_writer: &BatchWriter, names: &[&str]) {
    let deliveries = names
        .iter()
        .map(|name| Delivery {
            message: Message::raw((*name).to_owned()),
            ack: Ack::new().0,
        })
        .collect();
    let slot = batch_writer.slot().await;
    batch_writer.write(deliveries, slot).await;
}

/// Returns the health detail of an output that is not ready.
fn complaint(health: &Health) -> Option<String> {
    let (_, ready, detail) = health.report().parts.remove(0);
    (!ready).then(|| detail.to_string())
}

#[tokio::test(start_paused = true)]
async fn an_output_is_not_ready_when_most_events_are_rejected() {
    let (batch_writer, health) = batch_writer(Arc::new(Sink(Mutex::new(generous()))));
    write(&batch_writer, &["a", "b", "bad", "c"]).await;
    assert_eq!(complaint(&health), None, "one of four");
    for _ in 0..10 {
        write(&batch_writer, &["bad", "bad"]).await;
    }
    let most = "most events are rejected: because";
    assert_eq!(complaint(&health).as_deref(), Some(most));
    write(&batch_writer, &["bad", "a"]).await;
    assert_eq!(complaint(&health).as_deref(), Some(most));
    for _ in 0..20 {
        write(&batch_writer, &["a"]).await;
    }
    assert_eq!(complaint(&health), None);
}

/// Returns these results in order, and then repeats the last one.
struct Scripted(Mutex<Vec<Result<(), WriteError>>>);

#[async_trait]
impl Writer for Scripted {
    async fn write(&self, _: &[Message]) -> Result<(), WriteError> {
        let mut results = self.0.lock().unwrap();
        let next = results[0].clone();
        if results.len() > 1 {
            drop(results.remove(0));
        }
        next
    }
}

fn away() -> Result<(), WriteError> {
    Err(WriteError::Failed {
        reason: "503".to_owned(),
        after: None,
    })
}

fn refused() -> Result<(), WriteError> {
    Err(WriteError::Rejected {
        reason: "400".to_owned(),
    })
}

#[tokio::test(start_paused = true)]
async fn any_response_ends_an_outage() {
    let mut results = vec![Ok(())];
    results.extend(vec![away(); 4]);
    results.push(refused());
    let (batch_writer, health) = batch_writer(Arc::new(Scripted(Mutex::new(results))));
    write(&batch_writer, &["a"]).await;
    for _ in 0..3 {
        write(&batch_writer, &["a"]).await;
    }
    assert_eq!(
        complaint(&health).as_deref(),
        Some("most events are rejected: 400")
    );
}

/// Returns the health detail of an output after writing for this long. The requests get the results
/// `results`.
async fn complaint_after(milliseconds: u64, results: &[Result<(), WriteError>]) -> Option<String> {
    let (batch_writer, health) = batch_writer(Arc::new(Scripted(Mutex::new(results.to_vec()))));
    let write = write(&batch_writer, &["a"]);
    let limit = Duration::from_millis(milliseconds);
    let _ = tokio::time::timeout(limit, write).await;
    complaint(&health)
}

#[tokio::test(start_paused = true)]
async fn a_single_failure_is_not_reported_and_repeated_ones_are_reported_soon() {
    // The second try comes between a quarter and half of a second after the first.
    assert_eq!(complaint_after(200, &[away(), Ok(())]).await, None);
    let twice = complaint_after(600, &[away(), away(), Ok(())]).await;
    assert_eq!(twice.as_deref(), Some("503"));
    let over = complaint_after(5_000, &[away(), away(), Ok(())]).await;
    assert_eq!(over, None);
    let with_pause = WriteError::Retry {
        reason: "429".to_owned(),
        after: Some(Duration::from_secs(60)),
    };
    let token = WriteError::Unauthorized {
        reason: "401".to_owned(),
    };
    // The next try after these errors is far away.
    for error in [with_pause, token] {
        assert!(complaint_after(200, &[Err(error)]).await.is_some());
    }
}

/// It is not known whether the events are wrong: the URL may be that of another server.
#[tokio::test(start_paused = true)]
async fn before_the_first_success_nothing_is_rejected() {
    let (batch_writer, health) = batch_writer(Arc::new(Scripted(Mutex::new(vec![refused()]))));
    let write = write(&batch_writer, &["a", "b", "c"]);
    let hour = Duration::from_secs(3_600);
    assert!(tokio::time::timeout(hour, write).await.is_err());
    let complaint = complaint(&health).unwrap();
    assert!(
        complaint.contains("no event has been accepted since the start"),
        "{complaint}"
    );
    assert!(complaint.contains("400"), "{complaint}");
}

/// A held message is not tried unsuccessfully: a verdict is a response, and it counts after a success.
#[test]
fn held_messages_use_no_tries_and_no_time() {
    let limits = [(Some(1), None), (None, Some(Duration::from_secs(45)))];
    for (most, no_longer_than) in limits {
        let mut results = vec![refused(); 20];
        results.extend([away(), Ok(())]);
        let mut output = writer(Arc::new(Scripted(Mutex::new(results))), count(0));
        output.each_writer(&mut |writer| {
            writer.retry.most = most;
            writer.retry.no_longer_than = no_longer_than;
        });
        let settled = run_to(&[batch(&["a", "b", "c"])], output);
        assert_eq!(settled[0].outcome, Outcome::Delivered);
    }
}

#[tokio::test(start_paused = true)]
async fn a_verdict_counts_once_another_event_was_accepted_and_is_requested_again() {
    let sink = Arc::new(Sink(Mutex::new(generous())));
    let (batch_writer, health) = batch_writer(Arc::clone(&sink) as _);
    let start = tokio::time::Instant::now();
    write(&batch_writer, &["bad", "a", "b", "c"]).await;
    // It is sent again at once, and not after the pause for which it was held.
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(complaint(&health), None);
    let sink_state = sink.0.lock().unwrap();
    assert_eq!(
        sink_state.arrived.keys().collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    let alone = sink_state.requests.iter().filter(|it| **it == ["bad"]);
    assert_eq!(alone.count(), 2, "{:?}", sink_state.requests);
}

#[tokio::test(start_paused = true)]
async fn too_large_counts_only_if_a_smaller_request_succeeds() {
    let too_large = || {
        Err(WriteError::TooLarge {
            reason: "413".to_owned(),
        })
    };
    let (batch_writer, health) =
        batch_writer(Arc::new(Scripted(Mutex::new(vec![Ok(()), too_large()]))));
    write(&batch_writer, &["a"]).await;
    let hour = Duration::from_secs(3_600);
    let held = write(&batch_writer, &["b", "c"]);
    assert!(tokio::time::timeout(hour, held).await.is_err());
    let complaint = complaint(&health).unwrap();
    assert!(complaint.contains("client_max_body_size"), "{complaint}");
}

#[test]
fn a_single_message_that_is_too_large_is_set_aside_once_a_smaller_one_is_accepted() {
    let sink_state = SinkState {
        most_bytes: Some(5),
        ..generous()
    };
    let sink = Arc::new(Sink(Mutex::new(sink_state)));
    let letters = Arc::new(Letters::default());
    let output = OutputNode::Fallback {
        children: vec![
            writer(Arc::clone(&sink) as _, count(1)),
            writer(Arc::clone(&letters) as _, count(0)),
        ],
    };
    run_to(&[batch(&["too large", "small"])], output);
    let letters = letters.0.lock().unwrap().clone();
    assert_eq!(letters, [("too large".to_owned(), "because".to_owned())]);
}

/// Cannot make a request from a batch whose first message is named `unsendable…`. Passes other batches
/// to a writer.
struct Picky(Arc<dyn Writer>);

#[async_trait]
impl Writer for Picky {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        if names(batch)[0].starts_with("unsendable") {
            let reason = "url: no such field".to_owned();
            return Err(WriteError::Unsendable { reason });
        }
        self.0.write(batch).await
    }
}

#[test]
fn a_message_without_a_valid_request_is_rejected_alone_as_by_a_mapping() {
    let sink = Arc::new(Sink(Mutex::new(generous())));
    let output = writer(Arc::new(Picky(Arc::clone(&sink) as _)), count(0));
    let names = [
        "unsendable-1",
        "a",
        "unsendable-2",
        "b",
        "c",
        "unsendable-3",
    ];
    let settled = run_to(&[batch(&names)], output);
    let unsendable = || Outcome::rejected(Cause::Processing, "output", "url: no such field");
    assert_eq!(settled[0].undelivered, [(0, unsendable())]);
    // An unsendable message behind another one is sent with it: the request is evaluated for the first
    // message.
    let requests = sink.0.lock().unwrap().requests.clone();
    assert_eq!(
        requests,
        [batch(&["a", "unsendable-2", "b", "c", "unsendable-3"])]
    );
}

/// A failure before a request is sent is no evidence about the server.
#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_made_is_not_a_response() {
    let mut results = vec![away(); 6];
    let unsendable = || {
        Err(WriteError::Unsendable {
            reason: "url".to_owned(),
        })
    };
    // It comes in the middle of an outage, which continues.
    results.insert(3, unsendable());
    results.push(refused());
    let (batch_writer, health) = batch_writer(Arc::new(Scripted(Mutex::new(results))));
    let write = write(&batch_writer, &["a", "b"]);
    let hour = Duration::from_secs(3_600);
    assert!(tokio::time::timeout(hour, write).await.is_err());
    let complaint = complaint(&health).unwrap();
    // The other message is rejected, and no request has succeeded.
    assert!(
        complaint.contains("no event has been accepted since the start"),
        "{complaint}"
    );
}

//! Tests of the processors of an input.

use futures::FutureExt;
use meterline_core::BuildContext;

use super::*;
use crate::processed;

pub(super) fn cx() -> BuildContext {
    BuildContext::default().labelled("the input")
}

fn two_chains() -> Vec<meterline_core::Chain> {
    (0..2).map(|_| vec![Box::new(ByName) as _]).collect()
}

/// This holds however often a read is cancelled.
#[tokio::test]
async fn batches_come_out_in_order_without_what_was_dropped_and_what_panicked_is_flagged() {
    let large: Vec<_> = (0..2_000).map(|number| format!("m-{number}")).collect();
    let batches = [
        batch(&["a", "panic", "dropped", "b"]),
        large.clone(),
        batch(&["dropped"]),
        batch(&["c"]),
    ];
    let settlements = Arc::default();
    let source = Source {
        batches: batches
            .iter()
            .map(|it| messages(it))
            .collect::<Vec<_>>()
            .into_iter(),
        settlements: Arc::clone(&settlements),
    };
    let cx = cx();
    let mut input = processed(Box::new(source), two_chains(), &cx);
    let mut seen = Vec::new();
    loop {
        let read = match input.read().now_or_never() {
            Some(read) => read,
            None => {
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Some((batch, ack)) = read.unwrap() else {
            break;
        };
        let failed: Vec<_> = batch.iter().filter_map(Message::failure).collect();
        if seen.is_empty() {
            assert_eq!(failed.len(), 1);
            assert_eq!(failed[0].component.as_ref(), "the input");
        } else {
            assert!(failed.is_empty());
        }
        seen.push(names(&batch));
        ack.resolve(Outcome::Delivered);
    }
    let none: &[&str] = &[];
    assert_eq!(
        seen,
        [
            batch(&["a", "panic", "b"]),
            large,
            batch(none),
            batch(&["c"])
        ]
    );
    let dropped = Outcome::Dropped("by name".into());
    let undelivered: Vec<_> = settled(&settlements)
        .await
        .into_iter()
        .map(|it| it.undelivered)
        .collect();
    let none = Vec::new();
    assert_eq!(
        undelivered,
        [
            vec![(2, dropped.clone())],
            none.clone(),
            vec![(0, dropped)],
            none
        ]
    );
    let values = cx.metrics.values();
    assert_eq!(values["processor_panics"], 1.0);
    assert_eq!(values["processor_dropped{path=\"by name\"}"], 2.0);
}

/// Blocks every batch until the mutex is unlocked.
struct Gate(Arc<Mutex<()>>);

impl Processor for Gate {
    fn process(&mut self, batch: Batch, _: &mut Drops) -> Batch {
        drop(self.0.lock().unwrap());
        batch
    }
}

#[tokio::test]
async fn batches_in_processing_at_the_end_are_lost_before_the_input_is_closed() {
    /// Waits in `close` for the outcomes of its batches.
    struct Strict(Source, Undelivered);

    #[async_trait]
    impl Input for Strict {
        async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
            self.0.read().await
        }

        fn stop(&mut self) -> bool {
            false
        }

        async fn close(&mut self) {
            let outcomes = settled(&self.0.settlements).await;
            let lost = outcomes.iter().filter(|it| !it.outcome.is_settled());
            self.1.lost = lost.count();
        }

        fn left(&self) -> Undelivered {
            self.1
        }
    }

    let gate = Arc::new(Mutex::new(()));
    let source = Source {
        batches: vec![messages(&batch(&["a"])), messages(&batch(&["b"]))].into_iter(),
        settlements: Arc::default(),
    };
    let chains = vec![vec![Box::new(Gate(Arc::clone(&gate))) as _]];
    let mut input = processed(
        Box::new(Strict(source, Undelivered::default())),
        chains,
        &cx(),
    );
    let held = gate.lock().unwrap();
    assert!(input.read().now_or_never().is_none());
    assert!(input.stop(), "a batch is still under way");
    assert!(input.read().now_or_never().is_none());
    input.close().now_or_never().unwrap();
    assert_eq!(
        input.left(),
        Undelivered {
            lost: 1,
            persisted: 0
        }
    );
    drop(held);
}

/// Processes nothing until it receives a signal.
struct Waits(std::sync::mpsc::Receiver<()>);

impl Processor for Waits {
    fn process(&mut self, batch: Batch, _: &mut Drops) -> Batch {
        self.0.recv().unwrap();
        batch
    }
}

#[tokio::test]
async fn after_a_stop_batches_in_processing_come_out_and_no_more_are_read() {
    let settlements = Arc::default();
    let source = Source {
        batches: vec![messages(&batch(&["a"])), messages(&batch(&["b"]))].into_iter(),
        settlements: Arc::clone(&settlements),
    };
    let (go_on, waits) = std::sync::mpsc::channel();
    let chains = vec![vec![Box::new(Waits(waits)) as _]];
    let mut input = processed(Box::new(source), chains, &cx());
    assert!(input.read().now_or_never().is_none());
    assert!(input.stop());
    go_on.send(()).unwrap();
    let (batch, ack) = input.read().await.unwrap().unwrap();
    assert_eq!(names(&batch), ["a"]);
    ack.resolve(Outcome::Delivered);
    assert!(input.read().await.unwrap().is_none());
    assert_eq!(settlements.lock().unwrap().len(), 1);
}

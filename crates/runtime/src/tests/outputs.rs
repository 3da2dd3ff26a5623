//! Tests of the outcomes of messages in an output tree.

use super::*;

/// Accepts what another output rejected, and records the reasons.
#[derive(Debug, Default)]
pub(super) struct Letters(pub(super) Mutex<Vec<(String, String)>>);

#[async_trait]
impl Writer for Letters {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        for (name, message) in names(batch).into_iter().zip(batch) {
            assert!(message.failure().is_none());
            let reason = message.metadata.get(FALLBACK_ERROR).unwrap().to_string();
            self.0.lock().unwrap().push((name, reason));
        }
        Ok(())
    }
}

#[test]
fn a_batch_beyond_its_retry_limit_is_rejected_as_a_whole() {
    let sink_state = SinkState {
        responses: vec![Response::Retry; 3],
        ..generous()
    };
    let sink = Arc::new(Sink(Mutex::new(sink_state)));
    let mut output = writer(Arc::clone(&sink) as _, count(2));
    output.each_writer(&mut |writer| writer.retry.most = Some(2));
    let settled = run_to(&[batch(&["a", "b"])], output);
    let given_up = Outcome::rejected(Cause::GivenUp, "output", "because");
    assert_eq!(settled[0].outcome, given_up);
    assert_eq!(
        settled[0].undelivered,
        [(0, given_up.clone()), (1, given_up)]
    );
    let sink_state = sink.0.lock().unwrap();
    assert_eq!(
        sink_state.requests,
        vec![batch(&["a", "b"]); 3],
        "once, and twice again"
    );
    assert!(sink_state.arrived.is_empty());
}

#[test]
fn a_configured_error_drops_only_the_message_that_causes_it() {
    let sink = Arc::new(Sink(Mutex::new(generous())));
    let mut output = writer(Arc::clone(&sink) as _, count(4));
    output.each_writer(&mut |writer| {
        writer.drops = Some(Arc::new(|reason: &str| reason == "because"));
    });
    let batches = [batch(&["a", "bad", "b", "c"])];
    let settled = run_to(&batches, output);
    assert_eq!(settled[0].outcome, Outcome::Delivered);
    assert_eq!(
        settled[0].undelivered,
        [(1, Outcome::Dropped("output".into()))]
    );
    let arrived: Vec<_> = sink.0.lock().unwrap().arrived.keys().cloned().collect();
    assert_eq!(arrived, ["a", "b", "c"]);
}

#[test]
fn a_message_that_an_output_rejects_is_delivered_by_the_next() {
    let letters = Arc::new(Letters::default());
    let sink = Arc::new(Sink(Mutex::new(generous())));
    let output = OutputNode::Fallback {
        children: vec![
            writer(Arc::clone(&sink) as _, count(4)),
            // It waits for a full batch that never comes, but rejected messages are not kept waiting.
            writer(Arc::clone(&letters) as _, count(100)),
        ],
    };
    let batches = [
        batch(&["a", "bad-1", "failed", "b"]),
        batch(&["bad-2", "c"]),
    ];
    for settled in run_to(&batches, output) {
        assert_eq!(settled.outcome, Outcome::Delivered);
        assert_eq!(settled.undelivered, []);
    }
    let mut letters = letters.0.lock().unwrap().clone();
    letters.sort();
    let reason = |name: &str, reason: &str| (name.to_owned(), reason.to_owned());
    assert_eq!(
        letters,
        [
            reason("bad-1", "because"),
            reason("bad-2", "because"),
            reason("failed", "as it is called"),
        ]
    );
    let arrived: Vec<_> = sink.0.lock().unwrap().arrived.keys().cloned().collect();
    assert_eq!(arrived, ["a", "b", "c"]);
}

#[test]
fn a_dead_letter_output_is_no_delivery() {
    let sink = Arc::new(Sink(Mutex::new(generous())));
    let mut letters = writer(Arc::new(Letters::default()), count(0));
    letters.each_writer(&mut |writer| writer.taken = Taken::Kept);
    let output = OutputNode::Fallback {
        children: vec![writer(sink, count(4)), letters],
    };
    let settled = run_to(&[batch(&["a", "bad-1"])], output);
    assert_eq!(
        settled[0].undelivered,
        [(1, Outcome::rejected(Cause::Refused, "output", "because"))]
    );
}

/// Routes by the name of a message: to one child, to both, or nowhere.
struct ToSome;

impl Router for ToSome {
    fn route(&self, message: &Message) -> Routing {
        match names(std::slice::from_ref(message))[0].as_str() {
            "nowhere" => Routing::To(Vec::new()),
            "both" => Routing::To(vec![0, 1]),
            _ => Routing::To(vec![1]),
        }
    }
}

#[test]
fn a_message_that_one_of_several_outputs_delivers_is_delivered() {
    let sink = Arc::new(Sink(Mutex::new(generous())));
    let mut gone = writer(Arc::new(Sink(Mutex::new(generous()))), count(0));
    gone.each_writer(&mut |writer| {
        writer.taken = Taken::Dropped;
        writer.label = "drop".into();
    });
    let output = OutputNode::Route {
        label: "switch".into(),
        router: Box::new(ToSome),
        children: vec![writer(sink, count(0)), gone],
    };
    let settled = run_to(&[batch(&["both", "nowhere", "one"])], output);
    assert_eq!(
        settled[0].undelivered,
        [
            (1, Outcome::Dropped("switch".into())),
            (2, Outcome::Dropped("drop".into())),
        ]
    );
}

#[test]
fn a_message_counts_as_delivered_once_however_many_outputs_took_it() {
    let numbered = messages(&batch(&["both", "nowhere", "failed", "dropped", "one"]));
    let plain = |it: &Message| Message::raw(it.bytes().unwrap());
    let plain: Batch = numbered.iter().map(plain).collect();
    for batch in [numbered, plain] {
        let sink = || writer(Arc::new(Sink(Mutex::new(generous()))), count(0));
        let output = OutputNode::Route {
            label: "switch".into(),
            router: Box::new(ToSome),
            children: vec![sink(), sink()],
        };
        let metrics = Metrics::default();
        run_batches(vec![batch], output, &metrics);
        let values = metrics.values();
        assert_eq!(values["input_received"], 5.0);
        assert_eq!(values["input_delivered"], 2.0);
        assert_eq!(values["output_sent{label=\"output\"}"], 3.0);
    }
}

/// Runs batches of messages with these names to an output, until all are settled.
pub(super) fn run_to(batches: &[Vec<String>], output: OutputNode) -> Vec<Settled> {
    let batches = batches.iter().map(|it| messages(it)).collect();
    run_batches(batches, output, &Metrics::default())
}

fn run_batches(batches: Vec<Batch>, output: OutputNode, metrics: &Metrics) -> Vec<Settled> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let settlements = Arc::new(Mutex::new(Vec::new()));
        let pipeline = Pipeline {
            input: Box::new(Source {
                batches: batches.into_iter(),
                settlements: Arc::clone(&settlements),
            }),
            chains: vec![vec![Box::new(ByName) as _]],
            output,
            metrics: metrics.clone(),
            health: Health::default(),
            shutdown_timeout: Duration::from_secs(20),
        };
        let report = pipeline.run(CancellationToken::new()).await;
        assert_eq!((report.ended, report.unsettled), (Ended::Input, 0));
        settled(&settlements).await
    })
}

#[test]
fn a_message_that_is_no_object_is_rejected_by_an_output_for_objects() {
    let texts = ["{}", " {\"id\":1}", "[{}]", "\"{}\"", "5", "null"];
    let mut output = writer(Arc::new(Sink(Mutex::new(generous()))), count(0));
    output.each_writer(&mut |writer| writer.objects_only = true);
    let settled = run_to(&[batch(&texts)], output);
    let refused: Vec<_> = settled[0].undelivered.iter().map(|(it, _)| *it).collect();
    assert_eq!(refused, [2, 3, 4, 5]);
    let Outcome::Rejected(rejection) = &settled[0].undelivered[0].1 else {
        panic!("{settled:?}");
    };
    assert!(rejection.reason.contains("not a JSON object"));
}

//! Tests of messages of which a processor makes several parts.

use meterline_core::{BatchLimit, Content};

use super::{outputs::Letters, processors::cx, *};
use crate::processed;

/// Makes a message of each name between the signs `+`, and nothing of `none`.
struct Divide;

impl Processor for Divide {
    fn process(&mut self, batch: Batch, drops: &mut Drops) -> Batch {
        let mut parts = Batch::new();
        for message in batch {
            let name = names(std::slice::from_ref(&message)).remove(0);
            if name == "none" {
                drops.note(&message, &"divide".into());
                continue;
            }
            let contents = name.split('+').map(|it| Content::Raw(it.to_owned().into()));
            parts.extend(message.divide(contents.collect()));
        }
        parts
    }
}

/// Sets a limit on the batches of each message.
struct Limit(BatchLimit);

impl Processor for Limit {
    fn process(&mut self, mut batch: Batch, _: &mut Drops) -> Batch {
        let limit = Arc::new(self.0);
        batch.iter_mut().for_each(|it| it.limit_batch(&limit));
        batch
    }
}

/// Runs batches through these processors, until all are settled, or for `limit`.
fn run(
    batches: &[Vec<String>],
    chain: impl Fn() -> Chain,
    output: OutputNode,
    limit: Option<Duration>,
) -> Left {
    let batches: Vec<_> = batches.iter().map(|it| messages(it)).collect();
    run_input(|source| source, batches, chain, output, limit)
}

fn dividing() -> Chain {
    vec![Box::new(Divide), Box::new(ByName)]
}

fn sink(sink_state: SinkState) -> Arc<Sink> {
    Arc::new(Sink(Mutex::new(sink_state)))
}

fn arrived(sink: &Sink) -> Vec<(String, usize)> {
    let arrived = sink.0.lock().unwrap().arrived.clone();
    arrived.into_iter().collect()
}

fn once(names: &[&str]) -> Vec<(String, usize)> {
    names.iter().map(|it| ((*it).to_owned(), 1)).collect()
}

#[test]
fn a_message_is_delivered_once_all_its_parts_are() {
    let sink = sink(generous());
    let output = writer(Arc::clone(&sink) as _, count(2));
    let left = run(&[batch(&["a+b+c", "d"])], dividing, output, None);
    assert_eq!(left.settled[0].outcome, Outcome::Delivered);
    assert_eq!(left.settled[0].undelivered, []);
    assert_eq!(arrived(&sink), once(&["a", "b", "c", "d"]));
    // The input has two messages, and the output four.
    assert_eq!(left.metrics["input_delivered"], 2.0);
    assert_eq!(left.metrics["output_sent{label=\"output\"}"], 4.0);
}

/// The other parts are delivered, but the message is not billed in full, so it is rejected.
#[test]
fn a_rejected_part_rejects_the_message_and_is_named() {
    let sink = sink(generous());
    let output = writer(Arc::clone(&sink) as _, count(0));
    let batches = [batch(&["a+bad+c", "d", "e+failed"])];
    let left = run(&batches, dividing, output, None);
    let part = |cause, component: &str, reason: &str| Outcome::rejected(cause, component, reason);
    assert_eq!(
        left.settled[0].undelivered,
        [
            (0, part(Cause::Refused, "output", "part 2 of 3: because")),
            (
                2,
                part(Cause::Processing, "by name", "part 2 of 2: as it is called")
            ),
        ]
    );
    assert_eq!(arrived(&sink), once(&["a", "c", "d", "e"]));
    assert_eq!(left.metrics["output_rejected"], 2.0);
    assert_eq!(left.metrics["output_sent{label=\"output\"}"], 4.0);
    assert_eq!(left.metrics["input_delivered"], 1.0);
}

#[test]
fn a_part_that_fails_for_a_while_delays_the_message_and_repeats_no_other_part() {
    let sink = sink(SinkState {
        responses: vec![Response::Retry; 6],
        ..generous()
    });
    let output = writer(Arc::clone(&sink) as _, count(1));
    let left = run(&[batch(&["a+b+c"])], dividing, output, None);
    assert_eq!(left.settled[0].outcome, Outcome::Delivered);
    assert_eq!(left.settled[0].undelivered, []);
    assert_eq!(arrived(&sink), once(&["a", "b", "c"]));
    assert_eq!(sink.0.lock().unwrap().requests.len(), 9);
}

/// The next process makes all parts again, under the same ids.
#[test]
fn a_stop_before_the_last_part_arrives_settles_nothing_of_the_message() {
    let sink = sink(SinkState {
        // Responses are taken from the end.
        responses: vec![Response::RetryAfter(1_000), Response::Accept],
        ..generous()
    });
    let mut output = writer(Arc::clone(&sink) as _, count(1));
    output.each_writer(&mut |writer| writer.max_in_flight = 1);
    let limit = Some(Duration::from_secs(5));
    let left = run(&[batch(&["a+b"])], dividing, output, limit);
    assert_eq!(arrived(&sink), once(&["a"]));
    assert_eq!(left.settled[0].outcome, Outcome::Lost);
    assert_eq!(left.report.unsettled, 1);
    assert_eq!(left.metrics["input_delivered"], 0.0);

    let again = writer(Arc::clone(&sink) as _, count(1));
    let left = run(&[batch(&["a+b"])], dividing, again, None);
    assert_eq!(left.settled[0].outcome, Outcome::Delivered);
    let expected = [("a".to_owned(), 2), ("b".to_owned(), 1)];
    assert_eq!(arrived(&sink), expected);
}

#[test]
fn a_message_is_dropped_if_nothing_of_it_is_left() {
    let sink = sink(generous());
    let output = writer(Arc::clone(&sink) as _, count(0));
    let batches = [batch(&["none", "dropped+dropped", "dropped+a", "b"])];
    let left = run(&batches, dividing, output, None);
    let dropped = |place: &str| Outcome::Dropped(place.into());
    assert_eq!(
        left.settled[0].undelivered,
        [(0, dropped("divide")), (1, dropped("by name"))]
    );
    assert_eq!(arrived(&sink), once(&["a", "b"]));
}

/// More parts than one chunk holds, of which only the last ones are left.
#[test]
fn parts_that_processors_of_the_input_make_have_one_fate() {
    let mut parts = vec!["dropped"; 600];
    parts.extend(["a", "b"]);
    let batches = vec![messages(&batch(&[parts.join("+").as_str(), "none", "c"]))];
    let sink = sink(generous());
    let output = writer(Arc::clone(&sink) as _, count(0));
    let wrap = |source| processed(source, vec![vec![Box::new(Divide) as _]], &cx());
    let left = run_input(wrap, batches, || vec![Box::new(ByName) as _], output, None);
    assert_eq!(
        left.settled[0].undelivered,
        [(1, Outcome::Dropped("divide".into()))]
    );
    assert_eq!(arrived(&sink), once(&["a", "b", "c"]));
    assert_eq!(left.metrics["input_received"], 2.0);
    assert_eq!(left.metrics["input_delivered"], 2.0);
}

#[test]
fn an_output_that_divides_a_message_delivers_it_once_all_parts_arrived() {
    let sink = sink(generous());
    let output = OutputNode::Process {
        processors: vec![Box::new(Divide)],
        child: Box::new(writer(Arc::clone(&sink) as _, count(0))),
    };
    let batches = [batch(&["a+bad", "b+c", "none"])];
    let left = run(&batches, Vec::new, output, None);
    let rejected = Outcome::rejected(Cause::Refused, "output", "part 2 of 2: because");
    assert_eq!(
        left.settled[0].undelivered,
        [(0, rejected), (2, Outcome::Dropped("divide".into()))]
    );
    assert_eq!(arrived(&sink), once(&["a", "b", "c"]));
}

#[test]
fn a_dead_letter_gets_the_rejected_part_only_and_the_input_learns_which_it_was() {
    let letters = Arc::new(Letters::default());
    let sink = sink(generous());
    let mut kept = writer(Arc::clone(&letters) as _, count(0));
    kept.each_writer(&mut |writer| writer.taken = Taken::Kept);
    let output = OutputNode::Fallback {
        children: vec![writer(Arc::clone(&sink) as _, count(0)), kept],
    };
    let left = run(&[batch(&["a+bad"])], dividing, output, None);
    let rejected = Outcome::rejected(Cause::Refused, "output", "part 2 of 2: because");
    assert_eq!(left.settled[0].undelivered, [(0, rejected)]);
    let letter = ("bad".to_owned(), "because".to_owned());
    assert_eq!(*letters.0.lock().unwrap(), [letter]);
}

/// Returns how many messages each request has if all messages, of six bytes each, have this limit.
fn requests(batching: BatchPolicy, limit: BatchLimit) -> Vec<usize> {
    let sink = sink(generous());
    let mut output = writer(Arc::clone(&sink) as _, batching);
    output.each_writer(&mut |writer| writer.max_in_flight = 1);
    let names: Vec<_> = (0..1_095).map(|number| format!("m-{number:04}")).collect();
    let chain = || vec![Box::new(Limit(limit)) as _];
    let left = run(&[names], chain, output, None);
    assert_eq!(left.settled[0].outcome, Outcome::Delivered);
    let requests = &sink.0.lock().unwrap().requests;
    requests.iter().map(Vec::len).collect()
}

#[test]
fn a_batch_that_is_written_as_it_arrives_keeps_the_limit_of_its_messages() {
    let messages = |count| BatchLimit {
        count,
        ..BatchLimit::NONE
    };
    let bytes = |byte_size| BatchLimit {
        byte_size,
        ..BatchLimit::NONE
    };
    let mut hundreds = vec![100; 10];
    hundreds.push(95);
    assert_eq!(requests(count(0), messages(100)), hundreds);
    // More than the messages that are processed at once.
    assert_eq!(requests(count(0), messages(1_000)), [1_000, 95]);
    assert_eq!(requests(count(0), bytes(605)), hundreds);
    assert_eq!(requests(count(0), bytes(5)), vec![1; 1_095]);
    // An output that collects messages forms batches of its own.
    assert_eq!(requests(count(500), messages(10)), [500, 500, 95]);
}

/// A limit that only some of the messages have.
#[test]
fn a_batch_holds_what_the_limits_of_all_its_messages_allow() {
    struct Some;

    impl Processor for Some {
        fn process(&mut self, mut batch: Batch, _: &mut Drops) -> Batch {
            let limit = Arc::new(BatchLimit {
                count: 2,
                ..BatchLimit::NONE
            });
            let limited = |it: &&mut Message| names(std::slice::from_ref(it))[0].starts_with("l");
            let limited = batch.iter_mut().filter(limited);
            limited.for_each(|it| it.limit_batch(&limit));
            batch
        }
    }

    let sink = sink(generous());
    let mut output = writer(Arc::clone(&sink) as _, count(0));
    output.each_writer(&mut |writer| writer.max_in_flight = 1);
    let batches = [batch(&["a", "b", "c", "l1", "l2", "d", "e"])];
    run(&batches, || vec![Box::new(Some) as _], output, None);
    let requests = &sink.0.lock().unwrap().requests;
    let expected = [
        batch(&["a", "b", "c"]),
        batch(&["l1", "l2"]),
        batch(&["d", "e"]),
    ];
    assert_eq!(*requests, expected);
}

fn divided() -> impl Strategy<Value = Vec<Vec<String>>> {
    let kind = prop_oneof![
        8 => Just("m"), 1 => Just("bad"), 1 => Just("failed"), 2 => Just("dropped"),
    ];
    let message = prop::collection::vec(kind, 0..6);
    let batch = prop::collection::vec(message, 0..12);
    let batches = prop::collection::vec(batch, 1..5).prop_filter("one that is taken", |it| {
        it.iter().flatten().flatten().any(|kind| *kind == "m")
    });
    batches.prop_map(|batches| {
        let mut number = 0;
        let mut named = |kind: &&str| {
            number += 1;
            format!("{kind}-{number}")
        };
        let mut name = |parts: &Vec<&str>| match parts.as_slice() {
            [] => "none".to_owned(),
            parts => parts.iter().map(&mut named).collect::<Vec<_>>().join("+"),
        };
        let batches = batches.iter();
        batches
            .map(|batch| batch.iter().map(&mut name).collect())
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A message is rejected if one of its parts is, delivered if the others are not all dropped, and
    /// nothing of it is missing, whatever the writer does.
    #[test]
    fn a_message_has_one_fate_that_follows_from_its_parts(
        batches in divided(),
        responses in responses(),
        size in 0_usize..6,
    ) {
        let sink = sink(SinkState { responses, ..generous() });
        let output = writer(Arc::clone(&sink) as _, count(size));
        let left = run(&batches, dividing, output, None);
        prop_assert_eq!(left.report.unsettled, 0);
        let mut delivered = 0;
        for (batch, settled) in batches.iter().zip(&left.settled) {
            let fates: BTreeMap<_, _> = settled.undelivered.iter().cloned().collect();
            prop_assert_eq!(fates.len(), settled.undelivered.len(), "each message once");
            for (name, number) in batch.iter().zip(0..) {
                let parts: Vec<_> = name.split('+').collect();
                let is = |kind: &str| parts.iter().any(|it| it.starts_with(kind));
                match fates.get(&number) {
                    Some(Outcome::Rejected(rejection)) => {
                        prop_assert!(is("bad") || is("failed"), "{}", name);
                        let names_part = rejection.reason.starts_with("part ");
                        prop_assert_eq!(names_part, parts.len() > 1);
                    }
                    Some(Outcome::Dropped(_)) => {
                        prop_assert!(!is("bad") && !is("failed") && !is("m"), "{}", name);
                    }
                    None => {
                        prop_assert!(!is("bad") && !is("failed") && is("m"), "{}", name);
                        delivered += 1;
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
                for part in parts.iter().filter(|it| it.starts_with("m")) {
                    let sink_state = sink.0.lock().unwrap();
                    prop_assert!(sink_state.arrived.contains_key(*part), "{} did not arrive", part);
                }
            }
        }
        prop_assert_eq!(left.metrics["input_delivered"], f64::from(delivered));
    }
}

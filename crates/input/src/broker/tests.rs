use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures::FutureExt;
use meterline_core::{Health, Message, Outcome, Settlement};

use super::*;

/// What a test input does when it is read.
#[derive(Clone, Copy)]
enum Step {
    Yield(&'static str),
    End,
    Fail,
}

/// What happens to a test input.
#[derive(Default)]
struct Log {
    steps: VecDeque<Step>,
    settlements: Vec<Settlement>,
    reads: usize,
    stopped: bool,
    /// How many outcomes were known when it was closed.
    closed_with: Option<usize>,
}

/// Yields what the test wants, and waits when there is nothing.
#[derive(Clone, Default)]
struct Fake {
    log: Arc<Mutex<Log>>,
    endless: Option<&'static str>,
    has_more: bool,
    left: Undelivered,
}

impl Fake {
    fn of(steps: &[Step]) -> Self {
        let fake = Self::default();
        fake.add(steps);
        fake
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, steps: &[Step]) {
        self.log().steps.extend(steps);
    }

    fn outcomes(&self) -> Vec<Option<Settled>> {
        let mut log = self.log();
        let settlements = log.settlements.iter_mut();
        settlements.map(|it| it.settled().now_or_never()).collect()
    }
}

#[async_trait]
impl Input for Fake {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        self.log().reads += 1;
        let step = self.log().steps.pop_front();
        let text = match (step, self.endless) {
            (Some(Step::Yield(text)), _) | (None, Some(text)) => text,
            (Some(Step::End), _) => return Ok(None),
            (Some(Step::Fail), _) => return Err(InputError("it broke".to_owned())),
            (None, None) => std::future::pending().await,
        };
        let (ack, settlement) = Ack::new();
        self.log().settlements.push(settlement);
        Ok(Some((vec![Message::raw(text)], ack)))
    }

    fn stop(&mut self) -> bool {
        self.log().stopped = true;
        self.has_more
    }

    async fn close(&mut self) {
        let outcomes = self.outcomes();
        self.log().closed_with = Some(outcomes.iter().flatten().count());
    }

    fn left(&self) -> Undelivered {
        self.left
    }
}

fn broker(fakes: &[&Fake]) -> (Broker, Health) {
    let health = Health::default();
    let inputs = fakes.iter().enumerate().map(|(index, &it)| {
        let input: Box<dyn Input> = Box::new(it.clone());
        (format!("b.inputs.{index}"), input)
    });
    let broker = Broker::new(inputs.collect(), health.register("inputs of b"));
    (broker, health)
}

/// What a read yields now; `None` while it waits.
fn read(broker: &mut Broker) -> Option<Result<Option<(String, Ack)>, InputError>> {
    let read = tokio::task::unconstrained(broker.read()).now_or_never()?;
    Some(read.map(|it| {
        it.map(|(batch, ack)| {
            let text = String::from_utf8(batch[0].bytes().unwrap().to_vec()).unwrap();
            (text, ack)
        })
    }))
}

fn batch(broker: &mut Broker) -> (String, Ack) {
    read(broker).expect("it waits").unwrap().expect("it ended")
}

fn ended(broker: &mut Broker) -> bool {
    matches!(read(broker), Some(Ok(None)))
}

#[test]
fn no_input_starves_another_and_one_that_waits_stops_none() {
    let endless = |text| Fake {
        endless: Some(text),
        ..Fake::default()
    };
    let (a, waits, b) = (endless("a"), Fake::default(), endless("b"));
    let (mut broker, _) = broker(&[&a, &waits, &b]);
    let mut seen = String::new();
    for round in 0..6 {
        let (text, ack) = batch(&mut broker);
        ack.resolve(Outcome::Delivered);
        seen.push_str(&text);
        if round == 2 {
            waits.add(&[Step::Yield("w")]);
        }
    }
    assert_eq!(seen, "abawba");
}

#[test]
fn each_batch_is_settled_at_its_own_input_with_its_own_outcome() {
    let (a, b) = (Fake::of(&[Step::Yield("a")]), Fake::of(&[Step::Yield("b")]));
    let (mut broker, _) = broker(&[&a, &b]);
    let (_, of_a) = batch(&mut broker);
    let (_, of_b) = batch(&mut broker);
    let fates = Settled {
        outcome: Outcome::Delivered,
        undelivered: vec![(3, Outcome::Dropped("here".into()))],
    };
    of_b.resolve_as(fates.clone());
    assert!(read(&mut broker).is_none());
    assert_eq!(
        (a.outcomes(), b.outcomes()),
        (vec![None], vec![Some(fates)])
    );
    // A batch that is lost is lost to the input that yielded it.
    drop(of_a);
    assert!(read(&mut broker).is_none());
    assert_eq!(a.outcomes()[0].as_ref().unwrap().outcome, Outcome::Lost);
}

#[test]
fn it_ends_when_all_have_ended_and_an_ended_input_is_not_read_again() {
    let (a, b) = (Fake::of(&[Step::End]), Fake::of(&[Step::Yield("b")]));
    let (mut broker, health) = broker(&[&a, &b]);
    let (_, ack) = batch(&mut broker);
    ack.resolve(Outcome::Delivered);
    assert!(read(&mut broker).is_none(), "one of them still waits");
    assert_eq!(a.log().reads, 1);
    b.add(&[Step::End]);
    assert!(ended(&mut broker) && ended(&mut broker));
    assert_eq!((a.log().reads, health.report().ready), (1, true));
}

#[test]
fn an_input_is_read_again_after_its_end_once_its_batches_are_settled() {
    let (a, b) = (Fake::of(&[Step::Yield("a"), Step::End]), Fake::default());
    let (mut broker, _) = broker(&[&a, &b]);
    let (_, lost) = batch(&mut broker);
    assert!(read(&mut broker).is_none());
    assert_eq!(a.log().reads, 2);
    drop(lost);
    // It repeats the batch, although the other one has never ended.
    a.add(&[Step::Yield("again"), Step::End, Step::End]);
    let (text, ack) = batch(&mut broker);
    assert_eq!(text, "again");
    assert!(read(&mut broker).is_none());
    ack.resolve(Outcome::Delivered);
    b.add(&[Step::End]);
    assert!(ended(&mut broker));
    assert_eq!(a.log().reads, 5);
}

/// The pipeline flushes after `None`, and reads again once everything is settled.
#[test]
fn what_waits_in_the_pipeline_at_the_end_is_flushed_and_may_be_repeated() {
    let a = Fake::of(&[Step::Yield("a"), Step::End]);
    let (mut broker, _) = broker(&[&a]);
    let (_, ack) = batch(&mut broker);
    assert!(ended(&mut broker));
    ack.resolve(Outcome::Failed("no".to_owned()));
    a.add(&[Step::Yield("again"), Step::End]);
    let (text, ack) = batch(&mut broker);
    assert_eq!(text, "again");
    ack.resolve(Outcome::Delivered);
    assert!(ended(&mut broker));
}

#[test]
fn a_failed_input_stops_no_other_and_is_the_end_only_after_them() {
    let (a, b) = (Fake::of(&[Step::Yield("a"), Step::Fail]), Fake::default());
    let (mut broker, health) = broker(&[&a, &b]);
    let (_, of_a) = batch(&mut broker);
    b.add(&[Step::Yield("b"), Step::Yield("c")]);
    let (_, of_b) = batch(&mut broker);
    let (_, of_c) = batch(&mut broker);
    let report = health.report();
    assert_eq!(
        report.parts[0].2.as_ref(),
        "b.inputs.0 has failed: it broke"
    );
    assert!(!report.ready);
    of_a.resolve(Outcome::Delivered);
    of_b.resolve(Outcome::Delivered);
    b.add(&[Step::End]);
    // What waits is flushed first.
    assert!(ended(&mut broker));
    of_c.resolve(Outcome::Delivered);
    b.add(&[Step::End]);
    let error = read(&mut broker).unwrap().err().unwrap();
    assert_eq!(error.to_string(), "b.inputs.0 has failed: it broke");
    assert_eq!(a.log().reads, 2);
    assert!(a.outcomes()[0].is_some());
}

#[tokio::test]
async fn stop_left_and_close_reach_all() {
    let left = |lost, persisted| Undelivered { lost, persisted };
    let keeps = Fake {
        has_more: true,
        left: left(1, 2),
        ..Fake::of(&[Step::Yield("a")])
    };
    let done = Fake {
        left: left(3, 4),
        ..Fake::of(&[Step::Yield("b")])
    };
    let fails = Fake {
        has_more: true,
        left: left(5, 0),
        ..Fake::of(&[Step::Fail])
    };
    let fakes = [&keeps, &done, &fails];
    let (mut broker, _) = broker(&fakes);
    let (_, of_a) = batch(&mut broker);
    let (_, of_b) = batch(&mut broker);
    assert!(read(&mut broker).is_none());
    assert!(broker.stop());
    assert!(fakes.iter().all(|it| it.log().stopped));
    // Only what one input still has is read.
    keeps.add(&[Step::Yield("rest"), Step::End]);
    done.add(&[Step::Yield("next")]);
    let (text, of_rest) = batch(&mut broker);
    assert_eq!(text, "rest");
    assert!(ended(&mut broker));
    of_a.resolve(Outcome::Delivered);
    drop((of_b, of_rest));
    broker.close().await;
    let closed = fakes.map(|it| it.log().closed_with);
    assert_eq!(closed, [Some(2), Some(1), Some(0)], "outcomes come first");
    assert_eq!(broker.left(), left(9, 6));
}

#[test]
fn without_more_to_read_a_stop_reads_no_further() {
    let a = Fake::of(&[Step::Yield("a")]);
    let (mut broker, _) = broker(&[&a, &a.clone()]);
    assert!(!broker.stop());
    assert!(ended(&mut broker));
    assert_eq!(a.log().reads, 0);
}

#[tokio::test]
async fn each_input_has_its_own_schedule_and_reads() {
    use meterline_core::BuildContext;

    /// Notes what it is given. Makes windows itself if `makes_windows`.
    struct Noting {
        makes_windows: bool,
        noted: Arc<Mutex<Vec<String>>>,
    }

    #[async_trait]
    impl InputPlan for Noting {
        fn take_schedule(&mut self, interval: Duration) -> bool {
            self.noted.lock().unwrap().push(format!("{interval:?}"));
            self.makes_windows
        }

        fn take_reads(&mut self, reads: &Reads) {
            self.noted.lock().unwrap().push(reads.to_string());
        }

        async fn build(self: Box<Self>, _: &BuildContext) -> Result<Box<dyn Input>, BuildError> {
            Ok(Box::new(Fake::of(&[Step::Yield("x")])))
        }
    }

    let noted = Arc::default();
    let children = [true, false].map(|makes_windows| -> Box<dyn InputPlan> {
        Box::new(Noting {
            makes_windows,
            noted: Arc::clone(&noted),
        })
    });
    let mut plan: Box<dyn InputPlan> = Box::new(Plan {
        children: children.into(),
    });
    assert!(plan.take_schedule(Duration::from_secs(1)));
    plan.take_reads(&Reads::of(&["a"]));
    assert_eq!(*noted.lock().unwrap(), ["1s", "1s", "a", "a"]);
    let mut input = plan.build(&BuildContext::default()).await.unwrap();
    let mut windows = Vec::new();
    for _ in 0..2 {
        let (batch, ack) = input.read().await.unwrap().unwrap();
        ack.resolve(Outcome::Delivered);
        windows.push(batch[0].metadata.get("window_time").is_some());
    }
    assert_eq!(windows, [false, true], "the second is read for each window");
}

//! Messages that make the sink fail, a sink that fails now and then, and one that is down.

mod chance;
mod hanging;

use futures::FutureExt;
use meterline_core::Identity;
use rand::Rng;

use super::*;

/// A sink in simulated time. It accepts messages unless it is down, fails at random, or fails because of
/// a message.
#[derive(Debug, Default)]
struct Fragile {
    /// The failure rate of requests in percent.
    failing: u32,
    /// Intervals in seconds since the start in which every request fails.
    away: Vec<(u64, u64)>,
    /// Requests with more messages fail.
    most: Option<usize>,
    /// How many seconds it takes to fail because of a message.
    hangs: u64,
    /// How many seconds it takes to accept a message of an object whose name starts with "slow".
    slow: u64,
    /// Whether it answers 413 because of a message: always for a batch, and now and then for a single
    /// message.
    answers_too_large: bool,
    answers: Mutex<usize>,
    started: Mutex<Option<tokio::time::Instant>>,
    /// The second in which a message of a window was accepted last.
    last: Mutex<u64>,
    /// The longest time in seconds from making a window to accepting one of its messages.
    latest: Mutex<u64>,
    arrived: Mutex<HashSet<String>>,
    /// The number of messages of each request, and whether it was accepted.
    requests: Mutex<Vec<(usize, bool)>>,
}

#[async_trait]
impl Writer for Fragile {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = tokio::time::Instant::now();
        let started = *self.started.lock().unwrap().get_or_insert(now);
        let second = now.duration_since(started).as_secs();
        let names = names(batch);
        if names.iter().any(|name| name.starts_with("slow")) {
            tokio::time::sleep(Duration::from_secs(self.slow)).await;
        }
        let fails = self
            .away
            .iter()
            .any(|(from, to)| (*from..*to).contains(&second))
            || rand::rng().random_ratio(self.failing, 100)
            || self.most.is_some_and(|most| names.len() > most)
            || names.iter().any(|name| name.starts_with("poison"));
        self.requests.lock().unwrap().push((names.len(), !fails));
        let is_poison = names.iter().any(|name| name.starts_with("poison"));
        if is_poison {
            tokio::time::sleep(Duration::from_secs(self.hangs)).await;
            let mut answers = self.answers.lock().unwrap();
            *answers += usize::from(names.len() == 1);
            if self.answers_too_large && (names.len() > 1 || answers.is_multiple_of(2)) {
                let reason = "413".to_owned();
                return Err(WriteError::TooLarge { reason });
            }
        }
        if fails {
            return Err(WriteError::Failed {
                reason: "500".to_owned(),
                after: None,
            });
        }
        if !names.iter().all(|name| name.starts_with("after")) {
            *self.last.lock().unwrap() = second;
        }
        // Windows are made one second apart.
        let numbers = names.iter().filter_map(|name| name.split_once(' '));
        let made = numbers.filter_map(|(_, number)| number.parse::<u64>().ok());
        let mut latest = self.latest.lock().unwrap();
        *latest = made.fold(*latest, |latest, made| {
            latest.max((second + 1).saturating_sub(made))
        });
        self.arrived.lock().unwrap().extend(names);
        Ok(())
    }
}

/// Makes one window per second. After the requested windows, windows of an honest object follow until
/// the others are settled.
struct Windows {
    windows: std::vec::IntoIter<Vec<String>>,
    goes_on: bool,
    open: Vec<Settlement>,
    start: Option<tokio::time::Instant>,
    /// Whether windows that could not be forwarded in time are made as soon as possible.
    catches_up: bool,
    made: usize,
    fates: Arc<Mutex<Vec<Settled>>>,
    /// The most windows that were open at once.
    most_open: Arc<Mutex<usize>>,
}

impl Windows {
    /// Records the outcomes of the windows that are settled.
    fn settle(&mut self) {
        let mut open = Vec::new();
        for mut settlement in std::mem::take(&mut self.open) {
            let settled = settlement.settled().now_or_never();
            match settled {
                Some(settled) => self.fates.lock().unwrap().push(settled),
                None => open.push(settlement),
            }
        }
        self.open = open;
        let mut most = self.most_open.lock().unwrap();
        *most = self.open.len().max(*most);
    }
}

#[async_trait]
impl Input for Windows {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        let start = *self.start.get_or_insert_with(tokio::time::Instant::now);
        if self.catches_up {
            tokio::time::sleep_until(start + Duration::from_secs(self.made as u64 + 1)).await;
        } else {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (ack, settlement) = Ack::new();
        self.settle();
        let names = if let Some(names) = self.windows.next() {
            self.open.push(settlement);
            names
        } else {
            if self.open.is_empty() {
                return Ok(None);
            }
            if !self.goes_on {
                std::future::pending::<()>().await;
            }
            vec!["after".to_owned()]
        };
        self.made += 1;
        let batch = names.iter().zip(0..).map(|(name, number)| {
            let identity = Identity {
                about: name.as_str().into(),
                uid: name.as_str().into(),
                start: 0,
                end: 1,
                cluster: None,
            };
            let text = format!("{name} {}", self.made);
            Message::raw(text)
                .with_identity(identity)
                .with_origin(number)
        });
        Ok(Some((batch.collect(), ack)))
    }

    fn stop(&mut self) -> bool {
        false
    }

    async fn close(&mut self) {}

    fn left(&self) -> Undelivered {
        Undelivered::default()
    }
}

/// Records which messages are rejected, and in which second after the start.
#[derive(Debug)]
struct SetAside {
    start: tokio::time::Instant,
    messages: Mutex<Vec<(String, u64)>>,
}

impl SetAside {
    fn new() -> Self {
        Self {
            start: tokio::time::Instant::now(),
            messages: Mutex::default(),
        }
    }

    /// Returns the longest time from the first window of an object to the first of its messages that was
    /// rejected.
    fn longest_search(&self, windows: &[Vec<String>]) -> u64 {
        let messages = self.messages.lock().unwrap();
        let mut found = BTreeMap::<&str, u64>::new();
        for (message, second) in messages.iter() {
            let object = message.split(' ').next().unwrap();
            found.entry(object).or_insert(*second);
        }
        let search = |(object, found): (&str, u64)| {
            let is_in = |names: &Vec<String>| names.iter().any(|name| name == object);
            let first = windows.iter().position(is_in).unwrap() as u64 + 1;
            found.saturating_sub(first)
        };
        found.into_iter().map(search).max().unwrap_or_default()
    }
}

#[async_trait]
impl Writer for SetAside {
    async fn write(&self, batch: &[Message]) -> Result<(), WriteError> {
        let second = self.start.elapsed().as_secs();
        let mut set_aside = self.messages.lock().unwrap();
        for (name, message) in names(batch).into_iter().zip(batch) {
            assert!(message.metadata.get(FALLBACK_ERROR).is_some());
            set_aside.push((name, second));
        }
        Ok(())
    }
}

struct Story {
    sink: Arc<Fragile>,
    fates: Vec<Settled>,
    /// The names of the rejected messages, one for each rejection.
    rejected: Vec<String>,
    /// In seconds.
    longest_search: u64,
    complaint: Option<String>,
    seconds: u64,
    most_open: usize,
}

/// Runs windows of these objects until all are settled, or for this many seconds.
fn story(
    sink: Fragile,
    windows: &[Vec<String>],
    (size, max_in_flight): (usize, usize),
    goes_on: bool,
    seconds: u64,
) -> Story {
    let set = |writer: &mut WriterNode| {
        writer.max_in_flight = max_in_flight;
        writer.batching = count(size);
    };
    story_of(sink, windows, set, goes_on, seconds)
}

/// Does the same with an output that `set` configures.
fn story_of(
    sink: Fragile,
    windows: &[Vec<String>],
    set: impl Fn(&mut WriterNode),
    goes_on: bool,
    seconds: u64,
) -> Story {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let sink = Arc::new(sink);
        let fates = Arc::new(Mutex::new(Vec::new()));
        let most_open = Arc::new(Mutex::new(0));
        let (health, letters) = (Health::default(), Arc::new(SetAside::new()));
        let mut first = writer(Arc::clone(&sink) as _, count(0));
        first.each_writer(&mut |writer| set(writer));
        let mut last = writer(Arc::clone(&letters) as _, count(0));
        last.each_writer(&mut |writer| {
            writer.taken = Taken::Kept;
            writer.label = "letters".into();
        });
        let pipeline = Pipeline {
            input: Box::new(Windows {
                windows: Vec::from(windows).into_iter(),
                goes_on,
                open: Vec::new(),
                start: None,
                catches_up: sink.hangs > 0,
                made: 0,
                fates: Arc::clone(&fates),
                most_open: Arc::clone(&most_open),
            }),
            chains: vec![vec![]],
            output: OutputNode::Fallback {
                children: vec![first, last],
            },
            metrics: Metrics::default(),
            health: health.clone(),
            shutdown_timeout: Duration::from_secs(1),
        };
        let start = tokio::time::Instant::now();
        let run = pipeline.run(CancellationToken::new());
        let _ = tokio::time::timeout(Duration::from_secs(seconds), run).await;
        let seconds = start.elapsed().as_secs();
        let report = health.report();
        let part = report
            .parts
            .iter()
            .find(|it| it.0.as_ref() == "output output");
        let complaint = part.and_then(|(_, ready, why)| (!ready).then(|| why.to_string()));
        let set_aside = letters.messages.lock().unwrap().clone();
        Story {
            longest_search: letters.longest_search(windows),
            rejected: set_aside.into_iter().map(|(name, _)| name).collect(),
            fates: std::mem::take(&mut *fates.lock().unwrap()),
            sink,
            complaint,
            seconds,
            most_open: *most_open.lock().unwrap(),
        }
    })
}

impl Story {
    /// Asserts that everything but poison arrived, and that only poison was rejected.
    fn assert_honest(&self, windows: &[Vec<String>]) {
        let arrived = self.sink.arrived.lock().unwrap();
        let mut poison = 0;
        for (names, made) in windows.iter().zip(1..) {
            for name in names {
                let text = format!("{name} {made}");
                if name.starts_with("poison") {
                    poison += 1;
                    assert!(
                        self.rejected.contains(&text),
                        "{text} is not set aside after {} seconds and {} requests, of which the last {:?}",
                        self.seconds,
                        self.sink.requests.lock().unwrap().len(),
                        self.sink
                            .requests
                            .lock()
                            .unwrap()
                            .iter()
                            .rev()
                            .take(40)
                            .collect::<Vec<_>>(),
                    );
                } else {
                    assert!(
                        arrived.contains(&text),
                        "{text} did not arrive: {:?} {} of {}, {} s",
                        self.rejected,
                        self.fates.len(),
                        windows.len(),
                        self.seconds
                    );
                }
            }
        }
        let others = self.rejected.iter().filter(|it| !it.starts_with("poison"));
        assert_eq!(others.collect::<Vec<_>>(), [""; 0]);
        assert_eq!(self.rejected.len(), poison);
        assert_eq!(self.fates.len(), windows.len());
        for (_, fate) in self.fates.iter().flat_map(|it| &it.undelivered) {
            let Outcome::Rejected(rejection) = fate else {
                panic!("{fate:?}");
            };
            assert_eq!(rejection.cause, Cause::Poison);
            assert!(
                rejection.reason.contains("other events are accepted"),
                "{rejection:?}"
            );
        }
    }
}

fn windows_of(objects: &[&str], count: usize) -> Vec<Vec<String>> {
    vec![batch(objects); count]
}

const DAY: u64 = 86_400;

#[test]
fn one_message_that_makes_the_sink_fail_is_set_aside_and_the_others_arrive() {
    for objects in [
        &["poison", "a", "b", "c"][..],
        &["a", "b", "c", "poison"],
        &["poison-1", "a", "poison-2", "b"],
        &["a", "poison-1", "poison-2"],
    ] {
        for in_flight in [1, 8] {
            for size in [0, 1, 20] {
                let windows = windows_of(objects, 60);
                let story = story(Fragile::default(), &windows, (size, in_flight), true, DAY);
                story.assert_honest(&windows);
                assert!(story.seconds < 600, "{objects:?} {size}: {}", story.seconds);
            }
        }
    }
}

/// Halving a batch does not count as a try of its messages, however few tries and however little time
/// the configuration allows.
#[test]
fn tries_count_against_the_message_alone_and_not_its_batch() {
    let second = Duration::from_secs(1);
    for (most, no_longer_than) in [(Some(1), None), (None, Some(second))] {
        let set = |writer: &mut WriterNode| {
            // Another request is accepted before the second try.
            writer.retry.first = 3 * second;
            writer.retry.most = most;
            writer.retry.no_longer_than = no_longer_than;
        };
        let pair = [batch(&["a", "b", "poison", "c", "d"]), batch(&["e"])];
        let windows: Vec<_> = std::iter::repeat_n(pair, 30).flatten().collect();
        let story = story_of(Fragile::default(), &windows, set, true, DAY);
        let arrived = story.sink.arrived.lock().unwrap();
        let of_windows = arrived.iter().filter(|it| !it.starts_with("after"));
        assert_eq!(of_windows.count(), 30 * 5);
        assert_eq!(story.rejected.len(), 30);
        assert!(story.rejected.iter().all(|it| it.starts_with("poison")));
    }
}

/// The sink answers 413 for the batch and 500 for the message, so one 413 for the message is not the
/// verdict.
#[test]
fn the_cause_is_the_response_to_the_message_alone() {
    let sink = Fragile {
        answers_too_large: true,
        ..Fragile::default()
    };
    let windows = [batch(&["a", "poison", "b"]), batch(&["c"])];
    story(sink, &windows, (0, 4), true, DAY).assert_honest(&windows);
}

#[test]
fn the_messages_of_a_deleted_object_do_not_stop_those_of_others() {
    let mut windows = windows_of(&["poison"], 30);
    windows.extend(windows_of(&["a", "b"], 30));
    let story = story(Fragile::default(), &windows, (1, 2), true, DAY);
    story.assert_honest(&windows);
}

#[test]
fn a_message_that_nothing_else_can_be_compared_with_is_an_outage() {
    let windows = windows_of(&["poison"], 3);
    let story = story(Fragile::default(), &windows, (0, 8), false, 3_600);
    assert_eq!(story.rejected, [""; 0]);
    assert_eq!(story.complaint.as_deref(), Some("500"));
}

#[test]
fn an_outage_sets_nothing_aside_however_long_it_lasts() {
    let sink = Fragile {
        away: vec![(0, 3 * DAY)],
        ..Fragile::default()
    };
    let windows = windows_of(&["a", "b", "c", "d", "e"], 200);
    let story = story(sink, &windows, (0, 4), true, 4 * DAY);
    story.assert_honest(&windows);
    // Requests are sent one at a time with long pauses, and few of them are pieces of a batch.
    let requests = story.sink.requests.lock().unwrap();
    let failed = requests.iter().filter(|(_, taken)| !taken);
    let pieces = failed.clone().filter(|(size, _)| *size < 5).count();
    assert!(failed.clone().count() < 3 * 86_400 / 15 + 20);
    assert!((10..=2 + 10 + 72).contains(&pieces), "{pieces}");
}

#[test]
fn a_sink_that_fails_for_large_requests_gets_smaller_ones_and_nothing_is_set_aside() {
    let sink = Fragile {
        most: Some(3),
        ..Fragile::default()
    };
    let objects: Vec<String> = (0..20).map(|object| format!("object-{object}")).collect();
    let windows = vec![objects; 10];
    let story = story(sink, &windows, (0, 4), true, DAY);
    story.assert_honest(&windows);
}

/// Objects; `poison` is which of them are poison.
fn objects(poison: &[bool]) -> Vec<String> {
    let name = |(index, poison)| format!("{}-{index}", if poison { "poison" } else { "good" });
    poison.iter().copied().enumerate().map(name).collect()
}

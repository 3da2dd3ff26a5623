use std::{collections::VecDeque, path::Path};

use futures::FutureExt;
use meterline_core::{BatchLimit, Cause, Content, Identity, Message, Settlement};

use super::{memory::Memory, sqlite::File, *};

/// Yields messages one by one, repeats those that were not acknowledged, and records those that were.
struct Source {
    waiting: VecDeque<String>,
    unsettled: Vec<(String, Settlement)>,
    acknowledged: Arc<Mutex<Vec<String>>>,
}

impl Source {
    fn of(names: &[&str]) -> (Box<dyn Input>, Arc<Mutex<Vec<String>>>) {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let source = Self {
            waiting: names.iter().map(|name| (*name).to_owned()).collect(),
            unsettled: Vec::new(),
            acknowledged: Arc::clone(&acknowledged),
        };
        (Box::new(source), acknowledged)
    }
}

#[async_trait]
impl Input for Source {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        for (name, mut settlement) in std::mem::take(&mut self.unsettled) {
            if settlement.outcome().await.is_settled() {
                self.acknowledged.lock().unwrap().push(name);
            } else {
                self.waiting.push_back(name);
            }
        }
        let Some(name) = self.waiting.pop_front() else {
            return Ok(None);
        };
        let (ack, settlement) = Ack::new();
        let mut message = Message::raw(name.clone().into_bytes());
        message.metadata.set("key", format!("of {name}"));
        let message = message.with_identity(Identity {
            about: "pod".into(),
            uid: name.as_str().into(),
            start: 7,
            end: 8,
            cluster: None,
        });
        self.unsettled.push((name, settlement));
        Ok(Some((vec![message], ack)))
    }

    fn stop(&mut self) -> bool {
        false
    }

    async fn close(&mut self) {}

    fn left(&self) -> Undelivered {
        Undelivered::default()
    }
}

fn cx() -> BuildContext {
    BuildContext::default().labelled("buffer")
}

fn file(path: &Path) -> Box<dyn Store> {
    Box::new(File::open(path.to_owned(), 0).unwrap())
}

fn text(batch: &Batch) -> String {
    String::from_utf8(batch[0].bytes().unwrap().to_vec()).unwrap()
}

/// Reads everything and resolves each batch with what `outcome` returns for it; `None` drops the ack.
async fn read_all(
    input: &mut Box<dyn Input>,
    mut outcome: impl FnMut(&str) -> Option<Outcome>,
) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some((batch, ack)) = input.read().await.unwrap() {
        let name = text(&batch);
        if let Some(outcome) = outcome(&name) {
            ack.resolve(outcome);
        }
        seen.push(name);
    }
    seen
}

#[tokio::test]
async fn batches_are_yielded_in_order_and_failed_ones_again() {
    let dir = tempfile::tempdir().unwrap();
    for store in [
        Box::<Memory>::default() as Box<dyn Store>,
        file(&dir.path().join("b.sqlite")),
    ] {
        let (source, acknowledged) = Source::of(&["a", "b", "c"]);
        let mut input = buffered(store, 1_000_000, source, &cx());
        let mut failed = false;
        let seen = read_all(&mut input, |name| {
            if name == "b" && !std::mem::replace(&mut failed, true) {
                return None;
            }
            Some(Outcome::Delivered)
        })
        .await;
        let mut once = seen.clone();
        once.sort();
        assert_eq!(once, ["a", "b", "b", "c"]);
        assert_eq!(seen[..2], ["a", "b"]);
        assert_eq!(*acknowledged.lock().unwrap(), ["a", "b", "c"]);
        assert!(input.read().await.unwrap().is_none(), "nothing is left");
        input.close().await;
    }
}

#[tokio::test]
async fn undelivered_messages_survive_with_their_metadata_and_identity() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/b.sqlite");
    let (source, acknowledged) = Source::of(&["a", "b", "c"]);
    let mut input = buffered(file(&path), 1_000_000, source, &cx());
    let mut acks = Vec::new();
    for _ in 0..3 {
        let (batch, ack) = input.read().await.unwrap().unwrap();
        if text(&batch) == "b" {
            ack.resolve(Outcome::Delivered);
        } else {
            acks.push(ack);
        }
    }
    // All are acknowledged to the input although two were not delivered, because the file has them.
    while acknowledged.lock().unwrap().len() < 3 {
        tokio::task::yield_now().await;
    }
    drop(acks);
    input.close().await;
    drop(input);

    let (source, _) = Source::of(&["d"]);
    let mut input = buffered(file(&path), 1_000_000, source, &cx());
    let (batch, ack) = input.read().await.unwrap().unwrap();
    assert_eq!(text(&batch), "a");
    assert_eq!(batch[0].metadata.get("key").unwrap().as_ref(), "of a");
    let identity = batch[0].identity().unwrap();
    assert_eq!((identity.uid.as_ref(), identity.start), ("a", 7));
    ack.resolve(Outcome::rejected(Cause::Refused, "sink", "bad"));
    let rest = read_all(&mut input, |_| Some(Outcome::Delivered)).await;
    assert_eq!(rest, ["c", "d"]);
    input.close().await;
    drop(input);
    assert!(
        file(&path).next().unwrap().is_none(),
        "delivered batches are deleted"
    );
}

#[tokio::test]
async fn a_full_buffer_makes_the_input_wait() {
    let (source, acknowledged) = Source::of(&["aaaa", "bbbb", "cccc"]);
    let mut input = buffered(Box::<Memory>::default(), 8, source, &cx());
    let (_, first) = input.read().await.unwrap().unwrap();
    let (_, second) = input.read().await.unwrap().unwrap();
    let third = tokio::time::timeout(Duration::from_millis(200), input.read()).await;
    assert!(third.is_err(), "the buffer is full");
    assert_eq!(acknowledged.lock().unwrap().len(), 1);
    first.resolve(Outcome::Delivered);
    second.resolve(Outcome::Delivered);
    let (batch, ack) = input.read().await.unwrap().unwrap();
    assert_eq!(text(&batch), "cccc");
    ack.resolve(Outcome::Delivered);
    input.close().await;
}

#[tokio::test]
async fn a_damaged_batch_is_set_aside_and_the_others_are_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.sqlite");
    let mut store = file(&path);
    for name in ["a", "b", "c"] {
        store.push(vec![Message::raw(name)]).unwrap();
    }
    drop(store);
    let connection = rusqlite::Connection::open(&path).unwrap();
    let damage =
        "UPDATE batches SET messages = CAST(REPLACE(messages, 'b', 'B') AS BLOB) WHERE number = 2";
    assert_eq!(connection.execute(damage, []).unwrap(), 1);
    drop(connection);
    let mut store = file(&path);
    let mut names = Vec::new();
    while let Some((_, batch)) = store.next().unwrap() {
        names.push(text(&batch));
    }
    assert_eq!(names, ["a", "c"]);
    assert_eq!(store.quarantined(), 1);
    for number in [1, 3] {
        store.done(number).unwrap();
    }
    assert_eq!(store.bytes(), 0, "and uses no capacity");
    drop(store);
    let connection = rusqlite::Connection::open(&path).unwrap();
    let kept: i64 = connection
        .query_row(
            "SELECT COUNT(*) FROM quarantine WHERE number = 2",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(kept, 1, "set aside, not deleted");
}

/// Refuses this many batches, then accepts.
struct RefusesFirst(Memory, u32);

impl Store for RefusesFirst {
    fn push(&mut self, batch: Batch) -> Result<(), String> {
        if self.1 > 0 {
            self.1 -= 1;
            return Err("the disk is full".to_owned());
        }
        self.0.push(batch)
    }
    fn next(&mut self) -> Result<Option<(u64, Batch)>, String> {
        self.0.next()
    }
    fn done(&mut self, number: u64) -> Result<(), String> {
        self.0.done(number)
    }
    fn again(&mut self, number: u64) {
        self.0.again(number);
    }
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }
    fn batches(&mut self) -> usize {
        self.0.batches()
    }
    fn survives(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_batch_that_a_full_disk_refuses_is_not_acknowledged_and_is_read_again() {
    let cx = cx();
    let (source, acknowledged) = Source::of(&["a", "b"]);
    let mut input = buffered(
        Box::new(RefusesFirst(Memory::default(), 1)),
        1_000,
        source,
        &cx,
    );
    let mut seen = read_all(&mut input, |_| Some(Outcome::Delivered)).await;
    seen.sort();
    assert_eq!(seen, ["a", "b"], "once each");
    assert_eq!(acknowledged.lock().unwrap().len(), 2);
    assert!(cx.health.report().ready, "and it is ready again");
    input.close().await;
}

#[test]
fn bytes_that_are_no_text_are_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = file(&dir.path().join("b.sqlite"));
    let bytes: Vec<u8> = (0..=255).collect();
    store.push(vec![Message::raw(bytes.clone())]).unwrap();
    let (_, batch) = store.next().unwrap().unwrap();
    assert_eq!(batch[0].bytes().unwrap().to_vec(), bytes);
}

/// Yields one message, then fails.
struct Broken(bool);

#[async_trait]
impl Input for Broken {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        if std::mem::replace(&mut self.0, true) {
            return Err(InputError("it broke".to_owned()));
        }
        Ok(Some((vec![Message::raw("a")], Ack::new().0)))
    }

    fn stop(&mut self) -> bool {
        false
    }

    async fn close(&mut self) {}

    fn left(&self) -> Undelivered {
        Undelivered::default()
    }
}

#[tokio::test]
async fn the_error_of_an_input_is_reported_once_everything_is_delivered() {
    let cx = cx();
    let input = Box::new(Broken(false));
    let mut input = buffered(Box::<Memory>::default(), 1_000, input, &cx);
    let (_, ack) = input.read().await.unwrap().unwrap();
    assert!(input.read().await.unwrap().is_none(), "one is in flight");
    assert!(!cx.health.report().ready);
    drop(ack);
    let (batch, ack) = input.read().await.unwrap().unwrap();
    assert_eq!(text(&batch), "a");
    ack.resolve(Outcome::Delivered);
    let error = input.read().await.unwrap_err();
    assert_eq!(error.to_string(), "it broke");
    input.close().await;
}

#[tokio::test]
async fn after_a_stop_memory_yields_its_batches_and_a_file_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    for (store, lost, persisted) in [
        (Box::<Memory>::default() as Box<dyn Store>, 1, 0),
        (file(&dir.path().join("b.sqlite")), 0, 2),
    ] {
        let (source, acknowledged) = Source::of(&["a", "b"]);
        let mut input = buffered(store, 1_000, source, &cx());
        let (_, first) = input.read().await.unwrap().unwrap();
        while acknowledged.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        let reads_on = input.stop();
        assert_eq!(reads_on, lost > 0);
        if reads_on {
            let (batch, ack) = input.read().await.unwrap().unwrap();
            assert_eq!(text(&batch), "b");
            ack.resolve(Outcome::Delivered);
            assert!(input.read().await.unwrap().is_none());
        }
        drop(first);
        input.close().await;
        assert_eq!(input.left(), Undelivered { lost, persisted });
    }
}

/// Yields nothing until it is stopped, and then batches that only it has.
struct Waiting {
    stopped: bool,
    batches: usize,
    settlements: Vec<Settlement>,
    lost: usize,
}

#[async_trait]
impl Input for Waiting {
    async fn read(&mut self) -> Result<Option<(Batch, Ack)>, InputError> {
        if !self.stopped {
            return std::future::pending().await;
        }
        if self.settlements.len() == self.batches {
            return Ok(None);
        }
        let (ack, settlement) = Ack::new();
        self.settlements.push(settlement);
        Ok(Some((vec![Message::raw("a")], ack)))
    }

    fn stop(&mut self) -> bool {
        self.stopped = true;
        true
    }

    async fn close(&mut self) {
        self.lost = self.batches - self.settlements.len();
        for settlement in &mut self.settlements {
            self.lost += usize::from(!settlement.outcome().await.is_settled());
        }
    }

    fn left(&self) -> Undelivered {
        Undelivered {
            lost: self.lost,
            persisted: 0,
        }
    }
}

/// A store that refuses everything.
struct Refuses;

impl Store for Refuses {
    fn push(&mut self, _: Batch) -> Result<(), String> {
        Err("refused by the test".to_owned())
    }
    fn next(&mut self) -> Result<Option<(u64, Batch)>, String> {
        Ok(None)
    }
    fn done(&mut self, _: u64) -> Result<(), String> {
        Ok(())
    }
    fn again(&mut self, _: u64) {}
    fn bytes(&self) -> u64 {
        0
    }
    fn batches(&mut self) -> usize {
        0
    }
    fn survives(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_stop_stores_what_waits_in_the_input_or_counts_it_as_lost() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir.path().join("b.sqlite"));
    for (store, lost, persisted) in [(file, 0, 3), (Box::new(Refuses) as Box<dyn Store>, 3, 0)] {
        let input = Waiting {
            stopped: false,
            batches: 3,
            settlements: Vec::new(),
            lost: 0,
        };
        // The first batch fills the buffer.
        let mut input = buffered(store, 1, Box::new(input), &cx());
        assert!(input.read().now_or_never().is_none());
        assert!(!input.stop());
        input.close().await;
        assert_eq!(input.left(), Undelivered { lost, persisted });
    }
    let input = Waiting {
        stopped: false,
        batches: 3,
        settlements: Vec::new(),
        lost: 0,
    };
    let mut input = buffered(Box::<Memory>::default(), 1, Box::new(input), &cx());
    assert!(input.read().now_or_never().is_none());
    assert!(input.stop(), "what memory holds is still delivered");
    let seen = read_all(&mut input, |_| Some(Outcome::Delivered)).await;
    assert_eq!(seen, ["a"; 3]);
    input.close().await;
    assert_eq!(input.left(), Undelivered::default());
}

#[test]
fn a_file_keeps_which_part_a_message_is_and_the_limit_of_its_batches() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("buffer.sqlite");
    let two = || vec![Content::Raw("a".into()), Content::Raw("b".into())];
    let outer = Message::raw("x").divide(two()).last().unwrap();
    let mut part = outer.divide(two()).last().unwrap();
    part.limit_batch(&Arc::new(BatchLimit {
        count: 3,
        ..BatchLimit::NONE
    }));
    let batch = vec![part.clone(), Message::raw("plain")];
    file(&path).push(batch).unwrap();
    let (_, kept) = file(&path).next().unwrap().unwrap();
    assert_eq!(kept[0].part(), part.part());
    assert_eq!(kept[0].about(), "message, part 2 of 2 of part 2 of 2");
    assert_eq!(kept[0].batch_limit(), part.batch_limit());
    assert_eq!((kept[1].part(), kept[1].batch_limit()), (None, None));
}

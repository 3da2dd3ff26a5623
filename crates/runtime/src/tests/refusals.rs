//! What is refused: as too large, or for good.

use super::*;
use crate::{rejections::Rejections, sink::Delivery, write::Desk};

/// Ten windows of so many messages, all with names of one length.
fn windows(kind: &str, messages: usize) -> Vec<Vec<String>> {
    let window = |window: usize| {
        (0..messages)
            .map(|message| format!("{kind}-{window:02}-{message:03}"))
            .collect()
    };
    (0..10).map(window).collect()
}

#[test]
fn two_that_are_too_large_together_say_nothing_of_those_that_are_small() {
    let books = Books {
        most_bytes: Some(8_000),
        ..generous()
    };
    let large = |name: &str| name.repeat(5_000);
    let mut batches = vec![vec![large("a"), large("b")]];
    batches.extend(windows("m", 30));
    let run = run(&batches, books, count(0), None);
    assert!(run.outcomes.iter().all(|it| *it == Outcome::Delivered));
    let requests = run.sink.0.lock().unwrap().requests.len();
    assert_eq!(requests, 3 + 10);
}

#[test]
fn what_is_refused_for_good_was_not_too_large() {
    let books = Books {
        most: 4,
        ..generous()
    };
    let mut batches = windows("bad", 8);
    batches.truncate(1);
    batches.extend(windows("mmm", 8));
    let run = run(&batches, books, count(0), None);
    let books = run.sink.0.lock().unwrap();
    assert_eq!(books.arrived.len(), 80);
    let good = books
        .requests
        .iter()
        .filter(|names| names.iter().all(|name| name.starts_with("mmm")));
    // Two a window, but for those that were made before the limit was known.
    assert!(good.clone().all(|names| names.len() >= 4));
    assert!(good.count() <= 10 * 2 + 3);
}

/// A leaf's desk with this writer, and what it says of itself.
fn desk(writer: Arc<dyn Writer>) -> (Desk, Health) {
    let (health, metrics) = (Health::default(), Metrics::default());
    let OutputNode::Writer(node) = super::writer(writer, count(0)) else {
        unreachable!();
    };
    let rejections = Arc::new(Rejections::new(&metrics));
    (Desk::new(node, &metrics, &health, rejections), health)
}

async fn write(desk: &Desk, names: &[&str]) {
    let deliveries = names
        .iter()
        .map(|name| Delivery {
            message: Message::raw((*name).to_owned()),
            ack: Ack::new().0,
        })
        .collect();
    desk.write(deliveries).await;
}

/// What it says while it is not ready.
fn complaint(health: &Health) -> Option<String> {
    let (_, ready, detail) = health.report().parts.remove(0);
    (!ready).then(|| detail.to_string())
}

#[tokio::test(start_paused = true)]
async fn when_most_are_rejected_it_is_not_ready() {
    let (desk, health) = desk(Arc::new(Sink(Mutex::new(generous()))));
    write(&desk, &["a", "b", "bad", "c"]).await;
    assert_eq!(complaint(&health), None, "one of four");
    for _ in 0..10 {
        write(&desk, &["bad", "bad"]).await;
    }
    let most = "most events are rejected: because";
    assert_eq!(complaint(&health).as_deref(), Some(most));
    write(&desk, &["bad", "a"]).await;
    assert_eq!(complaint(&health).as_deref(), Some(most));
    for _ in 0..20 {
        write(&desk, &["a"]).await;
    }
    assert_eq!(complaint(&health), None);
}

/// Is away for a while, then judges.
struct Back(Mutex<u32>);

#[async_trait]
impl Writer for Back {
    async fn write(&self, _: &[Message]) -> Result<(), WriteError> {
        let mut left = self.0.lock().unwrap();
        *left = left.saturating_sub(1);
        Err(if *left > 0 {
            WriteError::Retry {
                reason: "503".to_owned(),
                after: None,
            }
        } else {
            WriteError::Rejected {
                reason: "400".to_owned(),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_whatever_kind_ends_an_outage() {
    let (desk, health) = desk(Arc::new(Back(Mutex::new(5))));
    write(&desk, &["a"]).await;
    assert_eq!(
        complaint(&health).as_deref(),
        Some("most events are rejected: 400")
    );
}

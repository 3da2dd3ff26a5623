//! The shared ledger.

use super::*;
use crate::kubernetes_resources::{
    testing::{WATCH, ledger, object, observation, options, pod},
    watch::Cluster,
};

fn shared(change: impl FnOnce(&mut Options)) -> Arc<SharedLedger> {
    let mut options = options(Cluster::default());
    change(&mut options);
    ledger(&options, 0)
}

/// The view is complete and current as of 1,000.
fn complete(ledger: &SharedLedger) {
    ledger.synced(WATCH, true);
    ledger.alive(WATCH, 1_000);
}

#[test]
fn a_window_waits_until_the_view_is_complete_past_its_end() {
    let ledger = shared(|_| ());
    ledger.observe(observation("a", 1, None));
    assert!(ledger.next(1_000).0.is_none());
    ledger.synced(WATCH, true);
    ledger.alive(WATCH, 9);
    assert!(ledger.next(1_000).0.is_none());
    ledger.alive(WATCH, 10);
    let window = ledger.next(1_000).0.unwrap();
    assert_eq!(window.batch.pieces.len(), 1);
    ledger.synced(WATCH, false);
    assert!(ledger.next(1_000).0.is_none());
}

#[test]
fn a_window_is_sent_only_once_the_state_file_has_its_segments() {
    let ledger = shared(|it| it.has_state = true);
    ledger.observe(observation("a", 1, None));
    complete(&ledger);
    let window = ledger.next(1_000).0.unwrap();
    let (_, before, _) = ledger.take_changes(false);
    assert!(!ledger.is_written(window.generation));
    ledger.written(window.generation - 1);
    assert!(!ledger.is_written(window.generation));
    ledger.written(before);
    assert!(ledger.is_written(window.generation));
}

#[test]
fn without_a_state_file_everything_counts_as_written() {
    let ledger = shared(|_| ());
    ledger.observe(observation("a", 1, None));
    assert!(ledger.is_written(u64::MAX));
}

#[test]
fn windows_that_are_too_old_are_given_up_and_counted() {
    let ledger = shared(|it| it.max_backlog = 100);
    ledger.observe(observation("a", 1, Some(50)));
    complete(&ledger);
    let (window, lost) = ledger.next(1_000);
    assert_eq!((window.is_none(), lost), (true, 49));
}

#[tokio::test]
async fn a_standby_makes_no_window_and_opens_once_it_knows_the_watermark() {
    let ledger = shared(|it| it.is_elected = true);
    assert_eq!(ledger.leader().as_deref(), Some("another replica"));
    ledger.is_led_by("a");
    assert_eq!(ledger.leader().as_deref(), Some("a"));
    let opens = ledger.is_open();
    assert!(futures::FutureExt::now_or_never(opens).is_none());
    // Another replica has delivered everything up to 20.
    assert_eq!(ledger.learn(Some(20), Signer::Another), 0);
    ledger.is_open().await;
    ledger.observe(observation("a", 1, None));
    complete(&ledger);
    assert!(ledger.next(1_000).0.is_none());
    ledger.lead_until(Instant::now() + std::time::Duration::from_secs(60));
    assert_eq!(ledger.leader(), None);
    let window = ledger.next(1_000).0.unwrap();
    assert_eq!(window.batch.window.start, 20);
    ledger.lead_until(Instant::now());
    assert!(ledger.next(1_000).0.is_none());
}

#[test]
fn unproved_deliveries_are_counted() {
    let standby = || {
        let ledger = shared(|it| it.is_elected = true);
        ledger.observe(observation("a", 1, Some(15)));
        ledger
    };
    assert_eq!(standby().learn(Some(20), Signer::Unknown), 14);
    assert_eq!(standby().learn(Some(20), Signer::ThisReplica), 14);
    assert_eq!(standby().learn(Some(20), Signer::Another), 0);
}

#[test]
fn a_leader_ignores_the_watermark_in_the_lease() {
    let ledger = shared(|it| it.is_elected = true);
    ledger.learn(None, Signer::Unknown);
    ledger.lead_until(Instant::now() + std::time::Duration::from_secs(60));
    ledger.observe(observation("a", 1, Some(15)));
    assert_eq!(ledger.learn(Some(20), Signer::Unknown), 0);
    assert_eq!(ledger.safe_watermark(), 0);
}

#[test]
fn restored_objects_go_to_their_watch_and_those_that_no_watch_sees_have_ended() {
    let ledger = shared(|_| ());
    for name in ["a", "b"] {
        ledger.observe(observation(name, 1, None));
    }
    let seen = SeenUntil {
        at: 7,
        versions: [(WATCH.into(), 3)].into(),
    };
    let (placed, _) = ledger.restored(&seen, |known| (&*known.name == "a").then(|| WATCH.into()));
    let names: Vec<_> = placed[WATCH].iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["a"]);
    complete(&ledger);
    let window = ledger.next(10).0.unwrap();
    let pieces = window.batch.pieces.iter();
    let ends: Vec<_> = pieces.map(|it| (it.uid.as_ref(), it.end)).collect();
    assert_eq!(ends, [("a", 10), ("b", 7)]);
    let (.., seen) = ledger.take_changes(false);
    assert_eq!(seen.versions[WATCH], 3);
}

/// Start, end and customer of what is handed out up to `until`.
fn customers(ledger: &SharedLedger, until: i64) -> Vec<(String, i64, i64, String)> {
    let mut found = Vec::new();
    while let Some(window) = ledger.next(until).0 {
        for piece in &window.batch.pieces {
            let metadata = piece.content.related(Relation::Namespace);
            let customer = metadata.and_then(|it| it.path(&["labels", "customer"]));
            let customer = customer.and_then(Node::as_str).unwrap_or_default();
            let (uid, customer) = (piece.uid.to_string(), customer.to_owned());
            found.push((uid, piece.start, piece.end, customer));
        }
        ledger.settle(window.batch.tag, |_| DeliveryResult::Delivered);
    }
    found
}

#[test]
fn each_object_has_the_customer_of_each_moment_also_if_it_is_observed_later() {
    let reads = meterline_core::Reads::of(&["namespace().labels.customer"]);
    let ledger = shared(|options| {
        let resource_type = options.resource_type;
        options.projection = Arc::new(Projection::of(&reads, resource_type));
    });
    let is = |customer: &str, since, now| {
        let namespace = serde_json::json!({"metadata": {"labels": {"customer": customer}}});
        let namespace = meterline_core::Document::from(&namespace);
        let of = (Relation::Namespace, "n");
        ledger.related(of, namespace.root(), (since, now)).len()
    };
    // The pod is listed before its namespace.
    ledger.observe(observation("early", 1, None));
    assert_eq!(
        is("acme", 3, 4),
        0,
        "its first customer has it from the start"
    );
    assert_eq!(is("globex", 6, 7), 1);
    assert_eq!(is("globex", 6, 8), 0);
    ledger.observe(observation("late", 2, None));
    ledger.observe(observation("early", 1, Some(15)));
    ledger.observe(observation("new", 8, Some(12)));
    complete(&ledger);
    let expected = [
        ("early", 1, 6, "acme"),
        ("early", 6, 10, "globex"),
        ("late", 2, 6, "acme"),
        ("late", 6, 10, "globex"),
        ("new", 8, 10, "globex"),
        ("early", 10, 15, "globex"),
        ("late", 10, 20, "globex"),
        ("new", 10, 12, "globex"),
    ];
    let expected =
        expected.map(|(uid, from, to, customer)| (uid.to_owned(), from, to, customer.to_owned()));
    assert_eq!(customers(&ledger, 20), expected);
}

#[test]
fn known_objects_keep_name_namespace_and_version() {
    let known = object(pod("a", 1), 5).known();
    assert_eq!((&*known.name, known.namespace.as_deref()), ("a", Some("n")));
    assert_eq!(known.version, 5);
}

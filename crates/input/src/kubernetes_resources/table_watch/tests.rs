use std::{fs, os::unix::fs::symlink};

use meterline_core::{Document, Reads};
use meterline_ledger::{Completeness, Interval, Ledger};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::kubernetes_resources::{
    object::{BilledObject, Projection},
    options::Options,
    resource_type::ResourceType,
    testing::{Parts, observation, options},
    watch::Cluster,
};

const TABLE: &str = "customers";

/// The parts of an input that looks the customer of a namespace up.
fn parts() -> Parts {
    let reads = Reads::of(&["lookup().customers.metadata~1namespace"]);
    let options = Options {
        projection: Arc::new(Projection::of(&reads, ResourceType::Pod)),
        ..options(Cluster::default())
    };
    let mut parts = Parts::new(options, 0);
    let ledger = Ledger::new(
        Interval::new(10).unwrap(),
        meterline_ledger::Accounting::Exact,
        0,
    );
    let mut completeness = Completeness::new(0);
    completeness.register(TABLE);
    parts.ledger = Arc::new(SharedLedger::new(ledger, completeness, &parts.options));
    parts
}

fn watch(parts: &Parts, path: PathBuf) -> TableWatch {
    let health = parts.health.register("table customers");
    TableWatch {
        name: TABLE.into(),
        path,
        ledger: Arc::clone(&parts.ledger),
        budgets: Arc::clone(&parts.watched().budgets),
        clock: parts.options.clock.clone(),
        report: TableReport::new(health, &parts.metrics, "x", TABLE),
        restored_at: None,
    }
}

/// The customer of the pod now.
fn billed(parts: &Parts) -> Value {
    parts.ledger.with_ledger(|ledger| {
        let content: &BilledObject = ledger.existing().next().unwrap().content.unwrap();
        let table = content.document.root().path(&["lookup()", TABLE]);
        let customer = table.and_then(|it| it.get("metadata.namespace"));
        customer.map_or(Value::Null, |it| it.to_value())
    })
}

fn ready(parts: &Parts) -> (bool, String) {
    parts.ready("table customers")
}

#[test]
fn a_file_that_is_still_written_to_is_not_read() {
    let signature = |modified: i64, size: u64| Signature {
        file: (1, 1),
        size,
        modified: (modified, 0),
    };
    let mut seen = Seen::default();
    let first = signature(50, 10);
    assert_eq!(seen.next(first, 100), Next::Read(i64::MIN), "for all time");
    seen.read = Some(first);
    seen.has_table = true;
    assert_eq!(seen.next(first, 101), Next::Unchanged);
    assert_eq!(seen.next(signature(102, 3), 102), Next::Wait);
    assert_eq!(seen.next(signature(103, 12), 103), Next::Wait);
    let second = signature(103, 12);
    assert_eq!(seen.next(second, 104), Next::Read(103));
    seen.read = Some(second);
    assert_eq!(seen.next(second, 110), Next::Unchanged);
    // Its time was copied with it, or is ahead.
    let copied = signature(7, 12);
    assert_eq!(seen.next(copied, 111), Next::Wait);
    assert_eq!(seen.next(copied, 112), Next::Read(110));
    let mut seen = Seen {
        unchanged: Some(110),
        ..Seen::default()
    };
    assert_eq!(seen.next(signature(500, 1), 112), Next::Read(112));
}

#[test]
fn a_file_that_is_written_again_and_again_is_read_all_the_same() {
    let mut seen = Seen {
        has_table: true,
        unchanged: Some(0),
        ..Seen::default()
    };
    let looks = (1..=6).map(|at| {
        let modified = (at, 0);
        let (file, size) = ((1, 1), 1);
        let signature = Signature {
            file,
            size,
            modified,
        };
        seen.next(signature, at)
    });
    let looks: Vec<_> = looks.collect();
    assert!(looks.iter().take(5).all(|it| *it == Next::Wait));
    assert_eq!(looks.last(), Some(&Next::Read(6)));
}

#[tokio::test]
async fn the_link_of_a_config_map_is_followed_and_the_last_good_content_stays() {
    let dir = TempDir::new().unwrap();
    let write = |version: &str, text: &str| {
        fs::create_dir_all(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("c.csv"), text).unwrap();
        let (new, data) = (dir.path().join("new"), dir.path().join("..data"));
        symlink(version, &new).unwrap();
        fs::rename(new, data).unwrap();
    };
    write("v1", "namespace,customer\nn,acme\n");
    symlink("..data/c.csv", dir.path().join("c.csv")).unwrap();
    let parts = parts();
    let watch = watch(&parts, dir.path().join("c.csv"));
    let mut seen = Seen::default();
    assert!(!ready(&parts).0);
    let now = parts.options.clock.seconds();
    parts.ledger.observe(observation("p", now - 100, None));
    assert_eq!(parts.ledger.complete_until(), None, "windows wait for it");
    watch.look(&mut seen).await;
    assert_eq!(billed(&parts), json!("acme"));
    assert_eq!(ready(&parts), (true, String::new()));
    assert!(parts.ledger.complete_until() >= Some(now));

    write("v2", "namespace,customer\nn,globex\n");
    watch.look(&mut seen).await;
    assert_eq!(billed(&parts), json!("acme"), "seen once");
    watch.look(&mut seen).await;
    assert_eq!(billed(&parts), json!("globex"));

    write("v3", "namespace,customer\nn,globex,1,2\n");
    for _ in 0..2 {
        watch.look(&mut seen).await;
    }
    assert_eq!(billed(&parts), json!("globex"));
    let (is_ready, text) = ready(&parts);
    assert!(
        is_ready && text.contains("what was read last counts"),
        "{text}"
    );
    fs::remove_file(dir.path().join("..data")).unwrap();
    let before = parts.options.clock.seconds();
    watch.look(&mut seen).await;
    assert!(
        parts.ledger.complete_until() >= Some(before),
        "billing continues"
    );

    write("v4", "namespace,customer\nn,initech\n");
    for _ in 0..2 {
        watch.look(&mut seen).await;
    }
    assert_eq!(billed(&parts), json!("initech"));
    assert_eq!(ready(&parts), (true, String::new()));
}

#[tokio::test]
async fn without_a_table_nothing_is_delivered_and_the_cause_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c.json");
    let parts = parts();
    let watch = watch(&parts, path.clone());
    let mut seen = Seen::default();
    watch.look(&mut seen).await;
    let (is_ready, text) = ready(&parts);
    assert!(!is_ready && text.contains("No such file"), "{text}");
    fs::write(&path, "{").unwrap();
    for _ in 0..2 {
        watch.look(&mut seen).await;
    }
    let (is_ready, text) = ready(&parts);
    assert!(!is_ready && text.contains("line 1"), "{text}");
    assert_eq!(parts.ledger.complete_until(), None);
    fs::write(&path, "{}").unwrap();
    watch.look(&mut seen).await;
    assert_eq!(ready(&parts), (true, String::new()));
    assert!(parts.ledger.complete_until().is_some());
}

#[tokio::test]
async fn a_file_that_is_too_large_is_not_read() {
    let path = Path::new("/nonexistent/c.csv");
    let error = read(path, MOST_TABLE_BYTES as u64 + 1).await.unwrap_err();
    assert!(error.contains("at most"), "{error}");
}

#[test]
fn a_change_of_the_table_divides_a_window_to_the_second() {
    let parts = parts();
    let table = |customer: &str| {
        let text = json!({"n": customer}).to_string();
        Arc::new(Table::parse(TableFormat::Json, &text).unwrap())
    };
    parts.ledger.observe(observation("p", 5, None));
    parts.ledger.table(TABLE, table("acme"), i64::MIN);
    parts.ledger.table(TABLE, table("acme"), 8);
    parts.ledger.table(TABLE, table("globex"), 20);
    parts.ledger.synced(TABLE, true);
    parts.ledger.alive(TABLE, 100);
    let mut spans = Vec::new();
    while let (Some(due), _) = parts.ledger.next(50) {
        for piece in &due.batch.pieces {
            let document: &Document = &piece.content.document;
            let values = document
                .root()
                .path(&["lookup()", TABLE, "metadata.namespace"]);
            spans.push((
                piece.start,
                piece.end,
                values.unwrap().as_str().unwrap().to_owned(),
            ));
        }
        parts.ledger.settle(due.batch.tag, |_| {
            meterline_ledger::DeliveryResult::Delivered
        });
    }
    let expected = [
        (5, 10, "acme"),
        (10, 20, "acme"),
        (20, 30, "globex"),
        (30, 40, "globex"),
        (40, 50, "globex"),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(start, end, customer)| (start, end, customer.to_owned()))
        .collect();
    assert_eq!(spans, expected);
}

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use meterline_core::Reads;
use meterline_ledger::{
    Accounting, DeliveryResult, Fate, Interval, Kind, Ledger, Observation, Refusal,
};
use rusqlite::{Connection, params};
use serde_json::json;

mod any;
mod figures;
mod kept;
mod keys;
mod older;
mod pending;
mod replaced;
mod several;

use super::{file::*, place::*, rows::*, shared::*};
use crate::{
    kubernetes_resources::{
        object::{BilledObject, Object, Projection},
        resource_type::ResourceType,
    },
    sqlite,
};

fn content(name: &str) -> BilledObject {
    let object =
        json!({"metadata": {"name": name, "uid": name, "annotations": {"a": "x".repeat(300)}}});
    let object: Object = serde_json::from_value(object).unwrap();
    object.content
}

fn start(ledger: &mut Ledger<BilledObject>, name: &str) {
    ledger.apply(Observation {
        uid: name.into(),
        start: Some(1),
        end: None,
        content: content(name),
        content_since: None,
        observed_at: 1,
        in_scope_since: None,
        times: meterline_ledger::Times::default(),
    });
}

fn ledger_of(pods: usize) -> Ledger<BilledObject> {
    let mut ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
    for index in 0..pods {
        start(&mut ledger, &format!("pod-{index}"));
    }
    ledger
}

fn restored(saved: Saved) -> Ledger<BilledObject> {
    let interval = Interval::new(10).unwrap();
    Ledger::restore(
        interval,
        Accounting::Exact,
        saved.checkpoint,
        saved.records,
        saved.rejected,
    )
}

/// All that the state holds of a ledger.
fn everything(mut ledger: Ledger<BilledObject>) -> String {
    let changes = ledger.take_everything();
    let records = String::from_utf8(bytes(&changes.records).unwrap()).unwrap();
    format!("{records} {changes:?}")
}

/// The ledger of a file that `ledger` is written to at once.
fn at_once(mut ledger: Ledger<BilledObject>) -> Ledger<BilledObject> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let (mut file, ..) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    file.write(&ledger.take_everything(), &seen(1)).unwrap();
    drop(file);
    restored(
        StateFile::open(&path, "pod", &Reads::All, 0)
            .unwrap()
            .1
            .unwrap(),
    )
}

fn names(ledger: &Ledger<BilledObject>) -> Vec<String> {
    ledger.existing().map(|it| it.uid.to_string()).collect()
}

fn seen(at: i64) -> SeenUntil {
    SeenUntil {
        at,
        versions: [("*".into(), 7)].into(),
    }
}

fn count(file: &mut StateFile, table: &str) -> i64 {
    file.settle().unwrap();
    file.count(table)
}

/// A file that holds forty pods, closed.
fn written(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("deep/state.sqlite");
    let (mut file, saved, damage) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    assert!(saved.is_none() && damage.is_none());
    file.write(&ledger_of(40).take_changes(), &seen(77))
        .unwrap();
    path
}

#[test]
fn a_file_contains_what_was_written_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(&dir);
    let (mut file, saved, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let saved = saved.unwrap();
    assert_eq!(saved.seen, seen(77));
    let mut ledger = restored(saved);
    assert_eq!(names(&ledger), names(&ledger_of(40)));
    let window_batch = ledger.next(10).unwrap();
    assert_eq!(window_batch.pieces.len(), 40);
    assert_eq!(window_batch.pieces[0].content, content("pod-0"));
    ledger.deleted("pod-3", 5);
    file.write(&ledger.take_changes(), &seen(80)).unwrap();
    drop(file);
    // The window was handed out and never settled, so it is handed out again unchanged.
    let (_, saved, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let again = restored(saved.unwrap()).next(0).unwrap();
    assert_eq!(again.pieces, window_batch.pieces);
}

#[test]
fn a_second_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(&dir);
    let (_file, _, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let error = StateFile::open(&path, "pod", &Reads::All, 0).err().unwrap();
    assert!(matches!(error, StateError::InUse), "{error}");
    assert!(error.to_string().contains("its own state file"));
}

#[test]
fn any_damage_is_noticed_and_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(&dir);
    let whole = std::fs::read(&path).unwrap();
    assert!(whole.len() > 20_000, "{}", whole.len());
    let mut damages: Vec<Vec<u8>> = vec![
        vec![0; whole.len()],
        whole[..whole.len() / 2].to_vec(),
        whole[..100].to_vec(),
        b"this is not a database, and never was one".repeat(100),
    ];
    // One bit in every part of the file. A header field or an unused byte may not matter, so either the damage
    // is detected or the content is complete.
    for offset in (0..whole.len()).step_by(whole.len() / 150) {
        let mut flipped = whole.clone();
        flipped[offset] ^= 0x10;
        damages.push(flipped);
    }
    let mut noticed = 0;
    for (index, bytes) in damages.iter().enumerate() {
        std::fs::write(&path, bytes).unwrap();
        let now = i64::try_from(index).unwrap();
        let (mut file, saved, damage) = StateFile::open(&path, "pod", &Reads::All, now).unwrap();
        match (saved, damage) {
            (Some(saved), None) => assert_eq!(names(&restored(saved)).len(), 40, "{index}"),
            (None, Some(damage)) => {
                noticed += 1;
                let aside = path.with_file_name(format!("state.sqlite.damaged-{now}"));
                assert!(damage.contains(aside.to_str().unwrap()), "{damage}");
                // SQLite may have changed a counter in the header before it detected the damage.
                let kept = std::fs::read(aside).unwrap();
                assert!(
                    kept.len() == bytes.len() && kept[100..] == bytes[100..],
                    "{index}"
                );
                // The new file works.
                file.write(&ledger_of(1).take_changes(), &seen(1)).unwrap();
            }
            (saved, damage) => panic!("{index}: {} {damage:?}", saved.is_some()),
        }
    }
    assert!(noticed > 80, "{noticed} of {}", damages.len());
}

#[test]
fn a_file_of_a_later_version_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(&dir);
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let (_, saved, damage) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    assert!(saved.is_none());
    assert!(damage.unwrap().contains("version is 99"));
}

#[test]
fn a_full_disk_is_an_error_and_everything_is_written_once_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(&dir);
    let (mut file, saved, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let mut ledger = restored(saved.unwrap());
    file.connected(|it| it.pragma_update(None, "max_page_count", 12).unwrap());
    for index in 0..100 {
        start(&mut ledger, &format!("new-{index}"));
    }
    let error = file.write(&ledger.take_changes(), &seen(90)).unwrap_err();
    assert_eq!(error.to_string(), "the disk is full");
    assert!(file.needs_everything());
    // The next connection has no limit.
    file.write(&ledger.take_everything(), &seen(91)).unwrap();
    drop(file);
    let (_, saved, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let saved = saved.unwrap();
    assert_eq!((saved.seen.at, saved.records.len()), (91, 140));
}

#[test]
fn a_file_that_cannot_be_created_is_an_error() {
    let error = StateFile::open(Path::new("/proc/nowhere/state"), "pod", &Reads::All, 0)
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("cannot create /proc/nowhere"),
        "{error}"
    );
    let dir = tempfile::tempdir().unwrap();
    let error = StateFile::open(dir.path(), "pod", &Reads::All, 0)
        .err()
        .unwrap();
    assert!(matches!(error, StateError::Unusable(_)), "{error}");
}

/// A ledger in which one of two pods was rejected for a window.
fn with_rejected() -> Ledger<BilledObject> {
    let mut ledger = ledger_of(2);
    let window_batch = ledger.next(10).unwrap();
    let refusal = Refusal {
        cause: "refused_by_sink".into(),
        component: "openmeter".into(),
        reason: "no such meter".into(),
        subject: Some("customer".into()),
        may_pass: false,
    };
    let undelivered = vec![(window_batch.pieces[1].clone(), Fate::Rejected(refusal))];
    let settled = DeliveryResult::Done {
        at: 12,
        undelivered,
    };
    ledger.settle(window_batch.tag, settled);
    ledger
}

#[test]
fn rejected_pieces_are_restored_and_deleted_once_they_are_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let (mut file, ..) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let mut ledger = with_rejected();
    let kept: Vec<_> = ledger
        .rejected(None)
        .map(|(key, it)| (key.clone(), it.clone()))
        .collect();
    file.write(&ledger.take_changes(), &seen(12)).unwrap();
    drop(file);

    let (mut file, saved, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let saved = saved.unwrap();
    assert_eq!(saved.rejected, kept);
    let mut ledger = restored(saved);
    // A restart retries rejected pieces.
    let again = ledger.next(12).unwrap();
    assert_eq!((again.kind, again.pieces.len()), (Kind::Again, 1));
    ledger.settle(again.tag, DeliveryResult::Delivered);
    file.write(&ledger.take_changes(), &seen(13)).unwrap();
    drop(file);
    let (_, saved, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    assert!(saved.unwrap().rejected.is_empty());
}

#[test]
fn a_rewritten_file_contains_rejected_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let (mut file, ..) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let mut ledger = with_rejected();
    let _ = ledger.take_changes();
    file.write(&ledger.take_everything(), &seen(12)).unwrap();
    drop(file);
    let (_, saved, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    assert_eq!(saved.unwrap().rejected.len(), 1);
}

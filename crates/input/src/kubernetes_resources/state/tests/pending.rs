//! Small changes, which wait in the file before they are written to the tables.

use super::*;

/// The pod with a label, from `at` on.
fn label(ledger: &mut Ledger<BilledObject>, name: &str, label: &str, at: i64) {
    let object = json!({"metadata": {"name": name, "uid": name, "labels": {"l": label}}});
    let object: Object = serde_json::from_value(object).unwrap();
    ledger.apply(Observation {
        uid: name.into(),
        start: Some(1),
        end: None,
        content: object.content,
        content_since: Some(at),
        observed_at: at,
        in_scope_since: None,
        times: meterline_ledger::Times::default(),
    });
}

/// Rows of the table `parts` and changes that wait, without writing these to the tables.
fn rows_and_waiting(file: &StateFile) -> (i64, i64) {
    let count =
        "SELECT (SELECT count(*) FROM parts), (SELECT count(*) FROM pending WHERE number > 0)";
    file.connected(|it| {
        let both = it.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)));
        both.unwrap()
    })
}

/// A file that holds forty pods and three changes that wait, and its ledger.
fn with_waiting(path: &Path) -> (StateFile, Ledger<BilledObject>) {
    let (mut file, ..) = StateFile::open(path, "pod", &Reads::All, 0).unwrap();
    let mut ledger = ledger_of(40);
    file.write(&ledger.take_everything(), &seen(1)).unwrap();
    for at in 2..5 {
        label(&mut ledger, "pod-7", &format!("hunter{at}"), at);
        file.write(&ledger.take_changes(), &seen(at)).unwrap();
    }
    assert_eq!(rows_and_waiting(&file), (80, 3));
    (file, ledger)
}

#[test]
fn changes_that_wait_come_back_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let (mut file, mut ledger) = with_waiting(&path);
    let crash = dir.path().join("crash.sqlite");
    for round in 0..2 {
        for suffix in ["", "-wal"] {
            let of = |path: &Path| format!("{}{suffix}", path.display());
            std::fs::copy(of(&path), of(&crash)).unwrap();
        }
        let (again, saved, damage) = StateFile::open(&crash, "pod", &Reads::All, 0).unwrap();
        assert_eq!(damage, None);
        assert_eq!(rows_and_waiting(&again).1, 0);
        let saved = saved.unwrap();
        assert_eq!(saved.seen, seen(4 + round));
        assert_eq!(
            everything(restored(saved)),
            everything(at_once(ledger.clone()))
        );
        drop(again);
        // The next change uses the first slot again, before two older ones.
        file.settle().unwrap();
        label(&mut ledger, "pod-8", "x", 5);
        file.write(&ledger.take_changes(), &seen(5)).unwrap();
    }
}

#[test]
fn a_change_that_does_not_fit_is_written_after_those_that_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let (mut file, mut ledger) = with_waiting(&path);
    label(&mut ledger, "pod-7", &"x".repeat(5_000), 6);
    file.write(&ledger.take_changes(), &seen(6)).unwrap();
    assert_eq!(rows_and_waiting(&file).0, 84);
    label(&mut ledger, "pod-7", "y", 7);
    file.write(&ledger.take_changes(), &seen(7)).unwrap();
    drop(file);
    let (_, saved, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let saved = saved.unwrap();
    assert_eq!(saved.seen, seen(7));
    assert_eq!(everything(restored(saved)), everything(at_once(ledger)));
}

#[test]
fn a_waiting_change_that_is_damaged_or_missing_is_damage() {
    for (damage, told) in [
        (
            "change = CAST(replace(change, 'hunter3', 'hunter9') AS BLOB)",
            "`change 2` does not match",
        ),
        ("number = 0", "lacks change 2"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        drop(with_waiting(&path));
        let connection = Connection::open(&path).unwrap();
        let update = format!("UPDATE pending SET {damage} WHERE slot = 2");
        assert_eq!(connection.execute(&update, []).unwrap(), 1);
        drop(connection);
        let (_, saved, damage) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
        assert!(saved.is_none());
        let damage = damage.unwrap();
        assert!(damage.contains(told), "{damage}");
    }
}

#[test]
fn a_change_of_an_earlier_configuration_is_erased() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let (mut file, _) = with_waiting(&path);
    file.settle().unwrap();
    drop(file);
    let holds = || {
        let files = [path.clone(), path.with_extension("sqlite-wal")];
        files.iter().any(|file| {
            let bytes = std::fs::read(file).unwrap_or_default();
            bytes.windows(6).any(|it| it == b"hunter")
        })
    };
    assert!(holds());
    let projection = Projection::of(&Reads::default(), ResourceType::Pod);
    let (mut file, saved, _) = StateFile::open(&path, "pod", &projection.kept, 0).unwrap();
    let saved = saved.unwrap();
    let kept_for = Arc::new(saved.reads.clone());
    let mut ledger = restored(saved);
    ledger.each_content(&mut |content| content.adapt(&kept_for, &projection));
    file.write(&ledger.take_changes(), &seen(9)).unwrap();
    assert!(!holds());
}

/// Version 4 has the same tables without this one.
#[test]
fn a_file_without_the_table_is_used_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(&dir);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "DROP TABLE pending; DELETE FROM ledger WHERE key = 'written'; PRAGMA user_version = 4",
        )
        .unwrap();
    drop(connection);
    let (mut file, saved, damage) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    assert_eq!((damage, file.needs_everything()), (None, false));
    let mut ledger = restored(saved.unwrap());
    assert_eq!(names(&ledger), names(&ledger_of(40)));
    for at in 78..80 {
        label(&mut ledger, "pod-7", "x", at);
        file.write(&ledger.take_changes(), &seen(at)).unwrap();
    }
    assert_eq!(rows_and_waiting(&file).1, 1);
    drop(file);
    let (_, saved, damage) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    assert_eq!(damage, None);
    assert_eq!(
        everything(restored(saved.unwrap())),
        everything(at_once(ledger))
    );
}

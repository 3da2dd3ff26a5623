//! Several ledgers in one file.

use std::fs;

use super::*;
use crate::kubernetes_resources::{
    ledger_name::LedgerName,
    state::{
        ledgers::{self, TABLES},
        rows::Tables,
    },
};

/// A name such as `pod` or, with a label, `pod a`.
fn name(text: &str) -> LedgerName {
    let (subject, label) = text.split_once(' ').unwrap_or((text, ""));
    let label = Some(label).filter(|it| !it.is_empty());
    LedgerName::new(subject, label.map(Into::into))
}

type Opened = (StateFile, Option<Saved>, Option<String>);

/// Opens the ledgers of these names as one process does.
fn open(path: &Path, names: &[&str]) -> Vec<Opened> {
    let names: Vec<_> = names.iter().map(|it| name(it)).collect();
    let shared = SharedFile::open(path, &names, 7).unwrap();
    let opened = names
        .iter()
        .map(|it| StateFile::of(&shared, it, &Reads::All, 7));
    opened.map(Result::unwrap).collect()
}

/// Two new ledgers of pods, with one pod and with three.
fn two(path: &Path) -> [(StateFile, Ledger<BilledObject>); 2] {
    let mut opened = open(path, &["pod", "node"]).into_iter();
    [1, 3].map(|count| {
        let (file, saved, damage) = opened.next().unwrap();
        assert!(saved.is_none() && damage.is_none());
        let mut ledger = ledger_of(count);
        let mut file = file;
        file.write(&ledger.take_changes(), &seen(1)).unwrap();
        (file, ledger)
    })
}

fn count_of(saved: Option<Saved>) -> usize {
    saved.map_or(0, |it| it.records.len())
}

/// How many objects each of these ledgers has in the file.
fn counts(path: &Path, names: &[&str]) -> Vec<usize> {
    let opened = open(path, names).into_iter();
    opened
        .map(|(_, saved, damage)| {
            assert_eq!(damage, None);
            count_of(saved)
        })
        .collect()
}

#[test]
fn each_ledger_is_found_again_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    drop(two(&path));
    assert_eq!(counts(&path, &["pod", "node"]), [1, 3]);
    assert_eq!(counts(&path, &["node", "pod", "pod a"]), [3, 1, 0]);
    // One that no input has stays.
    assert_eq!(counts(&path, &["persistentvolume"]), [0]);
    assert_eq!(counts(&path, &["node"]), [3]);
    assert_eq!(counts(&path, &["pod"]), [1]);
    // A second process is refused, whatever ledger it has.
    let _used = open(&path, &["node"]);
    let error = SharedFile::open(&path, &[name("pod")], 0).err().unwrap();
    assert!(matches!(error, StateError::InUse), "{error}");
}

#[test]
fn a_file_with_one_ledger_is_as_before_and_is_continued_under_a_label() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(&dir);
    let connection = Connection::open(&path).unwrap();
    let tables = connection
        .query_row(
            "SELECT group_concat(name, ' ') FROM (SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name)",
            [],
            |row| row.get::<_, String>(0),
        )
        .unwrap();
    assert_eq!(
        tables,
        "contents groups ledger parts pending window_batches"
    );
    // Earlier versions did not write this row.
    let rows = connection.execute("DELETE FROM ledger WHERE key = 'label'", []);
    assert_eq!(rows.unwrap(), 1);
    drop(connection);
    let mut opened = open(&path, &["node", "pod a", "pod b"]);
    let saved = opened.remove(1).1.unwrap();
    assert_eq!(restored(saved).existing().count(), 40);
    assert!(opened.iter().all(|(_, saved, _)| saved.is_none()));
    drop(opened);
    let (mut file, saved, _) = open(&path, &["pod a"]).remove(0);
    file.write(&restored(saved.unwrap()).take_everything(), &seen(9))
        .unwrap();
    drop(file);
    assert_eq!(counts(&path, &["pod a", "pod b"]), [40, 0]);
}

#[test]
fn the_tables_of_a_further_ledger_are_those_of_the_first() {
    let connection = Connection::open_in_memory().unwrap();
    for step in MIGRATIONS {
        connection.execute_batch(step).unwrap();
    }
    ledgers::create(&connection, 0).unwrap();
    for _ in 0..2 {
        ledgers::create(&connection, 7).unwrap();
    }
    let columns = |table: String| -> Vec<(String, String, bool)> {
        let columns = format!("SELECT name, type, \"notnull\" FROM pragma_table_info('{table}')");
        let mut statement = connection.prepare(&columns).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.unwrap().map(Result::unwrap).collect()
    };
    for table in TABLES {
        let first = columns(table.to_owned());
        assert!(!first.is_empty());
        assert_eq!(columns(format!("{table}_7")), first);
    }
    let found = ledgers::find(&connection).unwrap();
    let numbers: Vec<_> = found.iter().map(|it| it.number).collect();
    assert_eq!(numbers, [0, 7]);
}

/// Copies the file as it is on the disk, as after a crash.
fn crash(path: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let of = |path: &Path| format!("{}{suffix}", path.display());
        let _ = fs::remove_file(of(to));
        if Path::new(&of(path)).exists() {
            fs::copy(of(path), of(to)).unwrap();
        }
    }
}

#[test]
fn a_crash_between_two_writes_leaves_each_ledger_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let crashed = dir.path().join("crashed.sqlite");
    let mut both = two(&path);
    let mut written = both.each_ref().map(|(_, ledger)| ledger.clone());
    for step in 0..40_usize {
        // Each ledger changes, and one of them is written.
        for (_, ledger) in &mut both {
            start(ledger, &format!("new-{step}"));
            if step % 5 == 4 {
                let window = ledger.next(10 + i64::try_from(step).unwrap());
                if let Some(window) = window {
                    ledger.settle(window.tag, DeliveryResult::Delivered);
                }
            }
        }
        let which = usize::from(step % 3 == 0);
        let (file, ledger) = &mut both[which];
        if step == 20 {
            file.settle().unwrap();
        }
        let at = i64::try_from(step).unwrap();
        file.write(&ledger.take_changes(), &seen(at)).unwrap();
        written[which] = ledger.clone();
        crash(&path, &crashed);
        let opened = open(&crashed, &["pod", "node"]);
        for ((_, saved, damage), written) in opened.into_iter().zip(&written) {
            assert_eq!(damage, None);
            let is = everything(restored(saved.unwrap()));
            assert!(is == everything(at_once(written.clone())), "step {step}");
        }
    }
}

#[test]
fn after_a_failed_write_of_one_each_is_written_again_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let [(mut pods, mut of_pods), (mut nodes, mut of_nodes)] = two(&path);
    assert!(!nodes.needs_everything());
    pods.connected(|it| it.pragma_update(None, "max_page_count", 12).unwrap());
    for index in 0..100 {
        start(&mut of_pods, &format!("new-{index}"));
    }
    pods.write(&of_pods.take_changes(), &seen(2)).unwrap_err();
    // These changes were taken before the failure was known, so they are not all.
    start(&mut of_nodes, "new");
    let error = nodes.write(&of_nodes.take_changes(), &seen(2)).unwrap_err();
    assert!(
        error.to_string().contains("another write to it failed"),
        "{error}"
    );
    assert!(pods.needs_everything() && nodes.needs_everything());
    nodes.write(&of_nodes.take_everything(), &seen(3)).unwrap();
    assert!(pods.needs_everything() && !nodes.needs_everything());
    pods.write(&of_pods.take_everything(), &seen(3)).unwrap();
    assert!(!pods.needs_everything());
    drop((pods, nodes));
    assert_eq!(counts(&path, &["pod", "node"]), [101, 4]);
}

#[test]
fn a_deleted_file_is_rewritten_with_each_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let [(mut pods, mut of_pods), (mut nodes, mut of_nodes)] = two(&path);
    fs::remove_file(&path).unwrap();
    assert_eq!(nodes.check(), Some(Change::Deleted));
    assert!(nodes.needs_everything());
    nodes.write(&of_nodes.take_everything(), &seen(2)).unwrap();
    // It is known once, and the other ledger is missing until it is written.
    assert_eq!(pods.check(), None);
    assert!(pods.needs_everything());
    pods.write(&of_pods.take_everything(), &seen(2)).unwrap();
    drop((pods, nodes));
    assert_eq!(counts(&path, &["pod", "node"]), [1, 3]);
}

/// Changes the name of an object in the ledger of nodes, whose checksum is then wrong.
fn damage_nodes(path: &Path) {
    let connection = Connection::open(path).unwrap();
    let changed = connection.execute("UPDATE parts_1 SET uid = 'x' WHERE uid = 'pod-2'", []);
    assert!(changed.unwrap() > 0);
}

#[test]
fn damage_to_one_ledger_leaves_the_others_and_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    drop(two(&path));
    damage_nodes(&path);
    let aside = dir.path().join("state.sqlite.damaged-7");
    // Also if it is the only one that this process has.
    for names in [&["pod", "node"][..], &["node"]] {
        let mut opened = open(&path, names);
        let (_, saved, damage) = opened.pop().unwrap();
        assert!(saved.is_none());
        let damage = damage.unwrap();
        assert!(damage.contains("does not match its checksum"), "{damage}");
        assert!(damage.contains(aside.to_str().unwrap()), "{damage}");
        for (_, saved, damage) in opened {
            assert_eq!((count_of(saved), damage), (1, None));
        }
        let copy = Connection::open(&aside).unwrap();
        let count = "SELECT count(*) FROM parts_1 WHERE uid = 'x'";
        let count: i64 = copy.query_row(count, [], |row| row.get(0)).unwrap();
        assert!(count > 0);
        drop(copy);
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&aside).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_file(&aside).unwrap();
        let (mut nodes, ..) = open(&path, &["node"]).remove(0);
        nodes
            .write(&ledger_of(3).take_everything(), &seen(1))
            .unwrap();
        drop(nodes);
        assert_eq!(counts(&path, &["pod", "node"]), [1, 3]);
        damage_nodes(&path);
    }
}

#[test]
fn a_file_that_is_damaged_as_a_whole_is_moved_aside_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    drop(two(&path));
    fs::write(&path, b"none of ours ".repeat(500)).unwrap();
    let opened = open(&path, &["pod", "node"]);
    let aside = dir.path().join("state.sqlite.damaged-7");
    for (_, saved, damage) in opened {
        assert!(saved.is_none());
        assert!(damage.unwrap().contains(aside.to_str().unwrap()));
    }
    assert!(aside.exists());
    assert!(!dir.path().join("state.sqlite.damaged-7-2").exists());
}

#[test]
fn an_emptied_ledger_has_no_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let [(pods, _), (nodes, _)] = two(&path);
    drop(nodes);
    pods.connected(|it| {
        ledgers::empty(Tables::new(it, 1)).unwrap();
        for table in TABLES {
            let count = format!("SELECT count(*) FROM {table}_1");
            let count: i64 = it.query_row(&count, [], |row| row.get(0)).unwrap();
            assert_eq!(count, 0, "{table}");
        }
    });
}

/// As in a file with one ledger.
#[test]
fn a_change_of_one_ledger_writes_one_page() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let mut both = two(&path);
    // The first change makes room for more.
    for (file, ledger) in &mut both {
        file.write(&ledger.take_changes(), &seen(2)).unwrap();
    }
    let length = || {
        let log = path.with_extension("sqlite-wal");
        fs::metadata(log).unwrap().len()
    };
    let frame = u64::from(PAGE_SIZE) + 24;
    for at in 3..20 {
        for (file, ledger) in &mut both {
            let before = length();
            ledger.deleted("pod-0", at);
            file.write(&ledger.take_changes(), &seen(at)).unwrap();
            assert_eq!(length() - before, frame, "{at}");
        }
    }
    drop(both);
    assert_eq!(counts(&path, &["pod", "node"]), [1, 3]);
}

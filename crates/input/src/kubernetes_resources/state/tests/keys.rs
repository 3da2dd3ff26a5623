//! A file that a process with other frequent keys wrote. A process has one dictionary, so the one with the
//! other is started.

use std::{env, process::Command};

use meterline_core::{DictionaryInUse, Document};

use super::*;
use crate::kubernetes_resources::KEYS;

/// The variable with the file for the other process.
const FILE: &str = "METERLINE_TEST_FILE_OF_OTHER_KEYS";

/// Nearly all keys of this pod are frequent.
fn pod(name: &str) -> BilledObject {
    let requests = json!({"cpu": "1", "memory": "2Gi", "example.com/gpu": "1"});
    let object = json!({
        "metadata": {"name": name, "uid": name, "namespace": "n", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]},
        "status": {"phase": "Running"},
    });
    let object: Object = serde_json::from_value(object).unwrap();
    object.content
}

fn observe(ledger: &mut Ledger<BilledObject>, uid: &str, content: BilledObject, at: i64) {
    ledger.apply(Observation {
        uid: uid.into(),
        start: Some(1),
        end: None,
        content,
        content_since: None,
        observed_at: at,
        in_scope_since: None,
        times: meterline_ledger::Times::default(),
    });
}

/// The objects of a ledger, each with its document.
fn documents(ledger: &Ledger<BilledObject>) -> Vec<(&str, &Document)> {
    let objects = ledger.existing();
    objects
        .map(|it| (&**it.uid, &it.content.unwrap().document))
        .collect()
}

/// The ledger in a file whose objects `a`, `b` … have these contents.
fn read(path: &Path, expected: &[(&str, BilledObject)]) -> (StateFile, Ledger<BilledObject>) {
    let (file, saved, damage) = StateFile::open(path, "pod", &Reads::All, 0).unwrap();
    assert_eq!(damage, None);
    let ledger = restored(saved.unwrap());
    let expected = expected.iter().map(|(uid, it)| (*uid, &it.document));
    assert_eq!(documents(&ledger), expected.collect::<Vec<_>>());
    (file, ledger)
}

/// What the other process does.
fn change(path: &Path) {
    KEYS.install().unwrap();
    let (mut file, mut ledger) = read(path, &[("a", pod("a")), ("b", pod("b"))]);
    assert_eq!(count(&mut file, "contents"), 2);
    let parts = count(&mut file, "parts");
    // What is equal is no change, and is found in the file.
    observe(&mut ledger, "a", pod("a"), 2);
    file.write(&ledger.take_changes(), &seen(2)).unwrap();
    assert_eq!(
        (count(&mut file, "parts"), count(&mut file, "contents")),
        (parts, 2)
    );
    observe(&mut ledger, "c", pod("b"), 2);
    file.write(&ledger.take_changes(), &seen(2)).unwrap();
    assert_eq!(count(&mut file, "contents"), 2);
    observe(&mut ledger, "d", pod("d"), 3);
    file.write(&ledger.take_changes(), &seen(3)).unwrap();
}

#[test]
fn a_file_is_read_by_a_process_with_other_frequent_keys() {
    if let Some(path) = env::var_os(FILE) {
        return change(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let (mut file, ..) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let mut ledger = ledger_of(0);
    observe(&mut ledger, "a", pod("a"), 1);
    observe(&mut ledger, "b", pod("b"), 1);
    file.write(&ledger.take_everything(), &seen(1)).unwrap();
    drop(file);
    // Nothing else in this process installs any, and by now documents have been made without.
    assert_eq!(KEYS.install(), Err(DictionaryInUse));

    let (_, module) = module_path!().split_once("::").unwrap();
    let other = Command::new(env::current_exe().unwrap())
        .arg(format!(
            "{module}::a_file_is_read_by_a_process_with_other_frequent_keys"
        ))
        .args(["--exact", "--nocapture"])
        .env(FILE, &path)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.success(), "{errors}");

    let expected = [("a", "a"), ("b", "b"), ("c", "b"), ("d", "d")];
    read(&path, &expected.map(|(uid, name)| (uid, pod(name))));
}

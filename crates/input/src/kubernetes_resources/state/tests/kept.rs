//! The rows that are written, and the rights of the file.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn labelled(name: &str, label: &str, at: i64) -> Observation<BilledObject> {
    let object = json!({"metadata": {"name": name, "uid": name, "labels": {"l": label}}});
    let object: Object = serde_json::from_value(object).unwrap();
    Observation {
        uid: name.into(),
        start: Some(1),
        end: None,
        content: object.content,
        content_since: None,
        observed_at: at,
        in_scope_since: None,
        times: meterline_ledger::Times::default(),
    }
}

#[test]
fn a_content_is_stored_once_and_deleted_with_its_last_reference() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let (mut file, ..) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let mut ledger = ledger_of(0);
    file.write(&ledger.take_everything(), &seen(0)).unwrap();
    // The label alternates: many segments, two contents.
    for at in 1..=20 {
        let label = if at % 2 == 0 { "a" } else { "b" };
        ledger.apply(labelled("pod", label, at));
        file.write(&ledger.take_changes(), &seen(at)).unwrap();
    }
    assert_eq!(
        (count(&mut file, "parts"), count(&mut file, "contents")),
        (21, 2)
    );
    // The watermark passes half of the segments, and then all but the last.
    for until in [10, 20] {
        let window_batch = ledger.next(until).unwrap();
        file.write(&ledger.take_changes(), &seen(21)).unwrap();
        ledger.settle(window_batch.tag, DeliveryResult::Delivered);
        file.write(&ledger.take_changes(), &seen(21)).unwrap();
    }
    assert_eq!(
        (count(&mut file, "parts"), count(&mut file, "contents")),
        (2, 1)
    );
    ledger.deleted("pod", 25);
    while let Some(window_batch) = ledger.next(200) {
        ledger.settle(window_batch.tag, DeliveryResult::Delivered);
    }
    file.write(&ledger.take_changes(), &seen(200)).unwrap();
    assert_eq!(
        (count(&mut file, "parts"), count(&mut file, "contents")),
        (0, 0)
    );
}

#[test]
fn only_this_user_may_read_the_file_even_if_others_could_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    let files = ["state.sqlite", "state.sqlite-wal", "state.sqlite.lock"];
    let modes = || {
        files.map(|name| {
            let metadata = std::fs::metadata(dir.path().join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        })
    };
    for wide in [None, Some(0o644), Some(0o666)] {
        if let Some(wide) = wide {
            for name in files {
                let file = dir.path().join(name);
                std::fs::write(&file, "").unwrap();
                std::fs::set_permissions(file, std::fs::Permissions::from_mode(wide)).unwrap();
            }
        }
        let (mut file, ..) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
        file.write(&ledger_of(1).take_everything(), &seen(1))
            .unwrap();
        assert_eq!(modes(), [0o600; 3]);
        drop(file);
    }
}

#[test]
fn rows_that_did_not_change_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(&dir);
    let (mut file, saved, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let mut ledger = restored(saved.unwrap());
    file.write(&ledger.take_changes(), &seen(77)).unwrap();
    file.write(&ledger.take_changes(), &seen(78)).unwrap();
    let length = || {
        std::fs::metadata(path.with_extension("sqlite-wal"))
            .unwrap()
            .len()
    };
    let before = length();
    file.write(&ledger.take_changes(), &seen(78)).unwrap();
    assert_eq!(length(), before);
    file.write(&ledger.take_changes(), &seen(79)).unwrap();
    let frame = u64::from(PAGE_SIZE) + 24;
    assert_eq!(length() - before, frame, "one row is on one page");
}

//! Files that earlier versions of this program wrote.

use serde_json::Value;

use super::*;

/// A content that was kept by an earlier configuration, which read everything.
fn kept(name: &str, label: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "n", "labels": {"l": label}},
        "spec": {"containers": [{"name": "c", "env": [{"name": "PASSWORD", "value": "hunter2"}]}]},
    })
}

fn insert(connection: &Connection, statement: &str, key: &str, row: &Value) {
    let row = serde_json::to_vec(row).unwrap();
    connection
        .execute(statement, params![key, row, sqlite::sum(key, &row)])
        .unwrap();
}

/// The rows as they were before each segment had one.
fn write_older(path: &Path, version: usize) {
    let connection = Connection::open(path).unwrap();
    for step in &MIGRATIONS[..version] {
        connection.execute_batch(step).unwrap();
    }
    connection
        .pragma_update(None, "user_version", i64::try_from(version).unwrap())
        .unwrap();
    let checkpoint = json!({
        "horizon": 0, "emitted": 30, "watermark": 20,
        "windows": {"20": {
            "window": {"start": 20, "end": 30}, "state": {"InFlight": 4}, "seconds": 10,
            "accounting": "Exact",
        }},
        "late": {"3": {"late": {"end": 8, "content": kept("late", "span"), "learned": 31}}},
        "late_in_flight": {"5": {
            "window": {"start": 10, "end": 20}, "learned": 31,
            "pieces": [{"uid": "late", "start": 12, "end": 14, "content": kept("late", "sent")}],
        }},
        "late_failed": [{
            "window": {"start": 10, "end": 20}, "learned": 31,
            "pieces": [{"uid": "late", "start": 10, "end": 12, "content": kept("late", "failed")}],
        }],
        "accounting": "Exact", "others": [],
        "stats": {
            "open": 0, "handed_out_seconds": 14, "billed_seconds": 0, "late_seconds": 0,
            "overbilled_seconds": 0,
        },
        "unbilled": [], "counts_fates": true,
    });
    let object = json!({
        "first": 1, "end": null, "overbilled": 0, "covered": 1, "trimmed": [],
        "segments": [
            {"start": 20, "end": 25, "content": kept("pod", "a")},
            {"start": 25, "end": null, "content": kept("pod", "b")},
        ],
        "exists": true, "learned": 1, "written": 25, "in_scope_since": null,
    });
    let ledger = "INSERT INTO ledger (key, value, sum) VALUES (?1, ?2, ?3)";
    insert(&connection, ledger, "head", &checkpoint);
    insert(&connection, ledger, "subject", &json!("pod"));
    let seen = json!({"at": 29, "versions": {"*": 7}});
    insert(&connection, ledger, "seen", &seen);
    let objects = "INSERT INTO objects (uid, record, sum) VALUES (?1, ?2, ?3)";
    insert(&connection, objects, "pod", &object);
    if version == 1 {
        return;
    }
    let mut group = json!({
        "uid": "refused", "content": kept("refused", "x"),
        "refusal": {"cause": "poison", "component": "mapping", "reason": "no", "may_pass": false},
        "pieces": [[4, 9]], "first_try": 10, "last_try": 10, "retries": 0, "next_try": null,
    });
    if version == 3 {
        let content = std::mem::take(&mut group["content"]);
        let contents = "INSERT INTO rejected_contents (key, content, sum) VALUES (?1, ?2, ?3)";
        insert(&connection, contents, "4/refused", &content);
    }
    let rejected = "INSERT INTO rejected (key, pieces, sum) VALUES (?1, ?2, ?3)";
    insert(&connection, rejected, "4/refused", &group);
}

/// Returns object, start, end and label of everything that is handed out.
fn handed_out(ledger: &mut Ledger<BilledObject>) -> Vec<(String, i64, i64, String)> {
    let mut all = Vec::new();
    while let Some(window_batch) = ledger.next(40) {
        for piece in &window_batch.pieces {
            let root = piece.content.document.root();
            let label = root.path(&["metadata", "labels", "l"]).unwrap();
            let label = label.as_str().unwrap().to_owned();
            all.push((piece.uid.to_string(), piece.start, piece.end, label));
        }
        ledger.settle(window_batch.tag, DeliveryResult::Delivered);
    }
    all.sort();
    all
}

#[test]
fn a_file_of_each_earlier_version_is_restored_completely() {
    for version in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.sqlite");
        write_older(&path, version);
        let mut expected = vec![
            ("late".to_owned(), 3, 8, "span".to_owned()),
            ("late".to_owned(), 10, 12, "failed".to_owned()),
            ("late".to_owned(), 12, 14, "sent".to_owned()),
            ("pod".to_owned(), 20, 25, "a".to_owned()),
            ("pod".to_owned(), 25, 30, "b".to_owned()),
            ("pod".to_owned(), 30, 40, "b".to_owned()),
        ];
        if version > 1 {
            expected.push(("refused".to_owned(), 4, 9, "x".to_owned()));
        }
        // Before it is rewritten, after a crash before that, and afterwards.
        for round in 0..3 {
            let (mut file, saved, damage) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
            assert_eq!(damage, None);
            let saved = saved.unwrap();
            assert_eq!(saved.seen, seen(29));
            assert_eq!(saved.reads, Reads::All);
            assert_eq!(file.needs_everything(), round < 2);
            let mut ledger = restored(saved);
            assert_eq!(handed_out(&mut ledger.clone()), expected, "{version}");
            if round == 1 {
                file.write(&ledger.take_everything(), &seen(29)).unwrap();
                assert!(!file.needs_everything());
                assert_eq!(file.check(), None);
            }
        }
        let connection = Connection::open(&path).unwrap();
        let size: u32 = connection
            .pragma_query_value(None, "page_size", |row| row.get(0))
            .unwrap();
        assert_eq!(size, PAGE_SIZE);
    }
}

#[test]
fn a_row_of_an_earlier_version_without_content_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    write_older(&path, 3);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute("DELETE FROM rejected_contents", [])
        .unwrap();
    drop(connection);
    let (_, _, damage) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    assert!(damage.unwrap().contains("lacks its content"));
}

/// Neither the file nor its log contains what an earlier configuration kept and no mapping reads any more.
#[test]
fn fields_that_are_no_longer_read_are_erased() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.sqlite");
    write_older(&path, 3);
    let reads = Reads::of(&["metadata.labels"]);
    let holds = |secret: &str| {
        let files = [path.clone(), path.with_extension("sqlite-wal")];
        files.iter().any(|file| {
            let bytes = std::fs::read(file).unwrap_or_default();
            bytes
                .windows(secret.len())
                .any(|it| it == secret.as_bytes())
        })
    };
    // The first configuration reads labels, the second only names.
    for (reads, secret) in [(&reads, "hunter2"), (&Reads::default(), "failed")] {
        assert!(holds(secret));
        let projection = Projection::of(reads, ResourceType::Pod);
        let (mut file, saved, _) = StateFile::open(&path, "pod", &projection.kept, 0).unwrap();
        let saved = saved.unwrap();
        let kept_for = Arc::new(saved.reads.clone());
        let mut ledger = restored(saved);
        ledger.each_content(&mut |content| content.adapt(&kept_for, &projection));
        let changes = if file.needs_everything() {
            ledger.take_everything()
        } else {
            ledger.take_changes()
        };
        file.write(&changes, &seen(29)).unwrap();
        assert!(!holds(secret), "{secret}");
    }
}

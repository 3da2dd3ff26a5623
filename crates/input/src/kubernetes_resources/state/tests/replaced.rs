//! Other processes delete, replace and change the file while it is in use.

use std::fs;

use super::*;

/// A file in use that holds forty pods, and the ledger that it is of.
fn in_use(dir: &tempfile::TempDir) -> (PathBuf, StateFile, Ledger<BilledObject>) {
    let path = written(dir);
    let (mut file, saved, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    let mut ledger = restored(saved.unwrap());
    file.write(&ledger.take_changes(), &seen(78)).unwrap();
    assert_eq!(file.check(), None);
    (path, file, ledger)
}

/// Writes as the state writer does.
fn write(file: &mut StateFile, ledger: &mut Ledger<BilledObject>) -> Result<(), StateError> {
    let changes = if file.needs_everything() {
        ledger.take_everything()
    } else {
        ledger.take_changes()
    };
    file.write(&changes, &seen(80))
}

fn is_refused(path: &Path) -> bool {
    matches!(
        StateFile::open(path, "pod", &Reads::All, 0),
        Err(StateError::InUse)
    )
}

fn assert_holds_all(path: &Path, pods: usize) {
    let (_, saved, damage) = StateFile::open(path, "pod", &Reads::All, 0).unwrap();
    assert_eq!(damage, None);
    assert_eq!(saved.unwrap().records.len(), pods);
}

#[test]
fn a_deleted_file_is_rewritten_and_a_second_user_is_refused_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut file, mut ledger) = in_use(&dir);
    fs::remove_file(&path).unwrap();
    assert!(is_refused(&path) && !path.exists());
    assert_eq!(file.check(), Some(Change::Deleted));
    start(&mut ledger, "new");
    write(&mut file, &mut ledger).unwrap();
    assert_eq!((file.check(), file.take_aside()), (None, None));
    assert!(is_refused(&path));
    drop(file);
    assert_holds_all(&path, 41);
}

#[test]
fn a_write_to_a_file_that_is_gone_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut file, mut ledger) = in_use(&dir);
    fs::remove_file(&path).unwrap();
    start(&mut ledger, "new");
    let error = write(&mut file, &mut ledger).unwrap_err().to_string();
    assert_eq!(error, "it was deleted");
    assert_eq!(file.check(), Some(Change::Deleted));
    write(&mut file, &mut ledger).unwrap();
    drop(file);
    assert_holds_all(&path, 41);
}

#[test]
fn a_file_that_was_moved_over_the_state_file_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut file, mut ledger) = in_use(&dir);
    // Another state file, a file that is none, and an empty one.
    let other = dir.path().join("other.sqlite");
    let (mut state, _, _) = StateFile::open(&other, "node", &Reads::All, 0).unwrap();
    state.write(&ledger_of(3).take_changes(), &seen(1)).unwrap();
    drop(state);
    let state = fs::read(&other).unwrap();
    for content in [state, b"none of ours ".repeat(500), Vec::new()] {
        fs::write(&other, &content).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(file.check(), Some(Change::Replaced));
        write(&mut file, &mut ledger).unwrap();
        assert_eq!(file.check(), None);
        let aside = file.take_aside().unwrap();
        assert!(aside.to_str().unwrap().contains(".replaced-"), "{aside:?}");
        assert_eq!(fs::read(aside).unwrap(), content);
    }
    drop(file);
    assert_holds_all(&path, 40);
}

#[test]
fn a_file_that_another_process_wrote_to_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut file, mut ledger) = in_use(&dir);
    fs::write(&path, "").unwrap();
    assert_eq!(file.check(), Some(Change::Overwritten));
    write(&mut file, &mut ledger).unwrap();
    assert!(file.take_aside().is_some());
    drop(file);
    assert_holds_all(&path, 40);
}

#[test]
fn a_log_that_is_deleted_is_noticed_before_and_while_it_is_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut file, mut ledger) = in_use(&dir);
    let log = path.with_extension("sqlite-wal");
    fs::remove_file(&log).unwrap();
    assert_eq!(file.check(), Some(Change::LogLost));
    write(&mut file, &mut ledger).unwrap();
    fs::remove_file(&log).unwrap();
    start(&mut ledger, "new");
    write(&mut file, &mut ledger).unwrap_err();
    assert_eq!(file.check(), Some(Change::LogLost));
    write(&mut file, &mut ledger).unwrap();
    assert_eq!((file.check(), file.take_aside()), (None, None));
    drop(file);
    assert_holds_all(&path, 41);
}

/// The lock is deleted with its folder, so the first process that creates it again gets the new path.
#[test]
fn a_path_that_another_process_locked_is_left_alone_until_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut file, mut ledger) = in_use(&dir);
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    let (mut other, _, _) = StateFile::open(&path, "pod", &Reads::All, 0).unwrap();
    other.write(&ledger_of(3).take_changes(), &seen(1)).unwrap();
    for _ in 0..2 {
        assert!(file.check().is_some());
        let error = write(&mut file, &mut ledger).unwrap_err();
        assert!(matches!(error, StateError::InUse), "{error}");
    }
    other.write(&ledger_of(4).take_changes(), &seen(1)).unwrap();
    assert_eq!(other.check(), None);
    drop(other);
    write(&mut file, &mut ledger).unwrap();
    assert!(file.take_aside().is_some());
    assert!(is_refused(&path));
    drop(file);
    assert_holds_all(&path, 40);
}

#[test]
fn a_folder_that_cannot_be_created_again_is_reported_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut file, mut ledger) = in_use(&dir);
    let folder = path.parent().unwrap();
    fs::remove_dir_all(folder).unwrap();
    fs::write(folder, "no folder").unwrap();
    assert_eq!(file.check(), Some(Change::Deleted));
    let error = write(&mut file, &mut ledger).unwrap_err().to_string();
    assert!(error.contains("cannot create"), "{error}");
    assert_eq!(file.check(), Some(Change::Deleted));
    fs::remove_file(folder).unwrap();
    write(&mut file, &mut ledger).unwrap();
    assert_eq!(file.check(), None);
    drop(file);
    assert_holds_all(&path, 40);
}

#[test]
fn a_lock_file_that_is_deleted_is_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut file, _books) = in_use(&dir);
    let lock = path.with_extension("sqlite.lock");
    fs::remove_file(&lock).unwrap();
    assert_eq!(file.check(), None);
    assert!(lock.exists());
    fs::remove_file(&path).unwrap();
    assert!(is_refused(&path));
}

//! A watch whose events come after newer answers.

use super::*;

#[test]
fn where_events_come_after_newer_answers_a_signal_proves_only_what_lies_further_back() {
    let mut scene = Scene::current();
    scene.answer(10.0, 20);
    assert_eq!(scene.drained(10.2), ["alive 10"]);
    scene.answer(15.0, 30);
    assert_eq!(scene.drained(15.2), ["alive 15"]);
    // It is older than the answer of 15.1, so it had happened by then, and after the answer before was requested.
    let (changes, lag) = scene.change(18.0, pod("a", 25, 12));
    assert_eq!(changes, ["a from 12", "version 25"]);
    assert_eq!(lag, Some(Duration::from_secs(8)));
    assert_eq!(scene.bytes(20.0), ["alive 12"]);
    // It is known now, so it is not reported again.
    let (_, lag) = scene.change(18.0, pod("b", 27, 12));
    assert_eq!(lag, None);
    // A deletion may have been delayed as well: it happened after the answer of 15 was requested.
    let gone = scene.delete(21.0, &pod("b", 35, 12));
    assert_eq!(gone, ["b from 12 to 15", "b deleted at 15", "version 35"]);
}

#[test]
fn a_watch_that_lags_is_asked_every_two_seconds_and_windows_wait_for_the_lag() {
    let mut scene = Scene::current();
    scene.answer(10.0, 20);
    scene.drained(10.2);
    scene.answer(15.0, 30);
    scene.drained(15.2);
    scene.change(18.0, pod("a", 25, 12));
    assert_eq!(scene.check(18.0, 30), Check::Probe);
    scene.answer(18.0, 30);
    scene.bytes(18.2);
    assert_eq!(scene.check(18.2, 30), Check::After(Duration::from_secs(1)));
    assert_eq!(scene.check(20.5, 30), Check::Probe);
    // The window of 30 waits until 38, the lag of 8 seconds later.
    scene.answer(37.0, 30);
    scene.bytes(37.2);
    assert_eq!(scene.check(37.2, 30), Check::After(Duration::from_secs(1)));
    scene.answer(38.5, 30);
    assert_eq!(scene.bytes(38.6), ["alive 30"]);
    assert_eq!(scene.check(38.6, 30), Check::After(Duration::from_secs(1)));
}

#[test]
fn a_list_resets_the_known_versions() {
    let mut scene = Scene::current();
    scene.answer(10.0, 20);
    scene.drained(10.2);
    // The server was set back, so an old version does not show how late an event came.
    scene.list(20.0, 5, &[]);
    scene.open(20.0);
    let (_, lag) = scene.change(30.0, pod("a", 6, 29));
    assert_eq!(lag, None);
}

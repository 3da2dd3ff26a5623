//! What is known from before, and what comes into scope later.

use super::*;

fn restored(known: &[Object], version: Option<u64>) -> Restored {
    Restored {
        known: known.iter().map(Object::known).collect(),
        seen_at: BEGIN - 30,
        version,
        lives: std::sync::Arc::default(),
    }
}

#[test]
fn a_restored_object_that_no_list_shows_ended_when_the_state_was_last_written() {
    let mut scene = Scene::new(rules(), Some(restored(&[pod("a", 5, -90)], Some(5))));
    assert_eq!(scene.state.version(), Some(5));
    let changes = scene.list(1.0, 10, &[]);
    assert_eq!(changes[1], "a vanished -30..1");
}

#[test]
fn what_a_watch_that_was_added_lists_is_billed_from_when_it_was_added() {
    let mut scene = Scene::new(rules(), Some(restored(&[], None)));
    let changes = scene.list(1.0, 10, &[pod("a", 9, -500)]);
    assert_eq!(changes[1], "a from -500, in scope since -30");
    // Afterwards a pod is billed from its start.
    let (changes, _) = scene.change(2.0, pod("b", 11, 2));
    assert_eq!(changes[0], "b from 2");
}

#[test]
fn a_pod_that_is_given_the_label_is_billed_from_then() {
    let selecting = Rules {
        has_selector: true,
        ..rules()
    };
    let mut scene = Scene::new(selecting, None);
    // What the first list shows was always in scope, as far as is known.
    let changes = scene.list(0.0, 10, &[pod("a", 9, -500)]);
    assert_eq!(changes[1], "a from -500");
    scene.open(0.0);
    scene.bytes(99.0);
    let (changes, _) = scene.change(100.0, pod("b", 11, -500));
    assert_eq!(changes[0], "b from -500, in scope since 100");
    // A pod that is new is billed from its start.
    let (changes, _) = scene.change(100.0, pod("c", 12, 90));
    assert_eq!(changes[0], "c from 90");
    // And so is an old one that was known.
    let (changes, _) = scene.change(101.0, pod("a", 13, -500));
    assert_eq!(changes[0], "a from -500");
}

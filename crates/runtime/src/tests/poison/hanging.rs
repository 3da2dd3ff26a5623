//! Messages that make the sink hang.

use super::*;

/// They are tried one after the other, for half a minute each, beside the one slot that there is.
#[test]
fn a_sink_that_hangs_for_a_known_suspect_is_not_waited_for_by_others() {
    let sink = Fragile {
        hangs: 30,
        ..Fragile::default()
    };
    let windows = windows_of(&["a", "poison", "b"], 120);
    let story = story(sink, &windows, (0, 1), true, DAY);
    story.assert_honest(&windows);
    let last = *story.sink.last.lock().unwrap();
    assert!(last < 600, "the last one waited until {last}");
}

/// Each of its events takes half a minute to fail, and there is one a second.
#[test]
fn an_object_that_hangs_the_sink_in_every_window_holds_up_neither_others_nor_windows() {
    for (poison, good) in [(1, 2), (1, 19), (2, 18)] {
        for in_flight in [2, 8] {
            let sink = Fragile {
                hangs: 30,
                ..Fragile::default()
            };
            let is_poison: Vec<_> = (0..poison + good).map(|at| at < poison).collect();
            let windows = vec![objects(&is_poison); 3_600];
            let story = story(sink, &windows, (0, in_flight), true, DAY);
            story.assert_honest(&windows);
            let at = format!("{poison} of {} objects, {in_flight} slots", poison + good);
            let (latest, open) = (*story.sink.latest.lock().unwrap(), story.most_open);
            // That is until the object is found, while it is in all that is sent.
            assert!(latest < 1_200, "{at}: one was {latest} s late");
            assert!(open < 1_200, "{at}: {open} windows were open");
            // Most of its events are not sent at all.
            let requests = story.sink.requests.lock().unwrap();
            let failed = requests.iter().filter(|(_, taken)| !taken).count();
            assert!(failed < 300, "{at}: {failed} failed");
        }
    }
}

/// Every other minute there is a new pod that hangs the sink with its only event.
#[test]
fn ever_new_objects_that_hang_the_sink_leave_others_their_slots() {
    for in_flight in [2, 8] {
        let sink = Fragile {
            hangs: 30,
            ..Fragile::default()
        };
        let window = |second: usize| {
            let poison = second
                .is_multiple_of(120)
                .then(|| format!("poison-{second}"));
            let mut window = batch(&["a", "b", "c"]);
            window.extend(poison);
            window
        };
        let windows: Vec<_> = (0..3_600).map(window).collect();
        let story = story(sink, &windows, (0, in_flight), true, DAY);
        story.assert_honest(&windows);
        let latest = *story.sink.latest.lock().unwrap();
        assert!(latest < 300, "{in_flight}: one was {latest} s late");
    }
}

/// Its events wait like all others while nothing is taken.
#[test]
fn an_object_that_failed_before_an_outage_is_not_set_aside_during_it() {
    let sink = Fragile {
        hangs: 30,
        away: vec![(600, DAY)],
        ..Fragile::default()
    };
    let windows = windows_of(&["a", "poison", "b"], 3_600);
    let story = story(sink, &windows, (0, 8), true, 4_000);
    let number = |name: &String| name.split(' ').next_back().unwrap().parse::<u64>().unwrap();
    let last = story.rejected.iter().map(number).max().unwrap();
    assert!((300..640).contains(&last), "{last}");
}

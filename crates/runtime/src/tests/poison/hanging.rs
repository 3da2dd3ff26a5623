//! Messages that make the sink hang.

use super::*;

/// A sink that does not answer a request with poison within half a minute, the configured time limit.
fn hanging() -> Fragile {
    Fragile {
        hangs: 30,
        ..Fragile::default()
    }
}

/// They are tried one after the other, for half a minute each, in addition to the only slot.
#[test]
fn a_sink_that_hangs_for_a_known_suspect_does_not_delay_others() {
    let windows = windows_of(&["a", "poison", "b"], 120);
    let story = story(hanging(), &windows, (0, 1), true, DAY);
    story.assert_honest(&windows);
    let last = *story.sink.last.lock().unwrap();
    assert!(last < 600, "the last one waited until {last}");
}

/// Each event of the object takes half a minute to fail. There is one per second, and every request
/// contains one. The first request waits for the configured limit; each further step of the search takes
/// seconds.
#[test]
fn an_object_that_hangs_the_sink_in_every_window_is_found_within_minutes() {
    for (poison, good, before) in [(1, 2, 0), (1, 19, 0), (2, 18, 0), (1, 2, 60), (1, 19, 60)] {
        for in_flight in [1, 2, 8] {
            let is_poison: Vec<_> = (0..poison + good).map(|at| at < poison).collect();
            let mut windows = vec![objects(&is_poison[poison..]); before];
            windows.extend(vec![objects(&is_poison); 1_800]);
            let story = story(hanging(), &windows, (0, in_flight), true, DAY);
            story.assert_honest(&windows);
            let at = format!(
                "{poison} of {} objects from window {before}, {in_flight} slots",
                poison + good
            );
            let (search, latest) = (story.longest_search, *story.sink.latest.lock().unwrap());
            assert!(search < 360, "{at}: found after {search} s");
            assert!(latest < 280, "{at}: one was {latest} s late");
            assert!(
                story.most_open < 300,
                "{at}: {} windows were open",
                story.most_open
            );
            // Most events of the object are not sent at all.
            let requests = story.sink.requests.lock().unwrap();
            let failed = requests.iter().filter(|(_, taken)| !taken).count();
            assert!(failed < 300, "{at}: {failed} failed");
        }
    }
}

/// Every two minutes a new pod hangs the sink with its only event.
#[test]
fn new_objects_that_hang_the_sink_do_not_take_the_slots_of_others() {
    for in_flight in [1, 2, 8] {
        let window = |second: usize| {
            let poison = second
                .is_multiple_of(120)
                .then(|| format!("poison-{second}"));
            let mut window = batch(&["a", "b", "c"]);
            window.extend(poison);
            window
        };
        let windows: Vec<_> = (0..3_600).map(window).collect();
        let story = story(hanging(), &windows, (0, in_flight), true, DAY);
        story.assert_honest(&windows);
        let latest = *story.sink.latest.lock().unwrap();
        assert!(latest < 200, "{in_flight} slots: one was {latest} s late");
    }
}

/// The short time limits of a search do not cause any rejection.
#[test]
fn a_slow_sink_receives_everything() {
    for in_flight in [1, 8] {
        for objects in [
            &["slow-a", "slow-b"][..],
            &["slow-a", "slow-b", "poison"],
            &["a", "b", "slow", "poison"],
            &["slow", "c", "poison-1", "poison-2"],
        ] {
            let sink = Fragile {
                slow: 20,
                ..hanging()
            };
            let windows = windows_of(objects, 60);
            story(sink, &windows, (0, in_flight), true, DAY).assert_honest(&windows);
        }
    }
}

/// A request with a short time limit does not count as a try.
#[test]
fn requests_with_a_short_time_limit_do_not_count_as_tries() {
    let second = Duration::from_secs(1);
    for (most, no_longer_than) in [(Some(1), None), (None, Some(second))] {
        let sink = Fragile {
            slow: 20,
            ..hanging()
        };
        let set = |writer: &mut WriterNode| {
            // Another request is accepted before the second try.
            writer.retry.first = 3 * second;
            writer.retry.most = most;
            writer.retry.no_longer_than = no_longer_than;
        };
        let pair = [batch(&["slow", "a", "b", "poison"]), batch(&["c"])];
        let windows: Vec<_> = std::iter::repeat_n(pair, 20).flatten().collect();
        let story = story_of(sink, &windows, set, true, DAY);
        let arrived = story.sink.arrived.lock().unwrap();
        let slow = arrived.iter().filter(|it| it.starts_with("slow"));
        assert_eq!(
            slow.count(),
            20,
            "{most:?} {no_longer_than:?}: {:?}",
            story.rejected
        );
    }
}

/// The events of the object wait like all others while the sink accepts nothing.
#[test]
fn an_object_that_failed_before_an_outage_is_not_set_aside_during_it() {
    let sink = Fragile {
        away: vec![(600, DAY)],
        ..hanging()
    };
    let windows = windows_of(&["a", "poison", "b"], 3_600);
    let story = story(sink, &windows, (0, 8), true, 4_000);
    let number = |name: &String| name.split(' ').next_back().unwrap().parse::<u64>().unwrap();
    let last = story.rejected.iter().map(number).max().unwrap();
    assert!((300..640).contains(&last), "{last}");
}

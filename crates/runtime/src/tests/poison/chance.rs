//! Sinks that fail at random, with random messages.

use super::*;

#[test]
fn a_sink_that_fails_occasionally_receives_everything() {
    for _ in 0..10 {
        let sink = Fragile {
            failing: 30,
            ..Fragile::default()
        };
        let windows = windows_of(&["a", "b", "c"], 500);
        let story = story(sink, &windows, (1, 4), true, DAY);
        story.assert_honest(&windows);
    }
}

fn away() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let outage = (0_u64..100, 1_u64..400).prop_map(|(from, seconds)| (from, from + seconds));
    prop::collection::vec(outage, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// This holds for any poison, any failure rate of the sink and any outages.
    #[test]
    fn all_but_poison_arrives_and_only_poison_is_set_aside(
        poison in prop::collection::vec(any::<bool>(), 0..3),
        good in 1_usize..6,
        turn in 0_usize..6,
        windows in 1_usize..20,
        size in prop_oneof![Just(0_usize), 4_usize..30],
        in_flight in 1_usize..9,
        failing in prop_oneof![Just(0_u32), Just(30)],
        away in away(),
    ) {
        let mut poison = poison;
        poison.extend(vec![false; good]);
        let most = poison.len();
        poison.rotate_left(turn % most);
        let windows = vec![objects(&poison); windows];
        let sink = Fragile { failing, away, ..Fragile::default() };
        let story = story(sink, &windows, (size, in_flight), true, DAY);
        story.assert_honest(&windows);
    }

    /// This holds even if most messages are poison, or all.
    #[test]
    fn nothing_but_poison_is_ever_set_aside(
        poison in prop::collection::vec(any::<bool>(), 1..24),
        windows in 1_usize..40,
        size in 0_usize..30,
        in_flight in 1_usize..9,
        failing in 0_u32..60,
        away in away(),
    ) {
        let windows = vec![objects(&poison); windows];
        let sink = Fragile { failing, away, ..Fragile::default() };
        let story = story(sink, &windows, (size, in_flight), true, 1_800);
        for rejected in &story.rejected {
            prop_assert!(rejected.starts_with("poison"), "{}", rejected);
        }
    }
}

use super::*;
use proptest::prelude::*;
use serde_json::json;

const DAY: i64 = 1_700_006_400;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(DAY + second, 0).unwrap()
}

fn life(name: &str, start: i64, end: Option<i64>) -> Life {
    Life {
        uid: format!("uid-of-{name}-{start}"),
        namespace: "shop".into(),
        name: name.into(),
        start: at(start),
        end: end.map(at),
    }
}

fn event(name: &str, start: i64, seconds: i64) -> Value {
    json!({
        "time": at(start).to_rfc3339(),
        "data": {"pod_namespace": "shop", "pod_name": name, "duration_seconds": seconds},
    })
}

/// Missing, double and surplus seconds of the range [0, 100).
fn errors(lives: &[Life], events: &[Value]) -> (i64, i64, i64) {
    let report = audit(lives, events, at(0)..at(100));
    assert_eq!(report.malformed, Vec::<String>::new());
    (
        report.missing_seconds(),
        report.double_seconds(),
        report.surplus_seconds(),
    )
}

#[test]
fn pieces_that_cover_a_life_in_any_order_are_exact() {
    let lives = [life("web", 3, Some(22))];
    let events = [event("web", 15, 7), event("web", 3, 2), event("web", 5, 10)];
    let report = audit(&lives, &events, at(0)..at(100));
    report.assert_exact();
    assert_eq!((report.lived_seconds(), report.billed_seconds()), (19, 19));
}

#[test]
fn each_kind_of_error_is_distinguished() {
    let lives = [life("web", 10, Some(20))];
    assert_eq!(errors(&lives, &[]), (10, 0, 0));
    assert_eq!(errors(&lives, &[event("web", 10, 9)]), (1, 0, 0));
    assert_eq!(errors(&lives, &[event("web", 11, 9)]), (1, 0, 0));
    assert_eq!(errors(&lives, &[event("web", 10, 11)]), (0, 0, 1));
    assert_eq!(errors(&lives, &[event("web", 8, 12)]), (0, 0, 2));
    let twice = [event("web", 10, 10), event("web", 15, 5)];
    assert_eq!(errors(&lives, &twice), (0, 5, 0));
    let thrice = [
        event("web", 10, 10),
        event("web", 10, 10),
        event("web", 10, 10),
    ];
    assert_eq!(errors(&lives, &thrice), (0, 20, 0));
    let shifted = [event("web", 12, 10)];
    assert_eq!(errors(&lives, &shifted), (2, 0, 2));
}

#[test]
fn errors_of_two_pods_do_not_cancel_out() {
    let lives = [life("a", 0, Some(10)), life("b", 0, Some(10))];
    let events = [event("a", 0, 9), event("b", 0, 11)];
    assert_eq!(errors(&lives, &events), (1, 0, 1));
}

#[test]
fn events_of_a_pod_that_never_ran_are_surplus() {
    assert_eq!(errors(&[], &[event("ghost", 5, 5)]), (0, 0, 5));
}

#[test]
fn lives_of_one_name_follow_each_other() {
    let lives = [life("web", 0, Some(10)), life("web", 12, Some(20))];
    let events = [event("web", 0, 10), event("web", 12, 8)];
    assert_eq!(errors(&lives, &events), (0, 0, 0));
    let joined = [event("web", 0, 20)];
    assert_eq!(errors(&lives, &joined), (0, 0, 2));
}

#[test]
fn the_range_clips_lives_and_events() {
    let lives = [life("web", -50, None), life("old", -50, Some(-20))];
    let events = [
        event("web", -5, 10),
        event("web", 5, 200),
        event("old", -50, 30),
    ];
    let report = audit(&lives, &events, at(0)..at(100));
    report.assert_exact();
    assert_eq!(report.lived_seconds(), 100);
    assert_eq!(report.pods.len(), 1);
}

#[test]
fn events_without_a_usable_interval_are_malformed() {
    let mut half = event("web", 0, 5);
    half["time"] = json!("2023-11-15T00:00:00.5Z");
    let mut text = event("web", 0, 5);
    text["data"]["duration_seconds"] = json!("5");
    let mut fraction = event("web", 0, 5);
    fraction["data"]["duration_seconds"] = json!(2.5);
    let mut without_pod = event("web", 0, 5);
    without_pod["data"] = json!({"duration_seconds": 5});
    let events = [
        half,
        text,
        fraction,
        without_pod,
        event("web", 0, 0),
        json!({}),
    ];
    let report = audit(&[], &events, at(0)..at(100));
    assert_eq!(report.malformed.len(), events.len(), "{report}");
    assert!(!report.is_exact());
}

#[test]
fn the_report_names_pod_kind_and_time() {
    let lives = [life("web", 0, Some(10))];
    let events = [event("web", 0, 5), event("web", 4, 1), event("gone", 7, 2)];
    let report = audit(&lives, &events, at(0)..at(100));
    let expected = "2 pods ran 10 s and are billed 8 s: missing 5 s, double 1 s, surplus 2 s, \
        malformed events 0
  shop/gone: surplus 2 s [00:00:07, 00:00:09)
  shop/web: missing 5 s [00:00:05, 00:00:10)
  shop/web: double 1 s [00:00:04, 00:00:05)
";
    assert_eq!(report.to_string(), expected);
}

#[test]
#[should_panic(expected = "missing 10 s")]
fn assert_exact_panics_with_the_report() {
    audit(&[life("web", 0, Some(10))], &[], at(0)..at(100)).assert_exact();
}

proptest! {
    /// Compares the audit with the simplest one possible, which counts every second.
    #[test]
    fn the_sweep_agrees_with_counting_every_second(
        lives in prop::collection::vec((0i64..60, 1i64..30), 0..4),
        events in prop::collection::vec((0i64..60, 1i64..30), 0..6),
    ) {
        let (mut missing, mut double, mut surplus) = (0, 0, 0);
        for second in 10..70 {
            let covers = |&&(start, length): &&(i64, i64)| {
                start <= second && second < start + length
            };
            let alive = lives.iter().filter(covers).count() as i64;
            let billed = events.iter().filter(covers).count() as i64;
            missing += (alive - billed).max(0);
            let more = (billed - alive).max(0);
            if alive == 0 { surplus += more } else { double += more }
        }
        let lives: Vec<_> = lives
            .iter()
            .map(|&(start, length)| life("web", start, Some(start + length)))
            .collect();
        let events: Vec<_> = events
            .iter()
            .map(|&(start, length)| event("web", start, length))
            .collect();
        let report = audit(&lives, &events, at(10)..at(70));
        prop_assert_eq!(report.missing_seconds(), missing);
        prop_assert_eq!(report.double_seconds(), double);
        prop_assert_eq!(report.surplus_seconds(), surplus);
        prop_assert_eq!(report.billed_seconds() - report.lived_seconds(), double + surplus - missing);
    }
}

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Deduplicator;

fn meter(config: Value) -> Result<Meter, BuildError> {
    Meter::new(serde_json::from_value(config).unwrap())
}

fn event(subject: &str, pod: &str, time: &str, value: Value) -> Value {
    json!({"type": "t", "subject": subject, "time": time, "data": {"v": value, "pod": pod}})
}

fn of(aggregation: &str, values: &[Value]) -> String {
    let mut meter = meter(
        json!({"slug": "m", "eventType": "t", "valueProperty": "$.v", "aggregation": aggregation}),
    )
    .unwrap();
    for (index, value) in values.iter().enumerate() {
        let time = format!("2026-01-01T00:00:{:02}Z", 30 - index % 2);
        assert!(meter.add(&event("s", "p", &time, value.clone())).unwrap());
    }
    meter.rows().next().unwrap().value.normalize().to_string()
}

#[test]
fn every_aggregation() {
    let values = [json!(2), json!(0.1), json!("5"), json!(0.2), json!(2)];
    assert_eq!(of("SUM", &values), "9.3");
    assert_eq!(of("COUNT", &values), "5");
    assert_eq!(of("AVG", &values), "1.86");
    assert_eq!(of("MIN", &values), "0.1");
    assert_eq!(of("MAX", &values), "5");
    assert_eq!(of("UNIQUE_COUNT", &values), "4");
    // The even ones have the latest time; the last of them came last.
    assert_eq!(of("LATEST", &[json!(1), json!(9), json!(3), json!(8)]), "3");
}

#[test]
fn tenths_and_large_numbers_are_exact() {
    assert_eq!(of("SUM", &vec![json!(0.1); 10]), "1");
    assert_eq!(of("SUM", &vec![json!(1e-7); 3]), "0.0000003");
    let bytes = json!(9_007_199_254_740_993_u64);
    assert_eq!(of("SUM", &[bytes.clone(), bytes]), "18014398509481986");
}

#[test]
fn rows_are_kept_apart_by_subject_and_group() {
    let mut meter = meter(json!({
        "slug": "m", "eventType": "t", "valueProperty": "$.v", "aggregation": "SUM",
        "groupBy": ["pod", "none"],
    }))
    .unwrap();
    for (subject, pod) in [("b", "x"), ("a", "y"), ("a", "x"), ("a", "y")] {
        meter.add(&event(subject, pod, "", json!(1))).unwrap();
    }
    let rows: Vec<_> = meter
        .rows()
        .map(|row| format!("{} {:?} {}", row.subject, row.group, row.value))
        .collect();
    assert_eq!(
        rows,
        [r#"a ["x", ""] 1"#, r#"a ["y", ""] 2"#, r#"b ["x", ""] 1"#]
    );
}

#[test]
fn group_by_takes_paths() {
    let mut meter = meter(json!({
        "slug": "m", "eventType": "t", "aggregation": "COUNT",
        "groupBy": {"name": "$.pod"},
    }))
    .unwrap();
    meter.add(&event("s", "x", "", json!(1))).unwrap();
    assert_eq!(meter.group_by(), ["name"]);
    assert_eq!(meter.rows().next().unwrap().group, ["x"]);
}

#[test]
fn other_types_are_skipped_and_bad_values_refused() {
    let mut meter =
        meter(json!({"slug": "m", "eventType": "t", "valueProperty": "$.v", "aggregation": "SUM"}))
            .unwrap();
    assert_eq!(meter.add(&json!({"type": "u"})), Ok(false));
    assert_eq!(
        meter.add(&json!({"type": "t", "data": {}})).unwrap_err(),
        Refused::NoValue("$.v".to_owned())
    );
    let error = meter.add(&event("s", "p", "", json!("x"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`$.v` of the event is \"x\", which is not a number"
    );
    assert_eq!(meter.rows().count(), 0);
}

#[test]
fn an_invalid_meter_is_refused() {
    let error = meter(json!({
        "slug": "m", "eventType": "t", "valueProperty": "duration", "aggregation": "SUM"
    }))
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("meter `m`: valueProperty: `duration` is not a JSONPath")
    );
    let error = meter(json!({"slug": "m", "eventType": "t", "aggregation": "MAX"})).unwrap_err();
    assert!(error.to_string().contains("needs a valueProperty"));
}

proptest! {
    #[test]
    fn replays_change_nothing(
        values in prop::collection::vec(0_u32..1_000_000, 1..50),
        replayed in prop::collection::vec(any::<prop::sample::Index>(), 0..50),
    ) {
        let events: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(id, value)| {
                json!({"source": "k", "id": id.to_string(), "type": "t", "subject": "s",
                       "data": {"v": value}})
            })
            .collect();
        let mut meter = meter(
            json!({"slug": "m", "eventType": "t", "valueProperty": "$.v", "aggregation": "SUM"}),
        )
        .unwrap();
        let mut seen = Deduplicator::default();
        let again = replayed.iter().filter_map(|index| events.get(index.index(events.len())));
        for event in again.chain(&events) {
            if seen.is_new(event) {
                meter.add(event).unwrap();
            }
        }
        let sum: u64 = values.iter().copied().map(u64::from).sum();
        prop_assert_eq!(meter.rows().next().unwrap().value, Decimal::from(sum));
    }
}

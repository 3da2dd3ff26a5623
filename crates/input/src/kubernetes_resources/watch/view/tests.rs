//! Each transition of a view, and each rule by which it proves that it is current.

mod any;
mod lag;
mod restored;

use serde_json::json;

use super::*;
use crate::kubernetes_resources::{lifetime::BilledFrom, resource_type::ResourceType};

/// The Unix time at which each scene begins, in seconds.
const BEGIN: i64 = 1_000_000;
const SETTLE: Duration = Duration::from_secs(3);

/// A watch, and a clock that only the test moves. All times are seconds since the scene began.
struct Scene {
    begin: Instant,
    state: WatchState,
    connection: Connection,
}

fn rules() -> Rules {
    Rules {
        resource_type: ResourceType::Pod,
        from: BilledFrom::Started,
        has_selector: false,
    }
}

/// A pod that runs since the second `started`.
fn pod(name: &str, version: u64, started: i64) -> Object {
    let at = |seconds: i64| {
        let at = chrono::DateTime::from_timestamp(BEGIN + seconds, 0);
        at.unwrap().to_rfc3339()
    };
    let pod = json!({
        "metadata": {
            "name": name, "namespace": "n", "uid": name, "resourceVersion": version.to_string(),
            "creationTimestamp": at(started),
        },
        "spec": {"containers": [{}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"state": {"running": {"startedAt": at(started)}}},
        ]},
    });
    serde_json::from_value(pod).unwrap()
}

/// A change as a short text.
fn show(change: &Change) -> String {
    match change {
        Change::Observed(it) => {
            let start = it.start.map(|start| start - BEGIN);
            let scope = it.in_scope_since.map(|since| since - BEGIN);
            let scope = scope.map_or_else(String::new, |since| format!(", in scope since {since}"));
            let end = it.end.map(|end| end - BEGIN);
            let end = end.map_or_else(String::new, |end| format!(" to {end}"));
            format!("{} from {}{end}{scope}", it.uid, start.unwrap_or_default())
        }
        Change::Deleted { uid, at } => format!("{uid} deleted at {}", at - BEGIN),
        Change::Vanished { uid, seen, now } => {
            format!("{uid} vanished {}..{}", seen - BEGIN, now - BEGIN)
        }
        Change::SeenVersion(version) => format!("version {version}"),
        Change::Synced(is_synced) => format!("synced {is_synced}"),
        Change::Alive(at) => format!("alive {}", at - BEGIN),
    }
}

impl Scene {
    fn new(rules: Rules, restored: Option<Restored>) -> Self {
        let begin = Instant::now();
        let now = Moment::new(begin, BEGIN as f64);
        Self {
            begin,
            state: WatchState::new(rules, SETTLE, restored, now),
            connection: Connection::default(),
        }
    }

    /// A watch whose first list, requested at 0 at version 10, is complete, and that is open since then.
    fn current() -> Self {
        let mut scene = Self::new(rules(), None);
        scene.list(0.0, 10, &[]);
        scene.open(0.0);
        scene
    }

    fn at(&self, seconds: f64) -> Instant {
        self.begin + Duration::from_secs_f64(seconds)
    }

    fn moment(&self, seconds: f64) -> Moment {
        Moment::new(self.at(seconds), BEGIN as f64 + seconds)
    }

    fn changes(&mut self) -> Vec<String> {
        let changes: Vec<_> = self.state.changes().collect();
        changes.iter().map(show).collect()
    }

    /// A list is requested and completed within one moment.
    fn list(&mut self, at: f64, version: u64, pods: &[Object]) -> Vec<String> {
        let now = self.moment(at);
        self.state.list_requested();
        self.state.list_began(Some(version), now);
        for pod in pods {
            self.state.listed(pod.clone(), now);
        }
        let missing = self.state.missing_in_list();
        self.state.list_completed(missing, &[], now);
        self.changes()
    }

    /// The server answers the watch.
    fn open(&mut self, at: f64) {
        self.connection = Connection {
            open_since: Some(self.at(at)),
            ..Connection::default()
        };
    }

    /// Bytes arrive, and nothing is left to read.
    fn bytes(&mut self, at: f64) -> Vec<String> {
        self.connection.last_bytes_at = Some(self.at(at));
        self.state.signed();
        self.drained(at)
    }

    fn drained(&mut self, at: f64) -> Vec<String> {
        self.state.drained(self.connection, self.moment(at));
        self.changes()
    }

    /// The server answers a question within a tenth of a second.
    fn answer(&mut self, requested_at: f64, version: u64) {
        self.state.answered(Some(Answer {
            requested_at: self.at(requested_at),
            came: self.at(requested_at + 0.1),
            version,
        }));
    }

    fn change(&mut self, at: f64, pod: Object) -> (Vec<String>, Option<Duration>) {
        let now = self.moment(at);
        let lag = self.state.changed(pod, self.connection, now);
        (self.changes(), lag)
    }

    fn delete(&mut self, at: f64, pod: &Object) -> Vec<String> {
        let now = self.moment(at);
        let _ = self.state.deleted(pod, self.connection, now);
        self.changes()
    }

    fn check(&mut self, at: f64, due: i64) -> Check {
        let now = self.moment(at);
        self.state
            .check(BEGIN + due, Duration::ZERO, self.connection, now)
    }
}

#[test]
fn a_view_is_behind_until_its_first_list_is_complete() {
    let mut scene = Scene::new(rules(), None);
    assert_eq!(scene.state.view, View::Behind);
    scene.open(0.0);
    scene.state.list_requested();
    let now = scene.moment(1.0);
    scene.state.list_began(Some(10), now);
    assert!(matches!(scene.state.view, View::Listing { .. }));
    assert_eq!(scene.changes(), ["synced false"]);
    // Neither bytes nor an answer make it current before the list is complete.
    scene.answer(30.0, 10);
    assert_eq!(scene.bytes(30.0), [""; 0]);
    scene.state.listed(pod("a", 7, -5), scene.moment(31.0));
    assert_eq!(scene.changes(), ["a from -5"]);
    let missing = scene.state.missing_in_list();
    let now = scene.moment(32.0);
    scene.state.list_completed(missing, &[], now);
    assert_eq!(scene.state.view, View::Current);
    // The list shows the state of the moment at which it was requested.
    assert_eq!(scene.changes(), ["version 10", "synced true", "alive 1"]);
}

#[test]
fn a_version_counts_only_once_the_list_that_shows_it_is_complete() {
    let mut scene = Scene::new(rules(), None);
    scene.state.list_requested();
    scene.state.list_began(Some(10), scene.moment(0.0));
    scene.state.listed(pod("a", 9, -5), scene.moment(0.0));
    // The list breaks, and what happened meanwhile is repeated before the next one begins.
    scene.state.failed();
    scene.state.list_requested();
    let now = scene.moment(1.0);
    scene.state.changed_meanwhile(pod("b", 11, 0), now);
    scene.state.list_began(Some(11), now);
    let changes = scene.changes();
    assert!(
        !changes.iter().any(|it| it.starts_with("version")),
        "{changes:?}"
    );
    scene.state.listed(pod("a", 9, -5), now);
    let missing = scene.state.missing_in_list();
    scene.state.list_completed(missing, &[], now);
    assert!(scene.changes().contains(&"version 11".to_owned()));
}

#[test]
fn a_liveness_signal_counts_only_once_everything_that_arrived_is_read() {
    let mut scene = Scene::current();
    scene.connection.last_bytes_at = Some(scene.at(5.0));
    scene.state.signed();
    scene.answer(5.0, 10);
    assert!(scene.state.has_sign());
    let (changes, _) = scene.change(5.1, pod("a", 11, 4));
    assert_eq!(changes, ["a from 4", "version 11"]);
    assert_eq!(scene.drained(5.2), ["alive 5"]);
    assert!(!scene.state.has_sign());
}

#[test]
fn after_a_break_a_liveness_signal_counts_only_once_the_watch_has_settled() {
    let mut scene = Scene::current();
    scene.state.failed();
    assert_eq!(scene.state.view, View::Behind);
    scene.connection = Connection::default();
    assert_eq!(scene.bytes(9.0), [""; 0]);
    scene.open(10.0);
    assert_eq!(scene.bytes(12.9), [""; 0]);
    assert_eq!(scene.state.view, View::Behind);
    assert_eq!(scene.bytes(13.0), ["synced true", "alive 13"]);
    assert_eq!(scene.state.view, View::Current);
}

#[test]
fn after_a_stall_a_liveness_signal_counts_only_once_the_server_had_time_to_send() {
    let mut scene = Scene::current();
    assert_eq!(scene.bytes(1.0), ["alive 1"]);
    assert_eq!(scene.check(1.0, 15), Check::After(Duration::from_secs(1)));
    // The check is due at 2; a second later is no stall, and anything after that is one.
    scene.state.woke(scene.moment(3.0));
    assert_eq!(scene.state.view, View::Current);
    scene.state.woke(scene.moment(3.1));
    assert_eq!(scene.state.view, View::Behind);
    assert_eq!(scene.bytes(6.0), [""; 0]);
    assert_eq!(scene.bytes(6.2), ["synced true", "alive 6"]);
}

#[test]
fn a_stall_during_a_list_does_not_end_the_list() {
    let mut scene = Scene::current();
    scene.state.list_requested();
    scene.state.list_began(Some(20), scene.moment(5.0));
    scene.state.woke(scene.moment(60.0));
    assert!(matches!(scene.state.view, View::Listing { .. }));
}

#[test]
fn an_answer_counts_from_when_it_was_asked_for() {
    let mut scene = Scene::current();
    scene.answer(7.0, 10);
    assert_eq!(scene.drained(8.0), ["alive 7"]);
    // No answer in time changes nothing.
    scene.state.answered(None);
    assert_eq!(scene.drained(20.0), ["alive 7"]);
}

#[test]
fn a_watch_whose_time_is_over_is_known_to_be_complete_up_to_its_end() {
    let mut scene = Scene::current();
    assert_eq!(scene.bytes(5.0), ["alive 5"]);
    scene.connection.open_since = None;
    scene.connection.ended_at = Some(scene.at(50.0));
    assert_eq!(scene.drained(50.5), [""; 0]);
    assert_eq!(scene.state.view, View::Behind);
    // So what went while it is resumed went after its end.
    let gone = scene.delete(60.0, &pod("a", 12, -5));
    assert_eq!(gone, ["a from -5 to 50", "a deleted at 50", "version 12"]);
    scene.open(51.0);
    assert_eq!(scene.bytes(54.0), ["synced true", "alive 54"]);
}

#[test]
fn a_watch_that_breaks_is_complete_up_to_its_last_liveness_signal_only() {
    let mut scene = Scene::current();
    assert_eq!(scene.bytes(5.0), ["alive 5"]);
    scene.connection.open_since = None;
    assert_eq!(scene.drained(50.0), [""; 0]);
    let gone = scene.delete(60.0, &pod("a", 12, -5));
    assert_eq!(gone, ["a from -5 to 5", "a deleted at 5", "version 12"]);
}

#[test]
fn a_deletion_that_a_current_watch_sees_happened_when_it_came() {
    let mut scene = Scene::current();
    let (changes, _) = scene.change(1.0, pod("a", 11, 1));
    assert_eq!(changes, ["a from 1", "version 11"]);
    assert_eq!(scene.state.objects(), 1);
    let gone = scene.delete(7.0, &pod("a", 12, 1));
    assert_eq!(gone, ["a from 1 to 7", "a deleted at 7", "version 12"]);
    assert_eq!(scene.state.objects(), 0);
}

#[test]
fn an_object_that_a_list_does_not_show_ended_when_the_view_was_last_current() {
    let mut scene = Scene::current();
    scene.change(1.0, pod("a", 11, 1));
    scene.change(1.0, pod("b", 12, 1));
    scene.bytes(5.0);
    let changes = scene.list(40.0, 30, &[pod("b", 12, 1)]);
    let expected = [
        "synced false",
        "b from 1",
        "a vanished 5..40",
        "version 30",
        "synced true",
        "alive 40",
    ];
    assert_eq!(changes, expected);
    assert_eq!(scene.state.objects(), 1);
}

#[test]
fn the_last_state_of_an_object_that_a_list_does_not_show_determines_its_end() {
    let mut scene = Scene::current();
    scene.change(1.0, pod("a", 11, 1));
    scene.bytes(5.0);
    scene.state.list_requested();
    scene.state.list_began(Some(30), scene.moment(40.0));
    let missing = scene.state.missing_in_list();
    let names: Vec<_> = missing.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["a"]);
    let mut last = pod("a", 20, 1);
    let deleted = json!({
        "metadata": {"name": "a", "namespace": "n", "uid": "a", "resourceVersion": "20",
            "deletionTimestamp": "1970-01-12T13:47:05Z", "deletionGracePeriodSeconds": 5},
        "spec": {"containers": [{}]},
        "status": {"containerStatuses": [{"state": {"running": {"startedAt": "1970-01-12T13:46:41Z"}}}]},
    });
    last.clone_from(&serde_json::from_value(deleted).unwrap());
    let now = scene.moment(41.0);
    scene.state.list_completed(missing, &[last], now);
    // Its deletion was requested at 20, within the gap.
    let changes = scene.changes();
    assert_eq!(
        changes[1..4],
        ["a from 1 to 20", "a deleted at 20", "version 20"]
    );
    assert!(
        !changes.iter().any(|it| it.contains("vanished")),
        "{changes:?}"
    );
}

#[test]
fn a_window_waits_for_an_answer_beside_the_bytes() {
    let mut scene = Scene::current();
    // Until the window ends no probe is needed, and the next check is at its end.
    assert_eq!(scene.check(0.0, 15), Check::After(Duration::from_secs(1)));
    scene.bytes(20.0);
    assert_eq!(scene.check(20.0, 15), Check::Probe);
    scene.answer(14.0, 10);
    scene.drained(20.1);
    assert_eq!(scene.check(20.1, 15), Check::Probe);
    scene.answer(20.2, 10);
    scene.drained(20.4);
    assert_eq!(scene.check(20.4, 15), Check::After(Duration::from_secs(1)));
}

#[test]
fn a_view_that_is_behind_asks_and_one_without_a_connection_does_not() {
    let mut scene = Scene::current();
    scene.state.failed();
    assert_eq!(scene.check(1.0, 15), Check::Probe);
    scene.connection.open_since = None;
    assert_eq!(scene.check(2.0, 15), Check::After(Duration::from_secs(1)));
    scene.open(3.0);
    scene.state.list_requested();
    scene.state.list_began(None, scene.moment(3.0));
    assert_eq!(scene.check(3.0, 15), Check::After(Duration::from_secs(1)));
}

#[test]
fn the_next_check_waits_for_the_pause_that_the_server_asked_for() {
    let mut scene = Scene::current();
    let now = scene.moment(1.0);
    let pause = Duration::from_secs(7);
    scene.state.check(BEGIN + 15, pause, scene.connection, now);
    assert_eq!(scene.state.check_at(), scene.at(8.0));
    // A requested pause is no stall.
    scene.state.woke(scene.moment(8.5));
    assert_eq!(scene.state.view, View::Current);
}

#[test]
fn what_the_server_repeats_happened_within_the_gap() {
    let mut scene = Scene::current();
    scene.bytes(5.0);
    scene.state.list_requested();
    let now = scene.moment(20.0);
    scene.state.changed_meanwhile(pod("a", 11, 8), now);
    scene.state.deleted_meanwhile(&pod("a", 12, 8), now);
    let changes = scene.changes();
    // The last time that its status records is its start, at 8.
    assert_eq!(
        changes,
        [
            "synced false",
            "a from 8",
            "version 11",
            "a from 8 to 8",
            "a deleted at 8",
            "version 12"
        ]
    );
}

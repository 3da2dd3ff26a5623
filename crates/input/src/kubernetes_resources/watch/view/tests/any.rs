//! For any sequence of events, a view never claims to be more current than it is.
//!
//! The server and the connection behave as real ones do: events arrive in order, half a second after they
//! happened, or half a second after a break or a stall.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// How long an event takes to arrive, in seconds.
const DELAY: f64 = 0.5;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A pod is created, and the watch sends it.
    Create,
    /// The server sends a bookmark.
    Bookmark,
    /// The server answers a question.
    Answer,
    /// So many tenths of a second pass, in which the task reads what arrives.
    Pass(u8),
    /// So many seconds pass, in which the task reads nothing.
    Stall(u8),
    /// The connection breaks, and is open again after so many seconds.
    Break(u8),
    /// The watch has to list.
    List,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Create),
        3 => Just(Step::Bookmark),
        3 => Just(Step::Answer),
        8 => (1..30_u8).prop_map(Step::Pass),
        1 => (2..20_u8).prop_map(Step::Stall),
        1 => (1..20_u8).prop_map(Step::Break),
        1 => Just(Step::List),
    ]
}

/// What the server has sent and the task has not read.
struct Sent {
    arrives: f64,
    pod: Option<Object>,
    /// Whether a stall delayed it. After that it has arrived, and is only not read yet.
    is_delayed: bool,
}

struct Run {
    scene: Scene,
    /// In tenths of a second, which add up exactly.
    now: u32,
    version: u64,
    /// The seconds at which pods were created, in order of their versions.
    created: Vec<f64>,
    sent: VecDeque<Sent>,
    /// How many pods the ledger knows.
    known: usize,
}

impl Run {
    fn new() -> Self {
        Self {
            scene: Scene::current(),
            now: 0,
            version: 10,
            created: Vec::new(),
            sent: VecDeque::new(),
            known: 0,
        }
    }

    fn now(&self) -> f64 {
        f64::from(self.now) / 10.0
    }

    fn pod(&self, number: usize) -> Object {
        let version = 11 + u64::try_from(number).unwrap();
        pod(
            &format!("p-{number}"),
            version,
            self.created[number].floor() as i64,
        )
    }

    fn send(&mut self, pod: Option<Object>) {
        let arrives = self.now() + DELAY;
        let is_delayed = false;
        self.sent.push_back(Sent {
            arrives,
            pod,
            is_delayed,
        });
    }

    /// What the view passes to the ledger is true: each pod that was created more than `settle` before is known.
    fn check(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Observed(_) => self.known += 1,
                Change::Alive(at) => {
                    let at = (at - BEGIN) as f64;
                    assert!(
                        at <= self.now(),
                        "alive at {at}, in the future of {}",
                        self.now()
                    );
                    let settled = at - SETTLE.as_secs_f64();
                    let before = self.created.iter().filter(|it| **it < settled).count();
                    assert!(self.known >= before, "{} of {before} at {at}", self.known);
                }
                _ => {}
            }
        }
    }

    fn take(&mut self) {
        let changes = self.scene.state.changes().collect();
        self.check(changes);
    }

    /// The task reads what has arrived, and evaluates the last liveness signal.
    fn read(&mut self) {
        let moment = self.scene.moment(self.now());
        self.scene.state.woke(moment);
        let now = self.now();
        while self.sent.front().is_some_and(|it| it.arrives <= now) {
            let sent = self.sent.pop_front().unwrap();
            self.scene.connection.last_bytes_at = Some(self.scene.at(now));
            if let Some(pod) = sent.pod {
                let connection = self.scene.connection;
                let _ = self.scene.state.changed(pod, connection, moment);
                self.take();
            }
        }
        self.scene.state.drained(self.scene.connection, moment);
        self.take();
        let due = BEGIN + 1_000_000;
        let connection = self.scene.connection;
        self.scene
            .state
            .check(due, Duration::ZERO, connection, moment);
    }

    fn pass(&mut self, tenths: u32) {
        for _ in 0..tenths {
            self.now += 1;
            self.read();
        }
    }

    /// The watch is open again and sends what the client has not read.
    fn reopen(&mut self) {
        self.sent.clear();
        for number in self.known..self.created.len() {
            let pod = self.pod(number);
            self.send(Some(pod));
        }
        self.scene.open(self.now());
        self.scene.state.connected(self.scene.moment(self.now()));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Create => {
                self.created.push(self.now());
                self.version += 1;
                let pod = self.pod(self.created.len() - 1);
                self.send(Some(pod));
            }
            Step::Bookmark => self.send(None),
            Step::Answer => {
                let (requested_at, version) = (self.now(), self.version);
                self.scene.answer(requested_at, version);
            }
            Step::Pass(tenths) => self.pass(tenths.into()),
            Step::Stall(seconds) => {
                self.now += u32::from(seconds) * 10;
                let now = self.now();
                for sent in &mut self.sent {
                    sent.arrives = if sent.is_delayed {
                        sent.arrives.min(now)
                    } else {
                        now + DELAY
                    };
                    sent.is_delayed = true;
                }
                self.read();
            }
            Step::Break(seconds) => {
                self.scene.state.failed();
                self.scene.connection = Connection::default();
                self.sent.clear();
                self.read();
                self.now += u32::from(seconds) * 10;
                self.reopen();
            }
            Step::List => {
                let moment = self.scene.moment(self.now());
                self.scene.state.list_requested();
                self.scene.state.list_began(Some(self.version), moment);
                for number in 0..self.created.len() {
                    let pod = self.pod(number);
                    self.scene.state.listed(pod, moment);
                }
                self.known = 0;
                let missing = self.scene.state.missing_in_list();
                assert!(missing.is_empty());
                self.scene.state.list_completed(missing, &[], moment);
                self.take();
                self.reopen();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_view_that_is_current_knows_everything_from_before(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
            run.take();
        }
        // In the end it is current again, after `settle` and the lag that events had, and knows every pod.
        run.reopen();
        for _ in 0..200 {
            run.send(None);
            run.pass(10);
        }
        prop_assert_eq!(&run.scene.state.view, &View::Current);
        prop_assert_eq!(run.known, run.created.len());
    }
}

/// Two stalls that are too short to be noticed delay an event by one of them.
#[test]
fn what_a_stall_delayed_has_arrived_before_the_next_one_ends() {
    let mut run = Run::new();
    for step in [
        Step::Pass(1),
        Step::Create,
        Step::Stall(2),
        Step::Stall(2),
        Step::Answer,
    ] {
        run.step(step);
        run.take();
    }
    assert_eq!((run.known, &run.scene.state.view), (1, &View::Current));
}

//! For any history a file that is written change by change has the same content as one that is written at once,
//! also if another ledger is written to it in between.

use proptest::prelude::*;

use super::*;
use crate::kubernetes_resources::ledger_name::LedgerName;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A pod is seen with this label that started this many seconds ago.
    Seen(u8, u8, i64),
    /// A pod is seen that ended this many seconds ago.
    Ended(u8, i64),
    Gone(u8),
    /// The due window is handed out and settled like this.
    HandOut(u8),
    /// A window that is in flight is settled like this.
    Settle(u8),
    Retry,
    /// Another replica delivers up to this many seconds ago.
    Adopt(i64),
    GiveUp,
    Pass(i64),
    /// The process ends, and another one is started.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u8, 0..3_u8, 0..40_i64).prop_map(|(pod, label, ago)| Step::Seen(pod, label, ago)),
        1 => (0..4_u8, 0..20_i64).prop_map(|(pod, ago)| Step::Ended(pod, ago)),
        2 => (0..4_u8).prop_map(Step::Gone),
        4 => any::<u8>().prop_map(Step::HandOut),
        2 => any::<u8>().prop_map(Step::Settle),
        1 => Just(Step::Retry),
        1 => (0..30_i64).prop_map(Step::Adopt),
        1 => Just(Step::GiveUp),
        6 => (1..30_i64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

fn seen_pod(
    pod: u8,
    label: u8,
    start: i64,
    end: Option<i64>,
    now: i64,
) -> Observation<BilledObject> {
    let object = json!({
        "metadata": {"name": format!("pod-{pod}"), "labels": {"l": format!("{label}")}},
    });
    let object: Object = serde_json::from_value(object).unwrap();
    Observation {
        uid: format!("pod-{pod}").into(),
        start: Some(start),
        end,
        content: object.content,
        content_since: None,
        observed_at: now,
        in_scope_since: None,
        times: meterline_ledger::Times::default(),
    }
}

struct Run {
    dir: tempfile::TempDir,
    now: i64,
    file: StateFile,
    ledger: Ledger<BilledObject>,
    in_flight: Vec<meterline_ledger::WindowBatch<BilledObject>>,
    /// Another ledger in the file.
    beside: Option<(StateFile, Ledger<BilledObject>)>,
}

/// Opens the file for pods and, if they are `beside`, for nodes before them.
fn open(path: &Path, beside: bool) -> [Option<(StateFile, Option<Saved>)>; 2] {
    let names = ["node", "pod"].map(|subject| LedgerName::new(subject, None));
    let names = if beside { &names[..] } else { &names[1..] };
    let shared = SharedFile::open(path, names, 0).unwrap();
    let mut opened = names.iter().map(|name| {
        let (file, saved, damage) = StateFile::of(&shared, name, &Reads::All, 0).unwrap();
        assert_eq!(damage, None);
        (file, saved)
    });
    let nodes = beside.then(|| opened.next().unwrap());
    [nodes, opened.next()]
}

impl Run {
    fn new(beside: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [nodes, pods] = open(&dir.path().join("state.sqlite"), beside);
        let (file, _) = pods.unwrap();
        Self {
            beside: nodes.map(|(file, _)| (file, ledger_of(1))),
            dir,
            now: 50,
            file,
            ledger: ledger_of(0),
            in_flight: Vec::new(),
        }
    }

    fn end(&mut self, window_batch: &meterline_ledger::WindowBatch<BilledObject>, how: u8) {
        let settled = match how % 4 {
            0 => DeliveryResult::Delivered,
            1 => DeliveryResult::Failed,
            _ => {
                let refusal = Refusal {
                    cause: "poison".into(),
                    component: "mapping".into(),
                    reason: "no".into(),
                    subject: None,
                    may_pass: how % 4 == 2,
                };
                let pieces = window_batch.pieces.iter().take(usize::from(how / 4 % 4));
                DeliveryResult::Done {
                    at: self.now,
                    undelivered: pieces
                        .map(|it| (it.clone(), Fate::Rejected(refusal.clone())))
                        .collect(),
                }
            }
        };
        self.ledger.settle(window_batch.tag, settled);
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Seen(pod, label, ago) => {
                self.ledger
                    .apply(seen_pod(pod, label, now - ago, None, now));
            }
            Step::Ended(pod, ago) => {
                self.ledger
                    .apply(seen_pod(pod, 0, now - 40, Some(now - ago), now));
            }
            Step::Gone(pod) => self.ledger.deleted(&format!("pod-{pod}"), now),
            Step::HandOut(how) => {
                if let Some(window_batch) = self.ledger.next(now - 3) {
                    if how % 5 == 0 {
                        self.in_flight.push(window_batch);
                    } else {
                        self.end(&window_batch, how);
                    }
                }
            }
            Step::Settle(how) => {
                if let Some(window_batch) = self.in_flight.pop() {
                    self.end(&window_batch, how);
                }
            }
            Step::Retry => drop(self.ledger.retry_rejected()),
            Step::Adopt(ago) => self.ledger.adopt(now - ago),
            Step::GiveUp => drop(self.ledger.give_up(now - 60)),
            Step::Pass(seconds) => self.now += seconds,
            Step::Restart => self.restart(),
        }
    }

    fn write(&mut self) {
        let changes = if self.file.needs_everything() {
            self.ledger.take_everything()
        } else {
            self.ledger.take_changes()
        };
        self.file.write(&changes, &seen(self.now)).unwrap();
        if let Some((file, ledger)) = &mut self.beside {
            let pod = u8::try_from(self.now % 5).unwrap();
            ledger.apply(seen_pod(pod, 0, self.now, None, self.now));
            file.write(&ledger.take_changes(), &seen(self.now)).unwrap();
        }
    }

    fn restart(&mut self) {
        self.write();
        let other = self.dir.path().join("other.sqlite");
        let (other_file, ..) = StateFile::open(&other, "pod", &Reads::All, 0).unwrap();
        let mut before = std::mem::replace(&mut self.file, other_file);
        before.settle().unwrap();
        let kept = before.contents.clone();
        // It must release its lock before the next one takes it.
        drop(before);
        let beside = self.beside.take().map(|(_, ledger)| ledger);
        let [nodes, pods] = open(&self.dir.path().join("state.sqlite"), beside.is_some());
        self.beside = nodes.map(|(file, saved)| (file, restored(saved.unwrap())));
        if let (Some((_, is)), Some(was)) = (&self.beside, beside) {
            assert_eq!(everything(is.clone()), everything(at_once(was)));
        }
        let (file, saved) = pods.unwrap();
        // The same ledger, written at once.
        let everything = self.ledger.take_everything();
        self.file.write(&everything, &seen(self.now)).unwrap();
        let mut other_file = std::mem::replace(&mut self.file, file);
        for table in ["parts", "contents", "window_batches", "groups"] {
            let (one, other) = (count(&mut self.file, table), count(&mut other_file, table));
            assert_eq!(one, other, "{table}");
        }
        drop(other_file);
        let (_, at_once, _) = StateFile::open(&other, "pod", &Reads::All, 0).unwrap();
        std::fs::remove_file(&other).unwrap();
        assert!(
            self.file.contents.is_same(&kept),
            "{:?} {kept:?}",
            self.file.contents
        );
        self.ledger = restored(saved.unwrap());
        let mut at_once = restored(at_once.unwrap());
        assert_eq!(
            format!("{:?}", self.ledger.clone().take_everything()),
            format!("{:?}", at_once.take_everything())
        );
        self.in_flight.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_written_change_by_change_is_what_is_written_at_once(
        steps in prop::collection::vec(step(), 1..60),
        beside in any::<bool>(),
    ) {
        let mut run = Run::new(beside);
        for step in steps {
            run.take(step);
            run.write();
        }
        run.restart();
    }
}

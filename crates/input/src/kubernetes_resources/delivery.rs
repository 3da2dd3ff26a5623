//! Turns the acknowledgement of a window into results of its pieces.

use std::sync::Arc;

use meterline_core::{Outcome, Rejection, Settled};
use meterline_ledger::{DeliveryResult, Fate, Refusal, UnixSeconds, UsageInterval};

use super::object::BilledObject;

/// How many bytes of a reason, and of a subject, are kept.
const LONGEST_TEXT: usize = 1_024;

/// Returns the result of a window batch of these pieces, according to the acknowledgement.
pub(super) fn result(
    pieces: Vec<UsageInterval<BilledObject>>,
    outcomes: Settled,
    at: UnixSeconds,
) -> DeliveryResult<BilledObject> {
    let Settled {
        outcome,
        undelivered,
    } = outcomes;
    if !outcome.is_settled() {
        return DeliveryResult::Failed;
    }
    if undelivered.is_empty() {
        return match fate(&outcome) {
            None => DeliveryResult::Delivered,
            // The outcome of the whole batch is that of each piece.
            Some(fate) => DeliveryResult::Done {
                at,
                undelivered: pieces.into_iter().map(|it| (it, fate.clone())).collect(),
            },
        };
    }
    let undelivered = undelivered
        .iter()
        .filter_map(|(number, outcome)| {
            let piece = pieces.get(usize::try_from(*number).ok()?)?;
            Some((piece.clone(), fate(outcome)?))
        })
        .collect();
    DeliveryResult::Done { at, undelivered }
}

pub(super) fn fate(outcome: &Outcome) -> Option<Fate> {
    match outcome {
        Outcome::Dropped(place) => Some(Fate::Dropped {
            place: Arc::clone(place),
        }),
        Outcome::Rejected(rejection) => Some(Fate::Rejected(refusal(rejection))),
        Outcome::Delivered | Outcome::Failed(_) | Outcome::Lost => None,
    }
}

/// Returns the rejection as it is kept: a long text of a mapping or a sink is shortened.
fn refusal(rejection: &Rejection) -> Refusal {
    Refusal {
        cause: rejection.cause.word().into(),
        component: Arc::clone(&rejection.component),
        reason: shortened(&rejection.reason),
        subject: rejection.subject.as_ref().map(shortened),
        may_pass: rejection.cause.may_pass(),
    }
}

/// Returns the beginning of a text that is too long, with its full length.
fn shortened(text: &Arc<str>) -> Arc<str> {
    match text.get(..text.floor_char_boundary(LONGEST_TEXT)) {
        Some(start) if start.len() < text.len() => {
            format!("{start}… ({} bytes)", text.len()).into()
        }
        _ => Arc::clone(text),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use meterline_core::{Cause, Document};
    use meterline_ledger::{Accounting, Interval, Ledger, Observation};
    use serde_json::json;

    use super::*;

    pub(crate) fn content(namespace: &str, name: &str) -> BilledObject {
        BilledObject::from(Document::from(
            &json!({"metadata": {"name": name, "namespace": namespace}}),
        ))
    }

    /// A ledger in which one pod for each outcome ran from 0 to 10, and was settled with it.
    pub(crate) fn ledger(outcomes: &[Outcome]) -> Ledger<BilledObject> {
        let mut ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
        for number in 0..outcomes.len() {
            ledger.apply(Observation {
                uid: format!("uid-{number:03}").into(),
                start: Some(0),
                end: Some(10),
                content: content(&format!("ns-{number}"), "web"),
                content_since: None,
                observed_at: 10,
                in_scope_since: None,
                times: meterline_ledger::Times::default(),
            });
        }
        let window_batch = ledger.next(10).unwrap();
        let undelivered = (0..)
            .zip(outcomes.iter().cloned())
            .filter(|(_, it)| *it != Outcome::Delivered)
            .collect();
        let outcomes = Settled {
            outcome: Outcome::Delivered,
            undelivered,
        };
        let settled = result(ledger.handed_out(window_batch.tag), outcomes, 12);
        ledger.settle(window_batch.tag, settled);
        ledger
    }

    pub(crate) fn rejected() -> Outcome {
        Outcome::rejected(Cause::Processing, "mapping", "no such field")
    }

    #[test]
    fn an_outcome_becomes_the_fate_of_its_piece() {
        let ledger = ledger(&[Outcome::Delivered, rejected(), Outcome::Dropped("a".into())]);
        let seconds = ledger.seconds(10);
        assert_eq!(
            (seconds.delivered, seconds.rejected, seconds.dropped),
            (10, 10, 10)
        );
        // The outcome of the whole batch is that of each piece.
        let pieces = vec![UsageInterval {
            uid: "u".into(),
            start: 0,
            end: 1,
            content: content("a", "b"),
        }];
        let whole = |outcome| Settled {
            outcome,
            undelivered: Vec::new(),
        };
        let all = result(pieces.clone(), whole(rejected()), 0);
        assert!(matches!(all, DeliveryResult::Done { undelivered, .. } if undelivered.len() == 1));
        let failed = result(pieces, whole(Outcome::Lost), 0);
        assert_eq!(failed, DeliveryResult::Failed);
    }

    #[test]
    fn a_long_reason_is_shortened_with_its_length() {
        let long = "ä".repeat(600) + "end";
        let rejection = Rejection::new(Cause::Refused, "openmeter", long.as_str());
        let kept = refusal(&rejection).reason;
        assert_eq!(*kept, format!("{}… (1203 bytes)", "ä".repeat(512)));
        let short = Rejection::new(Cause::Refused, "openmeter", "no such meter");
        assert_eq!(&*refusal(&short).reason, "no such meter");
    }
}

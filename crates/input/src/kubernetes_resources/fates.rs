//! What became of usage: from the acknowledgement into the ledger, and from there to the metrics, to
//! `/ready` and to the list of what was rejected.

use std::{collections::BTreeMap, sync::Arc};

use meterline_core::{Metrics, Outcome, RejectedItem, RejectedPage, Rejection, Settled};
use meterline_ledger::{
    Content as _, DeliveryResult, Fate, Group, GroupKey, Ledger, OTHER, Refusal, Tally, Unbilled,
    UnixSeconds, UsageInterval,
};

use super::{messages, object::BilledObject, resource_type::ResourceType};

/// So many namespaces are told apart in the metrics: those with most. The rest is [`OTHER`].
const MOST_NAMESPACES: usize = 50;

/// So many bytes of a reason, and of a subject, are kept.
const LONGEST_TEXT: usize = 1_024;

/// How a window batch of these pieces ended, as the acknowledgement says.
pub(super) fn settled(
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
            // Said of the batch as a whole, and so of each piece.
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

fn fate(outcome: &Outcome) -> Option<Fate> {
    match outcome {
        Outcome::Dropped(place) => Some(Fate::Dropped {
            place: Arc::clone(place),
        }),
        Outcome::Rejected(rejection) => Some(Fate::Rejected(refusal(rejection))),
        Outcome::Delivered | Outcome::Failed(_) | Outcome::Lost => None,
    }
}

/// What is kept of a rejection, which a mapping or a sink may have made long.
fn refusal(rejection: &Rejection) -> Refusal {
    Refusal {
        cause: rejection.cause.word().into(),
        component: Arc::clone(&rejection.component),
        reason: shortened(&rejection.reason),
        subject: rejection.subject.as_ref().map(shortened),
        may_pass: rejection.cause.may_pass(),
    }
}

/// The beginning of a text that is too long, which says how much there was.
fn shortened(text: &Arc<str>) -> Arc<str> {
    match text.get(..text.floor_char_boundary(LONGEST_TEXT)) {
        Some(start) if start.len() < text.len() => {
            format!("{start}… ({} bytes)", text.len()).into()
        }
        _ => Arc::clone(text),
    }
}

/// A place in the list, which stays the same whatever comes and goes: a group, and the start of the last
/// of its pieces that was shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    group: GroupKey,
    shown: UnixSeconds,
}

impl Cursor {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parsed = text.rsplit_once('/').and_then(|(group, shown)| {
            Some(Self {
                group: group.parse().ok()?,
                shown: shown.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| {
            format!("`{text}` is not the `next` of a page; leave `after` out to begin at the start")
        })
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.group, self.shown)
    }
}

/// A page of what is rejected.
pub(super) fn page(
    ledger: &Ledger<BilledObject>,
    from: Option<&Cursor>,
    limit: usize,
    kind: ResourceType,
    now: UnixSeconds,
) -> RejectedPage {
    let pieces = ledger.rejected(from.map(|it| &it.group));
    let mut pieces = pieces
        .flat_map(|(key, group)| {
            let pieces = group.pieces.iter();
            pieces.map(move |(start, end)| (key, group, *start, *end))
        })
        .skip_while(|(key, _, start, _)| {
            from.is_some_and(|it| it.group == **key && *start <= it.shown)
        });
    let mut items = Vec::new();
    let mut last = None;
    for (key, group, start, end) in pieces.by_ref().take(limit) {
        items.push(item(group, (start, end), kind, now));
        last = Some((key, start));
    }
    let next = last.filter(|_| pieces.next().is_some());
    RejectedPage {
        items,
        next: next.map(|(group, shown)| {
            let group = group.clone();
            Cursor { group, shown }.to_string()
        }),
        total: ledger.rejected_pieces(),
        total_seconds: ledger.rejected_seconds(),
        not_kept: ledger.stats().rejected_not_kept,
    }
}

fn item(
    group: &Group<BilledObject>,
    (start, end): (UnixSeconds, UnixSeconds),
    kind: ResourceType,
    now: UnixSeconds,
) -> RejectedItem {
    let namespace = group.content.owner();
    RejectedItem {
        uid: Arc::clone(&group.uid),
        about: messages::about(&group.content, kind),
        namespace: (!namespace.is_empty()).then(|| namespace.into()),
        start,
        seconds: end.saturating_sub(start),
        reason: Arc::clone(&group.refusal.reason),
        cause: Arc::clone(&group.refusal.cause),
        component: Arc::clone(&group.refusal.component),
        subject: group.refusal.subject.clone(),
        first_try: group.first_try,
        last_try: group.last_try,
        tries: group.retries.saturating_add(1),
        // One that was asked for is due since ever.
        next_try: group.next_try.map(|at| at.max(now)),
    }
}

/// Shows what became of all seconds, and of the unbilled ones why and whose they are.
pub(super) fn show(
    ledger: &Ledger<BilledObject>,
    metrics: &Metrics,
    label: &Arc<str>,
    now: UnixSeconds,
) {
    let seconds = ledger.seconds(now);
    let fates = [
        ("delivered", seconds.delivered),
        ("rejected", seconds.rejected),
        ("dropped", seconds.dropped),
        ("waiting", seconds.waiting),
        ("unproved", seconds.unproved),
    ];
    let labelled = |(fate, value): (&str, i64)| (vec![Arc::clone(label), fate.into()], value);
    metrics.replace(
        "ledger_seconds_total",
        "Object-seconds that ran, by what became of them. Rejected ones may still be delivered.",
        &["label", "fate"],
        label,
        &fates.map(labelled),
    );
    metrics.replace(
        "ledger_ran_seconds_total",
        "Object-seconds that ran and are for this ledger to bill: the sum over all fates.",
        &["label"],
        label,
        &[(vec![Arc::clone(label)], seconds.ran)],
    );
    let unbilled: Vec<_> = by_largest_namespaces(ledger.unbilled())
        .into_iter()
        .map(|((fate, reason, namespace), seconds)| {
            let labels = vec![Arc::clone(label), word(fate).into(), reason, namespace];
            (labels, seconds)
        })
        .collect();
    metrics.replace(
        "ledger_unbilled_seconds",
        "Object-seconds that are not billed, by fate, reason and namespace (the 50 largest, and other).",
        &["label", "fate", "reason", "namespace"],
        label,
        &unbilled,
    );
}

const fn word(fate: Unbilled) -> &'static str {
    match fate {
        Unbilled::Rejected => "rejected",
        Unbilled::Dropped => "dropped",
        Unbilled::Unproved => "unproved",
    }
}

/// Sums by fate, reason and namespace, where only the namespaces with most have a name.
fn by_largest_namespaces(tallies: Vec<Tally>) -> BTreeMap<(Unbilled, Arc<str>, Arc<str>), i64> {
    let mut by_namespace: BTreeMap<Arc<str>, i64> = BTreeMap::new();
    for tally in &tallies {
        let sum = by_namespace.entry(Arc::clone(&tally.owner)).or_default();
        *sum = sum.saturating_add(tally.seconds);
    }
    let mut largest: Vec<_> = by_namespace.into_iter().collect();
    largest.sort_by(|(a, most), (b, least)| least.cmp(most).then_with(|| a.cmp(b)));
    largest.truncate(MOST_NAMESPACES);
    let named: std::collections::BTreeSet<_> = largest.into_iter().map(|(name, _)| name).collect();
    let mut sums = BTreeMap::new();
    for tally in tallies {
        let owner = if named.contains(&tally.owner) {
            tally.owner
        } else {
            OTHER.into()
        };
        let sum: &mut i64 = sums.entry((tally.fate, tally.reason, owner)).or_default();
        *sum = sum.saturating_add(tally.seconds);
    }
    sums
}

/// What is not billed and why, with an example, in words; blank if all is.
pub(super) fn summary(ledger: &Ledger<BilledObject>, kind: ResourceType) -> String {
    /// So many reasons are named.
    const MOST_REASONS: usize = 5;
    let mut by_reason: BTreeMap<(Unbilled, Arc<str>), i64> = BTreeMap::new();
    for tally in ledger.unbilled() {
        let sum = by_reason.entry((tally.fate, tally.reason)).or_default();
        *sum = sum.saturating_add(tally.seconds);
    }
    let mut reasons: Vec<_> = by_reason.into_iter().collect();
    reasons.sort_by_key(|(_, seconds)| std::cmp::Reverse(*seconds));
    let more = reasons.len().saturating_sub(MOST_REASONS);
    reasons.truncate(MOST_REASONS);
    let mut parts: Vec<_> = reasons
        .into_iter()
        .map(|((fate, reason), seconds)| {
            let example = (fate == Unbilled::Rejected)
                .then(|| {
                    ledger
                        .rejected(None)
                        .find(|(_, it)| it.refusal.cause == reason)
                })
                .flatten()
                .map(|(_, group)| {
                    let about = messages::about(&group.content, kind);
                    format!(", such as {about}: {}", group.refusal.reason)
                });
            let example = example.unwrap_or_default();
            format!(
                "{seconds} object-seconds {} ({reason}){example}",
                word(fate)
            )
        })
        .collect();
    if more > 0 {
        parts.push(format!("and {more} more reasons"));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use meterline_core::{Cause, Document};
    use meterline_ledger::{Accounting, Interval, Observation};
    use serde_json::json;

    use super::*;

    fn content(namespace: &str, name: &str) -> BilledObject {
        BilledObject::from(Document::from(
            &json!({"metadata": {"name": name, "namespace": namespace}}),
        ))
    }

    /// A ledger in which as many pods as there are outcomes ran from 0 to 10, and that ended so.
    fn ledger(outcomes: &[Outcome]) -> Ledger<BilledObject> {
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
        let settled = settled(ledger.handed_out(window_batch.tag), outcomes, 12);
        ledger.settle(window_batch.tag, settled);
        ledger
    }

    fn rejected() -> Outcome {
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
        let what = summary(&ledger, ResourceType::Pod);
        assert_eq!(
            what,
            "10 object-seconds rejected (processing_error), such as pod ns-1/web: no such field; \
             10 object-seconds dropped (a)"
        );
        // What is said of the whole is said of each.
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
        let all = settled(pieces.clone(), whole(rejected()), 0);
        assert!(matches!(all, DeliveryResult::Done { undelivered, .. } if undelivered.len() == 1));
        let failed = settled(pieces, whole(Outcome::Lost), 0);
        assert_eq!(failed, DeliveryResult::Failed);
    }

    #[test]
    fn the_beginning_of_a_long_reason_is_kept_and_it_says_so() {
        let long = "ä".repeat(600) + "end";
        let rejection = Rejection::new(Cause::Refused, "openmeter", long.as_str());
        let kept = refusal(&rejection).reason;
        assert_eq!(*kept, format!("{}… (1203 bytes)", "ä".repeat(512)));
        let short = Rejection::new(Cause::Refused, "openmeter", "no such meter");
        assert_eq!(&*refusal(&short).reason, "no such meter");
    }

    #[test]
    fn pages_hold_everything_once() {
        let ledger = ledger(&vec![rejected(); 25]);
        let mut seen = Vec::new();
        let mut after: Option<Cursor> = None;
        loop {
            let page = page(&ledger, after.as_ref(), 10, ResourceType::Pod, 20);
            assert_eq!((page.total, page.total_seconds), (25, 250));
            assert!(page.items.len() <= 10);
            seen.extend(page.items.into_iter().map(|it| it.uid.to_string()));
            let Some(next) = page.next else { break };
            after = Some(Cursor::parse(&next).unwrap());
        }
        let all: Vec<_> = (0..25).map(|number| format!("uid-{number:03}")).collect();
        assert_eq!(seen, all);
        for wrong in ["", "x", "1/u", "1/u/x", "a/u/1"] {
            assert!(Cursor::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// Of one pod with six pieces two are shown; then pieces go that were shown, and one that was not.
    #[test]
    fn a_page_goes_on_where_the_one_before_stopped_whatever_goes_in_between() {
        let mut ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
        ledger.apply(Observation {
            uid: "u/1".into(),
            start: Some(0),
            end: Some(60),
            content: content("ns", "web"),
            content_since: None,
            observed_at: 0,
            in_scope_since: None,
        });
        let reject = |ledger: &mut Ledger<BilledObject>, tag, wanted: &[i64]| {
            let fate = fate(&rejected()).unwrap();
            let mut pieces = ledger.handed_out(tag);
            pieces.retain(|it| wanted.contains(&it.start));
            let undelivered = pieces.into_iter().map(|it| (it, fate.clone())).collect();
            ledger.settle(
                tag,
                DeliveryResult::Done {
                    at: 70,
                    undelivered,
                },
            );
        };
        while let Some(window_batch) = ledger.next(60) {
            reject(&mut ledger, window_batch.tag, &[0, 10, 20, 30, 40, 50]);
        }
        let shown = |page: &RejectedPage| page.items.iter().map(|it| it.start).collect::<Vec<_>>();
        let first = page(&ledger, None, 2, ResourceType::Pod, 70);
        assert_eq!(shown(&first), [0, 10]);
        ledger.retry_rejected();
        let again = ledger.next(60).unwrap();
        reject(&mut ledger, again.tag, &[10, 20, 40, 50]);
        let after = Cursor::parse(&first.next.unwrap()).unwrap();
        let second = page(&ledger, Some(&after), 2, ResourceType::Pod, 70);
        assert_eq!(shown(&second), [20, 40]);
        let after = Cursor::parse(&second.next.unwrap()).unwrap();
        let third = page(&ledger, Some(&after), 2, ResourceType::Pod, 70);
        assert_eq!((shown(&third), third.next), (vec![50], None));
    }

    #[test]
    fn metrics_name_the_largest_namespaces_and_lose_no_second() {
        let ledger = ledger(&vec![rejected(); 80]);
        let metrics = Metrics::default();
        show(&ledger, &metrics, &"pods".into(), 10);
        let values = metrics.values();
        let unbilled: Vec<_> = values
            .iter()
            .filter(|(name, _)| name.starts_with("ledger_unbilled_seconds{"))
            .collect();
        assert_eq!(unbilled.len(), 51);
        assert_eq!(unbilled.iter().map(|(_, it)| **it).sum::<f64>(), 800.0);
        let other = unbilled.iter().find(|(name, _)| name.contains("\"other\""));
        assert_eq!(*other.unwrap().1, 300.0);
        assert_eq!(values["ledger_ran_seconds_total{label=\"pods\"}"], 800.0);
        let rejected = "ledger_seconds_total{fate=\"rejected\",label=\"pods\"}";
        assert_eq!(values[rejected], 800.0);
    }
}

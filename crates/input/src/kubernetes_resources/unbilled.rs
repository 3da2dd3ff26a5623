//! Reports usage that is not billed, and why, to the metrics and to `/ready`.

use std::{collections::BTreeMap, sync::Arc};

use meterline_core::Metrics;
use meterline_ledger::{Ledger, OTHER, Tally, Unbilled, UnixSeconds};

use super::{messages, object::BilledObject, resource_type::ResourceType};

/// How many namespaces have a name in the metrics: those with most. The rest is [`OTHER`].
const MOST_NAMESPACES: usize = 50;

/// Shows the fate of all seconds, and the reason and the namespace of those that are not billed.
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
        "Object-seconds that ran, by fate. Rejected ones may still be delivered.",
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

/// Sums by fate, reason and namespace. Only the namespaces with most seconds have a name.
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

/// Returns what is not billed and why, with an example, as a text; empty if everything is billed.
pub(super) fn summary(ledger: &Ledger<BilledObject>, kind: ResourceType) -> String {
    /// How many reasons the text names.
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
    use meterline_core::Outcome;

    use super::{
        super::delivery::tests::{ledger, rejected},
        *,
    };

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

    #[test]
    fn the_summary_names_each_reason_with_an_example() {
        let ledger = ledger(&[Outcome::Delivered, rejected(), Outcome::Dropped("a".into())]);
        assert_eq!(
            summary(&ledger, ResourceType::Pod),
            "10 object-seconds rejected (processing_error), such as pod ns-1/web: no such field; \
             10 object-seconds dropped (a)"
        );
    }
}

//! Compares what two states of a pod reserve.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use meterline_core::Node;

use super::{REQUESTS, reserved::Reserved, resources::Section};
use crate::quantity::Quantity;

/// The paths of a pod's status that state what its node granted it.
#[must_use]
pub fn granted() -> Vec<&'static str> {
    let paths = REQUESTS.iter().copied();
    paths.filter(|path| path.starts_with("status.")).collect()
}

type Amounts<'a> = BTreeMap<&'a str, Result<Quantity, String>>;

/// Compares each amount that `one` and `other`, two states of a pod, reserve: `Greater` if at least one amount is
/// larger in `one` and none is smaller. `None` if some are larger and others smaller, or one cannot be read.
#[must_use]
pub fn compare_reserved(one: Node<'_>, other: Node<'_>) -> Option<Ordering> {
    let (one, other) = (Reserved::of(one), Reserved::of(other));
    let mut result = Ordering::Equal;
    for section in [Section::Requests, Section::Limits] {
        let pods = (one.pod_amounts(section), other.pod_amounts(section));
        result = and(result, compare(&pods.0, &pods.1)?)?;
        let (ones, others) = (by_name(&one, section), by_name(&other, section));
        let (none, names) = (Amounts::new(), ones.keys().chain(others.keys()));
        for name in names.collect::<BTreeSet<_>>() {
            let one = ones.get(name).unwrap_or(&none);
            result = and(result, compare(one, others.get(name).unwrap_or(&none))?)?;
        }
    }
    Some(result)
}

/// The amounts of each container, by its name.
fn by_name<'a>(
    reserved: &Reserved<'a>,
    section: Section,
) -> BTreeMap<Option<&'a str>, Amounts<'a>> {
    let containers = reserved.containers().iter();
    containers
        .map(|it| (it.name, it.amounts(section)))
        .collect()
}

fn compare(one: &Amounts<'_>, other: &Amounts<'_>) -> Option<Ordering> {
    let names: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    names.into_iter().try_fold(Ordering::Equal, |result, name| {
        let amount = |of: &Amounts<'_>| match of.get(name) {
            None => Some(None),
            Some(amount) => amount.clone().ok().map(Some),
        };
        and(result, amount(one)?.cmp(&amount(other)?))
    })
}

/// Both results together; `None` if they contradict each other.
fn and(one: Ordering, other: Ordering) -> Option<Ordering> {
    match (one, other) {
        (Ordering::Equal, other) => Some(other),
        (one, Ordering::Equal) => Some(one),
        (one, other) => (one == other).then_some(one),
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::Document;
    use serde_json::{Value, json};

    use super::*;

    fn pod(desired: &Value, status: &Value) -> Document {
        Document::from(&json!({
            "spec": {"containers": [{"name": "a", "resources": {"requests": desired}}]},
            "status": status,
        }))
    }

    fn granted(allocated: &Value, actual: &Value) -> Value {
        json!({"containerStatuses": [{
            "name": "a", "allocatedResources": allocated, "resources": {"requests": actual}}]})
    }

    fn order(one: &Document, other: &Document) -> Option<Ordering> {
        let order = compare_reserved(one.root(), other.root());
        let reverse = compare_reserved(other.root(), one.root());
        assert_eq!(order.map(Ordering::reverse), reverse);
        order
    }

    #[test]
    fn a_status_that_grants_what_the_spec_wants_changes_nothing() {
        let want = json!({"cpu": "1", "memory": "1Gi"});
        let before = pod(&want, &json!({}));
        let same = json!({"cpu": "1000m", "memory": "1024Mi"});
        let after = pod(&want, &granted(&same, &want));
        assert_eq!(order(&after, &before), Some(Ordering::Equal));
        let restarted = json!({"containerStatuses": [{"name": "a", "restartCount": 3}]});
        assert_eq!(
            order(&pod(&want, &restarted), &before),
            Some(Ordering::Equal)
        );
    }

    #[test]
    fn growth_and_reduction_are_told_apart_and_a_mixture_is_neither() {
        let amounts = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let want = amounts("2", "1Gi");
        let with = |now: &Value| pod(&want, &granted(now, now));
        let before = with(&amounts("1", "2Gi"));
        let cases = [
            (amounts("2", "2Gi"), Some(Ordering::Greater)),
            (amounts("1", "1Gi"), Some(Ordering::Less)),
            (amounts("1", "2Gi"), Some(Ordering::Equal)),
            (amounts("2", "1Gi"), None),
        ];
        for (now, expected) in cases {
            assert_eq!(order(&with(&now), &before), expected, "{now}");
        }
        // An amount that cannot be read is not compared.
        assert_eq!(order(&with(&amounts("x", "1Gi")), &before), None);
    }

    #[test]
    fn what_is_granted_to_the_pod_as_a_whole_counts_where_the_pod_asks_for_it() {
        let pod = |spec: &Value, cpu: &str| {
            Document::from(&json!({
                "spec": {"containers": [{"name": "a"}], "resources": spec},
                "status": {"resources": {"requests": {"cpu": cpu}}},
            }))
        };
        let asks = json!({"requests": {"cpu": "2"}});
        let order = |spec| order(&pod(spec, "2"), &pod(spec, "1"));
        assert_eq!(order(&asks), Some(Ordering::Greater));
        assert_eq!(order(&json!({})), Some(Ordering::Equal));
    }
}

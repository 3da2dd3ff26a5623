//! Leaves out values of a document that is too large.

use std::collections::HashSet;

use super::{ARRAY, Builder, Document, Node, OBJECT};
use crate::{Reads, Scalar};

/// How large a document may be. Two parts of it are measured separately, so that a change of one does not
/// affect what is left out of the other.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// Which values belong to the first part, each with all that it contains.
    pub first: &'a Reads,
    /// The most bytes of the first part, and of the rest.
    pub bytes: [usize; 2],
}

impl Document {
    /// Returns the document within `limits`, and how many values were left out. The largest values that are
    /// not `named` are left out until it fits: first single values, then what remains of arrays and objects.
    /// An item of an array becomes null, so that the others keep their positions. What is left out of a part
    /// depends on that part alone, and depends on the order of its values only if their sizes are equal.
    ///
    /// Named values are never left out, so a document that has too many of these stays too large.
    #[must_use]
    pub fn within(&self, limits: Limits<'_>, named: &Reads) -> (Self, usize) {
        let mut document = self.clone();
        let mut sum = 0;
        for is_whole in [false, true] {
            let left_out = document.excess(limits, named, is_whole);
            if left_out.is_empty() {
                continue;
            }
            sum += left_out.len();
            let mut leave_out = |at, _: &Candidate<'_>| left_out.contains(&at);
            let mut copy = Copy::new(limits.first, is_whole, &mut leave_out);
            copy.root(document.root(), named);
            document = copy.builder.finish();
        }
        (document, sum)
    }

    /// The numbers of the candidates that have to be left out.
    fn excess(&self, limits: Limits<'_>, named: &Reads, is_whole: bool) -> HashSet<usize> {
        let [first, rest] = limits.bytes;
        // Nearly all documents fit, and need no scan.
        if self.size() <= first.min(rest) {
            return HashSet::new();
        }
        let mut candidates = Vec::new();
        let mut collect = |at: usize, candidate: &Candidate<'_>| {
            // Leaving out a null saves nothing.
            if candidate.size() > 0 {
                candidates.push((at, candidate.is_first, candidate.size()));
            }
            false
        };
        let mut copy = Copy::new(limits.first, is_whole, &mut collect);
        copy.root(self.root(), named);
        let size_of_first = copy.size_of_first;
        let sizes = [size_of_first, self.size().saturating_sub(size_of_first)];
        // Of equal sizes the last is left out first: a mapping takes the first ones of a prefix.
        candidates.sort_by_key(|(at, _, size)| std::cmp::Reverse((*size, *at)));
        let mut left_out = HashSet::new();
        for (is_first, (size, most)) in [true, false]
            .into_iter()
            .zip(sizes.into_iter().zip(limits.bytes))
        {
            let mut excess = size.saturating_sub(most);
            for (at, _, size) in candidates.iter().filter(|(_, it, _)| *it == is_first) {
                if excess == 0 {
                    break;
                }
                excess = excess.saturating_sub(*size);
                left_out.insert(*at);
            }
        }
        left_out
    }
}

/// A value that may be left out.
struct Candidate<'a> {
    /// Its key in an object.
    key: Option<Node<'a>>,
    value: Node<'a>,
    is_first: bool,
}

impl Candidate<'_> {
    /// How many bytes leaving it out saves.
    fn size(&self) -> usize {
        match self.key {
            Some(key) => key.size() + self.value.size(),
            // Null replaces it.
            None => self.value.size().saturating_sub(1),
        }
    }
}

/// Copies a value except what is left out.
struct Copy<'a> {
    builder: Builder,
    first: &'a Reads,
    /// Whether arrays and objects in which nothing is named are left out as a whole.
    is_whole: bool,
    leave_out: &'a mut dyn FnMut(usize, &Candidate<'_>) -> bool,
    /// How many candidates were seen.
    seen: usize,
    size_of_first: usize,
}

/// The position of a value in a document.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// What of it is named; `None` if nothing is, so that it may be left out.
    named: Option<&'a Reads>,
    /// Which values below it belong to the first part.
    first: Option<&'a Reads>,
    is_first: bool,
}

impl<'a> Place<'a> {
    /// The place of a part of this one.
    fn below(self, part: impl Fn(&'a Reads) -> Option<&'a Reads>) -> Self {
        let first = self.first.and_then(&part);
        Self {
            named: self.named.and_then(part),
            first,
            is_first: self.is_first || first.is_some_and(Reads::is_all),
        }
    }
}

impl<'a> Copy<'a> {
    fn new(
        first: &'a Reads,
        is_whole: bool,
        leave_out: &'a mut dyn FnMut(usize, &Candidate<'_>) -> bool,
    ) -> Self {
        Self {
            builder: Builder::default(),
            first,
            is_whole,
            leave_out,
            seen: 0,
            size_of_first: 0,
        }
    }

    fn root(&mut self, root: Node<'_>, named: &Reads) {
        let first = self.first;
        let place = Place {
            named: Some(named),
            first: Some(first),
            is_first: first.is_all(),
        };
        if place.is_first {
            self.size_of_first = root.size();
        }
        self.value(root, place);
    }

    fn value(&mut self, node: Node<'_>, place: Place<'_>) {
        let is_container = node.is_object() || node.is_array();
        if !is_container || place.named.is_some_and(Reads::is_all) {
            self.builder.push_raw(node);
        } else if node.is_object() {
            let open = self.builder.begin(OBJECT);
            let mut entries = node.entries();
            while let Some((key, value)) = entries.next_node() {
                // Only a `Builder` writes keys, and it writes text.
                let name = key.as_str().unwrap_or_default();
                self.part(Some(key), value, place, |reads| reads.field(name));
            }
            self.builder.end(open);
        } else {
            let open = self.builder.begin(ARRAY);
            for item in node.items() {
                self.part(None, item, place, Reads::item);
            }
            self.builder.end(open);
        }
    }

    fn part<'p>(
        &mut self,
        key: Option<Node<'_>>,
        value: Node<'_>,
        above: Place<'p>,
        part: impl Fn(&'p Reads) -> Option<&'p Reads>,
    ) {
        let place = above.below(part);
        if place.is_first && !above.is_first {
            let key = key.map_or(0, Node::size);
            self.size_of_first += key + value.size();
        }
        let is_container = value.is_object() || value.is_array();
        let is_leaf = !is_container || value.body().is_empty();
        if place.named.is_none() && (is_leaf || self.is_whole) {
            let candidate = Candidate {
                key,
                value,
                is_first: place.is_first,
            };
            let at = self.seen;
            self.seen += 1;
            if (self.leave_out)(at, &candidate) {
                if key.is_none() {
                    self.builder.scalar(Scalar::Null);
                }
                return;
            }
            // It contains no other candidate.
            key.into_iter().for_each(|key| self.builder.push_raw(key));
            self.builder.push_raw(value);
            return;
        }
        key.into_iter().for_each(|key| self.builder.push_raw(key));
        self.value(value, place);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn within(value: &Value, named: &[&str], most: usize) -> (Value, usize) {
        let limits = Limits {
            first: &Reads::of(&["spec"]),
            bytes: [most, most],
        };
        let (document, count) = Document::from(value).within(limits, &Reads::of(named));
        (document.root().to_value(), count)
    }

    fn text(length: usize) -> String {
        "x".repeat(length)
    }

    #[test]
    fn a_document_that_fits_is_not_changed() {
        let value = json!({"spec": {"a": text(50), "b": [1, 2]}, "x": text(50)});
        assert_eq!(within(&value, &[], 100), (value, 0));
    }

    #[test]
    fn the_largest_values_are_left_out_first_and_no_more_than_necessary() {
        let spec = json!({"a": text(40), "b": text(60), "c": {"d": text(50)}, "e": 1});
        let value = json!({ "spec": spec });
        let without_b = json!({"spec": {"a": text(40), "c": {"d": text(50)}, "e": 1}});
        assert_eq!(within(&value, &[], 150), (without_b, 1));
        let without_d = json!({"spec": {"a": text(40), "c": {}, "e": 1}});
        assert_eq!(within(&value, &[], 100), (without_d, 2));
    }

    #[test]
    fn named_values_are_kept_whatever_their_size() {
        let spec = json!({
            "a": text(300), "b": text(60), "list": [{"n": text(100), "x": text(100)}, {"x": 1}],
        });
        let named = ["spec.a", "spec.list.*.n"];
        let kept = json!({"spec": {"a": text(300), "list": [{"n": text(100)}, {}]}});
        assert_eq!(within(&json!({ "spec": spec }), &named, 50), (kept, 3));
    }

    #[test]
    fn an_item_of_an_array_becomes_null() {
        let value = json!({"spec": {"a": [1, text(100), 2]}});
        let kept = json!({"spec": {"a": [1, null, 2]}});
        assert_eq!(within(&value, &[], 60), (kept, 1));
    }

    #[test]
    fn empty_containers_are_left_out_too() {
        let empty = vec![json!({}); 1_000];
        let value = json!({"spec": {"a": empty, "b": 1, "c": [{}]}});
        let (kept, count) = within(&value, &["spec.b", "spec.c.*~"], 100);
        assert_eq!(kept, json!({"spec": {"b": 1, "c": [{}]}}));
        assert_eq!(count, 1_000 + 1);
    }

    #[test]
    fn each_part_is_measured_separately() {
        let value =
            |status: usize| json!({"spec": {"a": text(90), "b": text(80)}, "status": text(status)});
        let of = |status| within(&value(status), &[], 100);
        assert_eq!(
            of(10),
            (json!({"spec": {"b": text(80)}, "status": text(10)}), 1)
        );
        assert_eq!(of(500), (json!({"spec": {"b": text(80)}}), 2));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[a-c]{0,30}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{1,2}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Named values are unchanged. The result fits, or holds named values only. The parts do not depend on
        /// each other. Cutting again changes nothing.
        #[test]
        fn any_document_is_cut_to_its_limits_or_to_what_is_named(
            spec in value(), other in value(), others in value(), most in 12_usize..120,
        ) {
            let of = |rest: &Value| json!({"spec": spec, "a": rest});
            let reads = ["spec.a", "spec.b.*.c", "a.b", "a.*~"];
            let named = Reads::of(&reads);
            let document = Document::from(&of(&other));
            let limits = Limits { first: &Reads::of(&["spec"]), bytes: [most, most] };
            let (cut, count) = document.within(limits, &named);
            prop_assert_eq!(count == 0, cut == document);
            let named_of = |it: &Document| it.project(&named);
            prop_assert_eq!(named_of(&cut), named_of(&document));
            if cut.size() > 2 * most {
                let (nothing, _) = document.within(Limits { bytes: [0, 0], ..limits }, &named);
                let size = |it: &Document, key| it.root().get(key).map_or(0, Node::size);
                let is_least = |key| size(&cut, key) == size(&nothing, key);
                prop_assert!(is_least("spec") || is_least("a"));
            }
            prop_assert_eq!(cut.within(limits, &named), (cut.clone(), 0));
            let (beside, _) = Document::from(&of(&others)).within(limits, &named);
            let spec = |it: &Document| it.root().get("spec").map(|it| it.raw().to_vec());
            prop_assert_eq!(spec(&cut), spec(&beside));
        }
    }
}

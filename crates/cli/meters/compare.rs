//! Compares the meters of the catalogue with those of a server.

use std::collections::BTreeMap;

use super::definition::{Definition, versioned};

/// How a server has a meter of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Missing,
    Equal,
    /// It differs in fields that can be changed.
    Differs,
    /// It differs in fields that are final, so a meter of another name is needed.
    Conflicts {
        /// Such a name: one that is free, or that of a meter that equals the catalogue's.
        name: String,
        /// Whether the server has it already.
        exists: bool,
    },
}

/// A field of a meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    EventType,
    Aggregation,
    ValueProperty,
    Name,
    /// The group-by of this name.
    GroupBy(String),
}

impl Field {
    /// Whether a server never changes it.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::EventType | Self::Aggregation | Self::ValueProperty => true,
            Self::Name | Self::GroupBy(_) => false,
        }
    }
}

/// A field with different values; `None`: it has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) field: Field,
    pub(super) server: Option<String>,
    pub(super) catalogue: Option<String>,
}

/// A meter of the catalogue, and how a server has it.
#[derive(Debug)]
pub(super) struct Compared {
    pub(super) slug: String,
    pub(super) state: State,
    pub(super) differences: Vec<Difference>,
}

/// Compares each meter with those that the server lists.
pub(super) fn compare(catalogue: &[Definition], server: &[Definition]) -> Vec<Compared> {
    let server: BTreeMap<_, _> = server.iter().map(|it| (it.slug.as_str(), it)).collect();
    let compared = catalogue.iter().map(|wanted| {
        let found = server.get(wanted.slug.as_str());
        let differences = found.map_or_else(Vec::new, |found| differences(wanted, found));
        let state = match found {
            None => State::Missing,
            Some(_) if differences.is_empty() => State::Equal,
            Some(_) if differences.iter().any(|it| it.field.is_final()) => {
                other_name(wanted, catalogue, &server)
            }
            Some(_) => State::Differs,
        };
        Compared {
            slug: wanted.slug.clone(),
            state,
            differences,
        }
    });
    compared.collect()
}

/// The fields in which a server's meter differs. A group-by that only the server has changes none of
/// the catalogue's results, so it is no difference.
fn differences(wanted: &Definition, found: &Definition) -> Vec<Difference> {
    let text = |value: &str| Some(value.to_owned()).filter(|it| !it.is_empty());
    let fields = [
        (
            Field::EventType,
            text(&found.event_type),
            text(&wanted.event_type),
        ),
        (
            Field::Aggregation,
            text(&found.aggregation),
            text(&wanted.aggregation),
        ),
        (
            Field::ValueProperty,
            found.value_property.clone(),
            wanted.value_property.clone(),
        ),
        (Field::Name, text(&found.name), text(&wanted.name)),
    ];
    let group_bys = wanted.group_by.iter().map(|(name, path)| {
        let theirs = found.group_by.get(name).cloned();
        (Field::GroupBy(name.clone()), theirs, Some(path.clone()))
    });
    let fields = fields.into_iter().chain(group_bys);
    fields
        .filter(|(_, server, catalogue)| server != catalogue)
        .map(|(field, server, catalogue)| Difference {
            field,
            server,
            catalogue,
        })
        .collect()
}

/// Finds another name for a meter whose own is taken.
fn other_name(
    wanted: &Definition,
    catalogue: &[Definition],
    server: &BTreeMap<&str, &Definition>,
) -> State {
    let mut number = 2_usize;
    // The names that are taken are finite, so this ends.
    loop {
        let name = versioned(&wanted.slug, number);
        let in_catalogue = catalogue.iter().any(|it| it.slug == name);
        let taken = server.get(name.as_str());
        let equal = taken.is_some_and(|it| {
            let differences = differences(wanted, it);
            !differences.iter().any(|it| it.field.is_final())
        });
        if !in_catalogue && (taken.is_none() || equal) {
            let exists = equal;
            return State::Conflicts { name, exists };
        }
        number = number.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(slug: &str) -> Definition {
        Definition {
            slug: slug.to_owned(),
            name: "A".to_owned(),
            event_type: "t".to_owned(),
            aggregation: "SUM".to_owned(),
            value_property: Some("$.v".to_owned()),
            group_by: BTreeMap::from([("g".to_owned(), "$.g".to_owned())]),
        }
    }

    fn with(slug: &str, change: impl FnOnce(&mut Definition)) -> Definition {
        let mut meter = meter(slug);
        change(&mut meter);
        meter
    }

    /// The state of the meter `a` and the fields that differ.
    fn state(server: &[Definition]) -> (State, Vec<Field>) {
        let mut compared = compare(&[meter("a")], server);
        let only = compared.remove(0);
        let fields = only.differences.into_iter().map(|it| it.field).collect();
        (only.state, fields)
    }

    #[test]
    fn a_meter_is_missing_or_equal() {
        assert_eq!(state(&[]), (State::Missing, vec![]));
        assert_eq!(state(&[meter("b")]), (State::Missing, vec![]));
        assert_eq!(state(&[meter("b"), meter("a")]), (State::Equal, vec![]));
        let more = with("a", |it| {
            it.group_by.insert("plan".to_owned(), "$.plan".to_owned());
        });
        assert_eq!(state(&[more]), (State::Equal, vec![]));
    }

    #[test]
    fn name_and_group_bys_can_be_changed() {
        let name = with("a", |it| it.name.clear());
        assert_eq!(state(&[name]), (State::Differs, vec![Field::Name]));
        let other = with("a", |it| {
            it.group_by.insert("g".to_owned(), "$.h".to_owned());
        });
        let none = with("a", |it| it.group_by.clear());
        for meter in [other, none] {
            let fields = vec![Field::GroupBy("g".to_owned())];
            assert_eq!(state(&[meter]), (State::Differs, fields));
        }
    }

    #[test]
    fn a_final_field_that_differs_needs_a_name_that_is_free() {
        let conflicts = |name: &str, exists| State::Conflicts {
            name: name.to_owned(),
            exists,
        };
        for (meter, field) in [
            (
                with("a", |it| it.event_type = "u".to_owned()),
                Field::EventType,
            ),
            (
                with("a", |it| it.aggregation = "MAX".to_owned()),
                Field::Aggregation,
            ),
            (
                with("a", |it| it.value_property = None),
                Field::ValueProperty,
            ),
        ] {
            assert_eq!(state(&[meter]), (conflicts("a_v2", false), vec![field]));
        }
        let max = |slug: &str| with(slug, |it| it.aggregation = "MAX".to_owned());
        let taken = [max("a"), max("a_v2")];
        assert_eq!(state(&taken).0, conflicts("a_v3", false));
        let made = [max("a"), max("a_v2"), meter("a_v3")];
        assert_eq!(state(&made).0, conflicts("a_v3", true));
        let compared = compare(&[meter("a"), meter("a_v2")], &[max("a")]);
        assert_eq!(compared[0].state, conflicts("a_v3", false));
    }
}

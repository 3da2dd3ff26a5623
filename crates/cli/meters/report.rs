//! What a comparison tells people and programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::compare::{Compared, Difference, Field, State};

/// The most characters of a server's value that are shown.
const SHOWN: usize = 100;

/// The result of a comparison.
pub(super) struct Report<'a> {
    /// The server's URL, without credentials.
    pub(super) url: &'a str,
    pub(super) compared: &'a [Compared],
    /// How many other meters the server has.
    pub(super) others: usize,
    /// Whether to say how to create what is missing.
    pub(super) advises_apply: bool,
}

impl Report<'_> {
    fn count(&self, word: &str) -> usize {
        let states = self.compared.iter().map(|it| word_of(&it.state));
        states.filter(|it| *it == word).count()
    }

    /// As a table, with what differs below each meter.
    pub(super) fn table(&self) -> String {
        let slugs = self.compared.iter().map(|it| it.slug.len());
        let width = slugs.max().unwrap_or_default().max("meter".len());
        let mut out = format!("{:<width$}  state\n{}\n", "meter", "-".repeat(width + 11));
        for compared in self.compared {
            let state = word_of(&compared.state);
            line(&mut out, &format!("{:<width$}  {state}", compared.slug));
            for difference in &compared.differences {
                line(&mut out, &format!("  {}", sentence(difference)));
            }
            if let State::Conflicts { name, exists } = &compared.state {
                let why = if *exists {
                    "the server has the same meter under another name, use"
                } else {
                    "a server never changes this; create the meter under a name that is free, with"
                };
                line(
                    &mut out,
                    &format!("  {why} --rename {}={name}", compared.slug),
                );
            }
        }
        out.push('\n');
        out.push_str(&self.summary());
        out
    }

    fn summary(&self) -> String {
        let words = [
            ("equal", "equal"),
            ("missing", "missing"),
            ("differs", "different"),
            ("conflicts", "in conflict"),
        ];
        let counts = words.map(|(state, word)| (self.count(state), word));
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<_> = counts
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        let others = match self.others {
            0 => String::new(),
            1 => "; the server has 1 other meter".to_owned(),
            many => format!("; the server has {many} other meters"),
        };
        let mut out = format!("{}: {}{others}\n", self.url, counts.join(", "));
        if self.advises_apply && self.count("missing") > 0 {
            line(
                &mut out,
                "`meterline meters apply` creates what is missing.",
            );
        }
        if self.count("differs") > 0 {
            line(
                &mut out,
                "Change names and group-bys in the server's interface or API; no meter that exists is changed here.",
            );
        }
        out
    }

    /// As one JSON object.
    pub(super) fn json(&self) -> Value {
        let meters: Vec<_> = self.compared.iter().map(meter).collect();
        json!({
            "url": self.url,
            "meters": meters,
            "other_meters": self.others,
        })
    }
}

fn line(out: &mut String, text: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{text}");
}

fn word_of(state: &State) -> &'static str {
    match state {
        State::Missing => "missing",
        State::Equal => "equal",
        State::Differs => "differs",
        State::Conflicts { .. } => "conflicts",
    }
}

fn sentence(difference: &Difference) -> String {
    let field = match &difference.field {
        Field::EventType => "event type".to_owned(),
        Field::Aggregation => "aggregation".to_owned(),
        Field::ValueProperty => "value property".to_owned(),
        Field::Name => "name".to_owned(),
        Field::GroupBy(name) => format!("group-by {name}"),
    };
    let [server, catalogue] = [&difference.server, &difference.catalogue].map(value);
    format!("{field} is {server}, should be {catalogue}")
}

/// A value in quotes, with control characters escaped: the server decides what it contains.
fn value(value: &Option<String>) -> String {
    let Some(value) = value else {
        return "none".to_owned();
    };
    let short: String = value.chars().take(SHOWN).collect();
    let cut = if short.len() < value.len() { "…" } else { "" };
    format!("{short:?}{cut}")
}

fn meter(compared: &Compared) -> Value {
    let differences: Vec<_> = compared.differences.iter().map(difference).collect();
    let mut meter = json!({
        "slug": compared.slug,
        "state": word_of(&compared.state),
        "differences": differences,
    });
    if let (State::Conflicts { name, exists }, Some(meter)) =
        (&compared.state, meter.as_object_mut())
    {
        let rename = json!({"slug": name, "exists": exists});
        meter.insert("rename".to_owned(), rename);
    }
    meter
}

fn difference(difference: &Difference) -> Value {
    let field = match &difference.field {
        Field::EventType => "eventType".to_owned(),
        Field::Aggregation => "aggregation".to_owned(),
        Field::ValueProperty => "valueProperty".to_owned(),
        Field::Name => "name".to_owned(),
        Field::GroupBy(name) => format!("groupBy.{name}"),
    };
    json!({
        "field": field,
        "server": difference.server,
        "catalogue": difference.catalogue,
        "final": difference.field.is_final(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared() -> Vec<Compared> {
        let of = |slug: &str, state, differences| Compared {
            slug: slug.to_owned(),
            state,
            differences,
        };
        let difference = |field, server: Option<&str>, catalogue: Option<&str>| Difference {
            field,
            server: server.map(str::to_owned),
            catalogue: catalogue.map(str::to_owned),
        };
        let conflicts = |name: &str, exists| State::Conflicts {
            name: name.to_owned(),
            exists,
        };
        let escape = format!("\u{1b}[31mred\n{}", "x".repeat(200));
        vec![
            of("pod_execution_time", State::Equal, vec![]),
            of("meterline_events", State::Missing, vec![]),
            of(
                "named",
                State::Differs,
                vec![
                    difference(Field::Name, Some(&escape), Some("Named")),
                    difference(Field::GroupBy("g".to_owned()), None, Some("$.g")),
                ],
            ),
            of(
                "taken",
                conflicts("taken_v2", false),
                vec![
                    difference(Field::Aggregation, Some("MAX"), Some("COUNT")),
                    difference(Field::ValueProperty, Some("$.v"), None),
                ],
            ),
            of(
                "moved",
                conflicts("moved_v3", true),
                vec![difference(Field::EventType, Some("t"), Some("u"))],
            ),
        ]
    }

    #[test]
    fn the_table_names_each_difference_and_its_remedy() {
        let compared = compared();
        let report = |compared, others| Report {
            url: "https://openmeter.cloud/api/v1/meters",
            compared,
            others,
            advises_apply: true,
        };
        insta::assert_snapshot!(report(compared.as_slice(), 2).table());
        let equal = compared.get(..1).unwrap();
        insta::assert_snapshot!(report(equal, 0).table());
    }

    #[test]
    fn the_json_has_the_state_of_each_meter() {
        let compared = compared();
        let report = Report {
            url: "https://openmeter.cloud/api/v1/meters",
            compared: compared.get(3..4).unwrap(),
            others: 1,
            advises_apply: true,
        };
        let text = serde_json::to_string_pretty(&report.json()).unwrap();
        insta::assert_snapshot!(text);
    }
}

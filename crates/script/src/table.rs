//! Tables that operators maintain, such as which customer a namespace belongs to.
//!
//! A table is a file: CSV whose first column is the key, or a JSON or YAML object. A key may contain `*`, which stands
//! for any text.

use std::{collections::HashMap, fmt};

use meterline_core::{Document, Node};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use crate::{blank, wildcard};

/// The most bytes of a file.
pub const MOST_BYTES: usize = 8 << 20;
/// The most keys with `*`: each is compared when no key is equal.
const MOST_PATTERNS: usize = 1_000;
/// The most bytes of one value: it is kept with each object that has it.
const MOST_VALUE_BYTES: usize = 4 << 10;

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    /// Comma-separated values with a header. The value is the text of the second column, or, with more than two
    /// columns, an object with a field for each column but the first.
    Csv,
    /// A JSON object.
    Json,
    /// A YAML object.
    Yaml,
}

impl TableFormat {
    /// Returns the format by the ending of a path.
    ///
    /// # Errors
    /// If it is none of the known ones.
    pub fn of(path: &str) -> Result<Self, String> {
        let ending = path.rsplit_once('.').map(|(_, ending)| ending);
        match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Ok(Self::Csv),
            Some("json") => Ok(Self::Json),
            Some("yaml" | "yml") => Ok(Self::Yaml),
            _ => Err(format!(
                "`{path}` is no table: its name has to end in .csv, .json, .yaml or .yml"
            )),
        }
    }
}

/// The values of a table by their keys.
#[derive(Debug, Default, PartialEq)]
pub struct Table {
    exact: HashMap<Box<str>, Document>,
    /// Keys with `*`, the one that has most other characters first.
    patterns: Vec<(Box<str>, Document)>,
}

impl Table {
    /// Parses a file.
    ///
    /// # Errors
    /// The error names the place and the cause.
    pub fn parse(format: TableFormat, text: &str) -> Result<Self, String> {
        let rows = match format {
            TableFormat::Csv => csv_rows(text)?,
            TableFormat::Json => serde_json::from_str(text).map_err(|it| it.to_string())?,
            TableFormat::Yaml => {
                let rows = serde_saphyr::from_str(text);
                rows.map_err(|it| first_line(&it.to_string()))?
            }
        };
        Self::of(rows)
    }

    fn of(rows: Rows) -> Result<Self, String> {
        let mut table = Self::default();
        for (key, value) in rows.0 {
            let Some(key) = blank::trimmed(&key) else {
                return Err("a key is blank".to_owned());
            };
            let document = Document::from(&value);
            if document.size() > MOST_VALUE_BYTES {
                return Err(format!(
                    "the value of `{key}` has {} bytes; at most {MOST_VALUE_BYTES} are kept with each object",
                    document.size()
                ));
            }
            if key.contains('*') {
                table.patterns.push((key.into(), document));
            } else if table.exact.insert(key.into(), document).is_some() {
                return Err(format!("the key `{key}` occurs twice"));
            }
        }
        if table.patterns.len() > MOST_PATTERNS {
            return Err(format!(
                "{} keys contain `*`; at most {MOST_PATTERNS} may",
                table.patterns.len()
            ));
        }
        let literal = |pattern: &str| pattern.chars().filter(|it| *it != '*').count();
        table.patterns.sort_by(|(one, _), (other, _)| {
            let by_literal = literal(other).cmp(&literal(one));
            by_literal.then_with(|| one.cmp(other))
        });
        let mut pairs = table.patterns.windows(2);
        match pairs.find(|pair| matches!(pair, [(one, _), (other, _)] if one == other)) {
            Some([(key, _), ..]) => Err(format!("the key `{key}` occurs twice")),
            _ => Ok(table),
        }
    }

    /// Returns the value of a key: of the equal one, or else of the matching key with `*` that has most other
    /// characters (of two such keys, the first by the alphabet).
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Node<'_>> {
        let key = blank::trimmed(key)?;
        let pattern = || {
            let mut patterns = self.patterns.iter();
            patterns.find(|(pattern, _)| wildcard::matches(pattern, key))
        };
        let found = self.exact.get(key);
        let found = found.or_else(|| pattern().map(|(_, value)| value));
        found.map(Document::root)
    }

    /// Returns the table with these values for these keys, in place of its own.
    #[must_use]
    pub fn overlaid(&self, values: HashMap<Box<str>, Document>) -> Self {
        let mut exact = self.exact.clone();
        exact.extend(values);
        Self {
            exact,
            patterns: self.patterns.clone(),
        }
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len().saturating_add(self.patterns.len())
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The keys of a file with their values, in its order.
#[derive(Default)]
struct Rows(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RowsVisitor)
    }
}

struct RowsVisitor;

impl<'de> Visitor<'de> for RowsVisitor {
    type Value = Rows;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object whose keys are the keys of the table")
    }

    fn visit_unit<E>(self) -> Result<Rows, E> {
        Ok(Rows::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rows, A::Error> {
        let mut rows = Rows::default();
        while let Some(row) = map.next_entry()? {
            rows.0.push(row);
        }
        Ok(rows)
    }
}

fn csv_rows(text: &str) -> Result<Rows, String> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(text.as_bytes());
    let columns = reader.headers().map_err(|it| it.to_string())?.clone();
    if columns.len() < 2 {
        return Err(
            "the first line has to name the columns: the key, and at least one more".to_owned(),
        );
    }
    let mut rows = Rows::default();
    for record in reader.records() {
        let record = record.map_err(|it| it.to_string())?;
        let mut fields = record.iter();
        let key = fields.next().unwrap_or_default();
        let value = if columns.len() == 2 {
            fields.next().unwrap_or_default().into()
        } else {
            let fields = columns.iter().skip(1).zip(fields);
            let fields = fields.map(|(name, value)| (name.to_owned(), Value::from(value)));
            fields.collect()
        };
        rows.0.push((key.to_owned(), value));
    }
    Ok(rows)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn get(table: &Table, key: &str) -> Value {
        table.get(key).map_or(Value::Null, Node::to_value)
    }

    #[test]
    fn the_three_formats_have_the_same_values() {
        let csv = "namespace,customer\nteam-a,acme\n\"team-b-*\", globex \n# a comment\n*,\n";
        let json = r#"{"team-a": "acme", "team-b-*": "globex", "*": ""}"#;
        let yaml = "team-a: acme\nteam-b-*: globex\n'*': ''\n";
        let csv = Table::parse(TableFormat::Csv, csv).unwrap();
        assert_eq!(csv, Table::parse(TableFormat::Json, json).unwrap());
        assert_eq!(csv, Table::parse(TableFormat::Yaml, yaml).unwrap());
        assert_eq!(csv.len(), 3);
        for (key, value) in [
            ("team-a", "acme"),
            (" team-a ", "acme"),
            ("team-b-1", "globex"),
            ("team-c", ""),
        ] {
            assert_eq!(get(&csv, key), json!(value), "{key}");
        }
        assert_eq!(get(&csv, " "), json!(null));
    }

    #[test]
    fn more_columns_are_an_object() {
        let table = "namespace,subject,tier\na,acme,gold\nb,globex,\n";
        let table = Table::parse(TableFormat::Csv, table).unwrap();
        assert_eq!(get(&table, "a"), json!({"subject": "acme", "tier": "gold"}));
        assert_eq!(get(&table, "b"), json!({"subject": "globex", "tier": ""}));
        assert_eq!(get(&table, "c"), json!(null));
    }

    #[test]
    fn the_key_that_says_most_counts() {
        let table = json!({"*": 1, "team-*": 2, "team-*-prod": 3, "*-x-prod": 4, "team-x-prod": 5})
            .to_string();
        let table = Table::parse(TableFormat::Json, &table).unwrap();
        for (key, value) in [
            ("other", 1),
            ("team-a", 2),
            ("team-a-prod", 3),
            ("your-x-prod", 4),
            ("team-x-prod", 5),
        ] {
            assert_eq!(get(&table, key), json!(value), "{key}");
        }
    }

    #[test]
    fn numbers_and_nested_values_are_kept_as_they_are() {
        let yaml = "a: {price: 0.10, codes: [1, 2]}\n";
        let table = Table::parse(TableFormat::Yaml, yaml).unwrap();
        assert_eq!(get(&table, "a"), json!({"price": 0.10, "codes": [1, 2]}));
        for empty in ["", "{}", "# nothing\n"] {
            assert!(Table::parse(TableFormat::Yaml, empty).unwrap().is_empty());
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "x".repeat(5_000);
        let many: Map<_, _> = (0..1_001).map(|it| (format!("{it}*"), json!(1))).collect();
        for (format, text, error) in [
            (TableFormat::Csv, "a\n1\n", "name the columns"),
            (TableFormat::Csv, "a,b\n1\n", "line: 2"),
            (
                TableFormat::Csv,
                "a,b\n1,2\n1,3\n",
                "the key `1` occurs twice",
            ),
            (TableFormat::Csv, "a,b\n ,2\n", "a key is blank"),
            (TableFormat::Json, "{", "line 1"),
            (TableFormat::Json, "[]", "an object"),
            (TableFormat::Json, r#"{"a": 1, "a": 2}"#, "`a` occurs twice"),
            (
                TableFormat::Json,
                r#"{"a*": 1, " a*": 2}"#,
                "`a*` occurs twice",
            ),
            (TableFormat::Yaml, "a: [", "line 1"),
            (
                TableFormat::Json,
                &json!({"a": long}).to_string(),
                "the value of `a` has 50",
            ),
            (
                TableFormat::Json,
                &json!(many).to_string(),
                "1001 keys contain `*`",
            ),
        ] {
            let found = Table::parse(format, text).unwrap_err();
            assert!(found.contains(error), "{text:.40}: {found}");
        }
        assert!(TableFormat::of("a/customers").unwrap_err().contains(".csv"));
        assert_eq!(TableFormat::of("a.d/c.YML"), Ok(TableFormat::Yaml));
    }
}

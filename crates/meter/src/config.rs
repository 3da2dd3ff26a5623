//! The description of a meter.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A meter, with the field names of OpenMeter's API.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeterConfig {
    /// Its name, such as `pod_execution_time`.
    pub slug: String,
    /// Events of this CloudEvents `type` are counted, others are skipped.
    pub event_type: String,
    /// JSONPath (RFC 9535) of the value in the event's `data`, such as `$.duration_seconds`. Every
    /// aggregation but [`Aggregation::Count`] needs one.
    #[serde(default)]
    pub value_property: Option<String>,
    /// How the values of a row are aggregated.
    pub aggregation: Aggregation,
    /// The properties that form a row together with the subject.
    #[serde(default)]
    pub group_by: GroupBy,
}

/// How a meter aggregates the values of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Aggregation {
    /// Their sum.
    Sum,
    /// How many events there were.
    Count,
    /// Their mean, to 28 digits.
    Avg,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// How many different values there were, compared as text.
    UniqueCount,
    /// The value of the event with the latest `time`; of equal times, the one that arrived last.
    Latest,
}

/// The properties that form rows: names of properties of `data`, or names with a JSONPath each.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum GroupBy {
    /// Each name is also the property.
    Properties(Vec<String>),
    /// The property of each name, as JSONPath.
    Paths(BTreeMap<String, String>),
}

impl Default for GroupBy {
    fn default() -> Self {
        Self::Properties(Vec::new())
    }
}

impl GroupBy {
    /// Name and JSONPath of each.
    pub(crate) fn paths(&self) -> Vec<(String, String)> {
        match self {
            Self::Properties(names) => names
                .iter()
                .map(|name| (name.clone(), quoted(name)))
                .collect(),
            Self::Paths(paths) => paths.clone().into_iter().collect(),
        }
    }
}

/// The JSONPath of a member with any name.
fn quoted(name: &str) -> String {
    let name = name.replace('\\', "\\\\").replace('\'', "\\'");
    format!("$['{name}']")
}

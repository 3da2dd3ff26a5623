//! The meter: it takes events and returns rows.

use std::{collections::BTreeMap, str::FromStr};

use chrono::DateTime;
use jsonpath_rust::{
    parser::{model::JpQuery, parse_json_path},
    query::js_path_process,
};
use rust_decimal::Decimal;
use serde_json::Value;

use crate::{
    Aggregation, MeterConfig,
    aggregate::{Running, Sample},
};

/// Why a description does not define a meter.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A JSONPath that does not parse.
    #[error("meter `{slug}`: {field}: `{path}` is not a JSONPath: {reason}")]
    Path {
        /// The meter's name.
        slug: String,
        /// The field, `valueProperty` or `groupBy.NAME`.
        field: String,
        /// Its value.
        path: String,
        /// The error of the parser.
        reason: String,
    },
    /// An aggregation without the value it needs.
    #[error("meter `{slug}`: this aggregation needs a valueProperty, such as $.duration_seconds")]
    NoValueProperty {
        /// The meter's name.
        slug: String,
    },
}

/// Why an event cannot be counted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The event has no value property.
    #[error("the event has no `{0}`")]
    NoValue(String),
    /// The value is not a number.
    #[error("`{0}` of the event is {1}, which is not a number")]
    NoNumber(String, String),
    /// The sum exceeds 28 digits.
    #[error("the sum is too large")]
    TooLarge,
}

/// The value of one subject and one combination of the group-by properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// The CloudEvents `subject`.
    pub subject: &'a str,
    /// The values of the group-by properties, in the order of [`Meter::group_by`]; empty text where
    /// an event had none.
    pub group: &'a [String],
    /// The aggregated value.
    pub value: Decimal,
}

/// A meter and the events that it has counted.
#[derive(Debug)]
pub struct Meter {
    config: MeterConfig,
    value: Option<JpQuery>,
    names: Vec<String>,
    paths: Vec<JpQuery>,
    rows: BTreeMap<(String, Vec<String>), Running>,
}

impl Meter {
    /// A meter without events.
    ///
    /// # Errors
    /// When a path is not a JSONPath, or the aggregation needs a value property that is not set.
    pub fn new(config: MeterConfig) -> Result<Self, BuildError> {
        let parse = |field: &str, path: &str| {
            parse_json_path(path).map_err(|reason| BuildError::Path {
                slug: config.slug.clone(),
                field: field.to_owned(),
                path: path.to_owned(),
                reason: reason.to_string(),
            })
        };
        let value = match (&config.value_property, config.aggregation) {
            (_, Aggregation::Count) => None,
            (Some(path), _) => Some(parse("valueProperty", path)?),
            (None, _) => {
                return Err(BuildError::NoValueProperty {
                    slug: config.slug.clone(),
                });
            }
        };
        let (mut names, mut paths) = (Vec::new(), Vec::new());
        for (name, path) in config.group_by.paths() {
            paths.push(parse(&format!("groupBy.{name}"), &path)?);
            names.push(name);
        }
        Ok(Self {
            config,
            value,
            names,
            paths,
            rows: BTreeMap::new(),
        })
    }

    /// The names of the group-by properties.
    #[must_use]
    pub fn group_by(&self) -> &[String] {
        &self.names
    }

    /// Counts an event, a CloudEvent as JSON. False when it is of another type.
    ///
    /// # Errors
    /// When the event lacks the value that the meter needs; it is not counted.
    pub fn add(&mut self, event: &Value) -> Result<bool, Refused> {
        if event.get("type").and_then(Value::as_str) != Some(&self.config.event_type) {
            return Ok(false);
        }
        let data = event.get("data").unwrap_or(&Value::Null);
        let sample = self.sample(event, data)?;
        let subject = event.get("subject").and_then(Value::as_str);
        let group = self
            .paths
            .iter()
            .map(|path| at(path, data).map_or_else(String::new, text))
            .collect();
        self.rows
            .entry((subject.unwrap_or_default().to_owned(), group))
            .or_insert_with(|| Running::new(self.config.aggregation))
            .add(sample)
            .ok_or(Refused::TooLarge)?;
        Ok(true)
    }

    fn sample(&self, event: &Value, data: &Value) -> Result<Sample, Refused> {
        let time = event.get("time").and_then(Value::as_str);
        let mut sample = Sample {
            number: None,
            text: String::new(),
            time: time.and_then(|time| DateTime::parse_from_rfc3339(time).ok()),
        };
        let Some(path) = &self.value else {
            return Ok(sample);
        };
        let property = || self.config.value_property.clone().unwrap_or_default();
        let value = at(path, data)
            .filter(|value| !value.is_null())
            .ok_or_else(|| Refused::NoValue(property()))?;
        sample.text = text(value);
        if self.config.aggregation != Aggregation::UniqueCount {
            let number = number(&sample.text);
            sample.number =
                Some(number.ok_or_else(|| Refused::NoNumber(property(), value.to_string()))?);
        }
        Ok(sample)
    }

    /// The value of each row, ordered by subject and group.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|((subject, group), running)| Row {
            subject,
            group,
            value: running.value(),
        })
    }
}

/// The first value that a path finds.
fn at<'a>(path: &JpQuery, data: &'a Value) -> Option<&'a Value> {
    let found = js_path_process(path, data).ok()?;
    found.into_iter().next().map(|found| found.val())
}

/// A value as text, without the quotes of a string.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A number in any notation that JSON has.
fn number(text: &str) -> Option<Decimal> {
    Decimal::from_str(text)
        .or_else(|_| Decimal::from_scientific(text))
        .ok()
}

#[cfg(test)]
mod tests;

//! A meter, its two forms, and the rules of the API for it.

use serde_json::{Map, Value, json};

/// Types of events that deployments reserve.
const RESERVED: [&str; 2] = ["openmeter.", "reserved."];
const AGGREGATIONS: [&str; 7] = [
    "SUM",
    "COUNT",
    "UNIQUE_COUNT",
    "AVG",
    "MIN",
    "MAX",
    "LATEST",
];
const V1_FIELDS: [&str; 9] = [
    "slug",
    "aggregation",
    "eventType",
    "valueProperty",
    "groupBy",
    "eventFrom",
    "name",
    "description",
    "metadata",
];
const V3_FIELDS: [&str; 9] = [
    "key",
    "name",
    "aggregation",
    "event_type",
    "value_property",
    "dimensions",
    "events_from",
    "description",
    "labels",
];

/// A meter, with the field names of the form v1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Definition {
    pub(super) id: String,
    pub(super) slug: String,
    pub(super) name: Option<String>,
    pub(super) event_type: String,
    /// In upper case.
    pub(super) aggregation: String,
    pub(super) value_property: Option<String>,
    pub(super) group_by: Map<String, Value>,
}

/// The fields of a body, each of which must be one that the form has.
struct Body<'a>(&'a Map<String, Value>);

impl<'a> Body<'a> {
    fn of(body: &'a Value, fields: &[&str]) -> Result<Self, String> {
        let object = body.as_object().ok_or("the body is no object")?;
        match object.keys().find(|key| !fields.contains(&key.as_str())) {
            Some(key) => Err(format!("the field {key} is unknown")),
            None => Ok(Self(object)),
        }
    }

    fn optional(&self, field: &str) -> Result<Option<String>, String> {
        match self.0.get(field) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(other) => Err(format!("{field}: {other} is no text")),
        }
    }

    fn required(&self, field: &str) -> Result<String, String> {
        self.optional(field)?.ok_or(format!("{field} is missing"))
    }

    fn map(&self, field: &str) -> Result<Map<String, Value>, String> {
        match self.0.get(field) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(other) => Err(format!("{field}: {other} is no object")),
        }
    }
}

impl Definition {
    /// Reads the body of a request of the form v1.
    pub(super) fn from_v1(body: &Value) -> Result<Self, String> {
        let body = Body::of(body, &V1_FIELDS)?;
        Ok(Self {
            id: String::new(),
            slug: body.required("slug")?,
            name: body.optional("name")?,
            event_type: body.required("eventType")?,
            aggregation: body.required("aggregation")?,
            value_property: body.optional("valueProperty")?,
            group_by: body.map("groupBy")?,
        })
    }

    /// Reads the body of a request of the form v3.
    pub(super) fn from_v3(body: &Value) -> Result<Self, String> {
        let body = Body::of(body, &V3_FIELDS)?;
        let aggregation = body.required("aggregation")?;
        if aggregation != aggregation.to_lowercase() {
            return Err(format!("aggregation: {aggregation} is not in lower case"));
        }
        Ok(Self {
            id: String::new(),
            slug: body.required("key")?,
            name: Some(body.required("name")?),
            event_type: body.required("event_type")?,
            aggregation: aggregation.to_uppercase(),
            value_property: body.optional("value_property")?,
            group_by: body.map("dimensions")?,
        })
    }

    /// This meter, if the API accepts it.
    pub(super) fn checked(self) -> Result<Self, String> {
        if !is_slug(&self.slug) {
            return Err(format!("{:?} is no slug", self.slug));
        }
        if !AGGREGATIONS.contains(&self.aggregation.as_str()) {
            return Err(format!("the aggregation {} is unknown", self.aggregation));
        }
        let is_reserved = |start: &&str| self.event_type.starts_with(start);
        if RESERVED.iter().any(is_reserved) || self.event_type.starts_with("_.") {
            return Err(format!("the event type {} is reserved", self.event_type));
        }
        match (self.aggregation.as_str(), self.value_property.as_deref()) {
            ("COUNT", Some(_)) => return Err("COUNT has no value property".to_owned()),
            ("COUNT", None) => {}
            (_, Some(path)) if path.starts_with('$') => {}
            (kind, path) => return Err(format!("{kind} needs a value property, not {path:?}")),
        }
        for (name, path) in &self.group_by {
            let first = name.bytes().next().unwrap_or(b'0');
            let is_word = name
                .bytes()
                .all(|it| it.is_ascii_alphanumeric() || it == b'_');
            let is_reserved = ["subject", "customer_id"].contains(&name.as_str());
            if !is_word || first.is_ascii_digit() || is_reserved {
                return Err(format!("{name:?} is no name of a group-by"));
            }
            let path = path.as_str().unwrap_or_default();
            if !path.starts_with('$') || self.value_property.as_deref() == Some(path) {
                return Err(format!("the group-by {name} must not be {path:?}"));
            }
        }
        Ok(self)
    }

    /// Takes what can be changed from another definition; an error when it changes something else.
    pub(super) fn update(&mut self, other: Self) -> Result<(), String> {
        let is_same = self.slug == other.slug
            && self.event_type == other.event_type
            && self.aggregation == other.aggregation
            && self.value_property == other.value_property;
        if !is_same {
            return Err(
                "slug, event type, aggregation and value property cannot be changed".to_owned(),
            );
        }
        (self.name, self.group_by) = (other.name, other.group_by);
        Ok(())
    }

    /// As the form v1 lists it.
    pub(super) fn v1(&self) -> Value {
        let mut meter = json!({
            "id": self.id,
            "slug": self.slug,
            "name": self.name.as_ref().unwrap_or(&self.slug),
            "eventType": self.event_type,
            "aggregation": self.aggregation,
            "createdAt": "2025-01-01T00:00:00Z",
            "updatedAt": "2025-01-01T00:00:00Z",
        });
        self.add_optional(&mut meter, "valueProperty", "groupBy");
        meter
    }

    /// As the form v3 lists it.
    pub(super) fn v3(&self) -> Value {
        let mut meter = json!({
            "id": self.id,
            "key": self.slug,
            "name": self.name.as_ref().unwrap_or(&self.slug),
            "event_type": self.event_type,
            "aggregation": self.aggregation.to_lowercase(),
            "created_at": "2025-01-01T00:00:00Z",
            "updated_at": "2025-01-01T00:00:00Z",
        });
        self.add_optional(&mut meter, "value_property", "dimensions");
        meter
    }

    fn add_optional(&self, meter: &mut Value, value: &str, group_by: &str) {
        let Some(meter) = meter.as_object_mut() else {
            return;
        };
        if let Some(path) = &self.value_property {
            meter.insert(value.to_owned(), json!(path));
        }
        if !self.group_by.is_empty() {
            meter.insert(group_by.to_owned(), json!(self.group_by));
        }
    }
}

/// `^[a-z0-9]+(?:_[a-z0-9]+)*$`, at most 64 characters.
fn is_slug(text: &str) -> bool {
    let is_plain = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_';
    let is_outside = |it: Option<u8>| it.is_some_and(|it| it != b'_');
    text.len() <= 64
        && text.bytes().all(is_plain)
        && !text.contains("__")
        && is_outside(text.bytes().next())
        && is_outside(text.bytes().last())
}

//! What the ingest API accepts: media types, the shape of the body, the fields of an event.

use anyhow::Context;
use http::{HeaderMap, header};
use jsonschema::Validator;
use serde_json::Value;

const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const EITHER: &str = "application/json";

/// The attributes of an event that are not extensions.
const ATTRIBUTES: [&str; 9] = [
    "id",
    "source",
    "specversion",
    "type",
    "subject",
    "time",
    "data",
    "datacontenttype",
    "dataschema",
];

/// The two forms of the API, which differ in what they accept and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `/api/v1/events`.
    V1,
    /// `/v3/openmeter/events`.
    V3,
}

/// Checks requests against the published contract of the API.
#[derive(Debug)]
pub(super) struct Contract {
    event: Validator,
}

impl Contract {
    pub(super) fn new() -> anyhow::Result<Self> {
        let schema = serde_json::from_str(include_str!("event.schema.json"))?;
        let event = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .context("the schema of an event")?;
        Ok(Self { event })
    }

    /// The events of a request, or why the API would refuse it.
    pub(super) fn events(
        &self,
        form: Form,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Vec<Value>, String> {
        let media_type = media_type(form, headers)?;
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING) {
            return Err(format!("content encoding {encoding:?} is not supported"));
        }
        let parsed: Value =
            serde_json::from_slice(body).map_err(|error| format!("body is not JSON: {error}"))?;
        let events = match (media_type.as_str(), parsed) {
            (BATCH | EITHER, Value::Array(events)) => events,
            (SINGLE | EITHER, event @ Value::Object(_)) => vec![event],
            (SINGLE, _) => return Err(format!("{SINGLE} takes one JSON object")),
            (BATCH, _) => return Err(format!("{BATCH} takes a JSON array")),
            (EITHER, _) => return Err(format!("{EITHER} takes a JSON object or array")),
            (other, _) => return Err(format!("content type {other:?} is not supported")),
        };
        for (index, event) in events.iter().enumerate() {
            if let Some(error) = self.event.iter_errors(event).next() {
                let id = event.get("id").cloned().unwrap_or_default();
                let place = error.instance_path().to_string();
                return Err(format!("event {index} (id {id}): {place}: {error}"));
            }
            let version = event.get("specversion").and_then(Value::as_str);
            if !matches!(version, Some("0.3" | "1.0")) {
                return Err(format!(
                    "event {index}: /specversion: {version:?} is unknown"
                ));
            }
            let mut names = event
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name);
            let is_extension = |name: &&String| !ATTRIBUTES.contains(&name.as_str());
            if form == Form::V3
                && let Some(name) = names.find(is_extension)
            {
                return Err(format!("event {index}: /{name}: extensions are not taken"));
            }
        }
        Ok(events)
    }
}

fn media_type(form: Form, headers: &HeaderMap) -> Result<String, String> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err("no content type".to_owned());
    };
    let value = value.to_str().map_err(|error| error.to_string())?;
    if form == Form::V1 {
        // The handler compares the header verbatim, so it refuses parameters and capitals.
        return Ok(value.to_owned());
    }
    let essence = value.split(';').next().unwrap_or_default();
    Ok(essence.trim().to_ascii_lowercase())
}

/// The braces, the names of the fields and the time in seconds of a message for Kafka.
const FRAME: usize = r#"{"id":,"type":,"source":,"subject":,"time":1735689600,"data":}"#.len();

/// The size in bytes of the message that the API sends to Kafka for an event: JSON whose `data` is JSON
/// in a text, both escaped as Go's `encoding/json` does, which also writes `<`, `>`, `&`, U+2028 and
/// U+2029 as six characters.
pub(super) fn kafka_bytes(event: &Value) -> usize {
    let text = |field| event.get(field).and_then(Value::as_str).unwrap_or_default();
    let fields = ["id", "type", "source", "subject"];
    let fields: usize = fields.iter().map(|field| go_text(text(field)).len()).sum();
    let data = event.get("data").filter(|data| !data.is_null());
    let data = data.map_or_else(String::new, |data| go_escaped(&data.to_string()));
    FRAME + fields + go_text(&data).len()
}

/// A text as JSON.
fn go_text(text: &str) -> String {
    go_escaped(&Value::from(text).to_string())
}

/// JSON with what Go escapes in addition. None of it occurs outside of texts.
fn go_escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event() -> Value {
        json!({
            "id": "1", "source": "kubernetes-api", "specversion": "1.0",
            "type": "kube-pod-exec-time", "subject": "customer",
            "time": "2025-01-01T00:00:00Z", "data": {"duration_seconds": 10},
        })
    }

    fn check(media_type: &str, body: &str) -> Result<Vec<Value>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media_type.parse().unwrap());
        Contract::new()
            .unwrap()
            .events(Form::V1, &headers, body.as_bytes())
    }

    /// The refusal of one event in which `field` is replaced.
    fn with(field: &str, value: Value) -> Result<Vec<Value>, String> {
        let mut event = event();
        event[field] = value;
        check(SINGLE, &event.to_string())
    }

    #[test]
    fn one_event_and_a_batch_are_taken_under_their_media_types() {
        let one = event().to_string();
        let batch = format!("[{one},{one}]");
        assert_eq!(check(SINGLE, &one).unwrap().len(), 1);
        assert_eq!(check(BATCH, &batch).unwrap().len(), 2);
        assert_eq!(check(EITHER, &one).unwrap().len(), 1);
        assert_eq!(check(EITHER, &batch).unwrap().len(), 2);
    }

    #[test]
    fn the_two_forms_differ_in_media_types_and_extensions() {
        let mut headers = HeaderMap::new();
        let with_charset = "Application/CloudEvents+JSON; charset=utf-8";
        headers.insert(header::CONTENT_TYPE, with_charset.parse().unwrap());
        let contract = Contract::new().unwrap();
        let take = |form, headers: &HeaderMap, event: &Value| {
            contract.events(form, headers, event.to_string().as_bytes())
        };
        take(Form::V1, &headers, &event()).unwrap_err();
        take(Form::V3, &headers, &event()).unwrap();
        headers.insert(header::CONTENT_TYPE, SINGLE.parse().unwrap());
        let mut extended = event();
        extended["cluster"] = json!("a");
        take(Form::V1, &headers, &extended).unwrap();
        let error = take(Form::V3, &headers, &extended).unwrap_err();
        assert!(error.contains("cluster"), "{error}");
        for (version, taken) in [("1.0", true), ("0.3", true), ("1.1", false)] {
            assert_eq!(with("specversion", json!(version)).is_ok(), taken);
        }
    }

    #[test]
    fn what_goes_to_kafka_is_escaped_twice() {
        let mut small = event();
        small["data"] = json!({"x": ""});
        let mut large = small.clone();
        large["data"]["x"] = json!("<".repeat(150_000));
        // A backslash and five characters, of which the backslash is escaped once more.
        assert_eq!(kafka_bytes(&large) - kafka_bytes(&small), 7 * 150_000);
        large["data"]["x"] = json!("\"".repeat(10));
        assert_eq!(kafka_bytes(&large) - kafka_bytes(&small), 4 * 10);
    }

    #[test]
    fn shapes_and_media_types_that_do_not_fit_are_refused() {
        let one = event().to_string();
        for (media_type, body) in [
            (SINGLE, format!("[{one}]")),
            (BATCH, one.clone()),
            (EITHER, "3".to_owned()),
            ("text/plain", one.clone()),
            (SINGLE, one.replace("10", "1e999")),
            (SINGLE, format!("{one} tail")),
        ] {
            check(media_type, &body).expect_err(&format!("{media_type} {body}"));
        }
        let bare = Contract::new().unwrap();
        bare.events(Form::V1, &HeaderMap::new(), one.as_bytes())
            .unwrap_err();
    }

    #[test]
    fn every_required_field_is_a_text_that_is_not_empty() {
        for field in ["id", "source", "specversion", "type", "subject"] {
            for bad in [json!(""), json!(7), Value::Null] {
                let error = with(field, bad).unwrap_err();
                assert!(error.contains(field), "{error}");
            }
            let mut without = event();
            without.as_object_mut().unwrap().remove(field);
            let error = check(SINGLE, &without.to_string()).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn optional_fields_have_their_formats_and_may_be_null() {
        for field in ["time", "data", "datacontenttype", "dataschema"] {
            with(field, Value::Null).unwrap();
        }
        with("extension", json!("anything")).unwrap();
        for (field, bad) in [
            ("time", json!("yesterday")),
            ("time", json!("2025-01-01 00:00:00")),
            ("data", json!([1])),
            ("data", json!("text")),
            ("datacontenttype", json!("text/xml")),
            ("dataschema", json!("not a uri")),
            ("source", json!("not a\nuri")),
        ] {
            let error = with(field, bad).unwrap_err();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn the_refusal_names_the_event_of_a_batch() {
        let mut bad = event();
        bad["id"] = json!("second");
        bad["subject"] = json!("");
        let error = check(BATCH, &json!([event(), bad]).to_string()).unwrap_err();
        assert!(
            error.contains("event 1 (id \"second\"): /subject"),
            "{error}"
        );
    }
}

//! `json_schema`: flags messages that violate a JSON Schema.

mod documents;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use meterline_config::{Configure, Located, PlanContext, ProcessorSpec, Spec};
use meterline_core::{
    Batch, BuildContext, BuildError, Cause, Content, Document, Drops, IntCounter, Message,
    Processor, ProcessorPlan, template::new_owner,
};
use serde::Deserialize;
use serde_json::Value;

use self::documents::{Documents, In};
use crate::mapping::errors;

type Validator = jsonschema::Validator<Documents>;

/// The component.
pub(crate) const SPEC: ProcessorSpec = Spec::new::<Config>(
    "json_schema",
    "Flags messages that violate a JSON Schema.",
    &[
        "json_schema:\n  schema_path: 'file://./cloudevents.spec.json'\n",
        "json_schema:\n  schema: '{\"type\": \"object\", \"required\": [\"id\"]}'\n",
    ],
);

/// The URL of the built-in schema, if there is no file of that name.
const SHIPPED_URL: &str = "file://./cloudevents.spec.json";
const SHIPPED: &str = include_str!("../../../schemas/cloudevents.spec.json");

/// Configuration of `json_schema`: exactly one of the two fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The schema as JSON text.
    #[serde(default)]
    schema: Option<Located<String>>,
    /// A `file://` path to the schema, relative to the working directory or else to the configuration
    /// file. Exactly `file://./cloudevents.spec.json` is the built-in schema if neither directory has a
    /// file of that name.
    #[serde(default)]
    schema_path: Option<Located<String>>,
}

impl Configure for Config {
    type Plan = dyn ProcessorPlan;

    fn plan(self, cx: &mut PlanContext<'_>) -> Option<Box<dyn ProcessorPlan>> {
        let (place, text) = match (self.schema, self.schema_path) {
            (Some(schema), None) => {
                let text = schema.value.clone();
                (schema, text)
            }
            (None, Some(path)) => match read(&path.value, cx.file_dir()) {
                Ok(text) => (path, text),
                Err(reason) => {
                    cx.error_at(&path, reason);
                    return None;
                }
            },
            (Some(_), Some(path)) => {
                cx.error_at(&path, "set either `schema` or `schema_path`, not both");
                return None;
            }
            (None, None) => {
                cx.error("set `schema` or `schema_path`");
                return None;
            }
        };
        match compile(&text) {
            Ok(validator) => Some(Box::new(Plan {
                validator: Arc::new(validator),
                path: cx.path(),
                reuse: (text == SHIPPED).then(new_owner),
            })),
            Err(reason) => {
                cx.error_at(&place, reason);
                None
            }
        }
    }
}

fn compile(text: &str) -> Result<Validator, String> {
    let schema: Value =
        serde_json::from_str(text).map_err(|error| format!("the schema is not JSON: {error}"))?;
    jsonschema::options_for::<Documents>()
        .should_validate_formats(true)
        .build(&schema)
        .map_err(|error| format!("the schema is not a JSON Schema: {error}"))
}

/// Reads the schema that `url` names.
fn read(url: &str, config_dir: Option<&Path>) -> Result<String, String> {
    let Some(path) = url.strip_prefix("file://") else {
        return Err(format!(
            "`{url}` is not a `file://` path; use a path such as `file://./schema.json`"
        ));
    };
    let path = Path::new(path);
    let mut candidates: Vec<PathBuf> = if path.is_absolute() {
        vec![path.to_owned()]
    } else {
        std::iter::once(path.to_owned())
            .chain(config_dir.map(|dir| dir.join(path.strip_prefix("./").unwrap_or(path))))
            .collect()
    };
    candidates.dedup();
    for candidate in &candidates {
        match std::fs::read_to_string(candidate) {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot read {}: {error}", candidate.display())),
        }
    }
    if url == SHIPPED_URL {
        return Ok(SHIPPED.to_owned());
    }
    let tried: Vec<_> = candidates
        .iter()
        .map(|candidate| candidate.display().to_string())
        .collect();
    Err(format!(
        "there is no schema file at {}; name an existing file, or write `{SHIPPED_URL}` for the built-in \
         CloudEvents schema",
        tried.join(" or "),
    ))
}

struct Plan {
    validator: Arc<Validator>,
    path: Arc<str>,
    /// The id of this check, if its outcome does not depend on the id and time of an event.
    reuse: Option<u64>,
}

impl ProcessorPlan for Plan {
    fn build(&self, cx: &BuildContext) -> Result<Box<dyn Processor>, BuildError> {
        Ok(Box::new(JsonSchema {
            validator: Arc::clone(&self.validator),
            errors: errors(cx, &self.path),
            path: Arc::clone(&self.path),
            reuse: self.reuse,
        }))
    }
}

struct JsonSchema {
    validator: Arc<Validator>,
    reuse: Option<u64>,
    path: Arc<str>,
    errors: IntCounter,
}

impl Processor for JsonSchema {
    fn process(&mut self, mut batch: Batch, _: &mut Drops) -> Batch {
        for message in &mut batch {
            if let Err(reason) = self.check(message) {
                self.errors.inc();
                message.fail_with(Cause::Schema, Arc::clone(&self.path), reason);
            }
        }
        batch
    }
}

impl JsonSchema {
    fn check(&self, message: &Message) -> Result<(), String> {
        // The gaps of a template hold an id or a time that the program generates. If one rendering
        // passes the built-in schema, all of them do.
        let template = match message.content() {
            Content::Rendered(filled) => self.reuse.zip(Some(filled.template())),
            Content::Raw(_) | Content::Document(_) => None,
        };
        if template.is_some_and(|(check, template)| template.is_checked_by(check)) {
            return Ok(());
        }
        let document = message.document().map_err(|error| error.to_string())?;
        if !self.validator.is_valid(In(document.root())) {
            return Err(explain(&self.validator, &document));
        }
        if let Some((check, template)) = template {
            template.set_checked_by(check);
        }
        Ok(())
    }
}

/// Formats the first violations, each with its field.
fn explain(validator: &Validator, document: &Document) -> String {
    const MOST: usize = 5;
    let reasons: Vec<_> = validator
        .iter_errors(In(document.root()))
        .take(MOST)
        .map(|error| {
            let place = error.instance_path().to_string();
            let field = place.trim_start_matches('/').replace('/', ".");
            // A long value would hide the reason.
            let reason: String = error.to_string().chars().take(300).collect();
            if field.is_empty() {
                reason
            } else {
                format!("{field}: {reason}")
            }
        })
        .collect();
    reasons.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event() -> Value {
        json!({
            "id": "1", "specversion": "1.0", "source": "kubernetes-api",
            "type": "kube-pod-exec-time", "subject": "customer",
            "time": "2025-01-01T00:00:00Z", "data": {"duration_seconds": 10},
        })
    }

    fn shipped() -> Validator {
        compile(&read(SHIPPED_URL, None).unwrap()).unwrap()
    }

    fn is_valid(value: &Value) -> bool {
        shipped().is_valid(In(Document::from(value).root()))
    }

    #[test]
    fn the_shipped_schema_accepts_an_event_and_its_optional_nulls() {
        let mut value = event();
        assert!(is_valid(&value));
        for key in [
            "subject",
            "time",
            "datacontenttype",
            "dataschema",
            "data",
            "data_base64",
        ] {
            value[key] = Value::Null;
        }
        assert!(is_valid(&value));
    }

    #[test]
    fn the_shipped_schema_refuses_invalid_events() {
        for key in ["id", "specversion", "source", "type", "subject"] {
            let mut value = event();
            value.as_object_mut().unwrap().remove(key);
            assert!(!is_valid(&value), "without {key}");
            value[key] = "".into();
            assert!(!is_valid(&value), "with an empty {key}");
            value[key] = 1.into();
            assert!(!is_valid(&value), "with a number as {key}");
        }
        for (key, bad) in [
            ("time", json!("yesterday")),
            ("time", json!("2025-01-01")),
            ("source", json!("not a uri reference \\")),
            ("dataschema", json!("relative/path")),
            ("data", json!([1])),
            ("data", json!("text")),
            ("datacontenttype", json!(1)),
            ("data_base64", json!(7)),
        ] {
            let mut value = event();
            value[key] = bad.clone();
            assert!(!is_valid(&value), "{key}: {bad}");
        }
        assert!(!is_valid(&json!([event()])));
    }

    #[test]
    fn numbers_beyond_64_bits_pass_with_all_their_digits() {
        let text = event().to_string().replace(
            ":10}",
            ":33204139332677192905200,\"a\":0.12345678901234567891}",
        );
        let mut processor = JsonSchema {
            validator: Arc::new(shipped()),
            reuse: Some(new_owner()),
            path: "".into(),
            errors: meterline_core::Metrics::default().counter("n", "n", &[]),
        };
        let document = Document::from_json(text.as_bytes()).unwrap();
        let batch = processor.process(
            vec![Message::new(Content::Document(document))],
            &mut Drops::default(),
        );
        assert!(batch[0].failure().is_none(), "{:?}", batch[0].failure());
        assert_eq!(batch[0].bytes().unwrap(), text.as_bytes());
        let whole = compile(
            r#"{"properties": {"data": {"properties": {
            "duration_seconds": {"type": "integer", "minimum": 1e22}, "a": {"type": "number", "maximum": 1}}}}}"#,
        );
        let document = batch[0].document().unwrap();
        assert!(whole.unwrap().is_valid(In(document.root())));
    }

    #[test]
    fn a_violation_names_its_field() {
        let mut value = event();
        value["subject"] = 7.into();
        value.as_object_mut().unwrap().remove("id");
        let reason = explain(&shipped(), &Document::from(&value));
        assert!(reason.contains("subject: 7 is not of type"), "{reason}");
        assert!(reason.contains("\"id\" is a required property"), "{reason}");
    }

    #[test]
    fn a_file_with_the_name_of_the_shipped_schema_takes_precedence() {
        for url in [
            "file://./nope/x.json",
            "file://./nope/cloudevents.spec.json",
            "file:///nope/cloudevents.spec.json",
            "file://cloudevents.spec.json",
            "file://.//cloudevents.spec.json",
        ] {
            let reason = read(url, None).unwrap_err();
            let path = url.trim_start_matches("file://");
            assert!(
                reason.starts_with(&format!("there is no schema file at {path};")),
                "{reason}"
            );
        }
        assert_eq!(read(SHIPPED_URL, None).unwrap(), SHIPPED);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cloudevents.spec.json"), "true").unwrap();
        assert_eq!(read(SHIPPED_URL, Some(folder.path())).unwrap(), "true");
    }

    #[test]
    fn a_missing_file_is_reported_with_the_paths_that_were_tried() {
        let reason = read("file://./nothing.json", Some(Path::new("/etc/x"))).unwrap_err();
        assert!(
            reason.contains("./nothing.json or /etc/x/nothing.json"),
            "{reason}"
        );
        assert!(reason.contains("cloudevents.spec.json"), "{reason}");
        assert!(read("schema.json", None).unwrap_err().contains("file://"));
    }
}

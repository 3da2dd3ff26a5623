//! Between script values and JSON.

use meterline_core::{Builder, Document, Scalar};
use rhai::{Array, Dynamic, Map};
use serde_json::Value;

/// As deep as `serde_json` reads.
const MAX_DEPTH: usize = 128;

/// What `deleted()` gives: a field of this value is left out, a message of this value is dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deleted;

/// A whole number above `i64::MAX`, which scripts carry but cannot calculate with: a decimal number
/// would lose digits without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsigned(pub(crate) u64);

/// A script value as a JSON tree.
///
/// # Errors
/// As [`to_document`].
pub(crate) fn to_json(value: &Dynamic) -> Result<Value, String> {
    to_document(value).map(|document| document.root().to_value())
}

/// A script value as a JSON document.
///
/// # Errors
/// Names the field that holds something JSON cannot say: a number that is not finite, a function,
/// too much depth.
pub(crate) fn to_document(value: &Dynamic) -> Result<Document, String> {
    // As long as an event; what is too much is given back.
    let mut builder = Builder::with_capacity(1024);
    let mut path = Vec::new();
    match write(value, &mut builder, &mut path, 0) {
        Ok(Written::Yes) => Ok(builder.finish()),
        Ok(Written::Deleted) => {
            builder.scalar(Scalar::Null);
            Ok(builder.finish())
        }
        Err(reason) if path.is_empty() => Err(format!("the result {reason}")),
        Err(reason) => {
            path.reverse();
            let path = path.concat();
            Err(format!("`{}` {reason}", path.trim_start_matches('.')))
        }
    }
}

/// Whether there was something to write.
#[derive(PartialEq, Eq)]
enum Written {
    Yes,
    Deleted,
}

/// On an error the path grows from the inside out.
fn write(
    value: &Dynamic,
    to: &mut Builder,
    path: &mut Vec<String>,
    depth: usize,
) -> Result<Written, String> {
    if depth > MAX_DEPTH {
        return Err(format!("is nested more than {MAX_DEPTH} levels deep"));
    }
    // Checked one by one, commonest first; `Dynamic` does not show its variants.
    if let Ok(text) = value.as_immutable_string_ref() {
        to.scalar(Scalar::Text(&text));
    } else if let Ok(number) = value.as_int() {
        to.scalar(Scalar::Integer(number));
    } else if let Ok(map) = value.as_map_ref() {
        object(&map, to, path, depth)?;
    } else if let Ok(number) = value.as_float() {
        if !number.is_finite() {
            return Err(format!("is not a finite number: {number}"));
        }
        to.scalar(Scalar::Float(number));
    } else if value.is_unit() {
        to.scalar(Scalar::Null);
    } else if let Ok(value) = value.as_bool() {
        to.scalar(Scalar::Bool(value));
    } else if let Ok(array) = value.as_array_ref() {
        self::array(&array, to, path, depth)?;
    } else if value.is::<Deleted>() {
        return Ok(Written::Deleted);
    } else if let Ok(character) = value.as_char() {
        to.scalar(Scalar::Text(character.encode_utf8(&mut [0; 4])));
    } else if let Some(number) = value.read_lock::<Unsigned>() {
        to.scalar(Scalar::Unsigned(number.0));
    } else if value.is_fnptr() {
        return Err("is a function, which JSON cannot hold".into());
    } else {
        let name = value.type_name();
        return Err(format!("is a {name}, which JSON cannot hold"));
    }
    Ok(Written::Yes)
}

fn object(map: &Map, to: &mut Builder, path: &mut Vec<String>, depth: usize) -> Result<(), String> {
    let open = to.begin_object();
    for (key, value) in map {
        let mark = to.mark();
        to.key_as_text(key);
        match write(value, to, path, depth + 1) {
            Ok(Written::Yes) => {}
            Ok(Written::Deleted) => to.take_back(mark),
            Err(reason) => {
                path.push(format!(".{key}"));
                return Err(reason);
            }
        }
    }
    to.end(open);
    Ok(())
}

fn array(
    items: &Array,
    to: &mut Builder,
    path: &mut Vec<String>,
    depth: usize,
) -> Result<(), String> {
    let open = to.begin_array();
    for (index, value) in items.iter().enumerate() {
        if let Err(reason) = write(value, to, path, depth + 1) {
            path.push(format!("[{index}]"));
            return Err(reason);
        }
    }
    to.end(open);
    Ok(())
}

/// JSON as a script value.
pub(crate) fn from_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(value) => Dynamic::from_bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Dynamic::from_int(number),
            (None, Some(number)) => Dynamic::from(Unsigned(number)),
            (None, None) => Dynamic::from_float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Dynamic::from_array(items.iter().map(from_json).collect()),
        Value::Object(fields) => Dynamic::from_map(
            fields
                .iter()
                .map(|(key, value)| (key.as_str().into(), from_json(value)))
                .collect(),
        ),
    }
}

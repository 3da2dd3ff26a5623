//! Converts script values to JSON.

use meterline_core::{Builder, Document, Scalar};
use rhai::{Array, Dynamic, Map};

use crate::decimal::Decimal;

/// The deepest nesting, which is that of `serde_json`.
const MAX_DEPTH: usize = 128;

/// The result of `deleted()`: a field with this value is omitted, a message with it is dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deleted;

/// Converts a script value to JSON text; text is quoted.
///
/// # Errors
/// As [`to_document`].
pub(crate) fn to_text(value: &Dynamic) -> Result<String, String> {
    json_text(&to_document(value)?)
}

fn json_text(document: &Document) -> Result<String, String> {
    let mut text = Vec::new();
    let written = document.root().write_json(&mut text);
    written.map_err(|error| error.to_string())?;
    String::from_utf8(text).map_err(|error| error.to_string())
}

/// Converts a script value to plain text: text stays as it is, anything else becomes JSON.
///
/// # Errors
/// As [`to_document`].
pub(crate) fn to_plain_text(value: &Dynamic) -> Result<String, String> {
    let document = to_document(value)?;
    match document.root().as_str() {
        Some(text) => Ok(text.to_owned()),
        None => json_text(&document),
    }
}

/// Converts a script value to a JSON document.
///
/// # Errors
/// Names the field that JSON cannot represent: a non-finite number, a function, or too deep nesting.
pub(crate) fn to_document(value: &Dynamic) -> Result<Document, String> {
    // The size of a typical event; `finish` releases what is not used.
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

/// Whether a value was written.
#[derive(PartialEq, Eq)]
enum Written {
    Yes,
    Deleted,
}

/// Writes a value. On an error `path` holds the keys to it, innermost first.
fn write(
    value: &Dynamic,
    to: &mut Builder,
    path: &mut Vec<String>,
    depth: usize,
) -> Result<Written, String> {
    if depth > MAX_DEPTH {
        return Err(format!("is nested more than {MAX_DEPTH} levels deep"));
    }
    // Checked one by one, the most common first, because `Dynamic` hides its variants.
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
    } else if let Some(number) = value.read_lock::<Decimal>() {
        decimal(&number, to);
    } else if value.is_fnptr() {
        return Err("is a function, which JSON cannot represent".into());
    } else {
        let name = value.type_name();
        return Err(format!("is a {name}, which JSON cannot represent"));
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

/// Writes a decimal. One that fits 64 bits becomes an ordinary integer.
fn decimal(number: &Decimal, to: &mut Builder) {
    let (units, scale) = number.parts();
    match (u64::try_from(units), scale) {
        (Ok(whole), 0) => to.scalar(Scalar::Unsigned(whole)),
        _ => to.scalar(Scalar::Number(&number.to_string())),
    }
}

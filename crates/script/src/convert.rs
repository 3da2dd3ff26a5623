//! Between script values and JSON.

use rhai::{Array, Dynamic, Map};
use serde_json::{Number, Value};

/// As deep as `serde_json` reads.
const MAX_DEPTH: usize = 128;

/// What `deleted()` gives: a field of this value is left out, a message of this value is dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deleted;

/// A whole number above `i64::MAX`, which scripts carry but cannot calculate with: a decimal number
/// would lose digits without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsigned(pub(crate) u64);

/// A script value as JSON.
///
/// # Errors
/// Names the field that holds something JSON cannot say: a number that is not finite, a function,
/// too much depth.
pub(crate) fn to_json(value: Dynamic) -> Result<Value, String> {
    let mut path = Vec::new();
    json(value, &mut path).map_err(|reason| {
        if path.is_empty() {
            return format!("the result {reason}");
        }
        path.reverse();
        format!("`{}` {reason}", path.concat().trim_start_matches('.'))
    })
}

fn json(value: Dynamic, path: &mut Vec<String>) -> Result<Value, String> {
    convert(value, path, 0).map(|value| value.unwrap_or(Value::Null))
}

/// `None` for a deleted value. On an error the path grows from the inside out.
fn convert(value: Dynamic, path: &mut Vec<String>, depth: usize) -> Result<Option<Value>, String> {
    if depth > MAX_DEPTH {
        return Err(format!("is nested more than {MAX_DEPTH} levels deep"));
    }
    // Checked one by one, cheapest first; `Dynamic` does not show its variants.
    if value.is_string() {
        let text = value.into_immutable_string().map_err(str::to_owned)?;
        return Ok(Some(Value::String(text.into_owned())));
    }
    if let Ok(number) = value.as_int() {
        return Ok(Some(Value::from(number)));
    }
    if value.is_map() {
        return object(value, path, depth).map(Some);
    }
    if let Ok(number) = value.as_float() {
        return Number::from_f64(number)
            .map(|number| Some(Value::Number(number)))
            .ok_or_else(|| format!("is not a finite number: {number}"));
    }
    if value.is_unit() {
        return Ok(Some(Value::Null));
    }
    if let Ok(value) = value.as_bool() {
        return Ok(Some(Value::Bool(value)));
    }
    if value.is_array() {
        return array(value, path, depth).map(Some);
    }
    other(value, path, depth)
}

fn object(value: Dynamic, path: &mut Vec<String>, depth: usize) -> Result<Value, String> {
    let map = value.try_cast::<Map>().unwrap_or_default();
    // The fields are in order and gathered in one place, so the map is built in one go.
    let mut fields = Vec::with_capacity(map.len());
    for (key, value) in map {
        match convert(value, path, depth + 1) {
            Ok(Some(value)) => fields.push((String::from(key), value)),
            Ok(None) => {}
            Err(reason) => {
                path.push(format!(".{key}"));
                return Err(reason);
            }
        }
    }
    Ok(Value::Object(fields.into_iter().collect()))
}

fn array(value: Dynamic, path: &mut Vec<String>, depth: usize) -> Result<Value, String> {
    let array = value.try_cast::<Array>().unwrap_or_default();
    let mut items = Vec::with_capacity(array.len());
    for (index, value) in array.into_iter().enumerate() {
        match convert(value, path, depth + 1) {
            Ok(Some(value)) => items.push(value),
            Ok(None) => {}
            Err(reason) => {
                path.push(format!("[{index}]"));
                return Err(reason);
            }
        }
    }
    Ok(Value::Array(items))
}

fn other(value: Dynamic, path: &mut Vec<String>, depth: usize) -> Result<Option<Value>, String> {
    if value.is_shared() {
        return convert(value.flatten(), path, depth);
    }
    if value.is::<Deleted>() {
        return Ok(None);
    }
    if let Ok(character) = value.as_char() {
        return Ok(Some(Value::String(character.to_string())));
    }
    match value.try_cast_result::<Unsigned>() {
        Ok(Unsigned(number)) => Ok(Some(Value::from(number))),
        Err(value) if value.is_fnptr() => Err("is a function, which JSON cannot hold".into()),
        Err(value) => Err(format!(
            "is a {}, which JSON cannot hold",
            value.type_name()
        )),
    }
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

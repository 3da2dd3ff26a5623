//! Functions for arrays and objects.

use std::{
    cmp::Ordering,
    collections::{HashSet, btree_map::Entry},
};

use rhai::{
    Array, Dynamic, Engine, EvalAltResult, FnPtr, FuncRegistration, INT, Map, NativeCallContext,
    Position,
};

use super::{NativeResult, values};
use crate::{
    context,
    convert::{self, Deleted},
    cpu,
    decimal::Decimal,
    error::type_name,
    exact::Number,
    prefix,
};

pub(super) fn register(engine: &mut Engine) {
    /// Registers a function that takes its first argument by reference without changing it, so that
    /// `this` is passed without a copy. Here and below maps and arrays are wrapped explicitly, because
    /// the interpreter's conversion builds them twice.
    macro_rules! reading {
        ($name:expr, $function:expr) => {
            FuncRegistration::new($name)
                .with_purity(true)
                .register_into_engine(engine, $function);
        };
    }
    reading!("filter", |call: NativeCallContext,
                        items: &mut Array,
                        f: FnPtr| {
        filter_array(&call, items, &f).map(Dynamic::from_array)
    });
    reading!("filter", |call: NativeCallContext,
                        fields: &mut Map,
                        f: FnPtr| {
        filter_map(&call, fields, &f).map(Dynamic::from_map)
    });
    reading!("map_each", |call: NativeCallContext,
                          items: &mut Array,
                          f: FnPtr| {
        map_each_array(&call, items, &f).map(Dynamic::from_array)
    });
    reading!("map_each", |call: NativeCallContext,
                          fields: &mut Map,
                          f: FnPtr| {
        map_each_map(&call, fields, &f).map(Dynamic::from_map)
    });
    reading!("map_each_key", |call: NativeCallContext,
                              fields: &mut Map,
                              f: FnPtr| {
        map_each_key(&call, fields, &f).map(Dynamic::from_map)
    });
    reading!(
        "select_prefix",
        |call: NativeCallContext, fields: &mut Map, prefix: &str| {
            select_prefix(&call, fields, prefix).map(Dynamic::from_map)
        }
    );
    reading!("length", |items: &mut Array| length(items.len()));
    reading!("length", |fields: &mut Map| length(fields.len()));
    reading!("index", index);
    reading!("sum", sum);
    reading!("unique", |items: &mut Array| unique(items)
        .map(Dynamic::from_array));
    reading!("sort", |items: &mut Array| {
        sorted(items, &mut compare).map(Dynamic::from_array)
    });
    reading!("sort_by", |call: NativeCallContext,
                         items: &mut Array,
                         f: FnPtr| {
        sort_by(&call, items, &f).map(Dynamic::from_array)
    });
    reading!("get", |fields: &mut Map, path: &str| at(fields, path)
        .unwrap_or_default());
    reading!("exists", |fields: &mut Map, path: &str| at(fields, path)
        .is_some());
    for name in ["sort", "order"] {
        reading!(name, |call: NativeCallContext,
                        items: &mut Array,
                        f: FnPtr| {
            sort_with(&call, items, &f).map(Dynamic::from_array)
        });
    }
    engine.register_fn("length", |text: &str| length(text.chars().count()));
    engine.register_fn("assign", |into: Map, from: Map| {
        Dynamic::from_map(assign(into, from))
    });
    engine.register_fn("assign", |into: Map, from: Map, then: Map| {
        Dynamic::from_map(assign(assign(into, from), then))
    });
    engine.register_fn("merge", |into: Map, from: Map| {
        Dynamic::from_map(merge(into, from))
    });
    engine.register_fn("merge", |mut into: Array, from: Array| {
        into.extend(from);
        Dynamic::from_array(into)
    });
}

fn call(context: &NativeCallContext<'_>, function: &FnPtr, item: Dynamic) -> NativeResult<Dynamic> {
    function.call_raw(context, None, [item])
}

fn keeps(context: &NativeCallContext<'_>, function: &FnPtr, item: Dynamic) -> NativeResult<bool> {
    call(context, function, item)?.as_bool().map_err(|got| {
        let got = type_name(got);
        format!("the function of filter() must return true or false, but returned {got}").into()
    })
}

/// Returns a field as the argument of a function value.
fn entry(key: &str, value: &Dynamic) -> Dynamic {
    let mut entry = Map::new();
    entry.insert("key".into(), key.into());
    entry.insert("value".into(), value.clone());
    Dynamic::from_map(entry)
}

fn filter_array(
    context: &NativeCallContext<'_>,
    items: &Array,
    function: &FnPtr,
) -> NativeResult<Array> {
    let mut kept = Array::new();
    for item in items.iter() {
        if keeps(context, function, item.clone())? {
            kept.push(item.clone());
        }
    }
    Ok(kept)
}

fn filter_map(
    context: &NativeCallContext<'_>,
    fields: &Map,
    function: &FnPtr,
) -> NativeResult<Map> {
    let mut kept = Map::new();
    for (key, value) in fields.iter() {
        if keeps(context, function, entry(key, value))? {
            kept.insert(key.clone(), value.clone());
        }
    }
    Ok(kept)
}

fn map_each_array(
    context: &NativeCallContext<'_>,
    items: &Array,
    function: &FnPtr,
) -> NativeResult<Array> {
    let mut mapped = Array::with_capacity(items.len());
    for item in items.iter() {
        let item = call(context, function, item.clone())?;
        if !item.is::<Deleted>() {
            mapped.push(item);
        }
    }
    Ok(mapped)
}

fn map_each_map(
    context: &NativeCallContext<'_>,
    fields: &Map,
    function: &FnPtr,
) -> NativeResult<Map> {
    let mut mapped = Map::new();
    for (key, value) in fields.iter() {
        let value = call(context, function, entry(key, value))?;
        if !value.is::<Deleted>() {
            mapped.insert(key.clone(), value);
        }
    }
    Ok(mapped)
}

fn map_each_key(
    context: &NativeCallContext<'_>,
    fields: &Map,
    function: &FnPtr,
) -> NativeResult<Map> {
    let mut mapped = Map::new();
    for (key, value) in fields.iter() {
        let new = call(context, function, key.as_str().into())?;
        if new.is::<Deleted>() {
            continue;
        }
        match new.as_immutable_string_ref() {
            Ok(new) => mapped.insert(new.as_str().into(), value.clone()),
            Err(got) => {
                let got = type_name(got);
                return Err(format!("a key must be text, but this is {got}").into());
            }
        };
    }
    Ok(mapped)
}

fn length(length: usize) -> INT {
    INT::try_from(length).unwrap_or(INT::MAX)
}

/// Returns the item at a position; negative positions count from the end.
fn index(items: &mut Array, index: INT) -> NativeResult<Dynamic> {
    let length = length(items.len());
    let position = if index < 0 {
        index.saturating_add(length)
    } else {
        index
    };
    usize::try_from(position)
        .ok()
        .and_then(|position| items.get(position))
        .cloned()
        .ok_or_else(|| format!("there is no item {index} in an array of {length}").into())
}

/// Returns a field by its name, or by a path of names separated by dots.
fn at(fields: &Map, path: &str) -> Option<Dynamic> {
    if let Some(value) = fields.get(path) {
        return Some(value.clone());
    }
    let mut names = path.split('.');
    let mut value = fields.get(names.next()?)?.clone();
    for name in names {
        value = if let Ok(fields) = value.as_map_ref() {
            fields.get(name)?.clone()
        } else {
            value
                .as_array_ref()
                .ok()?
                .get(name.parse::<usize>().ok()?)?
                .clone()
        };
    }
    Some(value)
}

/// Merges two objects: fields of the second replace those of the first, and objects on both sides are
/// merged.
fn assign(mut into: Map, mut from: Map) -> Map {
    // The smaller one is merged into the larger one.
    if into.len() < from.len() {
        for (key, old) in into {
            match from.entry(key) {
                Entry::Vacant(place) => {
                    place.insert(old);
                }
                Entry::Occupied(mut place) => {
                    if old.is_map() && place.get().is_map() {
                        let new = std::mem::take(place.get_mut());
                        *place.get_mut() = Dynamic::from_map(assign(old.cast(), new.cast()));
                    }
                }
            }
        }
        return from;
    }
    for (key, new) in from {
        match into.entry(key) {
            Entry::Vacant(place) => {
                place.insert(new);
            }
            Entry::Occupied(mut place) => {
                let place = place.get_mut();
                *place = if new.is_map() && place.is_map() {
                    Dynamic::from_map(assign(std::mem::take(place).cast(), new.cast()))
                } else {
                    new
                };
            }
        }
    }
    into
}

/// Returns the fields with the prefix, named without it, and notes what was omitted or truncated.
fn select_prefix(call: &NativeCallContext<'_>, fields: &Map, prefix: &str) -> NativeResult<Map> {
    let (selected, mut cut) = prefix::select(fields, prefix);
    let context = context::of(call)?;
    cut.fields += context.skipped(prefix);
    context.note_cut(prefix, &cut);
    Ok(selected)
}

/// Merges two objects like `assign`, but if both sides have a value, both are kept in an array.
fn merge(mut into: Map, from: Map) -> Map {
    for (key, value) in from {
        let value = match into.remove(&key) {
            None => value,
            Some(old) if old.is_map() && value.is_map() => {
                Dynamic::from_map(merge(old.cast(), value.cast()))
            }
            Some(old) => {
                let mut both = items(old);
                both.extend(items(value));
                Dynamic::from_array(both)
            }
        };
        into.insert(key, value);
    }
    into
}

fn items(value: Dynamic) -> Array {
    value
        .try_cast_result::<Array>()
        .unwrap_or_else(|value| vec![value])
}

fn sum(items: &mut Array) -> NativeResult<Dynamic> {
    let mut whole: INT = 0;
    let mut rest: Option<Decimal> = None;
    for item in items.iter() {
        if let Ok(number) = item.as_int()
            && let Some(sum) = whole.checked_add(number)
        {
            whole = sum;
            continue;
        }
        let Some(number) = values::number_of(item) else {
            let got = match item.as_float() {
                Ok(number) => number.to_string(),
                Err(got) => type_name(got),
            };
            return Err(format!("sum() takes numbers, but this is {got}").into());
        };
        rest = Some(rest.map_or(number.clone(), |rest| rest.plus(&number)));
    }
    Ok(match rest {
        Some(rest) => Number::exact(rest.plus(&whole.into()))?.into(),
        None => whole.into(),
    })
}

/// Returns the items without duplicates, in the order of their first occurrence.
fn unique(items: &Array) -> NativeResult<Array> {
    let mut seen = HashSet::new();
    let mut kept = Array::new();
    for item in items.iter() {
        if seen.insert(convert::to_text(item)?) {
            kept.push(item.clone());
        }
    }
    Ok(kept)
}

/// Compares numbers by value and texts by characters; false sorts before true.
fn compare(a: &Dynamic, b: &Dynamic) -> NativeResult<Ordering> {
    if let (Ok(a), Ok(b)) = (a.as_int(), b.as_int()) {
        return Ok(a.cmp(&b));
    }
    if let (Ok(a), Ok(b)) = (a.as_float(), b.as_float()) {
        return Ok(a.total_cmp(&b));
    }
    if let (Some(a), Some(b)) = (values::number_of(a), values::number_of(b)) {
        return Ok(a.cmp(&b));
    }
    if let (Ok(a), Ok(b)) = (a.as_immutable_string_ref(), b.as_immutable_string_ref()) {
        return Ok(a.as_str().cmp(b.as_str()));
    }
    if let (Ok(a), Ok(b)) = (a.as_bool(), b.as_bool()) {
        return Ok(a.cmp(&b));
    }
    let (a, b) = (type_name(a.type_name()), type_name(b.type_name()));
    Err(format!("cannot compare {a} with {b}; sort items of one type").into())
}

fn sort_by(
    context: &NativeCallContext<'_>,
    items: &Array,
    function: &FnPtr,
) -> NativeResult<Array> {
    let mut keyed = Vec::with_capacity(items.len());
    for item in items.iter() {
        keyed.push((call(context, function, item.clone())?, item.clone()));
    }
    let sorted = sorted(&keyed, &mut |a, b| compare(&a.0, &b.0))?;
    Ok(sorted.into_iter().map(|(_, item)| item).collect())
}

/// Compares two items by a function, which returns a number (below, equal to or above 0) or whether the
/// first comes first.
fn sort_with(
    context: &NativeCallContext<'_>,
    items: &Array,
    function: &FnPtr,
) -> NativeResult<Array> {
    sorted(items, &mut |a, b| {
        let answer = function.call_raw(context, None, [a.clone(), b.clone()])?;
        match (answer.as_int(), answer.as_bool()) {
            (Ok(number), _) => Ok(number.cmp(&0)),
            (_, Ok(true)) => Ok(Ordering::Less),
            (_, Ok(false)) => Ok(Ordering::Greater),
            _ => Err("the function of sort() must return a number, or true or false".into()),
        }
    })
}

/// A stable merge sort. Unlike the one of the standard library it stops at the first error, so that a
/// script beyond its time limit ends, and it accepts inconsistent orders.
fn sorted<T: Clone>(
    items: &[T],
    compare: &mut dyn FnMut(&T, &T) -> NativeResult<Ordering>,
) -> NativeResult<Vec<T>> {
    if items.len() < 2 {
        return Ok(items.to_vec());
    }
    if cpu::is_exceeded() {
        // The error with which the interpreter ends a run beyond its time limit.
        return Err(EvalAltResult::ErrorTerminated(Dynamic::UNIT, Position::NONE).into());
    }
    let (left, right) = items.split_at(items.len() / 2);
    let (left, right) = (sorted(left, compare)?, sorted(right, compare)?);
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    let mut merged = Vec::with_capacity(items.len());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if compare(a, b)? == Ordering::Greater && compare(b, a)? != Ordering::Greater {
            right.next()
        } else {
            left.next()
        };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}

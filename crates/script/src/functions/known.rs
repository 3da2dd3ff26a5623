//! The functions of Rhai 1.27 in the enabled packages, and those that are part of its syntax. A script
//! can call these and the functions of the library; any other call is an error before the script runs.

/// Names and signatures, sorted by name. A name that the library also has lists additional forms here.
/// Signatures have the syntax of [`FunctionDoc`](super::FunctionDoc).
const RHAI: &[(&str, &str)] = &[
    ("E", "E()"),
    ("Fn", "Fn(name)"),
    ("PI", "PI()"),
    ("acos", "number.acos()"),
    ("acosh", "number.acosh()"),
    ("all", "array.all(|item| …)"),
    ("append", "array.append(array), text.append(value)"),
    ("asin", "number.asin()"),
    ("asinh", "number.asinh()"),
    ("atan", "number.atan(), number.atan(number)"),
    ("atanh", "number.atanh()"),
    (
        "bits",
        "integer.bits(), integer.bits(start), integer.bits(range), integer.bits(start, count)",
    ),
    ("bytes", "text.bytes()"),
    ("call", "function.call(…)"),
    ("ceiling", "number.ceiling()"),
    (
        "chars",
        "text.chars(), text.chars(start), text.chars(range), text.chars(start, count)",
    ),
    ("chop", "array.chop(count)"),
    ("clear", "array.clear(), object.clear(), text.clear()"),
    (
        "contains",
        "text.contains(text), text.contains(character), array.contains(value), object.contains(key), range.contains(integer)",
    ),
    ("cos", "number.cos()"),
    ("cosh", "number.cosh()"),
    (
        "crop",
        "text.crop(start), text.crop(range), text.crop(start, count)",
    ),
    ("curry", "function.curry(…)"),
    ("dedup", "array.dedup(), array.dedup(|a, b| …)"),
    (
        "drain",
        "array.drain(|item| …), array.drain(range), array.drain(start, count), object.drain(|key| …)",
    ),
    ("end", "range.end()"),
    (
        "ends_with",
        "text.ends_with(text), text.ends_with(character)",
    ),
    ("exp", "number.exp()"),
    (
        "extract",
        "array.extract(start), array.extract(range), array.extract(start, count)",
    ),
    ("fill_with", "object.fill_with(object)"),
    ("find", "array.find(|item| …), array.find(|item| …, start)"),
    (
        "find_map",
        "array.find_map(|item| …), array.find_map(|item| …, start)",
    ),
    ("for_each", "array.for_each(|item| …)"),
    ("fraction", "number.fraction()"),
    ("get", "array.get(position), text.get(position)"),
    ("hypot", "number.hypot(number)"),
    (
        "index_of",
        "text.index_of(text), text.index_of(character), text.index_of(text, start), text.index_of(character, start), array.index_of(value), array.index_of(value, start)",
    ),
    ("insert", "array.insert(position, value)"),
    ("int", "number.int()"),
    ("is_anonymous", "function.is_anonymous()"),
    (
        "is_def_fn",
        "is_def_fn(name, count), is_def_fn(type, name, count)",
    ),
    ("is_def_var", "is_def_var(name)"),
    (
        "is_empty",
        "text.is_empty(), array.is_empty(), object.is_empty(), range.is_empty()",
    ),
    ("is_even", "integer.is_even()"),
    ("is_exclusive", "range.is_exclusive()"),
    ("is_finite", "number.is_finite()"),
    ("is_inclusive", "range.is_inclusive()"),
    ("is_infinite", "number.is_infinite()"),
    ("is_nan", "number.is_nan()"),
    ("is_odd", "integer.is_odd()"),
    ("is_shared", "is_shared(value)"),
    ("is_zero", "number.is_zero()"),
    ("keys", "object.keys()"),
    ("len", "text.len(), array.len(), object.len()"),
    ("ln", "number.ln()"),
    ("log", "number.log(), number.log(number)"),
    ("make_lower", "text.make_lower(), character.make_lower()"),
    ("make_upper", "text.make_upper(), character.make_upper()"),
    ("map", "array.map(|item| …), object.map(|key| …)"),
    ("max", "value.max(value)"),
    ("min", "value.min(value)"),
    ("mixin", "object.mixin(object)"),
    ("name", "function.name()"),
    ("order", "array.order(), array.order(|a, b| …)"),
    ("order_by", "array.order_by(|a, b| …)"),
    ("order_desc", "array.order_desc()"),
    (
        "pad",
        "array.pad(count, value), text.pad(count, text), text.pad(count, character)",
    ),
    ("parse_float", "text.parse_float()"),
    ("parse_int", "text.parse_int(), text.parse_int(integer)"),
    ("pop", "array.pop(), text.pop(), text.pop(count)"),
    ("push", "array.push(value)"),
    (
        "range",
        "range(number, number), range(range, number), range(number, number, number)",
    ),
    (
        "reduce",
        "array.reduce(|result, item| …), array.reduce(|result, item| …, value)",
    ),
    (
        "reduce_rev",
        "array.reduce_rev(|result, item| …), array.reduce_rev(|result, item| …, value)",
    ),
    (
        "remove",
        "array.remove(position), object.remove(key), text.remove(text), text.remove(character)",
    ),
    (
        "replace",
        "text.replace(text, text), text.replace(text, character), text.replace(character, text), text.replace(character, character)",
    ),
    ("resource_quantity", "number.resource_quantity()"),
    (
        "retain",
        "array.retain(|item| …), array.retain(range), array.retain(start, count), object.retain(|key| …)",
    ),
    ("reverse", "array.reverse()"),
    (
        "set",
        "array.set(position, value), object.set(key, value), text.set(position, character)",
    ),
    ("shift", "array.shift()"),
    ("sign", "number.sign()"),
    ("sin", "number.sin()"),
    ("sinh", "number.sinh()"),
    ("some", "array.some(|item| …)"),
    ("sort_desc", "array.sort_desc()"),
    (
        "splice",
        "array.splice(range, array), array.splice(start, count, array)",
    ),
    (
        "split",
        "text.split(), text.split(text), text.split(character), text.split(position), text.split(text, count), text.split(character, count), array.split(position)",
    ),
    (
        "split_rev",
        "text.split_rev(text), text.split_rev(character), text.split_rev(text, count), text.split_rev(character, count)",
    ),
    ("sqrt", "number.sqrt()"),
    ("start", "range.start()"),
    (
        "starts_with",
        "text.starts_with(text), text.starts_with(character)",
    ),
    (
        "sub_string",
        "text.sub_string(start), text.sub_string(range), text.sub_string(start, count)",
    ),
    ("tan", "number.tan()"),
    ("tanh", "number.tanh()"),
    ("to_binary", "integer.to_binary()"),
    ("to_blob", "text.to_blob()"),
    ("to_chars", "text.to_chars()"),
    ("to_debug", "value.to_debug()"),
    ("to_degrees", "number.to_degrees()"),
    ("to_float", "number.to_float()"),
    ("to_hex", "integer.to_hex()"),
    ("to_int", "number.to_int(), character.to_int()"),
    ("to_json", "value.to_json()"),
    ("to_lower", "text.to_lower(), character.to_lower()"),
    ("to_octal", "integer.to_octal()"),
    ("to_radians", "number.to_radians()"),
    ("to_string", "value.to_string()"),
    ("to_upper", "text.to_upper(), character.to_upper()"),
    ("truncate", "array.truncate(count), text.truncate(count)"),
    ("type_of", "type_of(value)"),
    ("values", "object.values()"),
    ("zip", "array.zip(array, |a, b| …)"),
];

/// Returns the signatures of Rhai's own function of this name.
pub(super) fn rhai(name: &str) -> Option<&'static str> {
    let found = RHAI.binary_search_by_key(&name, |(known, _)| known);
    found.ok().and_then(|at| RHAI.get(at)).map(|(_, it)| *it)
}

/// Returns the names of Rhai's own functions.
pub(super) fn rhai_names() -> impl Iterator<Item = &'static str> {
    RHAI.iter().map(|(name, _)| *name)
}

/// Whether a script can call a function of this name.
pub(crate) fn is_known(name: &str) -> bool {
    rhai(name).is_some() || super::purity(name).is_some()
}

/// Rhai's own functions that may change their receiver.
const CHANGING: &[&str] = &[
    "append",
    "call",
    "chop",
    "clear",
    "crop",
    "dedup",
    "drain",
    "fill_with",
    "for_each",
    "insert",
    "make_lower",
    "make_upper",
    "mixin",
    "pad",
    "pop",
    "push",
    "remove",
    "replace",
    "retain",
    "reverse",
    "set",
    "shift",
    "sort_desc",
    "splice",
    "truncate",
];

/// Whether a function may change its first argument or receiver. Those of the library do not.
pub(crate) fn changes_its_argument(name: &str) -> bool {
    CHANGING.contains(&name) || !is_known(name)
}

/// Returns the known function name that is most similar to this one, if any is similar.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    let own = super::docs().iter().map(|doc| doc.name);
    meterline_core::nearest(name, own.chain(rhai_names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_for_the_binary_search() {
        assert!(RHAI.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn a_typo_finds_the_intended_name() {
        assert_eq!(nearest("pod_reqest"), Some("pod_request"));
        assert_eq!(nearest("has_prefx"), Some("has_prefix"));
        assert_eq!(nearest("frobnicate"), None);
    }
}

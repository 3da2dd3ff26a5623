//! What is said of the functions for arrays and objects.

use super::{Example, FunctionDoc, Group, Purity};

/// A function for arrays and objects, all of which are pure.
const fn doc(
    name: &'static str,
    signature: &'static str,
    summary: &'static str,
    examples: &'static [Example],
) -> FunctionDoc {
    FunctionDoc {
        name,
        signature,
        summary,
        group: Group::Collections,
        purity: Purity::Pure,
        examples,
    }
}

const fn example(script: &'static str, output: &'static str) -> Example {
    Example {
        script,
        input: r#"{"labels":{"a/x":"1","b":"2"},"list":[3,1,2,3]}"#,
        output,
    }
}

pub(super) const DOCS: &[FunctionDoc] = &[
    doc(
        "filter",
        "array.filter(|item| …) -> array, object.filter(|item| …) -> object",
        "The items for which the function says true. The items of an object are `#{ key, value }`.",
        &[
            example("this.list.filter(|n| n > 1)", "[3,2,3]"),
            example(
                r#"this.labels.filter(|item| item.key.has_prefix("a/"))"#,
                r#"{"a/x":"1"}"#,
            ),
        ],
    ),
    doc(
        "map_each",
        "array.map_each(|item| …) -> array, object.map_each(|item| …) -> object",
        "What the function makes of each item; `deleted()` leaves it out. Of an object the values \
         are replaced; its items are `#{ key, value }`.",
        &[
            example(
                "this.list.map_each(|n| if n == 3 { deleted() } else { n * 2 })",
                "[2,4]",
            ),
            example(
                "this.labels.map_each(|item| item.key + item.value)",
                r#"{"a/x":"a/x1","b":"b2"}"#,
            ),
        ],
    ),
    doc(
        "map_each_key",
        "object.map_each_key(|key| …) -> object",
        "The object with its keys renamed; `deleted()` leaves a field out.",
        &[example(
            r#"this.labels.map_each_key(|key| key.trim_prefix("a/"))"#,
            r#"{"b":"2","x":"1"}"#,
        )],
    ),
    doc(
        "select_prefix",
        "object.select_prefix(prefix) -> object",
        "The fields whose name starts with the prefix, without the prefix: `filter` and \
         `map_each_key` in one, and much faster. It takes at most 64 fields, in the order of their \
         keys, 4 KiB of a value and 32 KiB of all values; what is beyond is cut, counted in \
         `mapping_left_out` and logged once for each object.",
        &[example(
            r#"this.labels.select_prefix("a/")"#,
            r#"{"x":"1"}"#,
        )],
    ),
    doc(
        "assign",
        "object.assign(other) -> object, object.assign(other, another) -> object",
        "All objects in one. Where several have a field that of the last counts; objects are merged \
         all the way down.",
        &[
            example(
                "#{ a: 1, b: #{ c: 2 } }.assign(#{ a: 9, b: #{ d: 3 } })",
                r#"{"a":9,"b":{"c":2,"d":3}}"#,
            ),
            example(
                "#{ a: 1 }.assign(#{ a: 2, b: 2 }, #{ b: 3 })",
                r#"{"a":2,"b":3}"#,
            ),
        ],
    ),
    doc(
        "merge",
        "object.merge(other) -> object, array.merge(other) -> array",
        "As `assign`, but where both have a field both values are kept, in an array. Arrays are \
         joined.",
        &[example(
            "#{ a: 1, b: #{ c: 2 } }.merge(#{ a: [9], b: #{ d: 3 } })",
            r#"{"a":[1,9],"b":{"c":2,"d":3}}"#,
        )],
    ),
    doc(
        "get",
        "object.get(path)",
        "The field of this name or, with dots between names and positions, deeper down; () where \
         there is none.",
        &[example(
            r#"[this.get("list.1"), this.get("labels.b"), this.get("labels.z.y")]"#,
            r#"[1,"2",null]"#,
        )],
    ),
    doc(
        "exists",
        "object.exists(path) -> bool",
        "Whether the field is there, even if its value is null.",
        &[example(
            r#"[this.exists("labels.b"), this.exists("labels.z")]"#,
            "[true,false]",
        )],
    ),
    doc(
        "index",
        "array.index(position)",
        "The item at a position, from 0; a negative position counts from the end. An error where \
         there is none.",
        &[
            example("[this.list.index(0), this.list.index(-2)]", "[3,2]"),
            example(
                "this.list.index(4)",
                "line 1, column 11: there is no item 4 in an array of 4",
            ),
        ],
    ),
    doc(
        "length",
        "array.length() -> integer, object.length() -> integer, text.length() -> integer",
        "How many items, fields or characters, as `len`.",
        &[example(
            r#"[this.list.length(), this.labels.length(), "é".length()]"#,
            "[4,2,1]",
        )],
    ),
    doc(
        "sum",
        "array.sum() -> number",
        "The sum of numbers: an integer if all are, and an error where 64 bits do not hold it.",
        &[example(
            "[this.list.sum(), [0.5, 1].sum(), [].sum()]",
            "[9,1.5,0]",
        )],
    ),
    doc(
        "unique",
        "array.unique() -> array",
        "The items without repetitions, each where it first occurs.",
        &[example("this.list.unique()", "[3,1,2]")],
    ),
    doc(
        "sort",
        "array.sort() -> array, array.sort(|a, b| …) -> array",
        "The items in order: numbers, texts or booleans, or as a function of two items says with a \
         number (as in `a - b`) or with whether the first comes first. (Rhai's own changes its \
         array and gives nothing; this one gives the result.)",
        &[example(
            "[this.list.sort(), this.list.sort(|a, b| a > b)]",
            "[[1,2,3,3],[3,3,2,1]]",
        )],
    ),
    doc(
        "sort_by",
        "array.sort_by(|item| …) -> array",
        "The items in the order of what the function makes of them.",
        &[example("this.list.sort_by(|n| -n)", "[3,3,2,1]")],
    ),
];

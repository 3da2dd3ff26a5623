//! The documentation of the functions for arrays and objects.

use super::{Example, FunctionDoc, Group, Purity};

/// Documents a function for arrays and objects, all of which are pure.
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
        "Returns the items for which the function returns true. The items of an object are \
         `#{ key, value }`.",
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
        "Returns the results of the function for all items; an item with the result `deleted()` is \
         omitted. For an object the values are replaced; its items are `#{ key, value }`.",
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
        "Returns the object with its keys renamed by the function; a field with the result \
         `deleted()` is omitted.",
        &[example(
            r#"this.labels.map_each_key(|key| key.trim_prefix("a/"))"#,
            r#"{"b":"2","x":"1"}"#,
        )],
    ),
    doc(
        "select_prefix",
        "object.select_prefix(prefix) -> object",
        "Returns the fields whose name starts with the prefix, named without the prefix. This \
         combines `filter` and `map_each_key`, and is much faster. The limits are 64 fields, in the \
         order of their keys, 4 KiB per value and 32 KiB for all values; the rest is omitted, \
         counted in `mapping_left_out` and logged once per object.",
        &[example(
            r#"this.labels.select_prefix("a/")"#,
            r#"{"x":"1"}"#,
        )],
    ),
    doc(
        "assign",
        "object.assign(other) -> object, object.assign(other, another) -> object",
        "Merges all objects recursively. If several have the same field, the last one counts.",
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
        "As `assign`, but if both have the same field, the result has both values in an array. Arrays \
         are concatenated.",
        &[example(
            "#{ a: 1, b: #{ c: 2 } }.merge(#{ a: [9], b: #{ d: 3 } })",
            r#"{"a":[1,9],"b":{"c":2,"d":3}}"#,
        )],
    ),
    doc(
        "get",
        "object.get(path)",
        "Returns the field at a path, which consists of names and positions separated by dots; () if \
         there is none.",
        &[example(
            r#"[this.get("list.1"), this.get("labels.b"), this.get("labels.z.y")]"#,
            r#"[1,"2",null]"#,
        )],
    ),
    doc(
        "exists",
        "object.exists(path) -> bool",
        "Whether the field exists, even if its value is null.",
        &[example(
            r#"[this.exists("labels.b"), this.exists("labels.z")]"#,
            "[true,false]",
        )],
    ),
    doc(
        "index",
        "array.index(position)",
        "Returns the item at a position, from 0; a negative position counts from the end. A missing \
         item is an error.",
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
        "Returns the number of items, fields or characters, like `len`.",
        &[example(
            r#"[this.list.length(), this.labels.length(), "é".length()]"#,
            "[4,2,1]",
        )],
    ),
    doc(
        "sum",
        "array.sum() -> number",
        "Returns the exact sum of the numbers. A sum beyond 1.8e308 is an error.",
        &[example(
            "[this.list.sum(), [0.5, 1].sum(), [].sum()]",
            "[9,1.5,0]",
        )],
    ),
    doc(
        "unique",
        "array.unique() -> array",
        "Returns the items without duplicates, in the order of their first occurrence.",
        &[example("this.list.unique()", "[3,1,2]")],
    ),
    doc(
        "sort",
        "array.sort() -> array, array.sort(|a, b| …) -> array",
        "Returns the items sorted: numbers, texts or booleans by value, or any items by a function of \
         two items, which returns a number (as in `a - b`) or whether the first comes first. (Rhai's \
         own `sort` changes its array and returns nothing.)",
        &[example(
            "[this.list.sort(), this.list.sort(|a, b| a > b)]",
            "[[1,2,3,3],[3,3,2,1]]",
        )],
    ),
    doc(
        "sort_by",
        "array.sort_by(|item| …) -> array",
        "Returns the items sorted by the results of the function.",
        &[example("this.list.sort_by(|n| -n)", "[3,3,2,1]")],
    ),
];

//! Functions for text.

use std::fmt::Write;

use meterline_core::Document;
use rhai::{Array, Dynamic, Engine, ImmutableString};
use sha2::Digest;

use super::{Example, FunctionDoc, Group, NativeResult, Purity, values};
use crate::{
    blank, context, convert, decimal::Rounding, error::type_name, materialise, notes::Loss, prefix,
};

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "has_prefix",
        signature: "text.has_prefix(prefix) -> bool",
        summary: "Whether the text starts with the prefix.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""data.openmeter.io/team".has_prefix("data.")"#,
            input: "{}",
            output: "true",
        }],
    },
    FunctionDoc {
        name: "has_suffix",
        signature: "text.has_suffix(suffix) -> bool",
        summary: "Whether the text ends with the suffix.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""web-0".has_suffix("-0")"#,
            input: "{}",
            output: "true",
        }],
    },
    FunctionDoc {
        name: "trim_prefix",
        signature: "text.trim_prefix(prefix) -> text",
        summary: "Returns the text without the prefix, if it has the prefix.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#"["data.openmeter.io/team".trim_prefix("data.openmeter.io/"), "team".trim_prefix("x")]"#,
            input: "{}",
            output: r#"["team","team"]"#,
        }],
    },
    FunctionDoc {
        name: "trim_suffix",
        signature: "text.trim_suffix(suffix) -> text",
        summary: "Returns the text without the suffix, if it has the suffix.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""web-0".trim_suffix("-0")"#,
            input: "{}",
            output: r#""web""#,
        }],
    },
    FunctionDoc {
        name: "trim",
        signature: "text.trim() -> text",
        summary: "Returns the text without white space at its ends. (Rhai's own `trim` changes its \
                  text and returns nothing.)",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#"" a b ".trim()"#,
            input: "{}",
            output: r#""a b""#,
        }],
    },
    FunctionDoc {
        name: "nonblank",
        signature: "text.nonblank() -> text | ()",
        summary: "Returns the text without spaces and control characters at its ends, or () if no \
                  visible character is left. A text of more than 4 KiB is truncated, which is counted \
                  and logged once. For names that tenants write, such as a subject.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#"[" customer 1 ".nonblank(), "   ".nonblank() ?? "web-0"]"#,
            input: "{}",
            output: r#"["customer 1","web-0"]"#,
        }],
    },
    FunctionDoc {
        name: "uppercase",
        signature: "text.uppercase() -> text",
        summary: "Returns the text in capital letters, like `to_upper`.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""aé".uppercase()"#,
            input: "{}",
            output: r#""AÉ""#,
        }],
    },
    FunctionDoc {
        name: "lowercase",
        signature: "text.lowercase() -> text",
        summary: "Returns the text in small letters, like `to_lower`.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""AÉ".lowercase()"#,
            input: "{}",
            output: r#""aé""#,
        }],
    },
    FunctionDoc {
        name: "replace_all",
        signature: "text.replace_all(old, new) -> text",
        summary: "Returns the text with every occurrence of one text replaced by another.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""a.b.c".replace_all(".", "/")"#,
            input: "{}",
            output: r#""a/b/c""#,
        }],
    },
    FunctionDoc {
        name: "join",
        signature: "array.join(separator) -> text",
        summary: "Joins the texts of an array with the separator.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""a,b".split(",").join("; ")"#,
            input: "{}",
            output: r#""a; b""#,
        }],
    },
    FunctionDoc {
        name: "format",
        signature: "text.format(value, …) -> text",
        summary: "Returns the text with its placeholders replaced by up to eight values, in order: \
                  `%s` and `%v` (any value), `%d` (integer), `%f` and `%.2f` (number), `%x` (integer \
                  or text, in hexadecimal) and `%q` (JSON). `%%` is a percent sign.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[
            Example {
                script: r#""%s has %d, %.2f%% of %v".format("web", 3, 12.345, [24])"#,
                input: "{}",
                output: r#""web has 3, 12.35% of [24]""#,
            },
            Example {
                script: r#""%d".format("three")"#,
                input: "{}",
                output: "line 1, column 6: %d takes an integer, but this is text",
            },
        ],
    },
    FunctionDoc {
        name: "hash",
        signature: "text.hash(algorithm) -> text",
        summary: "Returns the hash in hexadecimal; the algorithm is `sha256`, `sha224`, `sha384` or \
                  `sha512`.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""abc".hash("sha256")"#,
            input: "{}",
            output: r#""ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad""#,
        }],
    },
    FunctionDoc {
        name: "parse_json",
        signature: "text.parse_json()",
        summary: "Parses JSON.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#""{\"a\":[1,2]}".parse_json().a[1]"#,
            input: "{}",
            output: "2",
        }],
    },
    FunctionDoc {
        name: "format_json",
        signature: "value.format_json() -> text",
        summary: "Returns the value as compact JSON.",
        group: Group::Text,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#"#{ a: [1, ()] }.format_json()"#,
            input: "{}",
            output: r#""{\"a\":[1,null]}""#,
        }],
    },
];

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("has_prefix", |text: &str, prefix: &str| {
        text.starts_with(prefix)
    });
    engine.register_fn("has_suffix", |text: &str, suffix: &str| {
        text.ends_with(suffix)
    });
    engine.register_fn(
        "trim_prefix",
        |text: ImmutableString, prefix: &str| match text.strip_prefix(prefix) {
            Some(rest) => rest.into(),
            None => text,
        },
    );
    engine.register_fn(
        "trim_suffix",
        |text: ImmutableString, suffix: &str| match text.strip_suffix(suffix) {
            Some(rest) => rest.into(),
            None => text,
        },
    );
    engine.register_fn("trim", |text: &str| -> ImmutableString {
        text.trim().into()
    });
    engine.register_fn("nonblank", nonblank);
    engine.register_fn("uppercase", |text: &str| text.to_uppercase());
    engine.register_fn("lowercase", |text: &str| text.to_lowercase());
    engine.register_fn("replace_all", replace_all);
    engine.register_fn("join", |items: Array, separator: &str| {
        join(&items, separator)
    });
    engine.register_fn("hash", hash);
    engine.register_fn("parse_json", |text: &str| -> NativeResult<Dynamic> {
        let document = Document::from_json(text.as_bytes())
            .map_err(|error| format!("the text is not valid JSON: {error}"))?;
        Ok(materialise::whole(document.root()))
    });
    for name in ["format_json", "to_json"] {
        engine.register_fn(name, |value: Dynamic| -> NativeResult<String> {
            Ok(convert::to_text(&value)?)
        });
    }
    // Rhai's own `to_json` is for objects only, and writes non-finite numbers.
    engine.register_fn("to_json", |map: rhai::Map| -> NativeResult<String> {
        Ok(convert::to_text(&Dynamic::from_map(map))?)
    });
    register_format(engine);
}

/// Trims a text that names something. It is limited in length, because users may write it.
pub(super) fn nonblank(call: rhai::NativeCallContext, text: &str) -> NativeResult<Dynamic> {
    let Some(text) = blank::trimmed(text) else {
        return Ok(Dynamic::UNIT);
    };
    let start = prefix::start(text, prefix::VALUE);
    if start.len() < text.len() {
        let shown = prefix::start(text, 40);
        let reason = format!(
            "the text `{shown}…` is truncated to {} KiB",
            prefix::VALUE >> 10
        );
        context::of(&call)?.note(Loss::Text, reason);
    }
    Ok(start.into())
}

/// Replaces texts. The interpreter checks the size of a result only afterwards, so this checks it before
/// building the text.
fn replace_all(
    call: rhai::NativeCallContext,
    text: &str,
    old: &str,
    new: &str,
) -> NativeResult<ImmutableString> {
    let limit = call.engine().max_string_size();
    let found = text.matches(old).count();
    if limit > 0 && text.len().saturating_add(found.saturating_mul(new.len())) > limit {
        return Err("the text is too large for a script".into());
    }
    Ok(text.replace(old, new).into())
}

fn join(items: &[Dynamic], separator: &str) -> NativeResult<String> {
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push_str(separator);
        }
        match item.as_immutable_string_ref() {
            Ok(item) => text.push_str(&item),
            Err(got) => {
                let got = type_name(got);
                return Err(format!("join() takes text, but item {index} is {got}").into());
            }
        }
    }
    Ok(text)
}

fn hash(text: &str, algorithm: &str) -> NativeResult<String> {
    fn hex<D: Digest>(text: &str) -> String {
        hexadecimal(&D::digest(text.as_bytes()))
    }
    Ok(match algorithm {
        "sha224" => hex::<sha2::Sha224>(text),
        "sha256" => hex::<sha2::Sha256>(text),
        "sha384" => hex::<sha2::Sha384>(text),
        "sha512" => hex::<sha2::Sha512>(text),
        other => {
            return Err(format!(
                "`{other}` is not an algorithm; use sha224, sha256, sha384 or sha512"
            )
            .into());
        }
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Registers `format` for one to eight values.
fn register_format(engine: &mut Engine) {
    type D = Dynamic;
    engine.register_fn("format", |f: &str, a: D| format(f, &[a]));
    engine.register_fn("format", |f: &str, a: D, b: D| format(f, &[a, b]));
    engine.register_fn("format", |f: &str, a: D, b: D, c: D| format(f, &[a, b, c]));
    engine.register_fn("format", |t: &str, a: D, b: D, c: D, d: D| {
        format(t, &[a, b, c, d])
    });
    engine.register_fn("format", |t: &str, a: D, b: D, c: D, d: D, e: D| {
        format(t, &[a, b, c, d, e])
    });
    engine.register_fn("format", |t: &str, a: D, b: D, c: D, d: D, e: D, f: D| {
        format(t, &[a, b, c, d, e, f])
    });
    engine.register_fn(
        "format",
        |t: &str, a: D, b: D, c: D, d: D, e: D, f: D, g: D| format(t, &[a, b, c, d, e, f, g]),
    );
    engine.register_fn(
        "format",
        |t: &str, a: D, b: D, c: D, d: D, e: D, f: D, g: D, h: D| {
            format(t, &[a, b, c, d, e, f, g, h])
        },
    );
}

fn format(template: &str, values: &[Dynamic]) -> NativeResult<String> {
    let mut text = String::with_capacity(template.len());
    let mut values = values.iter();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let at = after
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .unwrap_or(after.len());
        let (precision, after) = after.split_at(at);
        let Some(verb) = after.chars().next() else {
            return Err("the text ends after a `%`; write `%%` for a percent sign".into());
        };
        rest = after.get(verb.len_utf8()..).unwrap_or_default();
        if verb == '%' {
            text.push('%');
            continue;
        }
        let value = values
            .next()
            .ok_or_else(|| format!("there is no value for `%{precision}{verb}`"))?;
        text.push_str(&formatted(verb, precision, value)?);
    }
    text.push_str(rest);
    match values.count() {
        0 => Ok(text),
        extra => Err(format!("there are {extra} values without a `%`").into()),
    }
}

fn formatted(verb: char, precision: &str, value: &Dynamic) -> NativeResult<String> {
    let wrong = |wanted: &str| {
        let got = type_name(value.type_name());
        format!("%{verb} takes {wanted}, but this is {got}")
    };
    let number = || values::number_of(value);
    Ok(match verb {
        's' | 'v' => convert::to_plain_text(value)?,
        'q' => convert::to_text(value)?,
        'd' => match number() {
            Some(number) if number.is_whole() && !value.is_float() => number.to_string(),
            _ => return Err(wrong("an integer").into()),
        },
        'f' => {
            let number = number().ok_or_else(|| wrong("a number"))?;
            let digits = match precision.strip_prefix('.') {
                Some(digits) => digits.parse().unwrap_or(6_u32).min(32),
                None => 6,
            };
            number.rounded(digits, Rounding::HalfUp).with_places(digits)
        }
        'x' => match (value.as_int(), value.as_immutable_string_ref()) {
            (Ok(number), _) => format!("{number:x}"),
            (_, Ok(text)) => hexadecimal(text.as_bytes()),
            _ => return Err(wrong("an integer or text").into()),
        },
        other => {
            return Err(format!("`%{other}` is unknown; use %s, %v, %d, %f, %x, %q or %%").into());
        }
    })
}

//! Numbers, defaults and conversions.

use rhai::{Dynamic, Engine, FLOAT, FuncRegistration, INT, ImmutableString};

use super::{Answer, Example, FunctionDoc, Group, Purity};
use crate::{
    convert::{self, Deleted, Unsigned},
    error::type_name,
    quantity::{NANO, Quantity},
};

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "or",
        signature: "value.or(default)",
        summary: "The value, or the default where it is (). The operator `??` does the same, and \
                  also behind `?.`, which skips the rest of its chain.",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[Example {
            script: "[this.a.or(0), this.b.or(0)]",
            input: r#"{"a":1}"#,
            output: "[1,0]",
        }],
    },
    FunctionDoc {
        name: "not_null",
        signature: "value.not_null()",
        summary: "The value; an error where it is ().",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[Example {
            script: "this.b.not_null()",
            input: r#"{"a":1}"#,
            output: "line 1, column 8: the value is missing",
        }],
    },
    FunctionDoc {
        name: "string",
        signature: "value.string() -> text",
        summary: "The value as text; what is not text is written as JSON.",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#"["a".string(), 1.5.string(), #{ a: [1] }.string()]"#,
            input: "{}",
            output: r#"["a","1.5","{\"a\":[1]}"]"#,
        }],
    },
    FunctionDoc {
        name: "int64",
        signature: "value.int64() -> integer",
        summary: "A whole number, or text that holds one, as an integer. A fraction is an error: \
                  `round()` it first.",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[
            Example {
                script: r#"["12".int64(), 12.0.int64()]"#,
                input: "{}",
                output: "[12,12]",
            },
            Example {
                script: "1.5.int64()",
                input: "{}",
                output: "line 1, column 5: 1.5 is not a whole number; use round(), floor() or ceil()",
            },
        ],
    },
    FunctionDoc {
        name: "number",
        signature: "value.number() -> number",
        summary: "A number, or text that holds one, as a number.",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[Example {
            script: r#"["12".number(), "-0.5".number(), 3.number()]"#,
            input: "{}",
            output: "[12,-0.5,3]",
        }],
    },
    FunctionDoc {
        name: "round",
        signature: "number.round() -> integer",
        summary: "The nearest integer; a half goes away from zero.",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[Example {
            script: "[1.5.round(), -1.5.round(), 2.round()]",
            input: "{}",
            output: "[2,-2,2]",
        }],
    },
    FunctionDoc {
        name: "floor",
        signature: "number.floor() -> integer",
        summary: "The next integer that is not above.",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[Example {
            script: "[1.5.floor(), 2.floor()]",
            input: "{}",
            output: "[1,2]",
        }],
    },
    FunctionDoc {
        name: "ceil",
        signature: "number.ceil() -> integer",
        summary: "The next integer that is not below.",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[Example {
            script: "[1.5.ceil(), 2.ceil()]",
            input: "{}",
            output: "[2,2]",
        }],
    },
    FunctionDoc {
        name: "abs",
        signature: "number.abs() -> number",
        summary: "The number without its sign.",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[Example {
            script: "[(-3).abs(), 1.5.abs()]",
            input: "{}",
            output: "[3,1.5]",
        }],
    },
];

pub(super) fn register(engine: &mut Engine) {
    FuncRegistration::new("or")
        .with_purity(true)
        .register_into_engine(engine, |value: &mut Dynamic, default: Dynamic| {
            if value.is_unit() {
                default
            } else {
                value.clone()
            }
        });
    engine.register_fn("not_null", |value: Dynamic| -> Answer<Dynamic> {
        if value.is_unit() {
            Err("the value is missing".into())
        } else {
            Ok(value)
        }
    });
    engine.register_fn("string", |text: ImmutableString| text);
    engine.register_fn("string", |value: Dynamic| -> Answer<ImmutableString> {
        if value.is::<Deleted>() {
            return Err("deleted() has no text".into());
        }
        Ok(match convert::to_json(&value)? {
            serde_json::Value::String(text) => text.into(),
            value => value.to_string().into(),
        })
    });
    engine.register_fn("int64", |number: INT| number);
    engine.register_fn("int64", |number: FLOAT| -> Answer<INT> {
        if number.fract() == 0.0 {
            whole(number)
        } else {
            Err(format!("{number} is not a whole number; use round(), floor() or ceil()").into())
        }
    });
    engine.register_fn("int64", |text: &str| -> Answer<INT> {
        let number = text.trim().parse();
        Ok(number.map_err(|_| format!("`{text}` is not an integer"))?)
    });
    engine.register_fn("number", |number: INT| number);
    engine.register_fn("number", |number: FLOAT| number);
    engine.register_fn("number", |text: &str| number(text));
    engine.register_fn("round", |number: INT| number);
    engine.register_fn("floor", |number: INT| number);
    engine.register_fn("ceil", |number: INT| number);
    engine.register_fn("round", |number: FLOAT| whole(number.round()));
    engine.register_fn("floor", |number: FLOAT| whole(number.floor()));
    engine.register_fn("ceil", |number: FLOAT| whole(number.ceil()));
}

/// A decimal number without a fraction as an integer.
fn whole(number: FLOAT) -> Answer<INT> {
    // Both bounds are powers of two, so they are exact; NaN is within neither.
    const BOUND: FLOAT = 9_223_372_036_854_775_808.0;
    if !(-BOUND..BOUND).contains(&number) {
        return Err(format!("{number} is more than 64 bits hold").into());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range was just checked"
    )]
    Ok(number as INT)
}

fn number(text: &str) -> Answer<Dynamic> {
    let wrong = || format!("`{text}` is not a number");
    let trimmed = text.trim();
    if let Ok(number) = trimmed.parse::<INT>() {
        return Ok(number.into());
    }
    // Rust also reads `inf`, `nan` and `infinity`.
    if trimmed.contains(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E')) {
        return Err(wrong().into());
    }
    let number: FLOAT = trimmed.parse().map_err(|_| wrong())?;
    if number.is_finite() {
        Ok(number.into())
    } else {
        Err(format!("`{text}` is out of range").into())
    }
}

/// A number, or text that holds a quantity, as the decimal that is written there.
pub(super) fn decimal(value: &Dynamic) -> Answer<Quantity> {
    if let Ok(number) = value.as_int() {
        return Ok(Quantity::from_nanos(i128::from(number) * NANO));
    }
    let text = if let Ok(number) = value.as_float() {
        // The shortest decimal that reads back as this number.
        serde_json::Number::from_f64(number)
            .ok_or_else(|| format!("{number} is not a finite number"))?
            .to_string()
    } else if let Ok(text) = value.as_immutable_string_ref() {
        text.to_string()
    } else if let Some(number) = value.read_lock::<Unsigned>() {
        return Err(format!("{} is more than 64 bits hold", number.0).into());
    } else {
        return Err(format!(
            "a number is wanted here, this is {}",
            type_name(value.type_name())
        )
        .into());
    };
    Ok(Quantity::parse(&text).map_err(|error| error.to_string())?)
}

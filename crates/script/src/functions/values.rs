//! Functions for numbers, defaults and conversions.

use rhai::{Dynamic, Engine, FLOAT, FuncRegistration, INT, ImmutableString};

use super::{Example, FunctionDoc, Group, NativeResult, Purity};
use crate::{
    convert::{self, Deleted},
    decimal::{Decimal, Rounding},
    error::type_name,
    exact::Number,
    quantity::Quantity,
};

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "or",
        signature: "value.or(default)",
        summary: "Returns the value, or the default if it is (). The operator `??` does the same, and \
                  also works after `?.`, which skips the rest of its chain.",
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
        summary: "Returns the value; () is an error.",
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
        summary: "Converts the value to text; anything but text becomes JSON.",
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
        summary: "Converts a whole number, or text that holds one, to an integer. A fraction is an \
                  error: use `round()` first.",
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
        summary: "Converts a number, or text that holds one, to a number.",
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
        summary: "Rounds to the nearest integer; halves are rounded away from zero.",
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
        summary: "Rounds down to an integer.",
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
        summary: "Rounds up to an integer.",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[Example {
            script: "[1.5.ceil(), 2.ceil()]",
            input: "{}",
            output: "[2,2]",
        }],
    },
    FunctionDoc {
        name: "div_trunc",
        signature: "number.div_trunc(divisor) -> integer",
        summary: "Returns the quotient, truncated towards zero. `a % b` is the remainder, so `a` is \
                  `a.div_trunc(b) * b + a % b`. The operator `/` returns the exact quotient.",
        group: Group::Values,
        purity: Purity::Pure,
        examples: &[Example {
            script: "[7.div_trunc(2), 7 % 2, 7 / 2, 6 / 2]",
            input: "{}",
            output: "[3,1,3.5,3]",
        }],
    },
    FunctionDoc {
        name: "abs",
        signature: "number.abs() -> number",
        summary: "Returns the absolute value.",
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
    engine.register_fn("not_null", |value: Dynamic| -> NativeResult<Dynamic> {
        if value.is_unit() {
            Err("the value is missing".into())
        } else {
            Ok(value)
        }
    });
    engine.register_fn("string", |text: ImmutableString| text);
    engine.register_fn(
        "string",
        |value: Dynamic| -> NativeResult<ImmutableString> {
            if value.is::<Deleted>() {
                return Err("deleted() cannot be converted to text".into());
            }
            Ok(convert::to_plain_text(&value)?.into())
        },
    );
    engine.register_fn("int64", |number: INT| number);
    engine.register_fn("int64", |number: FLOAT| -> NativeResult<INT> {
        if number.fract() == 0.0 {
            whole(number)
        } else {
            Err(format!("{number} is not a whole number; use round(), floor() or ceil()").into())
        }
    });
    engine.register_fn("int64", |text: &str| -> NativeResult<INT> {
        let number = text.trim().parse();
        Ok(number.map_err(|_| format!("`{text}` is not an integer"))?)
    });
    engine.register_fn("int64", |number: Decimal| -> NativeResult<INT> {
        Err(if number.is_whole() {
            format!("{number} does not fit 64 bits").into()
        } else {
            format!("{number} is not a whole number; use round(), floor() or ceil()").into()
        })
    });
    engine.register_fn("number", |number: INT| number);
    engine.register_fn("number", |number: FLOAT| number);
    engine.register_fn("number", |number: Decimal| number);
    engine.register_fn("number", |text: &str| number(text));
    for (name, rounding) in [
        ("round", Rounding::HalfUp),
        ("floor", Rounding::Floor),
        ("ceil", Rounding::Ceiling),
    ] {
        engine.register_fn(name, |number: INT| number);
        engine.register_fn(name, move |number: FLOAT| rounded(&number.into(), rounding));
        engine.register_fn(name, move |number: Decimal| {
            rounded(&Dynamic::from(number), rounding)
        });
    }
}

fn rounded(number: &Dynamic, rounding: Rounding) -> NativeResult<Dynamic> {
    let rounded = decimal(number)?.rounded(0, rounding);
    Ok(Number::exact(rounded)?.into())
}

/// Converts a float without a fraction to an integer.
fn whole(number: FLOAT) -> NativeResult<INT> {
    // Both bounds are powers of two, so they are exact; the range does not contain NaN.
    const BOUND: FLOAT = 9_223_372_036_854_775_808.0;
    if !(-BOUND..BOUND).contains(&number) {
        return Err(format!("{number} does not fit 64 bits").into());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range is checked above"
    )]
    Ok(number as INT)
}

fn number(text: &str) -> NativeResult<Dynamic> {
    let trimmed = text.trim();
    let unsigned = trimmed.strip_prefix('+').unwrap_or(trimmed);
    if let Ok(number) = unsigned.parse::<INT>() {
        return Ok(number.into());
    }
    let number: Decimal = unsigned
        .parse()
        .map_err(|_| format!("`{text}` is not a number"))?;
    let number = Number::exact(number).map_err(|_| format!("`{text}` is out of range"))?;
    Ok(number.into())
}

/// Returns a number as the decimal of its shortest text; `None` for other values and non-finite numbers.
pub(super) fn number_of(value: &Dynamic) -> Option<Decimal> {
    if let Ok(number) = value.as_int() {
        return Some(number.into());
    }
    if let Ok(number) = value.as_float() {
        return Decimal::from_float(number);
    }
    value.read_lock::<Decimal>().map(|number| number.clone())
}

/// Returns a number as the decimal of its shortest text, and parses text as a quantity.
pub(super) fn decimal(value: &Dynamic) -> NativeResult<Decimal> {
    if let Some(number) = number_of(value) {
        return Ok(number);
    }
    if let Ok(number) = value.as_float() {
        return Err(format!("{number} is not a finite number").into());
    }
    if let Ok(text) = value.as_immutable_string_ref() {
        let quantity = Quantity::parse(&text).map_err(|error| error.to_string())?;
        return Ok(quantity.to_decimal());
    }
    let got = type_name(value.type_name());
    Err(format!("expected a number, found {got}").into())
}

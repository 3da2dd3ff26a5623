//! Functions for Kubernetes quantities.

use rhai::{Dynamic, Engine, FLOAT, INT};

use super::{Example, FunctionDoc, Group, NativeResult, Purity, values};
use crate::{decimal::Decimal, exact, quantity::Quantity};

pub(super) const DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        name: "resource_quantity",
        signature: "text.resource_quantity() -> number",
        summary: "Converts a Kubernetes quantity to a number: an integer if it is whole, otherwise a \
                  decimal. It follows the rules of Kubernetes: values are rounded away from zero to a \
                  billionth, and values with a binary suffix are capped at 2^63-1. Malformed \
                  quantities and those beyond 1.8e308 are errors.",
        group: Group::Kubernetes,
        purity: Purity::Pure,
        examples: &[
            Example {
                script: r#"["250m", "0.5Ki", "1e3", "2"].map_each(|it| it.resource_quantity())"#,
                input: "{}",
                output: "[0.25,512,1000,2]",
            },
            Example {
                script: r#"["8Ei", "12E", "0.1n"].map_each(|it| it.resource_quantity())"#,
                input: "{}",
                output: "[9223372036854775807,12000000000000000000,1e-9]",
            },
            Example {
                script: r#""1e400".resource_quantity()"#,
                input: "{}",
                output: "line 1, column 9: `1e400` is out of range",
            },
        ],
    },
    FunctionDoc {
        name: "multiply_exact",
        signature: "number.multiply_exact(factor) -> number, number.multiply_exact(factor, divisor) -> number",
        summary: "Returns number × factor ÷ divisor, computed exactly on the decimals as written; only \
                  a non-terminating result is rounded, once. Text is parsed as a quantity.",
        group: Group::Kubernetes,
        purity: Purity::Pure,
        examples: &[Example {
            script: "[0.1.multiply_exact(3), 4294967296.multiply_exact(10), 0.5.multiply_exact(15, 60)]",
            input: "{}",
            output: "[0.3,42949672960,0.125]",
        }],
    },
];

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("resource_quantity", |text: &str| -> NativeResult<Dynamic> {
        let quantity = Quantity::parse(text).map_err(|error| error.to_string())?;
        let number = exact::number(&quantity).map_err(|reason| format!("`{text}` {reason}"))?;
        Ok(number.into())
    });
    // The API server writes quantities as text, but users may write numbers.
    engine.register_fn("resource_quantity", |number: INT| number);
    engine.register_fn("resource_quantity", |number: FLOAT| number);
    engine.register_fn("resource_quantity", |number: Decimal| number);
    engine.register_fn("multiply_exact", |number: Dynamic, factor: Dynamic| {
        multiply(&number, &factor, &1_i64.into())
    });
    engine.register_fn(
        "multiply_exact",
        |number: Dynamic, factor: Dynamic, divisor: Dynamic| multiply(&number, &factor, &divisor),
    );
}

/// Returns a divisor. A divisor of 0 is an error of the script.
pub(super) fn nonzero(divisor: &Dynamic) -> NativeResult<Decimal> {
    let divisor = values::decimal(divisor)?;
    if divisor.is_zero() {
        return Err("the divisor is 0".into());
    }
    Ok(divisor)
}

fn multiply(number: &Dynamic, factor: &Dynamic, divisor: &Dynamic) -> NativeResult<Dynamic> {
    let (decimal, factor, divisor) = (
        values::decimal(number)?,
        values::decimal(factor)?,
        nonzero(divisor)?,
    );
    let (numerator, denominator) = decimal.times(&factor).over(&divisor);
    let product = exact::ratio(&numerator, &denominator)
        .map_err(|reason| format!("{number} × {factor} ÷ {divisor} {reason}"))?;
    Ok(product.into())
}

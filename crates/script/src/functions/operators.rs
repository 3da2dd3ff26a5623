//! Exact arithmetic and comparison for all types of numbers.
//!
//! Rhai's own integer division drops the remainder, its integers overflow at 64 bits, and its floats are
//! binary. Here a float is the decimal of its shortest text, so 0.1 + 0.2 is 0.3, and a result has the
//! form of [`Number`](exact::Number).

use std::{any::TypeId, cmp::Ordering};

use num_bigint::BigInt;
use rhai::{Dynamic, Engine, FLOAT, INT, NativeCallContext};

use super::{NativeResult, values};
use crate::{
    convert::Deleted,
    decimal::{Decimal, OUT_OF_RANGE},
    exact::{self, Number},
};

/// A type of number.
trait Operand: rhai::Variant + Clone {
    fn exact(self) -> NativeResult<Decimal>;
}

impl Operand for INT {
    fn exact(self) -> NativeResult<Decimal> {
        Ok(self.into())
    }
}

impl Operand for FLOAT {
    fn exact(self) -> NativeResult<Decimal> {
        Decimal::from_float(self).ok_or_else(|| format!("{self} is not a finite number").into())
    }
}

impl Operand for Decimal {
    fn exact(self) -> NativeResult<Decimal> {
        Ok(self)
    }
}

/// An operation on two numbers.
type Operation = fn(&Decimal, &Decimal) -> NativeResult<Number>;
/// The operation on two integers, if the result fits 64 bits.
type Shortcut = fn(INT, INT) -> Option<INT>;

/// The operators, each with its assignment operator.
const OPERATORS: [(&str, &str, Operation, Shortcut); 6] = [
    ("+", "+=", |a, b| number(a.plus(b)), INT::checked_add),
    ("-", "-=", |a, b| number(a.minus(b)), INT::checked_sub),
    ("*", "*=", |a, b| number(a.times(b)), INT::checked_mul),
    ("/", "/=", quotient, |a, b| {
        (a.checked_rem(b) == Some(0))
            .then(|| a.checked_div(b))
            .flatten()
    }),
    ("%", "%=", remainder, INT::checked_rem),
    ("**", "**=", power, |a, b| {
        a.checked_pow(u32::try_from(b).ok()?)
    }),
];

const BY_ZERO: &str = "division by 0";

pub(super) fn register(engine: &mut Engine) {
    register_pair::<INT, INT>(engine);
    register_pair::<INT, FLOAT>(engine);
    register_pair::<FLOAT, INT>(engine);
    register_pair::<FLOAT, FLOAT>(engine);
    register_pair::<INT, Decimal>(engine);
    register_pair::<Decimal, INT>(engine);
    register_pair::<FLOAT, Decimal>(engine);
    register_pair::<Decimal, FLOAT>(engine);
    register_pair::<Decimal, Decimal>(engine);
    // For two numbers of the same type Rhai's own comparisons are exact.
    register_comparisons::<INT, FLOAT>(engine);
    register_comparisons::<FLOAT, INT>(engine);
    register_comparisons::<INT, Decimal>(engine);
    register_comparisons::<Decimal, INT>(engine);
    register_comparisons::<FLOAT, Decimal>(engine);
    register_comparisons::<Decimal, FLOAT>(engine);
    register_comparisons::<Decimal, Decimal>(engine);
    never_equal::<Decimal, ()>(engine);
    never_equal::<Decimal, bool>(engine);
    never_equal::<Decimal, rhai::ImmutableString>(engine);
    never_equal::<Deleted, ()>(engine);
    never_equal::<Deleted, rhai::ImmutableString>(engine);
    register_omitted::<INT>(engine);
    register_omitted::<FLOAT>(engine);
    register_omitted::<Decimal>(engine);
    register_unary(engine);
    engine.register_fn(
        "div_trunc",
        |a: Dynamic, b: Dynamic| -> NativeResult<Dynamic> {
            let (numerator, denominator) = values::decimal(&a)?.over(&values::decimal(&b)?);
            if denominator == BigInt::ZERO {
                return Err(BY_ZERO.into());
            }
            Ok(number(Decimal::new(numerator / denominator, 0))?.into())
        },
    );
}

fn register_unary(engine: &mut Engine) {
    engine.register_fn("-", |a: INT| -> NativeResult<Dynamic> {
        Ok(match a.checked_neg() {
            Some(negated) => negated.into(),
            None => number(Decimal::from(a).negated())?.into(),
        })
    });
    engine.register_fn("-", |a: Decimal| -> NativeResult<Dynamic> {
        Ok(number(a.negated())?.into())
    });
    engine.register_fn("+", |a: Decimal| a);
    engine.register_fn("abs", |a: Decimal| -> Decimal {
        if a.is_negative() { a.negated() } else { a }
    });
    for name in ["to_string", "to_debug"] {
        engine.register_fn(name, |a: Decimal| a.to_string());
    }
    engine.register_fn("+", |text: &str, a: Decimal| format!("{text}{a}"));
    engine.register_fn("+", |a: Decimal, text: &str| format!("{a}{text}"));
    for name in ["-", "+"] {
        engine.register_fn(name, |omitted: Deleted| omitted);
    }
}

fn register_pair<A: Operand, B: Operand>(engine: &mut Engine) {
    let types = [TypeId::of::<A>(), TypeId::of::<B>()];
    for (name, assigning, operation, shortcut) in OPERATORS {
        if types == [TypeId::of::<INT>(); 2] {
            engine.register_fn(name, move |a: INT, b: INT| -> NativeResult<Dynamic> {
                match shortcut(a, b) {
                    Some(result) => Ok(result.into()),
                    None => Ok(operation(&a.into(), &b.into())?.into()),
                }
            });
        } else {
            engine.register_fn(name, move |a: A, b: B| -> NativeResult<Dynamic> {
                Ok(operation(&a.exact()?, &b.exact()?)?.into())
            });
        }
        // Only this form can change the type of the target.
        let assign =
            move |_: NativeCallContext<'_>, args: &mut [&mut Dynamic]| -> NativeResult<()> {
                let [a, b] = args else {
                    return Err("an assignment operator needs two operands".into());
                };
                **a = match (a.as_int(), b.as_int()) {
                    (Ok(x), Ok(y)) if shortcut(x, y).is_some() => {
                        shortcut(x, y).map_or(Dynamic::UNIT, Into::into)
                    }
                    _ => operation(&values::decimal(a)?, &values::decimal(b)?)?.into(),
                };
                Ok(())
            };
        engine.register_raw_fn(assigning, types, assign);
    }
    engine.register_fn("max", |a: A, b: B| -> NativeResult<Dynamic> {
        let is_less = a.clone().exact()? < b.clone().exact()?;
        Ok(if is_less {
            Dynamic::from(b)
        } else {
            Dynamic::from(a)
        })
    });
    engine.register_fn("min", |a: A, b: B| -> NativeResult<Dynamic> {
        let is_more = a.clone().exact()? > b.clone().exact()?;
        Ok(if is_more {
            Dynamic::from(b)
        } else {
            Dynamic::from(a)
        })
    });
}

fn register_comparisons<A: Operand, B: Operand>(engine: &mut Engine) {
    type Holds = fn(Ordering) -> bool;
    let comparisons: [(&str, Holds); 6] = [
        ("==", Ordering::is_eq),
        ("!=", Ordering::is_ne),
        ("<", Ordering::is_lt),
        ("<=", Ordering::is_le),
        (">", Ordering::is_gt),
        (">=", Ordering::is_ge),
    ];
    for (name, holds) in comparisons {
        engine.register_fn(name, move |a: A, b: B| -> NativeResult<bool> {
            Ok(holds(a.exact()?.cmp(&b.exact()?)))
        });
    }
}

/// Registers comparisons of two types whose values are never equal.
fn never_equal<A: rhai::Variant + Clone, B: rhai::Variant + Clone>(engine: &mut Engine) {
    engine.register_fn("==", |_: A, _: B| false);
    engine.register_fn("==", |_: B, _: A| false);
    engine.register_fn("!=", |_: A, _: B| true);
    engine.register_fn("!=", |_: B, _: A| true);
}

/// Registers operators for an omitted metric: a result computed from it is omitted, too, and comparisons
/// with it are false.
fn register_omitted<A: rhai::Variant + Clone>(engine: &mut Engine) {
    for (name, ..) in OPERATORS {
        engine.register_fn(name, |_: A, omitted: Deleted| omitted);
        engine.register_fn(name, |omitted: Deleted, _: A| omitted);
        engine.register_fn(name, |omitted: Deleted, _: Deleted| omitted);
    }
    never_equal::<A, Deleted>(engine);
    for name in ["<", "<=", ">", ">="] {
        engine.register_fn(name, |_: A, _: Deleted| false);
        engine.register_fn(name, |_: Deleted, _: A| false);
    }
    for name in ["min", "max"] {
        engine.register_fn(name, |_: A, omitted: Deleted| omitted);
        engine.register_fn(name, |omitted: Deleted, _: A| omitted);
    }
}

fn number(decimal: Decimal) -> NativeResult<Number> {
    Ok(Number::exact(decimal).map_err(|reason| format!("the result {reason}"))?)
}

fn quotient(a: &Decimal, b: &Decimal) -> NativeResult<Number> {
    if b.is_zero() {
        return Err(BY_ZERO.into());
    }
    let (numerator, denominator) = a.over(b);
    let quotient = exact::ratio(&numerator, &denominator);
    Ok(quotient.map_err(|reason| format!("the result {reason}"))?)
}

fn remainder(a: &Decimal, b: &Decimal) -> NativeResult<Number> {
    number(a.remainder(b).ok_or(BY_ZERO)?)
}

/// Computes a power. Whole exponents are exact; others use floats.
fn power(base: &Decimal, exponent: &Decimal) -> NativeResult<Number> {
    if !exponent.is_whole() {
        let power = base.nearest_float().powf(exponent.nearest_float());
        let power = Decimal::from_float(power).ok_or("the power is not a number")?;
        return number(power);
    }
    // Larger exponents are refused, because nearly every result would be out of range.
    let mut rest = u32::try_from(exponent.parts().0.magnitude()).map_err(|_| OUT_OF_RANGE)?;
    let (mut power, mut square) = (Decimal::from(1_i64), base.clone());
    while rest > 0 {
        if rest % 2 == 1 {
            power = power.times(&square).bounded()?;
        }
        rest /= 2;
        if rest > 0 {
            square = square.times(&square).bounded()?;
        }
    }
    if exponent.is_negative() {
        return quotient(&1_i64.into(), &power);
    }
    number(power)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use meterline_core::Message;
    use proptest::prelude::*;

    use crate::{Engine, Limits};

    /// Created once, because setting up the interpreter takes milliseconds.
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(Limits::default()));

    fn value(source: &str) -> Result<String, String> {
        let expression = ENGINE.compile_expression(source).unwrap();
        let text = expression.text(&Message::raw("{}"));
        text.map_err(|error| error.to_string())
    }

    fn assert_values(cases: &[(&str, &str)]) {
        let wrong: Vec<_> = cases
            .iter()
            .map(|(source, expected)| (source, value(source), expected))
            .filter(|(_, value, expected)| value.as_deref() != Ok(**expected))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn a_quotient_is_exact_and_an_integer_if_it_is_whole() {
        assert_values(&[
            ("1 * 15 / 60", "0.25"),
            ("15000000000 / 1000000000", "15"),
            ("7 / 2", "3.5"),
            ("-7 / 2", "-3.5"),
            ("6 / -3", "-2"),
            ("1 / 3", "0.3333333333333333"),
            ("let a = 1; a / 8", "0.125"),
            ("0 / 5", "0"),
            ("7.5 / 2.5", "3"),
            ("1 / 0.1", "10"),
            ("9223372036854775807 / 2", "4611686018427387903.5"),
            ("-9223372036854775807 / 7 * 7", "-9223372036854775807"),
            ("let a = 7; a /= 2; a", "3.5"),
            ("let a = #{ b: 8 }; a.b /= 2; a.b", "4"),
        ]);
    }

    #[test]
    fn div_trunc_and_the_remainder_truncate_towards_zero() {
        assert_values(&[
            ("7.div_trunc(2)", "3"),
            ("(-7).div_trunc(2)", "-3"),
            ("7.5.div_trunc(2)", "3"),
            ("7 % 2", "1"),
            ("-7 % 2", "-1"),
            ("7.5 % 2", "1.5"),
            ("0.3 % 0.1", "0"),
            ("2 * 7.div_trunc(2) + 7 % 2", "7"),
        ]);
    }

    #[test]
    fn floats_are_the_decimals_that_are_written() {
        assert_values(&[
            ("0.1 + 0.2", "0.3"),
            ("0.29 * 100", "29"),
            ("1.1 - 1", "0.1"),
            ("2.5 * 2", "5"),
            ("1.005 * 1000", "1005"),
            ("0.1 ** 2", "0.01"),
            ("2 ** -2", "0.25"),
            ("2 ** 0.5", "1.4142135623730951"),
            ("0.1 + 0.2 == 0.3", "true"),
            ("let a = 0.1; a += 0.2; a", "0.3"),
            ("let a = 1; a += 0.5; a", "1.5"),
            ("[0.1, 0.2, 1].sum()", "1.3"),
            ("-0.5 + 0.5", "0"),
            ("0.1 * 0.1234567890123456", "0.01234567890123456"),
            ("12345678901.5 * 12345678901.5", "152415787538942246702.25"),
        ]);
    }

    #[test]
    fn integers_have_any_size() {
        assert_values(&[
            ("9223372036854775807 + 1", "9223372036854775808"),
            ("-9223372036854775807 - 2", "-9223372036854775809"),
            ("9223372036854775807 * 3600", "33204139332677192905200"),
            ("9223372036854775807 + 1 - 1", "9223372036854775807"),
            ("2 ** 64", "18446744073709551616"),
            ("(2 ** 64) % 10", "6"),
            ("(2 ** 70) / (2 ** 68)", "4"),
            ("-(2 ** 64)", "-18446744073709551616"),
            ("(-(2 ** 64)).abs()", "18446744073709551616"),
            (
                "let a = 9223372036854775807; a += 1; a",
                "9223372036854775808",
            ),
            ("let a = 9223372036854775807; a *= 2; a -= a; a", "0"),
            (
                "`${2 ** 64}` + 2 ** 64",
                "1844674407370955161618446744073709551616",
            ),
            ("(2 ** 64).string().len()", "20"),
            ("[2 ** 64, 1].sum()", "18446744073709551617"),
            (
                "\"%d %.1f %v\".format(2 ** 64, 2 ** 64, 2 ** 64)",
                "18446744073709551616 18446744073709551616.0 18446744073709551616",
            ),
            (
                "[(2 ** 64).round(), (2 ** 64).floor(), (2 ** 64 + 0.5).ceil()].map_each(|n| n - 2 ** 64)",
                "[0,0,1]",
            ),
            ("(2 ** 64).multiply_exact(3, 2)", "27670116110564327424"),
            ("\"18446744073709551616\".number() == 2 ** 64", "true"),
            (
                "\"[18446744073709551616]\".parse_json()[0] - 1",
                "18446744073709551615",
            ),
        ]);
    }

    #[test]
    fn numbers_of_all_types_are_compared_by_value() {
        assert_values(&[
            ("9007199254740993 == 9007199254740992.0", "false"),
            ("9007199254740993 > 9007199254740992.0", "true"),
            ("5 == 5.0", "true"),
            ("2 ** 64 > 1.5", "true"),
            ("2 ** 64 == 2 ** 64", "true"),
            ("1 < 2 ** 64 && 1.5 <= 2 ** 64 && 2 ** 64 != 1", "true"),
            ("2 ** 64 == ()", "false"),
            ("\"x\" != 2 ** 64", "true"),
            ("max(1, 1.5)", "1.5"),
            ("min(2 ** 64, 3)", "3"),
            ("max(2 ** 64, 1.5) - 2 ** 64", "0"),
            (
                "max(9007199254740993, 9007199254740992.0)",
                "9007199254740993",
            ),
            (
                "[2 ** 64, 0.5, 3, -1].sort()",
                "[-1,0.5,3,18446744073709551616]",
            ),
            ("1 < 2 && 2 >= 2 && 1.5 != 2.5 && \"a\" < \"b\"", "true"),
            ("\"a\" + 1 + 0.5", "a10.5"),
            ("[1] + [2] == [1, 2]", "true"),
        ]);
    }

    #[test]
    fn division_by_zero_and_numbers_out_of_range_are_errors() {
        for source in [
            "1 / 0",
            "1 % 0",
            "1.5 / 0.0",
            "1.div_trunc(0)",
            "0 ** -1",
            "let a = 1; a /= 0; a",
        ] {
            let error = value(source).unwrap_err();
            assert!(error.contains("division by 0"), "{source}: {error}");
        }
        for source in [
            "2 ** 1024",
            "2 ** 1000000000",
            "10 ** 9223372036854775807",
            "1e308 * 10",
            "let a = 10; for i in 0..20 { a *= a; } a",
        ] {
            let error = value(source).unwrap_err();
            assert!(error.contains("1.8e308"), "{source}: {error}");
        }
        // Digits after the point are rounded before they take time.
        let long = value("let a = 1.1; for i in 0..1000 { a *= 0.987654321; } a").unwrap();
        assert!(long.len() < 400, "{long}");
    }

    proptest! {
        #[test]
        fn integer_arithmetic_matches_128_bits(a in any::<i64>(), b in any::<i64>()) {
            let (x, y) = (i128::from(a), i128::from(b));
            prop_assume!(a != i64::MIN && b != i64::MIN);
            let text = |operator: &str| value(&format!("({a}) {operator} ({b})")).unwrap();
            prop_assert_eq!(text("+"), (x + y).to_string());
            prop_assert_eq!(text("-"), (x - y).to_string());
            prop_assert_eq!(text("*"), (x * y).to_string());
            prop_assert_eq!(text("<"), (x < y).to_string());
            if b != 0 {
                prop_assert_eq!(text("%"), (x % y).to_string());
                prop_assert_eq!(value(&format!("({a}).div_trunc({b})")).unwrap(), (x / y).to_string());
            }
        }
    }
}

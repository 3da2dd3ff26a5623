//! Arithmetic for the numbers on a bill: exact as long as it lasts, rounded once at the end.

use rhai::Dynamic;

use crate::quantity::{NANO, Quantity};

/// A result as JSON shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// A whole number.
    Integer(i64),
    /// The nearest decimal number.
    Float(f64),
}

impl From<Number> for Dynamic {
    fn from(number: Number) -> Self {
        match number {
            Number::Integer(number) => Self::from_int(number),
            Number::Float(number) => Self::from_float(number),
        }
    }
}

const OUT_OF_RANGE: &str = "is more than 64 bits hold";

/// A quantity as a number.
pub(crate) fn number(quantity: Quantity) -> Result<Number, &'static str> {
    ratio(quantity.nanos(), NANO)
}

/// `quantity × factor ÷ divisor`.
pub(crate) fn product(
    quantity: Quantity,
    factor: Quantity,
    divisor: Quantity,
) -> Result<Number, &'static str> {
    if divisor.nanos() == 0 {
        return Err("is divided by 0");
    }
    let (quantity, factor, divisor) = (quantity.nanos(), factor.nanos(), divisor.nanos());
    if factor % NANO == 0 && divisor % NANO == 0 {
        // Whole seconds and a whole divisor: what nearly every call is.
        let numerator = quantity.checked_mul(factor / NANO);
        if let Some(numerator) = numerator
            && let Some(denominator) = (divisor / NANO).checked_mul(NANO)
        {
            return ratio(numerator, denominator);
        }
    }
    // Taking out what the three share keeps everything realistic far inside 128 bits.
    let (factor, divisor) = reduced(factor, divisor);
    let (quantity, divisor) = reduced(quantity, divisor);
    let (factor, nano) = reduced(factor, NANO);
    let numerator = quantity.checked_mul(factor).ok_or(OUT_OF_RANGE)?;
    let denominator = divisor.checked_mul(nano).ok_or(OUT_OF_RANGE)?;
    ratio(numerator, denominator)
}

/// The fraction as a whole number, or as the nearest decimal number.
fn ratio(numerator: i128, denominator: i128) -> Result<Number, &'static str> {
    // What fits a machine word, which is all but terabytes, is several times as fast.
    if let (Ok(numerator), Ok(denominator)) = (i64::try_from(numerator), i64::try_from(denominator))
        && let (Some(whole), Some(rest)) = (
            numerator.checked_div(denominator),
            numerator.checked_rem(denominator),
        )
        && rest == 0
    {
        return Ok(Number::Integer(whole));
    }
    let negative = (numerator < 0) != (denominator < 0);
    let (numerator, denominator) = (numerator.unsigned_abs(), denominator.unsigned_abs());
    if numerator / denominator > u128::from(i64::MAX.unsigned_abs()) {
        return Err(OUT_OF_RANGE);
    }
    if numerator.is_multiple_of(denominator) {
        let whole = i64::try_from(numerator / denominator).map_err(|_| OUT_OF_RANGE)?;
        return Ok(Number::Integer(if negative { -whole } else { whole }));
    }
    let magnitude = nearest(numerator, denominator).ok_or(OUT_OF_RANGE)?;
    Ok(Number::Float(if negative { -magnitude } else { magnitude }))
}

/// The decimal number nearest to a fraction that is not whole.
fn nearest(numerator: u128, denominator: u128) -> Option<f64> {
    const EXACT: u128 = 1 << f64::MANTISSA_DIGITS;
    if numerator <= EXACT && denominator <= EXACT {
        // Both are exact, so the division rounds once.
        #[expect(clippy::cast_precision_loss, reason = "both are at most 2^53")]
        return Some(numerator as f64 / denominator as f64);
    }
    let (numerator, denominator) = reduced_u128(numerator, denominator);
    // A quotient of at least 56 bits whose last bit says whether anything was cut off behind it
    // rounds as the fraction itself does.
    let wanted = 56 + denominator.ilog2();
    let shift = wanted.saturating_sub(numerator.ilog2());
    if shift > numerator.leading_zeros() {
        return None;
    }
    let shifted = numerator << shift;
    let is_cut = !shifted.is_multiple_of(denominator);
    let quotient = (shifted / denominator) | u128::from(is_cut);
    #[expect(
        clippy::cast_precision_loss,
        reason = "this is where the one rounding happens"
    )]
    let rounded = quotient as f64;
    Some(rounded / 2_f64.powi(i32::try_from(shift).ok()?))
}

/// Numerator and denominator without what they have in common.
fn reduced(numerator: i128, denominator: i128) -> (i128, i128) {
    let common = common(numerator.unsigned_abs(), denominator.unsigned_abs());
    match i128::try_from(common) {
        Ok(common) if common > 1 => (numerator / common, denominator / common),
        _ => (numerator, denominator),
    }
}

fn reduced_u128(numerator: u128, denominator: u128) -> (u128, u128) {
    let common = common(numerator, denominator).max(1);
    (numerator / common, denominator / common)
}

/// The greatest common divisor.
fn common(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(quantity: &str, factor: i64, divisor: i64) -> Result<Number, &'static str> {
        let whole = |number: i64| Quantity::from_nanos(i128::from(number) * NANO);
        product(
            Quantity::parse(quantity).unwrap(),
            whole(factor),
            whole(divisor),
        )
    }

    #[test]
    fn products_are_what_a_person_would_write() {
        use Number::{Float, Integer};
        for (quantity, factor, divisor, expected) in [
            ("0.5", 10, 1, Integer(5)),
            ("100m", 3, 1, Float(0.3)),
            ("4294967296", 10, 1, Integer(42_949_672_960)),
            ("300m", 1, 60, Float(0.005)),
            ("1", 1, 3, Float(1.0 / 3.0)),
            ("1", 15, 3600, Float(15.0 / 3600.0)),
            ("-100m", 3, 1, Float(-0.3)),
            ("0", 15, 1, Integer(0)),
            ("1.1Gi", 15, 1, Integer(17_716_740_096)),
            ("9223372036854775807", 15, 15, Integer(i64::MAX)),
            (
                "9223372036854775807",
                15,
                3600,
                Float(9_223_372_036_854_775_807.0 / 240.0),
            ),
        ] {
            assert_eq!(
                times(quantity, factor, divisor),
                Ok(expected),
                "{quantity} {factor}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_another_number() {
        assert!(times("9223372036854775807", 2, 1).is_err());
        assert!(times("9223372036854775807", i64::MAX, 1).is_err());
        assert!(times("1", 1, 0).is_err());
    }

    proptest! {
        /// Rust reads decimals correctly rounded, so a decimal that ends is the judge.
        #[test]
        fn a_quantity_becomes_the_nearest_number(nanos in 1_i128..=i128::from(i64::MAX) * NANO) {
            let quantity = Quantity::from_nanos(nanos);
            let read: f64 = quantity.to_string().parse().unwrap();
            match number(quantity).unwrap() {
                Number::Float(float) => prop_assert_eq!(float.to_bits(), read.to_bits()),
                Number::Integer(whole) => prop_assert_eq!(i128::from(whole) * NANO, nanos),
            }
        }

        #[test]
        fn a_product_is_exact_and_rounded_once(
            nanos in 0_i128..1_000_000_000_000, factor in 1_i64..100_000
        ) {
            let product = times(&Quantity::from_nanos(nanos).to_string(), factor, 1).unwrap();
            let exact = Quantity::from_nanos(nanos * i128::from(factor));
            prop_assert_eq!(product, number(exact).unwrap());
        }
    }
}

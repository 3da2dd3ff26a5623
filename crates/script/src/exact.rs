//! Arithmetic for billed numbers: exact where possible, otherwise rounded once at the end.

use num_bigint::{BigInt, Sign};
use rhai::Dynamic;

use crate::{
    decimal::{Decimal, OUT_OF_RANGE, Rounding, power_of_ten, rounded_quotient},
    quantity::{NANO, Quantity},
};

/// A result in scripts and JSON. A value has exactly one form: the first that represents it exactly.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Number {
    /// A whole number of 64 bits.
    Integer(i64),
    /// A decimal that the shortest text of a float represents exactly, or the float nearest to a
    /// non-terminating decimal.
    Float(f64),
    /// Any other.
    Decimal(Decimal),
}

impl From<Number> for Dynamic {
    fn from(number: Number) -> Self {
        match number {
            Number::Integer(number) => Self::from_int(number),
            Number::Float(number) => Self::from_float(number),
            Number::Decimal(number) => Self::from(number),
        }
    }
}

impl Number {
    /// Returns the form of an exact value.
    ///
    /// # Errors
    /// When the value is beyond the range of 64-bit floats.
    pub(crate) fn exact(decimal: Decimal) -> Result<Self, &'static str> {
        let decimal = decimal.bounded()?;
        if decimal.is_whole() {
            return Ok(match i64::try_from(decimal.parts().0) {
                Ok(number) => Self::Integer(number),
                Err(_) => Self::Decimal(decimal),
            });
        }
        let float = decimal.nearest_float();
        Ok(match Decimal::from_float(float) {
            Some(read_back) if read_back == decimal => Self::Float(float),
            _ => Self::Decimal(decimal),
        })
    }
}

const DIVIDED_BY_ZERO: &str = "is a division by 0";
/// Decimals with fewer units than this survive the conversion to a float and back to text.
const EVERY_FLOAT: u128 = 1_000_000_000_000_000;

/// Converts a quantity to a number.
///
/// # Errors
/// When the value is beyond the range of 64-bit floats.
pub(crate) fn number(quantity: &Quantity) -> Result<Number, &'static str> {
    match quantity.nanos() {
        Some(nanos) => word_ratio(nanos, NANO),
        None => Number::exact(quantity.to_decimal()),
    }
}

/// Computes `quantity × factor ÷ divisor`.
///
/// # Errors
/// When the divisor is 0, or the result is beyond the range of 64-bit floats.
pub(crate) fn product(
    quantity: &Quantity,
    factor: &Decimal,
    divisor: &Decimal,
) -> Result<Number, &'static str> {
    if let (Some(nanos), (factor, 0), (divisor, 0)) =
        (quantity.nanos(), factor.parts(), divisor.parts())
        && let (Ok(factor), Ok(divisor)) = (i64::try_from(factor), i64::try_from(divisor))
    {
        // Whole seconds and a whole divisor, which nearly every call has.
        return whole_product(nanos, factor, divisor);
    }
    let (numerator, denominator) = quantity.to_decimal().times(factor).over(divisor);
    ratio(&numerator, &denominator)
}

/// Computes `nanos × factor ÷ divisor`, in units of one.
///
/// # Errors
/// As [`product`].
pub(crate) fn whole_product(
    nanos: i128,
    factor: i64,
    divisor: i64,
) -> Result<Number, &'static str> {
    let (factor, divisor) = (i128::from(factor), i128::from(divisor) * NANO);
    match nanos.checked_mul(factor) {
        Some(numerator) => word_ratio(numerator, divisor),
        None => ratio(&(BigInt::from(nanos) * factor), &divisor.into()),
    }
}

/// Computes the quotient of two 128-bit numbers.
fn word_ratio(numerator: i128, denominator: i128) -> Result<Number, &'static str> {
    // Division of machine words is several times faster. It covers everything below terabytes.
    if let (Ok(numerator), Ok(denominator)) = (i64::try_from(numerator), i64::try_from(denominator))
        && let (Some(whole), Some(0)) = (
            numerator.checked_div(denominator),
            numerator.checked_rem(denominator),
        )
    {
        return Ok(Number::Integer(whole));
    }
    // Whole terabytes.
    if numerator.checked_rem(denominator) == Some(0)
        && let Some(Ok(whole)) = numerator.checked_div(denominator).map(i64::try_from)
    {
        return Ok(Number::Integer(whole));
    }
    match word_float(numerator.unsigned_abs(), denominator.unsigned_abs()) {
        Some(magnitude) if (numerator < 0) != (denominator < 0) => Ok(Number::Float(-magnitude)),
        Some(magnitude) => Ok(Number::Float(magnitude)),
        None => ratio(&numerator.into(), &denominator.into()),
    }
}

/// Computes the float that [`ratio`] returns for a quotient that is not whole, if 128-bit arithmetic
/// suffices, which it does for most of them.
#[expect(
    clippy::cast_precision_loss,
    reason = "both sides of each division are at most 2^53, or a power of ten that is a float"
)]
fn word_float(numerator: u128, denominator: u128) -> Option<f64> {
    const EVERY_WHOLE_NUMBER: u128 = 1 << f64::MANTISSA_DIGITS;
    /// The largest power of ten that is a float.
    const MAX_SCALE: u32 = 22;
    // Factors of two and five are removed; what is left decides whether the decimal terminates.
    // `ratio` reports a divisor of 0.
    let twos = (denominator > 0).then(|| denominator.trailing_zeros())?;
    let mut rest = denominator >> twos;
    let mut fives = 0;
    while rest.is_multiple_of(5) {
        rest /= 5;
        fives += 1;
    }
    if numerator.is_multiple_of(rest) {
        let scale = twos.max(fives);
        if scale > MAX_SCALE {
            return None;
        }
        let units = (numerator / rest)
            .checked_mul(2_u128.pow(scale - twos))?
            .checked_mul(5_u128.checked_pow(scale - fives)?)?;
        let mut scale = scale;
        let mut units = units;
        while scale > 0 && units.is_multiple_of(10) {
            units /= 10;
            scale -= 1;
        }
        // With so few digits one division returns the nearest float, and its text has these digits.
        let is_float = scale > 0 && units < EVERY_FLOAT;
        return is_float.then(|| units as f64 / 10_u128.pow(scale) as f64);
    }
    // A non-terminating decimal is rounded once by the division, if both sides are exact floats.
    let common = numerator.trailing_zeros().min(twos);
    let (mut numerator, mut denominator) = (numerator >> common, denominator >> common);
    while denominator > EVERY_WHOLE_NUMBER
        && numerator.is_multiple_of(5)
        && denominator.is_multiple_of(5)
    {
        (numerator, denominator) = (numerator / 5, denominator / 5);
    }
    (numerator <= EVERY_WHOLE_NUMBER && denominator <= EVERY_WHOLE_NUMBER)
        .then(|| numerator as f64 / denominator as f64)
}

/// Computes the quotient. A terminating decimal is exact. A non-terminating one is the nearest float up
/// to 2^53, and rounded to a billionth above, where floats skip whole numbers.
///
/// # Errors
/// As [`product`].
pub(crate) fn ratio(numerator: &BigInt, denominator: &BigInt) -> Result<Number, &'static str> {
    if denominator.sign() == Sign::NoSign {
        return Err(DIVIDED_BY_ZERO);
    }
    if let Some(decimal) = terminating(numerator, denominator) {
        return Number::exact(decimal);
    }
    const EVERY_WHOLE_NUMBER: u64 = 53;
    if (numerator / denominator).bits() > EVERY_WHOLE_NUMBER {
        let billionths = numerator * power_of_ten(9);
        let rounded = rounded_quotient(&billionths, denominator, Rounding::HalfEven);
        return Number::exact(Decimal::new(rounded, 9));
    }
    nearest(numerator, denominator)
        .map(Number::Float)
        .ok_or(OUT_OF_RANGE)
}

/// Returns the quotient as a decimal if it terminates.
fn terminating(numerator: &BigInt, denominator: &BigInt) -> Option<Decimal> {
    // A fraction terminates if its reduced denominator has no prime factors except two and five.
    let twos = u32::try_from(denominator.trailing_zeros().unwrap_or(0)).ok()?;
    let mut rest = denominator >> twos;
    let mut fives = 0;
    while (&rest % 5_u32).sign() == Sign::NoSign {
        rest /= 5_u32;
        fives += 1;
    }
    if (numerator % &rest).sign() != Sign::NoSign {
        return None;
    }
    let scale = twos.max(fives);
    let units =
        numerator / rest * BigInt::from(2).pow(scale - twos) * BigInt::from(5).pow(scale - fives);
    Some(Decimal::new(units, scale))
}

/// Returns the float nearest to a fraction of less than 2^54.
fn nearest(numerator: &BigInt, denominator: &BigInt) -> Option<f64> {
    let is_negative = (numerator.sign() == Sign::Minus) != (denominator.sign() == Sign::Minus);
    let (numerator, denominator) = (numerator.magnitude(), denominator.magnitude());
    // A quotient of at least 56 bits rounds like the fraction itself, if its last bit is set whenever
    // the division has a remainder.
    let shift = (56 + denominator.bits()).saturating_sub(numerator.bits());
    let shifted = numerator << shift;
    let quotient = u128::try_from(&shifted / denominator).ok()?;
    let is_cut = shifted != quotient * denominator;
    #[expect(clippy::cast_precision_loss, reason = "this is the only rounding")]
    let rounded = (quotient | u128::from(is_cut)) as f64;
    let magnitude = rounded * 2_f64.powi(-i32::try_from(shift).ok()?);
    Some(if is_negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests;

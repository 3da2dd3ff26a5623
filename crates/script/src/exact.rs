//! Arithmetic for the numbers on a bill: exact as long as it lasts, rounded once at the end.

use num_bigint::{BigInt, Sign};
use rhai::Dynamic;

use crate::{
    decimal::{Decimal, OUT_OF_RANGE, Rounding, power_of_ten, rounded_quotient},
    quantity::{NANO, Quantity},
};

/// A result as scripts carry it and JSON shows it. A value has one form: the first that holds it
/// exactly.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Number {
    /// A whole number of 64 bits.
    Integer(i64),
    /// A decimal that a float holds as it is written; the nearest float of one that does not end.
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
    /// The form of an exact value.
    ///
    /// # Errors
    /// Beyond the range of 64-bit floats.
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

const DIVIDED_BY_ZERO: &str = "is divided by 0";
/// What is not whole and has so many digits at most is written by a float as it is.
const EVERY_FLOAT: u128 = 1_000_000_000_000_000;

/// A quantity as a number.
///
/// # Errors
/// Beyond the range of 64-bit floats.
pub(crate) fn number(quantity: &Quantity) -> Result<Number, &'static str> {
    match quantity.nanos() {
        Some(nanos) => word_ratio(nanos, NANO),
        None => Number::exact(quantity.to_decimal()),
    }
}

/// `quantity × factor ÷ divisor`.
///
/// # Errors
/// A divisor of 0, and a result beyond the range of 64-bit floats.
pub(crate) fn product(
    quantity: &Quantity,
    factor: &Decimal,
    divisor: &Decimal,
) -> Result<Number, &'static str> {
    if let (Some(nanos), (factor, 0), (divisor, 0)) =
        (quantity.nanos(), factor.parts(), divisor.parts())
        && let (Ok(factor), Ok(divisor)) = (i64::try_from(factor), i64::try_from(divisor))
    {
        // Whole seconds and a whole divisor: what nearly every call is.
        return whole_product(nanos, factor, divisor);
    }
    let (numerator, denominator) = quantity.to_decimal().times(factor).over(divisor);
    ratio(&numerator, &denominator)
}

/// `nanos × factor ÷ divisor`, in ones.
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

/// The quotient of two numbers that 128 bits hold.
fn word_ratio(numerator: i128, denominator: i128) -> Result<Number, &'static str> {
    // What fits a machine word, which is all but terabytes, is several times as fast.
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

/// The float that [`ratio`] gives for a quotient that is not whole, where words are enough to find
/// it: most of what is not whole at all.
#[expect(
    clippy::cast_precision_loss,
    reason = "both sides of each division are at most 2^53, or a power of ten that is a float"
)]
fn word_float(numerator: u128, denominator: u128) -> Option<f64> {
    const EVERY_WHOLE_NUMBER: u128 = 1 << f64::MANTISSA_DIGITS;
    /// The largest power of ten that is a float.
    const MAX_SCALE: u32 = 22;
    // Without what makes a decimal end.
    // A divisor of 0 is told of elsewhere.
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
        // A float is written with the digits of a decimal of so many, and divided once it is the
        // nearest.
        let is_float = scale > 0 && units < EVERY_FLOAT;
        return is_float.then(|| units as f64 / 10_u128.pow(scale) as f64);
    }
    // One that does not end is rounded by one division where both sides are floats.
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

/// The quotient: exact where it ends. One that does not end is the nearest float up to 2^53, above
/// which a float no longer has every whole number, and rounded to a billionth from there.
///
/// # Errors
/// As [`product`].
pub(crate) fn ratio(numerator: &BigInt, denominator: &BigInt) -> Result<Number, &'static str> {
    if denominator.sign() == Sign::NoSign {
        return Err(DIVIDED_BY_ZERO);
    }
    if let Some(decimal) = ending(numerator, denominator) {
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

/// The quotient as a decimal, where it is one.
fn ending(numerator: &BigInt, denominator: &BigInt) -> Option<Decimal> {
    // A fraction ends where nothing but twos and fives is left of its denominator.
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

/// The float nearest to a fraction of less than 2^54.
fn nearest(numerator: &BigInt, denominator: &BigInt) -> Option<f64> {
    let is_negative = (numerator.sign() == Sign::Minus) != (denominator.sign() == Sign::Minus);
    let (numerator, denominator) = (numerator.magnitude(), denominator.magnitude());
    // A quotient of at least 56 bits whose last bit says whether anything was cut off behind it
    // rounds as the fraction itself does.
    let shift = (56 + denominator.bits()).saturating_sub(numerator.bits());
    let shifted = numerator << shift;
    let quotient = u128::try_from(&shifted / denominator).ok()?;
    let is_cut = shifted != quotient * denominator;
    #[expect(
        clippy::cast_precision_loss,
        reason = "this is where the one rounding happens"
    )]
    let rounded = (quotient | u128::from(is_cut)) as f64;
    let magnitude = rounded * 2_f64.powi(-i32::try_from(shift).ok()?);
    Some(if is_negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests;

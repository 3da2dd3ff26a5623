//! Kubernetes quantities (`500m`, `2Gi`, `1e3`), parsed exactly as Kubernetes does.
//!
//! Source: `ParseQuantity` of `k8s.io/apimachinery/pkg/api/resource`, and the documentation of its type
//! `Quantity`. Three rules are easily missed: a value with a binary suffix is capped at 2^63-1 (`8Ei`),
//! while one with a decimal suffix is not; values are rounded away from zero to a billionth; and a number
//! without digits is 0 (`m`, `.`), unless its suffix is `Pi`, `Ei` or an exponent below -9, where it is
//! malformed.

use std::fmt;

use num_bigint::{BigInt, Sign};
use thiserror::Error;

use crate::decimal::Decimal;

/// One in billionths.
pub(crate) const NANO: i128 = 1_000_000_000;
/// The largest quantity with a binary suffix, in billionths.
const MAX_BINARY: i128 = i64::MAX as i128 * NANO;
/// The most digits before the point: more than those of any 64-bit float.
const MAX_DIGITS: i64 = 330;

/// An amount of a resource, held exactly in billionths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity(Nanos);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Nanos {
    /// Every realistic amount.
    Word(i128),
    /// An amount beyond 128 bits.
    Long(Box<BigInt>),
}

/// Why a text is no valid quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// The text does not match the grammar.
    #[error(
        "`{0}` is not a Kubernetes quantity; use a value such as `500m`, `0.5`, `2Gi` or `1e3`"
    )]
    Syntax(String),
    /// The value is beyond the range of 64-bit floats.
    #[error("`{0}` is out of range")]
    Range(String),
}

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self(Nanos::Word(0));

    /// Creates a quantity of this many billionths.
    #[must_use]
    pub fn from_nanos(nanos: i128) -> Self {
        Self(Nanos::Word(nanos))
    }

    /// Returns the billionths, if they fit 128 bits.
    #[must_use]
    pub fn nanos(&self) -> Option<i128> {
        match &self.0 {
            Nanos::Word(nanos) => Some(*nanos),
            Nanos::Long(_) => None,
        }
    }

    /// Whether the quantity is below 0.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        match &self.0 {
            Nanos::Word(nanos) => *nanos < 0,
            Nanos::Long(nanos) => nanos.sign() == Sign::Minus,
        }
    }

    /// Returns the sum.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        if let (Nanos::Word(a), Nanos::Word(b)) = (&self.0, &other.0)
            && let Some(sum) = a.checked_add(*b)
        {
            return Self(Nanos::Word(sum));
        }
        Self::from_long(self.to_long() + other.to_long())
    }

    /// Returns the billionths.
    pub(crate) fn to_long(&self) -> BigInt {
        match &self.0 {
            Nanos::Word(nanos) => (*nanos).into(),
            Nanos::Long(nanos) => (**nanos).clone(),
        }
    }

    fn from_long(nanos: BigInt) -> Self {
        match i128::try_from(nanos) {
            Ok(nanos) => Self(Nanos::Word(nanos)),
            Err(error) => Self(Nanos::Long(Box::new(error.into_original()))),
        }
    }

    pub(crate) fn to_decimal(&self) -> Decimal {
        Decimal::new(self.to_long(), 9)
    }

    /// Parses a quantity. It is rounded away from zero to a billionth, so that a positive amount never
    /// becomes 0.
    ///
    /// # Errors
    /// [`QuantityError`] is the reason: malformed, or out of range.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let syntax = || QuantityError::Syntax(clipped(text));
        let range = || QuantityError::Range(clipped(text));
        if text.is_empty() {
            return Err(syntax());
        }
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or_default()),
            Some(b'+') => (false, text.get(1..).unwrap_or_default()),
            _ => (false, text),
        };
        let (whole, rest) = digits(unsigned);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => digits(rest),
            None => ("", rest),
        };
        let scale = scale(suffix).ok_or_else(syntax)?;
        if whole.is_empty() && fraction.is_empty() {
            let is_zero = match scale {
                Scale::Nanos(_) => !matches!(suffix, "Pi" | "Ei"),
                Scale::Exponent(exponent) => exponent >= -9,
            };
            return if is_zero {
                Ok(Self::ZERO)
            } else {
                Err(syntax())
            };
        }
        let magnitude = match scale {
            Scale::Nanos(nanos) => {
                match scaled(whole.bytes(), fraction.bytes(), nanos) {
                    // A binary suffix caps the value, even beyond the range.
                    None if suffix.ends_with('i') => Nanos::Word(MAX_BINARY),
                    other => other.ok_or_else(range)?,
                }
            }
            Scale::Exponent(exponent) => shifted(whole, fraction, exponent).ok_or_else(range)?,
        };
        let magnitude = match magnitude {
            Nanos::Word(nanos) if suffix.ends_with('i') => Nanos::Word(nanos.min(MAX_BINARY)),
            Nanos::Long(_) if suffix.ends_with('i') => Nanos::Word(MAX_BINARY),
            other => other,
        };
        Ok(Self(match magnitude {
            Nanos::Word(nanos) if negative => Nanos::Word(-nanos),
            Nanos::Long(nanos) if negative => Nanos::Long(Box::new(-*nanos)),
            other => other,
        }))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        match (&self.0, &other.0) {
            (Nanos::Word(a), Nanos::Word(b)) => a.cmp(b),
            _ => self.to_long().cmp(&other.to_long()),
        }
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_decimal().fmt(f)
    }
}

/// Truncates the text for an error, because an annotation may have 256 KiB.
fn clipped(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

enum Scale {
    /// One unit in billionths.
    Nanos(i128),
    /// A power of ten.
    Exponent(i32),
}

/// Parses a suffix. `E` alone is exa; with digits after it, it is an exponent.
fn scale(suffix: &str) -> Option<Scale> {
    let nanos = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => NANO,
        "k" => NANO * 1_000,
        "M" => NANO * 1_000_000,
        "G" => NANO * 1_000_000_000,
        "T" => NANO * 1_000_000_000_000,
        "P" => NANO * 1_000_000_000_000_000,
        "E" => NANO * 1_000_000_000_000_000_000,
        "Ki" => NANO << 10,
        "Mi" => NANO << 20,
        "Gi" => NANO << 30,
        "Ti" => NANO << 40,
        "Pi" => NANO << 50,
        "Ei" => NANO << 60,
        _ => {
            // Kubernetes parses 64 bits and keeps the lower 32 of them.
            let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let [a, b, c, d, ..] = exponent.to_le_bytes();
            return Some(Scale::Exponent(i32::from_le_bytes([a, b, c, d])));
        }
    };
    Some(Scale::Nanos(nanos))
}

/// Computes `whole.fraction × nanos`, rounded up; `None` if it has too many digits.
fn scaled(
    whole: impl Iterator<Item = u8> + Clone,
    fraction: impl DoubleEndedIterator<Item = u8>,
    nanos: i128,
) -> Option<Nanos> {
    // From the last digit to the first, each step divides by ten and rounds down. The nested floors
    // equal the floor of the whole fraction, and `is_cut` records any remainder.
    let mut part = 0_i128;
    let mut is_cut = false;
    for digit in fraction.rev() {
        let sum = i128::from(digit - b'0') * nanos + part;
        part = sum / 10;
        is_cut |= sum % 10 != 0;
    }
    let part = part + i128::from(is_cut);
    let units = whole.clone().try_fold(0_i128, |units, digit| {
        units.checked_mul(10)?.checked_add(i128::from(digit - b'0'))
    });
    if let Some(word) = units
        .and_then(|units| units.checked_mul(nanos))
        .and_then(|whole| whole.checked_add(part))
    {
        return Some(Nanos::Word(word));
    }
    let digits: Vec<u8> = whole.skip_while(|digit| *digit == b'0').collect();
    if i64::try_from(digits.len()).ok()? > MAX_DIGITS {
        return None;
    }
    let units = BigInt::parse_bytes(&digits, 10)?;
    Some(Nanos::Long(Box::new(units * nanos + part)))
}

/// Computes `whole.fraction × 10^exponent` in billionths by moving the point.
fn shifted(whole: &str, fraction: &str, exponent: i32) -> Option<Nanos> {
    let all = || whole.bytes().chain(fraction.bytes());
    let Some(zeros) = all().position(|digit| digit != b'0') else {
        return Some(Nanos::Word(0));
    };
    // The position of the point, relative to the first digit that is not 0.
    let point = i64::try_from(whole.len())
        .ok()?
        .checked_sub(i64::try_from(zeros).ok()?)?
        .saturating_add(exponent.into());
    if point > MAX_DIGITS {
        return None;
    }
    // With ten zeros after the point the value is below a billionth, and is rounded up to one.
    if point < -10 {
        return Some(Nanos::Word(1));
    }
    let digits: Vec<u8> = all().skip(zeros).collect();
    let lead = usize::try_from(-point).unwrap_or(0);
    let split = usize::try_from(point).unwrap_or(0);
    let pad = std::iter::repeat(b'0');
    let whole = digits.iter().copied().chain(pad.clone()).take(split);
    let fraction: Vec<u8> = pad
        .take(lead)
        .chain(digits.iter().copied().skip(split))
        .collect();
    scaled(whole, fraction.into_iter(), NANO)
}

#[cfg(test)]
mod tests;

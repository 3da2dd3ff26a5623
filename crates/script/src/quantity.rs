//! Kubernetes quantities (`500m`, `2Gi`, `1e3`), exactly.
//!
//! Source: `ParseQuantity` of `k8s.io/apimachinery/pkg/api/resource`, and the grammar in the
//! documentation of its type `Quantity`. Two deviations, both towards refusing: a number without a
//! digit (`m`, `.`) is an error and not 0, and a value beyond 64 bits is an error and not the
//! largest value.

use std::fmt;

use thiserror::Error;

/// Billionths in one.
pub(crate) const NANO: i128 = 1_000_000_000;
/// The largest quantity, in billionths.
const MAX: i128 = i64::MAX as i128 * NANO;

/// An amount of a resource, held exactly in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Quantity(i128);

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// Not the grammar.
    #[error("`{0}` is not a Kubernetes quantity; write for example `500m`, `0.5`, `2Gi` or `1e3`")]
    Syntax(String),
    /// The grammar, but more than 64 bits.
    #[error("`{0}` is out of range")]
    Range(String),
}

impl Quantity {
    /// This many billionths.
    #[must_use]
    pub fn from_nanos(nanos: i128) -> Self {
        Self(nanos)
    }

    /// How many billionths.
    #[must_use]
    pub fn nanos(self) -> i128 {
        self.0
    }

    /// Reads a quantity. What is finer than a billionth is rounded away from zero, so that
    /// something never becomes nothing.
    ///
    /// # Errors
    /// [`QuantityError`] says whether the text is malformed or out of range.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let syntax = || QuantityError::Syntax(clipped(text));
        let range = || QuantityError::Range(clipped(text));
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
        if whole.is_empty() && fraction.is_empty() {
            return Err(syntax());
        }
        let magnitude = match scale(suffix).ok_or_else(syntax)? {
            Scale::Nanos(nanos) => scaled(whole.bytes(), fraction.bytes(), nanos),
            Scale::Exponent(exponent) => shifted(whole, fraction, exponent),
        };
        let magnitude = magnitude.filter(|nanos| *nanos <= MAX).ok_or_else(range)?;
        Ok(Self(if negative { -magnitude } else { magnitude }))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.abs() / NANO, self.0.abs() % NANO);
        if rest == 0 {
            write!(f, "{sign}{whole}")
        } else {
            let rest = format!("{rest:09}");
            write!(f, "{sign}{whole}.{}", rest.trim_end_matches('0'))
        }
    }
}

/// An annotation of a quarter of a megabyte is not repeated in an error.
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
    Exponent(i64),
}

/// `E` alone is exa, with digits behind it an exponent.
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
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            let is_number = !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit());
            return is_number.then(|| Scale::Exponent(exponent.parse().unwrap_or(i64::MAX)));
        }
    };
    Some(Scale::Nanos(nanos))
}

/// `whole.fraction × nanos`, rounded up; `None` beyond 128 bits.
fn scaled(
    whole: impl Iterator<Item = u8>,
    fraction: impl DoubleEndedIterator<Item = u8>,
    nanos: i128,
) -> Option<i128> {
    let mut units = 0_i128;
    for digit in whole {
        units = units
            .checked_mul(10)?
            .checked_add(i128::from(digit - b'0'))?;
    }
    // From the last digit to the first, each step a tenth of what stands behind the point: the
    // floor of a floor is the floor of the whole, and whether anything was cut off is remembered.
    let mut part = 0_i128;
    let mut is_cut = false;
    for digit in fraction.rev() {
        let sum = i128::from(digit - b'0') * nanos + part;
        part = sum / 10;
        is_cut |= sum % 10 != 0;
    }
    units
        .checked_mul(nanos)?
        .checked_add(part + i128::from(is_cut))
}

/// `whole.fraction × 10^exponent` in billionths: the point is moved.
fn shifted(whole: &str, fraction: &str, exponent: i64) -> Option<i128> {
    let all = || whole.bytes().chain(fraction.bytes());
    let Some(zeros) = all().position(|digit| digit != b'0') else {
        return Some(0);
    };
    // Where the point stands, counted from the first digit that is not 0.
    let point = i64::try_from(whole.len())
        .ok()?
        .checked_sub(i64::try_from(zeros).ok()?)?
        .saturating_add(exponent);
    // Twenty digits are more than 64 bits hold; ten zeros behind the point are less than a
    // billionth, which counts as one.
    if point > 20 {
        return None;
    }
    if point < -10 {
        return Some(1);
    }
    let digits: Vec<u8> = all().skip(zeros).collect();
    let lead = usize::try_from(-point).unwrap_or(0);
    let split = usize::try_from(point).unwrap_or(0);
    let pad = std::iter::repeat(b'0');
    let whole: Vec<u8> = digits
        .iter()
        .copied()
        .chain(pad.clone())
        .take(split)
        .collect();
    let fraction: Vec<u8> = pad
        .take(lead)
        .chain(digits.iter().copied().skip(split))
        .collect();
    scaled(whole.into_iter(), fraction.into_iter(), NANO)
}

#[cfg(test)]
mod tests;

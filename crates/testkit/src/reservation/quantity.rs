//! Amounts as Kubernetes writes them, held as fractions of whole numbers until they are rounded.

use std::fmt;

use num_bigint::BigUint;

/// An amount in billionths, never negative.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(BigUint);

impl Amount {
    /// Parses a quantity that is not negative; `None` if it is malformed, negative or has no digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let is_number = |it: char| it.is_ascii_digit() || it == '.';
        let end = text.find(|it| !is_number(it)).unwrap_or(text.len());
        let (number, suffix) = text.split_at_checked(end)?;
        let mut halves = number.split('.');
        let (whole, fraction) = (halves.next()?, halves.next().unwrap_or_default());
        if halves.next().is_some() || whole.len() + fraction.len() == 0 {
            return None;
        }
        let digits: BigUint = format!("{whole}{fraction}").parse().ok()?;
        let mut divisor = BigUint::from(10_u32).pow(u32::try_from(fraction.len()).ok()?);
        let mut numerator = digits * BigUint::from(1_000_000_000_u32);
        let power =
            |exponent: usize| BigUint::from(10_u32).pow(u32::try_from(exponent).unwrap_or(0));
        let at = |list: &[&str]| list.iter().position(|it| *it == suffix);
        let is_binary = suffix.ends_with('i');
        if let Some(step) = at(&["n", "u", "m"]) {
            divisor *= power(9 - 3 * step);
        } else if let Some(step) = at(&["", "k", "M", "G", "T", "P", "E"]) {
            numerator *= power(3 * step);
        } else if let Some(step) = at(&["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]) {
            numerator <<= 10 * step;
        } else {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = usize::try_from(exponent.unsigned_abs()).ok()?;
            if exponent < 0 {
                divisor *= power(size);
            } else {
                numerator *= power(size);
            }
        }
        // Rounded up, and capped for binary suffixes.
        let one = BigUint::from(1_u32);
        let rounded = (numerator + &divisor - &one) / divisor;
        let most = BigUint::from(i64::MAX.unsigned_abs()) * BigUint::from(1_000_000_000_u32);
        Some(Self(if is_binary {
            rounded.min(most)
        } else {
            rounded
        }))
    }

    /// The sum.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self(&self.0 + &other.0)
    }

    /// Whether it is 0.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.bits() == 0
    }
}

/// A decimal without zeros that say nothing.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:0>10}", self.0.to_string());
        let (whole, fraction) = digits.split_at(digits.len() - 9);
        match fraction.trim_end_matches('0') {
            "" => f.write_str(whole),
            fraction => write!(f, "{whole}.{fraction}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_parsed_and_printed() {
        for (text, expected) in [
            ("0", Some("0")),
            ("1", Some("1")),
            ("100m", Some("0.1")),
            ("1.5Gi", Some("1610612736")),
            ("0.5Ki", Some("512")),
            ("1e3", Some("1000")),
            ("12e-1", Some("1.2")),
            ("1E", Some("1000000000000000000")),
            ("8Ei", Some("9223372036854775807")),
            ("12E", Some("12000000000000000000")),
            ("1.1n", Some("0.000000002")),
            (".5", Some("0.5")),
            ("5.", Some("5")),
            ("+3u", Some("0.000003")),
            ("-1", None),
            ("", None),
            ("m", None),
            ("1.2.3", None),
            ("1 Gi", None),
            ("1gi", None),
            ("1ki", None),
            ("x", None),
        ] {
            let amount = Amount::parse(text).map(|it| it.to_string());
            assert_eq!(amount.as_deref(), expected, "{text}");
        }
    }
}

//! Durations in the syntax of Go (`1h30m`, `15s`, `500ms`), which Benthos and the
//! collector's variables use.
//!
//! Source: the documentation of Go's `time.ParseDuration` and `time.Duration.String`.

use thiserror::Error;

/// Why a text is not a Go duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    /// The text does not match the grammar.
    #[error("`{0}` is not a duration; write for example `15s`, `500ms` or `1h30m`")]
    Syntax(String),
    /// The unit does not exist.
    #[error("`{unit}` in `{text}` is not a unit of time; the units are ns, us, ms, s, m and h")]
    Unit {
        /// The whole text.
        text: String,
        /// The unit as written.
        unit: String,
    },
    /// The duration is longer than about 292 years.
    #[error("`{0}` is too long; a duration is at most 2562047h")]
    Range(String),
}

const NANOSECOND: i128 = 1;
const MICROSECOND: i128 = 1_000;
const MILLISECOND: i128 = 1_000_000;
const SECOND: i128 = 1_000_000_000;
const MINUTE: i128 = 60 * SECOND;
const HOUR: i128 = 60 * MINUTE;

/// Returns the nanoseconds of a Go duration.
///
/// Fractions of a nanosecond are truncated, as in Go.
///
/// # Errors
/// [`DurationError`] if the text is not a duration.
pub fn parse(text: &str) -> Result<i64, DurationError> {
    let syntax = || DurationError::Syntax(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(syntax());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (term, remaining) = parse_term(text, rest)?;
        total = total
            .checked_add(term)
            .filter(|sum| *sum <= i128::from(i64::MAX) + i128::from(negative))
            .ok_or_else(|| DurationError::Range(text.to_owned()))?;
        rest = remaining;
    }
    let signed = if negative { -total } else { total };
    i64::try_from(signed).map_err(|_| DurationError::Range(text.to_owned()))
}

/// Parses one `number unit` term. Returns its nanoseconds and the remaining text.
fn parse_term<'a>(text: &str, rest: &'a str) -> Result<(i128, &'a str), DurationError> {
    let syntax = || DurationError::Syntax(text.to_owned());
    let split = |s: &'a str, stop: fn(char) -> bool| {
        let at = s.find(stop).unwrap_or(s.len());
        s.split_at(at)
    };
    let (whole, rest) = split(rest, |c| !c.is_ascii_digit());
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split(rest, |c| !c.is_ascii_digit()),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(syntax());
    }
    let (unit, rest) = split(rest, |c| c.is_ascii_digit() || c == '.');
    let scale = match unit {
        "ns" => NANOSECOND,
        // The micro sign and the Greek letter mu are both accepted, as in Go.
        "us" | "\u{b5}s" | "\u{3bc}s" => MICROSECOND,
        "ms" => MILLISECOND,
        "s" => SECOND,
        "m" => MINUTE,
        "h" => HOUR,
        "" => return Err(syntax()),
        unit => {
            return Err(DurationError::Unit {
                text: text.to_owned(),
                unit: unit.to_owned(),
            });
        }
    };
    let range = || DurationError::Range(text.to_owned());
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| range())?
    };
    // Eighteen digits of an hour are finer than a nanosecond by five orders, and keep the product
    // far inside 128 bits.
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let fraction_part = match fraction.parse::<i128>() {
        Ok(numerator) => {
            let digits = u32::try_from(fraction.len()).map_err(|_| range())?;
            numerator * scale / 10_i128.pow(digits)
        }
        Err(_) => 0,
    };
    let nanoseconds = whole
        .checked_mul(scale)
        .and_then(|whole| whole.checked_add(fraction_part))
        .ok_or_else(range)?;
    Ok((nanoseconds, rest))
}

/// Whole seconds as Go prints such a duration: `15s`, `1m0s`, `1h0m0s`.
#[must_use]
pub fn format_seconds(seconds: i64) -> String {
    let sign = if seconds < 0 { "-" } else { "" };
    let total = seconds.unsigned_abs();
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    if hours > 0 {
        format!("{sign}{hours}h{minutes}m{seconds}s")
    } else if minutes > 0 {
        format!("{sign}{minutes}m{seconds}s")
    } else {
        format!("{sign}{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_go_accepts() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("15s", 15_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5m", 30_000_000_000),
            ("0.01h", 36_000_000_000),
            ("5.s", 5_000_000_000),
            ("-2ms", -2_000_000),
            ("+3us", 3_000),
            ("1\u{b5}s", 1_000),
            ("0.3333333333333333333s", 333_333_333),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse(text), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn rejects_what_go_rejects() {
        for text in ["", "-", "3", "s", ".s", "1 s", "1d", "s1", "1s ", "1e3s"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(matches!(
            parse("9223372036854775808ns"),
            Err(DurationError::Range(_))
        ));
        assert!(matches!(
            parse("99999999999999999999999999999999999999999h"),
            Err(DurationError::Range(_))
        ));
    }

    #[test]
    fn prints_as_go_does() {
        for (seconds, text) in [(0, "0s"), (15, "15s"), (60, "1m0s"), (3661, "1h1m1s")] {
            assert_eq!(format_seconds(seconds), text);
            assert_eq!(parse(text), Ok(seconds * 1_000_000_000));
        }
    }
}

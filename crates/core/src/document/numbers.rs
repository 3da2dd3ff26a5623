//! Finds numbers in JSON text that neither a 64-bit integer nor a 64-bit float holds exactly.
//!
//! `serde_json` reads every number that is not a 64-bit integer as the nearest float. Its feature for
//! arbitrary precision would read each number as text everywhere, so the text is scanned again if a float
//! was read.

/// The longest literal that keeps its digits. A float has at most 309 digits before the point and 324 after
/// it.
const LONGEST: usize = 700;

/// The float nearest to a number in JSON text.
pub(super) fn nearest(text: &str) -> f64 {
    text.parse().unwrap_or(0.0)
}

/// For each number in `text`, in order, that `serde_json` reads as a float: its literal if the float
/// is not exactly that number. `None` if all are exact.
///
/// `text` is valid JSON.
pub(super) fn inexact(text: &[u8]) -> Option<Vec<Option<Box<str>>>> {
    let literals: Vec<_> = Literals { text }
        .filter(|literal| is_float(literal))
        .map(|literal| (!is_exact(literal)).then(|| literal.into()))
        .collect();
    literals.iter().any(Option::is_some).then_some(literals)
}

/// Whether `serde_json` reads the literal as a float.
fn is_float(literal: &str) -> bool {
    literal == "-0" || (literal.parse::<i64>().is_err() && literal.parse::<u64>().is_err())
}

/// Whether the shortest text of the nearest float is the same number as the literal.
fn is_exact(literal: &str) -> bool {
    let shortest = format!("{:e}", nearest(literal));
    literal.len() > LONGEST || Digits::of(literal) == Digits::of(&shortest)
}

/// A number as its digits without zeros at either end, and the position of the point: `0.d₁d₂… ×
/// 10^point`.
#[derive(Debug, PartialEq, Eq)]
struct Digits {
    digits: String,
    point: i64,
}

impl Digits {
    fn of(literal: &str) -> Self {
        let literal = literal.trim_start_matches('-');
        let (mantissa, exponent) = literal.split_once(['e', 'E']).unwrap_or((literal, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0');
        let zeros = all.len() - digits.len();
        let digits = digits.trim_end_matches('0').to_owned();
        // Both lengths are those of texts in memory; only 0 may have an exponent beyond 64 bits.
        let places = i64::try_from(whole.len()).unwrap_or(i64::MAX);
        let zeros = i64::try_from(zeros).unwrap_or(i64::MAX);
        let exponent: i64 = exponent.parse().unwrap_or(0);
        let point = if digits.is_empty() {
            0
        } else {
            places.saturating_sub(zeros).saturating_add(exponent)
        };
        Self { digits, point }
    }
}

/// The number literals of JSON text, in order.
struct Literals<'a> {
    text: &'a [u8],
}

impl<'a> Iterator for Literals<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let start = self
                .text
                .iter()
                .position(|byte| matches!(byte, b'"' | b'-' | b'0'..=b'9'))?;
            let rest = self.text.get(start..)?;
            if rest.first() == Some(&b'"') {
                self.text = rest.get(1 + text_length(rest.get(1..)?)..)?;
                continue;
            }
            let is_part =
                |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
            let end = rest.iter().position(|byte| !is_part(byte));
            let (literal, behind) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
            self.text = behind;
            return std::str::from_utf8(literal).ok();
        }
    }
}

/// The length of a string after its opening quote, with its closing quote.
fn text_length(text: &[u8]) -> usize {
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return at + 1,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    text.len()
}

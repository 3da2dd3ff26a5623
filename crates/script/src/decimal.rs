//! Exact decimals of any size.

use std::{cmp::Ordering, fmt, str::FromStr};

use num_bigint::{BigInt, Sign};

/// The most digits after the point: those of the smallest 64-bit float. Finer numbers are rounded half
/// to even.
pub(crate) const MAX_SCALE: u32 = 324;
/// The most bits before the point: those of the largest 64-bit float, and so of the receivers of JSON.
const MAX_BITS: u64 = 1024;
/// The error for a result beyond [`MAX_BITS`].
pub(crate) const OUT_OF_RANGE: &str =
    "is beyond 1.8e308, the largest number that JSON parsers accept";

/// A decimal number: `units ÷ 10^scale`, without trailing zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    units: BigInt,
    scale: u32,
}

/// The text is not a number in JSON's grammar.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotADecimal;

/// Returns 10 to this power.
pub(crate) fn power_of_ten(exponent: u32) -> BigInt {
    BigInt::from(10).pow(exponent)
}

impl Decimal {
    /// Returns `units ÷ 10^scale`.
    pub(crate) fn new(units: BigInt, scale: u32) -> Self {
        let mut decimal = Self { units, scale };
        decimal.drop_zeros();
        decimal
    }

    fn drop_zeros(&mut self) {
        while self.scale > 0 && (&self.units % 10_u32).sign() == Sign::NoSign {
            self.units /= 10_u32;
            self.scale -= 1;
        }
    }

    /// Converts a float by its shortest text; `None` if it is not finite.
    pub(crate) fn from_float(number: f64) -> Option<Self> {
        // By the encoder that writes results: of two texts that are equally short and equally near,
        // Rust itself prints another one.
        let text = number.is_finite().then(|| serde_json::to_string(&number))?;
        text.ok()?.parse().ok()
    }

    /// Whether it is a whole number.
    pub(crate) fn is_whole(&self) -> bool {
        self.scale == 0
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.units.sign() == Sign::NoSign
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.units.sign() == Sign::Minus
    }

    /// Returns the digits as a whole number, and how many of them are after the point.
    pub(crate) fn parts(&self) -> (&BigInt, u32) {
        (&self.units, self.scale)
    }

    /// Returns the nearest float.
    pub(crate) fn nearest_float(&self) -> f64 {
        // Rust rounds decimals of any length correctly.
        format!("{}e-{}", self.units, self.scale)
            .parse()
            .unwrap_or(f64::NAN)
    }

    /// Bounds the number to what scripts and events may hold. Digits beyond [`MAX_SCALE`] are rounded.
    ///
    /// # Errors
    /// When the value is beyond the range of 64-bit floats.
    pub(crate) fn bounded(mut self) -> Result<Self, &'static str> {
        if self.scale > MAX_SCALE {
            self = self.rounded(MAX_SCALE, Rounding::HalfEven);
        }
        // The second check is only needed for numbers with many digits after the point.
        if self.units.bits() > MAX_BITS && self.truncated().bits() > MAX_BITS {
            return Err(OUT_OF_RANGE);
        }
        Ok(self)
    }

    /// Returns the part before the point.
    pub(crate) fn truncated(&self) -> BigInt {
        if self.scale == 0 {
            return self.units.clone();
        }
        &self.units / power_of_ten(self.scale)
    }

    /// Rounds to this many digits after the point.
    pub(crate) fn rounded(&self, digits: u32, rounding: Rounding) -> Self {
        if self.scale <= digits {
            return self.clone();
        }
        let step = power_of_ten(self.scale - digits);
        Self::new(rounded_quotient(&self.units, &step, rounding), digits)
    }

    /// Formats the number with exactly this many digits after the point. It must not have more.
    pub(crate) fn with_places(&self, digits: u32) -> String {
        let mut text = self.to_string();
        if digits > 0 && self.scale == 0 {
            text.push('.');
        }
        (self.scale..digits).for_each(|_| text.push('0'));
        text
    }

    /// Returns both numbers as multiples of the same power of ten, and the scale.
    fn aligned(&self, other: &Self) -> (BigInt, BigInt, u32) {
        let scale = self.scale.max(other.scale);
        let at = |it: &Self| &it.units * power_of_ten(scale - it.scale);
        (at(self), at(other), scale)
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        let (a, b, scale) = self.aligned(other);
        Self::new(a + b, scale)
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        let (a, b, scale) = self.aligned(other);
        Self::new(a - b, scale)
    }

    pub(crate) fn times(&self, other: &Self) -> Self {
        Self::new(&self.units * &other.units, self.scale + other.scale)
    }

    pub(crate) fn negated(&self) -> Self {
        Self {
            units: -&self.units,
            scale: self.scale,
        }
    }

    /// Returns numerator and denominator of `self ÷ other`, both whole. The denominator is 0 if `other`
    /// is.
    pub(crate) fn over(&self, other: &Self) -> (BigInt, BigInt) {
        let (a, b, _) = self.aligned(other);
        (a, b)
    }

    /// Returns the remainder of `self ÷ other` with the quotient rounded towards zero; it has the sign
    /// of `self`. `None` if `other` is 0.
    pub(crate) fn remainder(&self, other: &Self) -> Option<Self> {
        let (a, b, scale) = self.aligned(other);
        (b.sign() != Sign::NoSign).then(|| Self::new(a % b, scale))
    }
}

/// How a number between two others is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To the nearer one; halves to the even one.
    HalfEven,
    /// To the nearer one; halves away from zero.
    HalfUp,
    /// Down.
    Floor,
    /// Up.
    Ceiling,
}

/// Rounds `numerator ÷ denominator` to a whole number. The denominator must not be 0.
pub(crate) fn rounded_quotient(
    numerator: &BigInt,
    denominator: &BigInt,
    rounding: Rounding,
) -> BigInt {
    let (quotient, rest) = (numerator / denominator, numerator % denominator);
    if rest.sign() == Sign::NoSign {
        return quotient;
    }
    let is_negative = (numerator.sign() == Sign::Minus) != (denominator.sign() == Sign::Minus);
    let is_away = match rounding {
        Rounding::Floor => is_negative,
        Rounding::Ceiling => !is_negative,
        Rounding::HalfUp | Rounding::HalfEven => {
            match (rest.magnitude() * 2_u32).cmp(denominator.magnitude()) {
                Ordering::Less => false,
                Ordering::Greater => true,
                Ordering::Equal => rounding == Rounding::HalfUp || quotient.bit(0),
            }
        }
    };
    match (is_away, is_negative) {
        (false, _) => quotient,
        (true, false) => quotient + 1,
        (true, true) => quotient - 1,
    }
}

impl From<i64> for Decimal {
    fn from(number: i64) -> Self {
        Self::new(number.into(), 0)
    }
}

impl From<u64> for Decimal {
    fn from(number: u64) -> Self {
        Self::new(number.into(), 0)
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.scale == other.scale {
            return self.units.cmp(&other.units);
        }
        let (a, b, _) = self.aligned(other);
        a.cmp(&b)
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Prints all digits without an exponent, in JSON's grammar.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.units.magnitude().to_string();
        let sign = if self.is_negative() { "-" } else { "" };
        // At most 324, see `bounded`.
        let scale = usize::try_from(self.scale).unwrap_or(usize::MAX);
        if scale == 0 {
            return write!(f, "{sign}{digits}");
        }
        let digits = format!("{digits:0>width$}", width = scale.saturating_add(1));
        let (whole, fraction) = digits
            .split_at_checked(digits.len() - scale)
            .unwrap_or((&digits, ""));
        write!(f, "{sign}{whole}.{fraction}")
    }
}

/// Parses a number in JSON's grammar.
impl FromStr for Decimal {
    type Err = NotADecimal;

    fn from_str(text: &str) -> Result<Self, NotADecimal> {
        // More than the digits of any float. The time to parse grows with the square of the length.
        const MAX_LENGTH: usize = 1_000;
        if text.len() > MAX_LENGTH {
            return Err(NotADecimal);
        }
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let unsigned = whole.strip_prefix('-').unwrap_or(whole);
        if !is_digits(unsigned) || !is_digits(fraction) || (unsigned.len() + fraction.len()) == 0 {
            return Err(NotADecimal);
        }
        let units: BigInt = format!("{whole}{fraction}")
            .parse()
            .map_err(|_| NotADecimal)?;
        let exponent: i64 = exponent.parse().map_err(|_| NotADecimal)?;
        if units.sign() == Sign::NoSign {
            return Ok(Self::new(units, 0));
        }
        let places = i64::try_from(fraction.len()).map_err(|_| NotADecimal)?;
        let scale = places.checked_sub(exponent).ok_or(NotADecimal)?;
        let limit = i64::try_from(2 * MAX_LENGTH).map_err(|_| NotADecimal)?;
        if !(-limit..=limit).contains(&scale) {
            return Err(NotADecimal);
        }
        match u32::try_from(scale) {
            Ok(scale) => Ok(Self::new(units, scale)),
            Err(_) => {
                let zeros = u32::try_from(-scale).map_err(|_| NotADecimal)?;
                Ok(Self::new(units * power_of_ten(zeros), 0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn every_json_number_parses_and_prints_in_one_form() {
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("0.0e5", "0"),
            ("1.50", "1.5"),
            ("-0.05", "-0.05"),
            ("5e-3", "0.005"),
            ("1.5e3", "1500"),
            ("1.5E+1", "15"),
            ("100", "100"),
            (".5", "0.5"),
            ("5.", "5"),
            ("33204139332677193910190", "33204139332677193910190"),
        ] {
            assert_eq!(decimal(text).to_string(), expected, "{text}");
        }
        for text in [
            "",
            "-",
            ".",
            "e5",
            "1e",
            "1.2.3",
            "0x1",
            "1_0",
            "--1",
            "1e9999999",
            "NaN",
        ] {
            assert_eq!(text.parse::<Decimal>(), Err(NotADecimal), "{text}");
        }
        assert_eq!("1".repeat(100_000).parse::<Decimal>(), Err(NotADecimal));
    }

    #[test]
    fn numbers_are_rounded_by_the_given_mode() {
        use Rounding::{Ceiling, Floor, HalfEven, HalfUp};
        for (text, floor, ceiling, half_up, half_even) in [
            ("2.5", 2, 3, 3, 2),
            ("-2.5", -3, -2, -3, -2),
            ("3.5", 3, 4, 4, 4),
            ("2.4", 2, 3, 2, 2),
            ("-2.6", -3, -2, -3, -3),
            ("7", 7, 7, 7, 7),
        ] {
            for (rounding, expected) in [
                (Floor, floor),
                (Ceiling, ceiling),
                (HalfUp, half_up),
                (HalfEven, half_even),
            ] {
                let rounded = decimal(text).rounded(0, rounding);
                assert_eq!(
                    rounded,
                    Decimal::from(i64::from(expected)),
                    "{text} {rounding:?}"
                );
            }
        }
    }

    #[test]
    fn numbers_beyond_floats_are_out_of_range_and_too_fine_ones_are_rounded() {
        assert!(decimal("1.7e308").bounded().is_ok());
        assert_eq!(decimal("1e309").bounded(), Err(OUT_OF_RANGE));
        assert_eq!(decimal("-1e309").bounded(), Err(OUT_OF_RANGE));
        assert_eq!(decimal("1e-400").bounded().unwrap().to_string(), "0");
        let fine = decimal("1.5e-324");
        assert_eq!(fine.bounded(), Ok(decimal("2e-324")));
    }

    /// The float is halfway between two decimals of the same length.
    #[test]
    fn a_float_is_the_decimal_that_json_has() {
        let number = 1_802_000_000_001_362.0 + 0.25;
        let json = serde_json::to_string(&number).unwrap();
        assert_eq!(Decimal::from_float(number).unwrap().to_string(), json);
        assert_eq!(
            Decimal::from_float(1e-9).unwrap().to_string(),
            "0.000000001"
        );
        assert_eq!(
            Decimal::from_float(-2e20).unwrap().to_string(),
            "-200000000000000000000"
        );
        assert_eq!(Decimal::from_float(f64::NAN), None);
        assert_eq!(Decimal::from_float(f64::NEG_INFINITY), None);
    }

    proptest! {
        #[test]
        fn a_printed_number_parses_to_the_same(text in "-?[0-9]{1,40}(\\.[0-9]{1,40})?") {
            let number = decimal(&text);
            prop_assert_eq!(decimal(&number.to_string()), number);
        }

        #[test]
        fn a_float_is_the_decimal_of_its_shortest_text(number in any::<f64>()) {
            prop_assume!(number.is_finite());
            let decimal = Decimal::from_float(number).unwrap();
            prop_assert_eq!(decimal.nearest_float(), number);
        }

        /// Compares with 128-bit arithmetic.
        #[test]
        fn arithmetic_is_exact(a in any::<i64>(), b in any::<i64>(), p in 0_u32..9, q in 0_u32..9) {
            let (x, y) = (Decimal::new(a.into(), p), Decimal::new(b.into(), q));
            let (a, b) = (i128::from(a), i128::from(b));
            let (a, b) = (a * 10_i128.pow(9 - p), b * 10_i128.pow(9 - q));
            let of = |units: i128| Decimal::new(units.into(), 9);
            prop_assert_eq!(x.plus(&y), of(a + b));
            prop_assert_eq!(x.minus(&y), of(a - b));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x.minus(&y).plus(&y), x.clone());
            prop_assert_eq!(x.times(&y), Decimal::new(BigInt::from(a) * BigInt::from(b), 18));
            match y.is_zero() {
                true => prop_assert_eq!(x.remainder(&y), None),
                false => prop_assert_eq!(x.remainder(&y), Some(of(a % b))),
            }
        }
    }
}

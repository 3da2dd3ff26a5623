use proptest::prelude::*;

use super::*;

fn nanos(text: &str) -> Result<i128, QuantityError> {
    Quantity::parse(text).map(Quantity::nanos)
}

#[test]
fn reads_what_kubernetes_reads() {
    for (text, expected) in [
        ("0", 0),
        ("100m", 100_000_000),
        ("0.5Ki", 512 * NANO),
        ("1E", 1_000_000_000_000_000_000 * NANO),
        ("1E3", 1_000 * NANO),
        ("1e3", 1_000 * NANO),
        ("1e+3", 1_000 * NANO),
        ("1E-3", 1_000_000),
        ("12e-9", 12),
        (".5", NANO / 2),
        ("5.", 5 * NANO),
        ("5.Gi", 5 * (NANO << 30)),
        ("+1", NANO),
        ("-5", -5 * NANO),
        ("-0.5m", -500_000),
        ("1n", 1),
        ("1u", 1_000),
        ("1k", 1_000 * NANO),
        ("1.1Gi", 1_181_116_006_400_000_000),
        ("007", 7 * NANO),
        ("9223372036854775807", MAX),
        ("7.9Ei", 9_108_079_886_394_091_110_400_000_000),
        ("0e999999999999", 0),
        ("00000000000000000000000000000000000000000000000001", NANO),
        ("0.000000000000000000000000000000000000000001e42", NANO),
    ] {
        assert_eq!(nanos(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_finer_than_a_billionth_is_rounded_away_from_zero() {
    for (text, expected) in [
        ("0.0000000001", 1),
        ("-0.0000000001", -1),
        ("0.1n", 1),
        ("1.1n", 2),
        ("1e-400", 1),
        (
            "0.3333333333333333333333333333333333333333333333",
            333_333_334,
        ),
        ("0.00000000000000000000000000000000000000000001Ki", 1),
    ] {
        assert_eq!(nanos(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_malformed_is_an_error_and_never_nothing() {
    for text in [
        "", " ", "1 ", " 1", "+", "-", ".", "m", "Ki", "e3", "1e", "1e+", "1ee3", "1e3m", "1e1.5",
        "NaN", "nan", "inf", "Infinity", "-inf", "1ki", "1K", "1KI", "1i", "1mm", "1Mib", "1.1.1",
        "1,5", "--1", "+-1", "0x10", "1_000", "\u{661}", "1\u{a0}", "1\n",
    ] {
        assert!(
            matches!(nanos(text), Err(QuantityError::Syntax(_))),
            "{text:?} gave {:?}",
            nanos(text)
        );
    }
}

#[test]
fn what_is_beyond_64_bits_is_out_of_range() {
    for text in [
        "1e400",
        "9223372036854775808",
        "-9223372036854775808",
        "9223372036854775807.0000000001",
        "8Ei",
        "9.3E",
        "1e19",
        "1e99999999999",
        // An exponent that no 64 bits hold is refused rather than guessed at, whatever its sign.
        "1e99999999999999999999",
        "1e-99999999999999999999",
        "99999999999999999999999999999999999999999999999999999999",
        "99999999999999999999999999999999999999999999999999999999Ki",
    ] {
        assert!(
            matches!(nanos(text), Err(QuantityError::Range(_))),
            "{text:?} gave {:?}",
            nanos(text)
        );
    }
}

#[test]
fn an_error_does_not_repeat_a_novel() {
    let error = Quantity::parse(&"é".repeat(100_000)).unwrap_err();
    assert!(error.to_string().len() < 300);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,40}") {
        let _ = Quantity::parse(&text);
    }

    #[test]
    fn anything_like_a_quantity_is_read_or_refused(
        text in "[+-]?[0-9]{0,30}\\.?[0-9]{0,30}(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{0,22})?"
    ) {
        let _ = Quantity::parse(&text);
    }

    #[test]
    fn what_is_printed_reads_back(nanos in -MAX..=MAX) {
        let quantity = Quantity::from_nanos(nanos);
        prop_assert_eq!(Quantity::parse(&quantity.to_string()), Ok(quantity));
    }

    /// Against arithmetic in numbers small enough to be exact another way.
    #[test]
    fn suffixes_multiply(
        whole in 0_i128..1_000_000, thousandths in 0_i128..1_000, suffix in 0_usize..13
    ) {
        let (name, numerator, denominator) = [
            ("n", 1, NANO), ("u", 1_000, NANO), ("m", 1_000_000, NANO), ("", 1, 1),
            ("k", 1_000, 1), ("M", 1_000_000, 1), ("G", NANO, 1), ("Ki", 1 << 10, 1),
            ("Mi", 1 << 20, 1), ("Gi", 1 << 30, 1), ("e2", 100, 1), ("E-2", 1, 100), ("e+0", 1, 1),
        ][suffix];
        let exact = (whole * 1_000 + thousandths) * NANO * numerator;
        let divisor = 1_000 * denominator;
        let expected = exact / divisor + i128::from(exact % divisor != 0);
        prop_assert_eq!(nanos(&format!("{whole}.{thousandths:03}{name}")), Ok(expected));
    }

    #[test]
    fn an_exponent_moves_the_point(digits in 1_u64..1_000_000, exponent in -9_i32..=9) {
        let expected = i128::from(digits) * 10_i128.pow(u32::try_from(exponent + 9).unwrap());
        prop_assert_eq!(nanos(&format!("{digits}e{exponent}")), Ok(expected));
    }
}

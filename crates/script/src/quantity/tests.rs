use proptest::prelude::*;

use super::*;

fn nanos(text: &str) -> Result<i128, QuantityError> {
    Quantity::parse(text).map(|quantity| quantity.nanos().unwrap())
}

/// The expected values are those of `ParseQuantity`, from its own tests (`quantity_test.go`) and its
/// source.
#[test]
fn quantities_parse_as_in_kubernetes() {
    const ONE: i128 = NANO;
    for (text, expected) in [
        ("0", 0),
        ("0n", 0),
        ("0Ki", 0),
        ("00", 0),
        ("100m", 100_000_000),
        ("5n", 5),
        ("4u", 4_000),
        ("3m", 3_000_000),
        ("8k", 8_000 * ONE),
        ("50k", 50_000 * ONE),
        ("7M", 7_000_000 * ONE),
        ("6G", 6_000_000_000 * ONE),
        ("300T", 300_000_000_000_000 * ONE),
        ("2P", 2_000_000_000_000_000 * ONE),
        ("1E", 1_000_000_000_000_000_000 * ONE),
        ("8Ki", (8 * ONE) << 10),
        ("7Mi", (7 * ONE) << 20),
        ("6Gi", (6 * ONE) << 30),
        ("100Ti", (100 * ONE) << 40),
        ("4Pi", (4 * ONE) << 50),
        ("3Ei", (3 * ONE) << 60),
        ("0.5Ki", 512 * ONE),
        ("0.05Gi", 53_687_091_200_000_000),
        ("0.025Ti", 27_487_790_694_400_000_000),
        ("100.035Ki", 102_435_840_000_000),
        ("100.035k", 100_035 * ONE),
        ("1E3", 1_000 * ONE),
        ("1e3", 1_000 * ONE),
        ("1e+3", 1_000 * ONE),
        ("1E-3", 1_000_000),
        ("12e6", 12_000_000 * ONE),
        ("1.53E12", 1_530_000_000_000 * ONE),
        ("0.5e-2", 5_000_000),
        ("12e-9", 12),
        (".5", ONE / 2),
        (".0001k", ONE / 10),
        ("5.", 5 * ONE),
        ("1.G", 1_000_000_000 * ONE),
        ("5.Gi", 5 * (ONE << 30)),
        ("+1", ONE),
        ("-5", -5 * ONE),
        ("-0.5m", -500_000),
        ("1n", 1),
        ("1u", 1_000),
        ("1k", 1_000 * ONE),
        ("1.1Gi", 1_181_116_006_400_000_000),
        ("007", 7 * ONE),
        ("9223372036854775807", MAX_BINARY),
        ("7.9Ei", 9_108_079_886_394_091_110_400_000_000),
        ("0e999999999999", 0),
        ("00000000000000000000000000000000000000000000000001", ONE),
        ("0.000000000000000000000000000000000000000001e42", ONE),
        // The lower 32 bits of the exponent.
        ("1e4294967299", 1_000 * ONE),
    ] {
        assert_eq!(nanos(text), Ok(expected), "{text}");
    }
}

#[test]
fn a_binary_suffix_is_capped_at_63_bits_and_a_decimal_one_is_not() {
    for text in [
        "8Ei",
        "9Ei",
        "9223372036854775807Ki",
        "9007199254740992Ki",
        "8192.0000000001Pi",
        "99999999999999999999999999999999999999999999999999999999Ki",
    ] {
        assert_eq!(nanos(text), Ok(MAX_BINARY), "{text}");
        assert_eq!(nanos(&format!("-{text}")), Ok(-MAX_BINARY), "-{text}");
    }
    assert_eq!(nanos(&format!("{}Ki", "9".repeat(5_000))), Ok(MAX_BINARY));
    for (text, expected) in [
        ("9223372036854775808", "9223372036854775808"),
        ("-9223372036854775809", "-9223372036854775809"),
        (
            "9223372036854775807.0000000001",
            "9223372036854775807.000000001",
        ),
        ("12E", "12000000000000000000"),
        ("9.3E", "9300000000000000000"),
        ("1e19", "10000000000000000000"),
        (
            "99999999999999999999999999999999999999999999999999999999k",
            "99999999999999999999999999999999999999999999999999999999000",
        ),
        ("1.5e40", "15000000000000000000000000000000000000000"),
        ("-1e40", "-10000000000000000000000000000000000000000"),
    ] {
        assert_eq!(
            Quantity::parse(text).unwrap().to_string(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn a_number_without_digits_is_zero_as_in_kubernetes() {
    for text in ["+", "-", ".", "-.", "m", "Ki", "Ti", "E", "e3", "e-9", ".n"] {
        assert_eq!(nanos(text), Ok(0), "{text}");
    }
    for text in ["", "Pi", "Ei", "-Ei", ".Pi", "e-10"] {
        assert!(
            matches!(nanos(text), Err(QuantityError::Syntax(_))),
            "{text}"
        );
    }
}

#[test]
fn values_are_rounded_away_from_zero_to_a_billionth() {
    for (text, expected) in [
        ("0.0000000001", 1),
        ("-0.0000000001", -1),
        ("0.1n", 1),
        ("0.9n", 1),
        ("3.001n", 4),
        ("1.1E-9", 2),
        ("0.5e-9", 1),
        ("0.00000012345", 124),
        ("0.000000000001Ki", 2),
        ("1e-2147483648", 1),
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
fn malformed_quantities_are_errors() {
    for text in [
        "",
        " ",
        "1 ",
        " 1",
        "1e",
        "1e+",
        "1ee3",
        "1e3m",
        "1e1.5",
        "NaN",
        "nan",
        "inf",
        "Infinity",
        "-inf",
        "1ki",
        "1K",
        "1KI",
        "1i",
        "1mm",
        "1Mib",
        "1.1.1",
        "1,5",
        "--1",
        "+-1",
        "0x10",
        "1_000",
        "\u{661}",
        "1\u{a0}",
        "1\n",
        "1e99999999999999999999",
        "1e-99999999999999999999",
    ] {
        assert!(
            matches!(nanos(text), Err(QuantityError::Syntax(_))),
            "{text:?} returned {:?}",
            nanos(text)
        );
    }
}

#[test]
fn quantities_beyond_floats_are_out_of_range() {
    for text in [
        "1e400",
        "-1e400",
        "1e2147483647",
        &"9".repeat(400),
        &format!("{}k", "9".repeat(400)),
    ] {
        assert!(
            matches!(Quantity::parse(text), Err(QuantityError::Range(_))),
            "{text:?} returned {:?}",
            Quantity::parse(text)
        );
    }
}

#[test]
fn errors_truncate_long_texts() {
    let error = Quantity::parse(&"é".repeat(100_000)).unwrap_err();
    assert!(error.to_string().len() < 300);
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,40}") {
        let _ = Quantity::parse(&text);
    }

    #[test]
    fn no_text_like_a_quantity_panics(
        text in "[+-]?[0-9]{0,30}\\.?[0-9]{0,30}(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{0,22})?"
    ) {
        let _ = Quantity::parse(&text);
    }

    #[test]
    fn a_printed_quantity_parses_to_the_same(nanos in any::<i128>()) {
        prop_assume!(nanos != i128::MIN);
        let quantity = Quantity::from_nanos(nanos);
        prop_assert_eq!(Quantity::parse(&quantity.to_string()), Ok(quantity));
    }

    /// Compares with integer arithmetic on numbers that fit 128 bits.
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

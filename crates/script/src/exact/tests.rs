use proptest::prelude::*;

use super::*;

fn times(quantity: &str, factor: i64, divisor: i64) -> Result<Number, &'static str> {
    product(
        &Quantity::parse(quantity).unwrap(),
        &factor.into(),
        &divisor.into(),
    )
}

fn decimal(text: &str) -> Number {
    Number::Decimal(text.parse().unwrap())
}

#[test]
fn products_have_their_shortest_form() {
    use Number::{Float, Integer};
    for (quantity, factor, divisor, expected) in [
        ("0.5", 10, 1, Integer(5)),
        ("100m", 3, 1, Float(0.3)),
        ("4294967296", 10, 1, Integer(42_949_672_960)),
        ("300m", 1, 60, Float(0.005)),
        ("1", 1, 3, Float(1.0 / 3.0)),
        ("1", 15, 3600, Float(15.0 / 3600.0)),
        ("-100m", 3, 1, Float(-0.3)),
        ("-1", 1, 3, Float(-1.0 / 3.0)),
        ("0", 15, 1, Integer(0)),
        ("1.1Gi", 15, 1, Integer(17_716_740_096)),
        ("9223372036854775807", 15, 15, Integer(i64::MAX)),
        // A float, because it represents all sixteen digits.
        ("1073741824.5", 1, 4, Float(268_435_456.125)),
    ] {
        assert_eq!(
            times(quantity, factor, divisor),
            Ok(expected),
            "{quantity} {factor}"
        );
    }
}

#[test]
fn products_of_any_size_are_exact() {
    for (quantity, factor, divisor, expected) in [
        ("8Ei", 3600, 1, "33204139332677192905200"),
        ("8Ei", 2, 1, "18446744073709551614"),
        ("-8Ei", 2, 1, "-18446744073709551614"),
        (
            "9223372036854775807",
            i64::MAX,
            1,
            "85070591730234615847396907784232501249",
        ),
        ("8Ei", 15, 16, "8646911284551352319.0625"),
        ("1e300", 15, 1, &format!("15{}", "0".repeat(300))),
        ("123456789.123456789", 7, 1, "864197523.864197523"),
        // Non-terminating: rounded to a billionth, where a float would lose whole bytes.
        ("8Ei", 15, 3600, "38430716820228232.529166667"),
        ("-8Ei", 15, 3600, "-38430716820228232.529166667"),
        ("8Ei", 1, 3, "3074457345618258602.333333333"),
    ] {
        assert_eq!(
            times(quantity, factor, divisor),
            Ok(decimal(expected)),
            "{quantity} {factor}"
        );
    }
}

#[test]
fn numbers_out_of_range_and_division_by_zero_are_errors() {
    assert_eq!(times("1e308", 15, 1), Err(OUT_OF_RANGE));
    assert_eq!(times("1", 1, 0), Err(DIVIDED_BY_ZERO));
    assert_eq!(times("8Ei", i64::MAX, 0), Err(DIVIDED_BY_ZERO));
}

proptest! {
    /// Rust rounds decimals correctly, so the text of a terminating decimal is the expected value.
    #[test]
    fn a_quantity_becomes_exactly_its_number(nanos in any::<i128>()) {
        prop_assume!(nanos != i128::MIN);
        let quantity = Quantity::from_nanos(nanos);
        let text = quantity.to_string();
        match number(&quantity).unwrap() {
            Number::Float(float) => {
                prop_assert_eq!(float.to_bits(), text.parse::<f64>().unwrap().to_bits());
                prop_assert_eq!(Decimal::from_float(float).unwrap().to_string(), text);
            }
            Number::Integer(whole) => prop_assert_eq!(whole.to_string(), text),
            Number::Decimal(decimal) => prop_assert_eq!(decimal.to_string(), text),
        }
    }

    #[test]
    fn a_product_is_exact(nanos in 0_i128..1_000_000_000_000_000_000, factor in 1_i64..100_000) {
        let product = times(&Quantity::from_nanos(nanos).to_string(), factor, 1).unwrap();
        let exact = Quantity::from_nanos(nanos * i128::from(factor));
        prop_assert_eq!(product, number(&exact).unwrap());
    }

    #[test]
    fn words_and_long_numbers_have_equal_results(
        a in prop_oneof![any::<i128>(), -1_000_000_i128..1_000_000, any::<i64>().prop_map(i128::from)],
        b in prop_oneof![
            1_i128..100_000, any::<i64>().prop_map(i128::from),
            Just(NANO), Just(60 * NANO), Just(3_600 * NANO), Just(-7 * NANO)],
        factor in prop_oneof![Just(1), Just(15 * NANO), Just(1_000_000)],
    ) {
        if let Some(a) = a.checked_mul(factor) {
            prop_assert_eq!(word_ratio(a, b), ratio(&a.into(), &b.into()), "{} / {}", a, b);
        }
    }

    /// Compares with the division of floats. Both operands are exact floats, so it rounds only once, too.
    #[test]
    fn a_non_terminating_quotient_is_the_nearest_float(
        a in 1_i64..1 << 53, b in 1_i64..1 << 53
    ) {
        if let Number::Float(float) = ratio(&a.into(), &b.into()).unwrap() {
            #[expect(clippy::cast_precision_loss)]
            let expected = a as f64 / b as f64;
            prop_assert_eq!(float.to_bits(), expected.to_bits());
        }
    }

    #[test]
    fn a_quotient_times_its_divisor_is_the_dividend(a in any::<i64>(), b in any::<i64>()) {
        prop_assume!(b != 0);
        let quotient = match ratio(&a.into(), &b.into()).unwrap() {
            Number::Integer(whole) => Decimal::from(whole),
            Number::Decimal(decimal) => decimal,
            Number::Float(float) => Decimal::from_float(float).unwrap(),
        };
        let back = quotient.times(&b.into());
        let off = back.minus(&a.into());
        // Rounded once, so the error is below the last of sixteen digits.
        let most = Decimal::from(a).times(&"1e-15".parse().unwrap());
        prop_assert!(off.times(&off) <= most.times(&most));
    }
}

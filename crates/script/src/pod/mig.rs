//! How much of an NVIDIA card one of its MIG slices is.
//!
//! A profile such as `1g.10gb` names the compute slices and the memory of an instance. A card has seven compute
//! slices and eight memory slices, or four or two of both. What others cannot use of the card is the larger one of
//! the two shares. (NVIDIA's MIG User Guide, "Supported MIG Profiles", lists both for each profile.)

use super::fraction::Fraction;

/// The slices that a card can be divided into.
struct Card {
    compute: i128,
    memory: i128,
    /// The gigabytes of memory, if they are known.
    gigabytes: Option<i128>,
}

impl Card {
    const fn seventh(gigabytes: Option<i128>) -> Self {
        Self {
            compute: 7,
            memory: 8,
            gigabytes,
        }
    }

    /// A card on which the share of the memory always is that of the compute slices.
    const fn even(slices: i128) -> Self {
        Self {
            compute: slices,
            memory: slices,
            gigabytes: None,
        }
    }

    /// Returns the card that a product names, such as `NVIDIA-A100-SXM4-40GB` or `nvidia-h200-141gb`.
    fn of(product: &str) -> Option<Self> {
        let product = product.to_ascii_lowercase();
        let words = || product.split(['-', ' ', '_']);
        let has = |word: &str| words().any(|it| it == word);
        let stated = || {
            words().find_map(|word| {
                let number = word.strip_suffix("gb").or_else(|| word.strip_suffix('g'));
                number?.parse().ok()
            })
        };
        if has("rtx") && has("pro") {
            return match () {
                () if has("6000") || has("5000") => Some(Self::even(4)),
                () if has("4500") => Some(Self::even(2)),
                () => None,
            };
        }
        words().find_map(|word| {
            Some(match word {
                "a30" => Self::even(4),
                // Google Cloud's name of the card with 40 GB.
                "a100" if has("tesla") => Self::seventh(Some(40)),
                "a100" | "a800" => Self::seventh(stated()),
                "h100" | "h800" if has("nvl") => Self::seventh(Some(94)),
                "h100" | "h800" => Self::seventh(stated().or(Some(80))),
                // Its name states the memory of the CPU if that is 480 GB.
                "gh200" => Self::seventh(stated().filter(|it| *it < 200).or(Some(96))),
                "h20" if has("3e") => Self::seventh(Some(141)),
                "h20" => Self::seventh(stated().or(Some(96))),
                "h200" => Self::seventh(Some(141)),
                "b200" => Self::seventh(Some(180)),
                "gb200" => Self::seventh(Some(186)),
                "b300" | "gb300" => Self::seventh(Some(278)),
                _ => return None,
            })
        })
    }
}

/// A MIG profile: `1g.5gb`, `1g.5gb.me`, or `1c.2g.10gb` for one of the two compute slices of an instance.
struct Profile {
    /// Of the compute slices of the instance.
    of_instance: Fraction,
    compute: i128,
    gigabytes: i128,
}

impl Profile {
    fn of(text: &str) -> Option<Self> {
        let mut parts = text.split(['.', '+']);
        let mut part = parts.next()?;
        let mut used = None;
        if let Some(slices) = part.strip_suffix('c') {
            used = Some(slices.parse::<u8>().ok().filter(|it| *it > 0)?);
            part = parts.next()?;
        }
        let compute = part.strip_suffix('g')?.parse::<u8>().ok()?;
        let compute = i128::from(compute);
        let gigabytes = parts.next()?.strip_suffix("gb")?.parse::<u32>().ok()?;
        Some(Self {
            of_instance: Fraction::of(used.map_or(compute, i128::from), compute)?,
            compute,
            gigabytes: gigabytes.into(),
        })
    }

    /// The memory slices; `None` if the memory of the card would have to be known.
    fn memory(&self, card: &Card) -> Option<i128> {
        if card.memory == card.compute {
            return Some(self.compute);
        }
        match self.compute {
            // There is one with twice the memory, too. Names round gigabytes down.
            1 => {
                let twice = self.gigabytes.checked_mul(2)?.checked_mul(card.memory)?;
                Some(if twice > card.gigabytes?.checked_mul(3)? {
                    2
                } else {
                    1
                })
            }
            2 => Some(2),
            3 | 4 => Some(4),
            _ => Some(card.memory),
        }
    }
}

/// Returns how much of its card a slice of this profile is. `bytes` is the memory of the card, where it is known.
pub(crate) fn fraction(profile: &str, product: &str, bytes: Option<i64>) -> Option<Fraction> {
    let mut card = Card::of(product)?;
    card.gigabytes = bytes.map(|it| i128::from(it >> 30)).or(card.gigabytes);
    let profile = Profile::of(profile)?;
    let compute = Fraction::of(profile.compute, card.compute)?;
    let memory = Fraction::of(profile.memory(&card)?, card.memory)?;
    compute.larger(memory)?.times(profile.of_instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(profile: &str, product: &str) -> Option<(i128, i128)> {
        let found = fraction(profile, product, None)?;
        Some((found.numerator, found.denominator))
    }

    #[test]
    fn a_slice_is_the_larger_one_of_its_shares_of_compute_slices_and_memory() {
        for (product, profiles) in [
            (
                "NVIDIA-A100-SXM4-40GB",
                [
                    ("1g.5gb", (1, 7)),
                    ("1g.10gb", (2, 8)),
                    ("2g.10gb", (2, 7)),
                    ("3g.20gb", (4, 8)),
                    ("4g.20gb", (4, 7)),
                    ("7g.40gb", (1, 1)),
                ],
            ),
            (
                "NVIDIA-A100-80GB-PCIe",
                [
                    ("1g.10gb", (1, 7)),
                    ("1g.20gb", (2, 8)),
                    ("2g.20gb", (2, 7)),
                    ("3g.40gb", (4, 8)),
                    ("4g.40gb", (4, 7)),
                    ("7g.80gb", (1, 1)),
                ],
            ),
            (
                "NVIDIA-H200",
                [
                    ("1g.18gb", (1, 7)),
                    ("1g.35gb", (2, 8)),
                    ("2g.35gb", (2, 7)),
                    ("3g.71gb", (4, 8)),
                    ("4g.71gb", (4, 7)),
                    ("7g.141gb", (1, 1)),
                ],
            ),
            (
                "NVIDIA-B200",
                [
                    ("1g.23gb", (1, 7)),
                    ("1g.45gb", (2, 8)),
                    ("2g.45gb", (2, 7)),
                    ("3g.90gb", (4, 8)),
                    ("4g.90gb", (4, 7)),
                    ("7g.180gb", (1, 1)),
                ],
            ),
        ] {
            for (profile, expected) in profiles {
                assert_eq!(of(profile, product), Some(expected), "{product} {profile}");
            }
        }
    }

    #[test]
    fn each_card_has_its_own_slices() {
        for (product, profile, expected) in [
            ("NVIDIA-A30", "1g.6gb", Some((1, 4))),
            ("NVIDIA-A30", "2g.12gb", Some((2, 4))),
            ("NVIDIA-A30", "4g.24gb", Some((1, 1))),
            (
                "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
                "2g.48gb",
                Some((2, 4)),
            ),
            ("NVIDIA-RTX-PRO-4500-Blackwell", "1g.16gb", Some((1, 2))),
            ("NVIDIA-RTX-PRO-2000", "1g.4gb", None),
            ("NVIDIA-H100-80GB-HBM3", "1g.10gb", Some((1, 7))),
            ("NVIDIA-H100-PCIe", "1g.20gb", Some((2, 8))),
            ("NVIDIA-H100-NVL", "1g.12gb", Some((1, 7))),
            ("NVIDIA-H100-NVL", "1g.24gb", Some((2, 8))),
            ("NVIDIA-GH200-480GB", "1g.12gb", Some((1, 7))),
            ("NVIDIA-GH200-480GB", "1g.24gb", Some((2, 8))),
            ("NVIDIA-GH200-144G-HBM3e", "1g.18gb", Some((1, 7))),
            ("NVIDIA-GH200-144G-HBM3e", "1g.36gb", Some((2, 8))),
            ("NVIDIA-GB200", "1g.47gb", Some((2, 8))),
            ("NVIDIA-B300-SXM6-AC", "1g.34gb", Some((1, 7))),
            ("NVIDIA-B300-SXM6-AC", "1g.67gb", Some((2, 8))),
            ("nvidia-tesla-a100", "1g.10gb", Some((2, 8))),
            ("nvidia-a100-80gb", "1g.10gb", Some((1, 7))),
            ("nvidia-h200-141gb", "1g.18gb", Some((1, 7))),
            // Two cards have this name, and one of them has this profile as its smallest.
            ("a100", "1g.10gb", None),
            ("a100", "3g.20gb", Some((4, 8))),
            ("NVIDIA-L4", "1g.5gb", None),
            ("", "1g.5gb", None),
        ] {
            assert_eq!(of(profile, product), expected, "{product} {profile}");
        }
    }

    #[test]
    fn the_memory_of_the_card_tells_cards_of_one_name_apart() {
        let of = |mebibytes: i64| {
            let found = fraction("1g.10gb", "a100", Some(mebibytes << 20));
            found.map(|it| (it.numerator, it.denominator))
        };
        assert_eq!(of(40_960), Some((2, 8)));
        assert_eq!(of(81_920), Some((1, 7)));
    }

    #[test]
    fn profiles_have_extensions_and_parts() {
        let on = |profile| of(profile, "NVIDIA-A100-SXM4-40GB");
        for profile in ["1g.5gb.me", "1g.5gb+me", "1g.5gb+me.all"] {
            assert_eq!(on(profile), Some((1, 7)), "{profile}");
        }
        assert_eq!(on("1c.3g.20gb"), Some((4, 24)));
        assert_eq!(on("3c.3g.20gb"), Some((4, 8)));
        for wrong in [
            "",
            "1g",
            "1c.5gb",
            "g.5gb",
            "1g.5",
            "0g.5gb",
            "0c.1g.5gb",
            "-1g.5gb",
        ] {
            assert_eq!(on(wrong), None, "{wrong}");
        }
    }
}

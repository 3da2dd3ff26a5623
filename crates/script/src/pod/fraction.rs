//! How much of a physical device something is.

/// A part of a whole, not more than all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fraction {
    pub(crate) numerator: i128,
    pub(crate) denominator: i128,
}

impl Fraction {
    pub(crate) const ONE: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// `None` if the parts are not numbers of a fraction.
    pub(crate) fn of(numerator: i128, denominator: i128) -> Option<Self> {
        let is_fraction = numerator >= 0 && denominator > 0;
        let fraction = Self {
            numerator,
            denominator,
        };
        match numerator < denominator {
            _ if !is_fraction => None,
            true => Some(fraction),
            false => Some(Self::ONE),
        }
    }

    pub(crate) fn larger(self, other: Self) -> Option<Self> {
        let ours = self.numerator.checked_mul(other.denominator)?;
        let theirs = other.numerator.checked_mul(self.denominator)?;
        Some(if theirs > ours { other } else { self })
    }

    /// This part of another part.
    pub(crate) fn times(self, other: Self) -> Option<Self> {
        Self::of(
            self.numerator.checked_mul(other.numerator)?,
            self.denominator.checked_mul(other.denominator)?,
        )
    }
}

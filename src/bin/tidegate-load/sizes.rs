//! How large messages, streams and datagrams are: all alike, or anything in a range.
//!
//! Sizes of a range are drawn from a seed and from numbers that name the thing, so that a run can be had again
//! as it was.

use std::{fmt, ops::RangeInclusive};

use tidegate::config::ByteSize;

use crate::pattern::Pattern;

/// Sizes in bytes, each of them as likely as the others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Sizes {
    least: u64,
    most: u64,
}

impl Sizes {
    /// `64`, `64KiB`, or `64..1200`: both ends are in it, and in `bounds`.
    pub(crate) fn parse(text: &str, bounds: RangeInclusive<u64>) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let sizes = Self { least: bytes(least)?, most: bytes(most)? };
        if sizes.least > sizes.most {
            return Err(format!("{text:?} ends before it begins"));
        }
        if !bounds.contains(&sizes.least) || !bounds.contains(&sizes.most) {
            return Err(format!("it has to be {} to {} bytes", bounds.start(), bounds.end()));
        }
        Ok(sizes)
    }

    /// The size of what these numbers name.
    pub(crate) fn of(self, names: &[u64]) -> u64 {
        let span = u128::from(self.most - self.least) + 1;
        let mut drawn = [0; 8];
        Pattern::new(names).fill(0, &mut drawn);
        let part = (u128::from(u64::from_le_bytes(drawn)) * span) >> 64;
        self.least + u64::try_from(part).unwrap_or(0)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.least)?;
        if self.least == self.most { Ok(()) } else { write!(f, "..{}", self.most) }
    }
}

/// `1000`, `64KiB`, `4MiB`, `1GiB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    text.parse().or_else(|_no_bare_number| ByteSize::parse(text).map(|ByteSize(bytes)| bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_one_or_a_range_within_bounds() {
        let parse = |text| Sizes::parse(text, 1..=1 << 20).map(|s| (s.least, s.most)).ok();
        for (text, expected) in [
            ("64", Some((64, 64))),
            ("64..1200", Some((64, 1200))),
            ("100..64KiB", Some((100, 65_536))),
            ("1KiB..1MiB", Some((1024, 1 << 20))),
            ("64..64", Some((64, 64))),
            ("1200..64", None),
            ("0..64", None),
            ("64..2MiB", None),
            ("64..", None),
            ("64..=65", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(Sizes::parse("64..1KiB", 0..=u64::MAX).unwrap().to_string(), "64..1024");
    }

    #[test]
    fn a_range_is_hit_evenly_at_both_ends_and_each_time_alike() {
        let sizes = Sizes::parse("64..67", 1..=100).unwrap();
        let mut seen = [0; 4];
        for n in 0..4_000 {
            let size = sizes.of(&[1, 2, n]);
            assert_eq!(size, sizes.of(&[1, 2, n]));
            seen[usize::try_from(size - 64).unwrap()] += 1;
        }
        assert!(seen.iter().all(|count| (800..1_200).contains(count)), "{seen:?}");
        let all = Sizes::parse("0..18446744073709551615", 0..=u64::MAX).unwrap();
        let other = (0..64).filter(|n| all.of(&[*n]) > u64::MAX / 2).count();
        assert!((16..48).contains(&other), "{other}");
    }
}

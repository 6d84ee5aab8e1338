//! Sizes, durations and limits as people write them.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// This many times 1,024 bytes.
    pub const fn kib(number: u64) -> Self {
        Self(number << 10)
    }

    /// This many times 1,048,576 bytes.
    pub const fn mib(number: u64) -> Self {
        Self(number << 20)
    }

    /// The number as an index or length.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Reads `"64KiB"` and the like.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        amount(text, &SIZE_UNITS).map(Self).ok_or_else(|| {
            format!(
                "{text:?} is no size; write a whole number and B, KiB, MiB or GiB, such as \"64KiB\""
            )
        })
    }
}

/// Largest first, so that the first that divides a size is the shortest way to write it.
const SIZE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_amount(f, self.0, &SIZE_UNITS)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A bound that can be switched off, but only by the word `"unlimited"`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limit {
    /// At most this many.
    AtMost(u64),
    /// No bound.
    Unlimited,
}

impl Limit {
    /// Whether one more fits when there are `now`.
    pub const fn allows_one_more(self, now: u64) -> bool {
        match self {
            Self::AtMost(most) => now < most,
            Self::Unlimited => true,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => most.fmt(f),
            Self::Unlimited => f.write_str(UNLIMITED),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // TOML's integers end there, and so does what a file can ask for.
            Self::AtMost(most) => serializer.serialize_u64((*most).min(i64::MAX.unsigned_abs())),
            Self::Unlimited => serializer.serialize_str(UNLIMITED),
        }
    }
}

/// The one way to say that there is no bound; zero never means it.
pub(super) const UNLIMITED: &str = "unlimited";

/// A length of time as it is written: `"15s"`. To the millisecond.
#[derive(Clone, Copy, Debug, Eq, PartialEq, PartialOrd)]
pub(super) struct Period(pub(super) Duration);

impl Period {
    /// Reads `"15s"` and the like.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let millis = amount(text, &TIME_UNITS).ok_or_else(|| {
            format!(
                "{text:?} is no duration; write a whole number and ms, s, m or h, such as \"15s\""
            )
        })?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

/// Reads a length of time, such as `"15s"`, as the configuration does.
///
/// # Errors
/// What is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Period::parse(text).map(|Period(time)| time)
}

/// In milliseconds, largest first.
const TIME_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        write_amount(f, millis, &TIME_UNITS)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A length of time that may be `"unlimited"`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Patience(pub(super) Option<Duration>);

impl Patience {
    /// Reads `"15s"` or `"unlimited"`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == UNLIMITED {
            return Ok(Self(None));
        }
        match Period::parse(text) {
            Ok(Period(Duration::ZERO)) => {
                Err("no time at all is not possible; write \"unlimited\" or at least \"1ms\""
                    .into())
            }
            Ok(Period(time)) => Ok(Self(Some(time))),
            Err(message) => Err(format!("{message}, or \"unlimited\"")),
        }
    }
}

impl Serialize for Patience {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(time) => Period(time).serialize(serializer),
            None => serializer.serialize_str(UNLIMITED),
        }
    }
}

/// A whole number with its unit right behind it; `None` for anything else, overflow included.
fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn write_amount(f: &mut fmt::Formatter<'_>, amount: u64, units: &[(&str, u64)]) -> fmt::Result {
    let divides = |(_, factor): &&(_, u64)| amount >= *factor && amount.is_multiple_of(*factor);
    let smallest = || units.last();
    let (unit, factor) = units.iter().find(divides).or_else(smallest).ok_or(fmt::Error)?;
    write!(f, "{}{unit}", amount / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_with_their_unit() {
        for (text, bytes) in [
            ("0B", 0),
            ("1500B", 1_500),
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("7MiB", 7_340_032),
            ("2GiB", 2_147_483_648),
        ] {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn durations_are_read_and_written_with_their_unit() {
        for (text, millis) in
            [("0ms", 0), ("100ms", 100), ("15s", 15_000), ("5m", 300_000), ("1h", 3_600_000)]
        {
            let time = Duration::from_millis(millis);
            assert_eq!(Period::parse(text), Ok(Period(time)), "{text}");
            assert_eq!(Period(time).to_string(), text);
        }
        assert_eq!(Period::parse("90s").unwrap().to_string(), "90s");
        assert_eq!(Period::parse("120s").unwrap().to_string(), "2m");
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in
            ["", "15", "s", "1.5s", "-1s", "+1s", " 1s", "1 s", "1S", "1d", "99999999999999999999s"]
        {
            assert!(Period::parse(text).is_err(), "{text:?}");
        }
        for text in ["", "64", "64K", "64kb", "1TiB", "18446744073709551615GiB", "٣B"] {
            assert!(ByteSize::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn no_patience_at_all_does_not_mean_endless_patience() {
        assert_eq!(Patience::parse("unlimited"), Ok(Patience(None)));
        assert!(Patience::parse("0s").unwrap_err().contains("unlimited"));
    }
}

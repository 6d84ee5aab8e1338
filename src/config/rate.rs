//! How often something may happen, and how many bytes may pass, as people write it: `"100/s"`, `"10MiB/s"`.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

use super::units::{ByteSize, UNLIMITED};

/// How often something may happen. After a pause, as many may come at once as may come in the whole
/// time: the burst is the number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rate {
    /// At most so many in each such time.
    AtMost {
        /// How many; at least 1, at most [`Rate::MOST_EVENTS`].
        events: u32,
        /// In which time.
        per: Duration,
    },
    /// As often as anybody likes.
    Unlimited,
}

impl Rate {
    /// More in a second, minute or hour is as good as unlimited. It keeps the time that belongs to one of
    /// them above a microsecond, so that rounding to nanoseconds does not show.
    pub const MOST_EVENTS: u32 = 1_000_000;

    /// So many in each second.
    pub const fn per_second(events: u32) -> Self {
        Self::AtMost { events, per: Duration::from_secs(1) }
    }

    /// Reads `"100/s"`, `"30/m"`, `"10/h"` or `"unlimited"`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == UNLIMITED {
            return Ok(Self::Unlimited);
        }
        let Some((events, per)) = amount(text) else {
            return Err(format!(
                "{text:?} is no rate; write a whole number and /s, /m or /h, such as \"100/s\", or \
                 \"unlimited\""
            ));
        };
        match u32::try_from(events) {
            Ok(0) => Err(format!(
                "{text:?} would let nothing through; write \"unlimited\" if there shall be no limit"
            )),
            Ok(events) if events <= Self::MOST_EVENTS => Ok(Self::AtMost { events, per }),
            _ => Err(format!("{text:?} is too much; write \"unlimited\"")),
        }
    }
}

const UNITS: [(&str, Duration); 3] = [
    ("s", Duration::from_secs(1)),
    ("m", Duration::from_secs(60)),
    ("h", Duration::from_secs(3600)),
];

/// Digits, a slash and a unit, without anything between them.
fn amount(text: &str) -> Option<(u64, Duration)> {
    let (number, per) = split(text)?;
    // Parsing alone would take a plus sign.
    let is_plain = number.bytes().all(|b| b.is_ascii_digit());
    Some((number.parse().ok().filter(|_| is_plain)?, per))
}

/// What stands before the slash, and the time behind it.
fn split(text: &str) -> Option<(&str, Duration)> {
    let (amount, unit) = text.split_once('/')?;
    let (_, per) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some((amount, *per))
}

fn unit_of(per: Duration) -> &'static str {
    UNITS.iter().find(|(_, unit)| *unit == per).map_or("s", |(name, _)| name)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost { events, per } => write!(f, "{events}/{}", unit_of(*per)),
            Self::Unlimited => f.write_str(UNLIMITED),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How many bytes may pass. After a pause, as many may pass at once as may in the whole time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ByteRate {
    /// At most so many in each such time.
    AtMost {
        /// How many; at least 1.
        bytes: ByteSize,
        /// In which time.
        per: Duration,
    },
    /// As many as anybody likes.
    Unlimited,
}

impl ByteRate {
    /// Reads `"10MiB/s"`, `"500KiB/m"`, `"1GiB/h"` or `"unlimited"`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == UNLIMITED {
            return Ok(Self::Unlimited);
        }
        match split(text).and_then(|(size, per)| Some((ByteSize::parse(size).ok()?, per))) {
            Some((ByteSize(0), _)) => Err(format!(
                "{text:?} would let nothing through; write \"unlimited\" if there shall be no limit"
            )),
            Some((bytes, per)) => Ok(Self::AtMost { bytes, per }),
            None => Err(format!(
                "{text:?} is no rate of bytes; write a whole number with B, KiB, MiB or GiB and /s, /m or \
                 /h, such as \"10MiB/s\", or \"unlimited\""
            )),
        }
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost { bytes, per } => write!(f, "{bytes}/{}", unit_of(*per)),
            Self::Unlimited => f.write_str(UNLIMITED),
        }
    }
}

impl Serialize for ByteRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written_with_their_unit() {
        for (text, events, seconds) in
            [("1/s", 1, 1), ("100/s", 100, 1), ("30/m", 30, 60), ("1000000/h", 1_000_000, 3600)]
        {
            let rate = Rate::AtMost { events, per: Duration::from_secs(seconds) };
            assert_eq!(Rate::parse(text), Ok(rate), "{text}");
            assert_eq!(rate.to_string(), text);
        }
        assert_eq!(Rate::parse("unlimited"), Ok(Rate::Unlimited));
        assert_eq!(Rate::Unlimited.to_string(), "unlimited");
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in
            ["", "100", "/s", "1 /s", "1/ s", "+1/s", "-1/s", "1.5/s", "1/d", "1/s/s", "1/S"]
        {
            assert!(Rate::parse(text).unwrap_err().contains("is no rate"), "{text:?}");
        }
        for text in ["1000001/s", "99999999999/s"] {
            assert!(Rate::parse(text).unwrap_err().contains("too much"), "{text:?}");
        }
        assert!(Rate::parse("0/s").unwrap_err().contains("unlimited"));
    }

    #[test]
    fn rates_of_bytes_are_read_and_written_with_both_units() {
        for (text, bytes, seconds) in [
            ("1B/s", 1, 1),
            ("10MiB/s", 10 << 20, 1),
            ("3KiB/m", 3 << 10, 60),
            ("1GiB/h", 1 << 30, 3600),
        ] {
            let (bytes, per) = (ByteSize(bytes), Duration::from_secs(seconds));
            assert_eq!(ByteRate::parse(text), Ok(ByteRate::AtMost { bytes, per }), "{text}");
            assert_eq!(ByteRate::AtMost { bytes, per }.to_string(), text);
        }
        assert_eq!(ByteRate::parse("unlimited"), Ok(ByteRate::Unlimited));
        assert_eq!(ByteRate::Unlimited.to_string(), "unlimited");
    }

    #[test]
    fn what_is_no_rate_of_bytes_is_refused() {
        for text in [
            "", "10MiB", "/s", "10/s", "10Mb/s", "10 MiB/s", "-1B/s", "+1B/s", "1.5MiB/s",
            "1MiB/d", "1B/s/s",
        ] {
            assert!(ByteRate::parse(text).unwrap_err().contains("is no rate of bytes"), "{text:?}");
        }
        assert!(ByteRate::parse("0KiB/s").unwrap_err().contains("unlimited"));
    }
}

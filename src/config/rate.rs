//! How often something may happen, as people write it: `"100/s"`.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

use super::units::UNLIMITED;

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
    pub(super) fn parse(text: &str) -> Result<Self, String> {
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
    let (number, unit) = text.split_once('/')?;
    let (_, per) = UNITS.iter().find(|(name, _)| *name == unit)?;
    // Parsing alone would take a plus sign.
    let is_plain = number.bytes().all(|b| b.is_ascii_digit());
    Some((number.parse().ok().filter(|_| is_plain)?, *per))
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost { events, per } => {
                let unit = UNITS.iter().find(|(_, unit)| unit == per).map_or("s", |(name, _)| name);
                write!(f, "{events}/{unit}")
            }
            Self::Unlimited => f.write_str(UNLIMITED),
        }
    }
}

impl Serialize for Rate {
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
}

//! How much memory the process may hold, as people write it: `"80%"`, `"2GiB"`.

use std::fmt;

use serde::{Serialize, Serializer};

use super::units::{ByteSize, UNLIMITED};

/// How much memory the process may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MemoryLimit {
    /// So many hundredths, 1 to 100, of what the machine or the container has.
    Share(u8),
    /// This much, at least 1 byte.
    AtMost(ByteSize),
    /// As much as the system gives.
    Unlimited,
}

impl MemoryLimit {
    /// Reads `"80%"`, `"2GiB"` or `"unlimited"`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == UNLIMITED {
            return Ok(Self::Unlimited);
        }
        if let Some(number) = text.strip_suffix('%') {
            // Parsing alone would take a plus sign.
            let is_plain = number.bytes().all(|b| b.is_ascii_digit());
            let share = number.parse().ok().filter(|share| is_plain && (1..=100).contains(share));
            return share.map(Self::Share).ok_or_else(|| {
                format!("{text:?} is no share of the memory; write \"1%\" to \"100%\"")
            });
        }
        match ByteSize::parse(text) {
            Ok(ByteSize(0)) => Err(format!(
                "{text:?} would let nobody in; write \"unlimited\" if there shall be no limit"
            )),
            Ok(size) => Ok(Self::AtMost(size)),
            Err(_) => Err(format!(
                "{text:?} is no amount of memory; write a share such as \"80%\", a size such as \"2GiB\", or \
                 \"unlimited\""
            )),
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share}%"),
            Self::AtMost(size) => size.fmt(f),
            Self::Unlimited => f.write_str(UNLIMITED),
        }
    }
}

impl Serialize for MemoryLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_written_as_a_share_or_a_size() {
        for (text, limit) in [
            ("1%", MemoryLimit::Share(1)),
            ("100%", MemoryLimit::Share(100)),
            ("2GiB", MemoryLimit::AtMost(ByteSize::mib(2048))),
            ("unlimited", MemoryLimit::Unlimited),
        ] {
            assert_eq!(MemoryLimit::parse(text), Ok(limit), "{text}");
            assert_eq!(limit.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_amount_of_memory_is_refused() {
        for text in ["0%", "101%", "-1%", "+1%", "%", "1.5%", "80 %"] {
            assert!(MemoryLimit::parse(text).unwrap_err().contains("is no share"), "{text:?}");
        }
        for text in ["", "80", "2GB", "all"] {
            assert!(MemoryLimit::parse(text).unwrap_err().contains("is no amount"), "{text:?}");
        }
        assert!(MemoryLimit::parse("0GiB").unwrap_err().contains("unlimited"));
    }
}

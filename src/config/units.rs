//! Sizes, durations and limits as people write them.

use std::fmt;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The number as an index or length.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
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
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

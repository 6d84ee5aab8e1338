//! How sessions are spread over a backend's endpoints, and when an endpoint is left out.

use std::{fmt, time::Duration};

use super::Limit;

/// How sessions are spread over a backend's endpoints. All obey the endpoints' weights.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest sessions.
    LeastSessions,
    /// Of two drawn at random, the one with fewer sessions.
    RandomTwo,
    /// The one that a hash of [`HashOn`] names.
    Hash,
}

/// What a session is told apart by under [`Balance::Hash`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum HashOn {
    /// The whole of the client's IP address, without the port.
    #[default]
    ClientAddress,
    /// What a capture of the route's path stands for.
    Capture(String),
    /// A parameter of the request's query, as sent.
    Query(String),
    /// A claim of the client's credential, where it has one value.
    Claim(String),
}

impl HashOn {
    /// Reads `client-address`, `capture:NAME`, `query:NAME` or `claim:NAME`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "client-address" => Ok(Self::ClientAddress),
            Some(("capture", name)) if !name.is_empty() => Ok(Self::Capture(name.to_owned())),
            Some(("query", name)) if !name.is_empty() => Ok(Self::Query(name.to_owned())),
            Some(("claim", name)) if !name.is_empty() => Ok(Self::Claim(name.to_owned())),
            _ => Err(format!(
                "{text:?} is nothing to hash; write \"client-address\", \"capture:NAME\", \
                 \"query:NAME\" or \"claim:NAME\""
            )),
        }
    }
}

impl fmt::Display for HashOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientAddress => f.write_str("client-address"),
            Self::Capture(name) => write!(f, "capture:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Claim(name) => write!(f, "claim:{name}"),
        }
    }
}

/// Active health checks of a backend's endpoints.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// What is asked. Default: nothing.
    pub check: Check,
    /// Time between the end of a check and the next one. Default 5 s.
    pub interval: Duration,
    /// Time for one check. Default 2 s.
    pub timeout: Duration,
    /// Checks in a row that must pass before an endpoint that is down counts as up. Default 2.
    pub rise: u32,
    /// Checks in a row that must fail before an endpoint that is up counts as down. Default 3.
    pub fall: u32,
    /// Where to ask, if not at the port of the endpoint.
    pub port: Option<u16>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            check: Check::Off,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            port: None,
        }
    }
}

/// What an active health check asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Check {
    /// Nothing: every endpoint counts as up.
    Off,
    /// Whether a TCP connection can be made, and what comes over it.
    Tcp {
        /// What is sent on it; may be empty.
        send: Payload,
        /// What the answer must begin with; empty: no answer is waited for.
        expect: Payload,
    },
    /// Whether a datagram is answered.
    Udp {
        /// The datagram.
        send: Payload,
        /// What the answer must begin with; empty: any answer will do.
        expect: Payload,
    },
    /// Whether a GET over HTTP/1.1 is answered with one of these statuses.
    Http {
        /// Path and query. Default `/`.
        path: String,
        /// The `Host` header. Default: the address that is asked.
        host: Option<String>,
        /// Which statuses pass. Default 200-399.
        status: Statuses,
    },
}

/// Bytes of a health check, written as text with escapes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Payload(pub Vec<u8>);

/// Fits into any packet, and is far more than a sign of life takes.
const MOST_PAYLOAD_BYTES: usize = 1_024;

impl Payload {
    /// Reads a text with the escapes `\r`, `\n`, `\t`, `\\` and `\xHH`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c == '\\' {
                bytes.push(escaped(&mut rest).ok_or_else(|| {
                    format!(
                        "{text:?} has an unknown escape; known are \\r, \\n, \\t, \\\\ and \\xHH"
                    )
                })?);
            } else {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        match bytes.len() {
            1..=MOST_PAYLOAD_BYTES => Ok(Self(bytes)),
            length => Err(format!("{length} bytes; write 1 to {MOST_PAYLOAD_BYTES}")),
        }
    }
}

/// The byte that an escape stands for, after its backslash.
fn escaped(rest: &mut std::str::Chars<'_>) -> Option<u8> {
    let digit = |c: Option<char>| u8::try_from(c?.to_digit(16)?).ok();
    match rest.next()? {
        'r' => Some(b'\r'),
        'n' => Some(b'\n'),
        't' => Some(b'\t'),
        '\\' => Some(b'\\'),
        'x' => Some(digit(rest.next())? << 4 | digit(rest.next())?),
        _ => None,
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            b'\\' => f.write_str("\\\\"),
            b' '..=b'~' => write!(f, "{}", char::from(*byte)),
            b'\r' => f.write_str("\\r"),
            b'\n' => f.write_str("\\n"),
            b'\t' => f.write_str("\\t"),
            other => write!(f, "\\x{other:02x}"),
        })
    }
}

/// A range of HTTP statuses, both ends included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Statuses {
    /// The lowest.
    pub least: u16,
    /// The highest.
    pub most: u16,
}

impl Default for Statuses {
    fn default() -> Self {
        Self { least: 200, most: 399 }
    }
}

impl Statuses {
    /// Reads `200` or `200-399`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().ok().filter(|n| (100..=599).contains(n));
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        match (number(least), number(most)) {
            (Some(least), Some(most)) if least <= most => Ok(Self { least, most }),
            _ => Err(format!("{text:?} is no status; write one such as \"200\" or \"200-399\"")),
        }
    }

    /// Whether `status` is one of them.
    pub const fn contains(self, status: u16) -> bool {
        self.least <= status && status <= self.most
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.least, self.most)
    }
}

/// When an endpoint that fails in use is left out for a while.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ejection {
    /// Failures in a row that eject. Default 5; unlimited: nothing is ejected.
    pub consecutive_failures: Limit,
    /// How long the first ejection lasts; each further one in a row twice as long. Default 10 s.
    pub base_time: Duration,
    /// The longest ejection. Default 5 min.
    pub max_time: Duration,
    /// The share of the backend that may be out before nothing more is ejected, in percent. Default 50.
    pub max_ejected_percent: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: Limit::AtMost(5),
            base_time: Duration::from_secs(10),
            max_time: Duration::from_secs(300),
            max_ejected_percent: 50,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_are_bytes() {
        for (text, bytes) in [
            ("PING", b"PING".as_slice()),
            ("a\\r\\n\\t\\\\", b"a\r\n\t\\"),
            ("\\x00\\xfF", b"\x00\xff"),
            ("é", "é".as_bytes()),
        ] {
            assert_eq!(Payload::parse(text), Ok(Payload(bytes.to_vec())), "{text}");
        }
        for text in ["", "\\", "\\x", "\\x0", "\\xg0", "\\q", &"x".repeat(1_025)] {
            assert!(Payload::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn statuses_are_one_or_a_range() {
        for (text, range) in [("200", 200..=200), ("200-399", 200..=399)] {
            let statuses = Statuses::parse(text).unwrap();
            assert_eq!(statuses.least..=statuses.most, range);
        }
        for text in ["", "99", "600", "399-200", "200-", "2xx", "200-300-400"] {
            assert!(Statuses::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_payload_is_written_as_it_is_read(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            let payload = Payload(bytes);
            prop_assert_eq!(Payload::parse(&payload.to_string()), Ok(payload));
        }
    }
}

//! Where a backend listens: an address or a name, and a port.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// A host, by address or name, and a port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum HostPort {
    /// An address, ready to use.
    Address(SocketAddr),
    /// A name to be resolved.
    Name(String, u16),
}

impl HostPort {
    /// Reads `10.0.0.5:7777`, `[::1]:7777` or `game.internal:7777`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parsed = match text.parse::<SocketAddr>() {
            Ok(address) => Some(Self::Address(address)),
            Err(_) => text.rsplit_once(':').and_then(|(host, port)| {
                is_host_name(host).then_some(())?;
                Some(Self::Name(host.to_ascii_lowercase(), parse_port(port)?))
            }),
        };
        match parsed {
            Some(host) if host.port() == 0 => {
                Err(format!("{text:?} has port 0, to which nobody can connect"))
            }
            Some(host) => Ok(host),
            None => Err(format!(
                "{text:?} is no host and port; write them such as \"10.0.0.5:7777\", \
                 \"[::1]:7777\" or \"game.internal:7777\""
            )),
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name(_, port) => *port,
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// A port in plain digits: no sign, no leading zero, as a browser would write it.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    let is_plain =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_port| is_plain)
}

/// Whether this can be a host name (RFC 1123 section 2.1), with the underscore that container
/// networks use. A name whose last label is a number would be a mistyped address.
pub(super) fn is_host_name(name: &str) -> bool {
    let labels = || name.strip_suffix('.').unwrap_or(name).split('.');
    let valid = |label: &str| {
        matches!(label.len(), 1..=63)
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let ends_in_number =
        labels().next_back().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
    name.len() <= 253 && labels().all(valid) && !ends_in_number
}

/// Whether a certificate can be made for this: a host name or an IP address without port.
pub fn is_certificate_name(name: &str) -> bool {
    is_host_name(name) || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        for text in ["10.0.0.5:7777", "[::1]:7777"] {
            let address = text.parse().unwrap();
            assert_eq!(HostPort::parse(text), Ok(HostPort::Address(address)), "{text}");
        }
        for name in ["localhost", "game-b.internal", "game_b", "a.b.c.", "3com.example"] {
            let wanted = HostPort::Name(name.to_owned(), 80);
            assert_eq!(HostPort::parse(&format!("{name}:80")), Ok(wanted), "{name}");
        }
    }

    #[test]
    fn what_nobody_can_connect_to_is_refused() {
        for text in [
            "",
            "localhost",
            ":80",
            "localhost:",
            "localhost:0",
            "10.0.0.5:0",
            "localhost:65536",
            "localhost:+80",
            "10.0.0.300:80",
            "10.0.0.5",
            "::1:80",
            "http://localhost:80",
            "a..b:80",
            "a b:80",
            "exämple.org:80",
        ] {
            assert!(HostPort::parse(text).is_err(), "{text:?}");
        }
    }
}

//! Hosts that a route is for, and the one form in which a request's host is compared with them.
//!
//! Pattern and request go through the same function, and only what comes out of it is compared: names in
//! lower case without the last dot, IPv4 addresses as they are, IPv6 addresses in brackets in their
//! shortest form. Names are ASCII: internationalised ones are written as A-labels (`xn--...`), as
//! browsers send them. The port says nothing about the host, so a pattern has none and a request's is
//! left out. What could be read as two different hosts is refused and never repaired: user names,
//! percent signs, empty labels, numbers that are nearly an address.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::host::{is_host_name, parse_port};

/// Which hosts a route is for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum HostPattern {
    /// This one.
    Exact(String),
    /// `*.` and this name: every host with exactly one label before it, as in certificates (RFC 9525
    /// section 6.3). `*.example.com` takes `eu.example.com`, but neither `example.com` nor
    /// `a.eu.example.com`.
    AnyLabelOf(String),
}

impl HostPattern {
    /// Reads `play.example.com`, `*.example.com`, `192.0.2.1` or `[2001:db8::1]`.
    ///
    /// # Errors
    /// What keeps the text from being a pattern.
    pub fn parse(text: &str) -> Result<Self, HostPatternError> {
        if text == "*" {
            return Err(HostPatternError::EveryHost);
        }
        if !text.is_ascii() {
            return Err(HostPatternError::NotAscii);
        }
        let (name, is_wildcard) = match text.strip_prefix("*.") {
            Some(parent) => (parent, true),
            None => (text, false),
        };
        let host = comparable(name).ok_or_else(|| match request_host(name) {
            Some(_) => HostPatternError::Port,
            None if name.contains('*') => HostPatternError::Wildcard,
            None => HostPatternError::NotAHost,
        })?;
        match is_wildcard {
            false => Ok(Self::Exact(host)),
            true if is_host_name(&host) => Ok(Self::AnyLabelOf(host)),
            true => Err(HostPatternError::Wildcard),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::AnyLabelOf(parent) => write!(f, "*.{parent}"),
        }
    }
}

/// Why a text is no pattern of hosts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostPatternError {
    /// A lone star.
    #[error("a route without `hosts` is for every host")]
    EveryHost,
    /// A star somewhere else than in place of the first label of a name.
    #[error("`*` can only stand for the whole first label of a name: \"*.example.com\"")]
    Wildcard,
    /// It ends with a port.
    #[error("hosts are compared without their port; leave it out")]
    Port,
    /// It has other characters than ASCII.
    #[error("write the name as browsers send it, in punycode: \"xn--...\"")]
    NotAscii,
    /// It has another form.
    #[error("write a name or an address, such as \"play.example.com\", \"192.0.2.1\" or \"[::1]\"")]
    NotAHost,
}

/// The host of a request's authority, in the form in which hosts are compared. `None`: it has none, or
/// it is no plain host with or without a port.
pub fn request_host(authority: &str) -> Option<String> {
    // A colon within brackets belongs to the address.
    let port = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    match port {
        Some((host, port)) => parse_port(port).and_then(|_| comparable(host)),
        None => comparable(authority),
    }
}

/// The host in the form in which hosts are compared.
fn comparable(host: &str) -> Option<String> {
    if let Some(inside) = host.strip_prefix('[') {
        let address: Ipv6Addr = inside.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    // A second dot at the end would be an empty label.
    let is_host = !name.ends_with('.') && (is_host_name(name) || name.parse::<Ipv4Addr>().is_ok());
    is_host.then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_into_one_form_and_written_back() {
        let exact = |host: &str| HostPattern::Exact(host.to_owned());
        for (text, pattern, written) in [
            ("play.example.com", exact("play.example.com"), "play.example.com"),
            ("Play.Example.COM.", exact("play.example.com"), "play.example.com"),
            ("localhost", exact("localhost"), "localhost"),
            ("xn--bcher-kva.example", exact("xn--bcher-kva.example"), "xn--bcher-kva.example"),
            ("192.0.2.1", exact("192.0.2.1"), "192.0.2.1"),
            ("[2001:DB8:0::1]", exact("[2001:db8::1]"), "[2001:db8::1]"),
            ("*.Example.com", HostPattern::AnyLabelOf("example.com".to_owned()), "*.example.com"),
            ("*.internal", HostPattern::AnyLabelOf("internal".to_owned()), "*.internal"),
        ] {
            assert_eq!(HostPattern::parse(text), Ok(pattern.clone()), "{text}");
            assert_eq!(pattern.to_string(), written);
        }
    }

    #[test]
    fn broken_patterns_say_what_is_wrong() {
        use HostPatternError::{EveryHost, NotAHost, NotAscii, Port, Wildcard};
        for (text, wrong) in [
            ("*", EveryHost),
            ("", NotAHost),
            (".", NotAHost),
            ("*.", NotAHost),
            ("*.*.example.com", Wildcard),
            ("a.*.example.com", Wildcard),
            ("a*.example.com", Wildcard),
            ("*example.com", Wildcard),
            ("*.192.0.2.1", Wildcard),
            ("*.[::1]", Wildcard),
            ("example.com:443", Port),
            ("*.example.com:443", Port),
            ("[::1]:443", Port),
            ("::1", NotAHost),
            ("https://example.com", NotAHost),
            ("example.com/game", NotAHost),
            ("user@example.com", NotAHost),
            ("a..example.com", NotAHost),
            ("example.com..", NotAHost),
            ("exa mple.com", NotAHost),
            ("b\u{fc}cher.example", NotAscii),
        ] {
            assert_eq!(HostPattern::parse(text), Err(wrong), "{text:?}");
        }
    }

    #[test]
    fn spellings_of_one_host_are_one_host() {
        for (authority, host) in [
            ("play.example.com", "play.example.com"),
            ("play.example.com:443", "play.example.com"),
            ("PLAY.Example.com:8443", "play.example.com"),
            ("play.example.com.", "play.example.com"),
            ("play.example.com.:443", "play.example.com"),
            ("127.0.0.1:4433", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]:4433", "[::1]"),
        ] {
            assert_eq!(request_host(authority).as_deref(), Some(host), "{authority}");
        }
    }

    #[test]
    fn what_could_be_read_as_two_hosts_is_none() {
        for authority in [
            "",
            ":443",
            ".",
            ".:443",
            "example.com:",
            "example.com:0443",
            "example.com:+443",
            "example.com:65536",
            "example.com:443:443",
            "example.com..",
            ".example.com",
            "a..example.com",
            "user@example.com",
            "user:password@example.com",
            "example.com:443@evil.com",
            "example.com%00.evil.com",
            "example%2ecom",
            "example.com/",
            "example.com/@evil.com",
            "https://example.com",
            "example.com evil.com",
            "example.com,evil.com",
            "example.com\0",
            "ex\u{e4}mple.com",
            "example\u{3002}com",
            "127.0.0.1.1",
            "127.1",
            "0177.0.0.1",
            "2130706433",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]x:80",
            "[fe80::1%25eth0]",
            "[127.0.0.1]",
            "*.example.com",
        ] {
            assert_eq!(request_host(authority), None, "{authority:?}");
        }
    }
}

//! Origins (RFC 6454): who may use a route, and how a request's `Origin` header is compared with it.
//!
//! The configuration and the header go through the same [`Origin::parse`], and only parsed origins are
//! compared. Comparing text, or parts of it, is how `https://evilexample.com` gets in where
//! `example.com` was meant. A wildcard stands for exactly one label, as in certificates (RFC 9525 section
//! 6.3) and in the hosts of routes.

use std::{fmt, net::Ipv6Addr};

use super::host::{is_host_name, parse_port};

/// Which origins may use a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origins {
    /// Every origin: pages of any site may use the visitor's network position against the backend.
    Any,
    /// These, compared by scheme, host and port.
    List(Vec<OriginPattern>),
}

impl Origins {
    /// Whether the page that an `Origin` header names may use the route. A header that is no origin
    /// equals none. Browsers never send one.
    pub fn allow(&self, header: &str) -> bool {
        match self {
            Self::Any => true,
            Self::List(list) => {
                Origin::parse(header).is_ok_and(|origin| list.iter().any(|own| own.takes(&origin)))
            }
        }
    }
}

/// One origin, or those of all names with one label more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OriginPattern {
    /// This one.
    Exact(Origin),
    /// `https://*.example.com`: `https://play.example.com`, but neither `https://example.com` nor
    /// `https://a.play.example.com` nor `https://evilexample.com`.
    AnyLabelOf {
        /// Lower case.
        scheme: String,
        /// What follows the star and its dot: lower case.
        parent: String,
        /// The scheme's own where none was written; `None` for schemes that have none.
        port: Option<u16>,
    },
}

impl OriginPattern {
    /// Reads an origin, or one whose host begins with `*.`.
    ///
    /// # Errors
    /// What keeps the text from being one.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let Some((scheme, rest)) = text.split_once("://*.") else {
            return Origin::parse(text).map(Self::Exact);
        };
        match Origin::parse(&format!("{scheme}://{rest}"))? {
            // No star stands for a part of an address.
            Origin::Site { scheme, host, port } if is_host_name(&host) => {
                Ok(Self::AnyLabelOf { scheme, parent: host, port })
            }
            _ => Err(OriginError::Wildcard),
        }
    }

    /// Whether it is this origin, or the pattern has a star for its first label.
    pub fn takes(&self, origin: &Origin) -> bool {
        match (self, origin) {
            (Self::Exact(own), origin) => own == origin,
            (Self::AnyLabelOf { .. }, Origin::Null) => false,
            (
                Self::AnyLabelOf { scheme, parent, port },
                Origin::Site { scheme: s, host, port: p },
            ) => {
                let above = host.split_once('.').map(|(_first, above)| above);
                (scheme, port, Some(parent.as_str())) == (s, p, above)
            }
        }
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(origin) => origin.fmt(f),
            Self::AnyLabelOf { scheme, parent, port } => {
                write_site(f, scheme, &format!("*.{parent}"), *port)
            }
        }
    }
}

/// An origin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// `null`: pages that hide where they come from, such as sandboxed frames and local files. All of
    /// them look the same, so it matches only where it was listed.
    Null,
    /// Scheme, host and port.
    Site {
        /// Lower case.
        scheme: String,
        /// Lower case; an IPv6 address in brackets.
        host: String,
        /// The scheme's own where none was written; `None` for schemes that have none.
        port: Option<u16>,
    },
}

impl Origin {
    /// Reads an origin: `scheme://host`, `scheme://host:port` or `null`, and nothing around it.
    ///
    /// # Errors
    /// What keeps the text from being an origin.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        if text == "null" {
            return Ok(Self::Null);
        }
        if text.contains('*') {
            return Err(OriginError::Wildcard);
        }
        let (scheme, authority) = text.split_once("://").ok_or(OriginError::NotAnOrigin)?;
        let (host, port) = split_port(authority).ok_or(OriginError::NotAnOrigin)?;
        let host = parse_host(host).ok_or(OriginError::NotAnOrigin)?;
        if !is_scheme(scheme) {
            return Err(OriginError::NotAnOrigin);
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = match port {
            Some(port) => Some(parse_port(port).ok_or(OriginError::NotAnOrigin)?),
            None => default_port(&scheme),
        };
        Ok(Self::Site { scheme, host, port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Site { scheme, host, port } => write_site(f, scheme, host, *port),
        }
    }
}

/// As browsers write it: without the scheme's own port.
fn write_site(
    f: &mut fmt::Formatter<'_>,
    scheme: &str,
    host: &str,
    port: Option<u16>,
) -> fmt::Result {
    write!(f, "{scheme}://{host}")?;
    match port {
        Some(port) if Some(port) != default_port(scheme) => write!(f, ":{port}"),
        _ => Ok(()),
    }
}

/// Why a text is no origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OriginError {
    /// It has a `*` in another place than before the first dot of a name.
    #[error(
        "`*` can only stand for the whole first label of a name, such as in \
         \"https://*.example.com\"; for every page write origins = \"any\""
    )]
    Wildcard,
    /// It has another form.
    #[error(
        "write scheme, host and, where needed, port, and nothing else, such as \
         \"https://play.example.com\" (no path, no slash at the end; names in punycode)"
    )]
    NotAnOrigin,
}

/// Host and port text of an authority. The brackets of an IPv6 address stay with the host.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let host_end = if authority.starts_with('[') { authority.find(']')? + 1 } else { 0 };
    match authority.get(host_end..)?.find(':') {
        Some(colon) => {
            let (host, port) = authority.split_at_checked(host_end + colon)?;
            Some((host, Some(port.strip_prefix(':')?)))
        }
        None => Some((authority, None)),
    }
}

/// The host in the one form in which hosts are compared. Whatever has no place in a host of an
/// origin (user names, paths, percent signs, an empty label such as after a last dot) is refused.
fn parse_host(host: &str) -> Option<String> {
    if let Some(inside) = host.strip_prefix('[') {
        let address: Ipv6Addr = inside.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let valid = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    host.split('.').all(valid).then(|| host.to_ascii_lowercase())
}

/// RFC 3986 section 3.1.
fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" | "wss" => Some(443),
        "http" | "ws" => Some(80),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_origin_are_one_origin() {
        for (one, other) in [
            ("https://play.example.com", "https://play.example.com:443"),
            ("http://localhost", "http://localhost:80"),
            ("HTTPS://Play.Example.COM", "https://play.example.com"),
            ("https://[::1]:8443", "https://[0:0:0:0:0:0:0:1]:8443"),
        ] {
            assert_eq!(Origin::parse(one), Origin::parse(other), "{one} and {other}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        for text in [
            "null",
            "https://play.example.com",
            "http://localhost:8080",
            "https://[::1]:8443",
            "chrome-extension://abcdefghijklmnop",
        ] {
            assert_eq!(Origin::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Origin::parse("https://a.org:443").unwrap().to_string(), "https://a.org");
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "play.example.com",
            "https://",
            "://host",
            "https://play.example.com/",
            "https://play.example.com/path",
            "https://play.example.com?x",
            "https://play.example.com#x",
            "https://play.example.com:",
            "https://play.example.com:0443",
            "https://play.example.com:+443",
            "https://play.example.com:65536",
            "https://play.example.com:443:443",
            "https://user@play.example.com",
            "https://play.example.com@evil.com",
            "https://play.example.com.",
            "https://play..example.com",
            "https://play.example.com https://other.org",
            " https://play.example.com",
            "https://play%2eexample.com",
            "https://[::1",
            "https://[::1]x",
            "https://[::1]x:80",
            "https://[fe80::1%25eth0]",
            "https://bücher.example",
            "https://play.example.com\0",
        ] {
            assert_eq!(Origin::parse(text), Err(OriginError::NotAnOrigin), "{text:?}");
        }
        assert_eq!(Origin::parse("https://*.example.com"), Err(OriginError::Wildcard), "a header");
    }

    #[test]
    fn a_star_is_the_whole_first_label_of_a_name() {
        for (text, written) in [
            ("https://*.example.com", "https://*.example.com"),
            ("HTTPS://*.Example.COM:443", "https://*.example.com"),
            ("http://*.localhost:3000", "http://*.localhost:3000"),
            ("https://play.example.com", "https://play.example.com"),
            ("null", "null"),
        ] {
            let pattern = OriginPattern::parse(text).unwrap();
            assert_eq!(pattern.to_string(), written);
            assert_eq!(OriginPattern::parse(written), Ok(pattern));
        }
        for (text, wrong) in [
            ("*", OriginError::Wildcard),
            ("*.example.com", OriginError::Wildcard),
            ("https://*", OriginError::Wildcard),
            ("https://*example.com", OriginError::Wildcard),
            ("https://a.*.example.com", OriginError::Wildcard),
            ("https://*.*.example.com", OriginError::Wildcard),
            ("*://play.example.com", OriginError::Wildcard),
            ("https://play.example.com:*", OriginError::Wildcard),
            ("https://*.192.0.2.1", OriginError::Wildcard),
            ("https://*.[::1]", OriginError::Wildcard),
            ("https://*.", OriginError::NotAnOrigin),
            ("https://*.example.com/", OriginError::NotAnOrigin),
            ("https://*.example.com.", OriginError::NotAnOrigin),
            ("https://*.b\u{fc}cher.example", OriginError::NotAnOrigin),
        ] {
            assert_eq!(OriginPattern::parse(text), Err(wrong), "{text:?}");
        }
    }

    #[test]
    fn a_wildcard_ends_at_the_borders_of_labels() {
        let list =
            ["https://*.example.com", "https://*.xn--bcher-kva.example:8443", "http://*.localhost"];
        let list = list.map(|text| OriginPattern::parse(text).unwrap()).to_vec();
        let origins = Origins::List(list);
        for (header, is_allowed) in [
            ("https://play.example.com", true),
            ("https://PLAY.example.com:443", true),
            ("https://xn--bcher-kva.example.com", true),
            ("https://a.xn--bcher-kva.example:8443", true),
            ("http://a.localhost:80", true),
            // No label, two labels, another name.
            ("https://example.com", false),
            ("https://a.play.example.com", false),
            ("https://evilexample.com", false),
            ("https://evil.com", false),
            ("https://play.example.com.evil.com", false),
            ("https://play.example.org", false),
            ("https://.example.com", false),
            ("https://play..example.com", false),
            // Another scheme or port.
            ("http://play.example.com", false),
            ("wss://play.example.com", false),
            ("https://play.example.com:8443", false),
            ("https://a.xn--bcher-kva.example", false),
            // No origin at all.
            ("https://play.example.com.", false),
            ("https://evil.com/.example.com", false),
            ("https://evil.com#.example.com", false),
            ("https://evil.com?.example.com", false),
            ("https://evil.com\\.example.com", false),
            ("https://evil.com:.example.com", false),
            ("https://evil@play.example.com", false),
            ("https://evil%2eexample.com", false),
            ("https://evil\u{3002}example.com", false),
            ("https://a.b\u{fc}cher.example:8443", false),
            ("https://*.example.com", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(origins.allow(header), is_allowed, "{header:?}");
        }
        assert!(Origins::Any.allow("null"));
    }
}

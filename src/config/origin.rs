//! Origins (RFC 6454): who may use a route, and how a request's `Origin` header is compared with it.
//!
//! The configuration and the header go through the same [`Origin::parse`], and only parsed origins are
//! compared. Comparing text, or parts of it, is how `https://evilexample.com` gets in where
//! `example.com` was meant.

use std::{fmt, net::Ipv6Addr};

use super::host::parse_port;

/// Which origins may use a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origins {
    /// Every origin: pages of any site may use the visitor's network position against the backend.
    Any,
    /// These, compared by scheme, host and port.
    List(Vec<Origin>),
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
            Self::Site { scheme, host, port } => {
                write!(f, "{scheme}://{host}")?;
                match port {
                    Some(port) if Some(*port) != default_port(scheme) => write!(f, ":{port}"),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Why a text is no origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OriginError {
    /// It has a `*`.
    #[error("wildcards are not supported; list each origin, or write origins = \"any\"")]
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
        assert_eq!(Origin::parse("https://*.example.com"), Err(OriginError::Wildcard));
    }
}

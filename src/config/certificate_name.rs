//! Names in clients' certificates, and patterns of them.

use std::{fmt, net::IpAddr};

use super::is_certificate_name;
use crate::transport::AlternativeName;

/// Which certificates let a client in, of those that the listener has verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CertificateNames {
    /// All of them.
    Any,
    /// Those with any of these names.
    List(Vec<CertificateName>),
}

/// A name that a certificate must have among its subject alternative names, each kind compared with its own kind
/// alone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CertificateName {
    /// A host, in lower case.
    Dns(String),
    /// `*.` and a host: exactly one label in place of the star.
    Wildcard(String),
    /// A URI, such as `spiffe://example.com/robot`.
    Uri(String),
    /// A mailbox.
    Email(String),
    /// An IP address.
    Ip(IpAddr),
}

impl CertificateName {
    /// Reads a name; its form says of which kind it is.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let host = text.strip_prefix("*.");
        if let Ok(ip) = text.parse() {
            Ok(Self::Ip(ip))
        } else if text.contains(':') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self::Uri(text.to_owned()))
        } else if text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && is_host(host))
        {
            Ok(Self::Email(text.to_owned()))
        } else if let Some(host) = host.filter(|host| is_host(host)) {
            Ok(Self::Wildcard(host.to_ascii_lowercase()))
        } else if is_host(text) {
            Ok(Self::Dns(text.to_ascii_lowercase()))
        } else {
            Err(format!(
                "{text:?} is no name of a certificate; write a host (also \"*.example.com\"), a URI, a \
                 mailbox or an IP address"
            ))
        }
    }

    /// Whether a certificate with this name has it. A star in a certificate is nobody's name.
    pub fn is(&self, name: &AlternativeName) -> bool {
        match (self, name) {
            (Self::Dns(wanted), AlternativeName::Dns(found)) => wanted.eq_ignore_ascii_case(found),
            (Self::Wildcard(parent), AlternativeName::Dns(found)) => {
                found.split_once('.').is_some_and(|(label, rest)| {
                    !label.is_empty() && label != "*" && rest.eq_ignore_ascii_case(parent)
                })
            }
            (Self::Uri(wanted), AlternativeName::Uri(found)) => wanted == found,
            (Self::Email(wanted), AlternativeName::Email(found)) => wanted == found,
            (Self::Ip(wanted), AlternativeName::Ip(found)) => wanted == found,
            _ => false,
        }
    }
}

/// A name of a host without a star in it; addresses are read before.
fn is_host(text: &str) -> bool {
    !text.contains('*') && is_certificate_name(text)
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Uri(text) | Self::Email(text) => f.write_str(text),
            Self::Wildcard(host) => write!(f, "*.{host}"),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_compared_with_its_own_kind() {
        let dns = |name: &str| AlternativeName::Dns(name.to_owned());
        let uri = |name: &str| AlternativeName::Uri(name.to_owned());
        let email = |name: &str| AlternativeName::Email(name.to_owned());
        let ip = |name: &str| AlternativeName::Ip(name.parse().unwrap());
        for (wanted, found, fits) in [
            ("robot.example.com", dns("ROBOT.example.com"), true),
            ("robot.example.com", dns("robot.example.com.evil.com"), false),
            ("robot.example.com", uri("robot.example.com"), false),
            ("*.example.com", dns("robot.Example.com"), true),
            ("*.example.com", dns("example.com"), false),
            ("*.example.com", dns("a.b.example.com"), false),
            ("*.example.com", dns("evilexample.com"), false),
            ("*.example.com", dns("*.example.com"), false),
            ("*.example.com", dns(".example.com"), false),
            ("spiffe://example.com/robot", uri("spiffe://example.com/robot"), true),
            ("spiffe://example.com/robot", uri("spiffe://example.com/robot/2"), false),
            ("spiffe://example.com/robot", dns("spiffe://example.com/robot"), false),
            ("ops@example.com", email("ops@example.com"), true),
            ("ops@example.com", dns("ops@example.com"), false),
            ("10.0.0.5", ip("10.0.0.5"), true),
            ("10.0.0.5", dns("10.0.0.5"), false),
            ("::1", ip("::1"), true),
        ] {
            let pattern = CertificateName::parse(wanted).unwrap();
            assert_eq!(pattern.is(&found), fits, "{wanted} {found:?}");
            assert_eq!(pattern.to_string(), wanted);
        }
        for text in ["", "*", "*.*.example.com", "a b", "@example.com", "a.*.com"] {
            assert!(CertificateName::parse(text).is_err(), "{text:?}");
        }
    }
}

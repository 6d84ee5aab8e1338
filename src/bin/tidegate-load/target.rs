//! Whom to drive: the URL, the certificate hashes, and the address behind the name.
//!
//! Mostly a WebTransport server by its `https` URL; with `--direct` something else, so that what a gateway
//! adds is a difference.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
};

use base64::{Engine, engine::general_purpose};
use tidegate::client::{Offer, Trust};

/// Port of a URL that names none.
const HTTPS_PORT: u16 = 443;

/// What is spoken with the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scheme {
    /// WebTransport.
    Https,
    /// Bare QUIC: streams and datagrams without a session around them.
    Quic,
    /// TLS 1.3 over TCP: each stream is a connection.
    Tls,
    /// TCP: each stream is a connection.
    Tcp,
    /// UDP: each session is a connected socket.
    Udp,
}

/// What a scenario may want of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Need {
    Streams,
    Datagrams,
    /// Connections that begin and end.
    Connections,
    /// A client that stays the same when its address changes.
    Addresses,
}

impl Scheme {
    /// All that can be driven in place of a WebTransport server.
    const DIRECT: [Self; 4] = [Self::Tcp, Self::Udp, Self::Tls, Self::Quic];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Quic => "quic",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    pub(crate) const fn has(self, need: Need) -> bool {
        match self {
            Self::Https | Self::Quic => true,
            Self::Tls | Self::Tcp => matches!(need, Need::Streams | Need::Connections),
            Self::Udp => matches!(need, Need::Datagrams),
        }
    }

    /// Whether the server shows a certificate.
    pub(crate) const fn is_encrypted(self) -> bool {
        matches!(self, Self::Https | Self::Quic | Self::Tls)
    }
}

impl Need {
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Datagrams => "datagrams",
            Self::Connections => "connections that begin and end",
            Self::Addresses => "connections that outlive a change of address",
        }
    }
}

/// A session's URL: `https://host:port/path?query`; or where to go directly: `tcp://host:port`.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    port: u16,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: http::Uri = text.parse().map_err(|e| format!("not a URL: {e}"))?;
        if uri.scheme_str() != Some("https") {
            return Err("a WebTransport URL begins with https://".to_owned());
        }
        let port = uri.port_u16().unwrap_or(HTTPS_PORT);
        Ok(Self { text: text.to_owned(), scheme: Scheme::Https, host: host(&uri)?, port })
    }
}

/// An IPv6 address stands in brackets in a URL and nowhere else.
fn host(uri: &http::Uri) -> Result<String, String> {
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("the URL names no host")?;
    Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

impl Url {
    /// `tcp://host:port`, and so on.
    pub(crate) fn direct(text: &str) -> Result<Self, String> {
        let uri: http::Uri = text.parse().map_err(|e| format!("not a URL: {e}"))?;
        let scheme = Scheme::DIRECT.into_iter().find(|s| uri.scheme_str() == Some(s.word()));
        let scheme = scheme.ok_or("write it as tcp://, udp://, tls:// or quic://host:port")?;
        let port = uri.port_u16().ok_or("the URL names no port")?;
        if uri.path_and_query().is_some_and(|rest| rest != "/") {
            return Err(format!("behind the port of {}:// there is nothing", scheme.word()));
        }
        Ok(Self { text: text.to_owned(), scheme, host: host(&uri)?, port })
    }

    pub(crate) const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The same host and port with another path.
    pub(crate) fn with_path(&self, path: &str) -> String {
        let uri: Option<http::Uri> = self.text.parse().ok();
        let authority = uri.as_ref().and_then(http::Uri::authority).map_or("", |a| a.as_str());
        format!("https://{authority}{path}")
    }
}

impl fmt::Display for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The SHA-256 hash of a certificate, as hex (colons allowed) or base64.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CertificateHash(pub(crate) [u8; 32]);

impl FromStr for CertificateHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        from_hex(text).or_else(|| from_base64(text)).map(Self).ok_or_else(|| {
            "a SHA-256 hash is 64 hexadecimal digits, with or without colons, or 44 characters of \
             base64"
                .to_owned()
        })
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u32>> =
        text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    let bytes = digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]));
    bytes.collect::<Result<Vec<u8>, _>>().ok()?.try_into().ok()
}

fn from_base64(text: &str) -> Option<[u8; 32]> {
    let unpadded = text.trim_end_matches('=');
    let bytes = general_purpose::STANDARD_NO_PAD
        .decode(unpadded)
        .or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(unpadded));
    bytes.ok()?.try_into().ok()
}

/// A server to drive.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What sessions are asked for.
    pub(crate) url: String,
    pub(crate) scheme: Scheme,
    /// Where the server is.
    pub(crate) address: SocketAddr,
    /// What its certificate is for.
    pub(crate) server_name: String,
    /// Why it is believed.
    pub(crate) trust: Trust,
    /// What is offered in the handshake; all there is unless somebody says otherwise.
    pub(crate) offer: Offer,
    /// Whether connections try out larger packets; yes unless somebody says otherwise.
    pub(crate) mtu_discovery: bool,
}

impl Target {
    /// Looks the host up, once for the whole run. A name with addresses of both families is taken for
    /// its IPv4 address, as there is one socket to a connection and no second try.
    pub(crate) fn resolve(url: &Url, trust: Trust) -> io::Result<Self> {
        let addresses = (url.host.as_str(), url.port).to_socket_addrs()?;
        let address = addresses
            .min_by_key(SocketAddr::is_ipv6)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
        let (text, server_name) = (url.text.clone(), url.host.clone());
        Ok(Self {
            url: text,
            scheme: url.scheme,
            address,
            server_name,
            trust,
            offer: Offer::default(),
            mtu_discovery: true,
        })
    }

    /// The URL as reports show it: without what its query says, which may be a token.
    pub(crate) fn shown_url(&self) -> String {
        match self.url.split_once('?') {
            Some((before, _query)) => format!("{before}?***"),
            None => self.url.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_https_with_a_host() {
        for (text, expected) in [
            ("https://localhost:4433/echo", Some(("localhost", 4433))),
            ("https://game.example.com/room/7?x=1", Some(("game.example.com", 443))),
            ("https://127.0.0.1:9/", Some(("127.0.0.1", 9))),
            ("https://[::1]:4433/echo", Some(("::1", 4433))),
            ("http://localhost:4433/echo", None),
            ("localhost:4433", None),
            ("/echo", None),
            ("https://", None),
        ] {
            let url: Option<Url> = text.parse().ok();
            let parts = url.as_ref().map(|url| (url.host.as_str(), url.port));
            assert_eq!(parts, expected, "{text}");
        }
    }

    #[test]
    fn what_is_driven_directly_has_a_scheme_and_a_port_and_nothing_more() {
        for (text, expected) in [
            ("tcp://localhost:7000", Some((Scheme::Tcp, "localhost", 7000))),
            ("udp://127.0.0.1:7001", Some((Scheme::Udp, "127.0.0.1", 7001))),
            ("tls://[::1]:7002/", Some((Scheme::Tls, "::1", 7002))),
            ("quic://example.com:7003", Some((Scheme::Quic, "example.com", 7003))),
            ("https://localhost:4433", None),
            ("tcp://localhost", None),
            ("tcp://localhost:7000/path", None),
            ("localhost:7000", None),
        ] {
            let url = Url::direct(text).ok();
            let parts = url.as_ref().map(|url| (url.scheme, url.host.as_str(), url.port));
            assert_eq!(parts, expected, "{text}");
        }
    }

    #[test]
    fn an_ipv6_target_is_resolved_without_its_brackets() {
        let url = "https://[::1]:4433/echo".parse().unwrap();
        let target = Target::resolve(&url, Trust::DangerAcceptAny).unwrap();
        assert_eq!(target.address, "[::1]:4433".parse().unwrap());
        assert_eq!(target.server_name, "::1");
        assert_eq!(target.url, "https://[::1]:4433/echo");
    }

    /// Reports are kept and passed on.
    #[test]
    fn a_report_shows_no_query() {
        for (url, shown) in [
            ("https://127.0.0.1:9/game/42?token=s3cret?", "https://127.0.0.1:9/game/42?***"),
            ("https://127.0.0.1:9/game/42", "https://127.0.0.1:9/game/42"),
        ] {
            let target = Target::resolve(&url.parse().unwrap(), Trust::DangerAcceptAny).unwrap();
            assert_eq!(target.shown_url(), shown);
            assert_eq!(target.url, url, "what is asked for");
        }
    }

    #[test]
    fn a_hash_is_read_in_every_way_it_is_printed() {
        let bytes: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 8 + 3).unwrap());
        let hex = bytes.map(|b| format!("{b:02x}"));
        let base64 = general_purpose::STANDARD.encode(bytes);
        for text in [
            hex.concat(),
            hex.concat().to_uppercase(),
            hex.join(":"),
            base64.trim_end_matches('=').to_owned(),
            general_purpose::URL_SAFE.encode(bytes),
            base64,
        ] {
            assert_eq!(text.parse(), Ok(CertificateHash(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let digits = "0123456789abcdef".repeat(4);
        for text in [
            "",
            "00",
            digits.strip_prefix("0").unwrap(),
            &format!("{digits}00"),
            &"zz".repeat(32),
            "AAAA",
        ] {
            assert!(text.parse::<CertificateHash>().is_err(), "{text}");
        }
    }
}

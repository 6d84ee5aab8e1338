//! Whom to drive: the URL, the certificate hashes, and the address behind the name.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
};

use base64::{Engine, engine::general_purpose};
use tidegate::client::Trust;

/// Port of a URL that names none.
const HTTPS_PORT: u16 = 443;

/// A session's URL: `https://host:port/path?query`.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    text: String,
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
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("the URL names no host")?;
        let port = uri.port_u16().unwrap_or(HTTPS_PORT);
        // An IPv6 address stands in brackets in a URL and nowhere else.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { text: text.to_owned(), host, port })
    }
}

impl Url {
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
    /// Where the server is.
    pub(crate) address: SocketAddr,
    /// What its certificate is for.
    pub(crate) server_name: String,
    /// Why it is believed.
    pub(crate) trust: Trust,
}

impl Target {
    /// Looks the host up, once for the whole run. A name with addresses of both families is taken for
    /// its IPv4 address, as there is one socket to a connection and no second try.
    pub(crate) fn resolve(url: &Url, trust: Trust) -> io::Result<Self> {
        let addresses = (url.host.as_str(), url.port).to_socket_addrs()?;
        let address = addresses
            .min_by_key(SocketAddr::is_ipv6)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
        Ok(Self { url: url.text.clone(), address, server_name: url.host.clone(), trust })
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

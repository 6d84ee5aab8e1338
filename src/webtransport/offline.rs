//! A session request as a connection would read it, without a connection: for explaining what would become
//! of it.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use http::{HeaderName, HeaderValue, Method, Request, Uri};

use super::{
    dialect::Dialect,
    fields,
    protocols::{self, Offer},
    qpack::{FIELD_OVERHEAD, Field},
    request,
};
use crate::{
    reason::Refusal,
    transport::{RequestHead, Tls},
};

/// What a client would send, and from where.
#[derive(Clone, Debug)]
pub struct OfflineRequest {
    /// The `:authority` pseudo-header.
    pub authority: String,
    /// The `:path` pseudo-header: path and query.
    pub path: String,
    /// All other headers; their names in lower case.
    pub headers: Vec<(String, String)>,
    /// The client's address.
    pub client: SocketAddr,
    /// The gateway's address that it is sent to.
    pub local: Option<SocketAddr>,
}

/// Why a request would reach no route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unread {
    /// It breaks the rules of HTTP: its stream is reset with `H3_MESSAGE_ERROR`, and no status is sent.
    Malformed,
    /// It is refused before any route is asked.
    Refused(Refusal),
}

impl OfflineRequest {
    /// What the routes would be asked. The client speaks the newest generation of WebTransport.
    ///
    /// # Errors
    /// Why they would not be asked at all.
    pub fn read(&self, most_header_bytes: u64) -> Result<RequestHead, Unread> {
        let fields = self.fields();
        let bytes: usize =
            fields.iter().map(|f| f.name.len() + f.value.len() + FIELD_OVERHEAD).sum();
        if bytes as u64 > most_header_bytes {
            return Err(Unread::Refused(Refusal::HeadersTooLarge));
        }
        fields::check_request(&fields).map_err(|_malformed| Unread::Malformed)?;
        let request = self.request().map_err(|_malformed| Unread::Malformed)?;
        let offered = request.headers().get_all(protocols::AVAILABLE).iter();
        let dialect = Dialect::Draft15;
        let Offer { protocols, .. } = Offer::read(offered, dialect);
        let head = request::head(&request, dialect, protocols, self.client, self.local);
        let head = head.ok_or(Unread::Refused(Refusal::BadRequest))?;
        Ok(RequestHead { tls: Some(Arc::new(self.tls(&request))), ..head })
    }

    fn fields(&self) -> Vec<Field> {
        let field = |(name, value): (&str, &str)| Field {
            name: Cow::Owned(name.as_bytes().to_vec()),
            value: Cow::Owned(value.as_bytes().to_vec()),
        };
        let pseudo = [
            (":method", "CONNECT"),
            (":protocol", "webtransport"),
            (":scheme", "https"),
            (":authority", self.authority.as_str()),
            (":path", self.path.as_str()),
        ];
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        pseudo.into_iter().chain(headers).map(field).collect()
    }

    /// As h3 makes it of the fields.
    fn request(&self) -> Result<Request<()>, http::Error> {
        let uri = Uri::builder()
            .scheme("https")
            .authority(self.authority.as_str())
            .path_and_query(self.path.as_str())
            .build()?;
        let mut request = Request::builder().method(Method::CONNECT).uri(uri).body(())?;
        for (name, value) in &self.headers {
            let (name, value) = (
                HeaderName::from_bytes(name.as_bytes())?,
                HeaderValue::from_bytes(value.as_bytes())?,
            );
            request.headers_mut().append(name, value);
        }
        Ok(request)
    }

    /// What clients say beneath it: addresses are no server names (RFC 6066 section 3).
    fn tls(&self, request: &Request<()>) -> Tls {
        let host = request.uri().host().unwrap_or_default();
        let is_address = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
        let server_name = (!is_address).then(|| host.to_ascii_lowercase());
        Tls { version: "TLSv1.3", alpn: b"h3".to_vec(), server_name, client: None }
    }
}

/// The value of `WT-Available-Protocols` that offers these.
pub fn offer(offered: &[String]) -> String {
    let string = |protocol: &String| {
        let escaped = protocol.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{escaped}\"")
    };
    offered.iter().map(string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(authority: &str, path: &str, headers: &[(&str, &str)]) -> OfflineRequest {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        OfflineRequest {
            authority: authority.to_owned(),
            path: path.to_owned(),
            headers,
            client: "192.0.2.1:5".parse().unwrap(),
            local: None,
        }
    }

    #[test]
    fn a_sound_request_becomes_what_routes_are_asked() {
        let protocols = offer(&["chat-v2".to_owned(), "with \"quotes\"".to_owned()]);
        let headers = [("origin", "https://a.org"), (protocols::AVAILABLE, protocols.as_str())];
        let head = request("Play.test:4433", "/game/%34?x=1", &headers).read(16_384).unwrap();
        assert_eq!((head.authority.as_str(), head.path.as_str()), ("Play.test:4433", "/game/%34"));
        assert_eq!(head.query.as_deref(), Some("x=1"));
        assert_eq!(head.origin.as_deref(), Some("https://a.org"));
        assert_eq!(head.protocols, ["chat-v2", "with \"quotes\""]);
        let tls = head.tls.unwrap();
        assert_eq!((tls.server_name.as_deref(), &tls.alpn[..]), (Some("play.test"), &b"h3"[..]));
        for address in ["127.0.0.1:4433", "[::1]"] {
            assert_eq!(
                request(address, "/", &[]).read(16_384).unwrap().tls.unwrap().server_name,
                None
            );
        }
    }

    #[test]
    fn what_reaches_no_route_says_so() {
        for (authority, path, headers, wanted) in [
            ("a.test", "game", &[][..], Unread::Malformed),
            ("a.test", "/a b", &[], Unread::Malformed),
            ("a.test", "/game#x", &[], Unread::Malformed),
            ("me@a.test", "/", &[], Unread::Malformed),
            ("a.test", "/", &[("X", "1")], Unread::Malformed),
            ("a.test", "/", &[("x", "a\nb")], Unread::Malformed),
            ("a.test", "/", &[("host", "b.test")], Unread::Malformed),
            (
                "a.test",
                "/",
                &[("origin", "https://a.org"), ("origin", "https://b.org")],
                Unread::Refused(Refusal::BadRequest),
            ),
        ] {
            assert_eq!(request(authority, path, headers).read(16_384), Err(wanted), "{path:?}");
        }
        let large = "x".repeat(1_000);
        let refused = request("a.test", "/", &[("x", &large)]).read(1_000);
        assert_eq!(refused, Err(Unread::Refused(Refusal::HeadersTooLarge)));
    }
}

//! What is known of a session's client, for whoever is told of it.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ulid::Ulid;

use crate::transport::RequestHead;

/// Who a session's client is and what it asked for. Made once per session; what a backend is told of it
/// is the configuration's choice.
///
/// But for the session's id, the route, what was agreed on, the subject and what the client's certificate says
/// ([`RequestHead::tls`]), all of it is the client's word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientInfo {
    /// The session's id.
    pub session_id: Ulid,
    /// What the client asked for, with both addresses as they were then.
    pub head: Arc<RequestHead>,
    /// The name of the session's route.
    pub route: String,
    /// What the captures of the route's path stand for, by name.
    pub captures: Vec<(String, String)>,
    /// The application protocol of the session, if client and route have one in common.
    pub protocol: Option<String>,
    /// Whom the client's credential names, if the route asks for one.
    pub subject: Option<String>,
}

impl ClientInfo {
    /// The client of a session that begins now, under a new id.
    pub fn new(
        head: Arc<RequestHead>,
        route: &str,
        captures: Vec<(String, String)>,
        protocol: Option<String>,
    ) -> Self {
        let (session_id, route) = (Ulid::generate(), route.to_owned());
        Self { session_id, head, route, captures, protocol, subject: None }
    }

    /// The client's address. A socket for both families shows IPv4 clients as ::ffff:a.b.c.d; here
    /// they are IPv4.
    pub fn source(&self) -> SocketAddr {
        canonical(self.head.client)
    }

    /// The gateway's address, where the kernel told it.
    pub(super) fn destination(&self) -> Option<SocketAddr> {
        self.head.local.map(canonical)
    }

    /// The host that the client wants, as far as TLS and the request tell.
    pub(super) fn server_name(&self) -> &str {
        let tls = self.head.tls.as_ref();
        let server_name = tls.and_then(|tls| tls.server_name.as_deref());
        server_name.unwrap_or_else(|| without_port(&self.head.authority))
    }

    /// What a capture of the route's path stands for.
    pub(super) fn capture(&self, name: &str) -> Option<&str> {
        let found = self.captures.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The address in IPv6, where IPv4 has a range of its own (RFC 4291 section 2.5.5.2).
pub(super) fn as_ipv6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|byte| byte.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::transport::Tls;

    /// A client at 192.0.2.1:5 that sent to 203.0.113.9:443.
    pub(crate) fn client() -> ClientInfo {
        ClientInfo {
            session_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
            head: Arc::new(RequestHead {
                authority: "play.test:4433".into(),
                path: "/game/a%20b".into(),
                query: Some("token=secret".into()),
                authorization: Default::default(),
                protocols: vec!["chat-v1".into(), "chat-v2".into()],
                origin: Some("https://play.test".into()),
                client: "192.0.2.1:5".parse().unwrap(),
                local: "203.0.113.9:443".parse().ok(),
                dialect: "draft13",
                tls: Some(Arc::new(Tls {
                    version: "TLSv1.3",
                    alpn: b"h3".to_vec(),
                    server_name: Some("play.test".into()),
                    client: None,
                })),
            }),
            route: "game".into(),
            captures: vec![("room".into(), "a%20b".into())],
            protocol: Some("chat-v2".into()),
            subject: None,
        }
    }

    /// The same with another head.
    pub(in crate::backend) fn with_head(change: impl FnOnce(&mut RequestHead)) -> ClientInfo {
        let mut client = client();
        change(Arc::get_mut(&mut client.head).unwrap());
        client
    }

    #[test]
    fn without_a_server_name_the_host_of_the_request_stands_for_it() {
        for (authority, host) in [
            ("play.test:4433", "play.test"),
            ("play.test", "play.test"),
            ("127.0.0.1:4433", "127.0.0.1"),
            ("[::1]:4433", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
        ] {
            let client = with_head(|head| {
                head.tls = None;
                head.authority = authority.into();
            });
            assert_eq!(client.server_name(), host);
        }
        let client = with_head(|head| head.authority = "other.test".into());
        assert_eq!(client.server_name(), "play.test");
    }
}

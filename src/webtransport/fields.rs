//! What the fields of a request must be (RFC 9114 sections 4.2 and 4.3, RFC 9220).
//!
//! A request that breaks a rule here is malformed, which costs it its stream. h3 checks some of it once
//! more, but not the order of pseudo-headers nor that each comes once, and it tells nobody whom it has
//! turned away.

use super::{dialect::Protocol, qpack::Field};

/// A request that breaks the rules of HTTP (RFC 9114 section 4.1.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed message")]
pub(crate) struct Malformed;

/// The pseudo-headers of a request.
#[derive(Debug, Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    protocol: Option<&'a [u8]>,
}

/// What of a request decides how it is read on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Request {
    /// Whether its method is CONNECT.
    pub(crate) is_connect: bool,
    /// Its `:protocol`.
    pub(crate) protocol: Option<Protocol>,
}

/// Checks the fields of a request.
pub(crate) fn check_request(fields: &[Field]) -> Result<Request, Malformed> {
    let first_regular = fields.iter().position(|field| !is_pseudo(field)).unwrap_or(fields.len());
    let (pseudo, regular) = fields.split_at(first_regular);
    let pseudo = Pseudo::read(pseudo)?;
    check_regular(regular)?;
    let hosts: Vec<_> = regular.iter().filter(|field| *field.name == *b"host").collect();
    let host = match hosts[..] {
        [] => None,
        [host] => Some(&*host.value),
        _ => return Err(Malformed),
    };
    pseudo.check(host)
}

/// Checks the fields of a request's trailers, which have no pseudo-headers (RFC 9114 section 4.3).
pub(crate) fn check_trailers(fields: &[Field]) -> Result<(), Malformed> {
    check_regular(fields)
}

/// What each section has but pseudo-headers.
fn check_regular(fields: &[Field]) -> Result<(), Malformed> {
    let are_sound = fields.iter().all(|field| {
        !field.name.is_empty()
            && field.name.iter().all(|byte| is_name_char(*byte))
            && field.value.iter().all(|byte| is_value_char(*byte))
            && !is_of_connection(field)
    });
    if are_sound { Ok(()) } else { Err(Malformed) }
}

fn is_pseudo(field: &Field) -> bool {
    field.name.starts_with(b":")
}

/// Lower-case characters of a token (RFC 9110 section 5.6.2, RFC 9114 section 4.2). A colon is none, so a
/// pseudo-header after other fields is not sound.
fn is_name_char(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110 section 5.5.
fn is_value_char(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Fields of HTTP/1.1's connections, which HTTP/3 does not have (RFC 9114 section 4.2).
fn is_of_connection(field: &Field) -> bool {
    match &*field.name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            true
        }
        b"te" => !field.value.eq_ignore_ascii_case(b"trailers"),
        _ => false,
    }
}

impl<'a> Pseudo<'a> {
    /// Reads the pseudo-headers: each that is known, once.
    fn read(fields: &'a [Field]) -> Result<Self, Malformed> {
        let mut pseudo = Self::default();
        for field in fields {
            let slot = match &*field.name {
                b":method" => &mut pseudo.method,
                b":scheme" => &mut pseudo.scheme,
                b":authority" => &mut pseudo.authority,
                b":path" => &mut pseudo.path,
                b":protocol" => &mut pseudo.protocol,
                _ => return Err(Malformed),
            };
            let is_sound = !field.value.is_empty()
                && field.value.iter().all(|byte| (0x21..0x7f).contains(byte));
            if !is_sound || slot.replace(&*field.value).is_some() {
                return Err(Malformed);
            }
        }
        Ok(pseudo)
    }

    /// Whether all that must be there is, and nothing that must not be.
    fn check(&self, host: Option<&[u8]>) -> Result<Request, Malformed> {
        let method = self.method.ok_or(Malformed)?;
        let is_connect = method == b"CONNECT";
        let authority = match (self.authority, host) {
            (Some(authority), Some(host)) if authority != host => return Err(Malformed),
            (Some(authority), _) => Some(authority),
            // A CONNECT says whom to connect to in `:authority` alone.
            (None, host) => host.filter(|host| !host.is_empty() && !is_connect),
        };
        let authority = authority.ok_or(Malformed)?;
        let (has_target, has_no_target) = (
            self.scheme.is_some() && self.path.is_some_and(|path| is_path(path, method)),
            self.scheme.is_none() && self.path.is_none(),
        );
        let is_complete = match (is_connect, self.protocol) {
            // A tunnel has neither scheme nor path (RFC 9114 section 4.4).
            (true, None) => has_no_target,
            // Any other protocol has both (RFC 9220 section 3, RFC 8441 section 4).
            (true, Some(_)) | (false, None) => has_target,
            (false, Some(_)) => false,
        };
        // An authority has no user (RFC 9114 section 4.3.1).
        if !is_complete || authority.contains(&b'@') {
            return Err(Malformed);
        }
        Ok(Request { is_connect, protocol: self.protocol.map(protocol) })
    }
}

fn protocol(token: &[u8]) -> Protocol {
    match token {
        b"webtransport" => Protocol::WebTransport,
        b"webtransport-h3" => Protocol::WebTransportH3,
        _ => Protocol::Unknown,
    }
}

/// Path and query, without a fragment (RFC 9114 section 4.3.1): h3 would cut that off, and so see another
/// path than the one that was sent.
fn is_path(path: &[u8], method: &[u8]) -> bool {
    let is_path = path.starts_with(b"/") && !path.contains(&b'#');
    is_path || (path == b"*" && method == b"OPTIONS")
}

#[cfg(test)]
mod tests {
    use super::{super::qpack::tests::field, *};

    const SESSION: [(&str, &str); 5] = [
        (":method", "CONNECT"),
        (":protocol", "webtransport"),
        (":scheme", "https"),
        (":authority", "a.org"),
        (":path", "/game"),
    ];

    fn check(fields: &[(&str, &str)]) -> Result<Request, Malformed> {
        let fields: Vec<_> = fields.iter().map(|(name, value)| field(name, value)).collect();
        check_request(&fields)
    }

    /// A session's request with one field put in its place (the same name) or at the end.
    fn with(name: &str, value: &str) -> Result<Request, Malformed> {
        let mut fields = SESSION.to_vec();
        match fields.iter().position(|(n, _)| *n == name) {
            Some(at) => fields[at] = (name, value),
            None => fields.push((name, value)),
        }
        check(&fields)
    }

    #[test]
    fn requests_as_clients_send_them_are_sound() {
        let session = Request { is_connect: true, protocol: Some(Protocol::WebTransport) };
        assert_eq!(check(&SESSION), Ok(session));
        for (name, value) in [
            ("origin", "https://play.example.com"),
            ("host", "a.org"),
            ("te", "trailers"),
            ("user-agent", "Mozilla/5.0 (\u{e4})"),
            ("sec-webtransport-http3-draft02", "1"),
        ] {
            assert_eq!(with(name, value), Ok(session), "{name}");
        }
        for (token, protocol) in
            [("webtransport-h3", Protocol::WebTransportH3), ("websocket", Protocol::Unknown)]
        {
            assert_eq!(with(":protocol", token).unwrap().protocol, Some(protocol));
        }
        let tunnel = Request { is_connect: true, protocol: None };
        assert_eq!(check(&[SESSION[0], SESSION[3]]), Ok(tunnel));
        let get = [(":method", "GET"), SESSION[2], SESSION[4], ("host", "a.org")];
        assert_eq!(check(&get), Ok(Request { is_connect: false, protocol: None }));
    }

    #[test]
    fn each_broken_rule_makes_a_request_malformed() {
        for (name, value) in [
            (":path", ""),
            (":path", "game"),
            (":path", "/ga me"),
            (":path", "/game#here"),
            (":authority", ""),
            (":authority", "me@a.org"),
            (":scheme", ""),
            (":protocol", ""),
            (":status", "200"),
            (":unknown", "x"),
            ("host", "b.org"),
            ("Origin", "https://a.org"),
            ("", "x"),
            ("a b", "x"),
            ("x", "a\nb"),
            ("x", "a\0b"),
            ("connection", "close"),
            ("keep-alive", "1"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
        ] {
            assert_eq!(with(name, value), Err(Malformed), "{name}: {value:?}");
        }
    }

    #[test]
    fn pseudo_headers_come_once_and_first() {
        for at in 0..SESSION.len() {
            let mut missing = SESSION.to_vec();
            let taken = missing.remove(at);
            assert_eq!(check(&missing), Err(Malformed), "without {taken:?}");
            let mut late = missing.clone();
            late.extend([("x", "y"), taken]);
            assert_eq!(check(&late), Err(Malformed), "late {taken:?}");
            let mut twice = SESSION.to_vec();
            twice.push(taken);
            assert_eq!(check(&twice), Err(Malformed), "twice {taken:?}");
        }
        let two_hosts = [&SESSION[..], &[("host", "a.org"), ("host", "a.org")]].concat();
        assert_eq!(check(&two_hosts), Err(Malformed));
        let not_connect = [&[(":method", "GET")], &SESSION[1..]].concat();
        assert_eq!(check(&not_connect), Err(Malformed));
    }

    #[test]
    fn trailers_have_no_pseudo_headers() {
        assert_eq!(check_trailers(&[field("x", "y")]), Ok(()));
        assert_eq!(check_trailers(&[field(":path", "/")]), Err(Malformed));
    }
}

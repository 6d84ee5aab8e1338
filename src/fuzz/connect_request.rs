//! A session request, from its field section to its route or its refusal.

use std::{net::SocketAddr, path::Path, sync::LazyLock};

use http::{HeaderValue, Method};

use super::MOST_SECTION_BYTES;
use crate::{
    config::{Config, Origin, OriginPattern, Origins, RoutePath, Segment, path_segments},
    metrics::Metrics,
    reason::Refusal,
    route::{Match, Route, RouteTable},
    transport::{PAGE_PATH, RequestHead},
    webtransport::{
        codes::frame,
        dialect::{Dialect, Protocol, Settings},
        guard::FirstSection,
        in_memory,
        protocols::{self, Offer},
        qpack::{self, Field},
        request::{self, Wanted},
        varint,
    },
};

/// A field section, behind a byte that says which settings the client has sent.
pub fn connect_request(data: &[u8]) {
    _ = outcome(data);
}

/// What became of the request.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// A route takes it, by this name.
    Session(String),
    Refused(Refusal),
    /// An ordinary request.
    Page,
    /// It costs its stream.
    Malformed,
    /// It costs the connection.
    Undecodable,
}

pub(super) fn outcome(data: &[u8]) -> Outcome {
    let Some((client, section)) = data.split_first() else { return Outcome::Undecodable };
    let mut stream = Vec::new();
    varint::put(&mut stream, frame::HEADERS);
    varint::put(&mut stream, section.len() as u64);
    stream.extend(section);
    let exchange = in_memory::exchange(stream.into(), MOST_SECTION_BYTES);

    let fields = qpack::decode(section, MOST_SECTION_BYTES);
    let Some(noted) = exchange.noted else {
        assert_eq!(fields, Err(qpack::BadSection::Undecodable));
        return Outcome::Undecodable;
    };
    assert!(!exchange.is_closed, "h3 closes the connection: {:?}", exchange.request);
    let Ok(request) = exchange.request else {
        assert!(matches!(noted, FirstSection::Request(_)), "what stands in is sound");
        return Outcome::Malformed;
    };
    if let (FirstSection::Request(_), Ok(fields)) = (noted, &fields) {
        check_same(fields, &request);
    }
    match Wanted::of(Some(noted), request.method()) {
        Wanted::Session(protocol) => session(&request, protocol, *client),
        Wanted::Page => {
            assert_ne!(request.method(), Method::CONNECT);
            Outcome::Page
        }
        Wanted::Refused(why) => Outcome::Refused(why),
        Wanted::Malformed => Outcome::Malformed,
        Wanted::Nothing => unreachable!("every request wants something"),
    }
}

/// What h3 makes of a request must be what the gateway has decoded: where two programs read one request in
/// two ways, somebody gets in.
fn check_same(fields: &[Field], request: &http::Request<()>) {
    let value = |name: &str| {
        let found = fields.iter().find(|field| *field.name == *name.as_bytes());
        found.map(|field| String::from_utf8_lossy(&field.value))
    };
    let uri = request.uri();
    assert_eq!(value(":method").as_deref(), Some(request.method().as_str()));
    if let Some(path) = value(":path") {
        assert_eq!(Some(&*path), uri.path_and_query().map(|path| path.as_str()));
        let scheme = value(":scheme").expect("with a path comes a scheme");
        assert!(uri.scheme_str().is_some_and(|read| read.eq_ignore_ascii_case(&scheme)));
    }
    let authority = value(":authority").or_else(|| value("host"));
    assert_eq!(authority.as_deref(), uri.authority().map(|authority| authority.as_str()));
    let regular: Vec<_> = fields.iter().filter(|field| !field.name.starts_with(b":")).collect();
    assert_eq!(request.headers().len(), regular.len());
    for field in regular {
        let name = std::str::from_utf8(&field.name).expect("plain ASCII");
        let mut values = request.headers().get_all(name).iter().map(HeaderValue::as_bytes);
        assert!(values.any(|value| *value == *field.value));
    }
}

fn session(request: &http::Request<()>, protocol: Protocol, client: u8) -> Outcome {
    let settings = Settings::parse(SETTINGS[usize::from(client) % SETTINGS.len()]).expect("sound");
    let dialect = Dialect::negotiated(&settings, protocol);
    let offered = request.headers().get_all(protocols::AVAILABLE).iter();
    let Offer { protocols, form } = Offer::read(offered, dialect);
    for protocol in &protocols {
        let answer = protocols::answer(protocol, form).expect("what was offered can be answered");
        let again = Offer::read([&answer].into_iter(), dialect);
        assert_eq!((again.protocols, again.form), (vec![protocol.clone()], form));
    }
    let address: SocketAddr = ([127, 0, 0, 1], 1).into();
    let Some(head) = request::head(request, dialect, protocols, address, None) else {
        return Outcome::Refused(Refusal::BadRequest);
    };
    assert!(head.path.starts_with('/') && !head.path.contains(['?', '#']));
    assert!(!head.authority.is_empty() && !head.authority.contains('@'));
    decide(&head)
}

/// What clients of four generations set, and one that sets nothing.
const SETTINGS: [&[u8]; 5] = [
    &[],
    // 0x2b603742 = 1, and 0x33 = 1
    &[0xab, 0x60, 0x37, 0x42, 0x01, 0x33, 0x01],
    // 0xc671706a = 1
    &[0xc0, 0, 0, 0, 0xc6, 0x71, 0x70, 0x6a, 0x01],
    // 0x14e9cd29 = 1
    &[0x94, 0xe9, 0xcd, 0x29, 0x01],
    // 0x2c7cf000 = 1
    &[0xac, 0x7c, 0xf0, 0x00, 0x01],
];

static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let route =
        |path: &str, rest: &str| format!("[[route]]\npath = {path:?}\nbackend = \"b\"\n{rest}\n");
    let text = [
        "version = 1\n[[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"localhost\"]\n",
        "[backend.b]\nendpoints = [{ tcp = \"127.0.0.1:1\" }]\n",
        &route("/echo", "origins = \"any\""),
        &route("/game/{room}", "origins = [\"https://play.example.com\"]"),
        &route("/game/lobby", "origins = [\"https://play.example.com\", \"null\"]"),
        &route("/game/{room}/chat", "origins = \"any\"\nprotocols = [\"chat-v2\", \"chat-v1\"]"),
        &route("/must", "origins = \"any\"\nprotocols = [\"a\"]\nrequire_protocol = true"),
        &route("/files/{path...}", "origins = \"any\"\nallow_missing_origin = false"),
        &route("/{any}/lobby", "origins = \"any\""),
    ]
    .concat();
    let config = Config::parse(&text, "routes", Path::new("")).expect("a good configuration");
    RouteTable::new(&config.routes, &Metrics::new())
});

fn decide(head: &RequestHead) -> Outcome {
    let found = TABLE.lookup(head);
    let best = path_segments(&head.path).map(|segments| best(&segments));
    let name = |route: &Route| route.settings.name.clone();
    match (&found, &best) {
        // An authority that could be read in two ways is as bad as such a path.
        (Err((None, Refusal::BadRequest)), best) => {
            assert!(best.is_err() || !is_plain_name(&head.authority), "{}", head.authority);
        }
        (Err((None, Refusal::NotWebTransport)), Ok(None)) => assert_eq!(head.path, PAGE_PATH),
        (Err((None, Refusal::NoRoute)), Ok(None)) => {}
        (Err((Some(route), why)), Ok(Some((best, _)))) => {
            assert_eq!(name(route), name(best));
            match why {
                Refusal::OriginMissing => assert_eq!(head.origin, None),
                Refusal::OriginNotAllowed => assert!(!is_allowed(best, head.origin.as_deref())),
                Refusal::NoCommonProtocol => assert!(best.settings.require_protocol),
                why => unreachable!("{why} is no answer of a route"),
            }
        }
        (Ok(found), Ok(Some((best, captures)))) => {
            assert_eq!((name(&found.route), &found.captures), (name(best), captures));
            check_match(found, head);
        }
        other => unreachable!("{other:?}"),
    }
    match found {
        Ok(found) => Outcome::Session(name(&found.route)),
        Err((_, why)) => Outcome::Refused(why),
    }
}

/// Whether this is nothing but the name of a host, and a short one.
fn is_plain_name(authority: &str) -> bool {
    let is_plain = |label: &str| {
        matches!(label.len(), 1..=63) && label.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    authority.len() <= 253 && authority.split('.').all(is_plain)
}

fn check_match(found: &Match, head: &RequestHead) {
    assert!(is_allowed(&found.route, head.origin.as_deref()), "{:?}", head.origin);
    let settings = &found.route.settings;
    let common = head.protocols.iter().find(|offered| settings.protocols.contains(offered));
    assert_eq!(found.protocol.as_ref(), common);
    assert!(common.is_some() || !settings.require_protocol);
}

fn is_allowed(route: &Route, origin: Option<&str>) -> bool {
    match (&route.settings.origins, origin) {
        (_, None) => route.settings.allow_missing_origin,
        (Origins::Any, Some(_)) => true,
        // None of these routes has a wildcard.
        (Origins::List(list), Some(origin)) => {
            Origin::parse(origin).is_ok_and(|origin| list.contains(&OriginPattern::Exact(origin)))
        }
    }
}

/// What a route's captures stand for.
type Captures = Vec<(String, String)>;

/// The most precise of the routes that take a path: all of them are tried.
fn best(segments: &[String]) -> Option<(&'static Route, Captures)> {
    let taking = TABLE.routes().iter().filter_map(|route| {
        let captures = captures(&route.settings.path, segments)?;
        Some((&**route, captures))
    });
    taking.min_by_key(|(route, _)| precision(&route.settings.path))
}

/// Smaller is more precise, from left to right.
fn precision(path: &RoutePath) -> Vec<u8> {
    let precision = |segment: &Segment| match segment {
        Segment::Literal(_) => 0,
        Segment::Capture(_) => 1,
        Segment::Rest(_) => 2,
    };
    path.segments.iter().map(precision).collect()
}

/// What the captures of a pattern stand for, if it takes a path.
fn captures(pattern: &RoutePath, path: &[String]) -> Option<Captures> {
    let (mut captures, mut left) = (Vec::new(), path);
    for segment in &pattern.segments {
        let (first, rest) = left.split_first()?;
        match segment {
            Segment::Literal(text) if text == first => left = rest,
            Segment::Capture(name) if !first.is_empty() => {
                captures.push((name.clone(), first.clone()));
                left = rest;
            }
            Segment::Rest(name) if !first.is_empty() => {
                captures.push((name.clone(), left.join("/")));
                left = &[];
            }
            _ => return None,
        }
    }
    left.is_empty().then_some(captures)
}

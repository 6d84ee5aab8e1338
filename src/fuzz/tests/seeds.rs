//! The seeds: what clients really send, and what the tables of the specifications say is wrong.
//!
//! The files in `fuzz/seeds` are made from this list; `TIDEGATE_WRITE_SEEDS=1` writes them anew. Seeds of
//! `config` are files that were written by hand, and so is what a fuzzer found: `found-*`.

use bytes::BytesMut;

use crate::webtransport::{
    SessionCredit,
    capsule::{self, Counted},
    codes::{self, capsule as kind, frame, stream},
    dialect, varint,
};

/// A seed's name, and what is in it.
type Seed = (&'static str, Vec<u8>);

/// The seeds that are made, for each target.
pub(super) fn all() -> Vec<(&'static str, Vec<Seed>)> {
    vec![
        ("capsules", capsules()),
        ("connect_request", connect_request()),
        ("datagram_header", datagram_header()),
        ("field_section", field_section()),
        ("guard", guard()),
        ("settings", settings().into()),
        ("stream_header", stream_header()),
    ]
}

pub(super) fn varints(values: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        varint::put(&mut bytes, *value);
    }
    bytes
}

/// Type, length and payload: a frame or a capsule.
pub(super) fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [varints(&[kind, payload.len() as u64]), payload.to_vec()].concat()
}

/// How a field line is written (RFC 9204 section 4.5).
#[derive(Clone, Debug)]
pub(super) enum Line {
    /// An entry of the static table.
    Indexed(u8),
    /// A name of the static table, and a value.
    Named(u8, Vec<u8>),
    Literal(Vec<u8>, Vec<u8>),
}

fn literal(name: &str, value: &str) -> Line {
    Line::Literal(name.into(), value.into())
}

fn named(index: u8, value: &str) -> Line {
    Line::Named(index, value.into())
}

/// A field section, plain or in Huffman's code.
pub(super) fn section(lines: &[Line], huffman: bool) -> Vec<u8> {
    let mut section = vec![0, 0];
    for line in lines {
        match line {
            Line::Indexed(index) => put_integer(&mut section, 0xc0, 6, (*index).into()),
            Line::Named(index, value) => {
                put_integer(&mut section, 0x50, 4, (*index).into());
                put_text(&mut section, 0, 7, value, huffman);
            }
            Line::Literal(name, value) => {
                put_text(&mut section, 0x20, 3, name, huffman);
                put_text(&mut section, 0, 7, value, huffman);
            }
        }
    }
    section
}

fn put_text(to: &mut Vec<u8>, flags: u8, bits: u32, text: &[u8], huffman: bool) {
    let mut coded = text.to_vec();
    if huffman {
        coded.clear();
        httlib_huffman::encode(text, &mut coded).unwrap();
    }
    put_integer(to, flags | u8::from(huffman) << bits, bits, coded.len());
    to.extend(coded);
}

/// RFC 7541 section 5.1.
fn put_integer(to: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    let low = |value: usize| value.to_le_bytes()[0];
    if value < most {
        return to.push(flags | low(value));
    }
    to.push(flags | low(most));
    let mut left = value - most;
    while left > 0x7f {
        to.push(low(left) | 0x80);
        left >>= 7;
    }
    to.push(low(left));
}

/// As Chromium asks for a session.
fn chromium(path: &str, origin: &str) -> Vec<u8> {
    section(
        &[
            Line::Indexed(15), // :method: CONNECT
            named(0, "play.example.com:4433"),
            Line::Indexed(23), // :scheme: https
            named(1, path),
            literal(":protocol", "webtransport"),
            literal("sec-webtransport-http3-draft02", "1"),
            named(90, origin),
        ],
        true,
    )
}

/// As Firefox does, which adds more.
fn firefox(path: &str) -> Vec<u8> {
    section(
        &[
            literal(":method", "CONNECT"),
            literal(":scheme", "https"),
            literal(":authority", "localhost:4433"),
            literal(":path", path),
            literal(":protocol", "webtransport"),
            literal("origin", "https://play.example.com"),
            named(95, "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0"),
            literal("sec-webtransport-http3-draft02", "1"),
        ],
        true,
    )
}

/// As clients of draft 16 do, which offer application protocols.
fn draft16(path: &str, protocols: &str) -> Vec<u8> {
    section(
        &[
            Line::Indexed(15),
            Line::Indexed(23),
            named(0, "gateway.example.com"),
            named(1, path),
            literal(":protocol", "webtransport-h3"),
            literal("wt-available-protocols", protocols),
        ],
        false,
    )
}

/// As the gateway's own client and its tests do: literal and plain.
fn plain(fields: &[(&str, &str)]) -> Vec<u8> {
    let lines: Vec<_> = fields.iter().map(|(name, value)| literal(name, value)).collect();
    section(&lines, false)
}

const SESSION: [(&str, &str); 5] = [
    (":method", "CONNECT"),
    (":scheme", "https"),
    (":authority", "127.0.0.1:4433"),
    (":path", "/echo"),
    (":protocol", "webtransport"),
];

/// A session request with more fields.
fn session_with(more: &[(&str, &str)]) -> Vec<u8> {
    plain(&[&SESSION[..], more].concat())
}

/// A session request for another path.
fn session_on(path: &str) -> Vec<u8> {
    let mut fields = SESSION;
    fields[3].1 = path;
    plain(&fields)
}

fn get(path: &str) -> Vec<u8> {
    let lines = [Line::Indexed(17), Line::Indexed(23), named(0, "localhost"), named(1, path)];
    section(&lines, true)
}

fn tunnel() -> Vec<u8> {
    plain(&[(":method", "CONNECT"), (":authority", "a.org:22")])
}

fn behind(head: &[u8], rest: &[u8]) -> Vec<u8> {
    [head, rest].concat()
}

fn connect_request() -> Vec<Seed> {
    let origin = ("origin", "https://play.example.com");
    [
        ("chromium", 1, chromium("/game/42", origin.1)),
        ("chromium-foreign-origin", 1, chromium("/game/42", "https://evil.example.com")),
        ("chromium-null-origin", 1, chromium("/game/lobby", "null")),
        ("firefox", 1, firefox("/game/lobby?seat=1")),
        ("safari", 2, session_on("/files/a/b/")),
        ("draft13", 3, session_with(&[("wt-available-protocols", "\"chat\"")])),
        ("draft16", 4, draft16("/game/1/chat", "\"chat-v1\";q=1, \"chat-v2\"")),
        ("draft16-nothing-in-common", 4, draft16("/must", "\"b\"")),
        ("draft10-tokens", 2, session_with(&[("wt-available-protocols", "a, b/2")])),
        ("own-client", 0, session_with(&[])),
        ("no-origin", 0, session_on("/game/42")),
        ("no-route", 0, session_on("/nowhere")),
        ("page", 0, session_on("/")),
        ("dots", 0, session_on("/game/%2e%2e/admin")),
        ("fragment", 0, session_on("/echo#/../admin")),
        ("escapes", 0, session_on("/%67ame/a%20b/chat?x=%zz")),
        ("two-origins", 1, session_with(&[origin, origin])),
        ("websocket", 0, plain(&[&SESSION[..4], &[(":protocol", "websocket")]].concat())),
        ("tunnel", 0, tunnel()),
        ("get", 0, get("/")),
        ("options", 0, {
            let all = [(":method", "OPTIONS"), (":scheme", "http"), ("host", "a.org")];
            plain(&[all[0], all[1], (":path", "*"), all[2]])
        }),
        ("other-authority", 0, {
            let mut fields = SESSION;
            fields[2].1 = "[::1]:4433";
            plain(&fields)
        }),
        ("too-large", 0, session_with(&[("x", &"y".repeat(1024))])),
        ("dynamic-table", 0, vec![1, 0, 0x80]),
    ]
    .map(|(name, settings, section)| (name, behind(&[settings], &section)))
    .into()
}

fn field_section() -> Vec<Seed> {
    let many: Vec<_> = (0..40).map(|_| ("a", "")).collect();
    [
        ("chromium", chromium("/echo", "https://play.example.com")),
        ("firefox", firefox("/")),
        ("draft16", draft16("/a", "\"a\", \"b\"")),
        ("own-client", session_with(&[])),
        ("get", get("/x?y=z")),
        ("tunnel", tunnel()),
        ("host", plain(&[(":method", "GET"), (":scheme", "https"), (":path", "/"), ("host", "a")])),
        ("trailers", plain(&[("x", "y"), ("te", "trailers")])),
        ("of-connections", session_with(&[("connection", "close"), ("te", "gzip")])),
        ("late-pseudo-header", session_with(&[("x", "y"), (":path", "/")])),
        ("double", session_with(&[(":path", "/")])),
        ("upper-case", session_with(&[("Origin", "https://a.org")])),
        ("control-characters", session_with(&[("x", "a\r\nb\0")])),
        ("user-in-authority", plain(&[(":method", "CONNECT"), (":authority", "me@a.org")])),
        ("many-small-fields", plain(&many)),
        ("every-static-entry", section(&(0..99).map(Line::Indexed).collect::<Vec<_>>(), false)),
        ("endless-length", vec![0, 0, 0x27, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ("no-such-entry", vec![0, 0, 0xff, 36]),
        ("no-huffman-code", vec![0, 0, 0x51, 0x84, 0xff, 0xff, 0xff, 0xff]),
        ("after-the-base", vec![0, 0, 0x10]),
        ("needs-the-dynamic-table", vec![1, 0]),
    ]
    .map(|(name, section)| (name, behind(&[4, 0], &section)))
    .into()
}

/// Payloads of SETTINGS, as clients send them.
pub(super) fn settings() -> [Seed; 13] {
    let pairs = |pairs: &[(u64, u64)]| {
        varints(&pairs.iter().flat_map(|(id, value)| [*id, *value]).collect::<Vec<_>>())
    };
    let grease = (0x1f * 7 + 0x21, 42);
    let flow = [(0x2b61, 1 << 20), (0x2b64, 100), (0x2b65, 100)];
    let credit = SessionCredit { data: 1 << 24, bidi: 384, uni: 272 };
    let ours = dialect::control_stream_head(16_384, credit);
    let (_, n) = varint::peek(&ours[2..]).unwrap();
    let chromium =
        [(1, 65_536), (6, 16_384), (7, 100), (0x33, 1), (0xff_d277, 1), (0x2b60_3742, 1), grease];
    let firefox = [(1, 65_536), (7, 20), (0x2b60_3742, 1), (0xff_d277, 1), (0x33, 1), (8, 1)];
    let quinn = [(0x33, 1), (0xff_d277, 1), (8, 1), (0xc671_706a, 1), (0x2b60_3742, 1)];
    [
        ("chromium", pairs(&chromium)),
        ("firefox", pairs(&firefox)),
        ("draft07", pairs(&[(8, 1), (0x33, 1), (0xc671_706a, 1)])),
        ("draft13", pairs(&[&[(8, 1), (0x33, 1), (0x14e9_cd29, 16)][..], &flow].concat())),
        ("draft16", pairs(&[&[(8, 1), (0x33, 1), (0x2c7c_f000, 1)][..], &flow].concat())),
        ("aioquic", pairs(&[(1, 4096), (7, 16), (8, 1), (0x21, 1), (0x33, 1), (0x2b60_3742, 1)])),
        ("web-transport-quinn", pairs(&[&quinn[..], &[(0x2b60_3743, 1)]].concat())),
        ("own", ours[2 + n..].to_vec()),
        ("of-http2", pairs(&[(2, 0), (0x33, 1)])),
        ("not-boolean", pairs(&[(0x33, 2)])),
        ("double", pairs(&[(0x2b60_3742, 1), (0x2b60_3742, 1)])),
        ("cut", varints(&[0x33])),
        ("highest", pairs(&[(varint::MAX, varint::MAX), (0x2b61, varint::MAX)])),
    ]
}

fn capsules() -> Vec<Seed> {
    let raw = |kind, body: &[u8]| frame(kind, body);
    let mut limits = BytesMut::new();
    for what in [Counted::Data, Counted::Bidi, Counted::Uni] {
        for limit in [200, 201, 1 << 30] {
            capsule::put_max(&mut limits, what, limit);
            capsule::put_blocked(&mut limits, what, limit);
        }
    }
    let grease = raw(0x29 * 11 + 0x17, b"nothing");
    let close = capsule::close(77, "gr\u{fc}\u{df} dich \u{1f44b}");
    let too_long = vec![b'x'; 4 + 1025];
    [
        ("chromium", behind(&grease, &capsule::close(0, ""))),
        ("close", close.to_vec()),
        ("drain-and-close", behind(&capsule::drain(), &close)),
        ("longest-reason", capsule::close(u32::MAX, &"x".repeat(1024)).to_vec()),
        ("limits", limits.to_vec()),
        (
            "limit-that-falls",
            [raw(kind::MAX_DATA, &[0x40, 0xff]), raw(kind::MAX_DATA, &[5])].concat(),
        ),
        ("too-many-streams", raw(kind::MAX_STREAMS_BIDI, &varints(&[(1 << 60) + 1]))),
        ("for-single-streams", raw(kind::MAX_STREAM_DATA, &[0, 1])),
        ("datagram", raw(0, b"a datagram")),
        ("drain-with-a-body", raw(kind::DRAIN_SESSION, b"x")),
        ("close-without-code", raw(kind::CLOSE_SESSION, b"abc")),
        ("reason-not-in-utf8", raw(kind::CLOSE_SESSION, b"\0\0\0\x01\xff\xfe")),
        ("reason-too-long", raw(kind::CLOSE_SESSION, &too_long)),
        ("limit-with-more", raw(kind::MAX_STREAMS_UNI, &[1, 0])),
        ("endless", behind(&varints(&[0x21, varint::MAX]), &[0; 64])),
        ("cut", capsule::close(7, "bye")[..6].to_vec()),
    ]
    .map(|(name, bytes)| (name, behind(&[3], &bytes)))
    .into()
}

fn stream_header() -> Vec<Seed> {
    [
        ("bidi", 0, varints(&[codes::STREAM_BIDI, 4, 7])),
        ("bidi-far", 0, varints(&[codes::STREAM_BIDI, 1 << 40])),
        ("request", 0, frame(frame::HEADERS, &get("/"))),
        ("uni", 1, varints(&[codes::STREAM_UNI, 0, 7])),
        ("control", 1, varints(&[stream::CONTROL, frame::SETTINGS, 0])),
        ("encoder", 1, varints(&[stream::QPACK_ENCODER, 0x20])),
        ("grease", 1, varints(&[0x21 + 0x1f * 1000, 9])),
        ("longer-than-needed", 1, vec![0xc0, 0, 0, 0, 0, 0, 0, 0x54, 0xc0, 0, 0, 0, 0, 0, 0, 8]),
        ("cut", 0, vec![0x40, 0x41, 0xc0]),
    ]
    .map(|(name, kind, bytes)| (name, behind(&[kind], &bytes)))
    .into()
}

fn datagram_header() -> Vec<Seed> {
    vec![
        ("first", b"\0hello".to_vec()),
        ("empty", varints(&[1])),
        ("far", behind(&varints(&[64]), b"x")),
        ("highest", varints(&[(1 << 60) - 1])),
        ("too-high", varints(&[1 << 60])),
        ("longer-than-needed", vec![0x40, 1, 2]),
        ("cut", vec![0xc0, 0]),
    ]
}

/// The kinds of streams, as the target `guard` tells them apart.
pub(super) const REQUEST: u8 = 0;
const RESPONSE: u8 = 1;
const CONTROL: u8 = 2;
const ENCODER: u8 = 3;
const DECODER: u8 = 4;
pub(super) const H3: u8 = 5;

fn guard() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, stream) in requests() {
        seeds.push((name, behind(&[REQUEST, 7], &stream)));
    }
    for (name, stream) in [
        ("h3-session", [headers(&session_with(&[])), data(b"abc")].concat()),
        ("h3-trailers", [headers(&get("/")), data(b"x"), headers(&plain(&[("x", "y")]))].concat()),
        ("h3-odd-authority", headers(&plain(&[(":method", "CONNECT"), (":authority", "::")]))),
    ] {
        seeds.push((name, behind(&[H3, 0], &stream)));
    }
    let response = [headers(&plain(&[(":status", "200")])), data(b"hello")].concat();
    seeds.push(("response", behind(&[RESPONSE, 5], &response)));
    for (name, stream) in control_streams() {
        seeds.push((name, behind(&[CONTROL, 4], &stream)));
    }
    seeds.extend([
        ("encoder", vec![ENCODER, 1, 0x20, 0x20]),
        ("encoder-with-room", vec![ENCODER, 1, 0x3f, 0x01]),
        ("decoder", vec![DECODER, 1, 0x44, 0x7f, 0x80, 0x01]),
        ("decoder-acknowledges", vec![DECODER, 1, 0x80]),
    ]);
    seeds
}

fn headers(section: &[u8]) -> Vec<u8> {
    frame(frame::HEADERS, section)
}

fn data(payload: &[u8]) -> Vec<u8> {
    frame(frame::DATA, payload)
}

fn requests() -> Vec<Seed> {
    let session = headers(&chromium("/echo", "https://play.example.com"));
    let grease = frame(0x21 + 0x1f * 5, b"nothing");
    let close = data(&capsule::close(1, "bye"));
    let (get, trailers) = (headers(&get("/")), headers(&plain(&[("x", "y")])));
    vec![
        ("session", [&session[..], &data(&[0x17, 0]), &close].concat()),
        ("session-after-grease", [&grease[..], &session, &grease, &close].concat()),
        ("get-with-trailers", [&get[..], &data(b"body"), &data(b""), &trailers].concat()),
        ("tunnel", [headers(&tunnel()), data(b"SSH-2.0")].concat()),
        ("trailers-of-a-tunnel", [&headers(&tunnel())[..], &trailers].concat()),
        ("malformed", headers(&session_with(&[(":path", "/")]))),
        ("too-large", headers(&session_with(&[("x", &"y".repeat(1000))]))),
        ("declared-too-large", behind(&varints(&[frame::HEADERS, 1 << 40]), b"abc")),
        ("too-large-trailers", behind(&get, &varints(&[frame::HEADERS, 1 << 40]))),
        ("data-first", data(b"x")),
        ("settings", frame(frame::SETTINGS, b"")),
        ("of-http2", behind(&get, &frame(0x06, b""))),
        ("late-signal", behind(&get, &varints(&[codes::STREAM_BIDI, 0]))),
        ("dynamic-table", headers(&[1, 0, 0x80])),
        ("bad-trailers", behind(&get, &get)),
        ("endless-frame", behind(&varints(&[0x21, varint::MAX]), &[0; 32])),
        ("cut", session[..20].to_vec()),
    ]
}

fn control_streams() -> Vec<Seed> {
    let [chromium, firefox, .., draft16, _, _, _, _, _, _, _, _] = settings();
    let told = frame(frame::SETTINGS, &chromium.1);
    let id = |kind, id| frame(kind, &varints(&[id]));
    vec![
        ("control-chromium", behind(&told, &frame(0x1f * 3 + 0x21, b"grease"))),
        ("control-firefox", frame(frame::SETTINGS, &firefox.1)),
        ("control-draft16", frame(frame::SETTINGS, &draft16.1)),
        ("control-ids", [&told[..], &id(frame::GOAWAY, 8), &id(frame::GOAWAY, 4)].concat()),
        ("control-ids-back", [&told[..], &id(frame::MAX_PUSH_ID, 8), &id(0x0d, 4)].concat()),
        ("control-cancel-push", behind(&told, &id(frame::CANCEL_PUSH, 0))),
        ("control-settings-twice", [&told[..], &told].concat()),
        ("control-settings-late", id(frame::GOAWAY, 0)),
        ("control-settings-too-large", varints(&[frame::SETTINGS, 1 << 40])),
        ("control-data", behind(&told, &data(b"x"))),
        ("control-signal", behind(&told, &varints(&[codes::STREAM_BIDI, 0]))),
    ]
}

//! Inputs that look like what the targets are for.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::seeds::{Line, frame, section, varints};
use crate::{
    config::known_keys,
    webtransport::{
        codes::{self, capsule, frame as kind},
        varint,
    },
};

/// Anything, or what `like` makes behind as many bytes as the target's head has.
pub(super) fn input(
    head: usize,
    like: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Vec<u8>> {
    let likely = (vec(any::<u8>(), head), like).prop_map(|(head, rest)| [head, rest].concat());
    prop_oneof![1 => bytes(300), 4 => likely]
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..most)
}

#[rustfmt::skip]
const EDGES: &[u64] = &[
    0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000, (1 << 60) - 1, 1 << 60, varint::MAX,
];

#[rustfmt::skip]
const SETTINGS: &[u64] = &[
    0x01, 0x06, 0x08, 0x33, 0xff_d277, 0x2b60_3742, 0xc671_706a, 0x14e9_cd29, 0x2c7c_f000, 0x2b61, 0x2b64,
    0x2b65,
];

#[rustfmt::skip]
const CAPSULES: &[u64] = &[
    capsule::CLOSE_SESSION, capsule::CLOSE_SESSION, capsule::DRAIN_SESSION, capsule::MAX_DATA,
    capsule::MAX_STREAMS_BIDI, capsule::MAX_STREAMS_UNI, capsule::DATA_BLOCKED,
    capsule::STREAMS_BLOCKED_BIDI, capsule::STREAMS_BLOCKED_UNI, 0, 0x17,
];

#[rustfmt::skip]
const FRAMES: &[u64] = &[
    kind::DATA, kind::DATA, kind::DATA, kind::HEADERS, kind::SETTINGS, kind::GOAWAY, kind::MAX_PUSH_ID,
    codes::STREAM_BIDI, 0x21,
];

/// A number as it may stand at the head of something: small, known, or on an edge.
fn number(known: &'static [u64]) -> impl Strategy<Value = u64> {
    prop_oneof![1 => 0..16_u64, 4 => select(known), 1 => select(EDGES)]
}

/// Numbers in pairs, as in SETTINGS.
pub(super) fn pairs() -> impl Strategy<Value = Vec<u8>> {
    let pair = (number(SETTINGS), prop_oneof![0..3_u64, select(EDGES)]);
    vec(pair, 0..8).prop_map(|pairs| {
        varints(&pairs.iter().flat_map(|(id, value)| [*id, *value]).collect::<Vec<_>>())
    })
}

/// What streams and datagrams begin with. Some numbers take more bytes than they need.
pub(super) fn heads() -> impl Strategy<Value = Vec<u8>> {
    let longest = |value: u64| (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec();
    let one = || {
        let number = || number(&[codes::STREAM_BIDI, codes::STREAM_UNI]);
        prop_oneof![number().prop_map(|value| varints(&[value])), number().prop_map(longest)]
    };
    vec(one(), 1..4).prop_map(|numbers| numbers.concat())
}

/// Capsules.
pub(super) fn capsules() -> impl Strategy<Value = Vec<u8>> {
    frames_of(CAPSULES)
}

/// Frames or capsules, some of which are longer or shorter than they say.
fn frames_of(known: &'static [u64]) -> impl Strategy<Value = Vec<u8>> {
    let numbers = vec(number(SETTINGS), 1..3).prop_map(|numbers| varints(&numbers));
    let payload = prop_oneof![Just(Vec::new()), bytes(40), lines(), numbers];
    let length = prop_oneof![0..3000_u64, select(EDGES)];
    let one = (number(known), payload, option::weighted(0.2, length));
    let one = one.prop_map(|(kind, payload, length)| match length {
        Some(length) => [varints(&[kind, length]), payload].concat(),
        None => frame(kind, &payload),
    });
    vec(one, 0..6).prop_map(|frames| frames.concat())
}

/// Frames, most of them behind a request.
pub(super) fn stream() -> impl Strategy<Value = Vec<u8>> {
    let head = Line::Named(0, b"a.org".to_vec());
    let get =
        section(&[Line::Indexed(17), Line::Indexed(23), head.clone(), Line::Indexed(1)], true);
    let tunnel = section(&[Line::Indexed(15), head], true);
    let first = select(vec![Vec::new(), frame(1, &get), frame(1, &get), frame(1, &tunnel)]);
    (first, frames_of(FRAMES)).prop_map(|(first, frames)| [first, frames].concat())
}

#[rustfmt::skip]
const NAMES: &[&str] = &[
    ":method", ":scheme", ":authority", ":path", ":protocol", ":status", "host", "origin", "te",
    "cookie", "connection", "X", "", "wt-available-protocols", "sec-webtransport-http3-draft02",
];

#[rustfmt::skip]
const VALUES: &[&str] = &[
    "CONNECT", "GET", "https", "http", "a.org", "[::1]:80", "me@a.org", "/", "/echo",
    "/game/42", "/game/lobby", "/files/a/b", "/a#b", "/%2e%2e/", "*", "webtransport",
    "webtransport-h3", "null", "https://play.example.com", "\"a\", \"b\"", "a, b", "trailers",
    "", "a\nb", "\u{e4}",
];

#[rustfmt::skip]
const PATHS: &[&str] = &[
    "/", "/echo", "/game/42", "/game/lobby", "/game/42/chat", "/x/lobby", "/files/a/b", "/files/", "/must",
    "/%65cho", "/a#b", "/%2e%2e/echo", "/echo?x=y", "//", "*",
];

/// A field section that may be a request.
pub(super) fn lines() -> impl Strategy<Value = Vec<u8>> {
    let name = || select(NAMES).prop_map(|name| name.as_bytes().to_vec());
    let value = || {
        let known = select(VALUES).prop_map(|value| value.as_bytes().to_vec());
        prop_oneof![4 => known, 1 => bytes(300)]
    };
    let line = || {
        prop_oneof![
            (0..100_u8).prop_map(Line::Indexed),
            (0..100_u8, value()).prop_map(|(index, value)| Line::Named(index, value)),
            (name(), value()).prop_map(|(name, value)| Line::Literal(name, value)),
        ]
    };
    let literal = |name: &str, value: Vec<u8>| Line::Literal(name.as_bytes().to_vec(), value);
    // Most begin as a request does.
    let request = vec(value(), 5).prop_map(move |values| {
        let [method, scheme, authority, path, protocol] =
            <[Vec<u8>; 5]>::try_from(values).expect("as many as were asked for");
        vec![
            literal(":method", method),
            literal(":scheme", scheme),
            literal(":authority", authority),
            literal(":path", path),
            literal(":protocol", protocol),
        ]
    });
    let sound = select(PATHS).prop_map(move |path| {
        vec![
            Line::Indexed(15),
            Line::Indexed(23),
            literal(":authority", b"a.org".to_vec()),
            literal(":path", path.into()),
            literal(":protocol", b"webtransport".to_vec()),
        ]
    });
    let first = prop_oneof![1 => Just(Vec::new()), 1 => request, 4 => sound];
    (first, vec(line(), 0..3), any::<bool>())
        .prop_map(|(first, more, huffman)| section(&[first, more].concat(), huffman))
}

/// Values of a file, each of which some key takes.
#[rustfmt::skip]
const SETTING_VALUES: &[&str] = &[
    "0", "-1", "1", "3", "1300", "65536", "9223372036854775807", "1.5", "true", "false", "\"\"", "\"a\"",
    "\"b\"", "\"0a1b\"", "\"1ms\"", "\"200ms\"", "\"2s\"", "\"10s\"", "\"2h\"", "\"1B\"", "\"3KiB\"",
    "\"2MiB\"", "\"auto\"", "\"off\"", "\"unlimited\"", "\"any\"", "\"text\"", "\"json\"", "\"always\"",
    "\"bbr\"", "\"new-reno\"", "\"minimal\"", "\"refuse\"", "\"drop\"", "\"udp\"", "\"session\"", "\"v2\"",
    "\"least-sessions\"", "\"127.0.0.1:1\"", "\"[::1]:7\"", "\"a.test:80\"", "[\"127.0.0.1:0\"]",
    "[\"localhost\"]", "[\"https://a.org\", \"null\"]", "\"/{a}/b/{c...}\"", "\"/\"", "[]", "{}",
    "{ file = \"x\" }", "[{ tcp = \"a.test:1\", udp = \"127.0.0.1:2\" }]", "1979-05-27",
];

/// A line of a file: its section, its key, its value.
type Setting = (String, String, &'static str);

/// Every key with every value.
pub(super) fn settings() -> Vec<Setting> {
    let keys = known_keys();
    // `route[].limits.sessions` stands as `limits.sessions` in the section `[[route]]`.
    let keys = keys.iter().filter_map(|key| {
        let (section, name) = key.split_once('.')?;
        Some(match (section.strip_suffix("[]"), name.strip_prefix("*.")) {
            (Some(section), _) => (format!("[[{section}]]"), name.to_owned()),
            (None, Some(name)) => ("[backend.b]".to_owned(), name.to_owned()),
            (None, None) => (format!("[{section}]"), name.to_owned()),
        })
    });
    let keys = keys.filter(|(_, name)| !name.contains("[]"));
    let all = keys.flat_map(|(section, name)| {
        SETTING_VALUES.iter().map(move |value| (section.clone(), name.clone(), *value))
    });
    all.collect()
}

/// What a file needs, by section.
const NEEDED: [(&str, &str); 9] = [
    ("[[listener]]", "quic = [\"127.0.0.1:0\"]\nself_signed = [\"localhost\"]"),
    ("[[route]]", "path = \"/{room}\"\norigins = \"any\"\nbackend = \"b\""),
    ("[backend.b]", "endpoints = [{ tcp = \"127.0.0.1:1\", udp = \"127.0.0.1:2\" }]"),
    ("[server]", ""),
    ("[log]", ""),
    ("[admin]", "listen = \"127.0.0.1:0\""),
    ("[limits]", ""),
    ("[timeouts]", ""),
    ("[drain]", ""),
];

/// The text of a file with these settings and what else it needs.
pub(super) fn file(settings: &[Setting]) -> String {
    let mut text = "version = 1\n".to_owned();
    for (section, needed) in NEEDED {
        let more = || settings.iter().filter(|(of, ..)| of == section);
        let is_set = |line: &&str| more().all(|(_, name, _)| !line.starts_with(name.as_str()));
        text.extend([section, "\n"]);
        needed.lines().filter(is_set).for_each(|line| text.extend([line, "\n"]));
        more().for_each(|(_, name, value)| text.extend([name, " = ", value, "\n"]));
    }
    text
}

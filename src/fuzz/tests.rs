//! The fuzz targets with every seed, and with random bytes that look like what they are for.

mod seeds;

use std::{env, fs, path::PathBuf};

use proptest::{collection::vec, prelude::*, sample::select};

use self::seeds::{Line, frame, section, varints};
use super::connect_request::Outcome;
use crate::{config::known_keys, reason::Refusal, webtransport::varint};

type Target = fn(&[u8]);

/// Every target by its name, which is that of its folder in `fuzz/seeds`.
const TARGETS: [(&str, Target); 8] = [
    ("capsules", super::capsules),
    ("config", super::config),
    ("connect_request", super::connect_request),
    ("datagram_header", super::datagram_header),
    ("field_section", super::field_section),
    ("guard", super::guard),
    ("settings", super::settings),
    ("stream_header", super::stream_header),
];

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

#[test]
fn every_seed_passes_its_target() {
    for (name, target) in TARGETS {
        let files = fs::read_dir(folder(name)).unwrap_or_else(|e| panic!("seeds of {name}: {e}"));
        let mut seeds = 0;
        for file in files {
            let path = file.unwrap().path();
            eprintln!("{}", path.display());
            target(&fs::read(path).unwrap());
            seeds += 1;
        }
        assert!(seeds > 5, "{name} has {seeds} seeds");
    }
}

#[test]
fn the_seed_files_are_made_from_the_list() {
    for (target, seeds) in seeds::all() {
        for (name, bytes) in seeds {
            let path = folder(target).join(name);
            if env::var_os("TIDEGATE_WRITE_SEEDS").is_some() {
                fs::create_dir_all(folder(target)).unwrap();
                fs::write(&path, &bytes).unwrap();
            }
            assert!(fs::read(&path).is_ok_and(|file| file == bytes), "{} differs", path.display());
        }
    }
}

/// Seeds that come to nothing would leave a fuzzer in front of the door.
#[test]
fn seeds_of_requests_reach_what_they_are_made_for() {
    let session = |route: &str| Outcome::Session(route.to_owned());
    for (name, wanted) in [
        ("chromium", session("/game/{room}")),
        ("chromium-foreign-origin", Outcome::Refused(Refusal::OriginNotAllowed)),
        ("chromium-null-origin", session("/game/lobby")),
        ("firefox", session("/game/lobby")),
        ("safari", Outcome::Refused(Refusal::OriginMissing)),
        ("draft13", session("/echo")),
        ("draft16", session("/game/{room}/chat")),
        ("draft16-nothing-in-common", Outcome::Refused(Refusal::NoCommonProtocol)),
        ("own-client", session("/echo")),
        ("no-origin", Outcome::Refused(Refusal::OriginMissing)),
        ("no-route", Outcome::Refused(Refusal::NoRoute)),
        ("page", Outcome::Refused(Refusal::NotWebTransport)),
        ("dots", Outcome::Refused(Refusal::BadRequest)),
        ("fragment", Outcome::Malformed),
        ("escapes", session("/game/{room}/chat")),
        ("two-origins", Outcome::Refused(Refusal::BadRequest)),
        ("websocket", Outcome::Refused(Refusal::UnknownProtocol)),
        ("tunnel", Outcome::Refused(Refusal::UnknownProtocol)),
        ("get", Outcome::Page),
        ("options", Outcome::Page),
        ("too-large", Outcome::Refused(Refusal::HeadersTooLarge)),
        ("dynamic-table", Outcome::Undecodable),
    ] {
        let seed = fs::read(folder("connect_request").join(name)).unwrap();
        assert_eq!(super::connect_request::outcome(&seed), wanted, "{name}");
    }
}

/// The shipped file is no seed, since it changes; `fuzz/run` takes it as it is.
#[test]
fn the_shipped_configuration_passes_its_target() {
    let shipped = include_str!("../../config/tidegate.toml");
    assert!(super::config::outcome(shipped).is_ok());
    let is_setting = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase());
    let uncommented = shipped.lines().map(|line| match line.strip_prefix('#').filter(is_setting) {
        Some(setting) => format!("{setting}\n"),
        None => format!("{line}\n"),
    });
    // Lines that explain, and examples that exclude each other, are mistakes now.
    super::config(uncommented.collect::<String>().as_bytes());
}

/// A number as it may stand at the head of something: small, known, or on an edge.
fn number() -> impl Strategy<Value = u64> {
    let edges = [0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000, 1 << 60, varint::MAX];
    let known = [
        0x41,
        0x54,
        0x2843,
        0x78ae,
        0x190b_4d3d,
        0x190b_4d3f,
        0x190b_4d40,
        0x190b_4d41,
        0x190b_4d43,
        0x2b61,
        0x2b64,
        0x2b65,
        0x33,
        0xff_d277,
        0x2b60_3742,
        0xc671_706a,
        0x14e9_cd29,
        0x2c7c_f000,
    ];
    prop_oneof![4 => 0..16_u64, 2 => select(known.to_vec()), 1 => select(edges.to_vec())]
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..most)
}

/// Frames or capsules, some of which declare another length than they have.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![bytes(40), lines(), vec(number(), 0..4).prop_map(|n| varints(&n))];
    let one = (number(), payload, proptest::option::weighted(0.1, number()));
    let one = one.prop_map(|(kind, payload, length)| match length {
        Some(length) => [varints(&[kind, length]), payload].concat(),
        None => frame(kind, &payload),
    });
    vec(one, 0..6).prop_map(|frames| frames.concat())
}

/// A field section that may be a request.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    let names = [
        ":method",
        ":scheme",
        ":authority",
        ":path",
        ":protocol",
        ":status",
        "host",
        "origin",
        "te",
        "cookie",
        "connection",
        "X",
        "",
        "wt-available-protocols",
        "sec-webtransport-http3-draft02",
    ];
    let values = [
        "CONNECT",
        "GET",
        "https",
        "http",
        "a.org",
        "[::1]:80",
        "me@a.org",
        "/",
        "/echo",
        "/game/42",
        "/game/lobby",
        "/files/a/b",
        "/a#b",
        "/%2e%2e/",
        "*",
        "webtransport",
        "webtransport-h3",
        "null",
        "https://play.example.com",
        "\"a\", \"b\"",
        "a, b",
        "trailers",
        "",
        "a\nb",
        "\u{e4}",
    ];
    let name = || select(names.to_vec()).prop_map(|name| name.as_bytes().to_vec());
    let value = || {
        let known = select(values.to_vec()).prop_map(|value| value.as_bytes().to_vec());
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
    let sound = value().prop_map(move |path| {
        vec![
            Line::Indexed(15),
            Line::Indexed(23),
            literal(":authority", b"a.org".to_vec()),
            literal(":path", path),
            literal(":protocol", b"webtransport".to_vec()),
        ]
    });
    let first = prop_oneof![Just(Vec::new()), request, sound];
    (first, vec(line(), 0..4), any::<bool>())
        .prop_map(|(first, more, huffman)| section(&[first, more].concat(), huffman))
}

/// The text of a file: sections with some of their keys, and values that may be right.
fn file() -> impl Strategy<Value = String> {
    let values = [
        "1",
        "0",
        "-1",
        "2",
        "65536",
        "9223372036854775807",
        "1.5",
        "true",
        "\"\"",
        "\"auto\"",
        "\"unlimited\"",
        "\"15s\"",
        "\"1ms\"",
        "\"2h\"",
        "\"64KiB\"",
        "\"1B\"",
        "\"a\"",
        "\"udp\"",
        "\"127.0.0.1:1\"",
        "\"[::1]:7\"",
        "\"a.test:80\"",
        "[\"127.0.0.1:0\"]",
        "[\"localhost\"]",
        "[\"https://a.org\", \"null\"]",
        "\"any\"",
        "\"/{a}/b/{c...}\"",
        "\"/\"",
        "\"b\"",
        "[]",
        "{}",
        "{ file = \"x\" }",
        "[{ tcp = \"a.test:1\", udp = \"127.0.0.1:2\" }]",
        "\"0a1b\"",
        "1979-05-27",
    ];
    // `route[].limits.sessions` becomes `limits.sessions` in the section `[[route]]`.
    let keys: Vec<(String, String)> = known_keys()
        .iter()
        .filter_map(|key| {
            let (table, name) = key.split_once('.')?;
            Some(match (table.strip_suffix("[]"), name.strip_prefix("*.")) {
                (Some(table), _) => (format!("[[{table}]]"), name.to_owned()),
                (None, Some(name)) => ("[backend.b]".to_owned(), name.to_owned()),
                (None, None) => (format!("[{table}]"), name.to_owned()),
            })
        })
        .collect();
    let line = (select(keys), select(values.to_vec()));
    vec(line, 0..6).prop_map(|lines| {
        let base = [
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
        let mut text = "version = 1\n".to_owned();
        for (table, settings) in base {
            let name = |line: &str| line.split(" = ").next().unwrap_or_default().to_owned();
            let more: Vec<_> = lines.iter().filter(|((of, _), _)| of == table).collect();
            let kept = settings.lines().filter(|l| more.iter().all(|((_, n), _)| *n != name(l)));
            text.extend([table, "\n"]);
            kept.for_each(|line| text.extend([line, "\n"]));
            more.iter().for_each(|((_, n), value)| text.extend([n, " = ", value, "\n"]));
        }
        text
    })
}

/// Anything, or what `like` makes behind as many bytes as the target's head has.
fn input(head: usize, like: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let likely = (vec(any::<u8>(), head), like).prop_map(|(head, rest)| [head, rest].concat());
    prop_oneof![1 => bytes(300), 4 => likely]
}

proptest! {
    #[test]
    fn capsules(data in input(1, frames())) {
        super::capsules(&data);
    }

    #[test]
    fn config(text in prop_oneof![1 => ".{0,200}", 9 => file()]) {
        super::config(text.as_bytes());
    }

    #[test]
    fn connect_request(data in input(1, lines())) {
        super::connect_request(&data);
    }

    #[test]
    fn datagram_header(data in input(0, vec(number(), 1..4).prop_map(|n| varints(&n)))) {
        super::datagram_header(&data);
    }

    #[test]
    fn field_section(most in 0..4_u8, data in input(1, lines())) {
        super::field_section(&[&[most][..], &data].concat());
    }

    #[test]
    fn guard(data in input(2, frames())) {
        super::guard(&data);
    }

    #[test]
    fn settings(data in input(0, vec(number(), 0..12).prop_map(|n| varints(&n)))) {
        super::settings(&data);
    }

    #[test]
    fn stream_header(data in input(1, vec(number(), 1..4).prop_map(|n| varints(&n)))) {
        super::stream_header(&data);
    }
}

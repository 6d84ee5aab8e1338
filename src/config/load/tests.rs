mod files;

use std::{env, fs, path::PathBuf, process, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::config::{
    Balance, CertificateSource, DatagramsMode, Destination, HostPort, Introduction, Limit,
    LogFormat, Opens, Origin, OriginPattern, Origins, ProxyProtocol, ProxyTlv, PushMode,
    RetryPolicy, StreamsMode, UdpOpen, UniMode, known_keys,
};

/// A small valid file. The tests break it, one line each.
const VALID: &str = r#"version = 1
[server]
workers = 2
[log]
filter = "info"
[[listener]]
name = "edge"
quic = ["127.0.0.1:4433"]
self_signed = ["localhost"]
[listener.transport]
idle_timeout = "45s"
[admin]
listen = "127.0.0.1:0"
[limits]
sessions = 5
[timeouts]
linger = "1s"
[drain]
delay = "0s"
[[route]]
path = "/game/{room}"
origins = ["https://play.example.com"]
backend = "game"
limits = { sessions = 7 }
[[route]]
path = "/echo"
origins = "any"
backend = "game"
[backend.game]
endpoints = [
  { name = "a", tcp = "10.0.0.5:7777", udp = "10.0.0.5:7778" },
  { name = "b", tcp = "game-b.internal:7777" },
]
"#;

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, "t.toml", Path::new(""))
}

fn valid(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{problems}in\n{text}"))
}

/// All problems of the small file after this change, as they are printed.
fn after(old: &str, new: &str) -> String {
    assert_eq!(VALID.matches(old).count(), 1, "{old:?} must stand there once");
    match parse(&VALID.replace(old, new)) {
        Ok(_) => panic!("{new:?} was accepted"),
        Err(problems) => problems.to_string(),
    }
}

/// A folder that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("tidegate-config-{}-{name}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// The sample of the design, word for word.
const SAMPLE: &str = r#"
version = 1

[[listener]]
name = "edge"
quic = ["0.0.0.0:4433", "[::]:4433"]
certificates = [{ chain = "fullchain.pem", key = "privkey.pem" }]   # or: self_signed = ["localhost", "127.0.0.1"]
retry = "auto"                                                        # auto | always | never

[admin]
listen = "127.0.0.1:9090"

[[route]]
name = "game"
path = "/game/{room}"                                                 # exact, {capture}, {rest...}
origins = ["https://play.example.com"]                                # or "any"
allow_missing_origin = true                                           # native clients send none
backend = "game"
streams = "per-stream"
datagrams = "udp"
limits = { sessions = 10000, streams_per_session = 256 }

[backend.game]
balance = "least-sessions"
proxy_protocol = "v2"
endpoints = [
  { name = "a", tcp = "10.0.0.5:7777", udp = "10.0.0.5:7778" },
  { name = "b", tcp = "game-b.internal:7777", udp = "game-b.internal:7778" },
]
"#;

#[test]
fn the_sample_of_the_design_means_what_it_says() {
    let folder = Scratch::new("sample");
    folder.file("fullchain.pem", b"chain");
    folder.file("privkey.pem", b"key");
    folder.file("tidegate.toml", SAMPLE.as_bytes());
    let config = Config::read(&folder.0.join("tidegate.toml")).unwrap_or_else(|p| panic!("{p}"));

    let listener = &config.listeners[0];
    assert_eq!(listener.name, "edge");
    assert_eq!(listener.quic, ["0.0.0.0:4433".parse().unwrap(), "[::]:4433".parse().unwrap()]);
    assert_eq!(listener.retry, RetryPolicy::Auto);
    let CertificateSource::Files(files) = &listener.certificate else {
        panic!("{:?}", listener.certificate);
    };
    assert_eq!(files[0].chain, folder.0.join("fullchain.pem"));
    assert_eq!(files[0].key, folder.0.join("privkey.pem"));
    assert_eq!(config.admin.unwrap().listen, "127.0.0.1:9090".parse().unwrap());

    let route = &config.routes[0];
    assert_eq!(route.name, "game");
    assert_eq!(route.path.to_string(), "/game/{room}");
    assert_eq!(
        route.origins,
        Origins::List(vec![OriginPattern::Exact(Origin::Site {
            scheme: "https".to_owned(),
            host: "play.example.com".to_owned(),
            port: Some(443),
        })])
    );
    assert!(route.allow_missing_origin);
    assert_eq!(route.streams, StreamsMode::PerStream);
    assert_eq!(route.datagrams, DatagramsMode::Udp);
    assert_eq!(route.max_sessions, Limit::AtMost(10_000));
    assert_eq!(route.max_streams_per_session, Limit::AtMost(256));

    let backend = &config.backends["game"];
    assert_eq!(route.destination, Destination::Always(Arc::clone(backend)));
    assert_eq!(backend.balance, Balance::LeastSessions);
    assert_eq!(backend.proxy_protocol, ProxyProtocol::V2);
    assert_eq!(backend.endpoints[1].name, "b");
    let b = HostPort::Name("game-b.internal".to_owned(), 7778);
    assert_eq!(backend.endpoints[1].udp, Some(b));
}

#[test]
fn what_a_file_leaves_out_gets_the_documented_default() {
    let config = valid(VALID);
    assert_eq!(config.log.format, LogFormat::Auto);
    assert_eq!(config.limits.connections, Limit::AtMost(100_000));
    assert_eq!(config.limits.sessions, Limit::AtMost(5));
    assert_eq!(config.timeouts.handshake, Duration::from_secs(10));
    assert_eq!(config.drain.grace, Duration::from_secs(300));
    assert_eq!(config.listeners[0].transport.initial_bidi_streams, 128);
    let game = &config.routes[0];
    assert_eq!(game.name, "/game/{room}");
    assert!(!game.allow_missing_origin);
    assert_eq!(game.max_sessions, Limit::AtMost(7));
    assert_eq!(game.max_streams_per_session, Limit::AtMost(256));
    assert_eq!(game.uni, UniMode::Backend);
    assert_eq!(game.datagrams, DatagramsMode::Drop, "endpoint b has no UDP address");
    assert_eq!(game.udp_open, UdpOpen::Datagram);
    assert_eq!(game.half_close_timeout, None);
    assert_eq!(game.datagram_ttl, Duration::from_millis(100));
    assert!(config.routes[1].allow_missing_origin, "any origin means also none");
    let backend = &config.backends["game"];
    assert_eq!(backend.connect_timeout, Duration::from_secs(3));
    assert_eq!(backend.keepalive.probes, 3);
    assert_eq!(backend.introduction, Introduction::default());
}

#[test]
fn what_headers_carry_is_sent_in_one_order_however_it_is_listed() {
    let keys =
        "[backend.game]\nproxy_protocol = \"v2\"\nproxy_tlvs = [\"crc32c\", \"path\", \"ssl\"]";
    let config = valid(&VALID.replace("[backend.game]", keys));
    let tlvs = &config.backends["game"].introduction.tlvs;
    assert_eq!(*tlvs, [ProxyTlv::Ssl, ProxyTlv::Path, ProxyTlv::Crc32c]);
}

/// The small file with two routes of the same paths, and these keys of each.
fn same_paths(first: &str, second: &str) -> String {
    let route = format!("[[route]]\n{first}\npath = \"/game/{{room}}\"");
    let text = VALID.replacen("[[route]]\npath = \"/game/{room}\"", &route, 1);
    text.replace("path = \"/echo\"", &format!("path = \"/game/{{seat}}\"\n{second}"))
}

#[test]
fn routes_of_different_hosts_may_have_the_same_path() {
    for (first, second) in [
        ("hosts = [\"a.example.com\"]", "hosts = [\"b.example.com\"]"),
        ("hosts = [\"a.example.com\"]", "hosts = [\"*.example.com\"]"),
        ("hosts = [\"*.example.com\"]", ""),
    ] {
        let config = valid(&same_paths(first, second));
        assert_ne!(config.routes[0].name, config.routes[1].name);
    }
    let text = same_paths("", "hosts = [\"B.example.com\", \"c.example.com\"]");
    assert_eq!(valid(&text).routes[1].name, "b.example.com/game/{seat}");
}

#[test]
fn routes_that_could_match_a_host_and_path_equally_are_refused() {
    let first = "hosts = [\"b.example.com\", \"*.example.com\"]";
    for second in [
        "hosts = [\"a.example.com\", \"b.example.com\"]",
        "hosts = [\"B.EXAMPLE.com.\"]",
        "hosts = [\"b.example.com\"]\nname = \"other\"",
    ] {
        let problems = parse(&same_paths(first, second)).unwrap_err().to_string();
        let wanted = "route[1].path: /game/{seat} takes the same paths as /game/{room} in \
                      `route[0]` on b.example.com\n";
        assert!(problems.contains(wanted), "{problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}

#[test]
fn inline_tables_and_sections_mean_the_same() {
    let inline = valid(VALID);
    let section = VALID.replace("limits = { sessions = 7 }", "[route.limits]\nsessions = 7");
    assert_eq!(valid(&section), inline);
}

#[test]
fn the_effective_configuration_is_the_same_configuration() {
    for text in [
        VALID.to_owned(),
        VALID.replace("workers = 2", "workers = 64\nserver_id = \"0a1b\"\nsteering = \"off\""),
        VALID.replace("sessions = 5", "sessions = \"unlimited\"\nheader_bytes = 1500"),
        VALID.replace(
            "origins = \"any\"",
            "origins = [\"null\", \"http://[::1]:8080\", \"https://*.a.test\"]\nhalf_close_timeout = \"90s\"\n\
             protocols = [\"a\", \"b\"]\nrequire_protocol = true\n\
             datagram_latest_per_key = { offset = 65506, bytes = 16 }\noversize = \"stream\"",
        ),
        VALID.replace(
            "origins = \"any\"",
            "origins = \"any\"\nhosts = [\"Play.example.com.\", \"*.example.com\", \"[::1]\"]",
        ),
        VALID.replace(
            "backend = \"game\"\nlimits",
            "backend_from = \"room\"\nbackends = { \"a%20b\" = \"game\", lobby = \"game\" }\nlimits",
        ),
        VALID.replace(
            "backend = \"game\"\nlimits",
            "backend = \"game\"\nbackend_from = \"room\"\nbackends = { lobby = \"game\" }\nlimits",
        ),
        VALID.replace(
            "[backend.game]",
            "[backend.game]\nbalance = \"least-sessions\"\nnodelay = false",
        ),
        VALID.replace(
            "[backend.game]",
            "[backend.game]\nproxy_protocol = \"v2\"\nproxy_tlvs = [\"crc32c\", \"path\", \"ssl\"]\n\
             udp_proxy = \"v2-every\"\npreamble = \"{{{session_id} {capture.room}}}\\r\\n\"",
        ),
        VALID.replace(
            "[backend.game]",
            "[backend.game]\nsource = [\"10.0.0.9\", \"::9\"]\n\
             dial = { concurrent = 1, queue = 0, queue_timeout = \"1s\" }",
        ),
        VALID.replace(
            "[backend.game]",
            "[backend.game]\nbalance = \"hash\"\nhash_on = \"query:player\"\n\
             health = { check = \"tcp\", send = 'PING\\r\\n\\xff', expect = \"+\" }\n\
             ejection = { consecutive_failures = \"unlimited\" }",
        ),
        VALID.replace(
            "[backend.game]",
            "[backend.game]\nhealth = { check = \"udp\", port = 53, send = \"?\", fall = 1 }",
        ),
        VALID.replace(
            "[backend.game]",
            "[backend.game]\nhealth = { check = \"http\", host = \"a.test\", status = \"204\" }",
        ),
    ] {
        let config = valid(&text);
        let effective = config.effective();
        assert_eq!(valid(&effective), config, "{effective}");
    }
}

#[test]
fn the_effective_configuration_has_every_key() {
    let folder = Scratch::new("effective");
    folder.file("a.pem", b"a");
    let health = "[backend.game.health]\ncheck = \"http\"\nhost = \"a.test\"\nport = 8080\n";
    let effective = Config::parse(
        (SAMPLE.replace("fullchain", "a").replace("privkey", "a") + health).as_str(),
        "t.toml",
        &folder.0,
    )
    .unwrap_or_else(|p| panic!("{p}"))
    .effective();
    for key in known_keys() {
        let name = key.rsplit('.').next().unwrap();
        // Secrets, a self-signed certificate and a Unix socket are alternatives that the sample does not have;
        // its route names no hosts and one backend, asks for no credentials, speaks no protocols and has datagrams without a key; its backend is told
        // of addresses alone, without TLS, from no address of its own, and no bytes tell its health.
        let alternatives = [
            "self_signed",
            "hosts",
            "credentials",
            "protocols",
            "proxy_tlvs",
            "preamble",
            "source",
            "backend_from",
        ];
        let is_absent = key.starts_with("server.secret")
            || key.starts_with("admin.token")
            || key.starts_with("route[].backends")
            || key.starts_with("server.previous_secret")
            || key.starts_with("backend.*.tls")
            || key.starts_with("credential")
            || key.starts_with("listener[].client_certificates")
            || key.contains("datagram_latest_per_key")
            || alternatives.contains(&name)
            || ["unix", "send", "expect"].contains(&name);
        if !is_absent {
            assert!(effective.contains(&format!("{name} = ")), "{key} is not in\n{effective}");
        }
    }
}

#[test]
fn every_problem_is_reported_at_once_and_in_order() {
    let text = r#"version = 2
[server]
worker = 2
server_id = "xyz"
[[listener]]
name = "edge"
quic = ["localhost:4433", 5]
[limits]
connections = 0
[timeouts]
linger = "3s"
[[route]]
path = "game"
origin = "any"
backend = "gme"
[backend.game]
endpoints = [
  { tcp = "10.0.0.5" },
  { name = "b" },
]
"#;
    let problems = parse(text).unwrap_err().to_string();
    let lines: Vec<_> = problems.lines().collect();
    let wanted = [
        "t.toml:1: version: version 2 is not known",
        "t.toml:3: server.worker: unknown key; did you mean `workers`?",
        "t.toml:4: server.server_id: \"xyz\" is not made of pairs",
        "t.toml:5: listener[0].certificates: is missing",
        "t.toml:7: listener[0].quic[0]: \"localhost:4433\" is no IP address",
        "t.toml:7: listener[0].quic[1]: expected an address and port such as \"127.0.0.1:4433\", \
         found the number 5",
        "t.toml:9: limits.connections: 0 would let nothing through; write \"unlimited\"",
        "t.toml:11: timeouts.linger: 3s is out of range; write 0ms to 2s",
        "t.toml:12: route[0].origins: is missing; list who may use this route",
        "t.toml:13: route[0].path: \"game\" is no path; a path begins with `/`",
        "t.toml:14: route[0].origin: unknown key; did you mean `origins`?",
        "t.toml:15: route[0].backend: no backend is named \"gme\"; did you mean \"game\"?",
        "t.toml:18: backend.game.endpoints[0].tcp: \"10.0.0.5\" is no host and port",
        "t.toml:19: backend.game.endpoints[1]: has neither tcp nor unix nor udp",
    ];
    assert_eq!(lines.len(), wanted.len(), "{problems}");
    for (line, wanted) in lines.iter().zip(wanted) {
        assert!(line.starts_with(wanted), "{line}\nshould begin with\n{wanted}");
    }
}

#[test]
fn each_mistake_is_named_with_its_line_and_key() {
    let cases = include_str!("mistakes.txt").split("\n\n").skip(1);
    for case in cases {
        let marked = |mark| case.lines().filter_map(move |line| line.strip_prefix(mark));
        let old = marked("- ").collect::<Vec<_>>().join("\n");
        let new = marked("+ ").collect::<Vec<_>>().join("\n");
        let problems = after(&old, &new);
        assert!(marked("! ").next().is_some(), "nothing is expected of\n{case}");
        for said in marked("! ") {
            let line = format!("t.toml:{said}");
            let is_said = problems.lines().any(|problem| problem.starts_with(&line));
            assert!(is_said, "after\n{case}\nthis is said:\n{problems}");
        }
    }
}

#[test]
fn a_route_with_one_connection_per_session_takes_no_other_streams_unless_it_says_so() {
    let one = "streams = \"per-session\"\n";
    for (keys, uni, opens) in [
        (String::new(), UniMode::Backend, Opens::Client),
        (one.to_owned(), UniMode::Refuse, Opens::Client),
        (
            format!("{one}uni = \"backend\"\nopens = \"gateway\"\n"),
            UniMode::Backend,
            Opens::Gateway,
        ),
    ] {
        let text = VALID.replace("origins = \"any\"\n", &format!("origins = \"any\"\n{keys}"));
        let route = &valid(&text).routes[1];
        assert_eq!((route.uni, route.opens), (uni, opens), "{keys}");
    }
}

#[test]
fn a_feed_alone_is_enough_for_a_route_and_needs_streams() {
    let keys = "streams = \"refuse\"\nuni = \"refuse\"\npush = \"uni\"\n";
    let text = VALID.replace("origins = \"any\"\n", &format!("origins = \"any\"\n{keys}"));
    assert_eq!(valid(&text).routes[1].push, PushMode::Uni);

    let udp_alone = text.replace("tcp = \"game-b.internal:7777\"", "udp = \"b:1\"");
    let problems = parse(&udp_alone).unwrap_err().to_string();
    assert!(
        problems.contains("route[1].push: needs a tcp or unix address on every endpoint"),
        "{problems}"
    );
}

#[test]
fn listeners_that_share_a_name_or_an_address_are_refused() {
    let second = "[[listener]]\nname = \"edge\"\nquic = [\"127.0.0.1:4433\"]\nself_signed = [\"a\"]\n[admin]";
    let problems = after("[admin]", second);
    assert!(
        problems.contains("listener[1].name: \"edge\" is also `listener[0].name`"),
        "{problems}"
    );
    assert!(problems.contains("127.0.0.1:4433 stands in `listener[0].quic` already"), "{problems}");
}

#[test]
fn port_zero_may_be_listed_twice() {
    valid(&VALID.replace("\"127.0.0.1:4433\"", "\"127.0.0.1:0\", \"127.0.0.1:0\""));
}

#[test]
fn a_file_needs_a_listener_and_a_route() {
    let problems = parse("version = 1").unwrap_err().to_string();
    assert!(problems.contains("t.toml:1: listener: is missing"), "{problems}");
    assert!(problems.contains("t.toml:1: route: is missing"), "{problems}");
}

#[test]
fn a_route_is_not_to_blame_for_the_mistakes_of_its_backend() {
    for (old, new) in [
        ("[backend.game]\nendpoints", "[backend.game]\nendpoint"),
        ("10.0.0.5:7777", "10.0.0.5:0"),
        ("game-b.internal:7777", ""),
    ] {
        let problems = after(old, new);
        assert!(!problems.contains("route["), "{problems}");
    }
}

/// A mistake must not cause another one through the default that stands in for it.
#[test]
fn a_broken_value_is_not_compared_with_others() {
    let problems = after("idle_timeout = \"45s\"", "idle_timeout = \"x\"\nping_interval = \"50s\"");
    assert_eq!(problems.lines().count(), 1, "{problems}");
}

#[test]
fn a_text_that_is_no_toml_is_one_problem_with_its_line() {
    for (text, line) in [("version = 1\n[server\n", 2), ("a = 1\na = 2\n", 2), ("\n\nx\n", 3)] {
        let problems = parse(text).unwrap_err();
        assert_eq!(problems.problems.len(), 1, "{problems}");
        assert_eq!(problems.problems[0].line, Some(line), "{problems}");
        assert!(problems.to_string().contains("not TOML"), "{problems}");
    }
}

#[test]
fn a_unix_socket_is_where_streams_go_and_lies_in_the_files_folder() {
    let text = VALID.replace("tcp = \"game-b.internal:7777\"", "unix = \"run/b.sock\"");
    let config = Config::parse(&text, "t.toml", Path::new("/srv")).unwrap();
    assert_eq!(config.routes[0].streams, StreamsMode::PerStream);
    let endpoint = &config.backends["game"].endpoints[1];
    assert_eq!(endpoint.unix.as_deref(), Some(Path::new("/srv/run/b.sock")));
    assert_eq!(valid(&config.effective()), config);
}

proptest! {
    #[test]
    fn no_text_can_make_the_parser_panic(text in ".*") {
        _ = parse(&text);
    }

    /// Texts that are nearly right reach deeper than random ones.
    #[test]
    fn no_change_of_a_valid_text_can_make_the_parser_panic(
        from in 0..VALID.len(),
        length in 0_usize..12,
        insert in "[\\[\\]{}=\",.a-z0-9 \n-]{0,6}",
    ) {
        let to = (from + length).min(VALID.len());
        let (before, after) = (&VALID.as_bytes()[..from], &VALID.as_bytes()[to..]);
        let text = [before, insert.as_bytes(), after].concat();
        if let Ok(config) = parse(&String::from_utf8(text).unwrap()) {
            prop_assert_eq!(valid(&config.effective()), config);
        }
    }
}

/// Zero never means that there is no limit, and the word always does.
#[test]
fn every_limit_is_lifted_by_its_word_alone() {
    let bounds = ["limits.header_bytes", "limits.early_streams", "limits.early_datagrams"];
    let keys = known_keys();
    let limits =
        keys.iter().filter(|key| key.contains("limits.") && !bounds.contains(&key.as_str()));
    let mut seen = 0;
    for key in limits {
        let with = |value: &str| match key.strip_prefix("route[].limits.") {
            Some(name) => {
                let limits = format!("limits = {{ {name} = {value} }}");
                VALID.replace("limits = { sessions = 7 }", &limits)
            }
            None => {
                let name = key.strip_prefix("limits.").unwrap();
                VALID.replace("[limits]\nsessions = 5", &format!("[limits]\n{name} = {value}"))
            }
        };
        valid(&with("\"unlimited\""));
        for zero in ["0", "\"0\"", "\"0/s\"", "\"0s\"", "\"0B/s\"", "\"0B\"", "\"0%\"", "\"none\""]
        {
            let problems = parse(&with(zero)).expect_err(&format!("{key} = {zero}")).to_string();
            assert!(problems.contains("unlimited") || zero == "\"0%\"", "{problems}");
        }
        seen += 1;
    }
    assert!(seen >= 18, "{seen}");
}

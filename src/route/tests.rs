//! What the table decides, request by request.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::transport::Authorization;

/// A table with one route per path, for this origin and for requests without one.
fn table(paths: &[&str]) -> RouteTable {
    let route = |path: &&str| {
        format!(
            "[[route]]\npath = {path:?}\nbackend = \"b\"\nallow_missing_origin = true\n\
             origins = [\"https://play.example.com\", \"http://localhost:8080\"]\n"
        )
    };
    table_of(&paths.iter().map(route).collect::<String>())
}

fn table_of(routes: &str) -> RouteTable {
    let text = format!(
        "version = 1\n[[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"localhost\"]\n\
         [backend.b]\nendpoints = [{{ tcp = \"127.0.0.1:1\" }}]\n{routes}"
    );
    let config = config::Config::parse(&text, "test.toml", Path::new("")).unwrap();
    RouteTable::new(&config.routes, &Metrics::new())
}

fn head(path: &str, origin: Option<&str>) -> RequestHead {
    RequestHead {
        authority: "gateway.example.com".to_owned(),
        path: path.to_owned(),
        query: None,
        authorization: Authorization::default(),
        origin: origin.map(str::to_owned),
        client: "127.0.0.1:1".parse().unwrap(),
        local: None,
        dialect: "draft02",
        tls: None,
        protocols: Vec::new(),
    }
}

/// The name of the route that takes the request, which is its path; or why none does.
fn taken_by(table: &RouteTable, path: &str, origin: Option<&str>) -> Result<String, Refusal> {
    let found = table.lookup(&head(path, origin));
    found.map(|m| m.route.to_string()).map_err(|(_, why)| why)
}

#[test]
fn a_literal_wins_over_a_capture_and_a_capture_over_a_rest() {
    // The least precise first: the order of the file must not matter.
    let table = table(&[
        "/{all...}",
        "/game/{rest...}",
        "/game/{room}",
        "/game/{room}/chat",
        "/game/lobby",
        "/{any}/lobby/x",
        "/",
        "/game/",
    ]);
    for (path, route) in [
        ("/", "/"),
        ("/game/lobby", "/game/lobby"),
        ("/game/42", "/game/{room}"),
        ("/game/42/chat", "/game/{room}/chat"),
        ("/game/42/other", "/game/{rest...}"),
        ("/game/lobby/chat", "/game/{room}/chat"),
        ("/game/lobby/x", "/game/{rest...}"),
        ("/other/lobby/x", "/{any}/lobby/x"),
        ("/game/", "/game/"),
        ("/game/42/", "/game/{rest...}"),
        ("/game", "/{all...}"),
        ("/%67ame/lobb%79", "/game/lobby"),
        ("/Game/lobby", "/{all...}"),
    ] {
        assert_eq!(taken_by(&table, path, None), Ok(route.to_owned()), "{path}");
    }
}

#[test]
fn a_path_that_no_route_takes_is_not_found() {
    let table = table(&["/game/{room}", "/files/{rest...}", "/echo"]);
    for path in ["/game", "/game/", "/game/1/", "/game/1/2", "/files", "/files/", "/echo/"] {
        assert_eq!(taken_by(&table, path, None), Err(Refusal::NoRoute), "{path}");
    }
}

#[test]
fn a_path_that_can_be_read_in_two_ways_is_a_bad_request() {
    let table = table(&["/{all...}"]);
    for path in [
        "",
        "game",
        "/a/../b",
        "/a/%2e%2e/b",
        "/a/.",
        "//a",
        "/a//b",
        "/a%2fb",
        "/a%5Cb",
        "/a\\b",
        "/a%00b",
        "/a\u{7f}",
        "/a%zz",
        "/a/%c0%ae%c0%ae/b",
        "https://gateway.example.com/a",
        "/a#b",
    ] {
        assert_eq!(taken_by(&table, path, None), Err(Refusal::BadRequest), "{path:?}");
    }
}

/// A table of routes with these names: hosts as TOML, and path.
fn hosts_table(routes: &[(&str, &str, &str)]) -> RouteTable {
    let route = |(name, hosts, path): &(&str, &str, &str)| {
        let hosts = if hosts.is_empty() { String::new() } else { format!("hosts = [{hosts}]\n") };
        format!(
            "[[route]]\nname = {name:?}\n{hosts}path = {path:?}\nbackend = \"b\"\norigins = \"any\"\n"
        )
    };
    table_of(&routes.iter().map(route).collect::<String>())
}

/// The name of the route that takes a request with this authority, or why none does.
fn taken_on(table: &RouteTable, authority: &str, path: &str) -> Result<String, Refusal> {
    let head = RequestHead { authority: authority.to_owned(), ..head(path, None) };
    table.lookup(&head).map(|m| m.route.to_string()).map_err(|(_, why)| why)
}

#[test]
fn a_named_host_wins_over_a_wildcard_and_a_wildcard_over_none() {
    let table = hosts_table(&[
        ("every", "", "/{all...}"),
        ("wild", r#""*.example.com""#, "/{all...}"),
        ("play", r#""play.example.com", "[::1]""#, "/game"),
        ("wild-game", r#""*.example.com""#, "/game"),
        ("every-lobby", "", "/lobby"),
    ]);
    for (authority, path, route) in [
        // The path decides only among the routes of one host.
        ("play.example.com", "/game", "play"),
        ("play.example.com", "/lobby", "wild"),
        ("eu.example.com", "/game", "wild-game"),
        ("eu.example.com", "/lobby", "wild"),
        // A star is exactly one label.
        ("example.com", "/lobby", "every-lobby"),
        ("a.eu.example.com", "/lobby", "every-lobby"),
        ("evilexample.com", "/game", "every"),
        ("example.com.evil.com", "/game", "every"),
        ("localhost", "/game", "every"),
        // Spellings of one host.
        ("PLAY.Example.com:4433", "/game", "play"),
        ("play.example.com.:443", "/game", "play"),
        ("[0:0::0:1]:4433", "/game", "play"),
        ("127.0.0.1:4433", "/game", "every"),
    ] {
        assert_eq!(taken_on(&table, authority, path), Ok(route.to_owned()), "{authority} {path}");
    }
}

#[test]
fn what_another_host_has_is_on_the_wrong_host_and_what_none_has_is_not_found() {
    let named = [
        ("play", r#""play.example.com""#, "/game"),
        ("chat", r#""*.chat.example.com""#, "/chat/{room}"),
    ];
    let named_and_every = [&named[..], &[("any", "", "/any")]].concat();
    let [named, named_and_every] = [&named[..], &named_and_every].map(hosts_table);
    for (authority, path, of_named, of_named_and_every) in [
        ("play.example.com", "/chat/1", Refusal::WrongHost, Refusal::WrongHost),
        ("eu.chat.example.com", "/game", Refusal::WrongHost, Refusal::WrongHost),
        ("other.example.com", "/game", Refusal::WrongHost, Refusal::WrongHost),
        ("play.example.com", "/none", Refusal::NoRoute, Refusal::NoRoute),
        ("eu.chat.example.com", "/none", Refusal::NoRoute, Refusal::NoRoute),
        // No route is for this host, until there is one for every host.
        ("other.example.com", "/none", Refusal::WrongHost, Refusal::NoRoute),
        ("other.example.com", "/", Refusal::WrongHost, Refusal::NotWebTransport),
        ("play.example.com", "/", Refusal::NotWebTransport, Refusal::NotWebTransport),
    ] {
        for (table, wanted) in [(&named, of_named), (&named_and_every, of_named_and_every)] {
            assert_eq!(taken_on(table, authority, path), Err(wanted), "{authority} {path}");
        }
    }
}

#[test]
fn an_authority_that_can_be_read_in_two_ways_is_a_bad_request() {
    let with_hosts = hosts_table(&[("play", r#""play.example.com""#, "/game")]);
    let without = table(&["/game"]);
    for authority in [
        "",
        ":443",
        "play.example.com:",
        "play.example.com:443:443",
        "play.example.com..",
        "user@play.example.com",
        "play.example.com@evil.com",
        "play.example.com%2eevil.com",
        "play%2Eexample.com",
        "play.example.com/evil",
        "play.example.com\0",
        "play\u{3002}example.com",
        "https://play.example.com",
        "*.example.com",
        "[::1",
    ] {
        for table in [&with_hosts, &without] {
            let refused = taken_on(table, authority, "/game");
            assert_eq!(refused, Err(Refusal::BadRequest), "{authority:?}");
        }
    }
}

#[test]
fn captures_tell_what_they_stand_for() {
    let table = table(&["/game/{room}/{seat}", "/files/{path...}"]);
    for (path, captures) in [
        ("/game/4%32/a%20b", vec![("room", "42"), ("seat", "a%20b")]),
        ("/files/a/b/", vec![("path", "a/b/")]),
    ] {
        let found = table.lookup(&head(path, None)).unwrap().captures;
        let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(found, captures, "{path}");
    }
}

/// Two backends, and a table that names one of them twice.
const ROOMS: &str = "[[route]]\npath = \"/game/{room}\"\norigins = \"any\"\nbackend_from = \"room\"\n\
    backends = { lobby = \"b\", arena = \"c\", \"a%20b\" = \"c\", \"h%61ll\" = \"c\" }\n";
const C: &str = "[backend.c]\nendpoints = [{ tcp = \"127.0.0.1:2\" }]\n";

#[test]
fn a_capture_may_choose_the_backend_from_a_table_and_no_other() {
    let table = table_of(&format!("{C}{ROOMS}"));
    let refused = Err(Refusal::BackendNotListed);
    for (path, backend) in [
        ("/game/lobby", Ok("b")),
        ("/game/arena", Ok("c")),
        // One rule for what is the same, in the table as in the path.
        ("/game/%6Cobby", Ok("b")),
        ("/game/a%20b", Ok("c")),
        ("/game/hall", Ok("c")),
        ("/game/h%61ll", Ok("c")),
        // Names of backends are no values, nor are addresses.
        ("/game/b", refused),
        ("/game/c", refused),
        ("/game/127.0.0.1:1", refused),
        ("/game/127.0.0.1%3A1", refused),
        ("/game/Lobby", refused),
        ("/game/lobby;x", refused),
        ("/game/lobby%20", refused),
        ("/game/lobby%2500", refused),
        ("/game/a+b", refused),
    ] {
        let found = table.lookup(&head(path, None));
        let found = found.map(|found| found.backend.name.clone()).map_err(|(route, why)| {
            assert_eq!(route.unwrap().settings.name, "/game/{room}", "counted under its route");
            why
        });
        assert_eq!(found, backend.map(str::to_owned), "{path}");
    }
}

#[test]
fn what_no_table_has_may_go_to_another_backend() {
    let table = table_of(&format!("{ROOMS}backend = \"c\"\n{C}"));
    for (path, backend) in [("/game/lobby", "b"), ("/game/other", "c")] {
        assert_eq!(table.lookup(&head(path, None)).unwrap().backend.name, backend, "{path}");
    }
}

#[test]
fn a_rest_may_choose_the_backend_too() {
    let table = table_of(&format!(
        "[[route]]\npath = \"/{{where...}}\"\norigins = \"any\"\nbackend_from = \"where\"\n\
         backends = {{ \"eu/lobby\" = \"b\", \"eu/\" = \"c\" }}\n{C}"
    ));
    for (path, backend) in [("/eu/lobby", Ok("b")), ("/eu/", Ok("c")), ("/eu", Err(()))] {
        let found = table.lookup(&head(path, None)).map(|found| found.backend.name.clone());
        assert_eq!(found.map_err(|_refused| ()), backend.map(str::to_owned), "{path}");
    }
}

/// Whoever watches sees each decision once and in order, up to the one that refuses.
#[test]
fn each_decision_is_told_up_to_the_last() {
    let protocol = "protocols = [\"a\"]\nrequire_protocol = true\nallow_missing_origin = false\n";
    let table = table_of(&format!("{ROOMS}{protocol}{C}"));
    let all = ["path", "host", "route", "origin", "credential", "protocol", "backend"];
    let sound = || {
        let origin = Some("https://a.org");
        RequestHead { protocols: vec!["a".to_owned()], ..head("/game/lobby", origin) }
    };
    let path = |path: &str| RequestHead { path: path.to_owned(), ..sound() };
    for (head, told) in [
        (sound(), 7),
        (path("/game/other"), 7),
        (RequestHead { protocols: Vec::new(), ..sound() }, 6),
        (RequestHead { origin: None, ..sound() }, 4),
        (path("/nowhere"), 3),
        (RequestHead { authority: "a..b".to_owned(), ..sound() }, 2),
        (path("/a//b"), 1),
    ] {
        let mut steps = Vec::new();
        let mut watch = |step: Step<'_>| {
            let (name, is_passed) = match step {
                Step::Path(path) => ("path", path.is_ok()),
                Step::Host(host) => ("host", host.is_ok()),
                Step::Route(route) => ("route", route.is_ok()),
                Step::Origin(origin) => ("origin", origin.is_ok()),
                Step::Credential(identity) => ("credential", identity.is_ok()),
                Step::Protocol(protocol) => ("protocol", protocol.is_ok()),
                Step::Backend(backend) => ("backend", backend.is_ok()),
            };
            steps.push((name, is_passed));
        };
        let approach = table.approach(&head, &mut watch).map_err(|(_, why)| why);
        let watched = approach.and_then(|approach| approach.enter(&head, &mut watch));
        let names: Vec<_> = steps.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, all[..told], "{head:?}");
        let (last, others) = steps.split_last().unwrap();
        assert!(others.iter().all(|(_, is_passed)| *is_passed));
        assert_eq!(last.1, watched.is_ok(), "{head:?}");
    }
}

#[test]
fn only_the_listed_origins_may_use_a_route() {
    let table = table(&["/game"]);
    for origin in [
        "https://play.example.com",
        "https://play.example.com:443",
        "HTTPS://PLAY.EXAMPLE.COM",
        "http://localhost:8080",
    ] {
        assert_eq!(taken_by(&table, "/game", Some(origin)), Ok("/game".to_owned()), "{origin}");
    }
    for origin in [
        "",
        "null",
        "*",
        "play.example.com",
        "http://play.example.com",
        "https://example.com",
        "https://evilplay.example.com",
        "https://evilexample.com",
        "https://play.example.com.evil.com",
        "https://play.example.com:444",
        "https://play.example.com:80",
        "https://play.example.com.",
        "https://play.example.com@evil.com",
        "https://user@play.example.com",
        "https://evil.com/https://play.example.com",
        "https://evil.com#https://play.example.com",
        "https://play.example.com/",
        "https://play.example.com https://evil.com",
        "https://play.example.com, https://evil.com",
        "https://play.example.com\0.evil.com",
        "https://play\u{3002}example.com",
        "http://localhost",
        "http://127.0.0.1:8080",
    ] {
        let refused = Err(Refusal::OriginNotAllowed);
        assert_eq!(taken_by(&table, "/game", Some(origin)), refused, "{origin:?}");
    }
}

#[test]
fn null_matches_only_where_it_is_listed() {
    let route = "[[route]]\npath = \"/game\"\nbackend = \"b\"\norigins = [\"null\"]\n";
    let table = table_of(route);
    assert_eq!(taken_by(&table, "/game", Some("null")), Ok("/game".to_owned()));
    let refused = Err(Refusal::OriginNotAllowed);
    assert_eq!(taken_by(&table, "/game", Some("https://a.org")), refused);
}

#[test]
fn a_request_without_origin_needs_the_routes_leave() {
    for (origins, allowed) in [
        ("origins = [\"https://a.org\"]", false),
        ("origins = [\"https://a.org\"]\nallow_missing_origin = true", true),
        ("origins = \"any\"", true),
        ("origins = \"any\"\nallow_missing_origin = false", false),
    ] {
        let route = format!("[[route]]\npath = \"/game\"\nbackend = \"b\"\n{origins}\n");
        let found = taken_by(&table_of(&route), "/game", None);
        let wanted = if allowed { Ok("/game".to_owned()) } else { Err(Refusal::OriginMissing) };
        assert_eq!(found, wanted, "{origins}");
    }
}

/// The path is decided first, so that the refusal is counted under the route it was meant for.
#[test]
fn a_refused_origin_names_its_route() {
    let table = table(&["/game"]);
    let (route, why) = table.lookup(&head("/game", Some("https://evil.com"))).unwrap_err();
    assert_eq!(why, Refusal::OriginNotAllowed);
    assert_eq!(route.unwrap().settings.name, "/game");
    let (route, why) = table.lookup(&head("/other", Some("https://evil.com"))).unwrap_err();
    assert_eq!(why, Refusal::NoRoute);
    assert!(route.is_none());
}

proptest! {
    #[test]
    fn no_request_can_make_the_lookup_panic(
        authority in ".*",
        path in ".*",
        origin in proptest::option::of(".*"),
    ) {
        let table = table(&["/{all...}", "/game/{room}", "/"]);
        let head = RequestHead { authority, ..head(&path, origin.as_deref()) };
        _ = table.lookup(&head);
    }

    /// A host means the same when it is brought into the form for comparing once more.
    #[test]
    fn a_host_that_is_compared_is_in_normal_form(authority in "[a-zA-Z0-9.:\\[\\]%@-]{0,12}") {
        if let Some(host) = request_host(&authority) {
            prop_assert_eq!(request_host(&host), Some(host));
        }
    }

    /// A route is only ever given a path that means the same when it is normalised once more.
    #[test]
    fn a_path_that_is_taken_is_in_normal_form(path in "(/(%[0-9a-fA-F]{2}|[a-z.%/]){0,4}){1,4}") {
        if let Ok(segments) = path_segments(&path) {
            let normal = format!("/{}", segments.join("/"));
            prop_assert_eq!(path_segments(&normal).unwrap(), segments);
        }
    }

    #[test]
    fn no_text_can_make_a_pattern_panic(text in "[/a-z{}.%]*") {
        if let Ok(path) = RoutePath::parse(&text) {
            let written = path.to_string();
            prop_assert_eq!(RoutePath::parse(&written).unwrap(), path);
        }
    }
}

//! Which requests become sessions, and with what the others are refused.

use http::Method;
use tidegate::client::RequestOptions;

use crate::{
    harness::{Setup, TcpBackend, TestGateway, echo_tcp, echo_udp, expect_text, from_origin, soon},
    raw::{Raw, finish, headers, session_fields},
};

#[tokio::test]
async fn an_unknown_path_is_404_and_counted() {
    let gateway = TestGateway::echo().await;
    let refusal = gateway.refusal("/nowhere", &RequestOptions::default()).await;
    assert_eq!(refusal, (404, "no_route".to_owned()));
    let labels = [("route", "_none"), ("reason", "no_route")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_foreign_origin_is_403_and_counted_under_its_route() {
    let tcp = echo_tcp().await;
    let keys = "origins = [\"https://play.example.com\"]\nallow_missing_origin = false";
    let gateway = Setup::new().route_with("/game", Some(tcp), None, keys).start().await;

    let evil = gateway.refusal("/game", &from_origin("https://evilexample.com")).await;
    assert_eq!(evil, (403, "origin_not_allowed".to_owned()));
    let none = gateway.refusal("/game", &RequestOptions::default()).await;
    assert_eq!(none, (403, "origin_missing".to_owned()));
    let ours = gateway.try_session("/game", &from_origin("https://play.example.com")).await;
    drop(ours.unwrap());

    for reason in ["origin_not_allowed", "origin_missing"] {
        let labels = [("route", "game"), ("reason", reason)];
        gateway.metric_reaches("tidegate_session_rejects_total", &labels, 1.0).await;
    }
    gateway.shut_down().await;
}

/// What a browser sends decides, by whole labels: no name that merely ends like ours is one of ours.
#[tokio::test]
async fn a_wildcard_lets_in_the_names_below_it_and_no_others() {
    let keys = "origins = [\"https://*.example.com\", \"null\"]";
    let gateway =
        Setup::new().route_with("/game", Some(echo_tcp().await), None, keys).start().await;
    for origin in ["https://play.example.com", "https://PLAY.example.com:443", "null"] {
        drop(gateway.try_session("/game", &from_origin(origin)).await.unwrap());
    }
    for origin in [
        "https://evilexample.com",
        "https://example.com",
        "https://a.play.example.com",
        "https://play.example.com.evil.com",
        "https://play.example.com.",
        "http://play.example.com",
        "https://play.example.com:8443",
    ] {
        let refusal = gateway.refusal("/game", &from_origin(origin)).await;
        assert_eq!(refusal, (403, "origin_not_allowed".to_owned()), "{origin}");
    }
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_capture_takes_any_one_segment() {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let gateway = Setup::new().route("/game/{room}", Some(tcp), Some(udp)).start().await;
    let session = gateway.session("/game/42?token=1").await;
    session.send_datagram(b"in").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"in"[..]);
    for path in ["/game", "/game/", "/game/4/2", "/games/42"] {
        assert_eq!(gateway.refusal(path, &RequestOptions::default()).await.0, 404, "{path}");
    }
    gateway.shut_down().await;
}

#[tokio::test]
async fn ordinary_requests_are_answered_beside_sessions() {
    let gateway = TestGateway::echo().await;
    let connection = gateway.connect().await;
    let options = RequestOptions::default();
    let session = connection.open_session(&gateway.url("/echo"), &options).await.unwrap();
    let (status, body) = connection.fetch(Method::GET, &gateway.url("/")).await.unwrap();
    assert_eq!(status, 200);
    assert!(body.starts_with(b"tidegate"), "{body:?}");
    for (method, path, wanted) in [(Method::GET, "/x", 404), (Method::POST, "/", 405)] {
        let (status, _) = connection.fetch(method, &gateway.url(path)).await.unwrap();
        assert_eq!(status, wanted);
    }
    session.send_datagram(b"still").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"still"[..]);
    gateway.shut_down().await;
}

#[tokio::test]
async fn sessions_are_spread_over_the_endpoints() {
    let (a, b) = (TcpBackend::bind().await, TcpBackend::bind().await);
    let tables = format!(
        "[[route]]\nname = \"game\"\npath = \"/game\"\norigins = \"any\"\nbackend = \"game\"\n\
         datagrams = \"drop\"\n[backend.game]\nendpoints = [{{ tcp = \"{}\" }}, {{ tcp = \"{}\" }}]\n",
        a.address(),
        b.address()
    );
    let gateway = Setup::new().tables(&tables).start().await;
    let mut sessions = Vec::new();
    for backend in [&a, &b, &a, &b] {
        let session = gateway.session("/game").await;
        // Two streams of a session reach the same endpoint.
        for _ in 0..2 {
            let (mut send, _recv) = session.open_bidi().await.unwrap();
            send.write(b"here").await.unwrap();
            expect_text(&mut backend.accept().await, b"here").await;
        }
        sessions.push(session);
    }
    drop(sessions);
    gateway.is_empty().await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_one_is_dead() {
    let (dead, alive) = (TcpBackend::bind().await, TcpBackend::bind().await);
    let dead_address = dead.address();
    drop(dead);
    let tables = format!(
        "[[route]]\nname = \"game\"\npath = \"/game\"\norigins = \"any\"\nbackend = \"game\"\n\
         datagrams = \"drop\"\n\
         [backend.game]\nendpoints = [{{ tcp = \"{dead_address}\" }}, {{ tcp = \"{}\" }}]\n",
        alive.address()
    );
    let gateway = Setup::new().tables(&tables).start().await;
    for _ in 0..3 {
        let session = gateway.session("/game").await;
        let (mut send, _recv) = session.open_bidi().await.unwrap();
        send.write(b"alive").await.unwrap();
        expect_text(&mut alive.accept().await, b"alive").await;
        session.close(0, "").await;
    }
    gateway.shut_down().await;
}

/// The path chooses among the backends of a table, and can name no other.
#[tokio::test]
async fn a_path_that_names_no_listed_backend_is_404() {
    let (lobby, arena) = (TcpBackend::bind().await, TcpBackend::bind().await);
    let tables = format!(
        "[[route]]\nname = \"game\"\npath = \"/game/{{room}}\"\norigins = \"any\"\n\
         backend_from = \"room\"\nbackends = {{ lobby = \"a\", \"new%20arena\" = \"b\" }}\n\
         [backend.a]\nendpoints = [{{ tcp = \"{}\" }}]\n\
         [backend.b]\nendpoints = [{{ tcp = \"{}\" }}]\n",
        lobby.address(),
        arena.address()
    );
    let gateway = Setup::new().tables(&tables).start().await;
    let cases = [("/game/lobby", &lobby), ("/game/l%6fbby", &lobby), ("/game/new%20arena", &arena)];
    for (path, backend) in cases {
        let session = gateway.session(path).await;
        let (mut send, _recv) = session.open_bidi().await.unwrap();
        send.write(path.as_bytes()).await.unwrap();
        expect_text(&mut backend.accept().await, path.as_bytes()).await;
        session.close(0, "").await;
    }
    let others = ["/game/a", "/game/other", &format!("/game/{}", lobby.address())];
    for path in others {
        let refusal = gateway.refusal(path, &RequestOptions::default()).await;
        assert_eq!(refusal, (404, "backend_not_listed".to_owned()), "{path}");
    }
    let labels = [("route", "game"), ("reason", "backend_not_listed")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 3.0).await;
    gateway.shut_down().await;
}

/// S7. The gateway's page is there, but it is no WebTransport route, unless one has its path.
#[tokio::test]
async fn a_session_on_the_gateways_page_is_405() {
    let gateway = TestGateway::echo().await;
    let refusal = gateway.refusal("/", &RequestOptions::default()).await;
    assert_eq!(refusal, (405, "not_webtransport".to_owned()));
    let labels = [("route", "_none"), ("reason", "not_webtransport")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 1.0).await;
    gateway.shut_down().await;

    let gateway = Setup::new().route("/", Some(echo_tcp().await), None).start().await;
    gateway.session("/").await.close(0, "").await;
    gateway.shut_down().await;
}

/// S8, S9. The first of the client's protocols that the route has is chosen, and told as a string.
#[tokio::test]
async fn the_first_of_the_clients_protocols_that_the_route_has_is_chosen() {
    let tcp = echo_tcp().await;
    let keys = "protocols = [\"chat-v2\", \"with \\\"quotes\\\"\"]";
    let gateway = Setup::new().route_with("/x", Some(tcp), None, keys).start().await;
    let raw = Raw::with_settings(&gateway).await;
    for (offered, chosen) in [
        (r#""chat-v3", "chat-v2""#, Some(r#""chat-v2""#)),
        (r#""chat-v2";q=1, "with \"quotes\"""#, Some(r#""chat-v2""#)),
        (r#""with \"quotes\"", "chat-v2""#, Some(r#""with \"quotes\"""#)),
        (r#""chat-v1""#, None),
        (r#""chat-v2", chat-v2"#, None),
        ("chat-v2", None),
    ] {
        let mut fields = session_fields("/x");
        fields.push(("wt-available-protocols", offered));
        let mut session = raw.bidi(&headers(&fields)).await;
        let response = session.response().await;
        assert_eq!((response.status, response.field("wt-protocol")), (200, chosen), "{offered}");
        for forbidden in ["content-length", "content-type", "transfer-encoding"] {
            assert_eq!(response.field(forbidden), None);
        }
        finish(&mut session.send);
    }
    raw.leave();
    gateway.shut_down().await;
}

/// S9. A route may insist.
#[tokio::test]
async fn a_route_that_requires_a_protocol_refuses_clients_without_it() {
    let tcp = echo_tcp().await;
    let keys = "protocols = [\"chat\"]\nrequire_protocol = true";
    let gateway = Setup::new().route_with("/x", Some(tcp), None, keys).start().await;
    let raw = Raw::with_settings(&gateway).await;
    for offered in ["", r#""other""#, "chat"] {
        let mut fields = session_fields("/x");
        fields.push(("wt-available-protocols", offered));
        let response = raw.bidi(&headers(&fields)).await.response().await;
        assert_eq!((response.status, response.reason()), (400, "no_common_protocol"), "{offered}");
    }
    let refusal = gateway.refusal("/x", &RequestOptions::default()).await;
    assert_eq!(refusal, (400, "no_common_protocol".to_owned()));
    let labels = [("route", "x"), ("reason", "no_common_protocol")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 4.0).await;
    let mut fields = session_fields("/x");
    fields.push(("wt-available-protocols", r#""chat""#));
    assert_eq!(raw.bidi(&headers(&fields)).await.response().await.status, 200);
    raw.leave();
    gateway.shut_down().await;
}

/// S7. A client that came by the wrong name is told so, and one that came by a right one is served, also on
/// a connection to another name.
#[tokio::test]
async fn a_session_on_a_host_without_its_path_is_421() {
    let (game, any) = (TcpBackend::bind().await, TcpBackend::bind().await);
    let keys = "hosts = [\"play.example.com\", \"*.play.example.com\"]";
    let gateway = Setup::new()
        .route_with("/game", Some(game.address()), None, keys)
        .route("/any", Some(any.address()), None)
        .start()
        .await;
    let raw = Raw::with_settings(&gateway).await;
    for (authority, path, status, reason) in [
        ("play.example.com", "/game", 200, ""),
        ("EU.Play.Example.com.:4433", "/game", 200, ""),
        ("localhost", "/any", 200, ""),
        ("play.example.com", "/any", 200, ""),
        ("localhost", "/game", 421, "wrong_host"),
        ("a.eu.play.example.com", "/game", 421, "wrong_host"),
        ("evilplay.example.com", "/game", 421, "wrong_host"),
        ("play.example.com", "/nowhere", 404, "no_route"),
    ] {
        let mut fields = session_fields(path);
        fields[3].1 = authority;
        let mut session = raw.bidi(&headers(&fields)).await;
        let response = session.response().await;
        let reason = (status != 200).then_some(reason);
        assert_eq!(
            (response.status, response.field("tidegate-reason")),
            (status, reason),
            "{authority}"
        );
        if status == 200 {
            // It is the right backend.
            let mut stream = raw.stream_of(session.id(), b"hello").await;
            let backend = if path == "/game" { &game } else { &any };
            expect_text(&mut backend.accept().await, b"hello").await;
            finish(&mut stream.send);
        }
        finish(&mut session.send);
    }
    let labels = [("route", "_none"), ("reason", "wrong_host")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 3.0).await;
    raw.leave();
    gateway.shut_down().await;
}

/// S7. What two programs could take for two hosts is refused before any route is asked.
#[tokio::test]
async fn an_authority_that_can_be_read_in_two_ways_is_400() {
    let keys = "hosts = [\"play.example.com\"]";
    let gateway = Setup::new().route_with("/x", Some(echo_tcp().await), None, keys).start().await;
    let raw = Raw::with_settings(&gateway).await;
    for authority in ["play.example.com..", "play.example.com:0443", "127.1", "play..example.com"] {
        let mut fields = session_fields("/x");
        fields[3].1 = authority;
        let response = raw.bidi(&headers(&fields)).await.response().await;
        assert_eq!((response.status, response.reason()), (400, "bad_request"), "{authority}");
    }
    raw.leave();
    gateway.shut_down().await;
}

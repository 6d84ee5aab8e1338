//! Which requests become sessions, and with what the others are refused.

use http::Method;
use tidegate::client::RequestOptions;

use crate::harness::{
    Setup, TcpBackend, TestGateway, echo_tcp, echo_udp, expect_text, from_origin, soon,
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

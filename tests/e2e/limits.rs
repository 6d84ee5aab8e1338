//! Limits: at each of them the next one is refused with its reason, and nothing else suffers.

use std::time::Duration;

use futures_util::future::join_all;
use http::header::RETRY_AFTER;
use tidegate::client::{
    Closed, ConnectError, Connection, RecvStream, Refused, RequestOptions, SendStream, Session,
};
use tokio::time::{Instant, sleep};

use crate::harness::{Setup, TestGateway, echo_udp, pattern, soon};

#[tokio::test]
async fn a_full_route_refuses_with_503_and_recovers() {
    let keys = "limits = { sessions = 2 }";
    let setup = Setup::new().route_with("/x", None, Some(echo_udp().await), keys);
    let gateway = setup.start().await;
    let first = gateway.session("/x").await;
    let second = gateway.session("/x").await;
    let refusal = gateway.refusal("/x", &RequestOptions::default()).await;
    assert_eq!(refusal, (503, "route_full".to_owned()));

    first.close(0, "").await;
    gateway.metric_reaches("tidegate_sessions", &[], 1.0).await;
    let third = gateway.session("/x").await;
    for session in [second, third] {
        session.send_datagram(b"in").unwrap();
        assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"in"[..]);
    }
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_full_gateway_refuses_on_every_route() {
    let setup = Setup::new()
        .route("/a", None, Some(echo_udp().await))
        .route("/b", None, Some(echo_udp().await))
        .tables("[limits]\nsessions = 1");
    let gateway = setup.start().await;
    let _session = gateway.session("/a").await;
    let refusal = gateway.refusal("/b", &RequestOptions::default()).await;
    assert_eq!(refusal, (503, "too_many_sessions".to_owned()));
    gateway.shut_down().await;
}

#[tokio::test]
async fn connections_above_the_limit_are_refused_by_quic() {
    let setup =
        Setup::new().route("/a", None, Some(echo_udp().await)).tables("[limits]\nconnections = 1");
    let gateway = setup.start().await;
    let session = gateway.session("/a").await;
    let endpoint = gateway.endpoint();
    was_refused(soon(endpoint.connect(gateway.address(), "localhost")).await);
    let labels = [("reason", "too_many_connections")];
    gateway.metric_reaches("tidegate_quic_incoming_refused_total", &labels, 1.0).await;
    session.send_datagram(b"unharmed").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"unharmed"[..]);
    gateway.shut_down().await;
}

/// A gateway that gives credit for so many streams at first and allows 200, and a session there.
async fn with_credit(streams: u32) -> (TestGateway, Session) {
    let tcp = crate::harness::echo_tcp().await;
    let setup = Setup::new()
        .route_with("/x", Some(tcp), None, "limits = { streams_per_session = 200 }")
        .listener(&format!("[listener.transport]\ninitial_bidi_streams = {streams}"));
    let gateway = setup.start().await;
    let session = gateway.session("/x").await;
    (gateway, session)
}

/// Opens a stream, and sees that it is there.
async fn open_stream(session: &Session) -> (SendStream, RecvStream) {
    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    send.write(b"!").await.unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"!"[..]);
    (send, recv)
}

/// A route's own limit is what bounds a session's streams, above the credit given at first.
#[tokio::test]
async fn stream_credit_grows_as_a_session_uses_it() {
    for first in [1, 20] {
        let (gateway, session) = with_credit(first).await;
        let mut open = Vec::new();
        for _ in 0..200 {
            open.push(open_stream(&session).await);
        }
        gateway.metric_reaches("tidegate_streams", &[], 200.0).await;
        gateway.shut_down().await;
    }
}

/// Credit costs memory for as long as the connection lives.
#[tokio::test]
async fn stream_credit_does_not_grow_before_half_of_it_is_used() {
    let (gateway, session) = with_credit(16).await;
    let raised = || session.quic().stats().frame_rx.max_streams_bidi;
    let mut open = Vec::new();
    // With the session's own stream they are seven.
    for _ in 0..6 {
        open.push(open_stream(&session).await);
    }
    assert_eq!(raised(), 0);
    for _ in 0..6 {
        open.push(open_stream(&session).await);
    }
    assert_eq!(raised(), 1);
    gateway.shut_down().await;
}

/// Checks that QUIC has refused a connection.
fn was_refused(connected: Result<Connection, ConnectError>) {
    let refused = connected.unwrap_err();
    let ConnectError::Connection(quinn::ConnectionError::ConnectionClosed(close)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(close.error_code.to_string(), "the server refused to accept a new connection");
}

async fn echoes(session: &Session) {
    session.send_datagram(b"in").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"in"[..]);
}

/// A gateway with these limits for each client address.
async fn per_client(keys: &str) -> TestGateway {
    let setup = Setup::new().route("/x", None, Some(echo_udp().await));
    setup.tables(&format!("[limits.per_client]\n{keys}")).start().await
}

/// Asks for a session on a connection from this address.
async fn ask_from(gateway: &TestGateway, ip: &str) -> Result<Session, Refused> {
    let endpoint = gateway.endpoint_at(ip);
    let connection = soon(endpoint.connect(gateway.address(), "localhost")).await.unwrap();
    soon(connection.open_session(&gateway.url("/x"), &RequestOptions::default())).await
}

/// The status, the reason and the seconds after which a client may try again.
fn refusal(asked: Result<Session, Refused>) -> (u16, String, u64) {
    let Refused::Status { status, reason, headers } = asked.unwrap_err() else {
        panic!("no status")
    };
    let seconds = headers.get(RETRY_AFTER).unwrap().to_str().unwrap().parse().unwrap();
    (status.as_u16(), reason.unwrap(), seconds)
}

#[tokio::test]
async fn connections_of_one_address_above_its_limit_are_refused_and_other_addresses_are_not() {
    let gateway = per_client("connections = 2").await;
    let sessions = [
        ask_from(&gateway, "127.0.0.1").await.unwrap(),
        ask_from(&gateway, "127.0.0.1").await.unwrap(),
    ];
    let third = gateway.endpoint_at("127.0.0.1");
    was_refused(soon(third.connect(gateway.address(), "localhost")).await);
    let labels = [("reason", "client_connections")];
    gateway.metric_reaches("tidegate_quic_incoming_refused_total", &labels, 1.0).await;

    let other = ask_from(&gateway, "127.0.0.2").await.unwrap();
    gateway.metric_reaches("tidegate_client_addresses", &[], 2.0).await;
    for session in sessions.iter().chain([&other]) {
        echoes(session).await;
    }
    let [first, _second] = sessions;
    first.quic().close(0_u32.into(), b"");
    gateway.metric_reaches("tidegate_quic_connections", &[], 2.0).await;
    echoes(&ask_from(&gateway, "127.0.0.1").await.unwrap()).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn sessions_of_one_address_above_its_limit_get_429_and_other_addresses_do_not() {
    let gateway = per_client("sessions = 2").await;
    let first = ask_from(&gateway, "127.0.0.1").await.unwrap();
    let second = ask_from(&gateway, "127.0.0.1").await.unwrap();
    for _ in 0..2 {
        let refused = refusal(ask_from(&gateway, "127.0.0.1").await);
        assert_eq!(refused, (429, "client_sessions".to_owned(), 10));
    }
    let labels = [("route", "x"), ("reason", "client_sessions")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 2.0).await;
    let other = ask_from(&gateway, "127.0.0.2").await.unwrap();
    for session in [&first, &second, &other] {
        echoes(session).await;
    }
    first.close(0, "").await;
    gateway.metric_reaches("tidegate_sessions", &[], 2.0).await;
    echoes(&ask_from(&gateway, "127.0.0.1").await.unwrap()).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn an_address_that_asks_too_often_gets_429_and_may_try_again_when_it_is_told() {
    let gateway = per_client("session_rate = \"60/m\"").await;
    let connection = gateway.connect().await;
    let (url, options) = (gateway.url("/x"), RequestOptions::default());
    let (begun, mut sessions) = (Instant::now(), Vec::new());
    let asked = loop {
        match soon(connection.open_session(&url, &options)).await {
            Ok(session) => sessions.push(session),
            refused => break refused,
        }
        assert!(sessions.len() < 120, "nothing is refused");
    };
    // The burst, and on a slow machine what came in the meantime.
    let most = 60 + begun.elapsed().as_secs();
    let accepted = sessions.len() as u64;
    assert!((60..=most).contains(&accepted), "{accepted} in {:?}", begun.elapsed());
    assert_eq!(refusal(asked), (429, "client_session_rate".to_owned(), 1));
    let labels = [("route", "x"), ("reason", "client_session_rate")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 1.0).await;
    echoes(&ask_from(&gateway, "127.0.0.2").await.unwrap()).await;

    // The one wait in these tests whose length is what is tested: the second that the client was told.
    sleep(Duration::from_secs(1)).await;
    echoes(&ask_from(&gateway, "127.0.0.1").await.unwrap()).await;
    gateway.shut_down().await;
}

/// Bursts are honest. By default 256 streams are none; where they are, they wait and nothing is lost.
#[tokio::test]
async fn streams_that_are_opened_at_once_all_come_through_their_connections_rate() {
    for (keys, is_slowed) in [("", false), ("stream_rate = \"100/s\"", true)] {
        let setup = Setup::new().route("/x", Some(crate::harness::echo_tcp().await), None);
        let gateway = setup.tables(&format!("[limits.per_connection]\n{keys}")).start().await;
        let session = gateway.session("/x").await;
        let begun = Instant::now();
        let streams = (0..256_u32).map(async |i| {
            let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
            send.write(&i.to_be_bytes()).await.unwrap();
            send.finish();
            assert_eq!(soon(recv.read_to_end(10)).await.unwrap(), i.to_be_bytes());
        });
        join_all(streams).await;
        let pauses = gateway.metric("tidegate_quic_stream_pauses_total", &[]);
        assert_eq!(pauses > 0.0, is_slowed, "{pauses}");
        // One is let through before the first pause. The request was a stream too, but its part may be there
        // again by now.
        let least = if is_slowed { (256 - 100 - 1) * 1000 / 100 } else { 0 };
        assert!(begun.elapsed() >= Duration::from_millis(least), "{:?}", begun.elapsed());
        gateway.shut_down().await;
    }
}

/// How long before is for the deadlines' own tests, on a clock of theirs.
#[tokio::test]
async fn a_session_at_its_lifetime_is_asked_to_end_and_closed_with_its_reason() {
    let lifetime = Duration::from_secs(2);
    let keys = format!("limits = {{ session_lifetime = \"{}s\" }}", lifetime.as_secs());
    let gateway = Setup::new().route_with("/x", None, Some(echo_udp().await), &keys).start().await;
    let begun = Instant::now();
    let session = gateway.session("/x").await;
    echoes(&session).await;
    // False where the session ends without it.
    assert!(soon(session.draining()).await);
    let closed = Closed::ByServer { code: 5, reason: "session_lifetime".to_owned() };
    assert_eq!(soon(session.closed()).await, closed);
    assert!(begun.elapsed() >= lifetime, "{:?}", begun.elapsed());
    let labels = [("reason", "session_lifetime")];
    gateway.metric_reaches("tidegate_session_ends_total", &labels, 1.0).await;
    gateway.shut_down().await;
}

/// One session says something all the time, the other has said its last word.
#[tokio::test]
async fn a_session_that_says_nothing_is_closed_and_others_go_on() {
    let keys = "limits = { session_idle = \"1500ms\" }";
    let tcp = crate::harness::echo_tcp().await;
    let gateway =
        Setup::new().route_with("/x", Some(tcp), Some(echo_udp().await), keys).start().await;
    let (quiet, busy) = (gateway.session("/x").await, gateway.session("/x").await);
    let (mut send, mut recv) = quiet.open_bidi().await.unwrap();
    let begun = Instant::now();
    send.write(b"last").await.unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"last"[..]);
    let closed = async {
        let closed = soon(quiet.closed()).await;
        assert!(begun.elapsed() >= Duration::from_millis(1_500), "{:?}", begun.elapsed());
        closed
    };
    let talk = async {
        loop {
            echoes(&busy).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        closed = closed => {
            let idle = Closed::ByServer { code: 6, reason: "session_idle".to_owned() };
            assert_eq!(closed, idle);
        }
        () = talk => {}
    }
    assert!(soon(recv.read()).await.is_err(), "its stream is cut");
    echoes(&busy).await;
    let labels = [("reason", "session_idle")];
    gateway.metric_reaches("tidegate_session_ends_total", &labels, 1.0).await;
    gateway.shut_down().await;
}

/// What comes first goes through, whole and in order.
#[tokio::test]
async fn datagrams_above_the_rate_are_lost_and_counted_both_ways() {
    for (direction, lost_on) in [("up", "client_to_backend"), ("down", "backend_to_client")] {
        let keys = format!("limits = {{ datagram_rate_{direction} = \"10/h\" }}");
        let setup = Setup::new().route_with("/x", None, Some(echo_udp().await), &keys);
        let gateway = setup.start().await;
        let session = gateway.session("/x").await;
        for i in 0..50_u8 {
            session.send_datagram_wait(&[i]).await.unwrap();
        }
        let labels = [("direction", lost_on), ("reason", "rate_limited")];
        gateway.metric_reaches("tidegate_datagram_drops_total", &labels, 40.0).await;
        for i in 0..10_u8 {
            assert_eq!(soon(session.read_datagram()).await.unwrap(), &[i][..]);
        }
        session.close(0, "").await;
        gateway.shut_down().await;
    }
}

/// Only the session that is above its rate waits, and each byte comes in the end.
#[tokio::test]
async fn streams_above_the_byte_rate_are_slowed_and_lose_nothing() {
    for (direction, slowed) in [("up", "client_to_backend"), ("down", "backend_to_client")] {
        let keys = format!("limits = {{ byte_rate_{direction} = \"1MiB/s\" }}");
        let tcp = crate::harness::echo_tcp().await;
        let gateway = Setup::new().route_with("/x", Some(tcp), None, &keys).start().await;
        let session = gateway.session("/x").await;
        let all = pattern(1_500_000, 1);
        let begun = Instant::now();
        let streams = (0..3).map(async |_| {
            let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
            let write = async {
                send.write(&all[..500_000]).await.unwrap();
                send.finish();
            };
            let ((), back) = tokio::join!(write, recv.read_to_end(usize::MAX));
            assert!(back.unwrap() == all[..500_000], "it came back changed");
        });
        soon(join_all(streams)).await;
        // A second's worth came at once.
        let least = Duration::from_secs_f64(1_500_000.0 / 1_048_576.0 - 1.0);
        assert!(begun.elapsed() >= least, "{direction}: {:?}", begun.elapsed());
        let labels = [("direction", slowed)];
        let waited = gateway.metric("tidegate_stream_slowed_bytes_total", &labels);
        // What came at once may be short of that second's worth by less than a turn of 20 ms.
        assert!((1.0..=472_396.0).contains(&waited), "{direction}: {waited}");
        session.close(0, "").await;
        gateway.shut_down().await;
    }
}

/// What this very process holds is more than a mebibyte.
#[tokio::test]
async fn a_gateway_short_of_memory_has_connections_refused_by_quic_and_stays_ready() {
    let setup = Setup::new()
        .route("/a", None, Some(echo_udp().await))
        .tables("[limits]\nmemory = \"1MiB\"");
    let gateway = setup.start().await;
    let endpoint = gateway.endpoint();
    was_refused(soon(endpoint.connect(gateway.address(), "localhost")).await);
    let labels = [("reason", "memory_shed")];
    gateway.metric_reaches("tidegate_quic_incoming_refused_total", &labels, 1.0).await;
    gateway.metric_reaches("tidegate_memory_short", &[], 1.0).await;
    assert!(gateway.metric("tidegate_memory_resident_bytes", &[]) > 1_048_576.0);
    assert!(
        gateway.running().lifecycle().is_ready(),
        "a balancer that looked away would cut sessions"
    );
    gateway.shut_down().await;
}

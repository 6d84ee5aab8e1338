//! Clients that keep the letter of the rules and do harm all the same: by silence, by number, by staying.
//!
//! Those that break the rules are in `malformed`, those that want memory in `memory`.

use std::time::Duration;

use quinn::{ConnectionError, ReadError};
use tidegate::client::{Connection, RequestOptions, Session};
use tokio::time::Instant;

use crate::harness::{Setup, TestGateway, echo_tcp, echo_udp, soon};

const H3_REQUEST_INCOMPLETE: u64 = 0x10d;
const WT_BUFFERED_STREAM_REJECTED: u64 = 0x3994_bd84;

/// A gateway, a connection to it with a session, and another client's session that must not suffer.
struct Scene {
    gateway: TestGateway,
    connection: Connection,
    session: Session,
    bystander: Session,
}

async fn scene() -> Scene {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let setup = Setup::new().route("/echo", Some(tcp), Some(udp));
    let gateway = setup
        .tables("[timeouts]\nrequest = \"200ms\"\nearly = \"200ms\"\n[limits]\nearly_streams = 4")
        .start()
        .await;
    let connection = gateway.connect().await;
    let options = RequestOptions::default();
    let session = connection.open_session(&gateway.url("/echo"), &options).await.unwrap();
    let bystander = gateway.session("/echo").await;
    Scene { gateway, connection, session, bystander }
}

impl Scene {
    async fn ends_unharmed(self) {
        check(&self.bystander).await;
        self.gateway.shut_down().await;
    }
}

async fn check(session: &Session) {
    session.send_datagram(b"alive").unwrap();
    assert_eq!(soon(session.read_datagram()).await.unwrap(), &b"alive"[..]);
    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    send.write(b"alive").await.unwrap();
    send.finish();
    assert_eq!(soon(recv.read_to_end(10)).await.unwrap(), b"alive");
}

/// The code with which the gateway resets its half of a stream.
async fn reset_code(recv: &mut quinn::RecvStream) -> u64 {
    match soon(recv.read_chunk(10, true)).await {
        Err(ReadError::Reset(code)) => code.into_inner(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_never_says_what_it_is_is_given_up() {
    let scene = scene().await;
    let (mut send, mut recv) = scene.connection.quic().open_bi().await.unwrap();
    send.write_all(&[0x40]).await.unwrap();
    assert_eq!(reset_code(&mut recv).await, H3_REQUEST_INCOMPLETE);
    check(&scene.session).await;
    scene.ends_unharmed().await;
}

/// QUIC opens lower streams by implication; one that stays silent must not hold up the others.
#[tokio::test]
async fn a_silent_stream_blocks_no_other() {
    let scene = scene().await;
    let _silent = scene.connection.quic().open_bi().await.unwrap();
    check(&scene.session).await;
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn streams_for_sessions_that_never_come_are_rejected_in_time_and_number() {
    let scene = scene().await;
    let mut waiting = Vec::new();
    // Session 0x3c is not asked for. Four streams may wait, the fifth may not.
    for _ in 0..5 {
        let (mut send, recv) = scene.connection.quic().open_bi().await.unwrap();
        send.write_all(&[0x40, 0x41, 0x3c]).await.unwrap();
        waiting.push((send, recv));
    }
    for (_, recv) in waiting.iter_mut().rev() {
        assert_eq!(reset_code(recv).await, WT_BUFFERED_STREAM_REJECTED);
    }
    check(&scene.session).await;
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let setup = Setup::new().route("/echo", None, Some(echo_udp().await));
    let gateway = setup.tables("[timeouts]\nidle_connection = \"100ms\"").start().await;
    let connection = gateway.connect().await;
    let closed = soon(connection.quic().closed()).await;
    let ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
    assert_eq!(close.error_code.into_inner(), 0x100);
    gateway.shut_down().await;
}

/// Chromium leaves connections open after the last session; the gateway must not.
#[tokio::test]
async fn a_connection_is_closed_after_its_last_session() {
    let gateway = TestGateway::echo().await;
    let connection = gateway.connect().await;
    let options = RequestOptions::default();
    let session = connection.open_session(&gateway.url("/echo"), &options).await.unwrap();
    let quic = session.quic().clone();
    session.close(0, "").await;
    let closed = tokio::time::timeout(Duration::from_secs(3), quic.closed()).await;
    let Ok(ConnectionError::ApplicationClosed(close)) = closed else { panic!("{closed:?}") };
    assert_eq!(close.error_code.into_inner(), 0x100);
    gateway.shut_down().await;
}

/// S25. As fast as QUIC lets it, for the time of many bursts: what the gateway does for it is bounded by the
/// rate, and others notice nothing.
#[tokio::test]
async fn streams_that_are_reset_as_fast_as_they_are_opened_are_held_to_the_rate() {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let keys = "limits = { stream_rate = \"50/s\" }";
    let gateway = Setup::new()
        .route_with("/slow", Some(tcp), Some(udp), keys)
        .route("/echo", Some(tcp), Some(udp))
        .start()
        .await;
    let bystander = gateway.session("/echo").await;
    let session = gateway.session("/slow").await;
    let begun = Instant::now();
    let mut opened = 0_u32;
    while opened < 300 {
        let mut batch = Vec::new();
        for _ in 0..20 {
            let (mut send, recv) = soon(session.quic().open_bi()).await.unwrap();
            // 0x41 and the session, which is the connection's first request.
            send.write_all(&[0x40, 0x41, 0x00]).await.unwrap();
            batch.push((send, recv));
        }
        opened += 20;
        // A reset takes back what has not arrived, and then the stream is nobody's; so it is made sure.
        session.send_datagram(b"are they there?").unwrap();
        soon(session.read_datagram()).await.unwrap();
        for (mut send, mut recv) in batch {
            _ = send.reset(7_u32.into());
            _ = recv.stop(7_u32.into());
        }
        check(&bystander).await;
    }
    // The burst is 50 and at most 128 wait, which is the credit given at first: the others came at the rate.
    let least = Duration::from_millis(u64::from((opened - 50 - 128) * 1000 / 50));
    assert!(begun.elapsed() >= least, "{opened} in {:?}, not {least:?}", begun.elapsed());
    let labels = [("route", "slow")];
    assert!(gateway.metric("tidegate_streams_slowed_total", &labels) >= 100.0);
    let taken = gateway.metric("tidegate_stream_ends_total", &labels);
    let most = 50.0 + 50.0 * begun.elapsed().as_secs_f64();
    assert!(taken <= most + 1.0, "{taken} streams in {:?}", begun.elapsed());
    session.close(0, "").await;
    check(&bystander).await;
    gateway.shut_down().await;
}

/// S25. The flood that HTTP/2 knows as rapid reset.
#[tokio::test]
async fn requests_that_are_reset_as_fast_as_they_are_made_cost_nobody_else() {
    let scene = scene().await;
    let quic = scene.connection.quic();
    for round in 0..5000_u32 {
        let (mut send, mut recv) = soon(quic.open_bi()).await.unwrap();
        // The beginning of a HEADERS frame, and never its end.
        send.write_all(&[0x01, 0x20, 0x00, 0x00]).await.unwrap();
        _ = send.reset(0x10c_u32.into());
        _ = recv.stop(0x10c_u32.into());
        if round.is_multiple_of(1000) {
            check(&scene.bystander).await;
        }
    }
    check(&scene.session).await;
    scene.ends_unharmed().await;
}

//! Clients that keep the letter of the rules and do harm all the same: by silence, by number, by staying.
//!
//! Those that break the rules are in `malformed`, those that want memory in `memory`.

use std::time::Duration;

use quinn::{ConnectionError, ReadError, TransportConfig};
use tidegate::client::{Connection, RequestOptions, Session};
use tokio::time::{Instant, timeout};

use crate::{
    harness::{Setup, TestGateway, echo_tcp, echo_udp, soon},
    raw::{self, H3_NO_ERROR, Raw, close_session, headers, session_fields},
};

const H3_GENERAL_PROTOCOL_ERROR: u64 = 0x101;
const H3_REQUEST_INCOMPLETE: u64 = 0x10d;
const H3_REQUEST_REJECTED: u64 = 0x10b;
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
    let rejected = "tidegate_quic_early_streams_rejected_total";
    assert_eq!(scene.gateway.metric(rejected, &[]), 5.0);
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

/// Limits under which the gateway cannot say its settings: no stream, or no byte on it.
fn mute() -> [TransportConfig; 2] {
    let (mut no_stream, mut no_byte) = (TransportConfig::default(), TransportConfig::default());
    no_stream.max_concurrent_uni_streams(0_u8.into());
    no_byte.stream_receive_window(0_u8.into());
    [no_stream, no_byte]
}

#[tokio::test]
async fn a_client_that_takes_no_settings_is_given_up_in_time() {
    let setup = Setup::new().route("/echo", None, Some(echo_udp().await));
    let gateway = setup.tables("[timeouts]\nrequest = \"200ms\"").start().await;
    for limits in mute() {
        let raw = Raw::connect_with(&gateway, limits).await;
        assert_eq!(raw.closed().await, H3_GENERAL_PROTOCOL_ERROR);
    }
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_client_that_takes_no_settings_does_not_hold_up_the_gateways_end() {
    let setup = Setup::new().route("/echo", None, Some(echo_udp().await));
    let gateway = setup.tables("[timeouts]\nrequest = \"60s\"").start().await;
    let [one, other] = mute();
    let clients =
        [Raw::connect_with(&gateway, one).await, Raw::connect_with(&gateway, other).await];
    gateway.metric_reaches("tidegate_quic_connections", &[], 2.0).await;
    gateway.shut_down().await;
    for client in clients {
        assert_eq!(client.closed().await, H3_NO_ERROR);
    }
}

/// The bytes of the gateway's control stream are let through, and not one of an answer.
#[tokio::test]
async fn a_client_that_takes_no_answer_holds_no_place() {
    let setup = Setup::new()
        .route_with("/one", None, Some(echo_udp().await), "limits = { sessions = 1 }")
        .tables("[timeouts]\nrequest = \"200ms\"");
    let gateway = setup.start().await;
    let honest = Raw::connect(&gateway).await;
    let mut control = honest.accept_uni().await;
    let settings = soon(control.read_chunk(usize::MAX, true)).await.unwrap().unwrap();

    let mut limits = TransportConfig::default();
    limits.receive_window(u32::try_from(settings.bytes.len()).unwrap().into());
    let mut deaf = Raw::connect_with(&gateway, limits).await;
    deaf.say_settings().await;
    // One is accepted and one refused, and neither can be told so.
    for path in ["/one", "/none"] {
        let mut stream = deaf.bidi(&headers(&session_fields(path))).await;
        assert_eq!(reset_code(&mut stream.recv).await, H3_REQUEST_REJECTED, "{path}");
    }
    let session = gateway.session("/one").await;
    session.close(0, "").await;
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
    let closed = timeout(Duration::from_secs(3), quic.closed()).await;
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

/// What a flood is made of. Each is taken back as soon as it is opened.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flood {
    /// Bidirectional streams that never say what they are.
    Headless,
    /// Requests, as in the flood that HTTP/2 knows as rapid reset.
    Requests,
    /// Unidirectional streams that never say what they are.
    Uni,
}

impl Flood {
    const ALL: [Self; 3] = [Self::Headless, Self::Requests, Self::Uni];

    async fn open_one(self, quic: &quinn::Connection) {
        if self == Self::Uni {
            _ = quic.open_uni().await.unwrap().reset(0x10c_u32.into());
            return;
        }
        let (mut send, mut recv) = quic.open_bi().await.unwrap();
        if self == Self::Requests {
            // The beginning of a HEADERS frame, and never its end.
            send.write_all(&[0x01, 0x20, 0x00, 0x00]).await.unwrap();
        }
        _ = send.reset(0x10c_u32.into());
        _ = recv.stop(0x10c_u32.into());
    }

    /// Goes on until QUIC gives no credit for more. Yields how many there were.
    async fn run(self, quic: &quinn::Connection) -> u32 {
        const ENDLESS: u32 = 1000;
        for opened in 0..ENDLESS {
            // That nothing comes can only be waited for.
            if timeout(Duration::from_millis(300), self.open_one(quic)).await.is_err() {
                return opened;
            }
        }
        panic!("nothing holds {self:?} up");
    }
}

/// A gateway that takes 20 streams of each kind from a connection, and then hardly any.
async fn hardly_taking() -> TestGateway {
    let (tcp, udp) = (echo_tcp().await, echo_udp().await);
    let setup = Setup::new().route("/echo", Some(tcp), Some(udp));
    setup.tables("[limits.per_connection]\nstream_rate = \"20/h\"").start().await
}

/// S25. What the gateway does for a flood is bounded by the rate, whatever it is made of: what is not taken is
/// not worked on, and QUIC gives no credit in its place.
#[tokio::test]
async fn a_flood_comes_at_its_connections_rate_and_holds_up_nothing_that_stands() {
    for flood in Flood::ALL {
        let gateway = hardly_taking().await;
        let bystander = gateway.session("/echo").await;
        let raw = Raw::with_settings(&gateway).await;
        let mut session = raw.session("/echo").await;
        let mut stream = raw.stream_of(0, b"before").await;
        assert_eq!(read(&mut stream, 6).await, b"before");

        let opened = flood.run(raw.quic()).await;
        // The credit given at first (HTTP/3's own three come on top), and one for each that was taken.
        let (credit, before) = if flood == Flood::Uni { (16 + 3, 1) } else { (128, 2) };
        assert!((credit..=credit + 20).contains(&(before + opened)), "{opened} {flood:?}");
        gateway.metric_reaches("tidegate_quic_stream_pauses_total", &[], 1.0).await;

        check(&bystander).await;
        stream.write(b"after").await;
        assert_eq!(read(&mut stream, 5).await, b"after", "{flood:?}");
        raw.datagram(b"\0after");
        assert_eq!(raw.read_datagram().await, &b"after"[..], "{flood:?}");
        session.write(&close_session(7, b"enough")).await;
        gateway.session_ends("client_closed", 1.0).await;
        check(&bystander).await;
        gateway.shut_down().await;
    }
}

async fn read(stream: &mut raw::Stream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    soon(stream.recv.read_exact(&mut read)).await.unwrap();
    read
}

/// Its settings come late, and a request waits for them.
#[tokio::test]
async fn a_flood_of_requests_holds_up_no_control_stream() {
    let gateway = hardly_taking().await;
    let mut raw = Raw::connect(&gateway).await;
    let mut session = raw.bidi(&headers(&session_fields("/echo"))).await;
    Flood::Requests.run(raw.quic()).await;
    raw.say_settings().await;
    assert_eq!(session.response().await.status, 200);
    raw.datagram(b"\0alive");
    assert_eq!(raw.read_datagram().await, &b"alive"[..]);
    gateway.shut_down().await;
}

//! S14, S15, S20. How a session is closed, by a client that shares no code with the gateway: codes, reasons,
//! and who waits for whom.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    harness::{Setup, TcpBackend, TestGateway, echo_tcp, expect_text, pattern, soon},
    log,
    raw::*,
};

/// The longest reason that the protocol allows, of characters of two bytes.
fn longest() -> String {
    "ä".repeat(512)
}

#[tokio::test]
async fn the_longest_reason_and_the_largest_code_reach_the_log_whole() {
    log::keep();
    let gateway = TestGateway::echo().await;
    let raw = Raw::with_settings(&gateway).await;
    for (code, reason) in
        [(u32::MAX, longest()), (u32::MAX - 1, format!("closes {}", "€".repeat(3)))]
    {
        let mut session = raw.session("/echo").await;
        session.write(&close_session(code, reason.as_bytes())).await;
        assert_eq!(session.frame().await, None, "answered with the end of the stream");
        let code = format!("client_code={code} ");
        log::line_with(&["client_closed", &code, &format!("client_text=\"{reason}\"")]).await;
    }
    raw.leave();
    gateway.shut_down().await;
}

/// Who cuts a reason must not cut a character: what is left would be no text.
#[tokio::test]
async fn a_reason_that_ends_within_a_character_is_malformed() {
    let gateway = TestGateway::echo().await;
    let raw = Raw::with_settings(&gateway).await;
    let reason = longest();
    for end in [1023, 1] {
        let mut session = raw.session("/echo").await;
        session.write(&close_session(7, &reason.as_bytes()[..end])).await;
        assert_eq!(session.reset_code().await, H3_MESSAGE_ERROR);
    }
    gateway.session_ends("protocol_error", 2.0).await;
    raw.leave();
    gateway.shut_down().await;
}

/// The backend has accepted and then does nothing at all: neither reads nor writes nor closes.
#[tokio::test]
async fn a_close_is_answered_though_the_backend_hangs() {
    let backend = TcpBackend::bind().await;
    let gateway = TestGateway::with_tcp("/x", &backend).await;
    let raw = Raw::with_settings(&gateway).await;
    let mut session = raw.session("/x").await;
    let mut stream = raw.stream_of(session.id(), b"hello").await;
    let mut hanging = backend.accept().await;
    expect_text(&mut hanging, b"hello").await;
    // More than it takes, until writing makes no progress: the gateway has bytes that go nowhere.
    let block = pattern(64 * 1024, 1);
    while timeout(STANDSTILL, stream.send.write_all(&block)).await.is_ok() {}

    session.write(&close_session(7, b"bye")).await;

    // What it had to say of credit comes before its end.
    while session.frame().await.is_some() {}
    assert_eq!(stream.reset_code().await, WT_SESSION_GONE);
    gateway.session_ends("client_closed", 1.0).await;
    gateway.is_empty().await;
    raw.leave();
    gateway.shut_down().await;
    drop(hanging);
}

/// When nothing moves for so long, all buffers on the way are full.
const STANDSTILL: Duration = Duration::from_millis(500);

/// The backend does not even accept: the gateway is still dialling when the client closes.
#[tokio::test]
async fn a_close_is_answered_though_the_backend_is_still_dialled() {
    let (_listener, _queued, address) = never_accepting().await;
    let gateway = dialling_for_minutes(address).await;
    let raw = Raw::with_settings(&gateway).await;
    let mut session = raw.session("/x").await;
    let mut stream = raw.stream_of(session.id(), b"hello").await;
    gateway.metric_reaches("tidegate_streams", &[], 1.0).await;

    session.write(&close_session(7, b"bye")).await;

    assert_eq!(session.frame().await, None);
    assert_eq!(stream.reset_code().await, WT_SESSION_GONE);
    gateway.session_ends("client_closed", 1.0).await;
    gateway.is_empty().await;
    raw.leave();
    gateway.shut_down().await;
}

/// A gateway whose route's backend may take so long to answer that a test cannot wait for it.
async fn dialling_for_minutes(backend: SocketAddr) -> TestGateway {
    let tables = format!(
        "[[route]]\nname = \"x\"\npath = \"/x\"\norigins = \"any\"\nbackend = \"x\"\ndatagrams = \"drop\"\n\
         [backend.x]\nconnect_timeout = \"5m\"\nendpoints = [{{ tcp = \"{backend}\" }}]\n",
    );
    Setup::new().tables(&tables).start().await
}

/// A listener whose queue has room for one connection, and that one: Linux drops who knocks next.
async fn never_accepting() -> (TcpListener, TcpStream, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let queued = soon(TcpStream::connect(address)).await.unwrap();
    (listener, queued, address)
}

/// S20. Chromium 156 crashes on a GOAWAY with a session alive; WT_DRAIN_SESSION says the same.
#[tokio::test]
async fn a_drain_is_a_capsule_and_never_a_goaway() {
    let setup = Setup::with_drain("delay = \"0s\"\ngrace = \"1h\"");
    let gateway = setup.route("/x", Some(echo_tcp().await), None).start().await;
    let raw = Raw::with_settings(&gateway).await;
    let mut control = raw.accept_uni().await;
    let mut sessions = [raw.session("/x").await, raw.session("/x").await];
    let stopping = tokio::spawn(gateway.shut_down());
    for session in &mut sessions {
        assert_eq!(session.frame().await, Some((DATA, frame(DRAIN_SESSION, b""))));
    }
    for session in &mut sessions {
        let mut stream = raw.stream_of(session.id(), b"alive").await;
        stream.send.finish().unwrap();
        assert_eq!(soon(stream.recv.read_to_end(10)).await.unwrap(), b"alive");
        session.write(&close_session(0, b"")).await;
        assert_eq!(session.frame().await, None);
    }
    assert_eq!(raw.closed().await, H3_NO_ERROR);
    assert_eq!(soon(stopping).await.unwrap().cut, 0);

    // All that the control stream has ever said: its type and the settings.
    let mut said = Vec::new();
    while let Ok(Some(chunk)) = soon(control.read_chunk(usize::MAX, true)).await {
        said.extend_from_slice(&chunk.bytes);
    }
    let (kind, n) = take_varint(&said[1..]).unwrap();
    let (length, m) = take_varint(&said[1 + n..]).unwrap();
    assert_eq!((said[0], kind), (0, SETTINGS));
    assert_eq!(said.len() as u64, (1 + n + m) as u64 + length, "more than settings: {said:x?}");
}

//! What becomes of a session and its streams: the table of DESIGN section 4, cell by cell, over QUIC.

use tidegate::client::{
    Closed, Connection, RecvStream, RequestOptions, SendStream, Session, StreamError,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::harness::{
    Setup, TcpBackend, TestGateway, expect_reset, expect_text, pattern, read_to_end, soon,
};

/// The gateway's codes, as the README lists them.
mod codes {
    pub(super) const BACKEND_UNREACHABLE: u32 = 1;
    pub(super) const BACKEND_RESET: u32 = 2;
    pub(super) const HALF_CLOSE_TIMEOUT: u32 = 4;
    pub(super) const REFUSED: u32 = 5;
    pub(super) const TOO_MANY_STREAMS: u32 = 6;
}

/// A stream whose two ends the test holds; the session must live as long.
struct Pair {
    gateway: TestGateway,
    /// Kept, so that the connection outlives the session.
    connection: Connection,
    session: Session,
    send: SendStream,
    recv: RecvStream,
    backend: TcpStream,
}

async fn pair_with(keys: &str) -> Pair {
    let backend = TcpBackend::bind().await;
    let setup = Setup::new().route_with("/game", Some(backend.address()), None, keys);
    let gateway = setup.start().await;
    let connection = gateway.connect().await;
    let options = RequestOptions::default();
    let session = connection.open_session(&gateway.url("/game"), &options).await.unwrap();
    let (mut send, recv) = session.open_bidi().await.unwrap();
    send.write(b"hello").await.unwrap();
    let mut backend = backend.accept().await;
    expect_text(&mut backend, b"hello").await;
    Pair { gateway, connection, session, send, recv, backend }
}

async fn pair() -> Pair {
    pair_with("").await
}

#[tokio::test]
async fn the_clients_end_is_a_half_close_and_the_reply_still_comes() {
    let mut pair = pair().await;
    pair.send.write(b" world").await.unwrap();
    pair.send.finish();
    let (rest, ended) = read_to_end(&mut pair.backend).await;
    assert_eq!((rest, ended.is_ok()), (b" world".to_vec(), true));

    pair.backend.write_all(b"late reply").await.unwrap();
    pair.backend.shutdown().await.unwrap();
    assert_eq!(soon(pair.recv.read_to_end(100)).await.unwrap(), b"late reply");
    pair.gateway.stream_ends("finished", 1.0).await;
    pair.gateway.shut_down().await;
}

#[tokio::test]
async fn the_backends_end_finishes_the_stream_and_the_client_may_go_on() {
    let mut pair = pair().await;
    pair.backend.write_all(b"all").await.unwrap();
    pair.backend.shutdown().await.unwrap();
    assert_eq!(soon(pair.recv.read_to_end(100)).await.unwrap(), b"all");

    pair.send.write(b"more").await.unwrap();
    pair.send.finish();
    let (rest, ended) = read_to_end(&mut pair.backend).await;
    assert_eq!((rest, ended.is_ok()), (b"more".to_vec(), true));
    pair.gateway.stream_ends("finished", 1.0).await;
    pair.gateway.shut_down().await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let backend = TcpBackend::bind().await;
    let gateway = TestGateway::with_tcp("/ssh", &backend).await;
    let session = gateway.session("/ssh").await;
    let (_send, mut recv) = session.open_bidi().await.unwrap();
    let mut server = backend.accept().await;
    server.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"SSH-2.0-test\r\n"[..]);
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_clients_reset_is_a_reset_at_the_backend() {
    let mut pair = pair().await;
    pair.send.reset(99);
    expect_reset(&mut pair.backend).await;
    pair.gateway.stream_ends("client_reset", 1.0).await;
    pair.gateway.shut_down().await;
}

/// While the gateway waits for a backend that does not read, it must see the client go.
#[tokio::test]
async fn a_clients_reset_is_seen_while_the_backend_does_not_read() {
    let pair = pair().await;
    let Pair { gateway, connection: _connection, session, mut send, recv: _recv, mut backend } =
        pair;
    // More than all buffers on the way: until writing stops making progress.
    let block = pattern(64 * 1024, 1);
    while tokio::time::timeout(std::time::Duration::from_millis(500), send.write(&block))
        .await
        .is_ok()
    {}
    send.reset(1);
    gateway.stream_ends("client_reset", 1.0).await;
    expect_reset(&mut backend).await;
    drop(session);
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_client_that_stops_reading_may_go_on_sending() {
    let mut pair = pair().await;
    pair.recv.stop(7);
    // The backend's words go nowhere now; the client's still arrive.
    pair.send.write(b"more").await.unwrap();
    expect_text(&mut pair.backend, b"more").await;
    pair.send.finish();
    let (_, ended) = read_to_end(&mut pair.backend).await;
    assert!(ended.is_ok(), "{ended:?}");
    pair.gateway.stream_ends("client_stopped", 1.0).await;
    pair.gateway.shut_down().await;
}

/// A backend that dies in mid-reply must not look like a reply that ended.
#[tokio::test]
async fn a_cut_reply_reaches_the_client_as_a_reset() {
    let mut pair = pair().await;
    pair.backend.write_all(b"0123456789").await.unwrap();
    assert_eq!(soon(pair.recv.read()).await.unwrap().unwrap(), &b"0123456789"[..]);
    pair.backend.set_zero_linger().unwrap();
    drop(pair.backend);

    let cut = Err(StreamError::Ended(codes::BACKEND_RESET));
    assert_eq!(soon(pair.recv.read()).await, cut);
    let stopped = soon(pair.send.stopped()).await;
    assert_eq!(stopped, Some(StreamError::Ended(codes::BACKEND_RESET)));
    pair.gateway.stream_ends("backend_reset", 1.0).await;
    pair.gateway.shut_down().await;
}

/// The same while the client is sending: then the gateway meets the reset in a write, which takes the
/// error from the socket and makes a later read look like a clean end.
#[tokio::test]
async fn a_cut_reply_is_a_reset_also_while_the_client_sends() {
    for _ in 0..10 {
        let pair = pair().await;
        let Pair { gateway, connection: _connection, session, mut send, mut recv, mut backend } =
            pair;
        let sending = tokio::spawn(async move {
            let block = pattern(64 * 1024, 1);
            while send.write(&block).await.is_ok() {}
        });
        backend.write_all(b"half a rep").await.unwrap();
        assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"half a rep"[..]);
        backend.set_zero_linger().unwrap();
        drop(backend);
        let cut = Err(StreamError::Ended(codes::BACKEND_RESET));
        assert_eq!(soon(recv.read()).await, cut);
        soon(sending).await.unwrap();
        drop(session);
        gateway.shut_down().await;
    }
}

#[tokio::test]
async fn a_dead_backend_is_a_reset_with_its_own_code() {
    let dead = TcpBackend::bind().await.address();
    let gateway = Setup::new().route("/game", Some(dead), None).start().await;
    let session = gateway.session("/game").await;
    let (send, mut recv) = session.open_bidi().await.unwrap();
    let unreachable = StreamError::Ended(codes::BACKEND_UNREACHABLE);
    assert_eq!(soon(recv.read()).await, Err(unreachable));
    assert_eq!(soon(send.stopped()).await, Some(unreachable));
    gateway.stream_ends("backend_unreachable", 1.0).await;

    // The session lives on: the backend may come back.
    assert!(session.quic().close_reason().is_none());
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_session_closed_by_the_client_cuts_its_open_streams() {
    let pair = pair().await;
    let Pair { gateway, connection: _connection, session, send: _send, mut recv, mut backend } =
        pair;
    session.close(5, "gone home").await;
    expect_reset(&mut backend).await;
    assert_eq!(soon(recv.read()).await, Err(StreamError::SessionGone));
    gateway.session_ends("client_closed", 1.0).await;
    gateway.stream_ends("session_ended", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_session_closed_after_its_streams_finished_cuts_nothing() {
    let mut pair = pair().await;
    pair.send.finish();
    let (_, ended) = read_to_end(&mut pair.backend).await;
    assert!(ended.is_ok());
    pair.backend.shutdown().await.unwrap();
    assert_eq!(soon(pair.recv.read()).await, Ok(None));
    pair.gateway.stream_ends("finished", 1.0).await;
    pair.session.close(0, "").await;
    pair.gateway.session_ends("client_closed", 1.0).await;
    pair.gateway.shut_down().await;
}

#[tokio::test]
async fn a_lost_connection_is_a_reset_at_the_backend() {
    let pair = pair_with("").await;
    let Pair { gateway, connection: _connection, session, send: _send, recv: _recv, mut backend } =
        pair;
    // What a client that crashes looks like, short of waiting for the idle timeout.
    session.quic().close(0x100_u32.into(), b"");
    expect_reset(&mut backend).await;
    gateway.session_ends("connection_closed", 1.0).await;
    gateway.stream_ends("connection_lost", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_session_that_the_client_resets_is_told_from_one_it_closes() {
    let pair = pair().await;
    let Pair { gateway, connection: _connection, session, send: _send, mut recv, mut backend } =
        pair;
    session.abort(0x10c).await;
    expect_reset(&mut backend).await;
    assert_eq!(soon(recv.read()).await, Err(StreamError::SessionGone));
    gateway.session_ends("client_reset", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_bare_end_of_the_connect_stream_is_a_close() {
    let pair = pair().await;
    pair.session.finish().await;
    let closed = soon(pair.session.closed()).await;
    assert_eq!(closed, Closed::ByServer { code: 0, reason: String::new() });
    pair.gateway.session_ends("client_closed", 1.0).await;
    pair.gateway.shut_down().await;
}

#[tokio::test]
async fn half_closed_streams_end_when_nothing_moves() {
    let mut pair = pair_with("half_close_timeout = \"200ms\"").await;
    pair.send.finish();
    assert_eq!(soon(pair.recv.read()).await, Err(StreamError::Ended(codes::HALF_CLOSE_TIMEOUT)));
    // The client's end was passed on before; that the rest is gone, the backend sees when it speaks.
    let (_, ended) = read_to_end(&mut pair.backend).await;
    assert!(ended.is_ok());
    soon(async { while pair.backend.write_all(b"anybody?").await.is_ok() {} }).await;
    pair.gateway.stream_ends("half_close_timeout", 1.0).await;
    pair.gateway.shut_down().await;
}

#[tokio::test]
async fn unidirectional_streams_reach_the_backend_and_end_cleanly() {
    let backend = TcpBackend::bind().await;
    let gateway = TestGateway::with_tcp("/in", &backend).await;
    let session = gateway.session("/in").await;
    let mut send = session.open_uni().await.unwrap();
    let sent = pattern(100_000, 9);
    send.write(&sent).await.unwrap();
    send.finish();
    let mut server = backend.accept().await;
    let (read, ended) = read_to_end(&mut server).await;
    assert!(read == sent && ended.is_ok());
    // What the backend answers is not for anybody.
    server.write_all(b"thanks").await.unwrap();
    drop(server);
    gateway.stream_ends("finished", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_route_may_refuse_unidirectional_streams() {
    let backend = TcpBackend::bind().await;
    let setup = Setup::new().route_with("/x", Some(backend.address()), None, "uni = \"refuse\"");
    let gateway = setup.start().await;
    let session = gateway.session("/x").await;
    let send = session.open_uni().await.unwrap();
    assert_eq!(soon(send.stopped()).await, Some(StreamError::Ended(codes::REFUSED)));
    gateway.stream_ends("refused", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn streams_above_the_limit_are_reset_with_their_own_code() {
    let backend = TcpBackend::bind().await;
    let keys = "limits = { streams_per_session = 2 }";
    let setup = Setup::new().route_with("/x", Some(backend.address()), None, keys);
    let gateway = setup.start().await;
    let session = gateway.session("/x").await;
    let _a = session.open_bidi().await.unwrap();
    let _b = session.open_bidi().await.unwrap();
    gateway.metric_reaches("tidegate_streams", &[], 2.0).await;
    let (_send, mut recv) = session.open_bidi().await.unwrap();
    let refused = Err(StreamError::Ended(codes::TOO_MANY_STREAMS));
    assert_eq!(soon(recv.read()).await, refused);
    gateway.stream_ends("too_many_streams", 1.0).await;
    gateway.shut_down().await;
}

//! Other shapes of session: one connection for all of it, and streams that the gateway opens. S7's 502 and
//! 504, G8, and the table of endings for each shape.

mod speaking_first;

use std::{net::SocketAddr, time::Duration};

use tidegate::client::{
    Closed, Connection, RecvStream, RequestOptions, SendStream, Session, StreamError,
};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use self::speaking_first::{ask, dialogues, serve};
use crate::harness::{
    Setup, TcpBackend, TestGateway, echo_tcp, expect_reset, expect_text, pattern, read_to_end, soon,
};

const PER_SESSION: &str = "streams = \"per-session\"";
const GATEWAY_OPENS: &str = "streams = \"per-session\"\nopens = \"gateway\"";
const PUSH_UNI: &str = "push = \"uni\"";
const PUSH_BIDI: &str = "push = \"bidi\"";

/// The gateway's codes, as the README lists them.
mod codes {
    pub(super) const BACKEND_RESET: u32 = 2;
    pub(super) const REFUSED: u32 = 5;
    pub(super) const SECOND_STREAM: u32 = 10;

    pub(super) const SESSION_BACKEND_FINISHED: u32 = 10;
    pub(super) const SESSION_BACKEND_RESET: u32 = 11;
    pub(super) const SESSION_STREAM_CUT: u32 = 13;
    pub(super) const SESSION_HALF_CLOSE_TIMEOUT: u32 = 14;
}

fn closed_with(code: u32, reason: &str) -> Closed {
    Closed::ByServer { code, reason: reason.to_owned() }
}

async fn gateway_with(address: SocketAddr, keys: &str) -> TestGateway {
    Setup::new().route_with("/game", Some(address), None, keys).start().await
}

/// A session of some shape whose one stream and connection the test holds.
struct Pair {
    gateway: TestGateway,
    /// Kept, so that the connection outlives the session.
    _connection: Connection,
    session: Session,
    send: SendStream,
    recv: RecvStream,
    backend: TcpStream,
}

async fn pair(keys: &str) -> Pair {
    let backend = TcpBackend::bind().await;
    let gateway = gateway_with(backend.address(), keys).await;
    let connection = gateway.connect().await;
    let options = RequestOptions::default();
    let session = connection.open_session(&gateway.url("/game"), &options).await.unwrap();
    let by_gateway = keys.contains("gateway") || keys.contains("push");
    let (send, recv) = if by_gateway {
        soon(session.accept_bidi()).await.unwrap()
    } else {
        session.open_bidi().await.unwrap()
    };
    let backend = backend.accept().await;
    Pair { gateway, _connection: connection, session, send, recv, backend }
}

// What happens before there is a session.

#[tokio::test]
async fn a_dead_backend_is_502_where_a_session_is_one_connection() {
    let dead = TcpBackend::bind().await.address();
    for keys in [PER_SESSION, GATEWAY_OPENS, PUSH_UNI, PUSH_BIDI] {
        let gateway = gateway_with(dead, keys).await;
        let refused = gateway.refusal("/game", &RequestOptions::default()).await;
        assert_eq!(refused, (502, "backend_unreachable".to_owned()), "{keys}");
        let labels = [("reason", "backend_unreachable"), ("route", "game")];
        gateway.metric_reaches("tidegate_session_rejects_total", &labels, 1.0).await;
        assert!(gateway.metric("tidegate_sessions_total", &[]).abs() < 0.5);
        gateway.shut_down().await;
    }
}

/// A listener that answers no more, because its queue is full.
async fn swallowing() -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
        assert!(queued.len() < 16, "the queue is never full");
    }
    (listener, queued)
}

/// A route with one connection per session to this address, given up after so long.
async fn gateway_that_waits(address: SocketAddr, connect_timeout: &str) -> TestGateway {
    let tables = format!(
        "[[route]]\nname = \"game\"\npath = \"/game\"\nbackend = \"game\"\norigins = \"any\"\n\
         {PER_SESSION}\n[backend.game]\nconnect_timeout = \"{connect_timeout}\"\n\
         endpoints = [{{ tcp = \"{address}\" }}]\n"
    );
    Setup::new().tables(&tables).start().await
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_504_where_a_session_is_one_connection() {
    let (listener, _queued) = swallowing().await;
    let gateway = gateway_that_waits(listener.local_addr().unwrap(), "200ms").await;
    let refused = gateway.refusal("/game", &RequestOptions::default()).await;
    assert_eq!(refused, (504, "backend_timeout".to_owned()));
    let labels = [("reason", "backend_timeout"), ("route", "game")];
    gateway.metric_reaches("tidegate_session_rejects_total", &labels, 1.0).await;
    gateway.shut_down().await;
}

/// Waits until so many tasks run in the gateway.
async fn tasks_become(gateway: &TestGateway, wanted: impl Fn(usize) -> bool) {
    soon(async {
        while !wanted(gateway.running().lifecycle().running_tasks()) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_gives_up_its_request_ends_the_dial() {
    let (listener, _queued) = swallowing().await;
    let gateway = gateway_that_waits(listener.local_addr().unwrap(), "30s").await;
    let connection = gateway.connect().await;
    tasks_become(&gateway, |tasks| tasks > 0).await;
    let idle = gateway.running().lifecycle().running_tasks();

    let (url, options) = (gateway.url("/game"), RequestOptions::default());
    tokio::select! {
        answer = connection.open_session(&url, &options) => panic!("{answer:?}"),
        () = tasks_become(&gateway, |tasks| tasks > idle) => {}
    }
    // Dropping the request has reset its stream.
    tasks_become(&gateway, |tasks| tasks == idle).await;
    let (status, _) = soon(connection.fetch(http::Method::GET, &gateway.url("/"))).await.unwrap();
    assert_eq!(status, 200, "the connection lives on");

    let (answer, ()) = tokio::join!(connection.open_session(&url, &options), async {
        tasks_become(&gateway, |tasks| tasks > idle).await;
        connection.quic().close(0_u32.into(), b"");
        tasks_become(&gateway, |tasks| tasks < idle).await;
    });
    assert!(answer.is_err());
    gateway.shut_down().await;
}

/// Browsers open streams before they have the answer.
#[tokio::test]
async fn a_stream_that_comes_during_the_dial_is_kept_for_the_session() {
    let (listener, queued) = swallowing().await;
    let gateway = gateway_that_waits(listener.local_addr().unwrap(), "20s").await;
    let connection = gateway.connect().await;
    tasks_become(&gateway, |tasks| tasks > 0).await;
    let idle = gateway.running().lifecycle().running_tasks();
    let (url, options) = (gateway.url("/game"), RequestOptions::default());
    let opened = connection.open_session(&url, &options);
    let early = async {
        tasks_become(&gateway, |tasks| tasks > idle).await;
        let (mut send, recv) = connection.quic().open_bi().await.unwrap();
        send.write_all(&[0x40, 0x41, 0]).await.unwrap();
        send.write_all(b"early").await.unwrap();
        connection.quic().send_datagram(b"\x00early".to_vec().into()).unwrap();
        // The backend wakes up: the kernel asks it again within seconds.
        drop(queued);
        let mut accepted = Vec::new();
        loop {
            let (mut stream, _) = soon(listener.accept()).await.unwrap();
            let mut read = [0; 5];
            if let Ok(5) = soon(tokio::io::AsyncReadExt::read_exact(&mut stream, &mut read)).await {
                assert_eq!(&read, b"early");
                return (send, recv, stream, accepted);
            }
            accepted.push(stream);
        }
    };
    let (session, (_send, mut recv, mut backend, _)) = tokio::join!(opened, early);
    let session = session.unwrap();
    assert_eq!(session.id(), 0, "what came early was this session's");
    backend.write_all(b"reply").await.unwrap();
    let mut reply = [0; 5];
    soon(recv.read_exact(&mut reply)).await.unwrap();
    assert_eq!(&reply, b"reply");
    session.close(0, "").await;
    gateway.shut_down().await;
}

// The endings of a session with one connection.

#[tokio::test]
async fn further_streams_of_a_session_with_one_connection_are_refused() {
    for keys in [PER_SESSION, GATEWAY_OPENS] {
        let mut pair = pair(keys).await;
        for _ in 0..3 {
            let (mut send, mut recv) = pair.session.open_bidi().await.unwrap();
            _ = send.write(b"x").await;
            let refused = StreamError::Ended(codes::SECOND_STREAM);
            assert_eq!(soon(recv.read()).await, Err(refused));
            assert_eq!(soon(send.stopped()).await, Some(refused));
        }
        let uni = pair.session.open_uni().await.unwrap();
        assert_eq!(soon(uni.stopped()).await, Some(StreamError::Ended(codes::REFUSED)));
        pair.gateway.stream_ends("second_stream", 3.0).await;
        pair.send.write(b"on").await.unwrap();
        expect_text(&mut pair.backend, b"on").await;
        pair.gateway.shut_down().await;
    }
}

#[tokio::test]
async fn halves_end_one_after_the_other_and_the_session_after_both() {
    for keys in [PER_SESSION, GATEWAY_OPENS] {
        let mut pair = pair(keys).await;
        pair.send.write(b"question").await.unwrap();
        pair.send.finish();
        let (question, ended) = read_to_end(&mut pair.backend).await;
        assert_eq!((&question[..], ended.is_ok()), (&b"question"[..], true));
        let answer = pattern(300_000, 5);
        let write = async {
            pair.backend.write_all(&answer).await.unwrap();
            pair.backend.shutdown().await.unwrap();
        };
        let ((), read) = soon(async { tokio::join!(write, pair.recv.read_to_end(400_000)) }).await;
        assert!(read.unwrap() == answer, "what came differs");
        let finished = closed_with(codes::SESSION_BACKEND_FINISHED, "backend_finished");
        assert_eq!(soon(pair.session.closed()).await, finished, "{keys}");
        pair.gateway.session_ends("backend_finished", 1.0).await;
        pair.gateway.is_empty().await;
        pair.gateway.shut_down().await;
    }
}

/// G8: a backend that breaks off is a session closed by rule, and no clean end.
#[tokio::test]
async fn a_cut_reply_is_a_reset_and_closes_the_session() {
    for keys in [PER_SESSION, GATEWAY_OPENS] {
        let mut pair = pair(keys).await;
        pair.backend.write_all(b"half a").await.unwrap();
        assert_eq!(soon(pair.recv.read()).await.unwrap().unwrap(), &b"half a"[..]);
        pair.backend.set_zero_linger().unwrap();
        drop(pair.backend);
        let reset = StreamError::Ended(codes::BACKEND_RESET);
        assert_eq!(soon(pair.recv.read()).await, Err(reset), "{keys}");
        assert_eq!(soon(pair.send.stopped()).await, Some(reset));
        let closed = closed_with(codes::SESSION_BACKEND_RESET, "backend_reset");
        assert_eq!(soon(pair.session.closed()).await, closed);
        pair.gateway.session_ends("backend_reset", 1.0).await;
        pair.gateway.stream_ends("backend_reset", 1.0).await;
        pair.gateway.shut_down().await;
    }
}

/// G8: the client must not wait for a stream that will never come to anything.
#[tokio::test]
async fn a_connection_that_breaks_before_its_stream_closes_the_session() {
    let backend = TcpBackend::bind().await;
    let gateway = gateway_with(backend.address(), PER_SESSION).await;
    let session = gateway.session("/game").await;
    let server = backend.accept().await;
    server.set_zero_linger().unwrap();
    drop(server);
    let closed = closed_with(codes::SESSION_BACKEND_RESET, "backend_reset");
    assert_eq!(soon(session.closed()).await, closed);
    gateway.session_ends("backend_reset", 1.0).await;
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_client_that_resets_its_one_stream_ends_its_session() {
    let mut pair = pair(PER_SESSION).await;
    pair.send.write(b"x").await.unwrap();
    expect_text(&mut pair.backend, b"x").await;
    pair.send.reset(99);
    expect_reset(&mut pair.backend).await;
    let closed = closed_with(codes::SESSION_STREAM_CUT, "stream_cut");
    assert_eq!(soon(pair.session.closed()).await, closed);
    pair.gateway.stream_ends("client_reset", 1.0).await;
    pair.gateway.session_ends("stream_cut", 1.0).await;
    pair.gateway.shut_down().await;
}

#[tokio::test]
async fn a_client_that_stops_its_one_stream_may_go_on_sending() {
    for keys in [PER_SESSION, GATEWAY_OPENS] {
        let mut pair = pair(keys).await;
        pair.recv.stop(3);
        pair.send.write(b"last words").await.unwrap();
        pair.send.finish();
        let (said, ended) = read_to_end(&mut pair.backend).await;
        assert_eq!((&said[..], ended.is_ok()), (&b"last words"[..], true));
        let closed = closed_with(codes::SESSION_STREAM_CUT, "stream_cut");
        assert_eq!(soon(pair.session.closed()).await, closed);
        pair.gateway.stream_ends("client_stopped", 1.0).await;
        pair.gateway.shut_down().await;
    }
}

#[tokio::test]
async fn a_half_closed_connection_that_stands_still_closes_the_session() {
    let keys = format!("{PER_SESSION}\nhalf_close_timeout = \"50ms\"");
    let mut pair = pair(&keys).await;
    pair.send.finish();
    // Behind the client's FIN.
    soon(pair.backend.ready(Interest::ERROR)).await.unwrap();
    assert!(pair.backend.take_error().unwrap().is_some(), "the connection is broken");
    let closed = closed_with(codes::SESSION_HALF_CLOSE_TIMEOUT, "half_close_timeout");
    assert_eq!(soon(pair.session.closed()).await, closed);
    pair.gateway.shut_down().await;
}

#[tokio::test]
async fn a_session_that_its_client_closes_cuts_what_is_open() {
    for keys in [PER_SESSION, GATEWAY_OPENS, PUSH_BIDI] {
        let mut pair = pair(keys).await;
        pair.send.write(b"half a").await.unwrap();
        expect_text(&mut pair.backend, b"half a").await;
        pair.session.close(7, "bye").await;
        expect_reset(&mut pair.backend).await;
        assert_eq!(soon(pair.recv.read()).await, Err(StreamError::SessionGone), "{keys}");
        pair.gateway.stream_ends("session_ended", 1.0).await;
        pair.gateway.session_ends("client_closed", 1.0).await;
        pair.gateway.shut_down().await;
    }
}

#[tokio::test]
async fn a_lost_connection_resets_what_is_open() {
    for keys in [PER_SESSION, GATEWAY_OPENS, PUSH_BIDI] {
        let mut pair = pair(keys).await;
        pair.session.quic().close(0x100_u32.into(), b"");
        expect_reset(&mut pair.backend).await;
        pair.gateway.session_ends("connection_closed", 1.0).await;
        pair.gateway.shut_down().await;
    }
}

#[tokio::test]
async fn a_drain_lets_a_dialogue_end_by_itself() {
    for keys in [PER_SESSION, GATEWAY_OPENS, PUSH_BIDI] {
        let backend = TcpBackend::bind().await;
        let gateway = Setup::with_drain("delay = \"0s\"\ngrace = \"20s\"")
            .route_with("/game", Some(backend.address()), None, keys)
            .start()
            .await;
        let session = gateway.session("/game").await;
        let (mut send, mut recv) = if keys == PER_SESSION {
            session.open_bidi().await.unwrap()
        } else {
            soon(session.accept_bidi()).await.unwrap()
        };
        let server = backend.accept().await;
        let dialogue = &dialogues()[0];
        let client = async {
            assert!(soon(session.draining()).await);
            let (_server, ()) =
                tokio::join!(serve(server, dialogue), ask(&mut send, &mut recv, dialogue));
            // Whoever is first: both know that all is said.
            session.close(0, "").await;
        };
        let (drained, ()) = tokio::join!(gateway.shut_down(), client);
        assert_eq!(drained.cut, 0, "{keys}");
    }
}

#[tokio::test]
async fn what_is_left_after_the_grace_is_closed_with_its_code() {
    for keys in [PER_SESSION, GATEWAY_OPENS, PUSH_BIDI] {
        let mut pair = pair(keys).await;
        pair.send.write(b"x").await.unwrap();
        expect_text(&mut pair.backend, b"x").await;
        let (drained, closed) = tokio::join!(pair.gateway.shut_down(), soon(pair.session.closed()));
        assert_eq!((drained.cut, closed), (1, closed_with(1, "drain_deadline")), "{keys}");
        expect_reset(&mut pair.backend).await;
    }
}

// Pushed streams.

#[tokio::test]
async fn a_feed_that_is_cut_is_a_reset_and_the_session_lives_on() {
    let (backend, echo) = (TcpBackend::bind().await, echo_tcp().await);
    let gateway = Setup::new()
        .route_with("/game", Some(backend.address()), None, PUSH_UNI)
        .route("/echo", Some(echo), None)
        .start()
        .await;
    let session = gateway.session("/game").await;
    let mut feed = backend.accept().await;
    let mut recv = soon(session.accept_uni()).await.unwrap();
    feed.write_all(b"half a").await.unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"half a"[..]);
    feed.set_zero_linger().unwrap();
    drop(feed);
    let reset = StreamError::Ended(codes::BACKEND_RESET);
    assert_eq!(soon(recv.read()).await, Err(reset));
    gateway.stream_ends("backend_reset", 1.0).await;

    let (mut send, mut recv) = session.open_bidi().await.unwrap();
    send.write(b"x").await.unwrap();
    let mut server = backend.accept().await;
    expect_text(&mut server, b"x").await;
    server.write_all(b"y").await.unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"y"[..]);
    gateway.shut_down().await;
}

#[tokio::test]
async fn a_client_that_stops_a_feed_ends_its_connection_alone() {
    let backend = TcpBackend::bind().await;
    let gateway = gateway_with(backend.address(), PUSH_UNI).await;
    let session = gateway.session("/game").await;
    let mut feed = backend.accept().await;
    soon(session.accept_uni()).await.unwrap().stop(4);
    let (heard, _) = read_to_end(&mut feed).await;
    assert!(heard.is_empty());
    gateway.stream_ends("client_stopped", 1.0).await;
    assert!((gateway.metric("tidegate_sessions", &[]) - 1.0).abs() < 0.5);
    gateway.shut_down().await;
}

/// QUIC's credit here; that of the session is in the unit tests of the transport.
#[tokio::test]
async fn a_feed_waits_for_the_clients_credit_and_holds_up_nothing() {
    let backend = TcpBackend::bind().await;
    let gateway = gateway_with(backend.address(), PUSH_BIDI).await;
    let trust = tidegate::client::Trust::Hashes(vec![gateway.hash()]);
    let options = tidegate::client::Options {
        max_incoming_streams: 0,
        ..tidegate::client::Options::new(trust)
    };
    let endpoint = gateway.endpoint_with(&options);
    let connection = endpoint.connect(gateway.address(), "localhost").await.unwrap();
    let asked = RequestOptions::default();
    let session = soon(connection.open_session(&gateway.url("/game"), &asked)).await.unwrap();
    let mut feed = backend.accept().await;
    feed.write_all(b"news").await.unwrap();

    let (mut send, mut recv) = soon(session.open_bidi()).await.unwrap();
    send.write(b"x").await.unwrap();
    let mut server = backend.accept().await;
    expect_text(&mut server, b"x").await;
    server.write_all(b"y").await.unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"y"[..]);
    assert!(gateway.metric("tidegate_streams_total", &[("kind", "gateway_bidi")]).abs() < 0.5);

    connection.quic().set_max_concurrent_bi_streams(1_u32.into());
    let (_send, mut recv) = soon(session.accept_bidi()).await.unwrap();
    assert_eq!(soon(recv.read()).await.unwrap().unwrap(), &b"news"[..]);
    session.close(0, "").await;
    gateway.shut_down().await;
}

//! Servers that speak first, in each shape of session.

use tidegate::client::{RecvStream, RequestOptions, SendStream};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    GATEWAY_OPENS, PER_SESSION, PUSH_BIDI, PUSH_UNI, Pair, closed_with, codes, gateway_with, pair,
};
use crate::harness::{TcpBackend, expect_text, pattern, read_to_end, soon};

/// Who says a line.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Who {
    Server,
    Client,
}
use Who::{Client, Server};

/// A dialogue in which the server has the first and the last word, and then closes.
const SMTP: &[(Who, &[u8])] = &[
    (Server, b"220 mail.test ESMTP\r\n"),
    (Client, b"EHLO client.test\r\n"),
    (Server, b"250-mail.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"),
    (Client, b"MAIL FROM:<a@client.test>\r\n"),
    (Server, b"250 2.1.0 Ok\r\n"),
    (Client, b"QUIT\r\n"),
    (Server, b"221 2.0.0 Bye\r\n"),
];

/// Banners cross, then binary packets of some size.
fn ssh() -> Vec<(Who, Vec<u8>)> {
    vec![
        (Server, b"SSH-2.0-Test_1.0\r\n".to_vec()),
        (Client, b"SSH-2.0-Client_1.0\r\n".to_vec()),
        (Server, pattern(40_000, 1)),
        (Client, pattern(70_000, 2)),
        (Server, pattern(200_000, 3)),
    ]
}

pub(super) fn dialogues() -> [Vec<(Who, Vec<u8>)>; 2] {
    [SMTP.iter().map(|(who, text)| (*who, text.to_vec())).collect(), ssh()]
}

/// Plays the server's part, and closes.
pub(super) async fn serve(mut stream: TcpStream, dialogue: &[(Who, Vec<u8>)]) -> TcpStream {
    for (who, text) in dialogue {
        match who {
            Server => soon(stream.write_all(text)).await.unwrap(),
            Client => expect_text(&mut stream, text).await,
        }
    }
    stream.shutdown().await.unwrap();
    stream
}

/// Plays the client's part up to the server's end, and finishes.
pub(super) async fn ask(send: &mut SendStream, recv: &mut RecvStream, dialogue: &[(Who, Vec<u8>)]) {
    let mut held = Vec::new();
    for (who, text) in dialogue {
        match who {
            Client => soon(send.write(text)).await.unwrap(),
            Server => {
                while held.len() < text.len() {
                    let chunk = soon(recv.read()).await.unwrap().expect("the server ended early");
                    held.extend_from_slice(&chunk);
                }
                let rest = held.split_off(text.len());
                assert!(held == *text, "what came differs");
                held = rest;
            }
        }
    }
    assert!(held.is_empty());
    assert_eq!(soon(recv.read()).await, Ok(None));
    send.finish();
}

/// Holds a dialogue over a session of some shape, and checks that both sides end cleanly.
async fn dialogue_over(keys: &str) {
    for dialogue in dialogues() {
        let Pair { gateway, _connection, session, mut send, mut recv, backend } = pair(keys).await;
        let client = ask(&mut send, &mut recv, &dialogue);
        let (mut backend, ()) = tokio::join!(serve(backend, &dialogue), client);
        let (rest, ended) = read_to_end(&mut backend).await;
        assert!(rest.is_empty() && ended.is_ok(), "the client's end is clean");
        gateway.stream_ends("finished", 1.0).await;
        if keys.contains("per-session") {
            let finished = closed_with(codes::SESSION_BACKEND_FINISHED, "backend_finished");
            assert_eq!(soon(session.closed()).await, finished);
            gateway.session_ends("backend_finished", 1.0).await;
        } else {
            session.close(0, "").await;
            gateway.session_ends("client_closed", 1.0).await;
        }
        gateway.shut_down().await;
    }
}

/// The client opens a stream and says nothing on it.
#[tokio::test]
async fn a_server_may_speak_first_on_each_stream() {
    dialogue_over("").await;
}

#[tokio::test]
async fn a_server_may_speak_first_on_a_sessions_one_connection() {
    dialogue_over(PER_SESSION).await;
}

#[tokio::test]
async fn a_server_may_speak_first_on_a_stream_that_the_gateway_opens() {
    dialogue_over(GATEWAY_OPENS).await;
}

#[tokio::test]
async fn a_server_may_speak_first_on_a_pushed_stream() {
    dialogue_over(PUSH_BIDI).await;
}

#[tokio::test]
async fn a_server_that_speaks_alone_is_heard_on_a_pushed_stream() {
    for dialogue in dialogues() {
        let backend = TcpBackend::bind().await;
        let gateway = gateway_with(backend.address(), PUSH_UNI).await;
        let session = gateway.session("/game").await;
        let said: Vec<_> = dialogue.into_iter().filter(|(who, _)| *who == Server).collect();
        let wanted: Vec<u8> = said.iter().flat_map(|(_, text)| text.clone()).collect();
        let read = async {
            let mut recv = soon(session.accept_uni()).await.unwrap();
            soon(recv.read_to_end(1_000_000)).await.unwrap()
        };
        let stream = backend.accept().await;
        let (mut stream, read) = tokio::join!(serve(stream, &said), read);
        assert!(read == wanted, "what came differs");
        let (heard, ended) = read_to_end(&mut stream).await;
        assert!(heard.is_empty() && ended.is_ok(), "nothing is said to a feed");
        gateway.stream_ends("finished", 1.0).await;
        let labels = [("kind", "gateway_uni")];
        gateway.metric_reaches("tidegate_streams_total", &labels, 1.0).await;
        session.close(0, "").await;
        gateway.shut_down().await;
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_on_a_unidirectional_stream_is_not_heard() {
    let backend = TcpBackend::bind().await;
    let gateway = gateway_with(backend.address(), "").await;
    let session = gateway.session("/game").await;
    let mut send = session.open_uni().await.unwrap();
    let mut server = backend.accept().await;
    server.write_all(b"220 mail.test ESMTP\r\n").await.unwrap();
    send.write(b"one way").await.unwrap();
    send.finish();
    let (said, ended) = read_to_end(&mut server).await;
    assert_eq!((&said[..], ended.is_ok()), (&b"one way"[..], true));
    drop(server);
    gateway.stream_ends("finished", 1.0).await;
    let discarded = [("reason", "discarded")];
    gateway.metric_reaches("tidegate_stream_lost_bytes_total", &discarded, 21.0).await;
    gateway.shut_down().await;
}

/// What comes before the stream waits in the kernel, and none of it is lost.
#[tokio::test]
async fn a_greeting_waits_for_the_stream() {
    let backend = TcpBackend::bind().await;
    let gateway = gateway_with(backend.address(), PER_SESSION).await;
    let session = gateway.session("/game").await;
    let mut server = backend.accept().await;
    let greeting = pattern(50_000, 7);
    server.write_all(&greeting).await.unwrap();
    server.shutdown().await.unwrap();
    // An answer on the session's connection shows that the gateway has had time to lose it.
    let options = RequestOptions::default();
    assert_eq!(gateway.refusal("/nowhere", &options).await.0, 404);
    let (mut send, mut recv) = session.open_bidi().await.unwrap();
    assert!(soon(recv.read_to_end(100_000)).await.unwrap() == greeting, "what came differs");
    send.write(b"thanks").await.unwrap();
    send.finish();
    assert_eq!(read_to_end(&mut server).await.0, b"thanks");
    gateway.session_ends("backend_finished", 1.0).await;
    gateway.shut_down().await;
}

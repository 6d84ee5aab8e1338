//! The endings over backends that are no plain TCP: TLS, and Unix sockets.

use std::path::PathBuf;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::support::*;
use crate::{
    backend::{TlsServer, tests::settings},
    config,
    reason::StreamEnd,
    transport::memory::{SeenEnd, soon},
};

#[tokio::test]
async fn over_tls_each_half_ends_by_itself() {
    let server = TlsServer::new().await;
    let gateway = Gateway::new(route_to(server.settings()));
    let (send, recv) = gateway.session().await.open_bidi();
    let mut peer = server.accept().await;

    send.write("question").await;
    send.finish();
    let (bytes, end) = peer.read_to_end().await;
    assert_eq!((bytes, end.is_ok()), (b"question".to_vec(), true));
    peer.write(b"answer").await;
    peer.finish().await;
    assert_eq!(recv.read_to_end().await, (b"answer".to_vec(), SeenEnd::Finished));
    gateway.first_stream_ends(StreamEnd::Finished).await;
}

#[tokio::test]
async fn over_tls_the_backends_close_notify_is_a_clean_end_and_the_client_may_go_on() {
    let server = TlsServer::new().await;
    let gateway = Gateway::new(route_to(server.settings()));
    let (send, recv) = gateway.session().await.open_bidi();
    let mut peer = server.accept().await;

    peer.write(b"all there is").await;
    peer.finish().await;
    assert_eq!(recv.read_to_end().await, (b"all there is".to_vec(), SeenEnd::Finished));
    send.write("and you").await;
    assert_eq!(peer.read_exact(7).await, b"and you");
    send.finish();
    let (rest, end) = peer.read_to_end().await;
    assert!(rest.is_empty() && end.is_ok());
    gateway.first_stream_ends(StreamEnd::Finished).await;
}

/// A server that is killed sends FIN like one that is done; `close_notify` tells them apart.
#[tokio::test]
async fn over_tls_a_truncated_reply_reaches_the_client_as_a_reset() {
    let server = TlsServer::new().await;
    let gateway = Gateway::new(route_to(server.settings()));
    let (send, recv) = gateway.session().await.open_bidi();
    let mut peer = server.accept().await;

    peer.write(b"half a rep").await;
    assert_eq!(recv.read_exact(10).await, b"half a rep");
    peer.cut().await;
    assert_eq!(recv.reset().await, Some(StreamEnd::BackendReset.code()));
    assert_eq!(send.stopped().await, Some(StreamEnd::BackendReset.code()));
    gateway.first_stream_ends(StreamEnd::BackendReset).await;
}

#[tokio::test]
async fn over_tls_resets_pass_in_both_directions() {
    let server = TlsServer::new().await;
    let gateway = Gateway::new(route_to(server.settings()));
    let client = gateway.session().await;

    let (send, _recv) = client.open_bidi();
    let mut peer = server.accept().await;
    send.reset(9);
    let end = peer.read_to_end().await.1.unwrap_err();
    assert!(end.to_string().contains("reset"), "{end}");

    let (_send, recv) = client.open_bidi();
    server.accept().await.reset();
    assert_eq!(recv.reset().await, Some(StreamEnd::BackendReset.code()));
}

#[tokio::test]
async fn over_tls_megabytes_pass_whole() {
    let server = TlsServer::new().await;
    let gateway = Gateway::new(route_to(server.settings()));
    let client = gateway.session().await;
    let (send, recv) = client.open_bidi();
    let mut peer = server.accept().await;
    let bytes = pattern(5_000_001);

    let up = async {
        for piece in bytes.chunks(70_001) {
            send.write(piece.to_vec()).await;
        }
        send.finish();
    };
    let ((), (seen, end)) = tokio::join!(up, peer.read_to_end());
    assert!(seen == bytes && end.is_ok());
    let reply = async {
        peer.write(&bytes).await;
        peer.finish().await;
    };
    let ((), seen) = tokio::join!(reply, recv.read_to_end());
    assert!(seen == (bytes, SeenEnd::Finished));
    gateway.first_stream_ends(StreamEnd::Finished).await;
    client.close(0, "");
    gateway.leaves_nothing_behind().await;
}

#[tokio::test]
async fn a_backend_without_its_tls_is_unreachable() {
    let (server, other) = (TlsServer::new().await, TlsServer::new().await);
    let mut settings = server.settings();
    settings.tls = other.settings().tls;
    let gateway = Gateway::new(route_to(settings));
    let (_send, recv) = gateway.session().await.open_bidi();
    server.refuses().await;
    assert_eq!(recv.reset().await, Some(StreamEnd::BackendUnreachable.code()));
    gateway.first_stream_ends(StreamEnd::BackendUnreachable).await;
}

/// A server at a Unix socket, whose file goes with it.
struct UnixServer {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixServer {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id()));
        _ = std::fs::remove_file(&path);
        Self { listener: UnixListener::bind(&path).unwrap(), path }
    }

    fn route(&self) -> config::Route {
        let mut backend = settings(&[]);
        backend.endpoints.push(config::Endpoint {
            name: "0".into(),
            tcp: None,
            unix: Some(self.path.clone()),
            udp: None,
            draining: false,
            weight: 1,
        });
        route_to(backend)
    }

    async fn accept(&self) -> UnixStream {
        soon(self.listener.accept()).await.unwrap().0
    }
}

impl Drop for UnixServer {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.path);
    }
}

async fn read_to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    soon(stream.read_to_end(&mut all)).await.unwrap();
    all
}

#[tokio::test]
async fn at_a_unix_socket_each_half_ends_by_itself() {
    let server = UnixServer::new("halves");
    let gateway = Gateway::new(server.route());
    let client = gateway.session().await;

    let (send, recv) = client.open_bidi();
    let mut peer = server.accept().await;
    send.write("question").await;
    send.finish();
    assert_eq!(read_to_end(&mut peer).await, b"question");
    peer.write_all(b"answer").await.unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(recv.read_to_end().await, (b"answer".to_vec(), SeenEnd::Finished));
    gateway.first_stream_ends(StreamEnd::Finished).await;

    let (send, recv) = client.open_bidi();
    let mut peer = server.accept().await;
    peer.write_all(b"first").await.unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(recv.read_to_end().await, (b"first".to_vec(), SeenEnd::Finished));
    send.write("still here").await;
    send.finish();
    assert_eq!(read_to_end(&mut peer).await, b"still here");
    until(|| gateway.route.stream_ends.get(StreamEnd::Finished) == 2).await;
}

#[tokio::test]
async fn at_a_unix_socket_the_client_is_introduced_first() {
    let server = UnixServer::new("introduction");
    let v1 = |backend: &mut config::Backend| backend.proxy_protocol = config::ProxyProtocol::V1;
    let gateway = Gateway::new(with_backend(server.route(), v1));
    let (send, _recv) = gateway.session().await.open_bidi();
    send.write("hello").await;
    send.finish();
    let seen = String::from_utf8(read_to_end(&mut server.accept().await).await).unwrap();
    let (header, rest) = seen.split_once("\r\n").unwrap();
    assert!(header.starts_with("PROXY ") && rest == "hello", "{seen}");
}

#[tokio::test]
async fn at_a_unix_socket_megabytes_pass_whole() {
    let server = UnixServer::new("bulk");
    let gateway = Gateway::new(server.route());
    let (send, recv) = gateway.session().await.open_bidi();
    let mut peer = server.accept().await;
    let bytes = pattern(5_000_001);
    let up = async {
        for piece in bytes.chunks(70_001) {
            send.write(piece.to_vec()).await;
        }
        send.finish();
    };
    let ((), seen) = tokio::join!(up, read_to_end(&mut peer));
    assert!(seen == bytes);
    let reply = async {
        soon(peer.write_all(&bytes)).await.unwrap();
        peer.shutdown().await.unwrap();
    };
    let ((), seen) = tokio::join!(reply, recv.read_to_end());
    assert!(seen == (bytes, SeenEnd::Finished));
}

/// The one thing that a Unix socket has for "cut": closing with something unread.
#[tokio::test]
async fn at_a_unix_socket_a_backend_that_leaves_without_reading_is_a_reset() {
    let server = UnixServer::new("unread");
    let gateway = Gateway::new(server.route());
    let (send, recv) = gateway.session().await.open_bidi();
    let mut peer = server.accept().await;
    send.write("question").await;
    peer.readable().await.unwrap();
    peer.write_all(b"half").await.unwrap();
    assert_eq!(recv.read_exact(4).await, b"half");
    drop(peer);
    assert_eq!(recv.reset().await, Some(StreamEnd::BackendReset.code()));
    gateway.first_stream_ends(StreamEnd::BackendReset).await;
}

/// A Unix socket has no RST. What is left to tell a cut from an end: nobody listens any more.
#[tokio::test]
async fn at_a_unix_socket_a_cut_is_an_end_after_which_nobody_listens() {
    let server = UnixServer::new("cut");
    let gateway = Gateway::new(server.route());
    let client = gateway.session().await;
    let (send, _recv) = client.open_bidi();
    let mut peer = server.accept().await;
    send.write("half a quest").await;
    assert_eq!(soon(peer.read(&mut [0; 100])).await.unwrap(), 12);
    send.reset(9);
    assert_eq!(read_to_end(&mut peer).await, b"");
    let error = peer.write_all(b"answer").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);

    // Where the backend had said something that was not read, it is told.
    let (send, recv) = client.open_bidi();
    let mut peer = server.accept().await;
    recv.stop(0);
    send.write("x").await;
    assert_eq!(soon(peer.read(&mut [0; 100])).await.unwrap(), 1);
    recv.reset().await;
    peer.write_all(b"unread").await.unwrap();
    send.reset(9);
    let error = soon(peer.read(&mut [0; 100])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_unix_socket_that_nobody_serves_is_unreachable() {
    let server = UnixServer::new("gone");
    let gateway = Gateway::new(server.route());
    std::fs::remove_file(&server.path).unwrap();
    let (_send, recv) = gateway.session().await.open_bidi();
    assert_eq!(recv.reset().await, Some(StreamEnd::BackendUnreachable.code()));
    gateway.first_stream_ends(StreamEnd::BackendUnreachable).await;
}

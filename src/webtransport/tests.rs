//! The room as a whole, with the gateway's own client, over QUIC on loopback; no backends.

#![allow(clippy::disallowed_methods, reason = "tests spawn servers of their own")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{RecvStream, SendStream, Service, Session, SessionRequest, serve};
use crate::{
    client::{self, Closed, RequestOptions, StreamError, Trust},
    config,
    lifecycle::Lifecycle,
    metrics::Metrics,
    reason::Refusal,
    transport::{
        ClientEnd, Datagrams, RecvError, RecvStream as _, SendStream as _, Session as _,
        SessionEvents, SessionRequest as _,
    },
};

/// Echoes streams and datagrams; `/refuse` is refused, `/bye` is closed by the server.
struct Echo {
    datagrams: super::Datagrams,
    over: CancellationToken,
}

impl SessionEvents<Session> for Echo {
    fn bidi(&self, mut send: SendStream, mut recv: RecvStream) {
        let over = self.over.clone();
        tokio::spawn(async move {
            if over.run_until_cancelled(echo(&mut send, &mut recv)).await.is_none() {
                send.abandon();
                recv.abandon();
            }
        });
    }

    fn uni(&self, mut recv: RecvStream) {
        recv.stop(5);
    }

    fn datagram(&self, payload: Bytes) {
        let framed = [self.datagrams.prefix(), &payload].concat();
        _ = self.datagrams.try_send(framed.into());
    }

    fn open_bidi_streams(&self) -> u64 {
        0
    }

    fn max_bidi_streams(&self) -> u64 {
        256
    }
}

async fn echo(send: &mut SendStream, recv: &mut RecvStream) {
    let mut chunks = [const { Bytes::new() }; 8];
    loop {
        match recv.read_chunks(&mut chunks).await {
            Ok(Some(n)) => {
                for chunk in &mut chunks[..n] {
                    send.write(std::mem::take(chunk)).await.unwrap();
                }
            }
            Ok(None) => return send.finish(),
            Err(RecvError::Reset(code)) => return send.reset(code.unwrap_or(0) + 1),
            Err(RecvError::Lost) => return,
        }
    }
}

async fn run(request: SessionRequest, ends: tokio::sync::mpsc::Sender<ClientEnd>) {
    if request.head().path == "/refuse" {
        return request.refuse(Refusal::OriginNotAllowed).await;
    }
    let closes = request.head().path == "/bye";
    let over = CancellationToken::new();
    let _ended = over.clone().drop_guard();
    let events = Arc::new(Echo { datagrams: request.datagrams(), over });
    let mut session = request.accept(None, events).await.unwrap();
    if closes {
        return session.close(77, "bye").await;
    }
    session.drain().await;
    _ = ends.send(session.ended().await).await;
}

struct Server {
    address: std::net::SocketAddr,
    hash: [u8; 32],
    lifecycle: Lifecycle,
    ends: tokio::sync::mpsc::Receiver<ClientEnd>,
}

fn server() -> Server {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let der = key.cert.der().clone();
    #[cfg(feature = "aws-lc-rs")]
    let (hash, provider) = (
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der),
        rustls::crypto::aws_lc_rs::default_provider(),
    );
    #[cfg(not(feature = "aws-lc-rs"))]
    let (hash, provider) = (
        ring::digest::digest(&ring::digest::SHA256, &der),
        rustls::crypto::ring::default_provider(),
    );
    let private = rustls_pki_types::PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], private)
        .unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();

    let lifecycle = Lifecycle::new();
    let service = Arc::new(Service {
        header_bytes: 16_384,
        early_streams: 64,
        early_datagrams: 64,
        timeouts: config::Timeouts {
            handshake: Duration::from_secs(10),
            request: Duration::from_secs(5),
            idle_connection: Duration::from_secs(10),
            early: Duration::from_secs(2),
            linger: Duration::from_millis(100),
        },
        initial_bidi_streams: 128,
        local: address,
        lifecycle: lifecycle.clone(),
        metrics: Metrics::new(),
    });
    let (told, ends) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let (service, told) = (Arc::clone(&service), told.clone());
            tokio::spawn(async move {
                let Ok(quic) = incoming.await else { return };
                let on_request = move |request| drop(tokio::spawn(run(request, told.clone())));
                serve(quic, service, on_request).await;
            });
        }
    });
    Server { address, hash: hash.as_ref().try_into().unwrap(), lifecycle, ends }
}

impl Server {
    async fn connect(&self) -> client::Connection {
        let options = client::Options::new(Trust::Hashes(vec![self.hash]));
        let local = "127.0.0.1:0".parse().unwrap();
        let endpoint = client::Endpoint::bind(local, &options).unwrap();
        endpoint.connect(self.address, "localhost").await.unwrap()
    }

    async fn session(&self, path: &str) -> Result<client::Session, client::Refused> {
        let connection = self.connect().await;
        connection.open_session(&self.url(path), &RequestOptions::default()).await
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    async fn end(&mut self) -> ClientEnd {
        timeout(Duration::from_secs(10), self.ends.recv()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn several_sessions_and_ordinary_requests_share_a_connection() {
    let server = server();
    let connection = server.connect().await;
    let (status, body) = connection.fetch(http::Method::GET, &server.url("/")).await.unwrap();
    assert_eq!((status.as_u16(), &body[..8]), (200, &b"tidegate"[..]));

    let options = RequestOptions::default();
    let a = connection.open_session(&server.url("/a"), &options).await.unwrap();
    let b = connection.open_session(&server.url("/b"), &options).await.unwrap();
    assert_eq!((a.id(), b.id()), (4, 8));
    for (session, text) in [(&a, b"of a"), (&b, b"of b")] {
        let (mut send, mut recv) = session.open_bidi().await.unwrap();
        send.write(text).await.unwrap();
        send.finish();
        assert_eq!(recv.read_to_end(100).await.unwrap(), text);
        session.send_datagram(text).unwrap();
        assert_eq!(session.read_datagram().await.unwrap(), &text[..]);
    }
    assert!(a.draining().await);
    let (status, _) = connection.fetch(http::Method::GET, &server.url("/x")).await.unwrap();
    assert_eq!(status, 404);

    // The end of one leaves the other alone.
    let (_send, mut recv) = a.open_bidi().await.unwrap();
    let gone = u8::try_from(a.id()).unwrap();
    assert_eq!(a.close(1, "").await, Closed::ByServer { code: 0, reason: String::new() });
    assert_eq!(recv.read().await, Err(StreamError::SessionGone));
    let (mut send, mut recv) = connection.quic().open_bi().await.unwrap();
    send.write_all(&[0x40, 0x41, gone]).await.unwrap();
    assert!(
        matches!(recv.read(&mut [0]).await, Err(quinn::ReadError::Reset(c)) if c.into_inner() == 0x170d_7b68)
    );
    let (mut send, mut recv) = b.open_bidi().await.unwrap();
    send.write(b"still").await.unwrap();
    assert_eq!(recv.read().await.unwrap().unwrap(), &b"still"[..]);
}

#[tokio::test]
async fn a_refusal_says_status_and_reason() {
    let refused = server().session("/refuse").await.unwrap_err();
    let client::Refused::Status { status, reason, .. } = refused else { panic!("{refused}") };
    assert_eq!((status.as_u16(), reason.as_deref()), (403, Some("origin_not_allowed")));
}

#[tokio::test]
async fn closes_carry_code_and_reason_both_ways() {
    let mut server = server();
    let session = server.session("/echo").await.unwrap();
    session.close(7, "good bye").await;
    assert_eq!(server.end().await, ClientEnd::Closed { code: 7, reason: "good bye".to_owned() });

    let session = server.session("/bye").await.unwrap();
    let told = Closed::ByServer { code: 77, reason: "bye".to_owned() };
    assert_eq!(session.closed().await, told);
}

#[tokio::test]
async fn stream_codes_are_mapped_both_ways() {
    let server = server();
    let session = server.session("/echo").await.unwrap();
    let (mut send, mut recv) = session.open_bidi().await.unwrap();
    send.write(b"x").await.unwrap();
    assert_eq!(recv.read().await.unwrap().unwrap(), &b"x"[..]);
    send.reset(99);
    assert_eq!(recv.read().await, Err(StreamError::Ended(100)));
    let uni = session.open_uni().await.unwrap();
    assert_eq!(uni.stopped().await, Some(StreamError::Ended(5)));
}

#[tokio::test]
async fn a_connection_without_sessions_is_closed_after_the_linger() {
    let mut server = server();
    let connection = server.connect().await;
    let options = RequestOptions::default();
    let session = connection.open_session(&server.url("/"), &options).await.unwrap();
    session.finish().await;
    assert_eq!(server.end().await, ClientEnd::Closed { code: 0, reason: String::new() });
    let closed = timeout(Duration::from_secs(5), connection.quic().closed()).await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
    assert_eq!(close.error_code.into_inner(), 0x100);
    assert!(!server.lifecycle.is_draining());
}

/// Nothing that a client waits for may wait for ever.
#[tokio::test]
async fn a_client_that_waits_learns_that_the_connection_is_gone() {
    let server = server();
    let session = server.session("/echo").await.unwrap();
    let waits = async {
        tokio::join!(session.read_datagram(), session.accept_uni(), session.accept_bidi())
    };
    session.quic().close(super::no_error(), b"");

    let told = timeout(Duration::from_secs(10), waits).await.unwrap();

    assert!(matches!(told, (None, None, None)), "{told:?}");
    assert_eq!(session.closed().await, Closed::Lost);
}

//! The room as a whole, with the gateway's own client, over QUIC on loopback; no backends.

#![allow(clippy::disallowed_methods, reason = "tests spawn servers of their own")]

mod opening;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    RecvStream, SendStream, Service, Session, SessionCredit, SessionRequest, StreamOpener, greet,
    serve,
};
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

/// Echoes streams and datagrams; `/refuse` is refused, `/bye` and `/long` are closed by the server, on `/hold` no stream
/// is read before a datagram comes, on `/deaf` nothing of the session itself, and `/count` says how many datagrams
/// came together.
struct Echo {
    datagrams: super::Datagrams,
    over: CancellationToken,
    held: Option<Arc<Notify>>,
    counts: bool,
}

impl SessionEvents<Session> for Echo {
    fn bidi(&self, mut send: SendStream, mut recv: RecvStream) {
        let (over, held) = (self.over.clone(), self.held.clone());
        tokio::spawn(async move {
            let echo = async {
                if let Some(held) = held {
                    held.notified().await;
                }
                echo(&mut send, &mut recv).await;
            };
            if over.run_until_cancelled(echo).await.is_none() {
                send.abandon();
                recv.abandon();
            }
        });
    }

    fn uni(&self, mut recv: RecvStream) {
        recv.stop(5);
    }

    fn datagrams(&self, payloads: &[Bytes]) {
        if let Some(held) = &self.held {
            held.notify_one();
        }
        let count = [Bytes::from(vec![u8::try_from(payloads.len()).unwrap()])];
        for payload in if self.counts { &count } else { payloads } {
            let framed = [self.datagrams.prefix(), payload].concat();
            _ = self.datagrams.try_send(framed.into());
        }
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
                    if send.write(chunk).await.is_err() {
                        return;
                    }
                }
            }
            Ok(None) => return send.finish(),
            Err(RecvError::Reset(code)) => return send.reset(code.unwrap_or(0) + 1),
            Err(RecvError::Lost) => return,
        }
    }
}

/// Where the server's sessions tell what happens.
#[derive(Clone)]
struct Told {
    openers: tokio::sync::mpsc::Sender<StreamOpener>,
    ends: tokio::sync::mpsc::Sender<ClientEnd>,
}

async fn run(request: SessionRequest, told: Told) {
    if request.head().path == "/refuse" {
        return request.refuse(Refusal::OriginNotAllowed).await;
    }
    let closes = match request.head().path.as_str() {
        "/bye" => Some((77, "bye".to_owned())),
        "/long" => Some((u32::MAX, format!("x{}", "ä".repeat(600)))),
        _ => None,
    };
    let over = CancellationToken::new();
    let _ended = over.clone().drop_guard();
    let hold = |path| (request.head().path == path).then(Arc::<Notify>::default);
    let (held, deaf) = (hold("/hold"), hold("/deaf"));
    let held = held.or_else(|| deaf.clone());
    let counts = request.head().path == "/count";
    let events = Arc::new(Echo { datagrams: request.datagrams(), over, held, counts });
    let mut session = request.accept(None, events).await.unwrap();
    if let Some((code, reason)) = closes {
        return session.close(code, &reason).await;
    }
    if let Some(deaf) = deaf {
        deaf.notified().await;
    }
    session.drain().await;
    _ = told.openers.try_send(session.opener());
    _ = told.ends.send(session.ended().await).await;
}

struct Server {
    address: std::net::SocketAddr,
    hash: [u8; 32],
    lifecycle: Lifecycle,
    openers: tokio::sync::mpsc::Receiver<StreamOpener>,
    ends: tokio::sync::mpsc::Receiver<ClientEnd>,
}

fn server() -> Server {
    server_with(SessionCredit { data: 1 << 24, bidi: 384, uni: 272 })
}

/// A server that lets its clients do so much in a session.
fn server_with(session_credit: SessionCredit) -> Server {
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
        stream_rate: config::Rate::Unlimited,
        session_credit,
        stream_window: 1_250_000,
        local: address,
        lifecycle: lifecycle.clone(),
        metrics: Metrics::new(),
        lost: Metrics::new().unrouted_losses(),
        listener: Metrics::new().listener("test"),
    });
    let (tell_ends, ends) = tokio::sync::mpsc::channel(16);
    let (tell_openers, openers) = tokio::sync::mpsc::channel(16);
    let told = Told { openers: tell_openers, ends: tell_ends };
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let (service, told) = (Arc::clone(&service), told.clone());
            tokio::spawn(async move {
                let Ok(quic) = incoming.await else { return };
                let on_request = move |request| drop(tokio::spawn(run(request, told.clone())));
                let greeting = greet(&quic, &service);
                serve(quic, greeting, service, on_request).await;
            });
        }
    });
    Server { address, hash: hash.as_ref().try_into().unwrap(), lifecycle, openers, ends }
}

impl Server {
    async fn connect(&self) -> client::Connection {
        self.connect_with(client::Options::new(Trust::Hashes(vec![self.hash])).session_credit).await
    }

    /// A client that lets the server do so much in a session.
    async fn connect_with(&self, session_credit: SessionCredit) -> client::Connection {
        let trust = Trust::Hashes(vec![self.hash]);
        let options = client::Options { session_credit, ..client::Options::new(trust) };
        self.connect_as(&options).await
    }

    async fn connect_as(&self, options: &client::Options) -> client::Connection {
        let local = "127.0.0.1:0".parse().unwrap();
        let endpoint = client::Endpoint::bind(local, options).unwrap();
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

/// What comes in one packet is handed over at once, up to a bound.
#[tokio::test]
async fn datagrams_that_come_together_are_handed_over_together() {
    let server = server();
    let session = server.session("/count").await.unwrap();
    for (sent, counts) in [(1, &[1][..]), (20, &[20]), (100, &[64, 36])] {
        for _ in 0..sent {
            session.send_datagram(b"x").unwrap();
        }
        for count in counts {
            assert_eq!(session.read_datagram().await.unwrap()[..], [*count], "of {sent}");
        }
    }
}

#[tokio::test]
async fn datagrams_of_several_sessions_that_come_together_go_to_each_in_order() {
    let server = server();
    let connection = server.connect().await;
    let options = RequestOptions::default();
    let a = connection.open_session(&server.url("/a"), &options).await.unwrap();
    let b = connection.open_session(&server.url("/b"), &options).await.unwrap();
    for (session, number) in [(&a, 0), (&a, 1), (&b, 0), (&a, 2), (&b, 1), (&b, 2)] {
        session.send_datagram(&[number]).unwrap();
    }
    for session in [&a, &b] {
        for number in 0..3 {
            assert_eq!(session.read_datagram().await.unwrap()[..], [number]);
        }
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

/// 1,024 bytes may be sent: one of "x", and 511 times two. One byte more would cut the last character.
#[tokio::test]
async fn a_reason_that_is_too_long_is_told_up_to_a_whole_character() {
    let server = server();
    let session = server.session("/long").await.unwrap();
    let told = Closed::ByServer { code: u32::MAX, reason: format!("x{}", "ä".repeat(511)) };
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

const NO_CREDIT: SessionCredit = SessionCredit { data: 0, bidi: 0, uni: 0 };

/// WT_MAX_DATA and WT_MAX_STREAMS for bidirectional streams, up to the body.
const MAX_DATA: [u8; 4] = [0x99, 0x0b, 0x4d, 0x3d];
const MAX_STREAMS_BIDI: [u8; 4] = [0x99, 0x0b, 0x4d, 0x3f];

/// A capsule as it is on the wire.
fn raw_capsule(kind: [u8; 4], body: &[u8]) -> Bytes {
    let length = u8::try_from(body.len()).unwrap();
    [&kind[..], &[length], body].concat().into()
}

/// A stream of the session's that knows nothing of flow control.
async fn raw_bidi(session: &client::Session) -> (quinn::SendStream, quinn::RecvStream) {
    let (mut send, recv) = session.quic().open_bi().await.unwrap();
    let id = u8::try_from(session.id()).unwrap();
    send.write_all(&[0x40, 0x41, id]).await.unwrap();
    (send, recv)
}

/// Waits until the session was closed with WT_FLOW_CONTROL_ERROR.
async fn expect_flow_control_error(server: &mut Server, session: &client::Session) {
    let told = timeout(Duration::from_secs(10), session.closed()).await.unwrap();
    let reason = "protocol_error".to_owned();
    assert_eq!(told, Closed::ByServer { code: 0x045d_4487, reason });
    assert_eq!(server.end().await, ClientEnd::ProtocolError);
}

async fn open(server: &Server, credit: SessionCredit, path: &str) -> client::Session {
    let connection = server.connect_with(credit).await;
    connection.open_session(&server.url(path), &RequestOptions::default()).await.unwrap()
}

const SOME_CREDIT: SessionCredit = SessionCredit { data: 1 << 20, bidi: 8, uni: 8 };

/// Capsules are sent while other things are waited for, and such a wait may be given up.
#[tokio::test]
async fn a_send_that_is_given_up_tears_no_frame() {
    let mut server = server();
    let session = server.session("/deaf").await.unwrap();
    // A capsule that means nothing, larger than QUIC's window of the stream.
    let mut grease = vec![0x17, 0x80, 0x1e, 0x84, 0x80];
    grease.resize(grease.len() + 2_000_000, 0);
    assert!(session.send_capsule_bytes(grease.into()).now_or_never().is_none());
    session.send_datagram(b"hear").unwrap();
    session.close(7, "bye").await;
    assert_eq!(server.end().await, ClientEnd::Closed { code: 7, reason: "bye".to_owned() });
}

/// Credit for streams is for the whole life of a session, so it must be given again and again.
#[tokio::test]
async fn many_short_streams_in_one_session_never_stall() {
    let server = server();
    let session = server.session("/echo").await.unwrap();
    let (session, mut open) = (&session, FuturesUnordered::new());
    for i in 0..100_000_u32 {
        open.push(async move {
            let byte = [i.to_le_bytes()[0]];
            let (mut send, mut recv) = session.open_bidi().await.unwrap();
            send.write(&byte).await.unwrap();
            send.finish();
            assert_eq!(recv.read_to_end(2).await.unwrap(), byte);
        });
        if open.len() == 64 {
            timeout(Duration::from_secs(10), open.next()).await.unwrap().unwrap();
        }
    }
    while timeout(Duration::from_secs(10), open.next()).await.unwrap().is_some() {}
}

/// Many times the credit of both sides, which therefore has to be given in time.
#[tokio::test]
async fn data_flows_on_beyond_every_limit() {
    let server = server_with(SessionCredit { data: 5_000, ..SOME_CREDIT });
    let session = open(&server, SessionCredit { data: 3_000, ..SOME_CREDIT }, "/echo").await;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let (mut send, mut recv) = session.open_bidi().await.unwrap();
    let write = async {
        send.write(&sent).await.unwrap();
        send.finish();
    };
    let both = async { tokio::join!(write, recv.read_to_end(sent.len() + 1)) };
    let ((), read) = timeout(Duration::from_secs(20), both).await.unwrap();
    assert!(read.unwrap() == sent, "what came back differs");
}

/// What was on a stream that is reset or stopped cannot be counted, and must not be missing in the end.
#[tokio::test]
async fn cut_streams_do_not_use_up_the_credit() {
    let server = server_with(SessionCredit { data: 5_000, bidi: 4, uni: 4 });
    let session = open(&server, SOME_CREDIT, "/echo").await;
    let cut = async {
        for _ in 0..20 {
            // Mostly this one is gone before its first byte was on its way.
            let (mut send, recv) = session.open_bidi().await.unwrap();
            send.write(&[7; 4_000]).await.unwrap();
            send.reset(1);
            drop(recv);
            // The server stops these without reading them.
            let mut send = session.open_uni().await.unwrap();
            _ = send.write(&[7; 4_000]).await;
            assert_eq!(send.stopped().await, Some(StreamError::Ended(5)));
        }
    };
    timeout(Duration::from_secs(20), cut).await.unwrap();
}

#[tokio::test]
async fn a_client_that_opens_too_many_streams_loses_its_session() {
    let mut server = server_with(SessionCredit { bidi: 4, ..SOME_CREDIT });
    let session = open(&server, SOME_CREDIT, "/echo").await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(raw_bidi(&session).await);
    }
    expect_flow_control_error(&mut server, &session).await;
}

#[tokio::test]
async fn a_client_that_sends_too_much_loses_its_session() {
    let mut server = server_with(SessionCredit { data: 8_192, ..SOME_CREDIT });
    let session = open(&server, SOME_CREDIT, "/hold").await;
    let (mut send, _recv) = raw_bidi(&session).await;
    send.write_all(&[1; 65_536]).await.unwrap();
    send.finish().unwrap();
    // Once all of it is there, it is read in one go, before there could be more credit.
    assert_eq!(send.stopped().await.unwrap(), None);
    session.send_datagram(b"read on").unwrap();
    expect_flow_control_error(&mut server, &session).await;
}

#[tokio::test]
async fn the_server_sends_no_more_than_it_may_until_it_may() {
    let server = server();
    let session = open(&server, SessionCredit { data: 10_000, ..SOME_CREDIT }, "/echo").await;
    let sent: Vec<u8> = (0..30_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    let (mut send, mut recv) = raw_bidi(&session).await;
    send.write_all(&sent).await.unwrap();
    send.finish().unwrap();

    let mut read = vec![0; 10_000];
    recv.read_exact(&mut read).await.unwrap();
    assert!(timeout(Duration::from_secs(10), session.server_blocked_at(10_000)).await.unwrap());
    assert!(recv.read_chunk(1, true).now_or_never().is_none(), "beyond the limit");

    // 2^14 + 2^12.
    session.send_capsule_bytes(raw_capsule(MAX_DATA, &[0x80, 0, 0x50, 0])).await.unwrap();
    assert!(timeout(Duration::from_secs(10), session.server_blocked_at(0x5000)).await.unwrap());
    read.resize(0x5000, 0);
    recv.read_exact(&mut read[10_000..]).await.unwrap();
    assert!(recv.read_chunk(1, true).now_or_never().is_none(), "beyond the limit");

    session.send_capsule_bytes(raw_capsule(MAX_DATA, &[0x80, 1, 0, 0])).await.unwrap();
    read.extend(recv.read_to_end(30_000).await.unwrap());
    assert!(read == sent, "what came back differs");
}

/// A stream that waits for the session's credit can still be stopped.
#[tokio::test]
async fn a_stopped_stream_waits_for_no_credit() {
    let mut server = server();
    let session = open(&server, SessionCredit { data: 10, ..SOME_CREDIT }, "/echo").await;
    let (mut send, mut recv) = raw_bidi(&session).await;
    send.write_all(&[1; 100]).await.unwrap();
    assert!(session.server_blocked_at(10).await);
    recv.stop(9_u32.into()).unwrap();
    // The echo ends when its write fails, and lets go of our half too.
    assert!(timeout(Duration::from_secs(10), send.stopped()).await.unwrap().unwrap().is_some());
    session.close(0, "").await;
    assert_eq!(server.end().await, ClientEnd::Closed { code: 0, reason: String::new() });
}

#[tokio::test]
async fn limits_that_do_not_rise_or_cannot_be_cost_the_session() {
    for capsule in [
        raw_capsule(MAX_STREAMS_BIDI, &[8]),
        raw_capsule(MAX_STREAMS_BIDI, &[7]),
        raw_capsule(MAX_DATA, &[0]),
        // 2^60 + 1.
        raw_capsule(MAX_STREAMS_BIDI, &[0xd0, 0, 0, 0, 0, 0, 0, 1]),
    ] {
        let mut server = server();
        let session = open(&server, SOME_CREDIT, "/echo").await;
        session.send_capsule_bytes(capsule).await.unwrap();
        expect_flow_control_error(&mut server, &session).await;
    }
}

/// In HTTP/3 QUIC itself limits each stream, so capsules about one are malformed.
#[tokio::test]
async fn limits_of_single_streams_cost_the_session() {
    for kind in [[0x99, 0x0b, 0x4d, 0x3e], [0x99, 0x0b, 0x4d, 0x42]] {
        let mut server = server();
        let session = open(&server, SOME_CREDIT, "/echo").await;
        session.send_capsule_bytes(raw_capsule(kind, &[0, 1])).await.unwrap();
        assert_eq!(session.closed().await, Closed::Reset(0x10e));
        assert_eq!(server.end().await, ClientEnd::ProtocolError);
    }
}

/// A client without flow control of its own, as all browsers are today.
#[tokio::test]
async fn nothing_is_enforced_where_flow_control_is_off() {
    let server = server_with(SessionCredit { data: 100, bidi: 2, uni: 2 });
    let session = open(&server, NO_CREDIT, "/echo").await;
    session.send_capsule_bytes(raw_capsule(MAX_DATA, &[0])).await.unwrap();
    session.send_capsule_bytes(raw_capsule(MAX_STREAMS_BIDI, &[0])).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..20 {
        let (mut send, recv) = raw_bidi(&session).await;
        send.write_all(&[5; 1_000]).await.unwrap();
        send.finish().unwrap();
        streams.push((send, recv));
    }
    for (_, recv) in &mut streams {
        assert_eq!(recv.read_to_end(2_000).await.unwrap(), [5; 1_000]);
    }
}

/// The minimal profile: what Safari takes that stumbles over the rest.
#[tokio::test]
async fn without_an_offer_of_the_servers_there_is_no_flow_control() {
    let server = server_with(NO_CREDIT);
    let session = open(&server, SOME_CREDIT, "/echo").await;
    let (mut send, mut recv) = session.open_bidi().await.unwrap();
    send.write(&[3; 100_000]).await.unwrap();
    send.finish();
    assert_eq!(recv.read_to_end(200_000).await.unwrap().len(), 100_000);
}

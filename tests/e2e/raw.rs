//! A client that can break every rule: QUIC as it should be, and any bytes on it.
//!
//! It sends what a test says, on any stream and in any order, and shows what the gateway makes of it:
//! responses, and the codes of resets, stops and closes. It shares no code with the gateway above QUIC;
//! Huffman's code is another's too.

use std::{fmt, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use httlib_huffman::DecoderSpeed;
use quinn::{
    ClosedStream, ConnectionError, ReadError, RecvStream, SendStream, TransportConfig, WriteError,
    crypto::rustls::QuicClientConfig,
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::harness::{TestGateway, soon};

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs::digest;
#[cfg(not(feature = "aws-lc-rs"))]
use ring::digest;
#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs::default_provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring::default_provider;

/// Numbers of the specifications: stream types, frame types, capsule types.
pub(crate) const CONTROL: u64 = 0x00;
pub(crate) const PUSH: u64 = 0x01;
pub(crate) const QPACK_ENCODER: u64 = 0x02;
pub(crate) const QPACK_DECODER: u64 = 0x03;
pub(crate) const WT_UNI: u64 = 0x54;
pub(crate) const WT_BIDI: u64 = 0x41;
pub(crate) const DATA: u64 = 0x00;
pub(crate) const HEADERS: u64 = 0x01;
pub(crate) const CANCEL_PUSH: u64 = 0x03;
pub(crate) const SETTINGS: u64 = 0x04;
pub(crate) const PUSH_PROMISE: u64 = 0x05;
pub(crate) const GOAWAY: u64 = 0x07;
pub(crate) const MAX_PUSH_ID: u64 = 0x0d;
pub(crate) const CLOSE_SESSION: u64 = 0x2843;
pub(crate) const DRAIN_SESSION: u64 = 0x78ae;

/// Error codes of HTTP/3, QPACK and WebTransport.
pub(crate) const H3_DATAGRAM_ERROR: u64 = 0x33;
pub(crate) const H3_NO_ERROR: u64 = 0x100;
pub(crate) const H3_STREAM_CREATION_ERROR: u64 = 0x103;
pub(crate) const H3_CLOSED_CRITICAL_STREAM: u64 = 0x104;
pub(crate) const H3_FRAME_UNEXPECTED: u64 = 0x105;
pub(crate) const H3_FRAME_ERROR: u64 = 0x106;
pub(crate) const H3_EXCESSIVE_LOAD: u64 = 0x107;
pub(crate) const H3_ID_ERROR: u64 = 0x108;
pub(crate) const H3_SETTINGS_ERROR: u64 = 0x109;
pub(crate) const H3_MISSING_SETTINGS: u64 = 0x10a;
pub(crate) const H3_REQUEST_INCOMPLETE: u64 = 0x10d;
pub(crate) const H3_MESSAGE_ERROR: u64 = 0x10e;
pub(crate) const QPACK_DECOMPRESSION_FAILED: u64 = 0x200;
pub(crate) const QPACK_ENCODER_STREAM_ERROR: u64 = 0x201;
pub(crate) const QPACK_DECODER_STREAM_ERROR: u64 = 0x202;
pub(crate) const WT_BUFFERED_STREAM_REJECTED: u64 = 0x3994_bd84;
pub(crate) const WT_SESSION_GONE: u64 = 0x170d_7b68;

/// What a length looks like that nobody means: a tebibyte.
pub(crate) const TEBIBYTE: u64 = 1 << 40;

pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

/// A number as QUIC writes it.
pub(crate) fn varint(value: u64) -> Vec<u8> {
    match value {
        0..=0x3f => vec![value.to_le_bytes()[0]],
        0x40..=0x3fff => (value | 0x4000).to_be_bytes()[6..].to_vec(),
        0x4000..=0x3fff_ffff => (value | 0x8000_0000).to_be_bytes()[4..].to_vec(),
        _ => (value | 0xc000_0000_0000_0000).to_be_bytes().to_vec(),
    }
}

/// Type, length and payload: a frame or a capsule.
pub(crate) fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [head(kind, payload.len() as u64), payload.to_vec()].concat()
}

/// Type and length of a frame or a capsule that need not come.
pub(crate) fn head(kind: u64, length: u64) -> Vec<u8> {
    [varint(kind), varint(length)].concat()
}

/// A DATA frame.
pub(crate) fn data(payload: &[u8]) -> Vec<u8> {
    frame(DATA, payload)
}

/// A capsule in a DATA frame.
pub(crate) fn capsule(kind: u64, body: &[u8]) -> Vec<u8> {
    data(&frame(kind, body))
}

/// WT_CLOSE_SESSION with this code and these bytes as the reason.
pub(crate) fn close_session(code: u32, reason: &[u8]) -> Vec<u8> {
    capsule(CLOSE_SESSION, &[&code.to_be_bytes()[..], reason].concat())
}

/// A SETTINGS frame.
pub(crate) fn settings(values: &[(u64, u64)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(id, value)| [varint(*id), varint(*value)].concat()).collect();
    frame(SETTINGS, &payload)
}

/// What Chromium sends.
pub(crate) fn usual_settings() -> Vec<u8> {
    settings(&[(0x33, 1), (0x2b60_3742, 1)])
}

/// Fields of a request, in order.
pub(crate) type Fields<'a> = Vec<(&'a str, &'a str)>;

/// A request for a session.
pub(crate) fn session_fields(path: &str) -> Fields<'_> {
    vec![
        (":method", "CONNECT"),
        (":protocol", "webtransport"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
    ]
}

/// An ordinary request.
pub(crate) fn get_fields(path: &str) -> Fields<'_> {
    vec![(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
}

/// A HEADERS frame of literal field lines.
pub(crate) fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, &section(fields, false))
}

/// The same with names and values in Huffman's code.
pub(crate) fn huffman_headers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, &section(fields, true))
}

fn section(fields: &[(&str, &str)], huffman: bool) -> Vec<u8> {
    let mut section = vec![0, 0];
    for (name, value) in fields {
        put_text(&mut section, 0x20, 3, name.as_bytes(), huffman);
        put_text(&mut section, 0, 7, value.as_bytes(), huffman);
    }
    section
}

/// A string literal whose length has so many bits in a byte that begins with `flags`.
fn put_text(to: &mut Vec<u8>, flags: u8, bits: u32, text: &[u8], huffman: bool) {
    let mut coded = text.to_vec();
    let mut flags = flags;
    if huffman {
        coded.clear();
        httlib_huffman::encode(text, &mut coded).unwrap();
        flags |= 1 << bits;
    }
    let most = (1 << bits) - 1;
    let mut left = coded.len();
    if left < most {
        to.push(flags | left.to_le_bytes()[0]);
    } else {
        to.push(flags | most.to_le_bytes()[0]);
        left -= most;
        while left > 0x7f {
            to.push(0x80 | left.to_le_bytes()[0]);
            left >>= 7;
        }
        to.push(left.to_le_bytes()[0]);
    }
    to.extend(coded);
}

/// A QUIC connection without HTTP/3 on it, until a test says some.
pub(crate) struct Raw {
    quic: quinn::Connection,
    /// Critical streams, which must stay open, and the endpoint, which drives the connection.
    _kept: (Vec<SendStream>, quinn::Endpoint),
}

impl Raw {
    /// Connects and says nothing.
    pub(crate) async fn connect(gateway: &TestGateway) -> Self {
        Self::connect_to(gateway.address(), gateway.hash()).await
    }

    /// The same with a gateway that is a process of its own.
    pub(crate) async fn connect_to(address: SocketAddr, hash: [u8; 32]) -> Self {
        Self::connect_by(address, endpoint(hash)).await
    }

    /// Connects with limits of the test's, and says nothing.
    pub(crate) async fn connect_with(gateway: &TestGateway, limits: TransportConfig) -> Self {
        let mut quic = endpoint(gateway.hash());
        let mut config = client_config(gateway.hash());
        config.transport_config(Arc::new(limits));
        quic.set_default_client_config(config);
        Self::connect_by(gateway.address(), quic).await
    }

    async fn connect_by(address: SocketAddr, quic: quinn::Endpoint) -> Self {
        let connecting = quic.connect(address, "localhost").unwrap();
        let connection = soon(connecting).await.unwrap();
        Self { quic: connection, _kept: (Vec::new(), quic) }
    }

    /// Connects and opens a control stream with the usual settings.
    pub(crate) async fn with_settings(gateway: &TestGateway) -> Self {
        let mut raw = Self::connect(gateway).await;
        raw.say_settings().await;
        raw
    }

    /// Opens a control stream with the usual settings.
    pub(crate) async fn say_settings(&mut self) {
        let control = self.uni(&[varint(CONTROL), usual_settings()].concat()).await;
        self._kept.0.push(control);
    }

    /// Closes the connection.
    pub(crate) fn leave(&self) {
        self.quic.close(0x100_u32.into(), b"");
    }

    pub(crate) fn quic(&self) -> &quinn::Connection {
        &self.quic
    }

    /// Opens a unidirectional stream that begins with these bytes.
    pub(crate) async fn uni(&self, bytes: &[u8]) -> SendStream {
        let mut send = soon(self.quic.open_uni()).await.unwrap();
        send.write_all(bytes).await.unwrap();
        send
    }

    /// Opens a bidirectional stream that begins with these bytes.
    pub(crate) async fn bidi(&self, bytes: &[u8]) -> Stream {
        let (mut send, recv) = soon(self.quic.open_bi()).await.unwrap();
        send.write_all(bytes).await.unwrap();
        Stream { send, recv, read: Vec::new() }
    }

    /// Opens a session.
    pub(crate) async fn session(&self, path: &str) -> Stream {
        let mut stream = self.bidi(&headers(&session_fields(path))).await;
        assert_eq!(stream.response().await.status, 200);
        stream
    }

    /// A stream of a session, with these bytes after its head.
    pub(crate) async fn stream_of(&self, session: u64, bytes: &[u8]) -> Stream {
        self.bidi(&[&varint(WT_BIDI)[..], &varint(session), bytes].concat()).await
    }

    pub(crate) fn datagram(&self, bytes: &[u8]) {
        self.quic.send_datagram(Bytes::copy_from_slice(bytes)).unwrap();
    }

    /// The payload of the next datagram, whichever session it is of.
    pub(crate) async fn read_datagram(&self) -> Bytes {
        soon(self.quic.read_datagram()).await.unwrap().slice(1..)
    }

    /// The code with which the gateway closes the connection.
    pub(crate) async fn closed(&self) -> u64 {
        match soon(self.quic.closed()).await {
            ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("{other}"),
        }
    }

    /// The first unidirectional stream of the gateway's: its control stream.
    pub(crate) async fn accept_uni(&self) -> RecvStream {
        soon(self.quic.accept_uni()).await.unwrap()
    }

    /// Checks that a session of the connection works, with a stream and a datagram.
    pub(crate) async fn check(&self, session: u64) {
        let mut stream = self.stream_of(session, b"alive").await;
        stream.send.finish().unwrap();
        assert_eq!(soon(stream.recv.read_to_end(10)).await.unwrap(), b"alive");
        self.datagram(&[&varint(session / 4)[..], b"alive"].concat());
        assert_eq!(self.read_datagram().await, &b"alive"[..]);
    }
}

/// A bidirectional stream.
pub(crate) struct Stream {
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    /// What was read and not looked at.
    read: Vec<u8>,
}

impl Stream {
    pub(crate) fn id(&self) -> u64 {
        self.recv.id().into()
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        soon(self.send.write_all(bytes)).await.unwrap();
    }

    /// Reads a response's HEADERS.
    pub(crate) async fn response(&mut self) -> Response {
        let (kind, payload) = self.frame().await.expect("a response");
        assert_eq!(kind, HEADERS);
        Response::parse(&payload)
    }

    /// The next frame; `None` at the clean end of the stream.
    pub(crate) async fn frame(&mut self) -> Option<(u64, Vec<u8>)> {
        loop {
            if let Some((kind, n)) = take_varint(&self.read)
                && let Some((length, m)) = take_varint(&self.read[n..])
                && let Some(payload) =
                    self.read.get(n + m..n + m + usize::try_from(length).unwrap())
            {
                let payload = payload.to_vec();
                self.read.drain(..n + m + payload.len());
                return Some((kind, payload));
            }
            match soon(self.recv.read_chunk(usize::MAX, true)).await.unwrap() {
                Some(chunk) => self.read.extend_from_slice(&chunk.bytes),
                None if self.read.is_empty() => return None,
                None => panic!("cut within a frame: {:x?}", self.read),
            }
        }
    }

    /// The code with which the gateway resets its half, whatever came before.
    pub(crate) async fn reset_code(&mut self) -> u64 {
        loop {
            match soon(self.recv.read_chunk(usize::MAX, true)).await {
                Ok(Some(_)) => {}
                Err(ReadError::Reset(code)) => return code.into_inner(),
                other => panic!("not reset: {other:?}"),
            }
        }
    }

    /// The code with which the gateway stops ours.
    pub(crate) async fn stop_code(&self) -> u64 {
        stop_code(&self.send).await
    }
}

/// The code with which the gateway stops a stream.
pub(crate) async fn stop_code(send: &SendStream) -> u64 {
    match soon(send.stopped()).await {
        Ok(Some(code)) => code.into_inner(),
        other => panic!("not stopped: {other:?}"),
    }
}

/// Ends a stream; that the gateway has stopped it already is as good.
pub(crate) fn finish(send: &mut SendStream) {
    match send.finish() {
        Ok(()) | Err(ClosedStream { .. }) => {}
    }
}

/// Writes though the gateway may stop the stream or close the connection.
pub(crate) async fn write_anyway(send: &mut SendStream, bytes: &[u8]) {
    match soon(send.write_all(bytes)).await {
        Ok(()) | Err(WriteError::Stopped(_) | WriteError::ConnectionLost(_)) => {}
        Err(other) => panic!("{other}"),
    }
}

/// A varint at the front of `bytes` and its length.
pub(crate) fn take_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let length = 1 << (bytes.first()? >> 6);
    let mut value = u64::from(bytes[0] & 0x3f);
    for byte in bytes.get(1..length)? {
        value = value << 8 | u64::from(*byte);
    }
    Some((value, length))
}

/// Status and fields of a response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
}

impl Response {
    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The gateway's word for a refusal.
    pub(crate) fn reason(&self) -> &str {
        self.field("tidegate-reason").unwrap_or_default()
    }

    fn parse(section: &[u8]) -> Self {
        let mut section = section;
        assert_eq!((take_integer(&mut section, 8), take_integer(&mut section, 7)), (0, 0));
        let mut fields = Vec::new();
        while let Some(first) = section.first().copied() {
            fields.push(match first {
                0xc0.. => {
                    let (name, value) = static_entry(take_integer(&mut section, 6));
                    (name.to_owned(), value.to_owned())
                }
                0x50..0x60 | 0x70..0x80 => {
                    let (name, _) = static_entry(take_integer(&mut section, 4));
                    (name.to_owned(), take_text(&mut section, 7))
                }
                0x20..0x40 => {
                    let name = take_text(&mut section, 3);
                    (name, take_text(&mut section, 7))
                }
                _ => panic!("a dynamic entry: {section:x?}"),
            });
        }
        assert_eq!(fields[0].0, ":status");
        let status = fields[0].1.parse().unwrap();
        Self { status, fields }
    }
}

/// The entries of the static table that the gateway's responses can have (RFC 9204 appendix A). Other
/// names than these do not matter to any test.
fn static_entry(index: usize) -> (&'static str, &'static str) {
    match index {
        4 => ("content-length", "0"),
        24 => (":status", "103"),
        25 => (":status", "200"),
        26 => (":status", "304"),
        27 => (":status", "404"),
        28 => (":status", "503"),
        44..=54 => ("content-type", ""),
        63 => (":status", "100"),
        64 => (":status", "204"),
        65 => (":status", "206"),
        66 => (":status", "302"),
        67 => (":status", "400"),
        68 => (":status", "403"),
        69 => (":status", "421"),
        70 => (":status", "425"),
        71 => (":status", "500"),
        _ => ("(another)", ""),
    }
}

fn take_integer(section: &mut &[u8], bits: u32) -> usize {
    let mask = u8::MAX >> (8 - bits);
    let mut value = usize::from(section[0] & mask);
    let is_whole = section[0] & mask < mask;
    *section = &section[1..];
    if is_whole {
        return value;
    }
    for shift in (0..).step_by(7) {
        let byte = section[0];
        *section = &section[1..];
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn take_text(section: &mut &[u8], bits: u32) -> String {
    let is_coded = section[0] >> bits & 1 == 1;
    let length = take_integer(section, bits);
    let (text, rest) = section.split_at(length);
    *section = rest;
    let mut bytes = text.to_vec();
    if is_coded {
        bytes.clear();
        httlib_huffman::decode(text, &mut bytes, DecoderSpeed::FiveBits).unwrap();
    }
    String::from_utf8(bytes).unwrap()
}

/// A client's socket that believes a certificate by its hash.
fn endpoint(hash: [u8; 32]) -> quinn::Endpoint {
    let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mut endpoint = quinn::Endpoint::client(local).unwrap();
    endpoint.set_default_client_config(client_config(hash));
    endpoint
}

fn client_config(hash: [u8; 32]) -> quinn::ClientConfig {
    let provider = Arc::new(default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { hash, provider }))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

struct Pinned {
    hash: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        assert_eq!(sha256(leaf), self.hash);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("QUIC has no TLS 1.2")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

//! One client for both: a session of the gateway's, or a connection of the bare bridge's.

use std::{net::SocketAddr, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tidegate::client::{self, Connection, RequestOptions, Session, Trust};

use super::{backends::Target, bare};

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs::default_provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring::default_provider;

/// The cryptography of everything here.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

/// Where clients begin.
pub(crate) enum Side {
    /// The gateway, by its one address.
    Gateway(client::Endpoint, SocketAddr),
    /// The bare bridges, each by its own.
    Bare(quinn::Endpoint, Vec<SocketAddr>),
}

/// A client's connection.
pub(crate) enum Link {
    Gateway(Connection, SocketAddr),
    Bare(quinn::Connection),
}

/// What streams and datagrams go over.
pub(crate) enum Lane {
    Gateway(Box<Session>),
    Bare(quinn::Connection),
}

impl Side {
    pub(crate) fn gateway(address: SocketAddr) -> Self {
        let options = client::Options::new(Trust::DangerAcceptAny);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::Gateway(client::Endpoint::bind(any, &options).expect("a socket"), address)
    }

    pub(crate) fn bare(addresses: Vec<SocketAddr>) -> Self {
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider())))
            .with_no_client_auth();
        tls.alpn_protocols = vec![bare::ALPN.to_vec()];
        let tls = QuicClientConfig::try_from(tls).expect("a suite for Initial packets");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut endpoint = quinn::Endpoint::client(any).expect("a socket");
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        Self::Bare(endpoint, addresses)
    }

    pub(crate) async fn connect(&self, target: Target) -> Link {
        match self {
            Self::Gateway(endpoint, address) => {
                let connection = endpoint.connect(*address, "localhost").await;
                Link::Gateway(connection.expect("a connection"), *address)
            }
            Self::Bare(endpoint, addresses) => {
                let connecting = endpoint.connect(addresses[target as usize], "localhost");
                Link::Bare(connecting.expect("good settings").await.expect("a connection"))
            }
        }
    }

    /// Connects, and begins a session where there are sessions.
    pub(crate) async fn open(&self, target: Target) -> Lane {
        self.connect(target).await.open(target).await
    }
}

impl Link {
    pub(crate) async fn open(&self, target: Target) -> Lane {
        match self {
            Self::Gateway(connection, address) => {
                let url = format!("https://localhost:{}{}", address.port(), target.path());
                let session = connection.open_session(&url, &RequestOptions::default()).await;
                Lane::Gateway(Box::new(session.expect("a session")))
            }
            Self::Bare(quic) => Lane::Bare(quic.clone()),
        }
    }

    pub(crate) fn close(&self) {
        let quic = match self {
            Self::Gateway(connection, _) => connection.quic(),
            Self::Bare(quic) => quic,
        };
        quic.close(0x100_u32.into(), b"");
    }
}

impl Lane {
    fn quic(&self) -> &quinn::Connection {
        match self {
            Self::Gateway(session) => session.quic(),
            Self::Bare(quic) => quic,
        }
    }

    /// A stream, of which nothing is on its way before the first write.
    pub(crate) async fn stream(&self) -> Stream {
        let (send, recv) = self.quic().open_bi().await.expect("credit for a stream");
        let mut head = BytesMut::new();
        if let Self::Gateway(session) = self {
            // The stream's kind 0x41 (draft section 4.3) and the session, both as varints of two bytes.
            head.put_u16(0x4041);
            let id = u16::try_from(session.id()).ok().filter(|id| *id < 0x4000);
            head.put_u16(0x4000 | id.expect("one of the first sessions of its connection"));
        }
        Stream { head: head.freeze(), send, recv }
    }

    pub(crate) fn send_datagram(&self, payload: &'static [u8]) {
        match self {
            Self::Gateway(session) => session.send_datagram(payload).expect("a small one"),
            Self::Bare(quic) => {
                quic.send_datagram(Bytes::from_static(payload)).expect("a small one");
            }
        }
    }

    pub(crate) async fn read_datagram(&self) -> Bytes {
        match self {
            Self::Gateway(session) => session.read_datagram().await.expect("a session"),
            Self::Bare(quic) => quic.read_datagram().await.expect("a connection"),
        }
    }

    /// Ends the session, where there is one.
    pub(crate) async fn close(self) {
        if let Self::Gateway(session) = self {
            session.close(0, "").await;
        }
    }
}

/// A bidirectional stream.
pub(crate) struct Stream {
    head: Bytes,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
}

impl Stream {
    pub(crate) async fn write(&mut self, payload: &'static [u8]) {
        let mut chunks = [std::mem::take(&mut self.head), Bytes::from_static(payload)];
        self.send.write_all_chunks(&mut chunks).await.expect("who takes it");
    }

    pub(crate) async fn read_exact(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let chunk = self.recv.read_chunk(left, true).await.expect("who sends");
            left -= chunk.expect("no end yet").bytes.len();
        }
    }

    pub(crate) fn finish(&mut self) {
        self.send.finish().expect("it is open");
    }

    pub(crate) async fn read_to_end(&mut self) -> usize {
        let mut bytes = 0;
        while let Some(chunk) = self.recv.read_chunk(usize::MAX, true).await.expect("who sends") {
            bytes += chunk.bytes.len();
        }
        bytes
    }
}

/// Believes every server: they are in this very process.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! The same bridge on the `h3-webtransport` crate as published, as a user of that crate writes it:
//! `tokio::io::copy` in each direction.
//!
//! It speaks WebTransport, with one session on a connection, which is all that the crate can do. Settings of
//! TLS, QUIC and the socket are those of `bare_quinn`.

#![allow(clippy::disallowed_types, reason = "a program of its own, without the gateway's rooms")]
#![allow(clippy::disallowed_methods, reason = "has no shutdown that would wait for tasks")]

mod common;

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
pub(crate) use common::{Args, Failure};
use h3::quic::{BidiStream as _, RecvStream as _, SendStream as _};
use h3_webtransport::{
    server::{AcceptedBi, WebTransportSession},
    stream::BidiStream,
};
use quinn::{Endpoint, EndpointConfig, Incoming, TokioRuntime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

type Session = WebTransportSession<h3_quinn::Connection, Bytes>;
type Stream = BidiStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// No datagram is larger.
const MAX_DATAGRAM_BYTES: usize = 65_535;

/// With what both ends of a stream are told that the other leg failed.
const FAILED: u64 = 1;

fn main() -> Result<(), Failure> {
    common::run(async |args| {
        let endpoint = bind(&args)?;
        common::announce(endpoint.local_addr()?)?;
        serve(&endpoint, &args).await;
        Ok(())
    })
}

/// Needs the runtime around it.
pub(crate) fn bind(args: &Args) -> Result<Endpoint, Failure> {
    let config = common::quic(args, common::tls(args, b"h3")?)?;
    let socket = common::socket(args.listen)?;
    let runtime = Arc::new(TokioRuntime);
    Ok(Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?)
}

/// Serves every client until the endpoint is closed.
pub(crate) async fn serve(endpoint: &Endpoint, args: &Args) {
    while let Some(incoming) = endpoint.accept().await {
        let (tcp, udp) = (args.tcp, args.udp);
        tokio::spawn(async move {
            // An error is about this one client.
            _ = session(incoming, tcp, udp).await;
        });
    }
}

async fn session(
    incoming: Incoming,
    tcp: SocketAddr,
    udp: Option<SocketAddr>,
) -> Result<(), Failure> {
    let mut h3 = h3::server::builder()
        .enable_webtransport(true)
        .enable_extended_connect(true)
        .enable_datagram(true)
        .max_webtransport_sessions(1)
        .build(h3_quinn::Connection::new(incoming.await?))
        .await?;
    let Some(resolver) = h3.accept().await? else { return Ok(()) };
    let (request, stream) = resolver.resolve_request().await?;
    let session = Session::accept(request, stream, h3).await?;
    let streams = async {
        while let Ok(Some(accepted)) = session.accept_bi().await {
            if let AcceptedBi::BidiStream(_session, stream) = accepted {
                tokio::spawn(self::stream(stream, tcp));
            }
        }
    };
    tokio::join!(streams, datagrams(&session, udp));
    Ok(())
}

/// Carries a stream both ways until both have ended, or one has failed.
async fn stream(stream: Stream, backend: SocketAddr) {
    let (mut send, mut recv) = stream.split();
    if carry(&mut send, &mut recv, backend).await.is_err() {
        send.reset(FAILED);
        recv.stop_sending(FAILED);
    }
}

async fn carry(
    send: &mut (impl AsyncWrite + Unpin),
    recv: &mut (impl AsyncRead + Unpin),
    backend: SocketAddr,
) -> io::Result<()> {
    let mut tcp = common::connect(backend).await?;
    let (mut reader, mut writer) = tcp.split();
    let up = async {
        tokio::io::copy(recv, &mut writer).await?;
        writer.shutdown().await
    };
    let down = async {
        tokio::io::copy(&mut reader, send).await?;
        send.shutdown().await
    };
    let carried = tokio::try_join!(up, down);
    if carried.is_err() {
        // Else a cut transfer looks whole to the server.
        tcp.set_zero_linger()?;
    }
    carried.map(|_both| ())
}

/// Carries datagrams both ways until the session ends. The socket is opened when the first one comes.
async fn datagrams(session: &Session, backend: Option<SocketAddr>) {
    let (mut reader, mut sender) = (session.datagram_reader(), session.datagram_sender());
    let Ok(first) = reader.read_datagram().await else { return };
    let Some(backend) = backend else { return };
    let Ok(udp) = common::open_udp(backend).await else { return };
    // Lost datagrams are lost.
    _ = udp.send(first.payload()).await;
    let up = async {
        while let Ok(datagram) = reader.read_datagram().await {
            _ = udp.send(datagram.payload()).await;
        }
    };
    let down = async {
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        loop {
            match udp.recv(&mut buffer).await {
                Ok(bytes) => {
                    _ = sender.send_datagram(Bytes::copy_from_slice(&buffer[..bytes]));
                }
                // That is about an earlier datagram.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

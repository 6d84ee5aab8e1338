//! The same bridge on the `wtransport` crate, as a user of that crate writes it: `tokio::io::copy` in each
//! direction.
//!
//! It speaks WebTransport. Settings of TLS, QUIC and the socket are those of `bare_quinn`.

#![allow(clippy::disallowed_types, reason = "a program of its own, without the gateway's rooms")]
#![allow(clippy::disallowed_methods, reason = "has no shutdown that would wait for tasks")]

mod common;

use std::{io, net::SocketAddr};

pub(crate) use common::{Args, Failure};
use tokio::io::AsyncWriteExt;
use wtransport::{
    Connection, Endpoint, RecvStream, SendStream, ServerConfig,
    endpoint::{IncomingSession, endpoint_side},
};

/// No datagram is larger.
const MAX_DATAGRAM_BYTES: usize = 65_535;

fn main() -> Result<(), Failure> {
    common::run(async |args| {
        let endpoint = bind(&args)?;
        common::announce(endpoint.local_addr()?)?;
        serve(&endpoint, &args).await;
        Ok(())
    })
}

/// Needs the runtime around it.
pub(crate) fn bind(args: &Args) -> Result<Endpoint<endpoint_side::Server>, Failure> {
    let config = ServerConfig::builder()
        .with_bind_socket(common::socket(args.listen)?)
        .build_with_quic_config(common::quic(args, common::tls(args, b"h3")?)?);
    Ok(Endpoint::server(config)?)
}

/// Serves every client, without end.
pub(crate) async fn serve(endpoint: &Endpoint<endpoint_side::Server>, args: &Args) {
    loop {
        let incoming = endpoint.accept().await;
        let (tcp, udp) = (args.tcp, args.udp);
        tokio::spawn(async move {
            // An error is about this one client.
            _ = session(incoming, tcp, udp).await;
        });
    }
}

async fn session(
    incoming: IncomingSession,
    tcp: SocketAddr,
    udp: Option<SocketAddr>,
) -> Result<(), Failure> {
    let session = incoming.await?.accept().await?;
    let streams = async {
        while let Ok((send, recv)) = session.accept_bi().await {
            tokio::spawn(stream(send, recv, tcp));
        }
    };
    tokio::join!(streams, datagrams(&session, udp));
    Ok(())
}

/// Carries a stream both ways until both have ended, or one has failed.
async fn stream(mut send: SendStream, mut recv: RecvStream, backend: SocketAddr) {
    if carry(&mut send, &mut recv, backend).await.is_err() {
        // An error says that there is nobody left to tell.
        _ = send.reset(1_u32.into());
        recv.stop(1_u32.into());
    }
}

async fn carry(
    send: &mut SendStream,
    recv: &mut RecvStream,
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
        send.finish().await.map_err(io::Error::other)
    };
    let carried = tokio::try_join!(up, down);
    if carried.is_err() {
        // Else a cut transfer looks whole to the server.
        tcp.set_zero_linger()?;
    }
    carried.map(|_both| ())
}

/// Carries datagrams both ways until the session ends. The socket is opened when the first one comes.
async fn datagrams(session: &Connection, backend: Option<SocketAddr>) {
    let Ok(first) = session.receive_datagram().await else { return };
    let Some(backend) = backend else { return };
    let Ok(udp) = common::open_udp(backend).await else { return };
    // Lost datagrams are lost.
    _ = udp.send(&first).await;
    let up = async {
        while let Ok(datagram) = session.receive_datagram().await {
            _ = udp.send(&datagram).await;
        }
    };
    let down = async {
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        loop {
            match udp.recv(&mut buffer).await {
                Ok(bytes) => _ = session.send_datagram(&buffer[..bytes]),
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

//! LIMIT: what a bridge on quinn costs at least. No HTTP/3, no sessions, no limits, no counters.
//!
//! A QUIC connection is a session; each bidirectional stream is a TCP connection, and the datagrams of a
//! connection share one connected UDP socket. One thread. What is known to be the cheapest way is taken:
//! chunks go to TCP as they lie in quinn, up to 32 with one `writev`; TCP is read into a scratch buffer of the
//! thread's and copied once to its exact size; a short read counts as all there was.
//!
//! The figures of the gateway are given as ratios to this program.

#![allow(
    clippy::disallowed_types,
    reason = "names quinn, as the baseline without the gateway's rooms"
)]
#![allow(clippy::disallowed_methods, reason = "has no shutdown that would wait for tasks")]

mod common;

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
pub(crate) use common::{Args, Failure};
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime, VarInt};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::{
        UdpSocket,
        tcp::{ReadHalf, WriteHalf},
    },
};

/// No name of the registry: nobody else is to speak this.
const PROTOCOL: &[u8] = b"tidegate-bench";

/// Chunks that go to TCP with one system call.
const BATCH: usize = 32;

/// Bytes that are taken from TCP with one system call.
const SCRATCH_BYTES: usize = 64 * 1024;

/// With what both ends of a stream are told that the other leg failed.
const FAILED: VarInt = VarInt::from_u32(1);

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
    let config = common::quic(args, common::tls(args, PROTOCOL)?)?;
    let socket = common::socket(args.listen)?;
    let runtime = Arc::new(TokioRuntime);
    Ok(Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?)
}

/// Serves every client until the endpoint is closed.
pub(crate) async fn serve(endpoint: &Endpoint, args: &Args) {
    while let Some(incoming) = endpoint.accept().await {
        let (tcp, udp) = (args.tcp, args.udp);
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            tokio::join!(streams(&connection, tcp), datagrams(&connection, udp));
        });
    }
}

async fn streams(connection: &Connection, tcp: SocketAddr) {
    while let Ok((send, recv)) = connection.accept_bi().await {
        tokio::spawn(stream(send, recv, tcp));
    }
}

/// Carries a stream both ways until both have ended, or one has failed.
async fn stream(mut send: SendStream, mut recv: RecvStream, backend: SocketAddr) {
    let ended = async {
        let mut tcp = common::connect(backend).await?;
        let (reader, writer) = tcp.split();
        let ended = tokio::try_join!(up(&mut recv, writer), down(reader, &mut send));
        if ended.is_err() {
            // Else a cut transfer looks whole to the server.
            tcp.set_zero_linger()?;
        }
        ended
    };
    if ended.await.is_err() {
        // An error says that there is nobody left to tell.
        _ = send.reset(FAILED);
        _ = recv.stop(FAILED);
    }
}

async fn up(recv: &mut RecvStream, mut tcp: WriteHalf<'_>) -> io::Result<()> {
    let mut chunks: [Bytes; BATCH] = Default::default();
    while let Some(filled) = recv.read_chunks(&mut chunks).await? {
        let mut unsent = &mut chunks[..filled];
        while !unsent.is_empty() {
            let mut slices = [IoSlice::new(&[]); BATCH];
            for (slice, chunk) in slices.iter_mut().zip(&*unsent) {
                *slice = IoSlice::new(chunk);
            }
            match tcp.try_write_vectored(&slices[..unsent.len()]) {
                Ok(written) => unsent = advance(unsent, written),
                Err(full) if full.kind() == io::ErrorKind::WouldBlock => tcp.writable().await?,
                Err(error) => return Err(error),
            }
        }
    }
    tcp.shutdown().await
}

/// Takes `written` bytes off the front, and lets go what is used up. What is left.
fn advance(chunks: &mut [Bytes], mut written: usize) -> &mut [Bytes] {
    let mut done = 0;
    for chunk in chunks.iter_mut() {
        if written < chunk.len() {
            chunk.advance(written);
            break;
        }
        written -= chunk.len();
        *chunk = Bytes::new();
        done += 1;
    }
    &mut chunks[done..]
}

async fn down(mut tcp: ReadHalf<'_>, send: &mut SendStream) -> io::Result<()> {
    loop {
        let chunk = poll_fn(|cx| poll_chunk(&mut tcp, cx)).await?;
        if chunk.is_empty() {
            return send.finish().map_err(io::Error::other);
        }
        send.write_chunk(chunk).await?;
    }
}

fn poll_chunk(tcp: &mut ReadHalf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut read = ReadBuf::new(scratch);
        // A short read makes tokio wait for the kernel's word before the next one.
        ready!(Pin::new(tcp).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())))
    })
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// Carries datagrams both ways until the connection ends. The socket is opened when the first one comes.
async fn datagrams(connection: &Connection, backend: Option<SocketAddr>) {
    let Ok(first) = connection.read_datagram().await else { return };
    let Some(backend) = backend else { return };
    let Ok(udp) = common::open_udp(backend).await else { return };
    // Lost datagrams are lost.
    _ = udp.send(&first).await;
    let up = async {
        while let Ok(datagram) = connection.read_datagram().await {
            _ = udp.send(&datagram).await;
        }
    };
    let down = async {
        loop {
            match poll_fn(|cx| poll_datagram(&udp, cx)).await {
                Ok(datagram) => _ = connection.send_datagram(datagram),
                // That is about an earlier datagram.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        biased;
        () = up => {}
        () = down => {}
    }
}

fn poll_datagram(udp: &UdpSocket, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut read = ReadBuf::new(scratch);
        ready!(udp.poll_recv(cx, &mut read))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())))
    })
}

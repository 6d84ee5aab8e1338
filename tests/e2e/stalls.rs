//! One side of one stream does not read: the other streams of the session flow, what the gateway holds stays
//! within its windows, and nothing of the stalled stream is lost.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tidegate::client::{Endpoint, Options, SendStream, Session, Trust};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};

use crate::{
    harness::{Setup, pattern, soon},
    memory::GatewayProcess,
};

const MIB: u64 = 1024 * 1024;

/// Streams that flow while one is stalled.
const OTHERS: u64 = 99;

/// Time in which a writer that gets no further has come to a standstill: on loopback a write that can be
/// done is done in microseconds.
const STANDSTILL: Duration = Duration::from_millis(500);

/// What a server does with a connection, as its first byte says.
const ECHO: u8 = b'e';
const FLOOD: u8 = b'f';
const HOLD: u8 = b'h';

/// A server, and when it floods or holds: that it got no further, and that it may go on.
struct Server {
    address: SocketAddr,
    stalled: Arc<Notify>,
    go_on: Arc<Notify>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stalled, go_on) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let server = Self { address, stalled: Arc::clone(&stalled), go_on: Arc::clone(&go_on) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&stalled), Arc::clone(&go_on)));
            }
        });
        server
    }
}

async fn serve(mut stream: TcpStream, stalled: Arc<Notify>, go_on: Arc<Notify>) {
    let Ok(wanted) = stream.read_u8().await else { return };
    let mut rest = Vec::new();
    match wanted {
        FLOOD => {
            let flood = pattern(64 * 1024, u64::from(FLOOD));
            let mut at = 0;
            loop {
                match timeout(STANDSTILL, stream.write(&flood[at..])).await {
                    Ok(Ok(written)) => at = (at + written) % flood.len(),
                    Ok(Err(_)) => return,
                    Err(_) => break,
                }
            }
            stalled.notify_one();
            go_on.notified().await;
            // To the end of a round, so that the other side can tell whether it got all of it.
            if stream.write_all(&flood[at..]).await.is_ok() {
                _ = stream.shutdown().await;
            }
        }
        HOLD => {
            go_on.notified().await;
            if stream.read_to_end(&mut rest).await.is_ok() {
                _ = stream.write_all(&rest).await;
                _ = stream.shutdown().await;
            }
        }
        _ => {
            let (mut rx, mut tx) = stream.split();
            if tokio::io::copy(&mut rx, &mut tx).await.is_ok() {
                _ = tx.shutdown().await;
            }
        }
    }
}

/// A session with a gateway of its own process.
async fn session(gateway: &GatewayProcess) -> Session {
    let options = Options::new(Trust::Hashes(vec![gateway.hash]));
    let endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let connection = endpoint.connect(gateway.address, "localhost").await.unwrap();
    let url = format!("https://{}/echo", gateway.address);
    soon(connection.open_session(&url, &Default::default())).await.unwrap()
}

/// Sends so much on each of the other streams and wants it back whole.
async fn others_flow(session: &Session, round: u64) {
    let echoes = join_all((0..OTHERS).map(|i| async move {
        let sent = pattern(100_000, 1000 * round + i);
        let (mut send, mut recv) = session.open_bidi().await.unwrap();
        let write = async {
            send.write(&[ECHO]).await.unwrap();
            send.write(&sent).await.unwrap();
            send.finish();
        };
        let ((), read) = tokio::join!(write, recv.read_to_end(sent.len() + 1));
        assert!(read.unwrap() == sent, "what came back on stream {i} differs");
    }));
    soon(echoes).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_one_stream_holds_up_no_other() {
    let server = Server::start().await;
    let gateway = GatewayProcess::start_before("unread", server.address).await;
    let session = session(&gateway).await;
    others_flow(&session, 0).await;
    let before = gateway.peak();

    let (mut send, mut recv) = session.open_bidi().await.unwrap();
    send.write(&[FLOOD]).await.unwrap();
    soon(server.stalled.notified()).await;
    for round in 1..4 {
        others_flow(&session, round).await;
    }
    let grown = gateway.peak() - before;
    // `send_window` is 8 MiB; the rest is what the allocator keeps.
    assert!(grown < 12 * MIB, "grew by {grown} bytes");

    server.go_on.notify_one();
    let flood = soon(recv.read_to_end(usize::MAX)).await.unwrap();
    let wanted = pattern(64 * 1024, u64::from(FLOOD));
    // More than what the gateway may hold of it: the kernel had its part of it.
    assert!(flood.len() > 1_000_000, "{}", flood.len());
    assert!(flood.chunks(wanted.len()).all(|round| round == wanted), "what came differs");
    session.close(0, "").await;
}

/// Writes until no more is taken. Returns what was handed over.
async fn fill(send: &mut SendStream) -> u64 {
    let block = bytes::Bytes::from(pattern(16 * 1024, u64::from(HOLD)));
    let mut blocks = 0;
    // The one that is given up may be taken in part: nothing is written after it.
    while timeout(STANDSTILL, send.write_chunk(block.clone())).await.is_ok() {
        blocks += 1;
    }
    blocks * 16 * 1024
}

#[tokio::test]
async fn a_backend_that_does_not_read_one_stream_holds_up_no_other() {
    let server = Server::start().await;
    let gateway = GatewayProcess::start_before("held", server.address).await;
    let session = session(&gateway).await;
    others_flow(&session, 0).await;
    let before = gateway.peak();

    let (mut send, mut recv) = session.open_bidi().await.unwrap();
    send.write(&[HOLD]).await.unwrap();
    let whole = fill(&mut send).await;
    for round in 1..4 {
        others_flow(&session, round).await;
    }
    let grown = gateway.peak() - before;
    // `stream_window` is 1 MiB; the rest is what the allocator keeps.
    assert!(grown < 5 * MIB, "grew by {grown} bytes");

    server.go_on.notify_one();
    send.finish();
    let back = soon(recv.read_to_end(usize::MAX)).await.unwrap();
    let wanted = pattern(16 * 1024, u64::from(HOLD));
    assert!(back.len() as u64 >= whole, "{} of {whole}", back.len());
    assert!(back.chunks(wanted.len()).all(|block| wanted.starts_with(block)), "what came differs");
    session.close(0, "").await;
}

/// What a connection may have in flight is shared by its streams. The others go on when a backend reads again.
#[tokio::test]
async fn stalled_streams_that_fill_the_connections_window_hold_up_the_others_until_they_are_read() {
    let server = Server::start().await;
    let windows = "[listener.transport]\nstream_window = \"64KiB\"\nconnection_window = \"256KiB\"";
    let setup = Setup::new().route("/x", Some(server.address), None).listener(windows);
    let gateway = setup.start().await;
    let session = gateway.session("/x").await;
    let filled = join_all((0..4).map(|_| async {
        let (mut send, recv) = session.open_bidi().await.unwrap();
        send.write(&[HOLD]).await.unwrap();
        let whole = fill(&mut send).await;
        (send, recv, whole)
    }));
    let filled = filled.await;

    let mut echo = Box::pin(others_flow(&session, 1));
    assert!(timeout(STANDSTILL, &mut echo).await.is_err(), "there was credit left");
    server.go_on.notify_waiters();
    for (mut send, mut recv, whole) in filled {
        send.finish();
        let back = soon(recv.read_to_end(usize::MAX)).await.unwrap();
        assert!(back.len() as u64 >= whole, "{} of {whole}", back.len());
    }
    soon(echo).await;
    session.close(0, "").await;
    gateway.shut_down().await;
}

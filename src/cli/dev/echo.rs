//! Backends for trying things out: TCP and UDP servers that send back what they get.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tidegate::lifecycle::Lifecycle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::sleep,
};
use tracing::{debug, trace, warn};

/// Starts a TCP echo server on loopback. It answers a FIN with a FIN once everything went back.
pub(super) async fn tcp(tasks: &Lifecycle) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(ANY_PORT).await?;
    let address = listener.local_addr()?;
    let this = tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = this.killed() => {}
            // Cancelled, it closes the listener; the connections end by themselves.
            () = accept_all(listener, &this) => {}
        }
    });
    Ok(address)
}

/// Starts a UDP echo server on loopback. Empty datagrams go back too.
pub(super) async fn udp(tasks: &Lifecycle) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind(ANY_PORT).await?;
    let address = socket.local_addr()?;
    let this = tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = this.killed() => {}
            // Cancelled, it loses one datagram, as UDP may.
            () = echo_datagrams(socket) => {}
        }
    });
    Ok(address)
}

const ANY_PORT: &str = "127.0.0.1:0";

/// Above it, connections wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8192;

/// Per connection; large enough that bulk is not all system calls.
const CHUNK_BYTES: usize = 32 * 1024;

/// No UDP payload is larger.
const MAX_DATAGRAM_BYTES: usize = 64 * 1024;

/// Keeps a shortage of file descriptors from becoming a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn accept_all(listener: TcpListener, tasks: &Lifecycle) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                let this = tasks.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = this.killed() => {}
                        ended = echo_stream(stream) => {
                            if let Err(error) = ended {
                                trace!(%error, "Echo connection broke.");
                            }
                        }
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "The TCP echo backend cannot accept a connection.");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn echo_stream(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&chunk[..length]).await?;
    }
}

async fn echo_datagrams(socket: UdpSocket) {
    let mut payload = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        let echoed = match socket.recv_from(&mut payload).await {
            Ok((length, from)) => socket.send_to(&payload[..length], from).await,
            Err(error) => Err(error),
        };
        if let Err(error) = echoed {
            debug!(%error, "The UDP echo backend lost a datagram.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_comes_back_whole_and_ends_after_its_end() {
        let tasks = Lifecycle::new();
        let mut stream = TcpStream::connect(tcp(&tasks).await.unwrap()).await.unwrap();
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let (mut read, mut write) = stream.split();

        let mut echoed = Vec::new();
        let send = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (_, received) = tokio::join!(send, read.read_to_end(&mut echoed));

        received.unwrap();
        assert!(echoed == sent, "{} bytes of {} came back", echoed.len(), sent.len());
        tasks.begin_kill();
        tasks.all_tasks_ended().await;
    }

    #[tokio::test]
    async fn datagrams_come_back_even_when_empty() {
        let tasks = Lifecycle::new();
        let socket = UdpSocket::bind(ANY_PORT).await.unwrap();
        socket.connect(udp(&tasks).await.unwrap()).await.unwrap();
        for sent in [&b"ping"[..], b""] {
            socket.send(sent).await.unwrap();
            let mut echoed = [0; 16];
            let length = socket.recv(&mut echoed).await.unwrap();
            assert_eq!(&echoed[..length], sent);
        }
        tasks.begin_kill();
        tasks.all_tasks_ended().await;
    }
}

//! What stands behind the bridges, on a thread of its own.

use std::{net::SocketAddr, thread};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

/// What a stream leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// Sends back what it gets, and finishes when the other side has.
    Echo,
    /// Reads to the end, then answers with one byte.
    Sink,
    /// Reads a count of MiB, one byte, and sends as much.
    Source,
}

impl Target {
    pub(crate) const ALL: [Self; 3] = [Self::Echo, Self::Sink, Self::Source];

    /// The path of its route.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Echo => "/echo",
            Self::Sink => "/sink",
            Self::Source => "/source",
        }
    }
}

/// Their addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backends {
    tcp: [SocketAddr; 3],
    pub(crate) udp: SocketAddr,
}

impl Backends {
    pub(crate) fn tcp(&self, target: Target) -> SocketAddr {
        self.tcp[target as usize]
    }

    pub(crate) fn start() -> Self {
        let (ready, started) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let tcp = [listen(echo).await, listen(sink).await, listen(source).await];
                let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
                let udp = socket.local_addr().expect("an address");
                ready.send(Self { tcp, udp }).expect("the main thread waits");
                let mut buffer = vec![0; 65_536];
                while let Ok((read, from)) = socket.recv_from(&mut buffer).await {
                    _ = socket.send_to(&buffer[..read], from).await;
                }
            });
        });
        started.recv().expect("the backends start")
    }
}

async fn listen<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            _ = stream.set_nodelay(true);
            // A client that goes away ends it.
            tokio::spawn(serve(stream));
        }
    });
    address
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

async fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    while stream.read(&mut buffer).await? > 0 {}
    stream.write_all(&[1]).await
}

async fn source(mut stream: TcpStream) -> std::io::Result<()> {
    let block = vec![7; 1024 * 1024];
    for _ in 0..stream.read_u8().await? {
        stream.write_all(&block).await?;
    }
    stream.shutdown().await
}

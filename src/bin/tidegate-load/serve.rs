//! `serve`: the backends that loads need, in one process: echo, source, sink.
//!
//! ```text
//! echo       TCP: sends back what comes, and ends when the client has
//! udp-echo   UDP: sends each datagram back
//! source     TCP: reads a count of bytes, 8 of them, big-endian; sends so many of the block's, and ends.
//!            The highest count: until the client goes
//! sink       TCP: compares what comes with the block's bytes; at the client's end answers with 16 bytes,
//!            big-endian: how many came, and where the first wrong one was (the highest number: nowhere)
//! ```
//!
//! One thread, large buffers, nothing made per byte: it must not be what is measured.

use std::{
    io::{self, Write},
    net::SocketAddr,
    time::Duration,
};

use tidegate::lifecycle::Lifecycle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
    time::sleep,
};

mod datagrams;

use crate::{args::ServeArgs, block};

/// Count of bytes that has no end.
pub(crate) const ENDLESS: u64 = u64::MAX;

/// Bytes that an echo reads at once in the beginning: many connections that wait hold little.
const FIRST_ECHO_BYTES: usize = 4 * 1024;

/// And at most, when reads have filled what there was.
const MOST_ECHO_BYTES: usize = 64 * 1024;

/// Bytes that a sink reads at once.
const SINK_BYTES: usize = 256 * 1024;

/// Keeps a shortage of file descriptors from becoming a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a sink says in the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Received {
    pub(crate) bytes: u64,
    pub(crate) first_wrong: Option<u64>,
}

impl Received {
    /// Length on the wire.
    pub(crate) const BYTES: usize = 16;

    const NOWHERE: u64 = u64::MAX;

    pub(crate) fn read(answer: &[u8]) -> Option<Self> {
        let (bytes, rest) = answer.split_first_chunk()?;
        let (wrong, rest) = rest.split_first_chunk()?;
        let wrong = u64::from_be_bytes(*wrong);
        rest.is_empty().then(|| Self {
            bytes: u64::from_be_bytes(*bytes),
            first_wrong: (wrong != Self::NOWHERE).then_some(wrong),
        })
    }

    fn write(self) -> Vec<u8> {
        let wrong = self.first_wrong.unwrap_or(Self::NOWHERE);
        [self.bytes.to_be_bytes(), wrong.to_be_bytes()].concat()
    }
}

/// What is done with each connection.
#[derive(Clone, Copy)]
enum Service {
    Echo,
    Source,
    Sink,
}

/// Serves until it is told to stop, and says where.
///
/// # Errors
/// What cannot be bound, in words.
pub(crate) fn serve(args: &ServeArgs) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| format!("no runtime: {e}"))?.block_on(run(args))
}

async fn run(args: &ServeArgs) -> Result<(), String> {
    let tasks = Lifecycle::new();
    // Before anybody is told that it is there.
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|e| format!("cannot wait for signals: {e}"))?;
    for (name, address, service) in [
        ("echo", args.echo, Service::Echo),
        ("source", args.source, Service::Source),
        ("sink", args.sink, Service::Sink),
    ] {
        let Some(address) = address else { continue };
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|e| format!("cannot bind --{name} {address}: {e}"))?;
        say(name, listener.local_addr())?;
        tasks.spawn(accept(listener, service, tasks.clone()));
    }
    if let Some(address) = args.udp_echo {
        let bound = UdpSocket::bind(address).await;
        let socket = bound.map_err(|e| format!("cannot bind --udp-echo {address}: {e}"))?;
        say("udp-echo", socket.local_addr())?;
        let echo = datagrams::Echo::new(socket).map_err(|e| format!("cannot serve UDP: {e}"))?;
        tasks.spawn(echo.run());
    }
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.map_err(|e| e.to_string()),
        _told = terminate.recv() => Ok(()),
    }
}

/// `source listening on 127.0.0.1:7002`: one line for each, for whoever waits for it.
fn say(name: &str, address: io::Result<SocketAddr>) -> Result<(), String> {
    let address = address.map_err(|e| format!("{name} has no address: {e}"))?;
    let mut out = io::stdout().lock();
    let said = writeln!(out, "{name} listening on {address}").and_then(|()| out.flush());
    said.map_err(|e| format!("cannot say where {name} listens: {e}"))
}

async fn accept(listener: TcpListener, service: Service, tasks: Lifecycle) {
    loop {
        let Ok((stream, _client)) = listener.accept().await else {
            // It is of the one connection, or there is no descriptor left.
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        tasks.spawn(async move {
            // A connection that breaks is the client's loss, and it says so.
            _ = match service {
                Service::Echo => echo(stream).await,
                Service::Source => source(stream).await,
                Service::Sink => sink(stream).await,
            };
        });
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.split();
    let mut buffer = vec![0; FIRST_ECHO_BYTES];
    loop {
        let length = read.read(&mut buffer).await?;
        if length == 0 {
            return write.shutdown().await;
        }
        write.write_all(buffer.get(..length).unwrap_or_default()).await?;
        if length == buffer.len() && length < MOST_ECHO_BYTES {
            buffer.resize(length * 4, 0);
        }
    }
}

async fn source(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let wanted = stream.read_u64().await?;
    let mut sent = 0;
    while sent < wanted {
        let piece = block::piece(sent, wanted - sent);
        stream.write_all(&piece).await?;
        sent += piece.len() as u64;
    }
    stream.shutdown().await
}

async fn sink(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Received { bytes: 0, first_wrong: None };
    let mut buffer = vec![0; SINK_BYTES];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        let came = buffer.get(..length).unwrap_or_default();
        if received.first_wrong.is_none() {
            received.first_wrong = block::first_difference(received.bytes, came);
        }
        received.bytes += length as u64;
    }
    stream.write_all(&received.write()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sink_says_is_read_as_it_was_written() {
        for received in [
            Received { bytes: 0, first_wrong: None },
            Received { bytes: 1 << 40, first_wrong: Some(0) },
            Received { bytes: 7, first_wrong: Some(6) },
        ] {
            let written = received.write();
            assert_eq!(written.len(), Received::BYTES);
            assert_eq!(Received::read(&written), Some(received));
            assert_eq!(Received::read(&written[1..]), None);
            assert_eq!(Received::read(&[&written[..], b"x"].concat()), None);
        }
    }
}

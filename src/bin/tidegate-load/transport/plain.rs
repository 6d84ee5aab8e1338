//! TCP connections, with TLS or without, as streams; and UDP sockets.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tidegate::backend::tls::{TlsClient, TlsStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::run::chain;

/// Bytes that are read at once, in the beginning: many streams that wait hold little.
const FIRST_READ: usize = 2 * 1024;

/// And at most, when reads have filled what they were given.
const LARGEST_READ: usize = 128 * 1024;

/// The most that a record of TLS holds (RFC 8446 section 5.1).
const TLS_RECORD: usize = 16 * 1024;

/// Bytes that the kernel is asked to hold for a UDP socket, each way, as for QUIC's.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// A connection.
pub(crate) enum PlainStream {
    Tcp(TcpStream),
    Tls(Rc<TlsStream>),
}

impl PlainStream {
    /// Connects, and does the handshake of TLS. Why not, in words.
    pub(super) async fn connect(
        server: SocketAddr,
        tls: Option<&TlsClient>,
    ) -> Result<Self, String> {
        let socket = TcpStream::connect(server).await.map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        match tls {
            None => Ok(Self::Tcp(socket)),
            Some(client) => match TlsStream::connect(socket, client).await {
                Ok(stream) => Ok(Self::Tls(Rc::new(stream))),
                Err(error) => Err(chain(&error)),
            },
        }
    }

    pub(super) fn split(self) -> (PlainWriter, PlainReader) {
        match self {
            Self::Tcp(socket) => {
                let (read, write) = socket.into_split();
                (PlainWriter::Tcp(write), PlainReader::new(Read::Tcp(read)))
            }
            Self::Tls(stream) => {
                (PlainWriter::Tls(Rc::clone(&stream)), PlainReader::new(Read::Tls(stream)))
            }
        }
    }
}

/// What goes to the server.
pub(crate) enum PlainWriter {
    Tcp(OwnedWriteHalf),
    Tls(Rc<TlsStream>),
}

impl PlainWriter {
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let stream = match self {
            Self::Tcp(half) => return half.write_all(bytes).await,
            Self::Tls(stream) => stream,
        };
        while !bytes.is_empty() {
            match stream.try_write(&[IoSlice::new(bytes)]) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.socket().writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// `shutdown(WR)`, in TLS after `close_notify`.
    pub(super) async fn finish(&mut self) {
        // An error says that the connection is gone, which reading tells as well.
        match self {
            Self::Tcp(half) => _ = half.shutdown().await,
            Self::Tls(stream) => _ = stream.finish().await,
        }
    }

    /// The connection is reset when its last half is dropped.
    pub(super) fn reset(&self) {
        let socket = match self {
            Self::Tcp(half) => SockRef::from(half.as_ref()),
            Self::Tls(stream) => SockRef::from(stream.socket()),
        };
        // An error says that it is gone.
        _ = socket.set_linger(Some(Duration::ZERO));
    }
}

/// What comes from the server.
pub(crate) struct PlainReader {
    half: Read,
    buffer: BytesMut,
    /// What the next read may take.
    room: usize,
}

enum Read {
    Tcp(OwnedReadHalf),
    Tls(Rc<TlsStream>),
}

impl PlainReader {
    fn new(half: Read) -> Self {
        Self { half, buffer: BytesMut::new(), room: FIRST_READ }
    }

    /// What comes next. `None`: the server finished.
    pub(super) async fn read(&mut self) -> io::Result<Option<BytesMut>> {
        // Takes the same memory again if nobody holds what was in it.
        self.buffer.reserve(self.room);
        let read = match &mut self.half {
            Read::Tcp(half) => half.read_buf(&mut self.buffer).await?,
            Read::Tls(stream) => {
                self.buffer.resize(self.room.min(TLS_RECORD), 0);
                let read = poll_fn(|cx| stream.poll_read(cx, &mut self.buffer)).await;
                self.buffer.truncate(*read.as_ref().unwrap_or(&0));
                read?
            }
        };
        if read >= self.room {
            self.room = (self.room * 4).min(LARGEST_READ);
        }
        Ok((read > 0).then(|| self.buffer.split()))
    }
}

/// A UDP socket of a session.
pub(super) async fn udp(server: SocketAddr) -> io::Result<UdpSocket> {
    let local = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    let options = SockRef::from(&socket);
    options.set_recv_buffer_size(SOCKET_BUFFER)?;
    options.set_send_buffer_size(SOCKET_BUFFER)?;
    Ok(socket)
}

thread_local! {
    /// Room for any datagram, one for all sessions of a worker.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; super::MAX_UDP_BYTES]);
}

/// Waits for a datagram. Cancel-safe.
pub(super) async fn receive(socket: &UdpSocket) -> io::Result<Bytes> {
    loop {
        socket.readable().await?;
        let came = SCRATCH.with_borrow_mut(|scratch| {
            let length = socket.try_recv(scratch)?;
            Ok::<_, io::Error>(Bytes::copy_from_slice(scratch.get(..length).unwrap_or_default()))
        });
        match came {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            came => return came,
        }
    }
}

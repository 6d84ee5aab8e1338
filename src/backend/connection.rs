//! A connection to a backend, and how it ends.
//!
//! Over TCP, over TLS, or to a Unix socket: the endings are the same but for one. A Unix socket has no
//! RST, so a cut shows to the backend only as a connection that is closed in both directions: after its end
//! of file a write fails with EPIPE, whereas after a clean end the client still listens.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::AsFd,
    pin::Pin as Pinned,
    sync::Arc,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::{TcpStream, UnixStream, tcp, unix},
};

use super::{
    ClientInfo, DialError, preamble,
    sight::{Seen, Sight},
    tls::TlsStream,
};
use crate::{config, metrics::GaugeGuard};

/// A connection to a backend. Dropping it resets it: its socket lingers for no time, as `dial` has
/// made it.
#[derive(Debug)]
pub struct BackendConnection {
    stream: Seen<Stream>,
    _open: GaugeGuard,
}

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    /// Seldom, and much larger.
    Tls(Box<TlsStream>),
    Unix(UnixStream),
}

impl BackendConnection {
    pub(super) fn new(stream: Stream, open: GaugeGuard) -> Self {
        Self { stream: Seen::new(stream), _open: open }
    }

    /// Lets others look at it, for as long as it is there.
    pub fn show(&mut self, sight: &Arc<Sight>) {
        self.stream.show(sight, |stream| match stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Tls(stream) => stream.socket().as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        });
    }

    /// Writes the preamble, the first of what the backend's own protocol sees.
    pub(super) fn send_preamble(
        &mut self,
        settings: &config::Backend,
        client: &ClientInfo,
    ) -> Result<(), DialError> {
        let Some(preamble) = &settings.introduction.preamble else { return Ok(()) };
        let (_, writer) = self.split();
        write_first(preamble::render(preamble, client).as_bytes(), |bytes| {
            writer.try_write(&[IoSlice::new(bytes)])
        })
    }

    /// The two directions, to be used by one task at a time.
    pub fn split(&mut self) -> (BackendReader<'_>, BackendWriter<'_>) {
        let (reader, writer) = match &mut self.stream.socket {
            Stream::Tcp(stream) => {
                let (reader, writer) = stream.split();
                (ReadHalf::Tcp(reader), WriteHalf::Tcp(writer))
            }
            Stream::Tls(stream) => (ReadHalf::Tls(stream), WriteHalf::Tls(stream)),
            Stream::Unix(stream) => {
                let (reader, writer) = stream.split();
                (ReadHalf::Unix(reader), WriteHalf::Unix(writer))
            }
        };
        (BackendReader(reader), BackendWriter(writer))
    }

    /// Ends the connection in the plain way: what was written is still delivered, unless the backend
    /// has sent something that was not read. Then Linux resets it (RFC 9293 section 3.10.4).
    pub fn close(self) {
        let socket = match &self.stream.socket {
            Stream::Tcp(stream) => SockRef::from(stream),
            // What rustls holds, the kernel does not know to be unread.
            Stream::Tls(stream) if stream.holds_unread() => return,
            Stream::Tls(stream) => SockRef::from(stream.socket()),
            // It never lingers.
            Stream::Unix(_) => return,
        };
        // Should the option stay, the end is a reset: too harsh, but never a cut that looks whole.
        _ = socket.set_linger(None);
    }
}

/// What comes from the backend.
#[derive(Debug)]
pub struct BackendReader<'a>(ReadHalf<'a>);

#[derive(Debug)]
enum ReadHalf<'a> {
    Tcp(tcp::ReadHalf<'a>),
    Tls(&'a TlsStream),
    Unix(unix::ReadHalf<'a>),
}

impl BackendReader<'_> {
    /// Reads into `buffer`; 0 is the end, and an end that TLS did not announce is an error. A read that
    /// does not fill the buffer counts as all there was: the next one waits for the kernel's word
    /// instead of asking.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut space = ReadBuf::new(buffer);
        match &mut self.0 {
            ReadHalf::Tcp(half) => ready!(Pinned::new(half).poll_read(cx, &mut space))?,
            ReadHalf::Unix(half) => ready!(Pinned::new(half).poll_read(cx, &mut space))?,
            ReadHalf::Tls(stream) => return stream.poll_read(cx, buffer),
        }
        Poll::Ready(Ok(space.filled().len()))
    }
}

/// What goes to the backend.
#[derive(Debug)]
pub struct BackendWriter<'a>(WriteHalf<'a>);

#[derive(Debug)]
enum WriteHalf<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Tls(&'a TlsStream),
    Unix(unix::WriteHalf<'a>),
}

impl BackendWriter<'_> {
    /// Hands over as much as the kernel takes now. After `WouldBlock` the same bytes must come first the
    /// next time.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing, or why the connection is broken.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            WriteHalf::Tcp(half) => half.try_write_vectored(slices),
            WriteHalf::Tls(stream) => stream.try_write(slices),
            WriteHalf::Unix(half) => half.try_write_vectored(slices),
        }
    }

    /// Waits until the kernel takes more, or the connection is broken. Cancel-safe.
    ///
    /// # Errors
    /// When the runtime stops.
    pub async fn writable(&self) -> io::Result<()> {
        match &self.0 {
            WriteHalf::Tcp(half) => half.writable().await,
            WriteHalf::Tls(stream) => stream.socket().writable().await,
            WriteHalf::Unix(half) => half.writable().await,
        }
    }

    /// Waits until the connection breaks, and takes the socket's error. Cancel-safe: the error stays
    /// until it is taken.
    pub async fn broken(&self) -> io::Error {
        let failed = match &self.0 {
            WriteHalf::Tcp(half) => half.as_ref().ready(Interest::ERROR).await,
            WriteHalf::Tls(stream) => stream.socket().ready(Interest::ERROR).await,
            WriteHalf::Unix(half) => half.as_ref().ready(Interest::ERROR).await,
        };
        match failed.and_then(|_ready| self.socket().take_error()) {
            Ok(Some(error)) | Err(error) => error,
            // A read or a write took it, and says so.
            Ok(None) => std::future::pending().await,
        }
    }

    /// Says that nothing follows, after what was written. TLS may have to wait for room to say it in.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(&self) -> io::Result<()> {
        match &self.0 {
            WriteHalf::Tls(stream) => stream.finish().await,
            WriteHalf::Tcp(_) | WriteHalf::Unix(_) => self.socket().shutdown(Shutdown::Write),
        }
    }

    fn socket(&self) -> SockRef<'_> {
        match &self.0 {
            WriteHalf::Tcp(half) => SockRef::from(half.as_ref()),
            WriteHalf::Tls(stream) => SockRef::from(stream.socket()),
            WriteHalf::Unix(half) => SockRef::from(half.as_ref()),
        }
    }
}

/// Writes what the backend is to read first, before anything else is written.
pub(super) fn write_first(
    bytes: &[u8],
    try_write: impl FnOnce(&[u8]) -> io::Result<usize>,
) -> Result<(), DialError> {
    if bytes.is_empty() {
        return Ok(());
    }
    // A PROXY header and a preamble together have at most 21 KiB, for which Linux always has room on a new
    // connection: with its least buffer, 46 KiB. Should it be set lower, the connection fails and says so.
    match try_write(bytes) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(DialError::Failed(io::ErrorKind::WriteZero.into())),
        Err(error) => Err(error.into()),
    }
}

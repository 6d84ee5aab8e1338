//! A TCP connection to a backend, and how it ends.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin as Pinned,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::{ClientInfo, DialError, preamble, proxy_protocol};
use crate::{config, metrics::GaugeGuard};

/// A TCP connection to a backend. Dropping it resets it: its socket lingers for no time, as
/// `dial` has made it.
#[derive(Debug)]
pub struct TcpConnection {
    stream: TcpStream,
    _open: GaugeGuard,
}

impl TcpConnection {
    pub(super) fn new(stream: TcpStream, open: GaugeGuard) -> Self {
        Self { stream, _open: open }
    }

    /// Says who the client is by the PROXY protocol, before anything else is written.
    pub(super) fn introduce(
        &self,
        settings: &config::Backend,
        client: &ClientInfo,
    ) -> Result<(), DialError> {
        let header = proxy_protocol::for_tcp(settings, client);
        header.map_or(Ok(()), |header| self.write_first(&header))
    }

    /// Writes the preamble, the first of what the backend's own protocol sees.
    pub(super) fn send_preamble(
        &self,
        settings: &config::Backend,
        client: &ClientInfo,
    ) -> Result<(), DialError> {
        let Some(preamble) = &settings.introduction.preamble else { return Ok(()) };
        self.write_first(preamble::render(preamble, client).as_bytes())
    }

    fn write_first(&self, bytes: &[u8]) -> Result<(), DialError> {
        // Both together have at most 21 KiB, for which Linux always has room on a new connection: with its
        // least buffer, 46 KiB. Should it be set lower, the connection fails and says so.
        match self.stream.try_write(bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            Ok(_) => Err(DialError::Failed(io::ErrorKind::WriteZero.into())),
            Err(error) => Err(error.into()),
        }
    }

    /// The two directions, to be used by one task at a time.
    pub fn split(&mut self) -> (TcpReader<'_>, TcpWriter<'_>) {
        let (reader, writer) = self.stream.split();
        (TcpReader(reader), TcpWriter(writer))
    }

    /// Ends the connection in the plain way: what was written is still delivered, unless the backend
    /// has sent something that was not read. Then Linux resets it (RFC 9293 section 3.10.4).
    pub fn close(self) {
        // Should the option stay, the end is a reset: too harsh, but never a cut that looks whole.
        _ = SockRef::from(&self.stream).set_linger(None);
    }
}

/// What comes from the backend.
#[derive(Debug)]
pub struct TcpReader<'a>(ReadHalf<'a>);

impl TcpReader<'_> {
    /// Reads into `buffer`; 0 is the end. A read that does not fill the buffer counts as all there
    /// was: the next one waits for the kernel's word instead of asking.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pinned::new(&mut self.0).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

/// What goes to the backend.
#[derive(Debug)]
pub struct TcpWriter<'a>(WriteHalf<'a>);

impl TcpWriter<'_> {
    /// Hands over as much as the kernel takes now.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing, or why the connection is broken.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    /// Waits until the kernel takes more, or the connection is broken. Cancel-safe.
    ///
    /// # Errors
    /// When the runtime stops.
    pub async fn writable(&self) -> io::Result<()> {
        self.0.writable().await
    }

    /// Waits until the connection breaks, and takes the socket's error. Cancel-safe: the error stays
    /// until it is taken.
    pub async fn broken(&self) -> io::Error {
        let stream: &TcpStream = self.0.as_ref();
        match stream.ready(Interest::ERROR).await.and_then(|_ready| stream.take_error()) {
            Ok(Some(error)) | Err(error) => error,
            // A read or a write took it, and says so.
            Ok(None) => std::future::pending().await,
        }
    }

    /// Says that nothing follows, after what was written.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish(&self) -> io::Result<()> {
        let stream: &TcpStream = self.0.as_ref();
        SockRef::from(stream).shutdown(Shutdown::Write)
    }
}

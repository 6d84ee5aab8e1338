//! TLS over a TCP connection to a backend.
//!
//! rustls does the protocol, and here it meets the socket. Endings keep their meaning: `close_notify` is
//! the backend's clean end of its half, a FIN without it is a truncation (RFC 8446 section 6.1) and
//! reads as an error; our clean end is `close_notify` and then FIN, after which the reply is still
//! read. Nothing that was accepted stays behind in a buffer of ours: a write counts once the kernel
//! has all of its records.

use std::{
    io::{self, IoSlice, Read, Write},
    mem,
    net::Shutdown,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error as RustlsError, pki_types::ServerName,
};
use socket2::SockRef;
use tokio::net::TcpStream;

/// Why the endpoint's TLS is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Its certificate does not lead to a root that the configuration trusts, or is not valid now.
    #[error("the backend's certificate is not trusted")]
    Untrusted(#[source] RustlsError),
    /// Its certificate is for another name.
    #[error("the backend's certificate is for another name")]
    WrongName(#[source] RustlsError),
    /// It refused: no common version or protocol, or it wants another certificate of the client's.
    #[error("the backend refused the TLS handshake")]
    Refused(#[source] RustlsError),
    /// What it said is not TLS, or not sound.
    #[error("the backend's TLS handshake is broken")]
    Broken(#[source] RustlsError),
    /// It ended the connection before the handshake was over.
    #[error("the backend ended the connection in the TLS handshake")]
    Ended(#[source] io::Error),
}

impl From<RustlsError> for TlsError {
    fn from(error: RustlsError) -> Self {
        match error {
            RustlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Self::WrongName(error),
            RustlsError::InvalidCertificate(_) => Self::Untrusted(error),
            RustlsError::AlertReceived(_) => Self::Refused(error),
            _ => Self::Broken(error),
        }
    }
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        Self::Ended(error)
    }
}

/// How the endpoints of a backend are spoken to.
#[derive(Debug)]
pub struct TlsClient {
    /// How rustls is to speak.
    pub settings: Arc<ClientConfig>,
    /// Whom the certificate has to name.
    pub server: ServerName<'static>,
}

/// A TLS connection whose handshake is done.
#[derive(Debug)]
pub struct TlsStream {
    socket: TcpStream,
    /// Both halves of a stream run on one task, so this is never waited for.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tls: ClientConnection,
    /// Bytes of the client's that are encrypted but not yet with the kernel.
    unsent: usize,
}

impl TlsStream {
    /// Does the handshake. A connection whose handshake fails or is given up is reset when it is dropped.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(socket: TcpStream, client: &TlsClient) -> Result<Self, TlsError> {
        let mut tls = ClientConnection::new(Arc::clone(&client.settings), client.server.clone())?;
        while tls.is_handshaking() || tls.wants_write() {
            if tls.wants_write() {
                socket.writable().await?;
                unless_blocked(flush(&mut tls, &socket))?;
            } else {
                socket.readable().await?;
                match unless_blocked(tls.read_tls(&mut Kernel(&socket)))? {
                    Some(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    Some(_) => understand(&mut tls, &socket)?,
                    None => {}
                }
            }
        }
        Ok(Self { socket, state: Mutex::new(State { tls, unsent: 0 }) })
    }

    /// The connection below.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether the backend has said something that nobody has read, as far as rustls has it.
    pub fn holds_unread(&self) -> bool {
        // With nothing new, this only looks.
        let held = self.state().tls.process_new_packets();
        held.is_ok_and(|held| held.plaintext_bytes_to_read() > 0)
    }

    /// Reads into `buffer`; 0 after `close_notify`, an error after a FIN without it.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(read) = unless_blocked(self.state().tls.reader().read(buffer))? {
                return Poll::Ready(Ok(read));
            }
            ready!(self.socket.poll_read_ready(cx))?;
            let tls = &mut self.state().tls;
            if unless_blocked(tls.read_tls(&mut Kernel(&self.socket)))?.is_some() {
                understand(tls, &self.socket)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
        }
    }

    /// Encrypts and writes what comes first in `slices`. `WouldBlock`: the kernel has not taken all of
    /// it. The same bytes must come first the next time, and then they count.
    ///
    /// # Errors
    /// `WouldBlock`, or why the connection is broken.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let State { tls, unsent } = &mut *self.state();
        if *unsent == 0 {
            *unsent = tls.writer().write_vectored(slices)?;
        }
        flush(tls, &self.socket)?;
        Ok(mem::take(unsent))
    }

    /// Says `close_notify`, then FIN. Everything before was taken by the kernel.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(&self) -> io::Result<()> {
        self.state().tls.send_close_notify();
        while unless_blocked(self.flush())?.is_none() {
            self.socket.writable().await?;
        }
        SockRef::from(&self.socket).shutdown(Shutdown::Write)
    }

    fn flush(&self) -> io::Result<()> {
        flush(&mut self.state().tls, &self.socket)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // rustls keeps its own state sound or says so.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes in what was received; says so to the backend where it is wrong.
fn understand(tls: &mut ClientConnection, socket: &TcpStream) -> Result<(), RustlsError> {
    let understood = tls.process_new_packets();
    if understood.is_err() {
        // The alert. The connection is over, with or without it.
        _ = flush(tls, socket);
    }
    understood.map(drop)
}

/// Hands every record to the kernel, or as many as it takes and then `WouldBlock`.
fn flush(tls: &mut ClientConnection, socket: &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(&mut Kernel(socket))?;
    }
    Ok(())
}

fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// The socket as rustls wants it: at once or not at all.
struct Kernel<'a>(&'a TcpStream);

impl Read for Kernel<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;

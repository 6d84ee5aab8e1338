//! The first that a side says: its control stream with its SETTINGS, in place of h3's.

use std::{
    fmt, mem,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes};
use h3::quic::{self, OpenStreams, StreamErrorIncoming, StreamId, WriteBuf};

use super::demux::stream_id;

/// The id that h3 is told for a stream that is never opened. Nothing is ever sent on it.
const UNOPENED: u64 = 3;

/// What a side says before all else: its control stream, up to the end of its SETTINGS.
///
/// It is said as soon as the transport can send (RFC 9114 section 7.2.4.2): by a server before the client's
/// handshake is done.
pub struct Greeting {
    opener: h3_quinn::Connection,
    /// The beginning of the control stream.
    head: Bytes,
    /// The control stream, once it is open.
    control: Option<Box<Control>>,
}

impl Greeting {
    /// Nothing is said yet.
    pub(crate) fn new(quic: quinn::Connection, head: Bytes) -> Self {
        Self { opener: h3_quinn::Connection::new(quic), head, control: None }
    }

    /// Says as much as the other side gives credit for by now.
    pub(super) fn begin(&mut self) {
        let mut now = Context::from_waker(Waker::noop());
        // Errors show again where the rest is to be said.
        if let Poll::Ready(Ok(mut control)) = self.poll_open(&mut now) {
            _ = control.poll_write(&mut now);
            self.control = Some(control);
        }
    }

    pub(super) fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<Control>, StreamErrorIncoming>> {
        if let Some(control) = self.control.take() {
            return Poll::Ready(Ok(control));
        }
        let stream = ready!(OpenStreams::<Bytes>::poll_open_send(&mut self.opener, cx))?;
        let left = Some(self.head.clone());
        Poll::Ready(Ok(Box::new(Control { stream, left, is_begun: false })))
    }
}

impl fmt::Debug for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greeting")
            .field("is_begun", &self.control.is_some())
            .finish_non_exhaustive()
    }
}

/// One of the gateway's unidirectional streams, as h3 sees them.
pub(crate) enum UniSend {
    /// The control stream.
    Control(Box<Control>),
    /// A QPACK stream, which is never opened.
    Unopened,
}

/// The control stream: what h3 writes first is replaced.
pub(crate) struct Control {
    stream: h3_quinn::SendStream<Bytes>,
    /// What is left to be written of what stands in place of h3's SETTINGS.
    left: Option<Bytes>,
    /// Whether h3 has written its own.
    is_begun: bool,
}

impl Control {
    /// Writes what is left of the beginning.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(bytes) = &mut self.left {
            if bytes.has_remaining() {
                ready!(quic::SendStreamUnframed::poll_send(&mut self.stream, cx, bytes))?;
            } else {
                self.left = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl quic::SendStream<Bytes> for UniSend {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let Self::Control(control) = self else { return Poll::Ready(Ok(())) };
        ready!(control.poll_write(cx))?;
        control.stream.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        let Self::Control(control) = self else { return Ok(()) };
        if !mem::replace(&mut control.is_begun, true) {
            return Ok(());
        }
        control.stream.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        match self {
            Self::Control(control) => control.stream.poll_finish(cx),
            Self::Unopened => Poll::Ready(Ok(())),
        }
    }

    fn reset(&mut self, code: u64) {
        if let Self::Control(control) = self {
            control.stream.reset(code);
        }
    }

    fn send_id(&self) -> StreamId {
        match self {
            Self::Control(control) => control.stream.send_id(),
            Self::Unopened => stream_id(UNOPENED),
        }
    }
}

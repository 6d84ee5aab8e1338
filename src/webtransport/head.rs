//! What a stream is: its first one or two varints.
//!
//! A client may open a stream and say nothing on it for as long as it likes, and QUIC opens
//! lower-numbered streams by implication; a stream without a byte therefore waits without a deadline,
//! bounded in number by QUIC's stream credit. Once the first byte has come, the rest of the head must
//! follow in time.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Sleep, sleep};

use super::{
    codes::{self, error},
    varint,
};

/// A stream that the client opened, and what it is.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The gateway's half; `None` on a unidirectional stream.
    pub(crate) send: Option<quinn::SendStream>,
    /// The client's half.
    pub(crate) recv: quinn::RecvStream,
    /// What it says it is.
    pub(crate) kind: Kind,
    /// What was read and belongs to what follows.
    pub(crate) first: Bytes,
}

/// What a stream says it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A stream of the WebTransport session with this id.
    WebTransport(u64),
    /// A request; nothing of it is taken away.
    Request,
    /// A unidirectional stream of another type; the type is taken away.
    Uni(u64),
}

/// What a stream of a session begins with; `marker` tells which kind it is.
pub(crate) fn of(marker: u64, session: u64) -> BytesMut {
    let mut head = BytesMut::with_capacity(2 * varint::MAX_BYTES);
    varint::put(&mut head, marker);
    varint::put(&mut head, session);
    head
}

/// Reads a stream's head. Resolves to the stream's id if it ends within it.
#[derive(Debug)]
pub(crate) struct ReadHead {
    id: u64,
    stream: Option<(Option<quinn::SendStream>, quinn::RecvStream)>,
    read: Bytes,
    patience: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ReadHead {
    /// A head that must be whole within `patience` of its first byte.
    pub(crate) fn new(
        send: Option<quinn::SendStream>,
        recv: quinn::RecvStream,
        patience: Duration,
    ) -> Self {
        let id = recv.id().into();
        Self { id, stream: Some((send, recv)), read: Bytes::new(), patience, deadline: None }
    }

    fn opened(&mut self) -> Option<Opened> {
        let is_bidi = self.stream.as_ref().is_some_and(|(send, _)| send.is_some());
        let (kind, length) = parse(&self.read, is_bidi)?;
        let (send, recv) = self.stream.take()?;
        let mut first = std::mem::take(&mut self.read);
        first.advance(length);
        Some(Opened { send, recv, kind, first })
    }

    /// Lets go of a stream that never said what it is.
    fn give_up(&mut self) -> Result<Opened, u64> {
        if let Some((send, mut recv)) = self.stream.take() {
            let code = codes::quic(error::H3_REQUEST_INCOMPLETE);
            // Errors say that a half has ended already.
            _ = recv.stop(code);
            if let Some(mut send) = send {
                _ = send.reset(code);
            }
        }
        Err(self.id)
    }
}

/// What the bytes so far say, and how many of them the head takes.
pub(crate) fn parse(read: &[u8], is_bidi: bool) -> Option<(Kind, usize)> {
    let (kind, n) = varint::peek(read)?;
    let marker = if is_bidi { codes::STREAM_BIDI } else { codes::STREAM_UNI };
    if kind == marker {
        let (session, m) = varint::peek(&read[n..])?;
        return Some((Kind::WebTransport(session), n + m));
    }
    Some(if is_bidi { (Kind::Request, 0) } else { (Kind::Uni(kind), n) })
}

impl Future for ReadHead {
    type Output = Result<Opened, u64>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Opened, u64>> {
        let this = &mut *self;
        loop {
            if let Some(opened) = this.opened() {
                return Poll::Ready(Ok(opened));
            }
            let Some((_, recv)) = &mut this.stream else { return Poll::Ready(Err(this.id)) };
            let read = pin!(recv.read_chunk(usize::MAX, true)).poll(cx);
            let Poll::Ready(read) = read else {
                if this.read.is_empty() {
                    return Poll::Pending;
                }
                let patience = this.patience;
                let deadline = this.deadline.get_or_insert_with(|| Box::pin(sleep(patience)));
                ready!(deadline.as_mut().poll(cx));
                return Poll::Ready(this.give_up());
            };
            match read {
                Ok(Some(chunk)) if this.read.is_empty() => this.read = chunk.bytes,
                Ok(Some(chunk)) => {
                    let mut joined = BytesMut::from(&this.read[..]);
                    joined.extend_from_slice(&chunk.bytes);
                    this.read = joined.freeze();
                }
                // It ended, by FIN, reset or with its connection, before it said what it is.
                Ok(None) | Err(_) => return Poll::Ready(this.give_up()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_varints_say_what_a_stream_is() {
        for (bytes, is_bidi, said) in [
            (&[0x40, 0x41, 0x04][..], true, Some((Kind::WebTransport(4), 3))),
            (&[0x40, 0x41], true, None),
            (&[0x40], true, None),
            (&[0x01, 0x05], true, Some((Kind::Request, 0))),
            (&[0x40, 0x54, 0x40, 0x80], false, Some((Kind::WebTransport(0x80), 4))),
            (&[0x00, 0x04], false, Some((Kind::Uni(0), 1))),
            // Each marker means something only on its own kind of stream.
            (&[0x40, 0x54, 0x00], true, Some((Kind::Request, 0))),
            (&[0x40, 0x41, 0x00], false, Some((Kind::Uni(0x41), 2))),
        ] {
            assert_eq!(parse(bytes, is_bidi), said, "{bytes:x?}");
        }
    }
}

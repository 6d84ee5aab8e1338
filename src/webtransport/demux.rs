//! h3's QUIC backend: only requests get through.
//!
//! h3 knows its transport by the public traits of `h3::quic`. [`Demux`] implements them on the streams
//! that the connection's task has found to be requests, so h3 never sees a WebTransport stream, and the
//! gateway's own SETTINGS go out in place of h3's, by a [`Greeting`]. Request streams pass through the
//! [`Guard`].
//!
//! The client's control and QPACK streams do not reach h3 either (see `control`), and the gateway's own
//! QPACK streams are never opened, since its table has no room (RFC 9204 section 4.2).

use std::{
    collections::{HashMap, VecDeque},
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h3::quic::{
    self, ConnectionErrorIncoming, OpenStreams, StreamErrorIncoming, StreamId, WriteBuf,
};

use super::{
    codes::{self, error},
    greeting::{Greeting, UniSend},
    guard::{FirstSection, Guard, Sender, Violation},
    mailbox::{Mailbox, Note},
    queue::Queue,
};

/// Most bytes that are taken from a request stream at once.
const READ_BYTES: usize = 16 * 1024;

/// What a request's first field section was that h3 does not tell, by stream id.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<HashMap<u64, FirstSection>>);

impl Notes {
    fn insert(&self, stream: u64, section: FirstSection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(stream, section);
    }

    /// Takes the note on a request; there is one once h3 has resolved it.
    pub(crate) fn take(&self, stream: u64) -> Option<FirstSection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&stream)
    }
}

/// What all request streams of a connection share.
#[derive(Clone)]
pub(crate) struct RequestContext {
    pub(crate) quic: quinn::Connection,
    pub(crate) notes: Arc<Notes>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) max_section_bytes: u64,
    /// Who is on the other side.
    pub(crate) sender: Sender,
}

/// One connection, as h3 sees it.
pub(crate) struct Demux {
    context: RequestContext,
    requests: Queue<RequestStream>,
    /// Given up once h3 has the control stream.
    greeting: Option<Greeting>,
}

impl Demux {
    /// A backend that hands h3 the streams of `requests`, and has the greeting said where h3 would open its
    /// control stream.
    pub(crate) fn new(
        context: RequestContext,
        requests: Queue<RequestStream>,
        greeting: Greeting,
    ) -> Self {
        Self { context, requests, greeting: Some(greeting) }
    }
}

impl quic::Connection<Bytes> for Demux {
    type RecvStream = NoStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<NoStream, ConnectionErrorIncoming>> {
        Poll::Pending
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RequestStream, ConnectionErrorIncoming>> {
        self.requests.poll_take(cx).map(Ok)
    }

    fn opener(&self) -> Opener {
        Opener { context: self.context.clone(), opening: None }
    }
}

impl OpenStreams<Bytes> for Demux {
    type BidiStream = RequestStream;
    type SendStream = UniSend;

    fn poll_open_bidi(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<RequestStream, StreamErrorIncoming>> {
        unreachable!("h3 opens requests by its opener")
    }

    /// h3 opens three streams at its start; the first is the control stream.
    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<UniSend, StreamErrorIncoming>> {
        let Some(greeting) = &mut self.greeting else {
            return Poll::Ready(Ok(UniSend::Unopened));
        };
        let control = ready!(greeting.poll_open(cx))?;
        self.greeting = None;
        Poll::Ready(Ok(UniSend::Control(control)))
    }

    fn close(&mut self, code: h3::error::Code, reason: &[u8]) {
        self.context.quic.close(codes::quic(code.value()), reason);
    }
}

/// Opens request streams: only a client's h3 does.
pub(crate) struct Opener {
    context: RequestContext,
    opening: Option<Opening>,
}

type Opening = Pin<
    Box<
        dyn Future<Output = Result<(quinn::SendStream, quinn::RecvStream), quinn::ConnectionError>>
            + Send
            + Sync,
    >,
>;

impl OpenStreams<Bytes> for Opener {
    type BidiStream = RequestStream;
    type SendStream = UniSend;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RequestStream, StreamErrorIncoming>> {
        let opening = self.opening.get_or_insert_with(|| {
            let quic = self.context.quic.clone();
            Box::pin(async move { quic.open_bi().await })
        });
        let opened = ready!(opening.as_mut().poll(cx));
        self.opening = None;
        let (send, recv) = opened.map_err(lost)?;
        Poll::Ready(Ok(RequestStream::new(self.context.clone(), send, recv, Bytes::new())))
    }

    fn poll_open_send(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<UniSend, StreamErrorIncoming>> {
        Poll::Ready(Ok(UniSend::Unopened))
    }

    fn close(&mut self, code: h3::error::Code, reason: &[u8]) {
        self.context.quic.close(codes::quic(code.value()), reason);
    }
}

/// A unidirectional stream of the other side's, of which h3 sees none. It would have room for several on each
/// connection.
#[derive(Debug)]
pub(crate) enum NoStream {}

impl quic::RecvStream for NoStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        match *self {}
    }

    fn stop_sending(&mut self, _: u64) {
        match *self {}
    }

    fn recv_id(&self) -> StreamId {
        match *self {}
    }
}

/// A request stream.
pub(crate) struct RequestStream {
    send: RequestSend,
    recv: RequestRecv,
}

impl RequestStream {
    /// A request stream of which `first` has been read already.
    pub(crate) fn new(
        context: RequestContext,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        first: Bytes,
    ) -> Self {
        let mut guard = Guard::new(context.sender, context.max_section_bytes);
        guard.push(first);
        Self {
            send: RequestSend { stream: send, unsent: VecDeque::new(), ended: false },
            recv: RequestRecv {
                context,
                stream: recv,
                guard,
                noted: false,
                finished: false,
                ended: false,
            },
        }
    }
}

impl quic::BidiStream<Bytes> for RequestStream {
    type SendStream = RequestSend;
    type RecvStream = RequestRecv;

    fn split(self) -> (RequestSend, RequestRecv) {
        (self.send, self.recv)
    }
}

impl quic::RecvStream for RequestStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let read = ready!(self.recv.poll_guarded(cx));
        Poll::Ready(read.map_err(|end| {
            if let RecvEnd::Violation(Violation::Stream(code)) = end {
                quic::SendStream::<Bytes>::reset(&mut self.send, code);
            }
            end.into()
        }))
    }

    fn stop_sending(&mut self, code: u64) {
        self.recv.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl quic::SendStream<Bytes> for RequestStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

/// The receiving half of a request stream. Dropped before its end, it asks the client to stop; it tells
/// the connection's task that the request is done with, on every path out.
pub(crate) struct RequestRecv {
    context: RequestContext,
    stream: quinn::RecvStream,
    guard: Guard,
    noted: bool,
    /// Whether the client has said all.
    finished: bool,
    /// Whether no more comes, for any reason.
    ended: bool,
}

/// Why no more can be read from a request stream.
enum RecvEnd {
    Quic(StreamErrorIncoming),
    Violation(Violation),
}

impl From<RecvEnd> for StreamErrorIncoming {
    fn from(end: RecvEnd) -> Self {
        match end {
            RecvEnd::Quic(error) => error,
            RecvEnd::Violation(Violation::Stream(error_code)) => {
                Self::StreamTerminated { error_code }
            }
            RecvEnd::Violation(Violation::Connection(_)) => {
                lost(quinn::ConnectionError::LocallyClosed)
            }
        }
    }
}

impl RequestRecv {
    fn poll_guarded(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, RecvEnd>> {
        loop {
            let guarded = self.guard.next();
            self.note();
            match guarded {
                Ok(Some(bytes)) => return Poll::Ready(Ok(Some(bytes))),
                Ok(None) if self.finished => return Poll::Ready(self.end()),
                Ok(None) if self.ended => return Poll::Ready(Ok(None)),
                Ok(None) => {}
                Err(violation) => return Poll::Ready(Err(self.punish(violation))),
            }
            // Polled anew each time: quinn keeps nothing in the future but a reference.
            match ready!(pin!(self.stream.read_chunk(READ_BYTES, true)).poll(cx)) {
                Ok(Some(chunk)) => self.guard.push(chunk.bytes),
                Ok(None) => (self.finished, self.ended) = (true, true),
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Err(RecvEnd::Quic(read_error(error))));
                }
            }
        }
    }

    /// Notes what the first field section was, once it has come.
    fn note(&mut self) {
        if !self.noted
            && let Some(section) = self.guard.first_section()
        {
            self.noted = true;
            self.context.notes.insert(self.stream.id().into(), section);
        }
    }

    fn end(&mut self) -> Result<Option<Bytes>, RecvEnd> {
        if self.guard.at_boundary() {
            return Ok(None);
        }
        Err(self.punish(Violation::Connection(error::H3_FRAME_ERROR)))
    }

    fn punish(&mut self, violation: Violation) -> RecvEnd {
        match violation {
            Violation::Stream(code) => quic::RecvStream::stop_sending(self, code),
            Violation::Connection(code) => {
                self.context.quic.close(codes::quic(code), b"bad frame on a request stream");
            }
        }
        RecvEnd::Violation(violation)
    }
}

impl quic::RecvStream for RequestRecv {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.poll_guarded(cx).map_err(Into::into)
    }

    fn stop_sending(&mut self, code: u64) {
        self.ended = true;
        // An error says that the stream has ended already, which is as good.
        _ = self.stream.stop(codes::quic(code));
    }

    fn recv_id(&self) -> StreamId {
        stream_id(self.stream.id().into())
    }
}

impl Drop for RequestRecv {
    fn drop(&mut self) {
        if !self.ended {
            // The answer does not depend on what is still to come (RFC 9114 section 4.1.1).
            quic::RecvStream::stop_sending(self, error::H3_NO_ERROR);
        }
        let id = self.stream.id().into();
        // h3 may have given the request up before it was resolved.
        self.context.notes.take(id);
        self.context.mailbox.post(Note::Done(id));
    }
}

/// Frames that may wait in front of a request stream that takes nothing.
///
/// A session has one capsule of flow control under way, asks to drain once and closes once, and gives up
/// waiting for each at most once; more than that is a fault.
const MAX_UNSENT_FRAMES: usize = 8;

/// The sending half of a request stream. Dropped before its end, it is reset.
pub(crate) struct RequestSend {
    stream: quinn::SendStream,
    /// Frames that were handed over and not taken by QUIC yet. Whoever waits for that may give up when a
    /// frame is half sent; what is left of it still goes before the next one, so that none is torn.
    unsent: VecDeque<WriteBuf<Bytes>>,
    ended: bool,
}

impl RequestSend {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), quinn::WriteError>> {
        while let Some(frame) = self.unsent.front_mut() {
            if !frame.has_remaining() {
                self.unsent.pop_front();
                continue;
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, frame.chunk())) {
                Ok(written) => frame.advance(written),
                Err(error) => {
                    self.unsent.clear();
                    return Poll::Ready(Err(error));
                }
            }
        }
        // Most have nothing to say for as long as they live, and a place for a frame is large.
        self.unsent = VecDeque::new();
        Poll::Ready(Ok(()))
    }
}

impl quic::SendStream<Bytes> for RequestSend {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.poll_flush(cx).map_err(write_error)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.unsent.len() >= MAX_UNSENT_FRAMES {
            let full = io::Error::other("too many frames wait for the client");
            return Err(StreamErrorIncoming::Unknown(Box::new(full)));
        }
        self.unsent.push_back(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let flushed = ready!(self.poll_flush(cx));
        self.ended = true;
        // An error says that the client has stopped the stream, which h3 has no use for here.
        _ = self.stream.finish();
        Poll::Ready(flushed.map_err(write_error))
    }

    fn reset(&mut self, code: u64) {
        self.ended = true;
        // An error says that the stream has ended already.
        _ = self.stream.reset(codes::quic(code));
    }

    fn send_id(&self) -> StreamId {
        stream_id(self.stream.id().into())
    }
}

impl Drop for RequestSend {
    fn drop(&mut self) {
        if !self.ended {
            quic::SendStream::<Bytes>::reset(self, error::H3_REQUEST_REJECTED);
        }
    }
}

pub(super) fn stream_id(id: u64) -> StreamId {
    id.try_into().expect("quinn's ids are varints")
}

fn read_error(error: quinn::ReadError) -> StreamErrorIncoming {
    match error {
        quinn::ReadError::Reset(code) => {
            StreamErrorIncoming::StreamTerminated { error_code: code.into() }
        }
        quinn::ReadError::ConnectionLost(error) => lost(error),
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}

fn write_error(error: quinn::WriteError) -> StreamErrorIncoming {
    match error {
        quinn::WriteError::Stopped(code) => {
            StreamErrorIncoming::StreamTerminated { error_code: code.into() }
        }
        quinn::WriteError::ConnectionLost(error) => lost(error),
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}

fn lost(error: quinn::ConnectionError) -> StreamErrorIncoming {
    let connection_error = match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        quinn::ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    };
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error }
}

//! A request through the guard and h3, from memory, for the fuzz targets: no QUIC, no waiting.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use h3::{
    error::StreamError,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
    server,
};
use http::Request;

use super::guard::{FirstSection, Guard, Sender, Violation};

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// What the guard noted of it.
    pub(crate) noted: Option<FirstSection>,
    /// What h3 made of it; `None` if it waits for more than there is.
    pub(crate) request: Result<Request<()>, Option<StreamError>>,
    /// What h3 read of its content.
    pub(crate) content: Vec<u8>,
    /// Whether h3 wants the connection closed.
    pub(crate) is_closed: bool,
}

/// Gives a request stream that consists of these bytes to h3, as the connection's task does.
pub(crate) fn exchange(bytes: Bytes, max_section_bytes: u64) -> Exchange {
    let noted = Noted::default();
    let mut guard = Guard::new(Sender::Client, max_section_bytes);
    guard.push(bytes);
    let stream = Stream { guard: Some(guard), noted: Arc::clone(&noted) };
    let mut h3 = server::builder()
        .send_grease(false)
        .max_field_section_size(max_section_bytes)
        .build(Memory { request: Some(stream) })
        .now_or_never()
        .expect("nothing waits here")
        .expect("nothing fails here");
    let accepted = h3.accept().now_or_never().expect("a stream is there");
    let resolver = accepted.expect("no rule is broken yet").expect("a stream is there");
    let (request, content) = read(resolver);
    let is_closed = matches!(h3.accept().now_or_never(), Some(Err(_)));
    let noted = *noted.lock().unwrap_or_else(PoisonError::into_inner);
    Exchange { noted, request, content, is_closed }
}

type Resolved = Result<Request<()>, Option<StreamError>>;

fn read(resolver: server::RequestResolver<Memory, Bytes>) -> (Resolved, Vec<u8>) {
    let (request, mut stream) = match resolver.resolve_request().now_or_never() {
        Some(Ok(resolved)) => resolved,
        Some(Err(error)) => return (Err(Some(error)), Vec::new()),
        None => return (Err(None), Vec::new()),
    };
    let mut content = Vec::new();
    while let Some(Ok(Some(mut data))) = stream.recv_data().now_or_never() {
        content.extend(data.copy_to_bytes(data.remaining()));
    }
    (Ok(request), content)
}

type Noted = Arc<Mutex<Option<FirstSection>>>;

/// A connection with one request on it. What h3 sends goes nowhere.
struct Memory {
    request: Option<Stream>,
}

/// Any of its streams; only the request's has a guard.
struct Stream {
    guard: Option<Guard>,
    noted: Noted,
}

impl quic::Connection<Bytes> for Memory {
    type RecvStream = Stream;
    type OpenStreams = Self;

    fn poll_accept_recv(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionErrorIncoming>> {
        Poll::Pending
    }

    fn poll_accept_bidi(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionErrorIncoming>> {
        self.request.take().map_or(Poll::Pending, |stream| Poll::Ready(Ok(stream)))
    }

    fn opener(&self) -> Self {
        Self { request: None }
    }
}

impl quic::OpenStreams<Bytes> for Memory {
    type BidiStream = Stream;
    type SendStream = Stream;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Stream, StreamErrorIncoming>> {
        Poll::Pending
    }

    fn poll_open_send(&mut self, _: &mut Context<'_>) -> Poll<Result<Stream, StreamErrorIncoming>> {
        Poll::Ready(Ok(Stream { guard: None, noted: Noted::default() }))
    }

    fn close(&mut self, _: h3::error::Code, _: &[u8]) {}
}

impl quic::RecvStream for Stream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let Some(guard) = &mut self.guard else { return Poll::Pending };
        let next = guard.next();
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = guard.first_section();
        Poll::Ready(match next {
            Ok(None) if !guard.at_boundary() => Err(cut()),
            Ok(bytes) => Ok(bytes),
            Err(Violation::Stream(error_code)) => {
                Err(StreamErrorIncoming::StreamTerminated { error_code })
            }
            Err(Violation::Connection(_)) => Err(cut()),
        })
    }

    fn stop_sending(&mut self, _: u64) {}

    fn recv_id(&self) -> StreamId {
        first()
    }
}

/// The connection is closed because of the request.
fn cut() -> StreamErrorIncoming {
    let connection_error = ConnectionErrorIncoming::Timeout;
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error }
}

fn first() -> StreamId {
    0.try_into().expect("0 is an id")
}

impl quic::SendStream<Bytes> for Stream {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, _: T) -> Result<(), StreamErrorIncoming> {
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self, _: u64) {}

    fn send_id(&self) -> StreamId {
        first()
    }
}

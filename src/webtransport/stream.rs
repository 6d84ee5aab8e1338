//! WebTransport streams: raw quinn streams whose ends are mapped (draft section 4.4).
//!
//! quinn finishes a stream that is dropped; these reset it, so that a bridge that dies cannot make a
//! cut transfer look whole.

use std::{
    future::poll_fn,
    pin::pin,
    slice,
    sync::Arc,
    task::{Context, Poll, Wake, Waker, ready},
};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;

use super::{
    capsule::Counted,
    codes::{self, error},
    flow::Flow,
};
use crate::{
    reason::StreamEnd,
    transport::{self, RecvError, SendError},
};

/// The client's half of a stream.
#[derive(Debug)]
pub struct RecvStream {
    stream: quinn::RecvStream,
    /// What was read with the stream's head.
    first: Bytes,
    ended: bool,
    watch: Option<Arc<Watch>>,
    flow: Arc<Flow>,
}

/// Wakes whoever waits for the end of a stream.
///
/// quinn 0.11 keeps the waker of a wait for a reset that was given up, if the stream's last bytes had
/// come before, until the connection ends. So it gets this small one, which lets go of the task when
/// the stream is done with.
#[derive(Debug, Default)]
struct Watch(AtomicWaker);

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }
}

impl RecvStream {
    pub(crate) fn new(stream: quinn::RecvStream, first: Bytes, flow: Arc<Flow>) -> Self {
        Self { stream, first, ended: false, watch: None, flow }
    }

    fn end(&mut self, code: u64) {
        if !self.ended {
            self.ended = true;
            self.flow.cut(1);
            // An error says that the stream has ended already, which is as good.
            _ = self.stream.stop(codes::quic(code));
        }
    }

    /// Reads what is there, as the trait says, but for the account.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, RecvError>> {
        if !self.first.is_empty()
            && let Some(chunk) = chunks.first_mut()
        {
            *chunk = std::mem::take(&mut self.first);
            return Poll::Ready(Ok(Some(1)));
        }
        // Polled anew each time: quinn keeps nothing in the future but references.
        let read = ready!(pin!(self.stream.read_chunks(chunks)).poll(cx));
        Poll::Ready(match read {
            Ok(Some(n)) => Ok(Some(n)),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(quinn::ReadError::Reset(code)) => {
                self.ended = true;
                self.flow.cut(1);
                Err(RecvError::Reset(codes::from_http3(code.into())))
            }
            Err(_) => Err(RecvError::Lost),
        })
    }
}

impl transport::RecvStream for RecvStream {
    fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, RecvError>> {
        let read = ready!(self.poll_read(cx, chunks))?;
        if let Some(chunks) = read.and_then(|n| chunks.get(..n)) {
            self.flow.received(chunks.iter().map(|chunk| chunk.len() as u64).sum());
        }
        Poll::Ready(Ok(read))
    }

    async fn lost(&mut self) -> RecvError {
        if self.ended {
            return std::future::pending().await;
        }
        let watch = Arc::clone(self.watch.get_or_insert_default());
        let waker = Waker::from(Arc::clone(&watch));
        let received = poll_fn(|cx| {
            watch.0.register(cx.waker());
            // Polled anew each time: quinn keeps nothing in the future but a reference.
            pin!(self.stream.received_reset()).poll(&mut Context::from_waker(&waker))
        });
        match received.await {
            Ok(Some(code)) => RecvError::Reset(codes::from_http3(code.into())),
            // All data has arrived: the client cannot reset the stream any more.
            Ok(None) => std::future::pending().await,
            Err(_) => RecvError::Lost,
        }
    }

    fn stop(&mut self, code: u32) {
        self.end(codes::to_http3(code));
    }

    fn abandon(&mut self) {
        self.end(error::WT_SESSION_GONE);
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.0.take();
        }
        self.end(codes::to_http3(StreamEnd::Internal.code()));
    }
}

/// The gateway's half of a stream.
#[derive(Debug)]
pub struct SendStream {
    stream: quinn::SendStream,
    ended: bool,
    is_reset: bool,
    flow: Arc<Flow>,
}

impl SendStream {
    pub(crate) fn new(stream: quinn::SendStream, flow: Arc<Flow>) -> Self {
        Self { stream, ended: false, is_reset: false, flow }
    }

    /// Writes the stream's own head, which session flow control does not count.
    pub(crate) async fn write_head(&mut self, head: &[u8]) -> Result<(), quinn::WriteError> {
        self.stream.write_all(head).await
    }

    fn end(&mut self, code: u64) {
        if !self.ended {
            (self.ended, self.is_reset) = (true, true);
            // An error says that the stream has ended already.
            _ = self.stream.reset(codes::quic(code));
        }
    }
}

/// Writes a chunk as session flow control allows. What was not written stays in it, also when the call
/// is cancelled.
pub(crate) async fn write(
    stream: &mut quinn::SendStream,
    flow: &Flow,
    chunk: &mut Bytes,
) -> Result<(), quinn::WriteError> {
    while !chunk.is_empty() {
        if !poll_fn(|cx| poll_write(stream, flow, chunk, cx)).await? {
            // Boxed, so that the many streams that never come here stay small.
            Box::pin(credit(stream, flow)).await?;
        }
    }
    Ok(())
}

/// Waits for the session's credit, or the stream's end: whoever stops a stream need not give any for it.
async fn credit(stream: &quinn::SendStream, flow: &Flow) -> Result<(), quinn::WriteError> {
    let raised = flow.raised();
    if flow.may(Counted::Data) {
        // It came in between.
        return Ok(());
    }
    tokio::select! {
        () = raised => Ok(()),
        stopped = stream.stopped() => Err(write_error(stopped)),
    }
}

/// What a write says of a stream that was stopped while it waited.
fn write_error(stopped: Result<Option<quinn::VarInt>, quinn::StoppedError>) -> quinn::WriteError {
    match stopped {
        Ok(Some(code)) => quinn::WriteError::Stopped(code),
        Ok(None) => quinn::WriteError::ClosedStream,
        Err(quinn::StoppedError::ConnectionLost(error)) => error.into(),
        Err(quinn::StoppedError::ZeroRttRejected) => quinn::WriteError::ZeroRttRejected,
    }
}

/// Writes as much of a chunk as session and stream allow now, which is then gone from it. False: the session
/// allows nothing.
///
/// Credit is held only for the moment: a stream that waits for its own must not keep it from the others.
fn poll_write(
    stream: &mut quinn::SendStream,
    flow: &Flow,
    chunk: &mut Bytes,
    cx: &mut Context<'_>,
) -> Poll<Result<bool, quinn::WriteError>> {
    let Some(mut credit) = flow.take(Counted::Data, chunk.len() as u64) else {
        return Poll::Ready(Ok(false));
    };
    let fits = usize::try_from(credit.left()).unwrap_or(usize::MAX).min(chunk.len());
    // Polled anew each time: quinn keeps nothing in the future but a reference.
    let written = if fits == chunk.len() {
        // As it is, and quinn takes what it has room for: a piece would be a second handle to the same bytes, and
        // the first of those costs an allocation.
        ready!(pin!(stream.write_chunks(slice::from_mut(chunk))).poll(cx))?
    } else {
        let mut piece = [chunk.slice(..fits)];
        let written = ready!(pin!(stream.write_chunks(&mut piece)).poll(cx))?;
        chunk.advance(written.bytes);
        written
    };
    credit.spend(written.bytes as u64);
    Poll::Ready(Ok(true))
}

impl transport::SendStream for SendStream {
    async fn write(&mut self, chunk: &mut Bytes) -> Result<(), SendError> {
        let written = write(&mut self.stream, &self.flow, chunk).await;
        written.map_err(|error| match error {
            quinn::WriteError::Stopped(code) => SendError::Stopped(codes::from_http3(code.into())),
            _ => SendError::Lost,
        })
    }

    fn finish(&mut self) {
        self.ended = true;
        // An error says that the client has stopped the stream: it does not want to know.
        _ = self.stream.finish();
    }

    fn reset(&mut self, code: u32) {
        self.end(codes::to_http3(code));
    }

    fn delivered(&self) -> impl Future<Output = bool> + Send + 'static {
        // Of a reset stream quinn tells nothing more.
        let stopped = (!self.is_reset).then(|| self.stream.stopped());
        async move {
            match stopped {
                Some(stopped) => matches!(stopped.await, Ok(None)),
                None => false,
            }
        }
    }

    fn stopped(&self) -> impl Future<Output = SendError> + Send + 'static {
        let stopped = self.stream.stopped();
        async move {
            match stopped.await {
                Ok(Some(code)) => SendError::Stopped(codes::from_http3(code.into())),
                // Everything was taken.
                Ok(None) => std::future::pending().await,
                Err(_) => SendError::Lost,
            }
        }
    }

    fn abandon(&mut self) {
        self.end(error::WT_SESSION_GONE);
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.end(codes::to_http3(StreamEnd::Internal.code()));
    }
}

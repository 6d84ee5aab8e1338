//! WebTransport streams: raw quinn streams whose ends are mapped (draft section 4.4).
//!
//! quinn finishes a stream that is dropped; these reset it, so that a bridge that dies cannot make a
//! cut transfer look whole.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Wake, Waker},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use super::codes::{self, error};
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
    pub(crate) fn new(stream: quinn::RecvStream, first: Bytes) -> Self {
        Self { stream, first, ended: false, watch: None }
    }

    /// Ends the stream with a code of the protocol's own.
    pub(crate) fn stop_with(mut self, code: u64) {
        self.end(code);
    }

    fn end(&mut self, code: u64) {
        if !self.ended {
            self.ended = true;
            // An error says that the stream has ended already, which is as good.
            _ = self.stream.stop(codes::quic(code));
        }
    }
}

impl transport::RecvStream for RecvStream {
    async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, RecvError> {
        if !self.first.is_empty()
            && let Some(chunk) = chunks.first_mut()
        {
            *chunk = std::mem::take(&mut self.first);
            return Ok(Some(1));
        }
        match self.stream.read_chunks(chunks).await {
            Ok(Some(n)) => Ok(Some(n)),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(quinn::ReadError::Reset(code)) => {
                self.ended = true;
                Err(RecvError::Reset(codes::from_http3(code.into())))
            }
            Err(_) => Err(RecvError::Lost),
        }
    }

    async fn lost(&mut self) -> RecvError {
        if self.ended {
            return std::future::pending().await;
        }
        let watch = Arc::clone(self.watch.get_or_insert_default());
        let waker = Waker::from(Arc::clone(&watch));
        let received = std::future::poll_fn(|cx| {
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
}

impl SendStream {
    pub(crate) fn new(stream: quinn::SendStream) -> Self {
        Self { stream, ended: false }
    }

    /// Ends the stream with a code of the protocol's own.
    pub(crate) fn reset_with(mut self, code: u64) {
        self.end(code);
    }

    fn end(&mut self, code: u64) {
        if !self.ended {
            self.ended = true;
            // An error says that the stream has ended already.
            _ = self.stream.reset(codes::quic(code));
        }
    }
}

impl transport::SendStream for SendStream {
    async fn write(&mut self, chunk: Bytes) -> Result<(), SendError> {
        self.stream.write_chunk(chunk).await.map_err(|error| match error {
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

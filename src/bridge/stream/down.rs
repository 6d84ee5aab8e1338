//! From the backend to the client.
//!
//! Each read goes into the thread's scratch buffer and is copied once, to its exact size.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    task::{Context as TaskContext, Poll, ready},
};

use bytes::Bytes;
use tracing::trace;

use super::{Context, Cut, Pace, Progress, Turn, backend_broke};
use crate::{
    backend::BackendReader,
    bridge::{
        ledger::{HalfBooks, Held},
        with_scratch,
    },
    reason::StreamEnd,
    transport::{SendError, SendStream},
};

/// How a pump ended without ending the other one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Down {
    /// The backend's FIN was passed on.
    Finished,
    /// The client does not want to hear more.
    Stopped,
}

/// Carries the backend's bytes to the client, and their end with them.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps room for its arguments twice")]
pub(super) fn pump(
    mut reader: BackendReader<'_>,
    send: &mut impl SendStream,
    context: &Context,
    books: &HalfBooks,
    progress: &Progress,
) -> impl Future<Output = Result<Down, Cut>> + Send {
    async move {
        let mut stopped = pin!(send.stopped());
        let pace = Pace::new(context.rates.bytes_down.as_deref(), progress);
        let slowed = |bytes| context.metrics().down.slowed_bytes.inc_by(bytes);
        let mut turn = Turn::default();
        let error = loop {
            let read = tokio::select! {
                biased;
                error = &mut stopped => break error,
                read = poll_fn(|cx| poll_chunk(&mut reader, pace.turn_bytes(), cx)) => read,
            };
            let chunk = read.map_err(|error| Cut(backend_broke(&error)))?;
            if chunk.is_empty() {
                believe_the_end(progress)?;
                send.finish();
                progress.end_down();
                return Ok(Down::Finished);
            }
            progress.hold(true);
            let mut handover = Handover::new(chunk, context, books);
            if pace.is_limited() {
                let bytes = handover.chunk().len();
                tokio::select! {
                    biased;
                    error = &mut stopped => break error,
                    // All of it, which is at most what goes in one turn.
                    _ = pace.turn(bytes, slowed) => {}
                }
            }
            if let Err(error) = send.write(handover.chunk()).await {
                break error;
            }
            let bytes = handover.bytes as u64;
            drop(handover);
            progress.hold(false);
            progress.move_bytes();
            turn.carried(bytes).await;
        };
        match error {
            SendError::Lost => Err(Cut(StreamEnd::ConnectionLost)),
            SendError::Stopped(client_code) => {
                trace!(client_code, "The client stopped reading a stream.");
                // RFC 9000 section 3.5: who is asked to stop resets, with the code it was given.
                send.reset(client_code.unwrap_or(0));
                books.end(StreamEnd::ClientStopped);
                progress.hold(false);
                progress.end_down();
                Ok(Down::Stopped)
            }
        }
    }
}

/// A chunk on its way to the client. However that ends, cancelled too, what the transport has taken is
/// counted as passed on, and the rest is lost.
struct Handover<'a> {
    held: Held<'a, [Bytes; 1]>,
    bytes: usize,
    context: &'a Context,
    books: &'a HalfBooks,
}

impl<'a> Handover<'a> {
    fn new(chunk: Bytes, context: &'a Context, books: &'a HalfBooks) -> Self {
        let bytes = chunk.len();
        books.take(bytes);
        Self { held: Held::new([chunk], books), bytes, context, books }
    }

    fn chunk(&mut self) -> &mut Bytes {
        &mut self.held.chunks[0]
    }
}

impl Drop for Handover<'_> {
    fn drop(&mut self) {
        let passed = self.bytes - self.chunk().len();
        self.context.stream_down(passed as u64);
        self.books.deliver(passed);
    }
}

/// Reads what the backend answers on a unidirectional stream and throws it away, counted.
///
/// While the client sends, a backend that acknowledges may go on for ever. After the client's FIN only
/// `uni_discard` bytes more are taken, so that nobody can keep a connection alive by talking.
pub(super) async fn discard(
    mut reader: BackendReader<'_>,
    context: &Context,
    progress: &Progress,
) -> Result<Down, Cut> {
    let mut allowed = context.pin().backend().settings().uni_discard.0;
    let mut turn = Turn::default();
    loop {
        let read = poll_fn(|cx| with_scratch(|buffer| reader.poll_read(cx, buffer))).await;
        let bytes = read.map_err(|error| Cut(backend_broke(&error)))? as u64;
        if bytes == 0 {
            // Not the end of a direction: there is none, and the client may go on for long.
            believe_the_end(progress)?;
            return Ok(Down::Finished);
        }
        context.discarded(bytes);
        if progress.up_is_over() {
            allowed = allowed.checked_sub(bytes).ok_or(Cut(StreamEnd::UnwantedReply))?;
        }
        progress.move_bytes();
        turn.carried(bytes).await;
    }
}

fn poll_chunk(
    reader: &mut BackendReader<'_>,
    most: usize,
    cx: &mut TaskContext<'_>,
) -> Poll<io::Result<Bytes>> {
    with_scratch(|buffer| {
        let most = most.min(buffer.len());
        let read = ready!(reader.poll_read(cx, &mut buffer[..most]))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(&buffer[..read])))
    })
}

/// An end of file is the backend's FIN, unless a write has taken the error that would be here instead.
fn believe_the_end(progress: &Progress) -> Result<(), Cut> {
    progress.doubt().map_or(Ok(()), |why| Err(Cut(why)))
}

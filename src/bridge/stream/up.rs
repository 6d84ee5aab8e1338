//! From the client to the backend.
//!
//! Chunks are gathered as they lie in the transport and go out with one system call, without a copy.
//!
//! **The error that can be taken once.** Linux keeps one error per socket and gives it to the first call
//! that asks. If a write gets ECONNRESET or ETIMEDOUT, the read after it sees an end of file, although
//! there was no FIN. So after such a write the end of the reply is doubted. EPIPE is different: the
//! kernel sets it when the RST came after the backend's FIN, so the end of file is a true one.

use std::{
    io::{self, IoSlice},
    mem,
    pin::pin,
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;

use super::{Context, Cut, Pace, Progress, Turn, backend_broke};
use crate::{
    backend::BackendWriter,
    bridge::ledger::{HalfBooks, Held},
    reason::StreamEnd,
    transport::{RecvError, RecvStream},
};

/// How a pump ended without ending the other one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Up {
    /// The client's FIN was passed on.
    Finished,
    /// The backend takes no more; the client was asked to stop. A reply may still be on its way.
    Broken(StreamEnd),
}

enum Failure {
    Client(RecvError),
    Backend(io::Error),
}

impl From<RecvError> for Failure {
    fn from(error: RecvError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Backend(error)
    }
}

/// Carries the client's bytes to the backend, and their end with them.
pub(super) async fn pump(
    recv: &mut impl RecvStream,
    writer: BackendWriter<'_>,
    context: &Context,
    books: &HalfBooks,
    progress: &Progress,
) -> Result<Up, Cut> {
    let error = match carry(recv, &writer, context, books, progress).await {
        // On failure the backend will not get the FIN, so it was not passed on.
        Ok(()) => match writer.finish().await {
            Ok(()) => {
                progress.end_up();
                return Ok(Up::Finished);
            }
            // Unlike a write, a shutdown does not take the socket's error: nothing to doubt. Where it
            // writes, over TLS, an end of file alone is no clean end.
            Err(error) => error,
        },
        Err(Failure::Client(lost)) => return Err(lost.into()),
        Err(Failure::Backend(error)) => {
            if error.kind() != io::ErrorKind::BrokenPipe {
                progress.doubt_the_end(backend_broke(&error));
            }
            error
        }
    };
    let why = backend_broke(&error);
    recv.stop(why.code());
    books.end(why);
    progress.end_up();
    Ok(Up::Broken(why))
}

/// Carries bytes until the client's FIN.
async fn carry(
    recv: &mut impl RecvStream,
    writer: &BackendWriter<'_>,
    context: &Context,
    books: &HalfBooks,
    progress: &Progress,
) -> Result<(), Failure> {
    let passed = |bytes: usize| {
        context.stream_up(bytes as u64);
        books.deliver(bytes);
        progress.move_bytes();
    };
    let pace = Pace::new(context.rates.bytes_up.as_deref(), progress);
    let slowed = |bytes| context.metrics().up.slowed_bytes.inc_by(bytes);
    // An RST may come while the client says nothing, after the backend's FIN for example.
    let mut broken = pin!(writer.broken());
    let mut turn = Turn::default();
    loop {
        // One slot while waiting: an idle stream is to be small.
        let mut first = [Bytes::new()];
        let read = tokio::select! {
            biased;
            error = &mut broken => return Err(error.into()),
            read = recv.read_chunks(&mut first) => read?,
        };
        if read.is_none() {
            return Ok(());
        }
        let [first] = first;
        books.take(first.len());
        let before = books.delivered();
        let mut batch = send_batch(first, recv, writer, books, pace, &passed)?;
        while !batch.unsent.chunks.is_empty() {
            if batch.allowed == 0 {
                let wanted = batch.unsent.chunks.iter().map(Bytes::len).sum();
                batch.allowed = tokio::select! {
                    biased;
                    error = &mut broken => return Err(error.into()),
                    lost = recv.lost() => return Err(lost.into()),
                    allowed = pace.turn(wanted, slowed) => allowed,
                };
            }
            tokio::select! {
                biased;
                // What could not be written yet is not wanted any more.
                lost = recv.lost() => return Err(lost.into()),
                writable = writer.writable() => writable?,
            }
            let sent = send_now(&mut batch.unsent.chunks, &mut batch.allowed, writer, &passed)?;
            batch.unsent.chunks.drain(..sent);
        }
        if batch.last {
            return Ok(());
        }
        turn.carried(books.delivered() - before).await;
    }
}

/// What is left of a batch that was more than the kernel took, or than the session's rate lets through.
struct Batch<'a> {
    unsent: Held<'a, Vec<Bytes>>,
    /// Bytes whose turn it is.
    allowed: usize,
    /// Whether the client's FIN follows.
    last: bool,
}

/// Chunks that go out with one system call.
const BATCH: usize = 32;

/// Takes what else has arrived behind `first`, and writes as much as goes.
fn send_batch<'a>(
    first: Bytes,
    recv: &mut impl RecvStream,
    writer: &BackendWriter<'_>,
    books: &'a HalfBooks,
    pace: Pace<'_>,
    passed: &impl Fn(usize),
) -> Result<Batch<'a>, Failure> {
    let mut held: Held<'_, [Bytes; BATCH]> = Held::new(Default::default(), books);
    let chunks = &mut held.chunks;
    chunks[0] = first;
    let (filled, last) = match recv.read_chunks(&mut chunks[1..]).now_or_never() {
        None => (1, false),
        Some(Ok(Some(more))) => (1 + more, false),
        Some(Ok(None)) => (1, true),
        Some(Err(lost)) => return Err(lost.into()),
    };
    let chunks = &mut chunks[..filled];
    books.take(chunks[1..].iter().map(Bytes::len).sum());
    let mut allowed = pace.now(chunks.iter().map(Bytes::len).sum());
    let sent = send_now(chunks, &mut allowed, writer, passed)?;
    let unsent = chunks[sent..].iter_mut().map(mem::take).collect();
    Ok(Batch { unsent: Held::new(unsent, books), allowed, last })
}

/// Writes until everything is gone, as much as is allowed is, or the kernel is full. Returns how many chunks are
/// done with; the next one is cut down to what is left of it.
fn send_now(
    chunks: &mut [Bytes],
    allowed: &mut usize,
    writer: &BackendWriter<'_>,
    passed: &impl Fn(usize),
) -> io::Result<usize> {
    let mut done = 0;
    while done < chunks.len() && *allowed > 0 {
        let left = &chunks[done..];
        match writer.try_write(&slices(left, *allowed)[..left.len().min(BATCH)]) {
            Ok(written) => {
                passed(written);
                *allowed -= written;
                done += advance(&mut chunks[done..], written);
            }
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// What the chunks hold, up to so many bytes; the rest of the slices is empty.
fn slices(chunks: &[Bytes], mut most: usize) -> [IoSlice<'_>; BATCH] {
    std::array::from_fn(|i| {
        let chunk = chunks.get(i).map_or(&[][..], |chunk| &chunk[..chunk.len().min(most)]);
        most -= chunk.len();
        IoSlice::new(chunk)
    })
}

/// Takes `written` bytes off the front. Returns how many chunks are used up, and so empty.
fn advance(chunks: &mut [Bytes], mut written: usize) -> usize {
    for (done, chunk) in chunks.iter_mut().enumerate() {
        if written < chunk.len() {
            chunk.advance(written);
            return done;
        }
        written -= chunk.len();
        chunk.clear();
    }
    chunks.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_written_than_is_allowed() {
        let chunks = ["ab", "", "cd", "ef"].map(Bytes::from);
        for (allowed, expected) in
            [(0, ""), (1, "a"), (2, "ab"), (5, "abcde"), (usize::MAX, "abcdef")]
        {
            let bytes = slices(&chunks, allowed).map(|slice| slice.to_vec()).concat();
            assert_eq!(bytes, expected.as_bytes(), "{allowed}");
        }
    }

    #[test]
    fn a_partial_write_leaves_exactly_the_rest() {
        for (written, done, rest) in
            [(0, 0, "abcdef"), (1, 0, "bcdef"), (2, 1, "cdef"), (5, 2, "f"), (6, 3, "")]
        {
            let mut chunks = ["ab", "cd", "ef"].map(Bytes::from);
            assert_eq!(advance(&mut chunks, written), done);
            assert_eq!(chunks.concat(), rest.as_bytes());
            assert!(chunks[..done].iter().all(Bytes::is_empty));
        }
    }
}

//! From the client to the backend.
//!
//! Chunks are gathered as they lie in the transport and go out with one system call, without a copy.
//!
//! **The error that can be taken once.** Linux keeps one error per socket and gives it to the first call
//! that asks. If a write gets ECONNRESET or ETIMEDOUT, the read after it sees an end of file, although
//! there was no FIN. So after such a write the end of the reply is doubted. EPIPE is different: the
//! kernel sets it when the RST came after the backend's FIN, so the end of file is a true one.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    task::{Context as TaskContext, Poll, ready},
};

use bytes::{Buf, Bytes};

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
#[expect(clippy::manual_async_fn, reason = "an async fn keeps room for its arguments twice")]
pub(super) fn pump(
    recv: &mut impl RecvStream,
    writer: BackendWriter<'_>,
    context: &Context,
    books: &HalfBooks,
    progress: &Progress,
) -> impl Future<Output = Result<Up, Cut>> + Send {
    async move {
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
        let before = books.delivered();
        let batch = poll_fn(|cx| poll_batch(recv, writer, books, pace, &passed, cx));
        let batch = tokio::select! {
            biased;
            error = &mut broken => return Err(error.into()),
            batch = batch => batch?,
        };
        let Some(batch) = batch else { return Ok(()) };
        if !batch.unsent.chunks.is_empty() {
            // Boxed: a stream that waits for its client has no room for what it waits for seldom.
            Box::pin(send_rest(batch, recv, writer, broken.as_mut(), pace, &passed, slowed))
                .await?;
        }
        turn.carried(books.delivered() - before).await;
    }
}

/// Sends what is left of a batch, as the kernel takes it and the session's rate lets it through.
async fn send_rest(
    mut batch: Batch<'_>,
    recv: &mut impl RecvStream,
    writer: &BackendWriter<'_>,
    mut broken: Pin<&mut impl Future<Output = io::Error>>,
    pace: Pace<'_>,
    passed: &impl Fn(usize),
    slowed: impl Fn(u64),
) -> Result<(), Failure> {
    while !batch.unsent.chunks.is_empty() {
        if batch.allowed == 0 {
            let wanted = batch.unsent.chunks.iter().map(Bytes::len).sum();
            batch.allowed = tokio::select! {
                biased;
                error = &mut broken => return Err(error.into()),
                lost = recv.lost() => return Err(lost.into()),
                allowed = pace.turn(wanted, &slowed) => allowed,
            };
        }
        tokio::select! {
            biased;
            // What could not be written yet is not wanted any more.
            lost = recv.lost() => return Err(lost.into()),
            writable = writer.writable() => writable?,
        }
        let sent = send_now(&mut batch.unsent.chunks, &mut batch.allowed, writer, passed)?;
        batch.unsent.chunks.drain(..sent);
    }
    Ok(())
}

/// What is left of a batch that was more than the kernel took, or than the session's rate lets through.
struct Batch<'a> {
    unsent: Held<'a, Vec<Bytes>>,
    /// Bytes whose turn it is.
    allowed: usize,
}

/// Chunks that go out with one system call: what 64 packets bring, some 90 KB.
const BATCH: usize = 64;

/// Chunks of what is said in some packets.
const FEW: usize = 8;

thread_local! {
    /// Lent for one read, so that a waiting bridge has no room for chunks of its own.
    static CHUNKS: RefCell<[Bytes; BATCH]> = const { RefCell::new([const { Bytes::new() }; BATCH]) };
}

/// Takes what has arrived, and writes as much of it as goes. `None`: the client's FIN.
fn poll_batch<'a>(
    recv: &mut impl RecvStream,
    writer: &BackendWriter<'_>,
    books: &'a HalfBooks,
    pace: Pace<'_>,
    passed: &impl Fn(usize),
    cx: &mut TaskContext<'_>,
) -> Poll<Result<Option<Batch<'a>>, Failure>> {
    CHUNKS.with_borrow_mut(|chunks| {
        let Some(read) = ready!(recv.poll_read_chunks(cx, chunks))? else {
            return Poll::Ready(Ok(None));
        };
        let chunks = &mut chunks[..read];
        let batch = send_batch(chunks, writer, books, pace, passed);
        // Empty chunks too hold on to the packets that they came in.
        chunks.fill_with(Bytes::new);
        Poll::Ready(batch.map(Some))
    })
}

/// Writes as much as goes of chunks that were just read, and keeps the rest.
fn send_batch<'a>(
    chunks: &mut [Bytes],
    writer: &BackendWriter<'_>,
    books: &'a HalfBooks,
    pace: Pace<'_>,
    passed: &impl Fn(usize),
) -> Result<Batch<'a>, Failure> {
    let held = Held::new(chunks, books);
    let bytes = held.chunks.iter().map(Bytes::len).sum();
    books.take(bytes);
    let mut allowed = pace.now(bytes);
    let sent = send_now(held.chunks, &mut allowed, writer, passed)?;
    let unsent = held.chunks[sent..].iter_mut().map(mem::take).collect();
    Ok(Batch { unsent: Held::new(unsent, books), allowed })
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
        let tried = match left.len() {
            // A message that came alone. To fill sixty-four slices would be a third of what it costs.
            1 => writer.try_write(&slices::<1>(left, *allowed)),
            2..=FEW => writer.try_write(&slices::<FEW>(left, *allowed)[..left.len()]),
            all => writer.try_write(&slices::<BATCH>(left, *allowed)[..all.min(BATCH)]),
        };
        match tried {
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
fn slices<const N: usize>(chunks: &[Bytes], mut most: usize) -> [IoSlice<'_>; N] {
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
            let bytes = slices::<BATCH>(&chunks, allowed).map(|slice| slice.to_vec()).concat();
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

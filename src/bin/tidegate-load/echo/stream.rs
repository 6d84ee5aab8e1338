//! One stream of the echo scenario: sent, ended, read back to the end, every byte compared.

use std::{cell::Cell, time::Duration};

use bytes::BytesMut;
use futures_util::future::try_join;
use tokio::time::{Instant, sleep_until, timeout};

use super::Echo;
use crate::{
    pattern::Pattern,
    tally::{Counters, Failure, Kind, Tally, Timed},
    transport::{RecvStream, SendStream, Session},
};

/// Bytes that are made and handed to QUIC at a time: large enough that its locks and wake-ups are paid
/// seldom, small enough that a thousand waiting streams hold little.
const CHUNK_BYTES: usize = 32 * 1024;

/// Code with which a failed stream is given up.
pub(crate) const GIVEN_UP: u32 = 1;

/// Does one stream and counts it.
pub(super) async fn echo(
    echo: &Echo,
    session: &Session,
    (session_number, stream_number): (u32, u32),
    tally: &Tally,
) {
    let pattern = Pattern::new(&[echo.run, session_number.into(), stream_number.into()]);
    match attempt(session, pattern, echo.stream_bytes, echo.stream_timeout, tally.count()).await {
        Ok(time) => {
            tally.took(Timed::Stream, time);
            tally.count().streams_completed.inc();
        }
        Err(mut failure) => {
            failure.what =
                format!("session {session_number}, stream {stream_number}: {}", failure.what);
            tally.failed(failure);
            tally.count().streams_failed.inc();
        }
    }
}

/// Opens a stream, if there is credit for it in time.
pub(crate) async fn open(
    session: &Session,
    patience: Duration,
) -> Result<(SendStream, RecvStream), Failure> {
    match timeout(patience, session.open_bidi()).await {
        Ok(opened) => opened.map_err(|failure| broken("not opened", failure)),
        Err(_elapsed) => {
            let what = format!("no credit to open it in {patience:?}");
            Err(Failure::new(Kind::StreamLost, what))
        }
    }
}

/// Sends so many bytes of the pattern on a stream of its own, and checks what comes back. A stream on which no
/// byte moves for `patience` has failed.
///
/// The time from the stream's opening to the server's end; the wait for credit is not in it.
pub(crate) async fn attempt(
    session: &Session,
    pattern: Pattern,
    length: u64,
    patience: Duration,
    count: &Counters,
) -> Result<Duration, Failure> {
    let (mut send, mut recv) = open(session, patience).await?;
    let begun = Instant::now();
    let transfer = Transfer { pattern, length, moved: Cell::new(begun), count };
    let done = tokio::select! {
        done = try_join(transfer.send(&mut send), transfer.check(&mut recv)) => done.map(drop),
        failure = transfer.stalled(patience) => Err(failure),
    };
    if done.is_err() {
        // Dropped as it is, the stream would end like one that was sent whole.
        send.reset(GIVEN_UP);
        recv.stop(GIVEN_UP);
    }
    done.map(|()| begun.elapsed())
}

/// Both directions of a stream.
struct Transfer<'a> {
    pattern: Pattern,
    length: u64,
    /// When a byte last moved, either way.
    moved: Cell<Instant>,
    count: &'a Counters,
}

impl Transfer<'_> {
    async fn send(&self, send: &mut SendStream) -> Result<(), Failure> {
        let mut sent = 0;
        while sent < self.length {
            let left = usize::try_from(self.length - sent).unwrap_or(usize::MAX);
            let mut chunk = BytesMut::zeroed(left.min(CHUNK_BYTES));
            self.pattern.fill(sent, &mut chunk);
            let bytes = chunk.len() as u64;
            let written = send.write_chunk(chunk.freeze()).await;
            written.map_err(|e| broken(&format!("sending stopped at byte {sent}"), e))?;
            sent += bytes;
            self.count.bytes_sent.add(bytes);
            self.moved.set(Instant::now());
        }
        send.finish().await;
        Ok(())
    }

    async fn check(&self, recv: &mut RecvStream) -> Result<(), Failure> {
        let mut came = 0;
        loop {
            let read = recv.read().await;
            let read = read.map_err(|e| broken(&format!("cut at byte {came}"), e))?;
            let Some(chunk) = read else { break };
            check_chunk(self.pattern, self.length, came, &chunk)?;
            came += chunk.len() as u64;
            self.count.bytes_checked.add(chunk.len() as u64);
            self.moved.set(Instant::now());
        }
        if came < self.length {
            let what = format!("ended as if whole after {came} of {} bytes", self.length);
            return Err(Failure::new(Kind::StreamShort, what));
        }
        Ok(())
    }

    /// Resolves when no byte has moved for `patience`.
    async fn stalled(&self, patience: Duration) -> Failure {
        loop {
            let deadline = self.moved.get() + patience;
            sleep_until(deadline).await;
            if self.moved.get() + patience <= deadline {
                return Failure::new(
                    Kind::StreamStalled,
                    format!("no byte moved for {patience:?}"),
                );
            }
        }
    }
}

/// Whether what came at `offset` is what belongs there.
pub(crate) fn check_chunk(
    pattern: Pattern,
    length: u64,
    offset: u64,
    chunk: &[u8],
) -> Result<(), Failure> {
    if let Some(at) = pattern.first_difference(offset, chunk).filter(|at| *at < length) {
        return Err(Failure::new(Kind::StreamWrong, format!("byte {at} of {length} is wrong")));
    }
    if offset + chunk.len() as u64 > length {
        let what = format!("more came back than the {length} bytes that were sent");
        return Err(Failure::new(Kind::StreamLong, what));
    }
    Ok(())
}

/// What went wrong, with where it was.
pub(crate) fn broken(where_: &str, Failure { kind, what }: Failure) -> Failure {
    Failure::new(kind, format!("{where_}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_and_a_byte_too_many_are_told_apart() {
        let pattern = Pattern::new(&[7]);
        let mut sent = vec![0; 1001];
        pattern.fill(0, &mut sent);
        let kind = |offset: usize, bytes: &[u8]| {
            check_chunk(pattern, 1000, offset as u64, bytes).err().map(|failure| failure.kind)
        };

        assert_eq!(kind(0, &sent[..1000]), None);
        assert_eq!(kind(990, &sent[990..1000]), None);
        assert_eq!(kind(1000, &[]), None);
        assert_eq!(kind(0, &sent), Some(Kind::StreamLong), "even if the pattern goes on");
        assert_eq!(kind(1000, &[0]), Some(Kind::StreamLong));
        assert_eq!(kind(1, &sent[..10]), Some(Kind::StreamWrong), "shifted");
        sent[999] ^= 1;
        assert_eq!(kind(0, &sent), Some(Kind::StreamWrong));
    }
}

//! Scenarios `bulk-down` and `bulk-up`: bytes in one direction, as fast as they go, every one of them checked.
//!
//! They need a peer behind the server, as `tidegate-load serve` is: one that sends as many bytes as it was asked for
//! in the first eight, or one that says in the end what has come. With a size each stream is followed by another;
//! without one each goes on until the time is over.

use std::pin::pin;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use super::{Lane, Place, Work};
use crate::{
    block,
    echo::stream::{GIVEN_UP, broken, open},
    serve::{ENDLESS, Received},
    tally::{Failure, Kind, Timed},
    target::Need,
    transport::{RecvStream, SendStream},
};

/// Bytes that are handed over at a time.
const CHUNK_BYTES: u64 = 64 * 1024;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// What each session carries.
#[derive(Debug)]
pub(crate) struct Bulk {
    pub(crate) direction: Direction,
    /// Streams of each session at once.
    pub(crate) streams: u32,
    /// Of each stream, if they end.
    pub(crate) stream_bytes: Option<u64>,
}

impl Work for Bulk {
    fn needs(&self) -> &'static [Need] {
        &[Need::Streams]
    }

    fn dials_ahead(&self) -> bool {
        false
    }

    async fn run(&self, place: Place<'_>, lane: &Lane<'_>) -> Result<(), Failure> {
        if let Some(bytes) = self.stream_bytes {
            lane.each(async |_number| self.one(place, lane, bytes).await.map(|()| 0)).await;
            return Ok(());
        }
        // One operation each, which is in the figures as what it has carried, and has no length of its own.
        let running = (0..self.streams).map(|_| async {
            lane.has_begun().await;
            lane.begun(lane.window.warm);
            match self.one(place, lane, ENDLESS).await {
                Ok(()) => lane.done_untimed(),
                Err(failure) => lane.failed(failure),
            }
        });
        join_all(running).await;
        Ok(())
    }
}

impl Bulk {
    /// One stream.
    async fn one(&self, place: Place<'_>, lane: &Lane<'_>, bytes: u64) -> Result<(), Failure> {
        let begun = Instant::now();
        let (mut send, mut recv) = open(place.session()?, place.load.timeout).await?;
        let transfer = Transfer { lane, bytes, begun };
        let done = match self.direction {
            Direction::Down => transfer.down(&mut send, &mut recv).await,
            Direction::Up => transfer.up(&mut send, &mut recv).await,
        };
        if done.is_err() {
            // Dropped as it is, the stream would end like one that was sent whole.
            send.reset(GIVEN_UP);
            recv.stop(GIVEN_UP);
        }
        done
    }
}

/// One direction of a stream.
struct Transfer<'a> {
    lane: &'a Lane<'a>,
    bytes: u64,
    begun: Instant,
}

impl Transfer<'_> {
    /// This side keeps its half open to the end: there are servers that end both halves when one has ended.
    async fn down(&self, send: &mut SendStream, recv: &mut RecvStream) -> Result<(), Failure> {
        let wanted = Bytes::copy_from_slice(&self.bytes.to_be_bytes());
        send.write_chunk(wanted).await.map_err(|e| broken("asking", e))?;
        let mut came = 0;
        let mut over = pin!(self.over());
        loop {
            let read = tokio::select! {
                biased;
                () = &mut over => {
                    // Nothing was lost that was still wanted.
                    send.reset(GIVEN_UP);
                    recv.stop(GIVEN_UP);
                    return Ok(());
                }
                read = recv.read() => read.map_err(|e| broken(&format!("cut at byte {came}"), e))?,
            };
            let Some(chunk) = read else { break };
            if came == 0 {
                self.lane.tally.took(Timed::FirstByte, self.begun.elapsed());
            }
            if let Some(at) = block::first_difference(came, &chunk) {
                return Err(Failure::new(Kind::StreamWrong, format!("byte {at} is wrong")));
            }
            came += chunk.len() as u64;
            if came > self.bytes {
                let what = format!("more came than the {} bytes asked for", self.bytes);
                return Err(Failure::new(Kind::StreamLong, what));
            }
            self.carried(chunk.len() as u64);
        }
        if came < self.bytes {
            let what = format!("ended as if whole after {came} of {} bytes", self.bytes);
            return Err(Failure::new(Kind::StreamShort, what));
        }
        send.finish().await;
        Ok(())
    }

    async fn up(&self, send: &mut SendStream, recv: &mut RecvStream) -> Result<(), Failure> {
        let mut sent = 0;
        while sent < self.bytes {
            let piece = block::piece(sent, CHUNK_BYTES.min(self.bytes - sent));
            let length = piece.len() as u64;
            // Between pieces: what of a piece was written when it is given up, nobody would know.
            if self
                .lane
                .window
                .end
                .is_some_and(|end| self.bytes == ENDLESS && Instant::now() >= end)
            {
                break;
            }
            let written = send.write_chunk(piece).await;
            written.map_err(|e| broken(&format!("sending stopped at byte {sent}"), e))?;
            sent += length;
            self.carried(length);
        }
        send.finish().await;
        let mut answer = Vec::with_capacity(Received::BYTES);
        while let Some(chunk) = recv.read().await.map_err(|e| broken("no answer", e))? {
            answer.extend_from_slice(&chunk);
            if answer.len() > Received::BYTES {
                return Err(Failure::new(Kind::StreamLong, "the answer is too long"));
            }
        }
        let Some(received) = Received::read(&answer) else {
            let what = format!("an answer of {} bytes is none of a sink's", answer.len());
            return Err(Failure::new(Kind::StreamShort, what));
        };
        match received {
            Received { first_wrong: Some(at), .. } => {
                Err(Failure::new(Kind::StreamWrong, format!("byte {at} came wrong")))
            }
            Received { bytes, .. } if bytes != sent => {
                let what = format!("{bytes} of {sent} bytes came");
                Err(Failure::new(Kind::StreamShort, what))
            }
            _ => Ok(()),
        }
    }

    fn carried(&self, bytes: u64) {
        self.lane.carried(bytes);
        self.lane.tally.count().bytes_checked.add(bytes);
    }

    /// Resolves when the time of a stream without an end is over.
    async fn over(&self) {
        match self.lane.window.end.filter(|_| self.bytes == ENDLESS) {
            Some(end) => sleep_until(end).await,
            None => std::future::pending().await,
        }
    }
}

//! Scenarios `rr` and `migrate`: messages on one stream of each session, each answered by itself.
//!
//! The stream's bytes are one long pattern, so that a byte that is lost, doubled, swapped or changed shows at
//! once, whatever the messages' size.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    time::Duration,
};

use bytes::BytesMut;
use futures_util::future::try_join;
use tokio::time::Instant;

use super::{Lane, Place, Work};
use crate::{
    echo::stream::{broken, check_chunk, open},
    pattern::Pattern,
    sizes::Sizes,
    tally::{Failure, Kind},
    target::Need,
    transport::{RecvStream, SendStream},
};

/// What each session sends and expects back.
#[derive(Debug)]
pub(crate) struct RoundTrips {
    pub(crate) message_bytes: Sizes,
    /// Draws them.
    pub(crate) seed: u64,
    /// How often the client's address changes, if it does.
    pub(crate) moves_every: Option<Duration>,
    /// Names this run.
    pub(crate) run: u64,
}

impl Work for RoundTrips {
    fn needs(&self) -> &'static [Need] {
        match self.moves_every {
            None => &[Need::Streams],
            Some(_) => &[Need::Streams, Need::Addresses],
        }
    }

    fn moves_every(&self) -> Option<Duration> {
        self.moves_every
    }

    async fn run(&self, place: Place<'_>, lane: &Lane<'_>) -> Result<(), Failure> {
        let (send, recv) = open(place.session()?, place.load.timeout).await?;
        let pattern = Pattern::new(&[self.run, lane.number.into()]);
        let waiting = RefCell::default();
        let stream = Stream { work: self, pattern, lane, asked: Cell::new(0), waiting };
        try_join(stream.ask(send), stream.hear(recv)).await.map(drop)
    }
}

/// The one stream of a lane.
struct Stream<'a> {
    work: &'a RoundTrips,
    pattern: Pattern,
    lane: &'a Lane<'a>,
    /// Where the last message ends in the stream.
    asked: Cell<u64>,
    /// What was asked and not answered. Bounded, as the lane's turns are.
    waiting: RefCell<VecDeque<Asked>>,
}

/// A message.
struct Asked {
    due: Instant,
    size: u64,
    /// Where it ends in the stream.
    end: u64,
}

impl Stream<'_> {
    async fn ask(&self, mut send: SendStream) -> Result<(), Failure> {
        let mut number = 0;
        while let Some(due) = self.lane.turn().await {
            let sent = self.asked.get();
            let RoundTrips { message_bytes, seed, .. } = self.work;
            let size = message_bytes.of(&[*seed, self.lane.number.into(), number]);
            number += 1;
            self.asked.set(sent + size);
            self.waiting.borrow_mut().push_back(Asked { due, size, end: sent + size });
            let mut message = BytesMut::zeroed(usize::try_from(size).unwrap_or(usize::MAX));
            self.pattern.fill(sent, &mut message);
            let written = send.write_chunk(message.freeze()).await;
            written.map_err(|e| broken(&format!("sending stopped at byte {sent}"), e))?;
            self.lane.tally.count().bytes_sent.add(size);
        }
        send.finish().await;
        Ok(())
    }

    async fn hear(&self, mut recv: RecvStream) -> Result<(), Failure> {
        let mut came = 0;
        loop {
            let read = recv.read().await;
            let read = read.map_err(|e| broken(&format!("cut at byte {came}"), e))?;
            let Some(chunk) = read else { break };
            check_chunk(self.pattern, self.asked.get(), came, &chunk)?;
            came += chunk.len() as u64;
            self.lane.tally.count().bytes_checked.add(chunk.len() as u64);
            while let Some(Asked { due, size, .. }) = self.answered_by(came) {
                self.lane.done(due, size);
            }
        }
        match self.waiting.borrow().len() {
            0 => Ok(()),
            left => {
                let what = format!("the server ended the stream with {left} messages unanswered");
                Err(Failure::new(Kind::StreamShort, what))
            }
        }
    }

    /// The next message that so many bytes have answered.
    fn answered_by(&self, came: u64) -> Option<Asked> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.front()?.end <= came { waiting.pop_front() } else { None }
    }
}

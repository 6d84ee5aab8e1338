//! Scenarios `rr` and `migrate`: messages on one stream of each session, each answered by itself.
//!
//! The stream's bytes are one long pattern, so that a byte that is lost, doubled, swapped or changed shows at
//! once, whatever the messages' size.

use std::{cell::RefCell, collections::VecDeque, time::Duration};

use bytes::BytesMut;
use futures_util::future::try_join;
use tokio::time::Instant;

use super::{Lane, Place, Work};
use crate::{
    echo::stream::{broken, check_chunk, open},
    pattern::Pattern,
    tally::{Failure, Kind},
    target::Need,
    transport::{RecvStream, SendStream},
};

/// What each session sends and expects back.
#[derive(Debug)]
pub(crate) struct RoundTrips {
    pub(crate) message_bytes: u64,
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
        let stream =
            Stream { pattern, size: self.message_bytes, lane, waiting: RefCell::default() };
        try_join(stream.ask(send), stream.hear(recv)).await.map(drop)
    }
}

/// The one stream of a lane.
struct Stream<'a> {
    pattern: Pattern,
    /// Of a message.
    size: u64,
    lane: &'a Lane<'a>,
    /// What was asked and not answered: when it was due. Bounded, as the lane's turns are.
    waiting: RefCell<VecDeque<Instant>>,
}

impl Stream<'_> {
    async fn ask(&self, mut send: SendStream) -> Result<(), Failure> {
        let mut sent = 0;
        while let Some(due) = self.lane.turn().await {
            self.waiting.borrow_mut().push_back(due);
            let mut message = BytesMut::zeroed(usize::try_from(self.size).unwrap_or(usize::MAX));
            self.pattern.fill(sent, &mut message);
            let written = send.write_chunk(message.freeze()).await;
            written.map_err(|e| broken(&format!("sending stopped at byte {sent}"), e))?;
            sent += self.size;
            self.lane.tally.count().bytes_sent.add(self.size);
        }
        send.finish().await;
        Ok(())
    }

    async fn hear(&self, mut recv: RecvStream) -> Result<(), Failure> {
        let (mut came, mut answered) = (0, 0);
        loop {
            let read = recv.read().await;
            let read = read.map_err(|e| broken(&format!("cut at byte {came}"), e))?;
            let Some(chunk) = read else { break };
            let asked = (answered + self.waiting.borrow().len() as u64) * self.size;
            check_chunk(self.pattern, asked, came, &chunk)?;
            came += chunk.len() as u64;
            self.lane.tally.count().bytes_checked.add(chunk.len() as u64);
            while came >= (answered + 1) * self.size {
                let Some(due) = self.waiting.borrow_mut().pop_front() else { break };
                answered += 1;
                self.lane.done(due, self.size);
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
}

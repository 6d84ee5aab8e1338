//! Scenario `echo`: what is sent must come back, on streams and as datagrams, at the same time.
//!
//! For servers that send everything back unchanged: each stream's bytes on the same stream, ended when
//! the client has ended its half, and each datagram once.

mod datagrams;
pub(crate) mod ledger;
pub(crate) mod report;
pub(crate) mod stream;

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use futures_util::{StreamExt, future, stream as futures};
use tokio::time::Instant;

use crate::{args::EchoArgs, run::Scenario, sizes::Sizes, tally::Tally, transport::Session};

pub(crate) use self::ledger::MIN_DATAGRAM_BYTES;

/// What each session sends and expects back.
#[derive(Debug)]
pub(crate) struct Echo {
    streams: u32,
    streams_at_once: u32,
    stream_bytes: u64,
    /// A stream on which no byte moves for that long has failed.
    stream_timeout: Duration,
    datagrams: u32,
    datagram_bytes: Sizes,
    datagrams_in_flight: u32,
    datagram_timeout: Duration,
    /// Names this run, so that what is left over from another is never taken for its own.
    run: u64,
    /// What the times in datagrams count from.
    epoch: Instant,
}

impl Echo {
    /// `sessions_at_once` share what may be in flight.
    pub(crate) fn new(args: &EchoArgs, sessions_at_once: u32) -> Self {
        let in_flight = args.datagrams_in_flight.get() / sessions_at_once.max(1);
        Self {
            streams: args.streams,
            streams_at_once: args.streams_at_once.get(),
            stream_bytes: args.bytes,
            stream_timeout: args.load.spread.timeout,
            datagrams: args.datagrams,
            datagram_bytes: args.datagram_bytes,
            datagrams_in_flight: in_flight.max(1),
            datagram_timeout: args.datagram_timeout,
            run: name_of_run(),
            epoch: Instant::now(),
        }
    }
}

/// A number that no other run has.
pub(crate) fn name_of_run() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

impl Scenario for Echo {
    async fn drive(&self, session: &Session, number: u32, tally: &Tally) {
        let streams = futures::iter(0..self.streams)
            .for_each_concurrent(self.streams_at_once as usize, |stream| {
                stream::echo(self, session, (number, stream), tally)
            });
        let datagrams = datagrams::echo(self, session, number, tally);
        future::join(streams, datagrams).await;
    }
}

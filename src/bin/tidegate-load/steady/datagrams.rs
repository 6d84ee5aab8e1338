//! Scenario `datagram`: datagrams at a pace, with their loss, order and age.
//!
//! In a closed loop one that is lost makes room for the next when its time is over. In an open loop they are
//! sent when they are due, and one that finds QUIC's queue full waits, which makes it older.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{Lane, Place, Work};
use crate::{
    echo::ledger::{Arrival, Ledger},
    sizes::Sizes,
    tally::{Failure, Kind},
    target::Need,
};

/// What each session sends and expects back.
#[derive(Debug)]
pub(crate) struct Datagrams {
    pub(crate) payload_bytes: Sizes,
    /// Draws them.
    pub(crate) seed: u64,
    /// A datagram that is not back by then, counted from when it was due, is lost.
    pub(crate) timeout: Duration,
    /// Names this run.
    pub(crate) run: u64,
    /// What the times in datagrams count from.
    pub(crate) epoch: Instant,
}

impl Work for Datagrams {
    fn needs(&self) -> &'static [Need] {
        &[Need::Datagrams]
    }

    async fn run(&self, place: Place<'_>, lane: &Lane<'_>) -> Result<(), Failure> {
        let session = place.session()?;
        let count = lane.tally.count();
        let tag = self.run.wrapping_add(lane.number.into());
        let sizes = (self.payload_bytes, [self.seed, lane.number.into()]);
        let mut ledger = Ledger::new(tag, self.epoch, sizes, self.timeout);
        let mut has_turns = true;
        let mut due = None;
        while has_turns || due.is_some() || ledger.in_flight() > 0 {
            let payload = due.map(|at| ledger.next_payload(at)).unwrap_or_default();
            let mut send = pin!(session.send_datagram(&payload));
            // Whichever branch is cancelled has neither sent nor taken anything.
            tokio::select! {
                came = session.read_datagram() => match came {
                    Some(datagram) => hear(&mut ledger, lane, &datagram),
                    None => return Err(Failure::new(Kind::SessionCut, "no datagrams come any more")),
                },
                sent = &mut send, if due.is_some() => match sent {
                    Ok(()) => {
                        ledger.note_sent(due.take().unwrap_or_else(Instant::now));
                        count.datagrams_sent.inc();
                    }
                    Err(why) => {
                        count.datagrams_unsent.inc();
                        let fit = session.max_datagram_payload();
                        let what = format!("{} bytes, {fit} fit: {why}", payload.len());
                        return Err(Failure::new(Kind::DatagramUnsent, what));
                    }
                },
                turn = lane.turn(), if has_turns && due.is_none() => {
                    due = turn;
                    has_turns = due.is_some();
                }
                () = sleep_until(ledger.deadline().unwrap_or_else(Instant::now)), if ledger.in_flight() > 0 => {
                    let before = ledger.in_flight();
                    ledger.expire(Instant::now());
                    lane.over(u64::from(before - ledger.in_flight()));
                }
            }
        }
        Ok(())
    }
}

/// Takes a datagram that came.
fn hear(ledger: &mut Ledger, lane: &Lane<'_>, datagram: &[u8]) {
    let (count, now) = (lane.tally.count(), Instant::now());
    let before = ledger.in_flight();
    match ledger.arrived(datagram, now) {
        Arrival::Returned { time, overtaken } => {
            count.datagrams_returned.inc();
            count.datagrams_reordered.add(overtaken.into());
            match time {
                Some(time) => lane.done(now - time, datagram.len() as u64),
                None => count.datagrams_late.inc(),
            }
        }
        Arrival::Duplicate => count.datagrams_duplicated.inc(),
        Arrival::Wrong(what) => {
            count.datagrams_wrong.inc();
            // Nobody waits for it any more.
            lane.over(u64::from(before - ledger.in_flight()));
            lane.tally
                .failed(Failure::new(Kind::DatagramWrong, format!("lane {}: {what}", lane.number)));
        }
    }
}

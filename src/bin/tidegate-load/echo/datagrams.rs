//! The datagrams of one session of the echo scenario.
//!
//! So many are on their way at once and no more, and each waits for room in QUIC's queue: what is lost
//! was lost outside of this program. One that is not back in time is given up and makes room for the next.

use std::pin::pin;

use tokio::time::{Instant, sleep_until};

use super::{
    Echo,
    ledger::{Arrival, Ledger},
};
use crate::{
    tally::{Failure, Kind, Tally, Timed},
    transport::Session,
};

/// Sends all datagrams of a session and waits for them, as long as they may take.
pub(super) async fn echo(echo: &Echo, session: &Session, number: u32, tally: &Tally) {
    let tag = echo.run.wrapping_add(number.into());
    let sizes = (echo.datagram_bytes, [0, number.into()]);
    let ledger = Ledger::new(tag, echo.epoch, sizes, echo.datagram_timeout);
    Datagrams { echo, session, number, tally, ledger, may_send: true }.run().await;
}

struct Datagrams<'a> {
    echo: &'a Echo,
    session: &'a Session,
    number: u32,
    tally: &'a Tally,
    ledger: Ledger,
    /// Nothing stands against sending more.
    may_send: bool,
}

impl Datagrams<'_> {
    async fn run(mut self) {
        while self.has_more() || self.ledger.in_flight() > 0 {
            let now = Instant::now();
            let room = self.has_more() && self.ledger.in_flight() < self.echo.datagrams_in_flight;
            let payload = if room { self.ledger.next_payload(now) } else { Vec::new() };
            let session = self.session;
            let mut send = pin!(session.send_datagram(&payload));
            // Whichever branch is cancelled has neither sent nor taken anything.
            tokio::select! {
                came = session.read_datagram() => match came {
                    Some(datagram) => self.arrived(&datagram),
                    // Why, is told when the session ends.
                    None => return,
                },
                sent = &mut send, if room => match sent {
                    Ok(()) => {
                        self.ledger.note_sent(now);
                        self.tally.count().datagrams_sent.inc();
                    }
                    Err(why) => self.cannot_send(&why),
                },
                () = sleep_until(self.ledger.deadline().unwrap_or(now)), if self.ledger.in_flight() > 0 => {
                    self.ledger.expire(Instant::now());
                }
            }
        }
    }

    fn has_more(&self) -> bool {
        self.may_send && self.ledger.sent() < self.echo.datagrams.into()
    }

    fn arrived(&mut self, datagram: &[u8]) {
        let count = self.tally.count();
        match self.ledger.arrived(datagram, Instant::now()) {
            Arrival::Returned { time, overtaken } => {
                count.datagrams_returned.inc();
                count.datagrams_reordered.add(overtaken.into());
                match time {
                    Some(time) => self.tally.took(Timed::Datagram, time),
                    None => count.datagrams_late.inc(),
                }
            }
            Arrival::Duplicate => count.datagrams_duplicated.inc(),
            Arrival::Wrong(what) => {
                count.datagrams_wrong.inc();
                let what = format!("session {}, datagram: {what}", self.number);
                self.tally.failed(Failure::new(Kind::DatagramWrong, what));
            }
        }
    }

    fn cannot_send(&mut self, why: &str) {
        let left = u64::from(self.echo.datagrams) - self.ledger.sent();
        self.may_send = false;
        self.tally.count().datagrams_unsent.add(left);
        let fit = self.session.max_datagram_payload();
        let what = format!(
            "session {}: {left} datagrams of {} bytes could not be sent, {fit} bytes fit: {why}",
            self.number, self.echo.datagram_bytes,
        );
        self.tally.failed(Failure::new(Kind::DatagramUnsent, what));
    }
}

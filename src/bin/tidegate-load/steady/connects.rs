//! Scenarios `handshake` and `churn`: connections that come and go. Each has one session; in `churn` a stream
//! is echoed on it, and it stays for a while.

use std::time::Duration;

use tokio::time::sleep;

use super::{Lane, Place, Work};
use crate::{echo::stream::attempt, pattern::Pattern, sizes::Sizes, tally::Failure, target::Need};

/// What each connection does between its beginning and its end.
#[derive(Debug)]
pub(crate) struct Connects {
    /// Bytes that are echoed on a stream, if any.
    pub(crate) stream_bytes: Option<Sizes>,
    /// Draws how many.
    pub(crate) seed: u64,
    /// How long it stays after that.
    pub(crate) hold: Duration,
    /// Names this run.
    pub(crate) run: u64,
}

impl Work for Connects {
    fn needs(&self) -> &'static [Need] {
        match self.stream_bytes {
            None => &[Need::Connections],
            Some(_) => &[Need::Connections, Need::Streams],
        }
    }

    fn has_sessions(&self) -> bool {
        false
    }

    async fn run(&self, place: Place<'_>, lane: &Lane<'_>) -> Result<(), Failure> {
        lane.each(async |number| self.one(place, lane, number).await).await;
        Ok(())
    }
}

impl Connects {
    async fn one(&self, place: Place<'_>, lane: &Lane<'_>, number: u64) -> Result<u64, Failure> {
        let (load, tally) = (place.load, lane.tally);
        let connection = place.socket.connect(load, true, tally).await?;
        let session = connection.open_session(load, tally).await?;
        let names = [self.seed, lane.number.into(), number];
        let bytes = self.stream_bytes.map(|bytes| bytes.of(&names));
        if let Some(bytes) = bytes {
            let pattern = Pattern::new(&[self.run, lane.number.into(), number]);
            attempt(&session, pattern, bytes, load.timeout, tally.count()).await?;
        }
        if !self.hold.is_zero() {
            tokio::select! {
                () = sleep(self.hold) => {}
                failure = session.cut() => return Err(failure),
            }
        }
        session.close().await?;
        tally.count().sessions_completed.inc();
        Ok(bytes.unwrap_or(0))
    }
}

//! Scenario `idle`: sessions that do nothing, and in the end show that they still can.

use tokio::time::{Instant, sleep_until};

use super::{Lane, Place, Work};
use crate::{
    echo::stream::attempt,
    pattern::Pattern,
    tally::{Failure, Kind},
    target::Need,
};

/// Bytes of the one stream in the end.
const STREAM_BYTES: u64 = 64;

/// Sessions without traffic.
#[derive(Debug)]
pub(crate) struct Idle {
    /// Names this run.
    pub(crate) run: u64,
}

impl Work for Idle {
    fn needs(&self) -> &'static [Need] {
        &[Need::Streams]
    }

    fn has_deadlines(&self) -> bool {
        true
    }

    async fn run(&self, place: Place<'_>, lane: &Lane<'_>) -> Result<(), Failure> {
        let Some(end) = lane.window.end else {
            return Err(Failure::new(Kind::Unanswered, "idle sessions need a duration"));
        };
        sleep_until(end).await;
        // The server is seen as it is with idle sessions.
        place.looked.wait().await;
        let at = Instant::now();
        lane.begun(at);
        let pattern = Pattern::new(&[self.run, lane.number.into()]);
        let count = lane.tally.count();
        match attempt(place.session()?, pattern, STREAM_BYTES, place.load.timeout, count).await {
            Ok(_time) => lane.done(at, STREAM_BYTES),
            Err(failure) => lane.failed(failure),
        }
        Ok(())
    }
}

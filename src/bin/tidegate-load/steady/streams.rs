//! Scenario `streams`: short streams. Each is opened, carries its bytes, is ended, and comes back to its end.

use super::{Lane, Place, Work};
use crate::{echo::stream::attempt, pattern::Pattern, tally::Failure, target::Need};

/// What each stream carries.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stream_bytes: u64,
    /// Names this run.
    pub(crate) run: u64,
}

impl Work for Streams {
    fn needs(&self) -> &'static [Need] {
        &[Need::Streams]
    }

    fn dials_ahead(&self) -> bool {
        false
    }

    async fn run(&self, place: Place<'_>, lane: &Lane<'_>) -> Result<(), Failure> {
        let session = place.session()?;
        lane.each(async |number| {
            let pattern = Pattern::new(&[self.run, lane.number.into(), number]);
            let count = lane.tally.count();
            attempt(session, pattern, self.stream_bytes, place.load.timeout, count).await?;
            Ok(self.stream_bytes)
        })
        .await;
        Ok(())
    }
}

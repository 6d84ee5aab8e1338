//! Scenario `streams`: short streams. Each is opened, carries its bytes, is ended, and comes back to its end.

use super::{Lane, Place, Work};
use crate::{echo::stream::attempt, pattern::Pattern, sizes::Sizes, tally::Failure, target::Need};

/// What each stream carries.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stream_bytes: Sizes,
    /// Draws them.
    pub(crate) seed: u64,
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

    fn has_deadlines(&self) -> bool {
        true
    }

    async fn run(&self, place: Place<'_>, lane: &Lane<'_>) -> Result<(), Failure> {
        let session = place.session()?;
        lane.each(async |number| {
            let pattern = Pattern::new(&[self.run, lane.number.into(), number]);
            let count = lane.tally.count();
            let bytes = self.stream_bytes.of(&[self.seed, lane.number.into(), number]);
            attempt(session, pattern, bytes, place.load.timeout, count).await?;
            Ok(bytes)
        })
        .await;
        Ok(())
    }
}

//! A token bucket that is one moment in time.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Rate;

/// Holds something to a rate.
///
/// Instead of tokens it keeps the time at which the bucket would be full again (the generic cell rate
/// algorithm of ITU-T I.371, in other words): each event moves it on by the time that belongs to one
/// event, and it may not be further ahead than the time of a whole bucket. So there is nothing to refill,
/// and what was never used or is full again is the same as no bucket at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// `None`: it is full and always was.
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one if there is one. Who is refused owes no more than a whole bucket, so what is owed beyond that
    /// is from when the rate was a slower one, and is let off.
    ///
    /// # Errors
    /// How long until there is one. Nothing was taken.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        if let Rate::AtMost { per, .. } = rate
            && self.owed(now) > per
        {
            // Kept even where this one is refused: else it would be let off anew each time, and never paid.
            self.full_at = now.checked_add(per);
        }
        let mut after = *self;
        match after.book(rate, now) {
            Duration::ZERO => {
                *self = after;
                Ok(())
            }
            wait => Err(wait),
        }
    }

    /// Takes one, now or in advance, and says how long until it is there.
    ///
    /// Who books and does not wait gets more than the rate; who books without end waits without end.
    pub fn book(&mut self, rate: Rate, now: Instant) -> Duration {
        let Rate::AtMost { events, per } = rate else { return Duration::ZERO };
        let owed = self.owed(now) + per / events.max(1);
        self.full_at = now.checked_add(owed);
        owed.saturating_sub(per)
    }

    /// Whether it is as good as new.
    pub fn is_full(&self, now: Instant) -> bool {
        self.owed(now).is_zero()
    }

    fn owed(&self, now: Instant) -> Duration {
        self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn per_second(events: u32) -> Rate {
        Rate::per_second(events)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn as_many_as_the_number_may_come_at_once_and_then_at_the_rate() {
        for (rate, burst, each) in [
            (per_second(4), 4, millis(250)),
            (per_second(1), 1, SECOND),
            (Rate::AtMost { events: 2, per: 60 * SECOND }, 2, 30 * SECOND),
        ] {
            let (mut bucket, now) = (Bucket::default(), Instant::now());
            for _ in 0..burst {
                assert_eq!(bucket.take(rate, now), Ok(()), "{rate}");
            }
            assert_eq!(bucket.take(rate, now), Err(each), "{rate}");
            assert_eq!(bucket.take(rate, now), Err(each), "who is refused owes nothing more");
            assert_eq!(bucket.take(rate, now + each / 2), Err(each / 2), "{rate}");
            assert_eq!(bucket.take(rate, now + each), Ok(()), "{rate}");
            assert_eq!(bucket.take(rate, now + each), Err(each), "{rate}");
        }
    }

    #[test]
    fn a_pause_fills_it_and_no_pause_overfills_it() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        assert!(bucket.is_full(now));
        bucket.take(per_second(2), now).unwrap();
        assert!(!bucket.is_full(now + millis(499)));
        assert!(bucket.is_full(now + millis(500)));
        let later = now + 3600 * SECOND;
        for _ in 0..2 {
            bucket.take(per_second(2), later).unwrap();
        }
        assert!(bucket.take(per_second(2), later).is_err());
    }

    #[test]
    fn who_books_gets_a_turn_of_their_own() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let turns: Vec<_> = (0..5).map(|_| bucket.book(per_second(2), now)).collect();
        assert_eq!(turns, [0, 0, 500, 1000, 1500].map(millis));
        assert_eq!(bucket.take(per_second(2), now + millis(1500)), Err(millis(500)));
        assert_eq!(bucket.take(per_second(2), now + millis(2000)), Ok(()));
    }

    #[test]
    fn unlimited_takes_everything() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(bucket.take(Rate::Unlimited, now), Ok(()));
        }
        assert!(bucket.is_full(now));
    }

    proptest! {
        /// Whenever they come: in any time there are at most the burst and what the rate gives.
        #[test]
        fn no_sequence_gets_more_than_the_rate(
            events in 1..50_u32,
            gaps in proptest::collection::vec(0..200_u64, 1..300),
        ) {
            let (mut bucket, begun) = (Bucket::default(), Instant::now());
            let (mut now, mut taken) = (begun, 0_u32);
            for gap in gaps {
                now += millis(gap);
                match bucket.take(per_second(events), now) {
                    Ok(()) => taken += 1,
                    Err(wait) => {
                        prop_assert!(wait <= SECOND / events);
                        prop_assert!(bucket.clone().take(per_second(events), now + wait).is_ok());
                    }
                }
            }
            let most = f64::from(events) * (1.0 + (now - begun).as_secs_f64());
            prop_assert!(f64::from(taken) <= most + 0.001);
        }
    }
}

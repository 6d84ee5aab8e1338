//! A token bucket that many share without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::config::{ByteRate, Rate};

/// Holds something to so much in each such time. After a pause, as much may come at once as may come in the
/// whole time.
///
/// It counts as [`Bucket`](super::Bucket) does, in one number: the nanoseconds from the beginning to the time
/// at which it would be full again. What is taken costs the time that belongs to it.
#[derive(Debug)]
pub struct Meter {
    amount: u64,
    per: Duration,
    began: Instant,
    full_at: AtomicU64,
}

impl Meter {
    /// A full one for this many events, unless there is no limit.
    pub fn of_events(rate: Rate) -> Option<Self> {
        match rate {
            Rate::AtMost { events, per } => Some(Self::new(events.into(), per)),
            Rate::Unlimited => None,
        }
    }

    /// A full one for this many bytes, unless there is no limit.
    pub fn of_bytes(rate: ByteRate) -> Option<Self> {
        match rate {
            ByteRate::AtMost { bytes, per } => Some(Self::new(bytes.0, per)),
            ByteRate::Unlimited => None,
        }
    }

    fn new(amount: u64, per: Duration) -> Self {
        let amount = amount.max(1);
        Self { amount, per, began: Instant::now(), full_at: AtomicU64::new(0) }
    }

    /// Takes as much as there is up to `most`, if it is at least `least`. Says how much, which may be nothing.
    pub fn take(&self, least: u64, most: u64, now: Instant) -> u64 {
        let now = self.nanos(now);
        let mut taken = 0;
        // Always `Some`, so that the update is always made.
        _ = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let owed = full_at.saturating_sub(now);
            taken = self.worth(nanos_of(self.per).saturating_sub(owed)).min(most);
            if taken < least {
                taken = 0;
            }
            Some(now + owed + self.cost(taken))
        });
        taken
    }

    /// Takes so much in advance, and says how long until it is there. Who books gets a turn of their own,
    /// behind all who have booked before.
    pub fn book(&self, amount: u64, now: Instant) -> Duration {
        let (now, cost) = (self.nanos(now), self.cost(amount));
        let mut owed = 0;
        _ = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            owed = full_at.saturating_sub(now).saturating_add(cost);
            Some(now.saturating_add(owed))
        });
        Duration::from_nanos(owed).saturating_sub(self.per)
    }

    /// Gives back what was booked and is not wanted any more.
    pub fn give_back(&self, amount: u64) {
        let cost = self.cost(amount);
        _ = self
            .full_at
            .fetch_update(Relaxed, Relaxed, |full_at| Some(full_at.saturating_sub(cost)));
    }

    /// What comes in so much time.
    pub fn in_time(&self, time: Duration) -> u64 {
        self.worth(nanos_of(time))
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos_of(now.saturating_duration_since(self.began))
    }

    /// The time that belongs to so much, rounded up: rounded down, what is small would be free.
    fn cost(&self, amount: u64) -> u64 {
        let nanos = u128::from(amount) * u128::from(nanos_of(self.per));
        u64::try_from(nanos.div_ceil(u128::from(self.amount))).unwrap_or(u64::MAX)
    }

    /// What belongs to so much time, rounded down.
    fn worth(&self, nanos: u64) -> u64 {
        let amount = u128::from(nanos) * u128::from(self.amount);
        let per = u128::from(nanos_of(self.per).max(1));
        u64::try_from(amount / per).unwrap_or(u64::MAX)
    }
}

/// 584 years fit.
fn nanos_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn meter(amount: u64, per: Duration) -> (Meter, Instant) {
        let meter = Meter::new(amount, per);
        let began = meter.began;
        (meter, began)
    }

    #[test]
    fn as_much_as_the_number_may_come_at_once_and_then_at_the_rate() {
        for (amount, per, each) in
            [(4, SECOND, SECOND / 4), (1, SECOND, SECOND), (2, 60 * SECOND, 30 * SECOND)]
        {
            let (meter, now) = meter(amount, per);
            assert_eq!(meter.take(1, amount + 1, now), amount);
            assert_eq!(meter.take(1, 1, now), 0);
            assert_eq!(meter.take(1, 1, now + each - Duration::from_nanos(1)), 0);
            assert_eq!(meter.take(1, 9, now + each), 1);
            assert_eq!(meter.take(1, 9, now + 3 * per), amount, "a pause fills it and no more");
        }
    }

    #[test]
    fn what_is_taken_in_pieces_is_as_much_as_at_once() {
        let (meter, now) = meter(10_000_000, SECOND);
        let pieces: u64 = (0..20_000).map(|_| meter.take(1, 1_000, now)).sum();
        assert_eq!(pieces, 10_000_000);
    }

    #[test]
    fn less_than_what_is_worth_it_is_not_taken() {
        let (meter, now) = meter(100, SECOND);
        assert_eq!(meter.take(101, 200, now), 0);
        assert_eq!(meter.take(50, 60, now), 60);
        assert_eq!(meter.take(50, 60, now), 0);
        assert_eq!(meter.take(50, 60, now + SECOND / 10), 50);
    }

    #[test]
    fn who_books_gets_a_turn_of_their_own() {
        let (meter, now) = meter(10, SECOND);
        let turns: Vec<_> = (0..5).map(|_| meter.book(5, now).as_millis()).collect();
        assert_eq!(turns, [0, 0, 500, 1000, 1500]);
        assert_eq!(meter.take(1, 1, now + 3 * SECOND / 2), 0, "it is behind them");
        assert_eq!(meter.book(u64::MAX, now), Duration::from_nanos(u64::MAX) - SECOND);
        assert_eq!(meter.book(u64::MAX, now), Duration::from_nanos(u64::MAX) - SECOND);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_never_twice() {
        let (meter, now) = meter(10, SECOND);
        assert_eq!(meter.book(15, now), SECOND / 2);
        meter.give_back(15);
        assert_eq!(meter.take(1, 20, now), 10);
        meter.give_back(u64::MAX);
        assert_eq!(meter.take(1, 20, now), 10, "no more than is full");
    }

    #[test]
    fn without_a_limit_there_is_none() {
        assert!(Meter::of_events(Rate::Unlimited).is_none());
        assert!(Meter::of_bytes(ByteRate::Unlimited).is_none());
    }

    proptest! {
        /// Whenever it comes: in any time there is at most the burst and what the rate gives.
        #[test]
        fn no_sequence_gets_more_than_the_rate(
            amount in 1..2_000_000_u64,
            wants in proptest::collection::vec((0..200_000_000_u64, 0..100_000_u64), 1..200),
        ) {
            let (meter, began) = meter(amount, SECOND);
            let (mut now, mut taken) = (began, 0);
            for (gap, wanted) in wants {
                now += Duration::from_nanos(gap);
                taken += meter.take(1, wanted, now);
            }
            let nanos = u128::from(amount) * (SECOND + (now - began)).as_nanos();
            prop_assert!(u128::from(taken) <= nanos / 1_000_000_000);
        }
    }
}

//! One direction of a stream, held to its session's byte rate.
//!
//! All streams of a session share a meter for each direction. One that is above the rate books a small part of
//! what it has and waits for its turn behind those that have booked before, so streams with much to say
//! share the rate equally and one with little is not held up for long. What waits is what was read already;
//! nothing more is read meanwhile, so the client gets no credit and the backend's window closes.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Progress;
use crate::limit::Meter;

/// The pace of one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace<'a> {
    meter: Option<&'a Meter>,
    progress: &'a Progress,
}

impl<'a> Pace<'a> {
    pub(super) fn new(meter: Option<&'a Meter>, progress: &'a Progress) -> Self {
        Self { meter, progress }
    }

    /// Whether there is a rate at all.
    pub(super) fn is_limited(&self) -> bool {
        self.meter.is_some()
    }

    /// How many bytes go in one turn: it makes no sense to have more at hand.
    pub(super) fn turn_bytes(&self) -> usize {
        self.meter.map_or(usize::MAX, turn_bytes)
    }

    /// How many of so many bytes may go at once: none if that were less than a turn's.
    pub(super) fn now(&self, wanted: usize) -> usize {
        let Some(meter) = self.meter else { return usize::MAX };
        let least = wanted.min(turn_bytes(meter));
        size(meter.take(least as u64, wanted as u64, Instant::now()))
    }

    /// Waits until some of so many bytes may go, and says how many. What has to wait is told to `slowed` first.
    /// Cancel-safe: who gives up has not used up anything.
    pub(super) async fn turn(&self, wanted: usize, slowed: impl Fn(u64)) -> usize {
        let Some(meter) = self.meter else { return usize::MAX };
        let at_once = self.now(wanted);
        if at_once > 0 || wanted == 0 {
            return at_once;
        }
        let bytes = wanted.min(turn_bytes(meter)) as u64;
        let mut booked = Booked { meter, bytes };
        let wait = meter.book(bytes, Instant::now());
        if !wait.is_zero() {
            slowed(bytes);
            // Nobody is to blame that nothing moves until then.
            self.progress.excuse(wait);
            // Boxed, because most streams never wait, and each has room for what it may wait for.
            Box::pin(sleep(wait)).await;
        }
        booked.bytes = 0;
        size(bytes)
    }
}

/// What was booked, and is given back if its turn is not waited for.
struct Booked<'a> {
    meter: &'a Meter,
    bytes: u64,
}

impl Drop for Booked<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.meter.give_back(self.bytes);
        }
    }
}

/// As much as comes in 20 ms: less would be many system calls and more a wait that is felt where streams
/// take turns. At slow rates it is a small packet's worth, or what comes in a second.
fn turn_bytes(meter: &Meter) -> usize {
    let second = meter.in_time(Duration::from_secs(1));
    let least = second.clamp(1, LEAST_TURN);
    size(meter.in_time(TURN).clamp(least, MOST_TURN))
}

const TURN: Duration = Duration::from_millis(20);
const LEAST_TURN: u64 = 1024;
/// As much as one read takes.
const MOST_TURN: u64 = super::super::SCRATCH_BYTES as u64;

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;

    use super::*;
    use crate::config::{ByteRate, ByteSize};

    fn meter(bytes: ByteSize) -> Meter {
        Meter::of_bytes(ByteRate::AtMost { bytes, per: Duration::from_secs(1) }).unwrap()
    }

    #[test]
    fn a_turn_is_20_ms_but_neither_a_few_bytes_nor_more_than_a_read() {
        for (rate, bytes) in
            [(1, 1), (100, 100), (2_000, 1_024), (1_000_000, 20_000), (100_000_000, 61_440)]
        {
            assert_eq!(turn_bytes(&meter(ByteSize(rate))), bytes, "{rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_burst_goes_at_once_and_then_a_turn_at_a_time() {
        let (meter, progress, slowed) =
            (meter(ByteSize(100_000)), Progress::new(None), Cell::new(0));
        let pace = Pace::new(Some(&meter), &progress);
        let note = |bytes| slowed.set(slowed.get() + bytes);
        assert_eq!(pace.now(150_000), 100_000);
        assert_eq!((pace.now(1), slowed.get()), (0, 0));
        let began = Instant::now();
        for turn in 1..=5_u32 {
            assert_eq!(pace.turn(50_000, note).await, 2_000);
            assert_eq!(began.elapsed(), turn * TURN);
        }
        assert_eq!(slowed.get(), 10_000);
        assert_eq!(pace.turn(10, note).await, 10);
    }

    /// A stream with little to say among others with much.
    #[tokio::test(start_paused = true)]
    async fn streams_take_turns() {
        let (meter, progress) = (meter(ByteSize(100_000)), Progress::new(None));
        let pace = Pace::new(Some(&meter), &progress);
        pace.now(100_000);
        let began = Instant::now();
        let bulk = async || {
            while began.elapsed() < Duration::from_secs(1) {
                pace.turn(1_000_000, |_| {}).await;
            }
        };
        let small = async {
            sleep(Duration::from_millis(500)).await;
            pace.turn(10, |_| {}).await;
            began.elapsed() - Duration::from_millis(500)
        };
        let (_, _, waited) = tokio::join!(bulk(), bulk(), small);
        assert!(waited <= 2 * TURN + Duration::from_millis(1), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_a_turn_has_used_up_nothing() {
        let (meter, progress) = (meter(ByteSize(100_000)), Progress::new(None));
        let pace = Pace::new(Some(&meter), &progress);
        pace.now(100_000);
        for _ in 0..1_000 {
            assert_eq!(pace.turn(2_000, |_| {}).now_or_never(), None);
        }
        let began = Instant::now();
        assert_eq!(pace.turn(2_000, |_| {}).await, 2_000);
        assert_eq!(began.elapsed(), TURN);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_there_is_no_wait() {
        let progress = Progress::new(None);
        let pace = Pace::new(None, &progress);
        assert!(!pace.is_limited());
        assert_eq!(pace.now(7), usize::MAX);
        assert_eq!(pace.turn(7, |_| {}).now_or_never(), Some(usize::MAX));
    }
}

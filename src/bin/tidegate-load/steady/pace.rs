//! When operations are due, and waiting for it to the microsecond.
//!
//! tokio's timers are exact to the millisecond, which is longer than what is measured: an operation that is
//! begun late would seem slow. So the kernel's timer is asked, one for each worker.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    time::Duration,
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tidegate::config::Rate;
use tokio::{io::unix::AsyncFd, time::Instant};

/// How operations follow each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pace {
    /// Open loop: they begin at a fixed rate, whatever becomes of those before.
    Open { events: u32, per: Duration },
    /// Closed loop: so many are under way in each lane, and the next begins when one is over.
    Closed { depth: u32 },
}

impl Pace {
    /// An open loop if there is a rate.
    pub(crate) fn new(rate: Option<Rate>, depth: u32) -> Self {
        match rate {
            Some(Rate::AtMost { events, per }) => Self::Open { events, per },
            Some(Rate::Unlimited) | None => Self::Closed { depth },
        }
    }
}

/// How long operations go on, after the warm-up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Length {
    For(Duration),
    Count(u64),
}

/// When the operations of one worker are due in an open loop: its share of evenly spaced times, after a ramp in
/// which the rate grows evenly from nothing. Pure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start: Instant,
    ramp: Duration,
    /// Operations that are due in the ramp: half of what they would be at the full rate.
    rising: u64,
    events: u32,
    per: Duration,
    /// All operations of the run, and those of them that are due in the ramp and the warm-up.
    all: u64,
    warm: u64,
    /// Which of so many workers it is: they take turns.
    worker: u64,
    workers: u64,
}

impl Schedule {
    pub(crate) fn new(
        start: Instant,
        (ramp, warmup, length): (Duration, Duration, Length),
        (events, per): (u32, Duration),
        (worker, workers): (u32, u32),
    ) -> Self {
        let in_time = |time: Duration| time.as_nanos() * u128::from(events);
        let per_nanos = per.as_nanos().max(1);
        let number = |due: u128| u64::try_from(due).unwrap_or(u64::MAX);
        let rising = number(in_time(ramp) / (2 * per_nanos));
        let until =
            |time: Duration| rising.saturating_add(number(in_time(time).div_ceil(per_nanos)));
        let warm = until(warmup);
        let all = match length {
            Length::For(time) => until(warmup + time),
            Length::Count(count) => warm.saturating_add(count),
        };
        let (worker, workers) = (worker.into(), workers.into());
        Self { start, ramp, rising, events, per, all, warm, worker, workers }
    }

    /// How many operations the worker has.
    pub(crate) fn len(&self) -> u64 {
        self.share_of(self.all)
    }

    /// How many of them come after the warm-up.
    pub(crate) fn measured(&self) -> u64 {
        self.share_of(self.all) - self.share_of(self.warm)
    }

    fn share_of(&self, all: u64) -> u64 {
        all.saturating_sub(self.worker).div_ceil(self.workers)
    }

    /// When the worker's operation of this index is to begin.
    pub(crate) fn due(&self, index: u64) -> Instant {
        let number = self.worker.saturating_add(index.saturating_mul(self.workers));
        match number.checked_sub(self.rising) {
            Some(number) => {
                let nanos =
                    u128::from(number) * self.per.as_nanos() / u128::from(self.events.max(1));
                let after = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                self.start + self.ramp + after
            }
            // What is due by a time grows with its square.
            None => self.start + self.ramp.mul_f64((number as f64 / self.rising as f64).sqrt()),
        }
    }
}

/// A timer of the kernel.
pub(crate) struct Timer(AsyncFd<Descriptor>);

/// It owns its descriptor, which is open as long as it lives.
struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    #[allow(
        deprecated,
        reason = "what is to replace it is unsafe, for descriptors that others may close"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Self(AsyncFd::new(Descriptor(timer))?))
    }

    /// Waits until then, if that is not over. A time that is over lets others of the thread have a turn.
    pub(crate) async fn until(&self, at: Instant) -> io::Result<()> {
        let wait = at.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let once = Expiration::OneShot(TimeSpec::from_duration(wait));
        self.0.get_ref().0.set(once, TimerSetTimeFlags::empty())?;
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(expired) = ready.try_io(|timer| Ok(timer.get_ref().0.wait()?)) {
                return expired;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_workers_shares_are_evenly_spaced_and_complete() {
        let start = Instant::now();
        let share = |worker| {
            let times = (Duration::ZERO, SECOND, Length::For(2 * SECOND));
            Schedule::new(start, times, (7, SECOND), (worker, 3))
        };
        let shares = [0, 1, 2].map(share);
        assert_eq!(shares.map(|s| s.len()), [7, 7, 7]);
        assert_eq!(shares.map(|s| s.measured()), [4, 5, 5], "7 of the 21 are in the warm-up");

        let mut all: Vec<Instant> =
            shares.iter().flat_map(|share| (0..share.len()).map(|i| share.due(i))).collect();
        all.sort_unstable();
        for (n, at) in (0..).zip(&all) {
            assert_eq!((*at - start).as_nanos(), u128::from(1_000_000_000_u64 * n / 7), "{n}");
        }
        let late = all.iter().filter(|at| **at >= start + SECOND).count() as u64;
        assert_eq!(
            late,
            shares.iter().map(Schedule::measured).sum::<u64>(),
            "told by the time as well"
        );
    }

    #[test]
    fn a_count_is_a_count_whatever_the_rate() {
        let start = Instant::now();
        for (events, count, workers) in [(3, 10, 1), (1000, 1, 4), (7, 100, 3), (5, 0, 2)] {
            let measured = |worker| {
                let times = (2 * SECOND, SECOND, Length::Count(count));
                Schedule::new(start, times, (events, SECOND), (worker, workers)).measured()
            };
            assert_eq!((0..workers).map(measured).sum::<u64>(), count, "{events} {workers}");
        }
    }

    /// Half as many are due in the ramp as in as long a time after it, a quarter of them in its first half; and all
    /// of them follow each other.
    #[test]
    fn a_ramp_grows_evenly_to_the_rate() {
        let start = Instant::now();
        let times = (4 * SECOND, SECOND, Length::For(2 * SECOND));
        let schedule = Schedule::new(start, times, (100, SECOND), (0, 1));
        let due: Vec<Duration> =
            (0..schedule.len()).map(|index| schedule.due(index) - start).collect();
        let by = |time: Duration| due.iter().filter(|at| **at < time).count();
        assert_eq!([2, 4, 5, 7].map(|s| by(s * SECOND)), [50, 200, 300, 500]);
        assert_eq!((due.len(), schedule.measured()), (500, 200));
        assert!(due.is_sorted());
    }

    #[tokio::test]
    async fn the_timer_is_never_early() {
        let timer = Timer::new().unwrap();
        for micros in [0, 1, 300, 2_000] {
            let at = Instant::now() + Duration::from_micros(micros);
            timer.until(at).await.unwrap();
            assert!(Instant::now() >= at);
        }
    }
}

//! Scenarios of operations at a pace: one kind of operation, over and over, timed one by one.
//!
//! A *lane* does operations: mostly a session, and for what is about connections one place for a connection.
//! In a closed loop a lane begins an operation when one is over. In an open loop operations are due at fixed
//! times, whatever became of those before, and each is timed from when it was *due*: a server that stops for
//! a moment makes all that were due meanwhile late, and not just the one that it was at. (A closed loop
//! would send nothing meanwhile, and hide the stop: "coordinated omission".)
//!
//! What always holds: an operation that was due is completed or has failed, also if its lane is gone; nothing
//! that was due in the warm-up is in a figure, but every failure is in the errors.

pub(crate) mod bulk;
pub(crate) mod connects;
pub(crate) mod datagrams;
pub(crate) mod engine;
mod gathering;
pub(crate) mod idle;
pub(crate) mod metrics;
pub(crate) mod pace;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod round_trips;
pub(crate) mod slo;
pub(crate) mod streams;
pub(crate) mod watch;

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until},
};

use self::pace::Schedule;
use crate::{
    run::Load,
    tally::{Failure, Kind, Tally, Timed},
    target::Need,
    transport::{Session, Socket},
};

/// Operations of one lane that are under way at most in an open loop, where nothing else bounds them. Past
/// it the next begin late, which counts, as they are timed from when they were due.
const MOST_AT_ONCE: u32 = 4096;

/// What the lanes of a scenario do.
pub(crate) trait Work: Sync {
    /// What the server has to have.
    fn needs(&self) -> &'static [Need];

    /// Whether a session over TCP makes its first connection before the run begins.
    fn dials_ahead(&self) -> bool {
        true
    }

    /// Whether each lane is a session. Else the work is to make its own.
    fn has_sessions(&self) -> bool {
        true
    }

    /// Whether each operation looks itself that it gets on. Else its lane does.
    fn has_deadlines(&self) -> bool {
        false
    }

    /// How often the client's address changes.
    fn moves_every(&self) -> Option<Duration> {
        None
    }

    /// Does operations as long as the lane has turns. An error ends the lane.
    async fn run(&self, place: Place<'_>, lane: &Lane<'_>) -> Result<(), Failure>;
}

/// Where a lane works.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) load: &'a Load,
    pub(crate) socket: &'a Socket,
    /// There if the work [has sessions](Work::has_sessions).
    pub(crate) session: Option<&'a Session>,
    pub(crate) looked: &'a Looked,
}

/// Whether the server has been looked at for the last time, if anybody looks at all.
#[derive(Debug)]
pub(crate) struct Looked(Semaphore);

impl Default for Looked {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Looked {
    fn happened(&self) {
        self.0.close();
    }

    /// Waits until it has.
    pub(crate) async fn wait(&self) {
        // An error says that it is closed, which is what is waited for: there is nothing to acquire.
        _ = self.0.acquire().await;
    }
}

impl<'a> Place<'a> {
    /// The lane's session.
    pub(crate) fn session(&self) -> Result<&'a Session, Failure> {
        self.session.ok_or_else(|| Failure::new(Kind::SessionCut, "there is no session"))
    }
}

/// From when to when a worker's operations are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The end of the ramp and the warm-up.
    pub(crate) warm: Instant,
    /// When no operation begins any more, unless they are counted.
    pub(crate) end: Option<Instant>,
}

/// How the lanes of a worker come by their turns.
#[derive(Debug)]
pub(crate) enum Turns<'a> {
    /// At the scheduled times.
    Open {
        schedule: Schedule,
        /// How many are due by now.
        released: &'a Cell<u64>,
        lanes: u64,
    },
    /// As soon as fewer than so many are under way.
    Closed {
        depth: u32,
        /// How many may still begin, in all workers, if they are counted.
        left: Option<&'a AtomicU64>,
    },
}

/// One lane: hands out turns, and takes note of what became of them.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    pub(crate) number: u32,
    pub(crate) tally: &'a Tally,
    pub(crate) window: Window,
    turns: &'a Turns<'a>,
    /// When it begins in a closed loop.
    begins: Instant,
    /// The next of its turns in an open loop.
    next: Cell<u64>,
    /// Something has changed that [`Self::turn`] waits for.
    changed: Notify,
    under_way: Cell<u64>,
    /// When an operation was last over, or the first of them began.
    moved: Cell<Instant>,
}

impl<'a> Lane<'a> {
    /// The lane of this index in its worker.
    pub(crate) fn new(
        number: u32,
        index: u64,
        tally: &'a Tally,
        window: Window,
        turns: &'a Turns<'a>,
        begins: Instant,
    ) -> Self {
        Self {
            begins,
            number,
            tally,
            window,
            turns,
            next: Cell::new(index),
            changed: Notify::new(),
            under_way: Cell::new(0),
            moved: Cell::new(Instant::now()),
        }
    }

    /// Waits for the lane's next turn: when the operation is due, and so timed from. `None`: it has done all.
    /// Cancel-safe. Each turn is to end in [`Self::done`] or [`Self::failed`].
    pub(crate) async fn turn(&self) -> Option<Instant> {
        let at = match self.turns {
            Turns::Open { schedule, released, lanes } => {
                let index = self.next.get();
                if index >= schedule.len() {
                    return None;
                }
                while released.get() <= index || self.under_way.get() >= MOST_AT_ONCE.into() {
                    self.changed.notified().await;
                }
                self.next.set(index + lanes);
                schedule.due(index)
            }
            Turns::Closed { depth, left } => {
                self.has_begun().await;
                while self.under_way.get() >= (*depth).into() {
                    self.changed.notified().await;
                }
                let now = Instant::now();
                if self.window.end.is_some_and(|end| now >= end)
                    || (self.is_measured(now) && left.is_some_and(|left| !take_one(left)))
                {
                    return None;
                }
                now
            }
        };
        self.begun(at);
        Some(at)
    }

    /// Waits until the lane may begin in a closed loop.
    pub(crate) async fn has_begun(&self) {
        if Instant::now() < self.begins {
            sleep_until(self.begins).await;
        }
    }

    /// An operation begins that is due now, at no turn's behest.
    pub(crate) fn begun(&self, at: Instant) {
        if self.under_way.replace(self.under_way.get() + 1) == 0 {
            self.moved.set(Instant::now());
        }
        if self.is_measured(at) {
            self.tally.count().operations_begun.inc();
        }
    }

    /// Tells that the turn of this index in the worker may have come.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Whether what was due then is in the figures.
    pub(crate) fn is_measured(&self, at: Instant) -> bool {
        at >= self.window.warm
    }

    /// An operation that was due then, of so many bytes, is over and was right.
    pub(crate) fn done(&self, at: Instant, bytes: u64) {
        self.over(1);
        self.carried(bytes);
        self.tally.count().finished.inc();
        if self.is_measured(at) {
            self.tally.took(Timed::Operation, at.elapsed());
            self.tally.count().operations.inc();
        }
    }

    /// As [`Self::done`], of what has no length of its own.
    pub(crate) fn done_untimed(&self) {
        self.over(1);
        let count = self.tally.count();
        count.operations.inc();
        count.finished.inc();
    }

    /// Bytes came back, or arrived, and were right.
    pub(crate) fn carried(&self, bytes: u64) {
        let now = Instant::now();
        self.tally.count().carried.add(bytes);
        if self.is_measured(now) && self.window.end.is_none_or(|end| now < end) {
            self.tally.count().operation_bytes.add(bytes);
        }
        self.moved.set(now);
    }

    /// An operation has failed.
    pub(crate) fn failed(&self, failure: Failure) {
        self.over(1);
        let what = format!("lane {}: {}", self.number, failure.what);
        self.tally.failed(Failure { what, ..failure });
    }

    /// So many operations are over that have come to nothing, which is no error.
    pub(crate) fn over(&self, operations: u64) {
        self.under_way.set(self.under_way.get().saturating_sub(operations));
        self.moved.set(Instant::now());
        self.changed.notify_one();
    }

    /// Resolves when operations are under way and none of them gets on for so long.
    pub(crate) async fn stuck(&self, patience: Duration) -> Failure {
        loop {
            let deadline = self.moved.get() + patience;
            sleep_until(deadline).await;
            let under_way = self.under_way.get();
            if under_way == 0 {
                self.moved.set(Instant::now());
            } else if self.moved.get() + patience <= deadline {
                let what = format!("{under_way} operations did not get on for {patience:?}");
                return Failure::new(Kind::Unanswered, what);
            }
        }
    }

    /// Does an operation at each turn, as many at the same time as there are turns. Each yields how many bytes
    /// it has carried.
    pub(crate) async fn each(&self, operation: impl AsyncFn(u64) -> Result<u64, Failure>) {
        let mut running = FuturesUnordered::new();
        let mut begun = 0;
        let mut has_turns = true;
        while has_turns || !running.is_empty() {
            tokio::select! {
                turn = self.turn(), if has_turns => match turn {
                    Some(at) => {
                        let operation = operation(begun);
                        running.push(async move {
                            match operation.await {
                                Ok(bytes) => self.done(at, bytes),
                                Err(failure) => self.failed(failure),
                            }
                        });
                        begun += 1;
                    }
                    None => has_turns = false,
                },
                Some(()) = running.next() => {}
            }
        }
    }
}

/// Takes one of what is left, if anything is.
fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::{pace::Length, *};

    const SECOND: Duration = Duration::from_secs(1);

    fn window() -> Window {
        let now = Instant::now();
        Window { warm: now + SECOND, end: Some(now + 3 * SECOND) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_has_so_many_under_way_and_ends_in_time() {
        let tally = Tally::new(Arc::default());
        let turns = Turns::Closed { depth: 2, left: None };
        let lane = Lane::new(0, 0, &tally, window(), &turns, Instant::now());

        let first = lane.turn().await.unwrap();
        assert!(lane.turn().await.is_some());
        assert!(lane.turn().now_or_never().is_none(), "two are under way");
        lane.done(first, 10);
        assert_eq!(tally.count().operations.get(), 0, "that was the warm-up");
        tokio::time::advance(SECOND).await;
        let measured = lane.turn().await.unwrap();
        lane.done(measured, 10);
        assert_eq!(tally.count().operations.get(), 1);
        assert_eq!(tally.count().operation_bytes.get(), 10);
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(lane.turn().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_is_shared_by_all_lanes_and_does_not_count_the_warm_up() {
        let tally = Tally::new(Arc::default());
        let left = AtomicU64::new(3);
        let turns = Turns::Closed { depth: 100, left: Some(&left) };
        let window = Window { end: None, ..window() };
        let lanes = [0, 1].map(|n| Lane::new(n, n.into(), &tally, window, &turns, Instant::now()));
        for lane in &lanes {
            assert!(lane.turn().await.is_some(), "in the warm-up");
        }
        tokio::time::advance(SECOND).await;
        assert!(lanes[0].turn().await.is_some());
        assert!(lanes[1].turn().await.is_some());
        assert!(lanes[1].turn().await.is_some());
        for lane in &lanes {
            assert_eq!(lane.turn().await, None);
        }
        assert_eq!(tally.count().operations_begun.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_of_a_closed_loop_begins_when_the_ramp_has_come_to_it() {
        let tally = Tally::new(Arc::default());
        let turns = Turns::Closed { depth: 1, left: None };
        let start = Instant::now();
        let lane = Lane::new(0, 0, &tally, window(), &turns, start + SECOND / 2);
        assert_eq!(lane.turn().await, Some(start + SECOND / 2));
    }

    /// Three were due while the lane was not looking: each is timed from its own time.
    #[tokio::test(start_paused = true)]
    async fn an_open_loop_times_operations_from_when_they_were_due() {
        let tally = Tally::new(Arc::default());
        let start = Instant::now();
        let times = (Duration::ZERO, Duration::ZERO, Length::Count(6));
        let schedule = Schedule::new(start, times, (1, SECOND), (0, 1));
        let released = Cell::new(0);
        let turns = Turns::Open { schedule, released: &released, lanes: 2 };
        let window = Window { warm: start, end: None };
        let lane = Lane::new(1, 1, &tally, window, &turns, start);
        assert!(lane.turn().now_or_never().is_none(), "nothing is due");

        tokio::time::advance(5 * SECOND).await;
        released.set(6);
        lane.wake();
        for due in [1, 3, 5] {
            let at = lane.turn().await.unwrap();
            assert_eq!(at, start + due * SECOND);
            lane.done(at, 0);
        }
        assert_eq!(lane.turn().await, None);
        let totals = crate::tally::Totals::of([tally]);
        let times = totals.times(Timed::Operation);
        assert_eq!((times.len(), times.max() / 1_000_000), (3, 4), "the first is 4 s late");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_is_stuck_when_what_is_under_way_does_not_get_on() {
        let tally = Tally::new(Arc::default());
        let turns = Turns::Closed { depth: 1, left: None };
        let lane =
            Lane::new(0, 0, &tally, Window { end: None, ..window() }, &turns, Instant::now());
        let begun = Instant::now();
        assert!(tokio::time::timeout(10 * SECOND, lane.stuck(SECOND)).await.is_err(), "idle");
        lane.turn().await.unwrap();
        let failure = lane.stuck(SECOND).await;
        assert_eq!(failure.kind, Kind::Unanswered);
        assert_eq!(begun.elapsed().as_secs(), 11);
    }
}

//! When a session has to end though nobody ends it.
//!
//! Whatever sets a moment for the end says so with [`Deadlines::end_at`]; the earliest counts. Beside it a
//! route may want sessions to end that carry nothing for a while. All of it takes one timer for each session,
//! and none where nothing is set.

use std::{future::pending, pin::Pin, time::Duration};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::{config::Route, reason::Ending};

/// The moments at which a session has to end.
#[derive(Debug)]
pub(super) struct Deadlines {
    began: Instant,
    end: Option<(Instant, Ending)>,
    /// When the client is to be told that an end comes; `None` once it has been, or if it need not be.
    notice: Option<Instant>,
    idle: Option<Idle>,
    /// Made when it is first needed, and boxed: most sessions wait for nothing.
    timer: Option<Pin<Box<Sleep>>>,
}

/// What a deadline asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Due {
    /// The end is near: the client should be told.
    Notice,
    /// The session is over.
    End(Ending),
}

impl Deadlines {
    /// What the route asks of a session that began then.
    pub(super) fn new(route: &Route, began: Instant) -> Self {
        let idle = route.session_idle.map(|patience| Idle::new(patience, began));
        let mut deadlines = Self { began, end: None, notice: None, idle, timer: None };
        // What lies beyond the clock's end never comes.
        if let Some(over) = route.session_lifetime.and_then(|time| began.checked_add(time)) {
            deadlines.end_at(over, Ending::SessionLifetime);
        }
        deadlines
    }

    /// Ends the session at this moment for this reason, unless it ends sooner.
    pub(super) fn end_at(&mut self, moment: Instant, why: Ending) {
        if self.end.is_none_or(|(sooner, _)| moment < sooner) {
            self.end = Some((moment, why));
            self.notice = Some(moment - notice(moment.saturating_duration_since(self.began)));
        }
    }

    /// Takes it that the client knows that an end comes.
    pub(super) fn noticed(&mut self) {
        self.notice = None;
    }

    /// Waits until something is due; a notice is so once. `carried` yields another number whenever the session
    /// has carried something. Cancel-safe.
    pub(super) async fn due(&mut self, carried: impl Fn() -> u64) -> Due {
        loop {
            let Some(next) = self.next() else { return pending().await };
            self.sleep_until(next).await;
            if let Some(due) = self.look(Instant::now(), &carried) {
                return due;
            }
        }
    }

    /// Waits for the end alone. Cancel-safe.
    pub(super) async fn end(&mut self, carried: impl Fn() -> u64) -> Ending {
        self.noticed();
        loop {
            if let Due::End(why) = self.due(&carried).await {
                return why;
            }
        }
    }

    /// When there is something to look at.
    fn next(&self) -> Option<Instant> {
        let end = self.end.map(|(moment, _)| moment);
        let look = self.idle.as_ref().and_then(|idle| idle.next_look);
        [end, self.notice, look].into_iter().flatten().min()
    }

    fn look(&mut self, now: Instant, carried: impl Fn() -> u64) -> Option<Due> {
        // First, so that the client hears it even where whoever looks comes late.
        if self.notice.take_if(|moment| *moment <= now).is_some() {
            return Some(Due::Notice);
        }
        if let Some((_, why)) = self.end.filter(|(moment, _)| *moment <= now) {
            return Some(Due::End(why));
        }
        let is_idle = self.idle.as_mut().is_some_and(|idle| idle.is_over(carried(), now));
        is_idle.then_some(Due::End(Ending::SessionIdle))
    }

    async fn sleep_until(&mut self, moment: Instant) {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(moment)));
        if timer.deadline() != moment {
            timer.as_mut().reset(moment);
        }
        timer.await;
    }
}

/// How long before the end of so long a session its client is told: a tenth of it, and a minute at most. That
/// is time to begin another one and to go over to it.
fn notice(life: Duration) -> Duration {
    (life / 10).min(Duration::from_secs(60))
}

/// Finds out that nothing was carried for a while.
///
/// The data path keeps no time. It is looked at four times in the length that is allowed, so a session lives
/// on for up to a quarter of it longer.
#[derive(Debug)]
struct Idle {
    patience: Duration,
    carried: u64,
    since: Instant,
    /// `None`: beyond the clock's end.
    next_look: Option<Instant>,
}

impl Idle {
    fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, carried: 0, since: now, next_look: now.checked_add(patience / 4) }
    }

    /// Whether nothing was carried for long enough, as far as it was looked at.
    fn is_over(&mut self, carried: u64, now: Instant) -> bool {
        if self.next_look.is_none_or(|look| now < look) {
            return false;
        }
        if carried != self.carried {
            (self.carried, self.since) = (carried, now);
        }
        self.next_look = now.checked_add(self.patience / 4);
        now - self.since >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const NOTHING: fn() -> u64 = || 0;

    fn deadlines(lifetime: Option<Duration>, idle: Option<Duration>) -> Deadlines {
        let began = Instant::now();
        let idle = idle.map(|patience| Idle::new(patience, began));
        let mut deadlines = Deadlines { began, end: None, notice: None, idle, timer: None };
        if let Some(lifetime) = lifetime {
            deadlines.end_at(began + lifetime, Ending::SessionLifetime);
        }
        deadlines
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_without_limits_waits_for_nothing() {
        let mut none = deadlines(None, None);
        let year = Duration::from_secs(365 * 86_400);
        assert!(timeout(year, none.due(NOTHING)).await.is_err());
        assert!(none.timer.is_none(), "it has no timer");
    }

    #[tokio::test(start_paused = true)]
    async fn the_client_is_told_once_a_tenth_of_the_time_and_a_minute_at_most_before_the_end() {
        for (lifetime, told) in [(10, 9), (600, 540), (6_000, 5_940)] {
            let mut deadlines = deadlines(Some(lifetime * SECOND), None);
            let began = deadlines.began;
            assert_eq!(deadlines.due(NOTHING).await, Due::Notice);
            assert_eq!(began.elapsed(), told * SECOND, "{lifetime}");
            assert_eq!(deadlines.due(NOTHING).await, Due::End(Ending::SessionLifetime));
            assert_eq!(began.elapsed(), lifetime * SECOND, "{lifetime}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_knows_of_the_end_is_not_told_again() {
        let mut deadlines = deadlines(Some(10 * SECOND), None);
        let began = deadlines.began;
        assert_eq!(deadlines.end(NOTHING).await, Ending::SessionLifetime);
        assert_eq!(began.elapsed(), 10 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_ends_the_earliest_counts() {
        for (at, why) in [
            (5, Ending::DrainDeadline),
            (10, Ending::SessionLifetime),
            (20, Ending::SessionLifetime),
        ] {
            let mut deadlines = deadlines(Some(10 * SECOND), None);
            let began = deadlines.began;
            deadlines.end_at(began + at * SECOND, Ending::DrainDeadline);
            assert_eq!(deadlines.end(NOTHING).await, why, "{at}");
            assert_eq!(began.elapsed(), at.min(10) * SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_was_before_the_beginning_is_due_at_once() {
        let mut deadlines = deadlines(None, None);
        let began = deadlines.began;
        tokio::time::advance(SECOND).await;
        deadlines.end_at(began, Ending::SessionLifetime);
        assert_eq!(deadlines.due(NOTHING).await, Due::Notice);
        assert_eq!(deadlines.due(NOTHING).await, Due::End(Ending::SessionLifetime));
        assert_eq!(began.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_client_is_told_even_where_the_look_comes_after_the_end() {
        let mut deadlines = deadlines(Some(10 * SECOND), None);
        tokio::time::advance(11 * SECOND).await;
        assert_eq!(deadlines.due(NOTHING).await, Due::Notice);
        assert_eq!(deadlines.due(NOTHING).await, Due::End(Ending::SessionLifetime));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_carries_nothing_is_over_in_time() {
        let mut deadlines = deadlines(None, Some(60 * SECOND));
        let began = deadlines.began;
        assert_eq!(deadlines.due(NOTHING).await, Due::End(Ending::SessionIdle));
        assert_eq!(began.elapsed(), 60 * SECOND);
    }

    /// The wait is cancelled again and again, as it is in a `select!`.
    #[tokio::test(start_paused = true)]
    async fn a_session_that_carries_something_now_and_then_is_not_over() {
        let (mut deadlines, carried) = (deadlines(None, Some(60 * SECOND)), Cell::new(0));
        for more in [1, 1, 1_000, u64::MAX - 7] {
            let still = timeout(59 * SECOND, deadlines.due(|| carried.get())).await;
            assert!(still.is_err(), "{more}");
            carried.set(carried.get().wrapping_add(more));
        }
        let last = Instant::now();
        assert_eq!(deadlines.due(|| carried.get()).await, Due::End(Ending::SessionIdle));
        let idle = last.elapsed();
        assert!((60 * SECOND..=75 * SECOND).contains(&idle), "{idle:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_session_ends_at_its_lifetime() {
        let mut deadlines = deadlines(Some(100 * SECOND), Some(10 * SECOND));
        let (began, carried) = (deadlines.began, Cell::new(0));
        let busy = || {
            carried.set(carried.get() + 1);
            carried.get()
        };
        assert_eq!(deadlines.end(busy).await, Ending::SessionLifetime);
        assert_eq!(began.elapsed(), 100 * SECOND);
    }
}

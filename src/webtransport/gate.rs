//! How fast a connection's new streams are taken.
//!
//! QUIC gives a client credit for another stream only when one is done with, and one that nobody has
//! accepted never is: not even after the client has reset it. So not accepting holds a flood to the rate
//! whatever the streams are, and costs nothing; and who came too fast by chance loses nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::{config::Rate, limit::Bucket};

/// Says when the next stream of one kind may be taken.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    bucket: Bucket,
    shut_until: Option<Instant>,
}

impl Gate {
    /// A stream has come through. True if it was one too many, so that the next must wait.
    ///
    /// That one is let through all the same: it is one, and a shut gate then means that there was excess.
    pub(crate) fn passed(&mut self, rate: Rate, now: Instant) -> bool {
        let wait = self.bucket.book(rate, now);
        if wait > Duration::ZERO {
            self.shut_until = now.checked_add(wait);
        }
        self.shut_until.is_some()
    }

    /// Whether the next one may be taken.
    pub(crate) fn is_open(&self) -> bool {
        self.shut_until.is_none()
    }

    /// When it must be told the time again.
    pub(crate) fn shut_until(&self) -> Option<Instant> {
        self.shut_until
    }

    /// Opens it if it was shut for long enough.
    pub(crate) fn tell_time(&mut self, now: Instant) {
        self.shut_until = self.shut_until.filter(|until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shuts_after_one_too_many_and_opens_in_time() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let rate = Rate::per_second(4);
        for _ in 0..4 {
            assert!(!gate.passed(rate, now) && gate.is_open());
        }
        assert!(gate.passed(rate, now) && !gate.is_open());
        let until = now + Duration::from_millis(250);
        assert_eq!(gate.shut_until(), Some(until));
        gate.tell_time(until - Duration::from_nanos(1));
        assert!(!gate.is_open());
        gate.tell_time(until);
        assert!(gate.is_open());
        assert!(gate.passed(rate, until), "nothing was saved up meanwhile");
    }

    #[test]
    fn unlimited_never_shuts_it() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert!((0..10_000).all(|_| !gate.passed(Rate::Unlimited, now)));
        assert!(gate.is_open());
    }
}

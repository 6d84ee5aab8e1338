//! Session flow control: how much each side may open and send (draft-ietf-webtrans-http3-16 section 5).
//!
//! Limits count from the session's beginning: payload bytes on all its streams, and streams of each
//! kind. QUIC's own flow control is what bounds the gateway's memory; this one is here because clients
//! that are offered several sessions on a connection want to see it, and obey it. So the gateway's part is
//! to keep promises in time: credit is given long before it is used up, for bytes as the bridges read
//! them.
//!
//! It is on when both sides offered credit in their SETTINGS. When it is not, nothing limits the gateway
//! and nothing is enforced, but credit is given all the same: Safari may obey what it was told without
//! offering anything itself, and the others ignore it.
//!
//! A [`Flow`] is shared by a session's task and its streams. Pure accounting, without I/O: who reads or
//! writes tells it, and the session's task sends what is [due](Flow::due). Its atomics are relaxed: a
//! connection lives on one thread.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    task::Poll,
};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, futures::Notified};

use super::capsule::{self, Counted};
use crate::config::{Transport, WebTransportProfile};

/// No limit may be higher, since there are no more streams (draft section 5.6.2).
const MAX_STREAMS: u64 = 1 << 60;

/// Streams of a session that its client may open before it hears of new credit, on top of what QUIC lets
/// it open at first: so that QUIC's credit, which follows the streams that are open, is what it meets.
const STREAM_HEADROOM: u64 = 256;

/// Used parts of the window at which credit is given: one of so many. As QUIC implementations do, quinn
/// among them; a client that is a round trip away then has seven eighths of the window to go on with.
const GRANT_AT: u64 = 8;

/// What a side lets the other do in a session, ahead of what it has dealt with. All zero: no flow control.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionCredit {
    /// Payload bytes on all streams together.
    pub data: u64,
    /// Bidirectional streams.
    pub bidi: u64,
    /// Unidirectional streams.
    pub uni: u64,
}

impl SessionCredit {
    /// What a listener's clients are offered. Data as much as QUIC's own window of the connection, so that
    /// a session alone on its connection does not notice.
    pub fn of(settings: &Transport) -> Self {
        match settings.webtransport_profile {
            WebTransportProfile::Minimal => Self::default(),
            WebTransportProfile::Full => Self {
                data: settings.connection_window.0,
                bidi: STREAM_HEADROOM + u64::from(settings.initial_bidi_streams),
                uni: STREAM_HEADROOM + u64::from(settings.initial_uni_streams),
            },
        }
    }

    /// Whether it is enough for flow control to be on (draft section 5.1).
    pub(crate) fn is_offered(&self) -> bool {
        *self != Self::default()
    }
}

/// A side broke session flow control: the session is closed with WT_FLOW_CONTROL_ERROR.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("session flow control was broken")]
pub(crate) struct FlowError;

/// The account of one session.
#[derive(Debug)]
pub(crate) struct Flow {
    is_on: bool,
    /// QUIC's window of one stream: what may be in it unread when it is cut.
    stream_window: u64,
    /// What the other side may do.
    granted: Each<Granted>,
    /// What this side may do.
    allowed: Each<Allowed>,
    is_broken: AtomicBool,
    /// Wakes who sends what is due.
    due: AtomicWaker,
    /// Wakes those who wait for credit.
    raised: Notify,
}

/// One of something for each that is counted.
#[derive(Debug)]
struct Each<T> {
    data: T,
    bidi: T,
    uni: T,
}

impl<T> Each<T> {
    fn of(credit: SessionCredit, make: impl Fn(u64) -> T) -> Self {
        Self { data: make(credit.data), bidi: make(credit.bidi), uni: make(credit.uni) }
    }

    fn get(&self, what: Counted) -> &T {
        match what {
            Counted::Data => &self.data,
            Counted::Bidi => &self.bidi,
            Counted::Uni => &self.uni,
        }
    }

    fn all(&self) -> [(Counted, &T); 3] {
        [Counted::Data, Counted::Bidi, Counted::Uni].map(|what| (what, self.get(what)))
    }
}

impl Flow {
    /// A session that begins, with what this side offered and what the other side did. A stream can have
    /// `stream_window` bytes that nobody has read.
    pub(crate) fn new(ours: SessionCredit, theirs: SessionCredit, stream_window: u64) -> Self {
        Self {
            is_on: ours.is_offered() && theirs.is_offered(),
            stream_window,
            granted: Each::of(ours, Granted::new),
            allowed: Each::of(theirs, Allowed::new),
            is_broken: AtomicBool::new(false),
            due: AtomicWaker::new(),
            raised: Notify::new(),
        }
    }

    /// The other side has opened streams. False: it must not have, and the session will be closed.
    pub(crate) fn opened(&self, kind: Counted, streams: u64) -> bool {
        self.count(kind, streams)
    }

    /// So many bytes of the other side's were read from a stream.
    pub(crate) fn received(&self, bytes: u64) {
        self.count(Counted::Data, bytes);
    }

    fn count(&self, what: Counted, more: u64) -> bool {
        let granted = self.granted.get(what);
        let is_within = granted.count(more) || !self.is_on;
        if !is_within {
            self.is_broken.store(true, Relaxed);
        }
        if !is_within || granted.target().is_some() {
            self.due.wake();
        }
        is_within
    }

    /// So many streams of the other side's were reset or stopped.
    ///
    /// What was sent on it counts (draft section 5.3), but quinn does not tell how much that was. It was no
    /// more than what was read and QUIC's window, so credit for a whole window is given: without, each cut
    /// stream would take a little of the session's credit with it, until nothing is left.
    pub(crate) fn cut(&self, streams: u64) {
        self.lose(Counted::Data, self.stream_window.saturating_mul(streams));
    }

    /// A stream was reset before it said whose it is: it may have been this session's.
    ///
    /// RESET_STREAM_AT would keep a stream's head from being lost (draft section 4.4), but quinn does not
    /// have it. Without new credit, a client that gives up streams at once would soon be able to open none.
    pub(crate) fn lost_head(&self, kind: Counted) {
        self.lose(kind, 1);
        self.cut(1);
    }

    /// The other side may have used credit without being seen.
    fn lose(&self, what: Counted, some: u64) {
        let granted = self.granted.get(what);
        granted.lost.fetch_add(some, Relaxed);
        if granted.target().is_some() {
            self.due.wake();
        }
    }

    /// Takes up to `most` of what this side may do, `most` being more than 0. `None`: there is no credit;
    /// wait until it is [raised](Self::raised).
    pub(crate) fn take(&self, what: Counted, most: u64) -> Option<Taken<'_>> {
        if !self.is_on {
            return Some(Taken { flow: None, what, left: most });
        }
        let left = self.allowed.get(what).take(most);
        if left == 0 {
            self.due.wake();
            return None;
        }
        Some(Taken { flow: Some(self), what, left })
    }

    /// Whether there is any credit.
    pub(crate) fn may(&self, what: Counted) -> bool {
        let allowed = self.allowed.get(what);
        !self.is_on || allowed.used.load(Relaxed) < allowed.limit.load(Relaxed)
    }

    /// Resolves when credit has come since it was called.
    pub(crate) fn raised(&self) -> Notified<'_> {
        self.raised.notified()
    }

    /// Takes `1` of what this side may do, when there is credit for it.
    pub(crate) async fn take_one(&self, what: Counted) -> Taken<'_> {
        loop {
            let raised = self.raised();
            if let Some(taken) = self.take(what, 1) {
                return taken;
            }
            raised.await;
        }
    }

    /// The other side has set a limit.
    ///
    /// # Errors
    /// If it may not be like that: too high, or no higher than the one before.
    pub(crate) fn raise(&self, what: Counted, limit: u64) -> Result<(), FlowError> {
        if !self.is_on {
            return Ok(());
        }
        check(what, limit)?;
        let before = self.allowed.get(what).limit.fetch_max(limit, Relaxed);
        self.raised.notify_waiters();
        if limit > before { Ok(()) } else { Err(FlowError) }
    }

    /// The other side says that it waits for credit: nothing to do, since credit comes early.
    ///
    /// # Errors
    /// If the limit that it names cannot be.
    pub(crate) fn blocked(&self, what: Counted, limit: u64) -> Result<(), FlowError> {
        if self.is_on { check(what, limit) } else { Ok(()) }
    }

    /// Waits for something to say to the other side: capsules to be sent at once and in order. To be
    /// awaited by one task. Cancel-safe.
    ///
    /// # Errors
    /// If the other side has used more than it was given.
    pub(crate) async fn due(&self) -> Result<Bytes, FlowError> {
        poll_fn(|cx| {
            self.due.register(cx.waker());
            match self.due_now() {
                Ok(capsules) if capsules.is_empty() => Poll::Pending,
                due => Poll::Ready(due),
            }
        })
        .await
    }

    fn due_now(&self) -> Result<Bytes, FlowError> {
        if self.is_broken.load(Relaxed) {
            return Err(FlowError);
        }
        let mut capsules = BytesMut::new();
        for (what, granted) in self.granted.all() {
            if let Some(limit) = granted.raise() {
                capsule::put_max(&mut capsules, what, limit);
            }
        }
        for (what, allowed) in self.allowed.all() {
            if let Some(limit) = allowed.blocked() {
                capsule::put_blocked(&mut capsules, what, limit);
            }
        }
        Ok(capsules.freeze())
    }
}

/// Only streams have a highest number (draft sections 5.6.2 and 5.6.3).
fn check(what: Counted, limit: u64) -> Result<(), FlowError> {
    if what != Counted::Data && limit > MAX_STREAMS { Err(FlowError) } else { Ok(()) }
}

/// Credit that was taken. What is not spent goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    /// `None` where nothing is counted.
    flow: Option<&'a Flow>,
    what: Counted,
    left: u64,
}

impl Taken<'_> {
    /// How much there is.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Spends some of it, or less if there is less.
    pub(crate) fn spend(&mut self, some: u64) {
        self.left = self.left.saturating_sub(some);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(flow) = self.flow.filter(|_| self.left > 0) {
            flow.allowed.get(self.what).used.fetch_sub(self.left, Relaxed);
            flow.raised.notify_waiters();
        }
    }
}

/// A limit that this side has set.
#[derive(Debug)]
struct Granted {
    /// How far the limit stays ahead; 0 if nothing was offered.
    window: u64,
    limit: AtomicU64,
    used: AtomicU64,
    /// What the other side may have used without being seen.
    lost: AtomicU64,
}

impl Granted {
    fn new(window: u64) -> Self {
        let window = window.min(MAX_STREAMS);
        let (used, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { window, limit: AtomicU64::new(window), used, lost }
    }

    /// Counts what the other side has used. False: more than it may.
    fn count(&self, more: u64) -> bool {
        self.used.fetch_add(more, Relaxed) + more <= self.limit.load(Relaxed)
    }

    /// What the limit shall be, once it is time to raise it.
    fn target(&self) -> Option<u64> {
        let used = self.used.load(Relaxed).saturating_add(self.lost.load(Relaxed));
        let target = used.saturating_add(self.window).min(MAX_STREAMS);
        let step = (self.window / GRANT_AT).max(1);
        let is_due = target.saturating_sub(self.limit.load(Relaxed)) >= step;
        (self.window > 0 && is_due).then_some(target)
    }

    /// Raises the limit if it is time.
    fn raise(&self) -> Option<u64> {
        let limit = self.target()?;
        self.limit.store(limit, Relaxed);
        Some(limit)
    }
}

/// A limit that the other side has set.
#[derive(Debug)]
struct Allowed {
    limit: AtomicU64,
    used: AtomicU64,
    /// Whether somebody wanted more than there was.
    is_short: AtomicBool,
    /// One more than the limit at which the other side was told so; 0 if it was not.
    told: AtomicU64,
}

impl Allowed {
    fn new(limit: u64) -> Self {
        let [used, told] = [0, 0].map(AtomicU64::new);
        Self { limit: AtomicU64::new(limit), used, is_short: AtomicBool::new(false), told }
    }

    /// Takes as much as there is, up to `most`.
    fn take(&self, most: u64) -> u64 {
        let limit = self.limit.load(Relaxed);
        let fits = |used: u64| most.min(limit.saturating_sub(used));
        let taken = |used| Some(used + fits(used)).filter(|after| *after > used);
        match self.used.fetch_update(Relaxed, Relaxed, taken) {
            Ok(used) => fits(used),
            Err(_used_up) => {
                self.is_short.store(true, Relaxed);
                0
            }
        }
    }

    /// The limit that keeps this side from going on, once for each limit.
    fn blocked(&self) -> Option<u64> {
        let limit = self.limit.load(Relaxed);
        let is_short = self.is_short.swap(false, Relaxed) && self.used.load(Relaxed) >= limit;
        (is_short && self.told.swap(limit + 1, Relaxed) != limit + 1).then_some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::capsule::{Capsule, CapsuleReader},
        *,
    };
    use futures_util::FutureExt;
    use proptest::prelude::*;

    const NONE: SessionCredit = SessionCredit { data: 0, bidi: 0, uni: 0 };
    const STREAM_WINDOW: u64 = 50;

    fn data(data: u64) -> SessionCredit {
        SessionCredit { data, ..NONE }
    }

    /// What is due now, read as the other side would.
    fn due(flow: &Flow) -> Result<Vec<Capsule>, FlowError> {
        let mut bytes = flow.due_now()?;
        let mut reader = CapsuleReader::default();
        Ok(std::iter::from_fn(|| reader.read(&mut bytes).unwrap()).collect())
    }

    /// Takes and spends up to `most`.
    fn spend(flow: &Flow, most: u64) -> u64 {
        let Some(mut taken) = flow.take(Counted::Data, most) else { return 0 };
        let all = taken.left();
        taken.spend(all);
        all
    }

    #[test]
    fn it_is_on_when_both_sides_offer_something() {
        let uni = SessionCredit { uni: 1, ..NONE };
        for (ours, theirs, is_on) in [
            (data(1), data(1), true),
            (data(1), uni, true),
            (data(1), NONE, false),
            (NONE, data(1), false),
            (NONE, NONE, false),
        ] {
            assert_eq!(Flow::new(ours, theirs, 0).is_on, is_on, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn credit_is_given_when_an_eighth_is_used() {
        let flow = Flow::new(data(800), data(1), STREAM_WINDOW);
        flow.received(99);
        assert_eq!(due(&flow), Ok(vec![]));
        flow.received(1);
        assert_eq!(due(&flow), Ok(vec![Capsule::Max(Counted::Data, 900)]));
        assert_eq!(due(&flow), Ok(vec![]), "said once");
    }

    #[test]
    fn streams_are_counted_by_kind() {
        let ours = SessionCredit { data: 0, bidi: 2, uni: 100 };
        let flow = Flow::new(ours, data(1), STREAM_WINDOW);
        assert!(flow.opened(Counted::Bidi, 2) && flow.opened(Counted::Uni, 1));
        assert_eq!(due(&flow), Ok(vec![Capsule::Max(Counted::Bidi, 4)]));
        assert!(!flow.opened(Counted::Bidi, 3));
        assert_eq!(due(&flow), Err(FlowError));
    }

    #[test]
    fn more_than_was_granted_breaks_it_only_when_it_is_on() {
        for (theirs, wanted) in [(data(1), Err(FlowError)), (NONE, Ok(()))] {
            let flow = Flow::new(data(800), theirs, STREAM_WINDOW);
            flow.received(801);
            assert_eq!(due(&flow).map(drop), wanted);
        }
    }

    /// Safari may obey what it was told without having offered anything.
    #[test]
    fn credit_is_given_also_when_it_is_off() {
        let flow = Flow::new(data(800), NONE, STREAM_WINDOW);
        flow.received(5000);
        assert_eq!(due(&flow), Ok(vec![Capsule::Max(Counted::Data, 5800)]));
    }

    /// Otherwise a session that resets streams would run out of credit some day.
    #[test]
    fn a_cut_stream_costs_no_credit() {
        let flow = Flow::new(data(800), data(1), STREAM_WINDOW);
        for i in 1..=1000 {
            flow.cut(1);
            flow.cut(1);
            assert_eq!(due(&flow), Ok(vec![Capsule::Max(Counted::Data, 800 + 100 * i)]));
        }
    }

    #[test]
    fn a_stream_without_a_head_costs_no_credit_either() {
        let flow = Flow::new(SessionCredit { data: 100, bidi: 1, uni: 1 }, data(1), STREAM_WINDOW);
        flow.lost_head(Counted::Uni);
        let due = due(&flow);
        assert_eq!(due, Ok(vec![Capsule::Max(Counted::Data, 150), Capsule::Max(Counted::Uni, 2)]));
    }

    #[test]
    fn nothing_is_sent_beyond_the_limit_and_the_other_side_hears_of_it_once() {
        let flow = Flow::new(data(8), data(10), STREAM_WINDOW);
        assert_eq!(spend(&flow, 7), 7);
        assert_eq!(spend(&flow, 7), 3);
        assert_eq!(due(&flow), Ok(vec![]), "nobody wants more yet");
        for wanted in [vec![Capsule::Blocked(Counted::Data, 10)], vec![]] {
            assert_eq!(spend(&flow, 1), 0);
            assert_eq!(due(&flow), Ok(wanted));
        }
        let mut raised = std::pin::pin!(flow.raised());
        assert_eq!(flow.raise(Counted::Data, 12), Ok(()));
        assert!(raised.as_mut().now_or_never().is_some());
        assert_eq!(spend(&flow, 5), 2);
        assert_eq!(spend(&flow, 5), 0);
        assert_eq!(due(&flow), Ok(vec![Capsule::Blocked(Counted::Data, 12)]));
    }

    #[test]
    fn credit_that_is_not_spent_comes_back() {
        let flow = Flow::new(data(8), data(10), STREAM_WINDOW);
        let mut taken = flow.take(Counted::Data, 10).unwrap();
        taken.spend(4);
        assert!(flow.take(Counted::Data, 1).is_none());
        drop(taken);
        assert_eq!(due(&flow), Ok(vec![]), "there is credit again");
        assert_eq!(spend(&flow, 10), 6);
    }

    /// The gateway opens no streams by itself yet; what clients allow is kept for when it does.
    #[tokio::test]
    async fn who_opens_a_stream_waits_for_credit_of_its_kind() {
        let theirs = SessionCredit { data: 0, bidi: 1, uni: 0 };
        let flow = Flow::new(data(8), theirs, STREAM_WINDOW);
        flow.take_one(Counted::Bidi).await.spend(1);
        let mut opening = std::pin::pin!(flow.take_one(Counted::Uni));
        assert!(opening.as_mut().now_or_never().is_none());
        assert_eq!(due(&flow), Ok(vec![Capsule::Blocked(Counted::Uni, 0)]));
        flow.raise(Counted::Bidi, 5).unwrap();
        assert!(opening.as_mut().now_or_never().is_none());
        flow.raise(Counted::Uni, 1).unwrap();
        opening.await.spend(1);
    }

    #[test]
    fn limits_must_rise_and_be_possible() {
        let theirs = SessionCredit { data: 10, bidi: 10, uni: 10 };
        for (what, limit, wanted) in [
            (Counted::Data, 11, Ok(())),
            (Counted::Data, u64::MAX >> 2, Ok(())),
            (Counted::Data, 10, Err(FlowError)),
            (Counted::Bidi, 0, Err(FlowError)),
            (Counted::Bidi, MAX_STREAMS, Ok(())),
            (Counted::Uni, MAX_STREAMS + 1, Err(FlowError)),
        ] {
            let flow = Flow::new(data(1), theirs, STREAM_WINDOW);
            assert_eq!(flow.raise(what, limit), wanted, "{what:?} {limit}");
            let off = Flow::new(NONE, theirs, STREAM_WINDOW);
            assert_eq!(off.raise(what, limit), Ok(()), "{what:?} {limit}");
        }
        let flow = Flow::new(data(1), theirs, STREAM_WINDOW);
        assert_eq!(flow.blocked(Counted::Uni, MAX_STREAMS), Ok(()));
        assert_eq!(flow.blocked(Counted::Uni, MAX_STREAMS + 1), Err(FlowError));
    }

    /// Two sides that obey each other: whatever the sizes, neither breaks anything, and all is sent.
    #[derive(Debug)]
    struct Pair {
        sender: Flow,
        receiver: Flow,
        /// Sent and not read.
        held: u64,
    }

    impl Pair {
        /// Carries everything that is due over to the other side.
        fn talk(&self) {
            for (from, to) in [(&self.sender, &self.receiver), (&self.receiver, &self.sender)] {
                for capsule in due(from).unwrap() {
                    match capsule {
                        Capsule::Max(what, limit) => to.raise(what, limit).unwrap(),
                        Capsule::Blocked(what, limit) => to.blocked(what, limit).unwrap(),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn two_sides_that_obey_never_break_it_and_never_stall(
            window in 1..2000_u64,
            steps in proptest::collection::vec((1..500_u64, 1..500_u64, any::<bool>()), 1..200),
        ) {
            let mut pair = Pair {
                sender: Flow::new(data(1), data(window), 0),
                receiver: Flow::new(data(window), data(1), window),
                held: 0,
            };
            for (send, read, is_cut) in steps {
                pair.held += spend(&pair.sender, send);
                // What is forgiven for cut streams, which hold nothing any more, is on top.
                let forgiven = pair.receiver.granted.data.lost.load(Relaxed);
                prop_assert!(pair.held <= window + forgiven);
                let read = read.min(pair.held);
                if is_cut {
                    // All that is held was on one stream, and is never seen.
                    pair.receiver.cut(1);
                    pair.held = 0;
                } else {
                    pair.receiver.received(read);
                    pair.held -= read;
                }
                pair.talk();
            }
            // Whatever came before: once everything was read, there is credit.
            pair.receiver.received(pair.held);
            pair.talk();
            prop_assert!(spend(&pair.sender, 1) == 1);
        }
    }
}

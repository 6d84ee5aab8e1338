//! What a run counts and measures.
//!
//! Each worker has a tally of its own, so that workers share no cache line: its counters are atomic only
//! so that the live line can be drawn meanwhile. In the end the tallies are merged ([`Totals`]).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::{self, Display},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use http::StatusCode;

/// A number that one thread raises and others may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything that is counted. Each thing that was begun ends in one of its endings, or is still open.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: Counter,
    pub(crate) connections_failed: Counter,
    /// Sessions that the server accepted.
    pub(crate) sessions_opened: Counter,
    /// Sessions that did all they should and were closed with the server's answer.
    pub(crate) sessions_completed: Counter,
    /// Sessions that were not accepted, ended early or were not closed well.
    pub(crate) sessions_failed: Counter,
    pub(crate) streams_completed: Counter,
    pub(crate) streams_failed: Counter,
    /// Stream bytes handed to QUIC.
    pub(crate) bytes_sent: Counter,
    /// Stream bytes that came back and were right.
    pub(crate) bytes_checked: Counter,
    pub(crate) datagrams_sent: Counter,
    /// Datagrams that came back right, late ones too, each once.
    pub(crate) datagrams_returned: Counter,
    /// Datagrams that came back after their time, of those returned.
    pub(crate) datagrams_late: Counter,
    /// Datagrams that overtook nothing but were overtaken: a later one of the session was back before.
    pub(crate) datagrams_reordered: Counter,
    /// Copies of datagrams that were back already.
    pub(crate) datagrams_duplicated: Counter,
    /// Datagrams that came and were never sent, or not like this.
    pub(crate) datagrams_wrong: Counter,
    /// Datagrams that could not be sent.
    pub(crate) datagrams_unsent: Counter,
    /// Operations of a steady scenario that began after its warm-up.
    pub(crate) operations_begun: Counter,
    /// Those of them that are over and were right.
    pub(crate) operations: Counter,
    /// Payload that came back right while it was measured.
    pub(crate) operation_bytes: Counter,
    /// Operations that are over and were right, the warm-up included.
    pub(crate) finished: Counter,
    /// Payload that came back or arrived right, the warm-up included.
    pub(crate) carried: Counter,
    /// Failures of every kind.
    pub(crate) failures: Counter,
}

/// What is timed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Timed {
    /// From the first packet to the server's HTTP/3 settings.
    Handshake,
    /// From the CONNECT request to its 200.
    Session,
    /// From the opening of a stream to the server's end after the last byte back.
    Stream,
    /// From the sending of a datagram to its return; lost and late ones are not in it.
    Datagram,
    /// An operation of a steady scenario, from when it was due.
    Operation,
    /// From the opening of a stream to its first byte.
    FirstByte,
    /// From when an operation was due to when this program came to it.
    Late,
}

impl Timed {
    /// How many there are.
    const COUNT: usize = Self::Late as usize + 1;

    /// The word for reports.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Session => "session",
            Self::Stream => "stream",
            Self::Datagram => "datagram",
            Self::Operation => "operation",
            Self::FirstByte => "first byte",
            Self::Late => "late",
        }
    }
}

/// Longest time that is told apart from longer ones. No timeout of the program is longer than that in
/// practice, and it bounds a histogram's memory to some 200 KiB.
const LONGEST: Duration = Duration::from_secs(3600);

/// Times in microseconds, exact to three digits.
pub(crate) type Times = Histogram<u64>;

fn times() -> Times {
    let longest = u64::try_from(LONGEST.as_micros()).expect("an hour is a small number");
    Times::new_with_bounds(1, longest, 3).expect("the bounds are constant and in order")
}

/// Kinds of failure; [`Display`] gives the word for reports.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    /// No connection.
    Handshake,
    /// The server answered the CONNECT request with this status.
    SessionRefused(StatusCode),
    /// The server did not answer the CONNECT request.
    SessionUnanswered,
    /// The server ended the session before its work was done, or the connection broke.
    SessionCut,
    /// The server did not answer the end of the session.
    CloseUnanswered,
    /// A stream could not be opened, or its bytes no longer sent or read.
    StreamLost,
    /// The server stopped or reset a stream, with an application's code or one of the protocol.
    StreamReset(Option<u32>),
    /// The server ended a stream cleanly before the last byte: a cut that looks like an end.
    StreamShort,
    /// More came back than was sent.
    StreamLong,
    /// Other bytes came back than were sent.
    StreamWrong,
    /// No byte moved on a stream for too long.
    StreamStalled,
    /// A datagram came that was never sent, or not like this.
    DatagramWrong,
    /// Datagrams could not be sent.
    DatagramUnsent,
    /// Operations of a lane did not get on.
    Unanswered,
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "handshake-failed",
            Self::SessionRefused(status) => {
                return write!(f, "session-refused-{}", status.as_u16());
            }
            Self::SessionUnanswered => "session-unanswered",
            Self::SessionCut => "session-cut",
            Self::CloseUnanswered => "close-unanswered",
            Self::StreamLost => "stream-lost",
            Self::StreamReset(Some(code)) => return write!(f, "stream-reset-{code}"),
            Self::StreamReset(None) => "stream-reset",
            Self::StreamShort => "stream-short",
            Self::StreamLong => "stream-long",
            Self::StreamWrong => "stream-wrong",
            Self::StreamStalled => "stream-stalled",
            Self::DatagramWrong => "datagram-wrong",
            Self::DatagramUnsent => "datagram-unsent",
            Self::Unanswered => "unanswered",
        })
    }
}

/// One failure: what kind, and what it was in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) what: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }
}

/// Failures of one kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Failures {
    pub(crate) count: u64,
    /// The first one in words.
    pub(crate) first: String,
}

/// What one worker counts and measures.
#[derive(Debug)]
pub(crate) struct Tally {
    counters: Arc<Counters>,
    times: RefCell<[Times; Timed::COUNT]>,
    failures: RefCell<BTreeMap<Kind, Failures>>,
}

impl Tally {
    /// Nothing yet; `counters` are shared with who wants to look on.
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        let times = RefCell::new(std::array::from_fn(|_| times()));
        Self { counters, times, failures: RefCell::default() }
    }

    pub(crate) fn count(&self) -> &Counters {
        &self.counters
    }

    /// Records how long something took.
    pub(crate) fn took(&self, what: Timed, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.times.borrow_mut()[what as usize].saturating_record(micros);
    }

    /// Records a failure.
    pub(crate) fn failed(&self, failure: Failure) {
        self.counters.failures.inc();
        let mut failures = self.failures.borrow_mut();
        let of_kind = failures.entry(failure.kind);
        of_kind.or_insert(Failures { count: 0, first: failure.what }).count += 1;
    }
}

/// The tallies of all workers together.
#[derive(Debug)]
pub(crate) struct Totals {
    counters: Vec<Arc<Counters>>,
    times: [Times; Timed::COUNT],
    failures: BTreeMap<Kind, Failures>,
}

impl Totals {
    pub(crate) fn of(tallies: impl IntoIterator<Item = Tally>) -> Self {
        let mut totals = Self {
            counters: Vec::new(),
            times: std::array::from_fn(|_| times()),
            failures: BTreeMap::new(),
        };
        for tally in tallies {
            totals.counters.push(tally.counters);
            for (total, times) in totals.times.iter_mut().zip(tally.times.into_inner()) {
                total.add(times).expect("all histograms have the same bounds");
            }
            for (kind, failures) in tally.failures.into_inner() {
                let total = totals.failures.entry(kind);
                total.or_insert(Failures { count: 0, first: failures.first }).count +=
                    failures.count;
            }
        }
        totals
    }

    /// One number over all workers.
    pub(crate) fn sum(&self, counter: impl Fn(&Counters) -> &Counter) -> u64 {
        sum(&self.counters, counter)
    }

    pub(crate) fn times(&self, what: Timed) -> &Times {
        &self.times[what as usize]
    }

    pub(crate) fn failures(&self) -> &BTreeMap<Kind, Failures> {
        &self.failures
    }
}

/// One number over all workers, while they may still run.
pub(crate) fn sum(workers: &[Arc<Counters>], counter: impl Fn(&Counters) -> &Counter) -> u64 {
    workers.iter().map(|counters| counter(counters).get()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tallies_of_all_workers_add_up() {
        let (a, b) = (Tally::new(Arc::default()), Tally::new(Arc::default()));
        a.count().streams_completed.add(2);
        b.count().streams_completed.inc();
        a.took(Timed::Stream, Duration::from_millis(1));
        b.took(Timed::Stream, Duration::from_millis(9));
        b.took(Timed::Session, Duration::from_secs(7200));
        a.failed(Failure::new(Kind::StreamShort, "first"));
        b.failed(Failure::new(Kind::StreamShort, "second"));
        b.failed(Failure::new(Kind::SessionRefused(StatusCode::NOT_FOUND), "no route"));

        let totals = Totals::of([a, b]);

        assert_eq!(totals.sum(|c| &c.streams_completed), 3);
        assert_eq!(totals.sum(|c| &c.failures), 3);
        assert_eq!(totals.times(Timed::Stream).len(), 2);
        assert!((8_990..=9_010).contains(&totals.times(Timed::Stream).max()));
        assert_eq!(totals.times(Timed::Session).len(), 1, "too long a time is kept as the longest");
        let failures: Vec<_> = totals
            .failures()
            .iter()
            .map(|(kind, f)| (kind.to_string(), f.count, &*f.first))
            .collect();
        let expected = [
            ("session-refused-404".to_owned(), 1, "no route"),
            ("stream-short".to_owned(), 2, "first"),
        ];
        assert_eq!(failures, expected);
    }
}

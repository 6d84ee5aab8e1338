//! The sessions of a connection, and what came before them.
//!
//! Packets overtake each other, and browsers open streams before they have the answer; so a stream or
//! datagram may name a session that is still being decided on, or that nobody asked for yet. Both wait,
//! bounded in number and, as long as there is no request, in time (draft section 4.6). Their bytes wait
//! in QUIC's own windows.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    capsule::Counted,
    codes::{self, error},
    flow::Flow,
    head::Opened,
    stream::{RecvStream, SendStream},
};
use crate::metrics::Counter;

/// What takes a session's streams and datagrams: see [`crate::transport::SessionEvents`].
pub(crate) type Events = Arc<dyn crate::transport::SessionEvents<super::session::Session>>;

/// How many requests that did not become sessions are remembered, so that streams which name one of them
/// get the code that says so. Past it they get that of an ended session: only the code is less exact.
const REMEMBERED: usize = 64;

/// Bounds on what waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EarlyLimits {
    pub(crate) streams: usize,
    pub(crate) datagrams: usize,
    pub(crate) patience: Duration,
}

/// The sessions of a connection.
pub(crate) struct Registry {
    live: HashMap<u64, Live>,
    /// Requests that are not decided on, and streams that did not say yet what they are.
    undecided: HashMap<u64, Rejected>,
    /// The first bidirectional stream that the client has not opened yet.
    next_stream: u64,
    /// The last requests that did not become sessions, oldest first.
    others: VecDeque<u64>,
    limits: EarlyLimits,
    /// Counts streams of sessions to come that were reset.
    rejected: Counter,
    streams: VecDeque<Early<Opened>>,
    datagrams: VecDeque<Early<Bytes>>,
}

/// A session that was accepted.
struct Live {
    events: Events,
    flow: Arc<Flow>,
}

/// Streams of a session that were rejected because too many waited: they count in its account.
#[derive(Default)]
struct Rejected {
    bidi: u64,
    uni: u64,
}

struct Early<T> {
    session: u64,
    until: Instant,
    what: T,
}

/// What is known of a session id.
enum Standing<'a> {
    Live(&'a Live),
    /// It may still come.
    Coming,
    /// It has ended, or its stream never was a request.
    Gone,
    /// It is a request that did not become a session.
    Other,
}

/// What became of a session's datagrams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DatagramsFate {
    /// The session has them, or they wait for the session.
    Kept,
    /// So many are lost: no session, and too many waiting.
    Early(u64),
    /// All are lost: the session has ended.
    Gone,
}

impl Registry {
    pub(crate) fn new(limits: EarlyLimits, rejected: Counter) -> Self {
        Self {
            live: HashMap::new(),
            undecided: HashMap::new(),
            next_stream: 0,
            others: VecDeque::new(),
            limits,
            rejected,
            streams: VecDeque::new(),
            datagrams: VecDeque::new(),
        }
    }

    /// The client opened a bidirectional stream, which may turn out to be a session's request.
    pub(crate) fn opened(&mut self, stream: u64) {
        self.next_stream = self.next_stream.max(stream + 4);
        self.undecided.insert(stream, Rejected::default());
    }

    /// The request on the stream is done with. If it was a session, that has ended.
    pub(crate) fn answered(&mut self, stream: u64) {
        if self.undecided.remove(&stream).is_none() {
            return self.gone(stream);
        }
        if self.others.len() == REMEMBERED {
            self.others.pop_front();
        }
        self.others.push_back(stream);
        while let Some(early) = self.take_stream(stream) {
            refuse(early, error::WT_BUFFERED_STREAM_REJECTED);
        }
    }

    /// The stream carries no session, or none any more.
    pub(crate) fn gone(&mut self, stream: u64) {
        self.undecided.remove(&stream);
        self.live.remove(&stream);
        while let Some(early) = self.take_stream(stream) {
            refuse(early, error::WT_SESSION_GONE);
        }
    }

    /// The stream ended before it said what it is.
    pub(crate) fn gave_up(&mut self, stream: u64) {
        self.gone(stream);
        // The second bit of a stream's id says that it is unidirectional (RFC 9000 section 2.1).
        let kind = if stream & 2 == 0 { Counted::Bidi } else { Counted::Uni };
        for live in self.live.values() {
            live.flow.lost_head(kind);
        }
    }

    /// The session was accepted: it gets what has waited for it.
    pub(crate) fn accepted(&mut self, session: u64, events: &Events, flow: &Arc<Flow>) {
        let rejected = self.undecided.remove(&session).unwrap_or_default();
        flow.opened(Counted::Bidi, rejected.bidi);
        flow.opened(Counted::Uni, rejected.uni);
        flow.cut(rejected.bidi + rejected.uni);
        let live = Live { events: Events::clone(events), flow: Arc::clone(flow) };
        while let Some(early) = self.take_stream(session) {
            live.deliver(early);
        }
        let mut waited = Vec::new();
        self.datagrams.retain_mut(|early| {
            let is_its_own = early.session == session;
            if is_its_own {
                waited.push(std::mem::take(&mut early.what));
            }
            !is_its_own
        });
        if !waited.is_empty() {
            events.datagrams(&waited);
        }
        self.live.insert(session, live);
    }

    /// A WebTransport stream has come.
    pub(crate) fn stream(&mut self, session: u64, opened: Opened) {
        match self.standing(session) {
            Standing::Live(live) => live.deliver(opened),
            Standing::Gone => refuse(opened, error::WT_SESSION_GONE),
            Standing::Other => refuse(opened, error::WT_BUFFERED_STREAM_REJECTED),
            Standing::Coming if self.streams.len() >= self.limits.streams => {
                if let Some(rejected) = self.undecided.get_mut(&session) {
                    match opened.send {
                        Some(_) => rejected.bidi += 1,
                        None => rejected.uni += 1,
                    }
                }
                self.rejected.inc();
                refuse(opened, error::WT_BUFFERED_STREAM_REJECTED);
            }
            Standing::Coming => {
                let until = Instant::now() + self.limits.patience;
                self.streams.push_back(Early { session, until, what: opened });
            }
        }
    }

    /// Datagrams of a session have come.
    pub(crate) fn datagrams(&mut self, session: u64, payloads: &[Bytes]) -> DatagramsFate {
        match self.standing(session) {
            Standing::Live(live) => {
                live.events.datagrams(payloads);
                DatagramsFate::Kept
            }
            Standing::Gone | Standing::Other => DatagramsFate::Gone,
            Standing::Coming => {
                let room = self.limits.datagrams.saturating_sub(self.datagrams.len());
                let until = Instant::now() + self.limits.patience;
                for payload in payloads.iter().take(room) {
                    // A short payload must not keep a whole packet's buffer.
                    let what = Bytes::copy_from_slice(payload);
                    self.datagrams.push_back(Early { session, until, what });
                }
                match payloads.len().saturating_sub(room) {
                    0 => DatagramsFate::Kept,
                    lost => DatagramsFate::Early(lost as u64),
                }
            }
        }
    }

    /// When something that waits will have waited too long, if anything does.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let streams = self.streams.iter().filter(|e| !self.undecided.contains_key(&e.session));
        let datagrams = self.datagrams.iter().filter(|e| !self.undecided.contains_key(&e.session));
        streams.map(|e| e.until).chain(datagrams.map(|e| e.until)).min()
    }

    /// Lets go of what has waited too long for a session that nobody asked for. Yields how many
    /// datagrams were lost.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let undecided = &self.undecided;
        let is_over = |session: u64, until| until <= now && !undecided.contains_key(&session);
        let mut i = 0;
        while let Some(early) = self.streams.get(i) {
            if !is_over(early.session, early.until) {
                i += 1;
            } else if let Some(early) = self.streams.remove(i) {
                self.rejected.inc();
                refuse(early.what, error::WT_BUFFERED_STREAM_REJECTED);
            }
        }
        let before = self.datagrams.len();
        self.datagrams.retain(|early| !is_over(early.session, early.until));
        (before - self.datagrams.len()) as u64
    }

    /// Datagrams that wait for their session.
    pub(crate) fn waiting_datagrams(&self) -> u64 {
        self.datagrams.len() as u64
    }

    /// Bidirectional streams open now in all sessions.
    pub(crate) fn open_bidi_streams(&self) -> u64 {
        self.live.values().map(|live| live.events.open_bidi_streams()).sum()
    }

    /// Bidirectional streams that all sessions together may have open.
    pub(crate) fn max_bidi_streams(&self) -> u64 {
        let most = self.live.values().map(|live| live.events.max_bidi_streams());
        most.fold(0, u64::saturating_add)
    }

    fn standing(&self, session: u64) -> Standing<'_> {
        match self.live.get(&session) {
            Some(live) => Standing::Live(live),
            None if session >= self.next_stream || self.undecided.contains_key(&session) => {
                Standing::Coming
            }
            None if self.others.contains(&session) => Standing::Other,
            None => Standing::Gone,
        }
    }

    fn take_stream(&mut self, session: u64) -> Option<Opened> {
        let i = self.streams.iter().position(|early| early.session == session)?;
        self.streams.remove(i).map(|early| early.what)
    }
}

impl Live {
    /// Hands a stream to the session, if its client may open one.
    fn deliver(&self, opened: Opened) {
        let kind = if opened.send.is_some() { Counted::Bidi } else { Counted::Uni };
        if !self.flow.opened(kind, 1) {
            // The session's task hears of it and closes the session.
            return refuse(opened, error::WT_SESSION_GONE);
        }
        let recv = RecvStream::new(opened.recv, opened.first, Arc::clone(&self.flow));
        match opened.send {
            Some(send) => self.events.bidi(SendStream::new(send, Arc::clone(&self.flow)), recv),
            None => self.events.uni(recv),
        }
    }
}

/// Ends both halves of a stream that no session takes. Errors say that a half has ended already.
fn refuse(mut opened: Opened, code: u64) {
    _ = opened.recv.stop(codes::quic(code));
    if let Some(mut send) = opened.send {
        _ = send.reset(codes::quic(code));
    }
}

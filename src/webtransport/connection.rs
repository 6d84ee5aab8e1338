//! One QUIC connection with HTTP/3 on it: the task that everything of the client leg passes.

use std::{future::poll_fn, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use super::{
    codes::{self, error, stream},
    control::{self, Fault, SettingsSlot},
    datagram::{self, Together},
    demux::{Demux, RequestContext, RequestStream},
    dialect,
    flow::SessionCredit,
    gate::Gate,
    greeting::Greeting,
    guard::Sender,
    head::{Kind, Opened, ReadHead},
    mailbox::{Mailbox, Note},
    queue::Queue,
    registry::{DatagramsFate, EarlyLimits, Registry},
    request::{Requests, Resolved, SessionRequest},
};
use crate::{
    config,
    lifecycle::Lifecycle,
    metrics::{ListenerMetrics, Metrics, Reasons},
    reason::{Loss, Refusal},
};

/// Requests on one connection that are read and not yet decided on. Above it h3 is given no more.
const MAX_RESOLVING: usize = 64;

/// Stream credit that stays ahead of what a session uses; where there is little, half of it.
const CREDIT_HEADROOM: u64 = 32;

/// Most bidirectional streams that a connection is ever given credit for: quinn spends 86 bytes on each.
const MAX_BIDI_CREDIT: u64 = 65_536;

/// How long the kill may take: every session tells its client, and waits a second for the answer.
const KILL_PATIENCE: Duration = Duration::from_secs(3);

/// What the connections of a listener are served with.
#[derive(Clone, Debug)]
pub struct Service {
    /// Most bytes of a request's header section.
    pub header_bytes: u64,
    /// Streams that wait for sessions, per connection.
    pub early_streams: usize,
    /// Datagrams that wait for sessions, per connection.
    pub early_datagrams: usize,
    /// Deadlines of the client leg.
    pub timeouts: config::Timeouts,
    /// Bidirectional streams that the client may open at first.
    pub initial_bidi_streams: u64,
    /// Streams of each kind that are taken from the client.
    pub stream_rate: config::Rate,
    /// What session flow control lets the client do in each session.
    pub session_credit: SessionCredit,
    /// Bytes that the client may have in flight on a stream.
    pub stream_window: u64,
    /// The listener's address.
    pub local: SocketAddr,
    /// The stages of the process.
    pub lifecycle: Lifecycle,
    /// Where refusals are counted that no route is to blame for.
    pub metrics: Metrics,
    /// Where datagrams are counted that were lost before they had a route.
    pub lost: Reasons<Loss>,
    /// The listener's numbers.
    pub listener: ListenerMetrics,
}

/// Says the gateway's SETTINGS on a connection whose handshake may still go on. [`serve`] says what the client
/// has given no credit for yet.
///
/// A client that has them with the server's part of the handshake can ask for its session with its own part of it,
/// a round trip earlier. They are no secret, and nothing of the client's is read yet.
pub fn greet(quic: &quinn::Connection, service: &Service) -> Greeting {
    let head = dialect::control_stream_head(service.header_bytes, service.session_credit);
    let mut greeting = Greeting::new(quic.clone(), head);
    greeting.begin();
    greeting
}

/// Serves a connection until it ends, once its handshake is done and the client has been greeted. Session
/// requests go to `on_request`, which must not block.
pub async fn serve(
    quic: quinn::Connection,
    greeting: Greeting,
    service: Arc<Service>,
    on_request: impl Fn(SessionRequest) + Send,
) {
    let mailbox = Arc::new(Mailbox::default());
    let settings = SettingsSlot::default();
    let requests = Queue::new(MAX_RESOLVING);
    let context = RequestContext {
        quic: quic.clone(),
        notes: Arc::default(),
        mailbox: Arc::clone(&mailbox),
        max_section_bytes: service.header_bytes,
        sender: Sender::Client,
    };
    let demux = Demux::new(context.clone(), requests.clone(), greeting);
    // Boxed: it takes most of a connection's memory, and only for a moment.
    let Some(mut h3) = Box::pin(begin(demux, &quic, &service)).await else { return };

    let now = Instant::now();
    let mut connection = Connection {
        requests_of: Requests {
            quic,
            notes: Arc::clone(&context.notes),
            mailbox,
            settings: Arc::clone(&settings),
            patience: service.timeouts.request,
            local: service.local,
            session_credit: service.session_credit,
            stream_window: service.stream_window,
        },
        registry: Registry::new(
            EarlyLimits {
                streams: service.early_streams,
                datagrams: service.early_datagrams,
                patience: service.timeouts.early,
            },
            service.listener.early_streams_rejected.clone(),
        ),
        datagrams_read: 0,
        bidi_credit: service.initial_bidi_streams,
        seen: Seen::default(),
        bidi_gate: Gate::default(),
        uni_gate: Gate::default(),
        settings,
        heads: FuturesUnordered::new(),
        critical: FuturesUnordered::new(),
        resolving: FuturesUnordered::new(),
        open_requests: 0,
        had_session: false,
        idle_until: Some(now + service.timeouts.idle_connection),
        dead_at: None,
        requests,
        context,
        service,
    };
    connection.run(&mut h3, on_request).await;
    connection.count_overflow();
    connection.count_waiting();
}

/// Begins HTTP/3: opens the control stream and says the settings on it, as far as that is not done.
///
/// A client has to give credit for that from the start (RFC 9114 section 6.2). One that does not is given
/// up in time, and at once where the gateway drains: there can be no session to wait for.
async fn begin(
    demux: Demux,
    quic: &quinn::Connection,
    service: &Service,
) -> Option<h3::server::Connection<Demux, Bytes>> {
    let mut builder = h3::server::builder();
    builder.send_grease(false).max_field_section_size(service.header_bytes);
    let (code, reason) = tokio::select! {
        biased;
        // An error means that the connection is gone already.
        built = builder.build(demux) => return built.ok(),
        () = service.lifecycle.draining() => (error::H3_NO_ERROR, ""),
        () = sleep(service.timeouts.request) => {
            (error::H3_GENERAL_PROTOCOL_ERROR, "no credit for the control stream")
        }
    };
    debug!(client = %quic.remote_address(), "Connection closed: it takes no settings.");
    quic.close(codes::quic(code), reason.as_bytes());
    None
}

/// The state of a connection's task.
struct Connection {
    service: Arc<Service>,
    context: RequestContext,
    requests_of: Requests,
    /// To h3.
    requests: Queue<RequestStream>,
    registry: Registry,
    datagrams_read: u64,
    bidi_credit: u64,
    seen: Seen,
    /// One for each kind, so that no flood of requests holds up a control stream.
    bidi_gate: Gate,
    uni_gate: Gate,
    settings: SettingsSlot,
    heads: FuturesUnordered<ReadHead>,
    critical: FuturesUnordered<Boxed<Fault>>,
    resolving: FuturesUnordered<Boxed<Resolved>>,
    /// Request streams that are not done with, sessions among them.
    open_requests: usize,
    had_session: bool,
    /// When the connection is closed, unless a request comes; `None` while there is one.
    idle_until: Option<Instant>,
    /// When the connection is closed whatever there is: the process is being stopped.
    dead_at: Option<Instant>,
}

type Boxed<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

/// Which critical streams the client has opened: each may come once.
#[derive(Debug, Default)]
struct Seen {
    control: bool,
    encoder: bool,
    decoder: bool,
}

impl Connection {
    /// The loop. Every branch is cancel-safe: what a branch takes is dealt with before the next turn.
    async fn run(
        &mut self,
        h3: &mut h3::server::Connection<Demux, Bytes>,
        on_request: impl Fn(SessionRequest) + Send,
    ) {
        let lifecycle = self.service.lifecycle.clone();
        let (quic, mailbox) = (self.context.quic.clone(), Arc::clone(&self.context.mailbox));
        let mut accept_bi = pin!(quic.accept_bi());
        let mut accept_uni = pin!(quic.accept_uni());
        let mut read_datagram = pin!(quic.read_datagram());
        let mut draining = pin!(lifecycle.draining().fuse());
        let mut killed = pin!(lifecycle.killed().fuse());
        let mut armed = self.next_alarm();
        let mut alarm = pin!(sleep_until(armed.unwrap_or_else(Instant::now)));

        loop {
            tokio::select! {
                opened = &mut accept_bi, if self.bidi_gate.is_open() => {
                    accept_bi.set(quic.accept_bi());
                    let Ok((send, recv)) = opened else { return };
                    self.passed(|connection| &mut connection.bidi_gate);
                    self.registry.opened(recv.id().into());
                    self.read_head(Some(send), recv);
                }
                opened = &mut accept_uni, if self.uni_gate.is_open() => {
                    accept_uni.set(quic.accept_uni());
                    let Ok(recv) = opened else { return };
                    self.passed(|connection| &mut connection.uni_gate);
                    self.read_head(None, recv);
                }
                datagram = &mut read_datagram => {
                    read_datagram.set(quic.read_datagram());
                    let Ok(datagram) = datagram else { return };
                    self.datagrams(datagram);
                }
                Some(head) = self.heads.next() => self.head(head),
                // Made anew each time it is polled, which its wait for a request allows: kept, it takes 768 bytes.
                accepted = poll_fn(|cx| pin!(h3.accept()).poll(cx)), if self.resolving.len() < MAX_RESOLVING => {
                    // An error or `None`: h3 has closed the connection, or the client wants no more.
                    let Ok(Some(resolver)) = accepted else { return };
                    self.resolving.push(Box::pin(self.requests_of.clone().resolve(resolver)));
                }
                Some(resolved) = self.resolving.next() => match resolved {
                    Resolved::Session(request) => on_request(request),
                    Resolved::Refused(why) => self.refused(why),
                    Resolved::Answered => {}
                },
                notes = mailbox.take() => notes.into_iter().for_each(|note| self.note(note)),
                Some(fault) = self.critical.next() => {
                    return self.close(fault.0, b"bad control or QPACK stream");
                }
                () = &mut draining => self.idle_from_now(),
                () = &mut killed => self.dead_at = Some(Instant::now() + KILL_PATIENCE),
                () = &mut alarm, if armed.is_some() => {
                    let now = Instant::now();
                    self.bidi_gate.tell_time(now);
                    self.uni_gate.tell_time(now);
                    self.service.lost.add(Loss::Early, self.registry.expire(now));
                    if [self.idle_until, self.dead_at].into_iter().flatten().any(|at| at <= now) {
                        return self.close(error::H3_NO_ERROR, b"");
                    }
                }
            }
            let next = self.next_alarm();
            if next != armed {
                armed = next;
                alarm.as_mut().reset(armed.unwrap_or_else(Instant::now));
            }
        }
    }

    /// Holds the streams of a kind to their rate.
    fn passed(&mut self, gate: impl FnOnce(&mut Self) -> &mut Gate) {
        let rate = self.service.stream_rate;
        if gate(self).passed(rate, Instant::now()) {
            self.service.listener.stream_pauses.inc();
        }
    }

    /// Reads what a stream is: mostly that came with it.
    fn read_head(&mut self, send: Option<quinn::SendStream>, recv: quinn::RecvStream) {
        let mut head = ReadHead::new(send, recv, self.service.timeouts.request);
        match (&mut head).now_or_never() {
            Some(read) => self.head(read),
            None => self.heads.push(head),
        }
    }

    /// Hands a stream to whom it belongs.
    fn head(&mut self, read: Result<Opened, u64>) {
        let opened = match read {
            Ok(opened) => opened,
            Err(stream) => return self.registry.gave_up(stream),
        };
        match opened.kind {
            Kind::WebTransport(session) => self.webtransport_stream(session, opened),
            Kind::Request => self.request(opened),
            Kind::Uni(kind) => self.uni(kind, opened),
        }
    }

    fn webtransport_stream(&mut self, session: u64, opened: Opened) {
        // A session's id is that of a client-initiated bidirectional stream (draft section 4).
        if !session.is_multiple_of(4) {
            return self.close(error::H3_ID_ERROR, b"no session can have this id");
        }
        if opened.send.is_some() {
            self.registry.gone(opened.recv.id().into());
        }
        self.registry.stream(session, opened);
        self.raise_credit();
    }

    fn request(&mut self, opened: Opened) {
        let Some(send) = opened.send else { return };
        let stream = RequestStream::new(self.context.clone(), send, opened.recv, opened.first);
        self.open_requests += 1;
        self.idle_until = None;
        // Full: h3 has as many as it may hold. Dropping the stream rejects it.
        _ = self.requests.push(stream);
    }

    fn uni(&mut self, kind: u64, mut opened: Opened) {
        let seen = match kind {
            stream::CONTROL => &mut self.seen.control,
            stream::QPACK_ENCODER => &mut self.seen.encoder,
            stream::QPACK_DECODER => &mut self.seen.decoder,
            stream::PUSH => {
                return self.close(error::H3_STREAM_CREATION_ERROR, b"a client cannot push");
            }
            _ => {
                // Unknown types are not for us to understand (RFC 9114 section 6.2). An error says that
                // the stream has ended already.
                _ = opened.recv.stop(codes::quic(error::H3_STREAM_CREATION_ERROR));
                return;
            }
        };
        if std::mem::replace(seen, true) {
            return self.close(error::H3_STREAM_CREATION_ERROR, b"a second critical stream");
        }
        let settings = Arc::clone(&self.settings);
        let read = control::read_critical(kind, opened.recv, opened.first, settings);
        self.critical.push(read);
    }

    /// Deals with a datagram and with what has come behind it by now.
    fn datagrams(&mut self, first: Bytes) {
        let (quic, mut together) = (self.context.quic.clone(), Together::begin());
        let mut next = Some(first);
        while let Some(datagram) = next {
            self.datagrams_read += 1;
            let Some((session, payload)) = datagram::parse(datagram) else {
                self.pass(&mut together);
                return self.close(error::H3_DATAGRAM_ERROR, b"bad datagram");
            };
            if !together.is_of(session) {
                self.pass(&mut together);
            }
            // The rest is for the next turn of the loop: one client must not have the thread for ever.
            next = if together.push(session, payload) {
                // Whether the connection is gone shows there too.
                quic.read_datagram().now_or_never().and_then(Result::ok)
            } else {
                None
            };
        }
        self.pass(&mut together);
    }

    /// Hands over the datagrams that came together, and has none left.
    fn pass(&mut self, together: &mut Together) {
        let (session, payloads) = together.get();
        if payloads.is_empty() {
            return;
        }
        match self.registry.datagrams(session, payloads) {
            DatagramsFate::Kept => {}
            DatagramsFate::Early(lost) => self.service.lost.add(Loss::Early, lost),
            DatagramsFate::Gone => self.service.lost.add(Loss::SessionEnded, payloads.len() as u64),
        }
        together.clear();
    }

    /// Counts the datagrams that quinn had no room for: it loses the oldest without a word, but counts
    /// all that came.
    fn count_overflow(&self) {
        let came = self.context.quic.stats().frame_rx.datagram;
        self.service.lost.add(Loss::ReceiveOverflow, came.saturating_sub(self.datagrams_read));
    }

    /// Counts the datagrams that still wait for a session, which will not come any more.
    fn count_waiting(&self) {
        self.service.lost.add(Loss::Early, self.registry.waiting_datagrams());
    }

    fn refused(&self, why: Refusal) {
        debug!(client = %self.context.quic.remote_address(), reason = %why, "Request refused.");
        self.service.metrics.refused_without_route(why);
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Accepted(session, events, flow) => {
                self.had_session = true;
                self.registry.accepted(session, &events, &flow);
                self.raise_credit();
            }
            Note::Ended(session) => self.registry.gone(session),
            Note::Done(stream) => {
                self.registry.answered(stream);
                self.open_requests -= 1;
                self.idle_from_now();
            }
        }
    }

    /// Sets when the connection is closed if it stays without a request.
    ///
    /// A client whose last session has ended may never close the connection (Chromium does not), but
    /// needs a moment to read how the session ended.
    fn idle_from_now(&mut self) {
        if self.open_requests > 0 {
            return;
        }
        let timeouts = &self.service.timeouts;
        let patience = match (self.had_session, self.service.lifecycle.is_draining()) {
            (true, _) => timeouts.linger,
            (false, true) => Duration::ZERO,
            (false, false) => timeouts.idle_connection,
        };
        self.idle_until = Some(Instant::now() + patience);
    }

    /// Keeps the client's stream credit ahead of what its sessions use, up to what they may.
    fn raise_credit(&mut self) {
        let used = self.registry.open_bidi_streams() + self.open_requests as u64;
        // Each session's own request stream, and room for ordinary requests, come on top.
        let most = self.registry.max_bidi_streams().saturating_add(CREDIT_HEADROOM);
        let most = most.min(MAX_BIDI_CREDIT);
        let mut credit = self.bidi_credit;
        while credit < most && used + CREDIT_HEADROOM.min(credit / 2) >= credit {
            credit = (credit * 2).min(most);
        }
        if credit > self.bidi_credit {
            self.bidi_credit = credit;
            let credit = u32::try_from(credit).unwrap_or(u32::MAX);
            self.context.quic.set_max_concurrent_bi_streams(credit.into());
        }
    }

    /// When there is something to do though nothing comes.
    fn next_alarm(&self) -> Option<Instant> {
        let gates = [self.bidi_gate.shut_until(), self.uni_gate.shut_until()];
        let others = [self.registry.next_expiry(), self.idle_until, self.dead_at];
        gates.into_iter().chain(others).flatten().min()
    }

    /// Closes the connection. The loop ends at its next turn, when nothing more can be accepted.
    fn close(&self, code: u64, reason: &[u8]) {
        if code != error::H3_NO_ERROR {
            let client = self.context.quic.remote_address();
            debug!(%client, code = format_args!("{code:#x}"), "Connection closed: rule broken.");
        }
        self.context.quic.close(codes::quic(code), reason);
    }
}

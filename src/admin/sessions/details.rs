//! `/api/sessions/ID`: all that is known of one session.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::Summary;
use crate::{
    backend::{ConnectionState, UdpState},
    bridge::{Account, Accounts, FlowState, QueueState, StreamState, Totals},
    reason::Ending,
    session::registry::LiveSession,
    transport::LegState,
};

/// Streams of one session that are shown: some 150 KB, and a question to the kernel for each.
const MOST_STREAMS: usize = 256;

/// The body of `GET /api/sessions/ID`.
#[derive(Serialize)]
pub(super) struct Details {
    #[serde(flatten)]
    summary: Summary,
    /// Why it ends, if it does so just now.
    ending: Option<&'static str>,
    local: Option<String>,
    server_name: Option<String>,
    bidi_streams_open: u64,
    uni_streams_open: u64,
    up: Direction,
    down: Direction,
    datagram_queue: Queue,
    client_leg: Leg,
    open_streams: OpenStreams,
    /// The socket to the backend that carries datagrams, if there is one.
    backend_udp: Option<Udp>,
}

impl Details {
    pub(super) fn of(session: &LiveSession) -> Self {
        let (head, totals) = (&session.client().head, session.totals());
        let tls = head.tls.as_ref();
        let mut down = Direction::of(&totals.down);
        // No stream has ended for it.
        down.stream_bytes.note_loss("discarded", totals.discarded_bytes.get());
        Self {
            summary: Summary::of(session, usize::MAX),
            ending: session.ending().map(Ending::word),
            local: head.local.map(|local| local.to_string()),
            server_name: tls.and_then(|tls| tls.server_name.clone()),
            bidi_streams_open: session.open_bidi_streams(),
            uni_streams_open: session.open_uni_streams(),
            up: Direction::of(&totals.up),
            down,
            datagram_queue: Queue::of(&session.datagram_queue()),
            client_leg: Leg::of(&session.client_leg()),
            open_streams: OpenStreams::of(session),
            backend_udp: session.udp().map(|state| Udp::of(state, totals)),
        }
    }
}

fn millis(time: Duration) -> f64 {
    let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    f64::from(micros) / 1000.0
}

/// How the way to the client does.
#[derive(Serialize)]
struct Leg {
    client: Option<String>,
    rtt_ms: f64,
    min_rtt_ms: f64,
    congestion_window: u64,
    congestion_events: u64,
    mtu: u16,
    packets_sent: u64,
    packets_lost: u64,
    bytes_lost: u64,
    bytes_sent: u64,
    bytes_received: u64,
    datagram_room: u64,
}

impl Leg {
    fn of(state: &LegState) -> Self {
        Self {
            client: state.client.map(|client| client.to_string()),
            rtt_ms: millis(state.rtt),
            min_rtt_ms: millis(state.min_rtt),
            congestion_window: state.congestion_window,
            congestion_events: state.congestion_events,
            mtu: state.mtu,
            packets_sent: state.packets_sent,
            packets_lost: state.packets_lost,
            bytes_lost: state.bytes_lost,
            bytes_sent: state.bytes_sent,
            bytes_received: state.bytes_received,
            datagram_room: state.datagram_room,
        }
    }
}

/// The streams that are open, the gateway's own too: how many, and the oldest of them.
#[derive(Serialize)]
struct OpenStreams {
    count: usize,
    oldest: Vec<Stream>,
}

impl OpenStreams {
    fn of(session: &LiveSession) -> Self {
        let (count, oldest) = session.open_streams(MOST_STREAMS);
        Self { count, oldest: oldest.into_iter().map(Stream::of).collect() }
    }
}

/// One stream and its connection.
#[derive(Serialize)]
struct Stream {
    /// It is the session's so many-eth stream.
    number: u64,
    kind: &'static str,
    opened_by: &'static str,
    age_seconds: u64,
    bytes_up: u64,
    bytes_down: u64,
    held_up: u64,
    held_down: u64,
    up_is_over: bool,
    down_is_over: bool,
    /// Null while it is dialled.
    backend: Option<Connection>,
}

impl Stream {
    fn of(state: StreamState) -> Self {
        let StreamState { number, kind, opened_by, age, up, down, backend } = state;
        let FlowState { delivered: bytes_up, held: held_up, is_over: up_is_over } = up;
        let FlowState { delivered: bytes_down, held: held_down, is_over: down_is_over } = down;
        let (age_seconds, backend) = (age.as_secs(), backend.map(Connection::of));
        Self {
            number,
            kind,
            opened_by,
            age_seconds,
            bytes_up,
            bytes_down,
            held_up,
            held_down,
            up_is_over,
            down_is_over,
            backend,
        }
    }
}

/// A connection to the backend.
#[derive(Serialize)]
struct Connection {
    local: Option<String>,
    peer: Option<String>,
    /// Null where it is not TCP, or the kernel does not say.
    tcp: Option<Tcp>,
}

impl Connection {
    fn of(state: ConnectionState) -> Self {
        let ConnectionState { local, peer, tcp } = state;
        let tcp = tcp.map(|tcp| Tcp {
            state: tcp.state,
            rtt_ms: millis(tcp.rtt),
            rtt_variance_ms: millis(tcp.rtt_variance),
            retransmits: tcp.retransmits,
            unacked: tcp.unacked,
            congestion_window: tcp.congestion_window,
        });
        Self { local, peer, tcp }
    }
}

/// How TCP does. Whatever is not a time is in segments.
#[derive(Serialize)]
struct Tcp {
    state: &'static str,
    rtt_ms: f64,
    rtt_variance_ms: f64,
    retransmits: u32,
    unacked: u32,
    congestion_window: u32,
}

/// The socket that carries datagrams.
#[derive(Serialize)]
struct Udp {
    local: Option<String>,
    peer: Option<String>,
    datagrams_sent: u64,
    datagrams_received: u64,
    refused: u64,
}

impl Udp {
    fn of(UdpState { local, peer, refused }: UdpState, totals: &Totals) -> Self {
        Self {
            local: local.map(|local| local.to_string()),
            peer: peer.map(|peer| peer.to_string()),
            datagrams_sent: totals.up.datagrams.delivered.get(),
            datagrams_received: totals.down.datagrams.taken.get(),
            refused,
        }
    }
}

/// The datagrams that wait for the client's transport.
#[derive(Serialize)]
struct Queue {
    datagrams: u64,
    bytes: u64,
    capacity_bytes: u64,
    /// For how long the first in line has waited; null if there is none.
    first_waits_ms: Option<f64>,
}

impl Queue {
    fn of(state: &QueueState) -> Self {
        let QueueState { datagrams, bytes, capacity, first_waits } = *state;
        Self {
            datagrams,
            bytes,
            capacity_bytes: capacity.0,
            first_waits_ms: first_waits.map(millis),
        }
    }
}

/// What went one way.
#[derive(Serialize)]
struct Direction {
    stream_bytes: Sum,
    datagrams: Sum,
    datagram_bytes: Carried,
}

impl Direction {
    fn of(accounts: &Accounts) -> Self {
        let Accounts { stream_bytes, datagrams, datagram_bytes, .. } = accounts;
        let bytes = accounts.stream_losses.iter().map(|(why, lost)| (why.word(), lost));
        let messages = accounts.datagram_losses.iter().map(|(why, lost)| (why.word(), lost));
        Self {
            stream_bytes: Sum::of(stream_bytes, bytes),
            datagrams: Sum::of(datagrams, messages),
            datagram_bytes: Carried::of(datagram_bytes),
        }
    }
}

/// What became of it, and why it was lost. What is taken of a stream is booked when the stream ends.
#[derive(Serialize)]
struct Sum {
    #[serde(flatten)]
    carried: Carried,
    lost_by_reason: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn of(account: &Account, losses: impl Iterator<Item = (&'static str, u64)>) -> Self {
        Self { carried: Carried::of(account), lost_by_reason: losses.collect() }
    }

    fn note_loss(&mut self, why: &'static str, lost: u64) {
        if lost > 0 {
            self.lost_by_reason.insert(why, lost);
        }
    }
}

/// What became of it.
#[derive(Serialize)]
struct Carried {
    delivered: u64,
    lost: u64,
}

impl Carried {
    fn of(account: &Account) -> Self {
        Self { delivered: account.delivered.get(), lost: account.lost.get() }
    }
}

//! Bridges: a client's streams and datagrams on one side, a backend's sockets on the other.
//!
//! [`stream`] carries bytes both ways with every ending, [`datagram`] messages both ways with every
//! loss. They hide sockets, buffers and the order of things at an end. In goes a [`Context`], which all
//! bridges of a session share; what they did is in its [`Totals`] and in the route's metrics.
//!
//! What always holds: a bridge ends by itself at once when its session ends; a transfer that was cut is
//! reset on the other side, never finished; an idle bridge holds no buffer; a bridge that panics ends its
//! own session and nothing else; and what was taken from one leg was delivered to the other or is counted
//! as lost (`ledger`).

pub mod datagram;
mod ledger;
pub mod stream;

use std::{
    cell::RefCell,
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};
use tracing::error;
use ulid::Ulid;

use self::{
    datagram::Level,
    ledger::{Imbalance, Sum},
    stream::OpenStreams,
};
pub use self::{
    datagram::QueueState,
    ledger::{Account, Accounts, Losses, Total, Totals},
    stream::{FlowState, StreamState},
};
use crate::{
    backend::{BackendConnection, ClientInfo, DialError, Pin, UdpConnection, UdpState},
    config,
    lifecycle::Lifecycle,
    limit::Meter,
    metrics::RouteMetrics,
    reason::{Ending, Loss, StreamEnd},
    route::Route,
};

/// What all bridges of one session share.
#[derive(Debug)]
pub struct Context {
    client: ClientInfo,
    route: Arc<Route>,
    pin: Pin,
    lifecycle: Lifecycle,
    totals: Totals,
    datagram_queue: Level,
    streams: OpenStreams,
    udp: OnceLock<Weak<UdpConnection>>,
    rates: Rates,
    open_bidi: AtomicU64,
    open_uni: AtomicU64,
    ending: OnceLock<(Ending, Option<Farewell>)>,
    ended: CancellationToken,
    bridges: TaskTracker,
}

/// What an operator has a client told of its session's end, in place of the reason's code and word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Farewell {
    /// The application's code.
    pub code: u32,
    /// The application's reason: at most 1,024 bytes of it are told.
    pub text: String,
}

impl Context {
    /// A session that has just begun.
    pub fn new(route: Arc<Route>, pin: Pin, client: ClientInfo, lifecycle: Lifecycle) -> Self {
        Self {
            rates: Rates::new(&route.settings),
            client,
            route,
            pin,
            lifecycle,
            totals: Totals::default(),
            datagram_queue: Level::default(),
            streams: OpenStreams::default(),
            udp: OnceLock::new(),
            open_bidi: AtomicU64::new(0),
            open_uni: AtomicU64::new(0),
            ending: OnceLock::new(),
            ended: CancellationToken::new(),
            bridges: TaskTracker::new(),
        }
    }

    /// The session's id, for logs.
    pub fn id(&self) -> Ulid {
        self.client.session_id
    }

    /// Who the client is.
    pub fn client(&self) -> &ClientInfo {
        &self.client
    }

    /// The session's route.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Where the session goes.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// What was carried so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// How the queue of datagrams to the client stands.
    pub fn datagram_queue(&self) -> QueueState {
        self.datagram_queue.state(self.route.settings.datagram_queue)
    }

    /// How many streams are open, the gateway's own too, and how the oldest of them stand, `most` at most.
    pub fn open_streams(&self, most: usize) -> (usize, Vec<StreamState>) {
        self.streams.states(most)
    }

    /// How the socket for datagrams stands. `None`: there is none.
    pub fn udp(&self) -> Option<UdpState> {
        Some(self.udp.get()?.upgrade()?.state())
    }

    /// Client bidirectional streams that are bridged now.
    pub fn open_bidi_streams(&self) -> u64 {
        self.open_bidi.load(Ordering::Relaxed)
    }

    /// Client unidirectional streams that are bridged now.
    pub fn open_uni_streams(&self) -> u64 {
        self.open_uni.load(Ordering::Relaxed)
    }

    /// Ends every bridge of the session. The first reason stays.
    pub fn end(&self, why: Ending) {
        self.end_with(why, None);
    }

    /// The same, with words of one's own for the client. Yields whether this is why the session ends.
    pub fn end_with(&self, why: Ending, farewell: Option<Farewell>) -> bool {
        let is_first = self.ending.set((why, farewell)).is_ok();
        self.ended.cancel();
        is_first
    }

    /// Why the session ended, once it has.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get().map(|(why, _)| *why)
    }

    /// Code and text with which the client is told of this ending.
    pub fn farewell(&self, why: Ending) -> (u32, &str) {
        match self.ending.get() {
            Some((first, Some(Farewell { code, text }))) if *first == why => (*code, text),
            _ => (why.code(), why.word()),
        }
    }

    /// Resolves when the session has ended.
    pub fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.ended.cancelled()
    }

    /// Resolves when every bridge is gone. To be awaited after [`Self::end`].
    pub async fn bridges_gone(&self) {
        self.bridges.close();
        self.bridges.wait().await;
    }

    /// Connects to the backend.
    pub(crate) async fn dial(&self) -> Result<BackendConnection, DialError> {
        self.pin.dial(&self.client).await
    }

    fn metrics(&self) -> &RouteMetrics {
        &self.route.metrics
    }

    fn stream_up(&self, bytes: u64) {
        self.metrics().up.stream_bytes.inc_by(bytes);
        self.totals.up.stream_bytes.delivered.add(bytes);
    }

    fn stream_down(&self, bytes: u64) {
        self.metrics().down.stream_bytes.inc_by(bytes);
        self.totals.down.stream_bytes.delivered.add(bytes);
    }

    fn discarded(&self, bytes: u64) {
        self.metrics().discarded_bytes.inc_by(bytes);
        self.totals.down.stream_bytes.taken.add(bytes);
        self.totals.down.stream_bytes.lost.add(bytes);
        self.totals.discarded_bytes.add(bytes);
    }

    fn datagrams_up(&self, datagrams: Sum) {
        self.totals.up.pass_datagrams(datagrams, &self.metrics().up);
    }

    fn datagram_down(&self, bytes: u64) {
        self.totals.down.pass_datagrams(Sum::one(bytes), &self.metrics().down);
    }

    /// Decides on so many of the client's datagrams: the first that may pass, as a number.
    fn keep_rate_up(&self, datagrams: usize) -> usize {
        keep_rate(self.rates.datagrams_up.as_deref(), datagrams)
    }

    /// Decides on one of the backend's datagrams.
    fn keep_rate_down(&self) -> Result<(), Loss> {
        match keep_rate(self.rates.datagrams_down.as_deref(), 1) {
            0 => Err(Loss::RateLimited),
            _ => Ok(()),
        }
    }

    fn lost_up(&self, datagrams: Sum, why: Loss) {
        self.totals.up.lose_datagrams(datagrams, why, &self.metrics().up);
    }

    fn lost_down(&self, bytes: u64, why: Loss) {
        self.totals.down.lose_datagrams(Sum::one(bytes), why, &self.metrics().down);
    }

    fn stream_ended(&self, why: StreamEnd) {
        self.metrics().stream_ends.inc(why);
    }
}

/// What the session may carry in a time, where its route sets a limit. Boxed, since most set none.
#[derive(Debug)]
struct Rates {
    bytes_up: Option<Box<Meter>>,
    bytes_down: Option<Box<Meter>>,
    datagrams_up: Option<Box<Meter>>,
    datagrams_down: Option<Box<Meter>>,
}

impl Rates {
    fn new(route: &config::Route) -> Self {
        let events = |rate| Meter::of_events(rate).map(Box::new);
        let bytes = |rate| Meter::of_bytes(rate).map(Box::new);
        Self {
            bytes_up: bytes(route.byte_rate_up),
            bytes_down: bytes(route.byte_rate_down),
            datagrams_up: events(route.datagram_rate_up),
            datagrams_down: events(route.datagram_rate_down),
        }
    }
}

/// How many of so many datagrams are not more than the rate.
fn keep_rate(meter: Option<&Meter>, datagrams: usize) -> usize {
    match meter {
        Some(meter) => {
            let allowed = meter.take(1, datagrams as u64, Instant::now());
            usize::try_from(allowed).unwrap_or(datagrams)
        }
        None => datagrams,
    }
}

/// With the last bridge the session's books are closed, and have to balance.
impl Drop for Context {
    fn drop(&mut self) {
        let Imbalance { bytes, datagrams } = self.totals.imbalance();
        if bytes == 0 && datagrams == 0 {
            return;
        }
        let metrics = self.metrics();
        metrics.imbalance_bytes.inc_by(bytes);
        metrics.imbalance_datagrams.inc_by(datagrams);
        let (session_id, totals) = (self.id(), &self.totals);
        error!(%session_id, bytes, datagrams, ?totals, "The books of a session do not balance.");
    }
}

/// Runs a bridge. If it panics, its session ends as [`Ending::Internal`] and `None` comes back.
///
/// A combinator and no `async` block, which would hold the bridge's future twice.
fn contain<T>(
    context: Arc<Context>,
    bridge: impl Future<Output = T>,
) -> impl Future<Output = Option<T>> {
    let running = context.bridges.token();
    // What the bridge held is dropped in the panic, and dropping resets it.
    AssertUnwindSafe(bridge).catch_unwind().map(move |ended| {
        if ended.is_err() {
            // The panic hook has printed the message.
            error!(session_id = %context.id(), "A bridge panicked, so its session ends.");
            context.end(Ending::Internal);
        }
        drop(running);
        ended.ok()
    })
}

/// As much as one read takes; larger reads gain nothing that was measurable. In packets of 1,452 bytes it is just
/// less than what the kernel takes in one send (UDP GSO: 65,507 bytes), so that it needs no second one.
const SCRATCH_BYTES: usize = 60 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// Lends this thread's buffer for one read of TCP. What was read is copied out once, to its exact size, so
/// that a waiting bridge holds no buffer.
fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|buffer| read(buffer))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        backend::{
            Backends,
            tests::{NOBODY, client, no_resolver},
        },
        config::Config,
        metrics::Metrics,
        route::RouteTable,
    };

    const ROUTE: &str = r#"version = 1
[[listener]]
quic = ["127.0.0.1:0"]
self_signed = ["localhost"]
[[route]]
name = "game"
path = "/game"
origins = "any"
backend = "game"
datagram_queue = "2KiB"
datagram_latest_per_key = { offset = 1, bytes = 2 }
[backend.game]
endpoints = [{ tcp = "127.0.0.1:9" }]
"#;

    /// A session on a route whose datagrams have keys.
    pub(crate) fn context(metrics: &Metrics) -> Context {
        let config = Config::parse(ROUTE, "test.toml", Path::new(".")).unwrap();
        let routes = RouteTable::new(&config.routes, metrics);
        let backend = Arc::clone(
            Backends::new(&config.backends, metrics, &no_resolver(), None).get("game").unwrap(),
        );
        let route = Arc::clone(&routes.routes()[0]);
        let client = ClientInfo { session_id: Ulid::generate(), ..client() };
        Context::new(route, backend.pick(&NOBODY).unwrap(), client, Lifecycle::new())
    }

    /// Every test of a gateway asks whether the books balance. This one shows that the answer can be no.
    #[test]
    fn what_is_taken_and_never_booked_again_shows_in_the_metrics() {
        let metrics = Metrics::new();
        let balanced = context(&metrics);
        balanced.totals.up.take_datagrams(Sum::one(5));
        balanced.datagrams_up(Sum::one(5));
        drop(balanced);
        let route = metrics.route("game");
        assert_eq!((route.imbalance_bytes.get(), route.imbalance_datagrams.get()), (0, 0));

        let forgetful = context(&metrics);
        forgetful.totals.up.take_datagrams(Sum::one(5));
        forgetful.stream_down(7);
        drop(forgetful);
        assert_eq!((route.imbalance_bytes.get(), route.imbalance_datagrams.get()), (5 + 7, 1));
    }
}

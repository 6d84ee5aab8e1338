//! Bridges: a client's streams and datagrams on one side, a backend's sockets on the other.
//!
//! [`stream`] carries bytes both ways with every ending, [`datagram`] messages both ways with every
//! loss. They hide sockets, buffers and the order of things at an end. In goes a [`Context`], which all
//! bridges of a session share; what they did is in its [`Totals`] and in the route's metrics.
//!
//! What always holds: a bridge ends by itself at once when its session ends; a transfer that was cut is
//! reset on the other side, never finished; an idle bridge holds no buffer; and a bridge that panics
//! ends its own session and nothing else.

pub mod datagram;
pub mod stream;

use std::{
    cell::RefCell,
    panic::AssertUnwindSafe,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::FutureExt;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::error;
use ulid::Ulid;

use crate::{
    backend::{ClientInfo, Pin},
    lifecycle::Lifecycle,
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
    open_bidi: AtomicU64,
    open_uni: AtomicU64,
    ending: OnceLock<Ending>,
    ended: CancellationToken,
}

impl Context {
    /// A session that has just begun.
    pub fn new(route: Arc<Route>, pin: Pin, client: ClientInfo, lifecycle: Lifecycle) -> Self {
        Self {
            client,
            route,
            pin,
            lifecycle,
            totals: Totals::default(),
            open_bidi: AtomicU64::new(0),
            open_uni: AtomicU64::new(0),
            ending: OnceLock::new(),
            ended: CancellationToken::new(),
        }
    }

    /// The session's id, for logs.
    pub fn id(&self) -> Ulid {
        self.client.session_id
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

    /// Client bidirectional streams that are bridged now.
    pub fn open_bidi_streams(&self) -> u64 {
        self.open_bidi.load(Ordering::Relaxed)
    }

    /// Ends every bridge of the session. The first reason stays.
    pub fn end(&self, why: Ending) {
        _ = self.ending.set(why);
        self.ended.cancel();
    }

    /// Why the session ended, once it has.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get().copied()
    }

    /// Resolves when the session has ended.
    pub fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.ended.cancelled()
    }

    fn metrics(&self) -> &RouteMetrics {
        &self.route.metrics
    }

    fn stream_up(&self, bytes: u64) {
        self.metrics().up.stream_bytes.inc_by(bytes);
        self.totals.up_bytes.add(bytes);
    }

    fn stream_down(&self, bytes: u64) {
        self.metrics().down.stream_bytes.inc_by(bytes);
        self.totals.down_bytes.add(bytes);
    }

    fn datagram_up(&self, bytes: u64) {
        self.metrics().up.datagrams.inc();
        self.metrics().up.datagram_bytes.inc_by(bytes);
        self.totals.up_datagrams.add(1);
    }

    fn datagram_down(&self, bytes: u64) {
        self.metrics().down.datagrams.inc();
        self.metrics().down.datagram_bytes.inc_by(bytes);
        self.totals.down_datagrams.add(1);
    }

    fn lost_up(&self, why: Loss) {
        self.metrics().up.lost.inc(why);
        self.totals.lost_datagrams.add(1);
    }

    fn lost_down(&self, why: Loss) {
        self.metrics().down.lost.inc(why);
        self.totals.lost_datagrams.add(1);
    }

    fn stream_ended(&self, why: StreamEnd) {
        self.metrics().stream_ends.inc(why);
    }
}

/// What one session carried, for its log line.
#[derive(Debug, Default)]
pub struct Totals {
    /// Stream bytes that the backend's sockets took.
    pub up_bytes: Total,
    /// Stream bytes that the client's transport took.
    pub down_bytes: Total,
    /// Streams bridged.
    pub streams: Total,
    /// Datagrams passed to the backend.
    pub up_datagrams: Total,
    /// Datagrams passed to the client.
    pub down_datagrams: Total,
    /// Datagrams lost, either way.
    pub lost_datagrams: Total,
}

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Total(AtomicU64);

impl Total {
    fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs a bridge. If it panics, its session ends as [`Ending::Internal`] and `None` comes back.
///
/// A combinator and no `async` block, which would hold the bridge's future twice.
fn contain<T>(
    context: Arc<Context>,
    bridge: impl Future<Output = T>,
) -> impl Future<Output = Option<T>> {
    // What the bridge held is dropped in the panic, and dropping resets it.
    AssertUnwindSafe(bridge).catch_unwind().map(move |ended| {
        if ended.is_err() {
            // The panic hook has printed the message.
            error!(session_id = %context.id(), "A bridge panicked, so its session ends.");
            context.end(Ending::Internal);
        }
        ended.ok()
    })
}

/// As much as one read takes: the largest UDP payload and the longest prefix fit, and for TCP larger
/// reads gain nothing that was measurable.
const SCRATCH_BYTES: usize = 64 * 1024 + 8;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// Lends this thread's buffer for one read. What was read is copied out once, to its exact size, so
/// that a waiting bridge holds no buffer.
fn with_scratch<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|buffer| read(buffer))
}

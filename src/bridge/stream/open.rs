//! The streams that are open: counted, bounded, and shown to whoever looks on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Context, Progress, UNI_FAREWELL};
use crate::{
    backend::{ConnectionState, Sight},
    bridge::ledger::HalfBooks,
    metrics::GaugeGuard,
};

/// What kind of stream it is, and who opened it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Bidi,
    Uni,
    GatewayBidi,
    GatewayUni,
}

impl Kind {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Bidi => ("bidi", "client"),
            Self::Uni => ("uni", "client"),
            Self::GatewayBidi => ("bidi", "gateway"),
            Self::GatewayUni => ("uni", "gateway"),
        }
    }
}

/// The open streams of a session. Locked when a stream begins and when it ends, and by who looks.
#[derive(Debug, Default)]
pub(in crate::bridge) struct OpenStreams(Mutex<BTreeMap<u64, Arc<Record>>>);

/// One open stream: its pumps write here, and others may read.
#[derive(Debug)]
pub(super) struct Record {
    number: u64,
    kind: Kind,
    pub(super) progress: Progress,
    pub(super) up: HalfBooks,
    pub(super) down: HalfBooks,
    /// Where its connection can be looked at.
    pub(super) sight: Arc<Sight>,
}

/// How a stream stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamState {
    /// It is the session's so many-eth stream.
    pub number: u64,
    /// `bidi` or `uni`.
    pub kind: &'static str,
    /// `client` or `gateway`.
    pub opened_by: &'static str,
    /// For how long it has been open.
    pub age: Duration,
    /// From the client to the backend.
    pub up: FlowState,
    /// From the backend to the client.
    pub down: FlowState,
    /// Its connection. `None`: it is not made yet, or is gone.
    pub backend: Option<ConnectionState>,
}

/// How one direction of a stream stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowState {
    /// Bytes that the other leg has accepted.
    pub delivered: u64,
    /// Bytes that were taken from one leg and are not with the other yet. A chunk on its way to the client counts
    /// whole until the client's transport has all of it.
    pub held: u64,
    /// Whether its end was passed on, or its receiver wants no more. Of a stream of one direction the
    /// other never ends.
    pub is_over: bool,
}

impl OpenStreams {
    /// How many there are, and the oldest of them.
    pub(in crate::bridge) fn states(&self, most: usize) -> (usize, Vec<StreamState>) {
        let (count, oldest) = {
            let open = self.lock();
            let oldest: Vec<_> = open.values().take(most).map(Arc::clone).collect();
            (open.len(), oldest)
        };
        // The kernel is asked without the lock.
        (count, oldest.iter().map(|record| record.state()).collect())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Record>>> {
        // Nothing that could panic half-way happens under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn state(&self) -> StreamState {
        let flow = |books: &HalfBooks, is_over| FlowState {
            delivered: books.delivered(),
            held: books.held(),
            is_over,
        };
        let (kind, opened_by) = self.kind.words();
        StreamState {
            number: self.number,
            kind,
            opened_by,
            age: self.progress.age(),
            up: flow(&self.up, self.progress.up_is_over()),
            down: flow(&self.down, self.progress.down_is_over()),
            backend: self.sight.look(),
        }
    }
}

/// Counts a stream as open for as long as it lives.
pub(super) struct OpenStream {
    pub(super) context: Arc<Context>,
    pub(super) record: Arc<Record>,
    _gauge: GaugeGuard,
}

impl OpenStream {
    /// `None` at the limit. Each kind may use all of it: a unidirectional stream is over for the client
    /// with its FIN, but its connection lives on, so the transport's own limit does not bound them.
    pub(super) fn new(context: &Arc<Context>, kind: Kind) -> Option<Self> {
        let limit = context.route.settings.max_streams_per_session;
        let one_more = |now| limit.allows_one_more(now).then_some(now + 1);
        let order = Ordering::Relaxed;
        if let Some(counter) = Self::counter(context, kind) {
            counter.fetch_update(order, order, one_more).ok()?;
        }
        let number = context.totals.streams.next();
        let metrics = context.metrics();
        match kind {
            Kind::Bidi => metrics.bidi_streams.inc(),
            Kind::Uni => metrics.uni_streams.inc(),
            Kind::GatewayBidi => metrics.gateway_bidi_streams.inc(),
            Kind::GatewayUni => metrics.gateway_uni_streams.inc(),
        }
        let half_close_timeout = context.route.settings.half_close_timeout;
        let patience = match kind {
            Kind::Bidi | Kind::GatewayBidi => half_close_timeout,
            Kind::Uni => Some(half_close_timeout.unwrap_or(UNI_FAREWELL)),
            Kind::GatewayUni => None,
        };
        let record = Arc::new(Record {
            number,
            kind,
            progress: Progress::new(patience),
            up: HalfBooks::default(),
            down: HalfBooks::default(),
            sight: Arc::default(),
        });
        context.streams.lock().insert(number, Arc::clone(&record));
        Some(Self { context: Arc::clone(context), record, _gauge: metrics.stream_opened() })
    }

    pub(super) fn kind(&self) -> Kind {
        self.record.kind
    }

    /// What the limit counts. `None`: the gateway opens so few that they need no limit.
    fn counter(context: &Context, kind: Kind) -> Option<&AtomicU64> {
        match kind {
            Kind::Bidi => Some(&context.open_bidi),
            Kind::Uni => Some(&context.open_uni),
            Kind::GatewayBidi | Kind::GatewayUni => None,
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let left = self.context.streams.lock().remove(&self.record.number);
        drop(left);
        if let Some(counter) = Self::counter(&self.context, self.record.kind) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

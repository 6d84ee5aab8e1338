//! What a session does with what its client opens and sends.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tracing::error;

use super::shape::{FirstOnly, FirstStream};
use crate::{
    bridge::{self, datagram::DatagramBridge, stream},
    config::{Limit, StreamsMode, UniMode},
    lifecycle::Lifecycle,
    limit::Bucket,
    reason::{Ending, StreamEnd},
    transport::{Session, SessionEvents},
};

/// Starts a bridge for each stream and passes each datagram on, as the route says.
pub(super) struct Events<S: Session> {
    context: Arc<bridge::Context>,
    datagrams: DatagramBridge<S::Datagrams, S::Opener>,
    first: Arc<FirstOnly<S>>,
    lifecycle: Lifecycle,
    /// What the client may still open now. Locked once per stream.
    streams: Mutex<Bucket>,
}

impl<S: Session> Events<S> {
    /// What a session does, and where the first bidirectional stream is to be had, should only one be
    /// wanted.
    pub(super) fn new(
        context: Arc<bridge::Context>,
        datagrams: DatagramBridge<S::Datagrams, S::Opener>,
        lifecycle: Lifecycle,
    ) -> (Self, FirstStream<S>) {
        let (first, stream) = FirstOnly::new(&context.route().settings);
        let (first, streams) = (Arc::new(first), Mutex::default());
        (Self { context, datagrams, first, lifecycle, streams }, stream)
    }

    /// Does what has to be done before the client does anything.
    pub(super) fn begin(&self) {
        contain(&self.context, || self.datagrams.begin());
    }

    /// Takes a stream when the route's `stream_rate` allows it: at once, or later on a task of its own.
    ///
    /// A stream that waits is not touched, so QUIC gives its client no credit for another one and there
    /// are never more than the credit: a client that opens and resets streams as fast as it can is held to
    /// the rate itself, while resetting what is too much would only make it faster. Nothing is lost for
    /// an honest one.
    fn in_turn(&self, take: impl FnOnce(&Arc<bridge::Context>) + Send + 'static) {
        let wait = self.turn();
        if wait.is_zero() {
            return contain(&self.context, || take(&self.context));
        }
        self.context.route().metrics.slowed_streams.inc();
        let context = Arc::clone(&self.context);
        self.lifecycle.spawn(async move {
            tokio::select! {
                // The bridge sees at once that its session has ended, and lets go of the stream.
                () = context.ended() => {}
                () = sleep(wait) => {}
            }
            contain(&context, || take(&context));
        });
    }

    fn turn(&self) -> Duration {
        let rate = self.context.route().settings.stream_rate;
        // Nothing that could panic half-way happens under the lock.
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.book(rate, Instant::now())
    }
}

/// Keeps a panic from the connection's task, which serves other sessions too.
fn contain(context: &bridge::Context, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        // The panic hook has printed the message.
        error!(session_id = %context.id(), "A callback panicked, so its session ends.");
        context.end(Ending::Internal);
    }
}

impl<S: Session> SessionEvents<S> for Events<S> {
    fn bidi(&self, mut send: S::Send, mut recv: S::Recv) {
        let first = Arc::clone(&self.first);
        self.in_turn(move |context| match context.route().settings.streams {
            StreamsMode::PerStream => stream::bridge_bidi(context, send, recv),
            StreamsMode::PerSession => first.take(context, send, recv),
            StreamsMode::Refuse => {
                stream::refuse_bidi(context, &mut send, &mut recv, StreamEnd::Refused);
            }
        });
    }

    fn uni(&self, mut recv: S::Recv) {
        self.in_turn(move |context| match context.route().settings.uni {
            UniMode::Backend => stream::bridge_uni(context, recv),
            UniMode::Refuse => {
                stream::refuse_uni(context, &mut recv, StreamEnd::Refused);
            }
        });
    }

    fn datagrams(&self, payloads: &[Bytes]) {
        contain(&self.context, || self.datagrams.deliver(payloads));
    }

    fn open_bidi_streams(&self) -> u64 {
        self.context.open_bidi_streams()
    }

    fn max_bidi_streams(&self) -> u64 {
        match self.context.route().settings.max_streams_per_session {
            Limit::AtMost(most) => most,
            Limit::Unlimited => u64::MAX,
        }
    }
}

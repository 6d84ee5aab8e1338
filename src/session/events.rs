//! What a session does with what its client opens and sends.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use tracing::error;

use super::shape::{FirstOnly, FirstStream};
use crate::{
    bridge::{self, datagram::DatagramBridge, stream},
    config::{Limit, StreamsMode, UniMode},
    reason::{Ending, StreamEnd},
    transport::{Session, SessionEvents},
};

/// Starts a bridge for each stream and passes each datagram on, as the route says.
pub(super) struct Events<S: Session> {
    context: Arc<bridge::Context>,
    datagrams: DatagramBridge<S::Datagrams>,
    first: FirstOnly<S>,
}

impl<S: Session> Events<S> {
    /// What a session does, and where the first bidirectional stream is to be had, should only one be
    /// wanted.
    pub(super) fn new(
        context: Arc<bridge::Context>,
        datagrams: DatagramBridge<S::Datagrams>,
    ) -> (Self, FirstStream<S>) {
        let (first, stream) = FirstOnly::new(context.route().settings.opens);
        (Self { context, datagrams, first }, stream)
    }

    /// Does what has to be done before the client does anything.
    pub(super) fn begin(&self) {
        self.contain(|| self.datagrams.begin());
    }

    /// Keeps a panic from the connection's task, which serves other sessions too.
    fn contain(&self, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            // The panic hook has printed the message.
            error!(session_id = %self.context.id(), "A callback panicked, so its session ends.");
            self.context.end(Ending::Internal);
        }
    }
}

impl<S: Session> SessionEvents<S> for Events<S> {
    fn bidi(&self, mut send: S::Send, mut recv: S::Recv) {
        self.contain(move || match self.context.route().settings.streams {
            StreamsMode::PerStream => stream::bridge_bidi(&self.context, send, recv),
            StreamsMode::PerSession => self.first.take(&self.context, send, recv),
            StreamsMode::Refuse => {
                stream::refuse_bidi(&self.context, &mut send, &mut recv, StreamEnd::Refused);
            }
        });
    }

    fn uni(&self, mut recv: S::Recv) {
        self.contain(move || match self.context.route().settings.uni {
            UniMode::Backend => stream::bridge_uni(&self.context, recv),
            UniMode::Refuse => {
                stream::refuse_uni(&self.context, &mut recv, StreamEnd::Refused);
            }
        });
    }

    fn datagram(&self, payload: Bytes) {
        self.contain(|| self.datagrams.deliver(&payload));
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

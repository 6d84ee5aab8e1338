//! The shape of a session: what it has before its client does anything.
//!
//! Connections that the session will need in any case are made before it is accepted, so that a dead
//! backend is a refusal with a status and no session that is dead from the start. A stream of the
//! gateway's that had to be reset instead might never be seen: a reset that overtakes the stream's head
//! takes it with it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::{
    backend::{BackendConnection, DialError},
    bridge::{
        self,
        stream::{self, OpenedBy},
    },
    config::{self, Opens, PushMode, StreamsMode},
    lifecycle::Lifecycle,
    reason::{Refusal, StreamEnd},
    transport::{ClientEnd, Session, SessionRequest, StreamOpener},
};

/// The connections of a session that is about to be accepted.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The session's one connection.
    own: Option<BackendConnection>,
    /// The connection of the pushed stream.
    push: Option<BackendConnection>,
}

/// Why a session is not accepted after all.
#[derive(Debug)]
pub(super) enum Unprepared {
    /// It is to be refused.
    Refused(Refusal),
    /// There is nobody to refuse it to.
    Gone(ClientEnd),
}

impl From<DialError> for Unprepared {
    fn from(error: DialError) -> Self {
        Self::Refused(error.refusal())
    }
}

/// Makes the connections that the route wants before a session. Without any, it does not wait at all.
pub(super) async fn prepare<R: SessionRequest>(
    request: &mut R,
    context: &bridge::Context,
    lifecycle: &Lifecycle,
) -> Result<Prepared, Unprepared> {
    let settings = &context.route().settings;
    let needs_own = settings.streams == StreamsMode::PerSession;
    let needs_push = settings.push != PushMode::Off;
    if !needs_own && !needs_push {
        return Ok(Prepared { own: None, push: None });
    }
    let connections = async {
        let own = if needs_own { Some(context.dial().await?) } else { None };
        // The second goes where the first is.
        let push = if needs_push { Some(context.dial().await?) } else { None };
        Ok(Prepared { own, push })
    };
    tokio::select! {
        biased;
        end = request.gone() => Err(Unprepared::Gone(end)),
        () = lifecycle.draining() => Err(Unprepared::Refused(Refusal::Draining)),
        // A connection that is half made is given up without a trace, one that is made is reset.
        prepared = connections => prepared,
    }
}

impl Prepared {
    /// Begins what a session has from its acceptance on. `first` brings the client's first stream.
    pub(super) fn begin<S: Session>(
        self,
        context: &Arc<bridge::Context>,
        session: &S,
        first: FirstStream<S>,
    ) {
        let settings = &context.route().settings;
        if let Some(tcp) = self.own {
            match settings.opens {
                Opens::Client => {
                    let first = async { first.0?.await.ok() };
                    stream::bridge_own(context, tcp, OpenedBy::Client, first);
                }
                Opens::Gateway => {
                    let opener = session.opener();
                    let opened = async move { opener.open_bidi().await.ok() };
                    stream::bridge_own(context, tcp, OpenedBy::Gateway, opened);
                }
            }
        }
        if let Some(tcp) = self.push {
            let opener = session.opener();
            match settings.push {
                PushMode::Off => {}
                PushMode::Uni => {
                    let opened = async move { opener.open_uni().await.ok() };
                    stream::push_uni(context, tcp, opened);
                }
                PushMode::Bidi => {
                    let opened = async move { opener.open_bidi().await.ok() };
                    stream::push_bidi(context, tcp, opened);
                }
            }
        }
    }
}

/// A bidirectional stream: the gateway's half and the client's.
type Pair<S> = (<S as Session>::Send, <S as Session>::Recv);

/// Where a session's own connection waits for the client's first bidirectional stream. `None`: it does not.
pub(super) struct FirstStream<S: Session>(Option<oneshot::Receiver<Pair<S>>>);

/// Takes the client's first bidirectional stream, and refuses the others.
pub(super) struct FirstOnly<S: Session>(Mutex<Option<oneshot::Sender<Pair<S>>>>);

impl<S: Session> FirstOnly<S> {
    /// Both ends of the way of the first stream. Where the gateway opens it, the client's are all refused;
    /// where each stream has a connection of its own, none comes this way.
    pub(super) fn new(route: &config::Route) -> (Self, FirstStream<S>) {
        let is_wanted = route.streams == StreamsMode::PerSession && route.opens == Opens::Client;
        let (to, from) = is_wanted.then(oneshot::channel).unzip();
        (Self(Mutex::new(to)), FirstStream(from))
    }

    /// A bidirectional stream of the client's has come.
    pub(super) fn take(&self, context: &bridge::Context, send: S::Send, recv: S::Recv) {
        // A few times in a session's life, and by its connection's task alone: nobody waits for it.
        let first = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (why, (mut send, mut recv)) = match first {
            None => (StreamEnd::SecondStream, (send, recv)),
            Some(first) => match first.send((send, recv)) {
                Ok(()) => return,
                Err(stream) => (StreamEnd::SessionEnded, stream),
            },
        };
        stream::refuse_bidi(context, &mut send, &mut recv, why);
    }
}

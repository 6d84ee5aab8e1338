//! Connections that are there before their stream.
//!
//! They were made before the session was accepted. Until the stream comes, what the backend says waits in
//! the kernel, which bounds it. Each is held by a task of its own, so that a client which opens no stream,
//! or gives no credit for one, holds up nothing else.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::sleep;

use super::{
    Context, Cut, Kind, OpenStream, Record, backend_broke, carry, contain, cut_backend, down,
    down::Down, let_go_of_send, refuse_bidi, session_ended, spawn,
};
use crate::{
    backend::BackendConnection,
    bridge::ledger::StreamBooks,
    reason::{Ending, StreamEnd},
    transport::{RecvStream, SendStream},
};

/// How long a session lives on after the end of its one stream, unless the client closes it first. What the
/// client's transport has, its application may not have read, and browsers throw that away when the session
/// closes.
const FAREWELL: Duration = Duration::from_secs(1);

/// Who opens the one stream of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenedBy {
    /// The client.
    Client,
    /// The gateway.
    Gateway,
}

/// Holds a session's one connection until its one stream comes, and bridges the two. Their end is the
/// session's. `None` comes in the stream's place if the session ends first.
pub fn bridge_own<S: SendStream, R: RecvStream>(
    context: &Arc<Context>,
    tcp: BackendConnection,
    by: OpenedBy,
    stream: impl Future<Output = Option<(S, R)>> + Send + 'static,
) {
    hold(context, {
        let context = Arc::clone(context);
        async move {
            let Some((tcp, mut send, mut recv)) = own_stream(&context, tcp, stream).await else {
                return;
            };
            let kind = match by {
                OpenedBy::Client => Kind::Bidi,
                OpenedBy::Gateway => Kind::GatewayBidi,
            };
            match OpenStream::new(&context, kind) {
                Some(open) => {
                    let bridge = own(context, Arc::clone(&open.record), tcp, send, recv);
                    spawn(open, bridge);
                }
                None => refuse_bidi(&context, &mut send, &mut recv, StreamEnd::TooManyStreams),
            }
        }
    });
}

/// Bridges a connection and a bidirectional stream that the gateway opens.
pub fn push_bidi<S: SendStream, R: RecvStream>(
    context: &Arc<Context>,
    tcp: BackendConnection,
    stream: impl Future<Output = Option<(S, R)>> + Send + 'static,
) {
    hold(context, {
        let context = Arc::clone(context);
        async move {
            let Some((tcp, stream)) = pushed_stream(&context, tcp, stream).await else { return };
            let Some(open) = OpenStream::new(&context, Kind::GatewayBidi) else { return };
            let (mut send, mut recv) = stream;
            let record = Arc::clone(&open.record);
            spawn(open, async move { carry(&context, &record, tcp, &mut send, &mut recv).await });
        }
    });
}

/// Carries what a backend says into a unidirectional stream that the gateway opens.
pub fn push_uni<S: SendStream>(
    context: &Arc<Context>,
    tcp: BackendConnection,
    stream: impl Future<Output = Option<S>> + Send + 'static,
) {
    hold(context, {
        let context = Arc::clone(context);
        async move {
            let Some((tcp, send)) = pushed_stream(&context, tcp, stream).await else { return };
            let Some(open) = OpenStream::new(&context, Kind::GatewayUni) else { return };
            let bridge = carry_down(context, Arc::clone(&open.record), tcp, send);
            spawn(open, bridge);
        }
    });
}

fn hold(context: &Arc<Context>, task: impl Future<Output = ()> + Send + 'static) {
    context.lifecycle.spawn(contain(Arc::clone(context), task).map(drop));
}

/// Waits for a session's one stream. If the connection breaks first, the session ends.
async fn own_stream<S: SendStream, R: RecvStream>(
    context: &Context,
    mut tcp: BackendConnection,
    stream: impl Future<Output = Option<(S, R)>>,
) -> Option<(BackendConnection, S, R)> {
    let mut stream = pin!(stream.fuse());
    let came = {
        let (_, writer) = tcp.split();
        tokio::select! {
            biased;
            () = context.ended() => None,
            // Before the look at the connection: what a backend said before it broke is still delivered.
            came = &mut stream => came,
            error = writer.broken() => {
                context.end(session_end(backend_broke(&error)).unwrap_or(Ending::Internal));
                None
            }
        }
    };
    match came {
        Some((send, recv)) => Some((tcp, send, recv)),
        None => {
            leave(context, tcp).await;
            // One that came with the end is told so.
            if let Some(Some((mut send, mut recv))) = stream.now_or_never() {
                refuse_bidi(context, &mut send, &mut recv, StreamEnd::SessionEnded);
            }
            None
        }
    }
}

/// Waits for a stream that the gateway opens. What becomes of the connection meanwhile, the stream will
/// tell.
async fn pushed_stream<T>(
    context: &Context,
    tcp: BackendConnection,
    stream: impl Future<Output = Option<T>>,
) -> Option<(BackendConnection, T)> {
    let came = tokio::select! {
        biased;
        () = context.ended() => None,
        came = stream => came,
    };
    match came {
        Some(stream) => Some((tcp, stream)),
        None => {
            leave(context, tcp).await;
            None
        }
    }
}

/// Ends a connection whose stream never came: the client has said nothing that could be cut.
async fn leave(context: &Context, tcp: BackendConnection) {
    context.ended().await;
    cut_backend(tcp, session_ended(context) == Cut(StreamEnd::SessionEnded));
}

/// Bridges a session's one connection and its one stream, and ends the session with them.
async fn own(
    context: Arc<Context>,
    open: Arc<Record>,
    tcp: BackendConnection,
    mut send: impl SendStream,
    mut recv: impl RecvStream,
) -> StreamEnd {
    let why = carry(&context, &open, tcp, &mut send, &mut recv).await;
    let Some(ending) = session_end(why) else { return why };
    let delivered = send.delivered();
    let farewell = async {
        if delivered.await {
            sleep(FAREWELL).await;
        }
    };
    tokio::select! {
        () = farewell => context.end(ending),
        () = context.ended() => {}
    }
    why
}

/// How a session ends whose one stream ended so. `None`: it is the session that ended.
fn session_end(why: StreamEnd) -> Option<Ending> {
    Some(match why {
        StreamEnd::SessionEnded | StreamEnd::ConnectionLost => return None,
        StreamEnd::Finished => Ending::BackendFinished,
        StreamEnd::ClientReset | StreamEnd::ClientStopped => Ending::StreamCut,
        StreamEnd::BackendReset => Ending::BackendReset,
        StreamEnd::BackendTimeout => Ending::BackendTimeout,
        StreamEnd::HalfCloseTimeout => Ending::HalfCloseTimeout,
        // None of these comes of a connection that stands.
        StreamEnd::BackendUnreachable
        | StreamEnd::UnwantedReply
        | StreamEnd::Refused
        | StreamEnd::SecondStream
        | StreamEnd::TooManyStreams
        | StreamEnd::DialQueueFull
        | StreamEnd::DialQueueTimeout
        | StreamEnd::OutOfPorts
        | StreamEnd::OutOfDescriptors
        | StreamEnd::OutOfResources
        | StreamEnd::Internal => Ending::Internal,
    })
}

/// Carries what the backend says to the client. The backend is told nothing, not even that nothing comes:
/// many servers take that for a client which has gone.
async fn carry_down(
    context: Arc<Context>,
    open: Arc<Record>,
    mut tcp: BackendConnection,
    mut send: impl SendStream,
) -> StreamEnd {
    tcp.show(&open.sight);
    let progress = &open.progress;
    // Nothing is owed to the backend.
    progress.end_up();
    let books = StreamBooks::new(&context, &open.up, &open.down);
    let ended = {
        let (reader, _writer) = tcp.split();
        tokio::select! {
            biased;
            () = context.ended() => Err(session_ended(&context)),
            ended = down::pump(reader, &mut send, &context, books.down, progress) => ended,
        }
    };
    books.end(match &ended {
        Ok(Down::Finished) => StreamEnd::Finished,
        Ok(Down::Stopped) => StreamEnd::ClientStopped,
        Err(Cut(why)) => *why,
    });
    match ended {
        Ok(ended) => {
            tcp.close();
            if ended == Down::Finished { StreamEnd::Finished } else { StreamEnd::ClientStopped }
        }
        Err(Cut(why)) => {
            cut_backend(tcp, why == StreamEnd::SessionEnded && progress.owes_nothing());
            let_go_of_send(&mut send, why, progress);
            why
        }
    }
}

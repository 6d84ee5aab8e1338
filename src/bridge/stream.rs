//! One stream and one TCP connection, with every ending.
//!
//! One task per stream dials, unless the connection was there before the stream (`held`), then runs two pumps,
//! `up` and `down`, each of which passes the clean end of its source on. What ends both at once (`Cut`) comes
//! back here, where both legs are told:
//!
//! | event | what the other leg sees |
//! | --- | --- |
//! | client FIN | `shutdown(SHUT_WR)` after the last byte; down flows on |
//! | backend FIN | FIN after the last byte; up flows on |
//! | client RESET_STREAM | RST at once; the gateway's half is reset too |
//! | client STOP_SENDING | the backend is not read any more; up goes on to its FIN; then the connection is closed, which is RST if the backend had more to say |
//! | backend breaks while up writes | STOP_SENDING with a code; the reply that is on its way flows on to its end |
//! | backend RST, timeout | RESET_STREAM and STOP_SENDING with a code |
//! | backend cannot be reached | RESET_STREAM and STOP_SENDING with a code |
//! | session ended | both halves let go; RST, or a plain close if all that the client said was passed on and nothing is held for it |
//! | connection lost | RST |
//!
//! Streams of one direction have no down leg: what the backend answers is read and thrown away. Those that
//! the gateway opens have no up leg: the backend is told nothing, not even that nothing comes.

mod down;
mod held;
mod open;
mod pace;
mod progress;
mod turn;
mod up;

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::try_join};
use tracing::trace;

pub(super) use self::open::OpenStreams;
use self::{
    down::Down,
    open::{Kind, OpenStream, Record},
    pace::Pace,
    progress::Progress,
    turn::Turn,
    up::Up,
};
pub use self::{
    held::{OpenedBy, bridge_own, push_bidi, push_uni},
    open::{FlowState, StreamState},
};
use super::{Context, contain, ledger::StreamBooks};
use crate::{
    backend::BackendConnection,
    reason::{Ending, StreamEnd},
    transport::{RecvError, RecvStream, SendStream},
};

/// How long the connection of a unidirectional stream may stand still after the client's FIN where the
/// route has no `half_close_timeout`. All that was said is passed on by then; what is waited for is only
/// the backend's word that it took it.
const UNI_FAREWELL: Duration = Duration::from_secs(60);

/// Bridges a bidirectional stream on a task of its own, or refuses it at the session's limit.
pub fn bridge_bidi<S: SendStream, R: RecvStream>(context: &Arc<Context>, mut send: S, mut recv: R) {
    let Some(open) = OpenStream::new(context, Kind::Bidi) else {
        refuse_bidi(context, &mut send, &mut recv, StreamEnd::TooManyStreams);
        return;
    };
    let bridge = bidi(Arc::clone(context), Arc::clone(&open.record), send, recv);
    spawn(open, bridge);
}

/// Bridges a unidirectional stream on a task of its own, or refuses it at the session's limit.
pub fn bridge_uni<R: RecvStream>(context: &Arc<Context>, mut recv: R) {
    let Some(open) = OpenStream::new(context, Kind::Uni) else {
        refuse_uni(context, &mut recv, StreamEnd::TooManyStreams);
        return;
    };
    let bridge = uni(Arc::clone(context), Arc::clone(&open.record), recv);
    spawn(open, bridge);
}

/// Turns a bidirectional stream away.
pub fn refuse_bidi(
    context: &Context,
    send: &mut impl SendStream,
    recv: &mut impl RecvStream,
    why: StreamEnd,
) {
    context.stream_ended(why);
    if why == StreamEnd::SessionEnded {
        send.abandon();
        recv.abandon();
        return;
    }
    send.reset(why.code());
    recv.stop(why.code());
}

/// Turns a unidirectional stream away.
pub fn refuse_uni(context: &Context, recv: &mut impl RecvStream, why: StreamEnd) {
    context.stream_ended(why);
    recv.stop(why.code());
}

fn spawn(open: OpenStream, bridge: impl Future<Output = StreamEnd> + Send + 'static) {
    let context = Arc::clone(&open.context);
    let lifecycle = context.lifecycle.clone();
    lifecycle.spawn(contain(context, bridge).map(move |ended| {
        let (context, kind) = (&open.context, open.kind());
        let why = ended.unwrap_or(StreamEnd::Internal);
        context.stream_ended(why);
        trace!(session_id = %context.id(), ?kind, reason = why.word(), "Stream ended.");
    }));
}

/// What ends both directions of a stream at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Cut(StreamEnd);

#[expect(clippy::manual_async_fn, reason = "an async fn keeps room for its arguments twice")]
fn bidi(
    context: Arc<Context>,
    open: Arc<Record>,
    mut send: impl SendStream,
    mut recv: impl RecvStream,
) -> impl Future<Output = StreamEnd> + Send {
    async move {
        match dial(&context, &mut recv).await {
            Ok(tcp) => carry(&context, &open, tcp, &mut send, &mut recv).await,
            Err(Cut(why)) => {
                let_go_of_recv(&mut recv, why, &open.progress);
                let_go_of_send(&mut send, why, &open.progress);
                why
            }
        }
    }
}

/// Carries bytes both ways, from the connection's beginning to its end.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps room for its arguments twice")]
fn carry(
    context: &Context,
    open: &Record,
    mut tcp: BackendConnection,
    send: &mut impl SendStream,
    recv: &mut impl RecvStream,
) -> impl Future<Output = StreamEnd> + Send {
    async move {
        tcp.show(&open.sight);
        let progress = &open.progress;
        // Closed after the pumps are gone.
        let books = StreamBooks::new(context, &open.up, &open.down);
        let ended = {
            let (reader, writer) = tcp.split();
            let up = up::pump(recv, writer, context, books.up, progress);
            let down = down::pump(reader, send, context, books.down, progress);
            run_both(pin!(try_join(up, down)), context, progress).await
        };
        books.end(reason_of(&ended));
        match ended {
            Ok(why) => {
                tcp.close();
                why
            }
            Err(Cut(why)) => {
                cut_backend(tcp, why == StreamEnd::SessionEnded && progress.owes_nothing());
                let_go_of_recv(recv, why, progress);
                let_go_of_send(send, why, progress);
                why
            }
        }
    }
}

async fn uni(context: Arc<Context>, open: Arc<Record>, mut recv: impl RecvStream) -> StreamEnd {
    let progress = &open.progress;
    let books = StreamBooks::new(&context, &open.up, &open.down);
    let mut tcp = match dial(&context, &mut recv).await {
        Ok(tcp) => tcp,
        Err(Cut(why)) => {
            let_go_of_recv(&mut recv, why, progress);
            return why;
        }
    };
    tcp.show(&open.sight);
    let ended = {
        let (reader, writer) = tcp.split();
        let up = up::pump(&mut recv, writer, &context, books.up, progress);
        let down = down::discard(reader, &context, progress);
        run_both(pin!(try_join(up, down)), &context, progress).await
    };
    books.end(reason_of(&ended));
    match ended {
        Ok(why) => {
            tcp.close();
            why
        }
        Err(Cut(why)) => {
            // All was said, and nobody waits for an answer: what the kernel holds may still arrive.
            let over = matches!(why, StreamEnd::SessionEnded | StreamEnd::HalfCloseTimeout);
            cut_backend(tcp, over && progress.owes_nothing());
            let_go_of_recv(&mut recv, why, progress);
            why
        }
    }
}

fn reason_of(ended: &Result<StreamEnd, Cut>) -> StreamEnd {
    match ended {
        Ok(why) | Err(Cut(why)) => *why,
    }
}

/// Connects as soon as the stream exists, so that a server which speaks first works.
async fn dial(context: &Context, recv: &mut impl RecvStream) -> Result<BackendConnection, Cut> {
    tokio::select! {
        biased;
        () = context.ended() => Err(session_ended(context)),
        lost = recv.lost() => Err(lost.into()),
        // A connection that is half made is given up without a trace. Boxed: it is most of what a stream takes, and
        // over before anything is carried.
        dialled = Box::pin(context.dial()) => dialled.map_err(|e| Cut(e.stream_end())),
    }
}

/// Runs both pumps to their ends, or to what ends them. They stay where they are: a future that is
/// handed on by value takes its room twice.
async fn run_both(
    pumps: Pin<&mut impl Future<Output = Result<(Up, Down), Cut>>>,
    context: &Context,
    progress: &Progress,
) -> Result<StreamEnd, Cut> {
    let ends = tokio::select! {
        biased;
        // A chunk that waits for the client's credit is lost with the session, and the books say so.
        () = context.ended() => return Err(session_ended(context)),
        ends = pumps => ends?,
        // After the pumps, whose progress it looks at.
        () = progress.stands_still() => return Err(Cut(StreamEnd::HalfCloseTimeout)),
    };
    Ok(match ends {
        (Up::Broken(why), _) => why,
        (Up::Finished, Down::Stopped) => StreamEnd::ClientStopped,
        (Up::Finished, Down::Finished) => StreamEnd::Finished,
    })
}

/// Ends the connection of a stream that was cut: plainly if both sides know all they have to, else
/// with a reset.
fn cut_backend(tcp: BackendConnection, owes_nothing: bool) {
    if owes_nothing {
        tcp.close();
    } else {
        drop(tcp);
    }
}

fn let_go_of_recv(recv: &mut impl RecvStream, why: StreamEnd, progress: &Progress) {
    match why {
        StreamEnd::SessionEnded | StreamEnd::ConnectionLost => recv.abandon(),
        _ if progress.up_is_over() => {}
        _ => recv.stop(why.code()),
    }
}

fn let_go_of_send(send: &mut impl SendStream, why: StreamEnd, progress: &Progress) {
    match why {
        StreamEnd::SessionEnded | StreamEnd::ConnectionLost => send.abandon(),
        // A reset after the FIN could take back what the client has not got yet.
        _ if progress.down_is_over() => {}
        _ => send.reset(why.code()),
    }
}

fn session_ended(context: &Context) -> Cut {
    Cut(match context.ending() {
        Some(Ending::ConnectionLost | Ending::ConnectionClosed) => StreamEnd::ConnectionLost,
        _ => StreamEnd::SessionEnded,
    })
}

/// The word for an error of the backend's socket.
fn backend_broke(error: &io::Error) -> StreamEnd {
    match error.raw_os_error() {
        // TCP_USER_TIMEOUT or keepalive ran out; or it did, and a router had said why.
        Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH) => StreamEnd::BackendTimeout,
        _ => StreamEnd::BackendReset,
    }
}

impl From<RecvError> for Cut {
    fn from(error: RecvError) -> Self {
        Self(match error {
            RecvError::Reset(client_code) => {
                trace!(client_code, "The client reset its half of a stream.");
                StreamEnd::ClientReset
            }
            RecvError::Lost => StreamEnd::ConnectionLost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_fell_silent_is_told_from_one_that_said_no() {
        for (errno, why) in [
            (libc::ETIMEDOUT, StreamEnd::BackendTimeout),
            (libc::EHOSTUNREACH, StreamEnd::BackendTimeout),
            (libc::ECONNRESET, StreamEnd::BackendReset),
            (libc::EPIPE, StreamEnd::BackendReset),
            (libc::ENOTCONN, StreamEnd::BackendReset),
        ] {
            assert_eq!(backend_broke(&io::Error::from_raw_os_error(errno)), why, "{errno}");
        }
    }
}

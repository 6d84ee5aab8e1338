//! A session's datagrams and its UDP socket, with every loss.
//!
//! Up, a datagram is sent on the connection's own task or is lost; nothing waits, and what has come together
//! goes on with as few system calls as its sizes allow. Down, one task per
//! session reads the socket: what the client's transport does not take at once waits in a queue that
//! is bounded in bytes and in age, the oldest is lost first, and the socket is read on meanwhile. What is
//! too large for the client's path may have a stream of its own.
//!
//! What always holds: each datagram is counted once, as passed or as lost with its reason; none is ever
//! cut short; the socket lives as long as the session, whatever ICMP says, so that a backend which comes
//! back is reached again.

mod level;
mod oversize;
mod queue;

use std::{
    io,
    pin::pin,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::task::yield_now;
use tracing::debug;

pub(super) use self::level::Level;
pub use self::level::QueueState;
use self::{oversize::Streams, queue::Queue};
use super::{Context, contain, ledger::Sum};
use crate::{
    backend::UdpConnection,
    config::{DatagramsMode, UdpOpen},
    reason::Loss,
    transport::{DatagramError, Datagrams, StreamOpener},
};

/// Carries the datagrams of one session.
#[derive(Debug)]
pub struct DatagramBridge<D, O> {
    context: Arc<Context>,
    client: D,
    /// What opens streams for datagrams that are too large, once the session is accepted.
    opener: Arc<OnceLock<O>>,
    /// Opened once. Only the connection's own task opens it.
    socket: OnceLock<Arc<UdpConnection>>,
}

impl<D: Datagrams, O: StreamOpener> DatagramBridge<D, O> {
    /// A bridge whose socket is not open yet. The opener may come later.
    pub fn new(context: Arc<Context>, client: D, opener: Arc<OnceLock<O>>) -> Self {
        Self { context, client, opener, socket: OnceLock::new() }
    }

    /// Opens the socket now, if the route says so. If that fails, the first datagram tries again.
    pub fn begin(&self) {
        let settings = &self.context.route.settings;
        if settings.datagrams == DatagramsMode::Udp && settings.udp_open == UdpOpen::Session {
            // What failed is told by the datagrams that are lost for it.
            _ = self.socket();
        }
    }

    /// Passes the client's datagrams to the backend in their order, or counts them as lost, each for itself.
    pub fn deliver(&self, payloads: &[Bytes]) {
        self.context.totals.up.take_datagrams(Sum::of(payloads));
        if let Err(why) = self.may_go_up() {
            return self.context.lost_up(Sum::of(payloads), why);
        }
        let (mut rest, too_many) = payloads.split_at(self.context.keep_rate_up(payloads.len()));
        if !too_many.is_empty() {
            self.context.lost_up(Sum::of(too_many), Loss::RateLimited);
        }
        if rest.is_empty() {
            return;
        }
        let socket = match self.socket() {
            Ok(socket) => socket,
            Err(why) => return self.context.lost_up(Sum::of(rest), why),
        };
        while let [first, after @ ..] = rest {
            match pass_up(socket, rest) {
                Ok(sent) => {
                    let (gone, left) = rest.split_at(sent);
                    self.context.datagrams_up(Sum::of(gone));
                    rest = left;
                }
                Err(why) => {
                    self.context.lost_up(Sum::one(first.len() as u64), why);
                    rest = after;
                }
            }
        }
    }

    fn may_go_up(&self) -> Result<(), Loss> {
        if self.context.ending().is_some() {
            return Err(Loss::SessionEnded);
        }
        if self.context.route.settings.datagrams == DatagramsMode::Drop {
            return Err(Loss::NoBackend);
        }
        Ok(())
    }

    /// The socket, opened with its task if this is the first use.
    fn socket(&self) -> Result<&UdpConnection, Loss> {
        if let Some(socket) = self.socket.get() {
            return Ok(socket);
        }
        match self.context.pin.open_udp(&self.context.client) {
            Ok(socket) => Ok(self.start(socket)),
            Err(error) => {
                let why = error.loss();
                let error = &error as &dyn std::error::Error;
                let session_id = self.context.id();
                debug!(%session_id, reason = %why, error, "No UDP socket for a session.");
                Err(why)
            }
        }
    }

    fn start(&self, socket: UdpConnection) -> &UdpConnection {
        let opened = self.socket.get_or_init(|| Arc::new(socket));
        let socket = Arc::clone(opened);
        // It is opened once.
        _ = self.context.udp.set(Arc::downgrade(&socket));
        let (context, client) = (Arc::clone(&self.context), self.client.clone());
        let opener = Arc::clone(&self.opener);
        let bridge = async move { carry_down(&context, &socket, &client, &opener).await };
        // After a panic there is nothing to add: it has ended the session, and the queue has counted what
        // it held.
        self.context.lifecycle.spawn(contain(Arc::clone(&self.context), bridge).map(drop));
        opened
    }
}

/// Sends the first of the datagrams, with those behind it that can go along. Yields how many went, or why the
/// first did not.
fn pass_up(socket: &UdpConnection, datagrams: &[Bytes]) -> Result<usize, Loss> {
    let sent = match socket.send(datagrams) {
        // The refusal is of an earlier datagram; none of these was sent.
        Err(stale) if stale.kind() == io::ErrorKind::ConnectionRefused => socket.send(datagrams),
        sent => sent,
    };
    sent.map_err(|error| loss(&error))
}

/// Sorts an error of a send.
fn loss(error: &io::Error) -> Loss {
    match error.kind() {
        _ if error.raw_os_error() == Some(libc::EMSGSIZE) => Loss::Oversize,
        io::ErrorKind::WouldBlock => Loss::BackendBusy,
        io::ErrorKind::ConnectionRefused => Loss::BackendUnreachable,
        _ => Loss::SocketError,
    }
}

/// Passes the backend's datagrams to the client until the session ends.
async fn carry_down<D: Datagrams, O: StreamOpener>(
    context: &Context,
    socket: &UdpConnection,
    client: &D,
    opener: &OnceLock<O>,
) {
    let mut ended = pin!(context.ended());
    let queue = Queue::new(context, client.prefix().len());
    let mut way = Way { context, client, queue, streams: Streams::new(context, opener) };
    loop {
        tokio::select! {
            biased;
            // The queue counts what it still holds when it is dropped.
            () = &mut ended => break,
            // Cancelled, the oldest stays where it is.
            too_large = way.queue.shift(client), if !way.queue.is_empty() => {
                if let Some(payload) = too_large {
                    way.streams.send(&payload);
                }
            }
            () = way.streams.settle(), if !way.streams.is_empty() => {}
            readable = socket.readable() => {
                let Ok(()) = readable else { return };
                match socket.receive(|received| match socket.header_of_reply(received) {
                    Some(header) => way.pass(&received[header..]),
                    None => way.refuse(received),
                }) {
                    // A full batch: what was passed on is to go out before there is more of it.
                    Ok(true) => yield_now().await,
                    Ok(false) => {}
                    // ICMP about a datagram that was counted as passed on. Reading it has cleared it.
                    Err(_stale) => {}
                }
            }
        }
    }
    // Each sees the end too, and lets go of its stream as the protocol wants.
    while !way.streams.is_empty() {
        way.streams.settle().await;
    }
}

/// The ways to the client.
struct Way<'a, D, O> {
    context: &'a Context,
    client: &'a D,
    queue: Queue<'a>,
    streams: Streams<'a, O>,
}

impl<D: Datagrams, O: StreamOpener> Way<'_, D, O> {
    /// Books a datagram that is no reply to this client.
    fn refuse(&self, received: &[u8]) {
        let bytes = received.len() as u64;
        self.context.totals.down.take_datagrams(Sum::one(bytes));
        self.context.lost_down(bytes, Loss::WrongHeader);
    }

    /// Hands one datagram to the client's transport, or queues it behind those that wait.
    fn pass(&mut self, payload: &[u8]) {
        let bytes = payload.len() as u64;
        self.context.totals.down.take_datagrams(Sum::one(bytes));
        if let Err(why) = self.context.keep_rate_down() {
            return self.context.lost_down(bytes, why);
        }
        match self.client.max_payload() {
            Some(most) if payload.len() > most => return self.streams.send(payload),
            Some(_) => {}
            None => return self.context.lost_down(bytes, Loss::SessionEnded),
        }
        let framed = framed(self.client.prefix(), payload);
        if !self.queue.is_empty() {
            return self.queue.push(framed);
        }
        match self.client.try_send(framed) {
            Ok(()) => self.context.datagram_down(bytes),
            Err(DatagramError::Full(framed)) => self.queue.push(framed),
            Err(DatagramError::TooLarge) => self.streams.send(payload),
            Err(DatagramError::Closed) => self.context.lost_down(bytes, Loss::SessionEnded),
        }
    }
}

/// The payload behind the transport's prefix, in one buffer of exactly that size.
fn framed(prefix: &[u8], payload: &[u8]) -> Bytes {
    let mut framed = Vec::with_capacity(prefix.len() + payload.len());
    framed.extend_from_slice(prefix);
    framed.extend_from_slice(payload);
    framed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_a_send_has_its_loss() {
        for (errno, why) in [
            (libc::EAGAIN, Loss::BackendBusy),
            (libc::ECONNREFUSED, Loss::BackendUnreachable),
            (libc::EMSGSIZE, Loss::Oversize),
            (libc::ENETUNREACH, Loss::SocketError),
        ] {
            assert_eq!(loss(&io::Error::from_raw_os_error(errno)), why, "{errno}");
        }
    }
}

//! What quinn's own tasks run on: tokio, with our sockets and without its budget.
//!
//! quinn's endpoint hands packets to the tasks of connections through channels without a bound, up to 2,048
//! for each turn of its own when the kernel merges them. tokio's budget lets a task take 128 from a channel
//! in one turn, so a client that sends fast enough makes the channel grow for as long as it likes: measured
//! half a kilobyte for each datagram of a flood. Without the budget a connection takes all there is in each
//! turn, so no more waits than what the endpoint takes from the socket in one. What is then too much is lost
//! in the kernel's buffer, which is bounded and counted.

use std::{io, pin::Pin, sync::Arc};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::task::unconstrained;

use super::quic_socket::QuicSocket;

/// tokio, for quinn on one thread.
#[derive(Debug)]
pub(super) struct Unbudgeted;

impl Runtime for Unbudgeted {
    fn new_timer(&self, at: std::time::Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(Box::pin(unconstrained(future)));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(QuicSocket::new(socket)?)
    }

    fn now(&self) -> std::time::Instant {
        TokioRuntime.now()
    }
}

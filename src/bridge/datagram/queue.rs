//! Datagrams that wait for the client's transport.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::{Context, DatagramError, Datagrams, Loss};

/// Waiting datagrams, oldest first, bounded in bytes and in age. What is in it when it is dropped is
/// counted as lost with the session.
#[derive(Debug)]
pub(super) struct Queue<'a> {
    context: &'a Context,
    prefix_bytes: usize,
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    /// Prefix and payload.
    framed: Bytes,
    expires: Instant,
}

impl Waiting {
    /// What it counts towards the bound: without its own size, empty datagrams would be free.
    fn cost(&self) -> usize {
        self.framed.len() + size_of::<Self>()
    }
}

impl<'a> Queue<'a> {
    pub(super) fn new(context: &'a Context, prefix_bytes: usize) -> Self {
        Self { context, prefix_bytes, waiting: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Lets one wait. The oldest are lost until the bound holds, this one too if it alone is more.
    pub(super) fn push(&mut self, framed: Bytes) {
        let settings = &self.context.route.settings;
        let newest = Waiting { framed, expires: Instant::now() + settings.datagram_ttl };
        self.bytes += newest.cost();
        self.waiting.push_back(newest);
        while self.bytes > settings.datagram_queue.as_usize() {
            self.lose_oldest(Loss::QueueFull);
        }
    }

    /// Waits until the oldest is sent or lost. Cancel-safe: until then it stays.
    pub(super) async fn shift(&mut self, client: &impl Datagrams) {
        let Some(oldest) = self.waiting.front() else { return };
        let sent = tokio::select! {
            biased;
            () = sleep_until(oldest.expires) => return self.lose_oldest(Loss::Expired),
            // Cancelled, it was not sent.
            sent = client.send(oldest.framed.clone()) => sent,
        };
        match sent {
            Ok(()) => {
                if let Some(bytes) = self.take_oldest() {
                    self.context.datagram_down(bytes);
                }
            }
            Err(DatagramError::Full(_)) => self.lose_oldest(Loss::QueueFull),
            Err(DatagramError::TooLarge) => self.lose_oldest(Loss::Oversize),
            Err(DatagramError::Closed) => self.lose_oldest(Loss::SessionEnded),
        }
    }

    fn lose_oldest(&mut self, why: Loss) {
        if let Some(bytes) = self.take_oldest() {
            self.context.lost_down(bytes, why);
        }
    }

    /// Lets go of the oldest. Yields the bytes of its payload.
    fn take_oldest(&mut self) -> Option<u64> {
        let oldest = self.waiting.pop_front()?;
        self.bytes -= oldest.cost();
        Some((oldest.framed.len() - self.prefix_bytes) as u64)
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        while !self.is_empty() {
            self.lose_oldest(Loss::SessionEnded);
        }
    }
}

//! Datagrams that wait for the client's transport.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::{Context, DatagramError, Datagrams, Loss};
use crate::config::DatagramKey;

/// Waiting datagrams, oldest first, bounded in bytes and in age. What is in it when it is dropped is
/// counted as lost with the session.
///
/// Where the route has a key, of the waiting datagrams with the same key only the newest stays. It takes
/// the place of the older one: at the end of the queue, a key that changes faster than the client's
/// network drains would never be sent.
#[derive(Debug)]
pub(super) struct Queue<'a> {
    context: &'a Context,
    prefix_bytes: usize,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// How many have left: the number of the oldest, when all are counted as they come.
    left: u64,
    /// The number of the waiting datagram with a key.
    by_key: HashMap<Key, u64>,
}

/// The bytes that tell what a datagram is about, filled up with zeros: all keys of a route have one size.
type Key = [u8; DatagramKey::MAX_BYTES as usize];

#[derive(Debug)]
struct Waiting {
    /// Prefix and payload.
    framed: Bytes,
    since: Instant,
}

impl Waiting {
    /// What it counts towards the bound: without its own size, empty datagrams would be free. A key's
    /// place in the map is of the same order and not counted.
    fn cost(&self) -> usize {
        self.framed.len() + size_of::<Self>()
    }
}

impl<'a> Queue<'a> {
    pub(super) fn new(context: &'a Context, prefix_bytes: usize) -> Self {
        Self {
            context,
            prefix_bytes,
            waiting: VecDeque::new(),
            bytes: 0,
            left: 0,
            by_key: HashMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Lets one wait. The oldest are lost until the bound holds, this one too if it alone is more.
    pub(super) fn push(&mut self, framed: Bytes) {
        let key = self.key(&framed);
        let newest = Waiting { framed, since: Instant::now() };
        self.bytes += newest.cost();
        match key.and_then(|key| self.place_of(&key)) {
            Some(place) => {
                let older = std::mem::replace(&mut self.waiting[place], newest);
                let older = self.unpack(older);
                self.context.lost_down(older.len() as u64, Loss::Superseded);
            }
            None => {
                if let Some(key) = key {
                    self.by_key.insert(key, self.left + self.waiting.len() as u64);
                }
                self.waiting.push_back(newest);
            }
        }
        while self.bytes > self.context.route.settings.datagram_queue.as_usize() {
            self.lose_oldest(Loss::QueueFull);
        }
        self.tell();
    }

    /// Waits until the oldest is sent or lost. Cancel-safe: until then it stays.
    ///
    /// Yields its payload if it has become too large for the client's path: it is neither then.
    pub(super) async fn shift(&mut self, client: &impl Datagrams) -> Option<Bytes> {
        let oldest = self.waiting.front()?;
        let expires = oldest.since + self.context.route.settings.datagram_ttl;
        let sent = tokio::select! {
            biased;
            () = sleep_until(expires) => {
                self.lose_oldest(Loss::Expired);
                return None;
            }
            // Cancelled, it was not sent.
            sent = client.send(oldest.framed.clone()) => sent,
        };
        match sent {
            Ok(()) => {
                let bytes = self.take_oldest()?.len();
                self.context.datagram_down(bytes as u64);
            }
            Err(DatagramError::TooLarge) => return self.take_oldest(),
            Err(DatagramError::Full(_)) => self.lose_oldest(Loss::QueueFull),
            Err(DatagramError::Closed) => self.lose_oldest(Loss::SessionEnded),
        }
        None
    }

    fn lose_oldest(&mut self, why: Loss) {
        if let Some(payload) = self.take_oldest() {
            self.context.lost_down(payload.len() as u64, why);
        }
    }

    /// Lets go of the oldest. Yields its payload.
    fn take_oldest(&mut self) -> Option<Bytes> {
        let oldest = self.waiting.pop_front()?;
        self.left += 1;
        if let Some(key) = self.key(&oldest.framed) {
            self.by_key.remove(&key);
        }
        let payload = self.unpack(oldest);
        self.tell();
        Some(payload)
    }

    /// Lets others see how it stands.
    fn tell(&self) {
        let first_since = self.waiting.front().map(|first| first.since);
        self.context.datagram_queue.set(self.waiting.len(), self.bytes, first_since);
    }

    /// Notes that one does not wait any more. Yields its payload.
    fn unpack(&mut self, gone: Waiting) -> Bytes {
        self.bytes -= gone.cost();
        self.context.metrics().datagram_waited(gone.since.elapsed());
        gone.framed.slice(self.prefix_bytes..)
    }

    /// What the datagram is about. `None`: the route does not ask, or the datagram is too short to say.
    fn key(&self, framed: &Bytes) -> Option<Key> {
        let DatagramKey { offset, bytes } = self.context.route.settings.datagram_key?;
        let start = self.prefix_bytes + usize::from(offset);
        let bytes = framed.get(start..start + usize::from(bytes))?;
        let mut key = Key::default();
        key.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(key)
    }

    /// Where in the queue the datagram with this key is.
    fn place_of(&self, key: &Key) -> Option<usize> {
        let number = self.by_key.get(key)?;
        usize::try_from(number - self.left).ok()
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        while !self.is_empty() {
            self.lose_oldest(Loss::SessionEnded);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;
    use crate::{
        bridge::{ledger::Sum, tests::context},
        metrics::Metrics,
        transport::{
            SessionRequest,
            memory::{MemoryClient, MemoryDatagrams},
        },
    };

    /// The way to a client that has room for so many, and the client.
    fn way(room: usize) -> (MemoryDatagrams, MemoryClient) {
        let (request, client) = MemoryClient::asking("/game");
        client.take_datagrams(room, Some(1200));
        (request.datagrams(), client)
    }

    /// Lets a datagram wait that has come.
    fn push(queue: &mut Queue<'_>, prefix: &[u8], payload: &[u8]) {
        queue.context.totals.down.take_datagrams(Sum::one(payload.len() as u64));
        queue.push([prefix, payload].concat().into());
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_of_a_key_takes_the_place_of_the_older_and_counts_its_own_age() {
        let metrics = Metrics::new();
        let (context, route) = (context(&metrics), metrics.route("game"));
        let (client_way, client) = way(64);
        let mut queue = Queue::new(&context, client_way.prefix().len());
        let mut push = |payload: &[u8]| push(&mut queue, client_way.prefix(), payload);

        let shown = || {
            let state = context.datagram_queue();
            (state.datagrams, state.first_waits.map(|age| age.as_millis()))
        };
        assert_eq!(shown(), (0, None));
        push(b"1AA");
        push(b"2BB");
        push(b"s");
        advance(Duration::from_millis(60)).await;
        push(b"3AA+");
        push(b"s");
        assert_eq!(route.down.lost.get(Loss::Superseded), 1);
        // The older ones are 110 ms old then, and the newer ones 50 ms.
        advance(Duration::from_millis(50)).await;
        assert_eq!(shown(), (4, Some(50)), "the first in line is a newer one");
        while !queue.is_empty() {
            queue.shift(&client_way).await;
        }
        assert_eq!(client.datagram().await, &b"3AA+"[..]);
        assert_eq!(client.datagram().await, &b"s"[..]);
        assert_eq!(route.down.lost.get(Loss::Expired), 2);
        assert_eq!(route.down.datagrams.get(), 2);
        let waited = "tidegate_datagram_queue_seconds_count{route=\"game\"} 5";
        assert!(metrics.render().contains(waited), "each is seen once as it leaves");
        assert_eq!((shown(), context.datagram_queue().bytes), ((0, None), 0));
        drop(queue);
        drop(context);
        assert_eq!(route.imbalance_datagrams.get(), 0);
    }

    proptest! {
        /// Compared with a plain list that is searched from end to end.
        #[test]
        fn whatever_comes_and_goes_there_is_one_of_each_key(
            steps in proptest::collection::vec(proptest::option::weighted(0.7, (0..5_u8, 0..300_usize)), 0..200),
        ) {
            let metrics = Metrics::new();
            let context = context(&metrics);
            let mut queue = Queue::new(&context, 0);
            let mut plain: Vec<Vec<u8>> = Vec::new();
            for (number, step) in (0..).zip(steps) {
                let Some((key, extra)) = step else {
                    queue.lose_oldest(Loss::Expired);
                    if !plain.is_empty() {
                        plain.remove(0);
                    }
                    continue;
                };
                // Key 0 stands for datagrams that are too short for one.
                let mut payload = vec![number, 0];
                if key > 0 {
                    payload.push(key);
                    payload.resize(3 + extra, 0);
                }
                push(&mut queue, &[], &payload);
                match plain.iter_mut().find(|other| key > 0 && other.get(2) == Some(&key)) {
                    Some(other) => *other = payload,
                    None => plain.push(payload),
                }
                let cost = |waiting: &[Vec<u8>]| -> usize {
                    waiting.iter().map(|w| w.len() + size_of::<Waiting>()).sum()
                };
                while cost(&plain) > 2048 {
                    plain.remove(0);
                }
                prop_assert_eq!(queue.bytes, cost(&plain));
                let shown = context.datagram_queue();
                prop_assert_eq!((shown.datagrams, shown.bytes), (plain.len() as u64, queue.bytes as u64));
                prop_assert!(queue.waiting.iter().map(|w| &w.framed[..]).eq(plain.iter()));
            }
            prop_assert!(queue.by_key.len() <= queue.waiting.len());
        }
    }
}

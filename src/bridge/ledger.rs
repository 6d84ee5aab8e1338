//! The ledger of a session: whatever was taken from one leg was delivered to the other, is still held,
//! or was lost for a reason.
//!
//! Taken is counted where bytes leave a leg, delivered where the other leg has accepted them, lost where
//! held bytes are thrown away: at three places of the code, so that none can make up for a fault of
//! another. When the last bridge of a session is gone nothing is held, and the sums must agree.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;

use super::Context;
use crate::{
    metrics::DirectionMetrics,
    reason::{Loss, StreamEnd},
};

/// What one session carried.
#[derive(Debug, Default)]
pub struct Totals {
    /// Streams bridged.
    pub streams: Total,
    /// From the client to the backend.
    pub up: Accounts,
    /// From the backend to the client.
    pub down: Accounts,
    /// Bytes that the backend answered where nobody wants an answer. They count as lost on the way down.
    pub discarded_bytes: Total,
}

/// One direction of a session.
#[derive(Debug, Default)]
pub struct Accounts {
    /// Bytes on streams.
    pub stream_bytes: Account,
    /// Datagrams.
    pub datagrams: Account,
    /// Bytes in datagrams.
    pub datagram_bytes: Account,
    /// Why bytes on streams were lost.
    pub stream_losses: Losses<StreamEnd>,
    /// Why datagrams were lost.
    pub datagram_losses: Losses<Loss>,
}

/// One sum, and what became of it.
#[derive(Debug, Default)]
pub struct Account {
    /// Taken from the leg that it came on.
    pub taken: Total,
    /// Accepted by the other leg.
    pub delivered: Total,
    /// Thrown away.
    pub lost: Total,
}

/// Datagrams that are booked at once, and their bytes together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Sum {
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
}

impl Sum {
    /// A single datagram of so many bytes.
    pub(super) fn one(bytes: u64) -> Self {
        Self { datagrams: 1, bytes }
    }

    pub(super) fn of(payloads: &[Bytes]) -> Self {
        let bytes = payloads.iter().map(|payload| payload.len() as u64).sum();
        Self { datagrams: payloads.len() as u64, bytes }
    }
}

/// How far the books of a session are off.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Imbalance {
    pub(super) bytes: u64,
    pub(super) datagrams: u64,
}

impl Totals {
    /// Stream bytes lost, either way.
    pub fn lost_stream_bytes(&self) -> u64 {
        self.up.stream_bytes.lost.get() + self.down.stream_bytes.lost.get()
    }

    /// Datagrams lost, either way.
    pub fn lost_datagrams(&self) -> u64 {
        self.up.datagrams.lost.get() + self.down.datagrams.lost.get()
    }

    /// A number that is another one whenever a byte of a stream or a datagram has moved. What is lost counts as
    /// well: the client or the backend was there to send it.
    pub fn carried(&self) -> u64 {
        let [up, down] = [&self.up, &self.down];
        // A stream's bytes are noted as taken only when it ends.
        let bytes = [&up.stream_bytes, &down.stream_bytes]
            .map(|account| account.delivered.get().wrapping_add(account.lost.get()));
        let datagrams = [&up.datagrams, &down.datagrams].map(|account| account.taken.get());
        bytes.into_iter().chain(datagrams).fold(0, u64::wrapping_add)
    }

    /// What is neither delivered nor lost, or is so twice. Nothing may be held any more.
    pub(super) fn imbalance(&self) -> Imbalance {
        let [up, down] = [&self.up, &self.down];
        let sum = |accounts: &[&Account]| accounts.iter().map(|account| account.imbalance()).sum();
        Imbalance {
            bytes: sum(&[
                &up.stream_bytes,
                &up.datagram_bytes,
                &down.stream_bytes,
                &down.datagram_bytes,
            ]),
            datagrams: sum(&[&up.datagrams, &down.datagrams]),
        }
    }
}

impl Accounts {
    pub(super) fn take_datagrams(&self, Sum { datagrams, bytes }: Sum) {
        self.datagrams.taken.add(datagrams);
        self.datagram_bytes.taken.add(bytes);
    }

    pub(super) fn pass_datagrams(&self, Sum { datagrams, bytes }: Sum, metrics: &DirectionMetrics) {
        metrics.datagrams.inc_by(datagrams);
        metrics.datagram_bytes.inc_by(bytes);
        self.datagrams.delivered.add(datagrams);
        self.datagram_bytes.delivered.add(bytes);
    }

    pub(super) fn lose_datagrams(
        &self,
        Sum { datagrams, bytes }: Sum,
        why: Loss,
        metrics: &DirectionMetrics,
    ) {
        metrics.lost.add(why, datagrams);
        self.datagram_losses.add(Loss::ALL, why, datagrams);
        self.datagrams.lost.add(datagrams);
        self.datagram_bytes.lost.add(bytes);
    }
}

impl Account {
    fn imbalance(&self) -> u64 {
        self.taken.get().abs_diff(self.delivered.get() + self.lost.get())
    }
}

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Total(AtomicU64);

impl Total {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// One more. Yields how many there are with it.
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What was lost for each reason of a closed list. Most sessions lose nothing, so it takes memory only with the
/// first loss.
#[derive(Debug)]
pub struct Losses<R>(OnceLock<Box<[(R, Total)]>>);

impl<R> Default for Losses<R> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<R: Copy + Eq> Losses<R> {
    fn add(&self, all: &[R], why: R, lost: u64) {
        let each = self.0.get_or_init(|| all.iter().map(|r| (*r, Total::default())).collect());
        if let Some((_, total)) = each.iter().find(|(reason, _)| *reason == why) {
            total.add(lost);
        }
    }

    /// The reasons for which something was lost, and how much.
    pub fn iter(&self) -> impl Iterator<Item = (R, u64)> {
        let each = self.0.get().into_iter().flatten();
        each.map(|(reason, total)| (*reason, total.get())).filter(|(_, lost)| *lost > 0)
    }
}

/// The books of one stream, closed when this is dropped: whatever way its pumps end, cancelled or in a
/// panic, what they held is lost under the reason for which the stream ended.
#[derive(Debug)]
pub(super) struct StreamBooks<'a> {
    context: &'a Context,
    /// From the client to the backend.
    pub(super) up: &'a HalfBooks,
    /// From the backend to the client.
    pub(super) down: &'a HalfBooks,
    end: OnceLock<StreamEnd>,
}

/// One direction of a stream.
///
/// Its pump is all that writes here, so nothing is contended; it is atomic for those who look on.
#[derive(Debug, Default)]
pub(super) struct HalfBooks {
    taken: AtomicU64,
    delivered: AtomicU64,
    lost: AtomicU64,
    why: OnceLock<StreamEnd>,
}

impl<'a> StreamBooks<'a> {
    pub(super) fn new(context: &'a Context, up: &'a HalfBooks, down: &'a HalfBooks) -> Self {
        Self { context, up, down, end: OnceLock::new() }
    }

    /// Says why the stream ended.
    pub(super) fn end(&self, why: StreamEnd) {
        // The first reason stays.
        _ = self.end.set(why);
    }
}

impl HalfBooks {
    /// Bytes were taken from the leg they came on.
    pub(super) fn take(&self, bytes: usize) {
        raise(&self.taken, bytes);
    }

    /// The other leg has accepted bytes. The session's own sum of them is kept elsewhere; this one is there to be
    /// looked at, and closes no books.
    pub(super) fn deliver(&self, bytes: usize) {
        raise(&self.delivered, bytes);
    }

    /// Bytes that the other leg has accepted.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// Bytes that were taken and are neither delivered nor lost yet.
    pub(super) fn held(&self) -> u64 {
        let gone = self.delivered() + self.lost.load(Relaxed);
        // The pump goes on meanwhile.
        self.taken.load(Relaxed).saturating_sub(gone)
    }

    /// Says why this direction ended, where that is not what ends the stream.
    pub(super) fn end(&self, why: StreamEnd) {
        // The first reason stays.
        _ = self.why.set(why);
    }

    /// Bytes that were taken and not delivered are thrown away.
    pub(super) fn lose(&self, bytes: usize) {
        raise(&self.lost, bytes);
    }
}

/// An addition without the price of a locked one: only one task writes.
fn raise(sum: &AtomicU64, bytes: usize) {
    sum.store(sum.load(Relaxed) + bytes as u64, Relaxed);
}

impl Drop for StreamBooks<'_> {
    fn drop(&mut self) {
        // A stream that panicked did not say why.
        let end = self.end.get().copied().unwrap_or(StreamEnd::Internal);
        let (metrics, totals) = (self.context.metrics(), &self.context.totals);
        for (half, account, counters) in
            [(self.up, &totals.up, &metrics.up), (self.down, &totals.down, &metrics.down)]
        {
            account.stream_bytes.taken.add(half.taken.load(Relaxed));
            let lost = half.lost.load(Relaxed);
            if lost > 0 {
                let why = half.why.get().copied().unwrap_or(end);
                account.stream_bytes.lost.add(lost);
                account.stream_losses.add(StreamEnd::ALL, why, lost);
                counters.lost_bytes.add(why, lost);
            }
        }
    }
}

/// Chunks that were taken from one leg and are not with the other yet. What is left of them when this
/// is dropped is lost.
#[derive(Debug)]
pub(super) struct Held<'a, C: AsRef<[Bytes]>> {
    pub(super) chunks: C,
    books: &'a HalfBooks,
}

impl<'a, C: AsRef<[Bytes]>> Held<'a, C> {
    pub(super) fn new(chunks: C, books: &'a HalfBooks) -> Self {
        Self { chunks, books }
    }
}

impl<C: AsRef<[Bytes]>> Drop for Held<'_, C> {
    fn drop(&mut self) {
        let left = self.chunks.as_ref().iter().map(Bytes::len).sum();
        if left > 0 {
            self.books.lose(left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_delivered_nor_lost_is_missing() {
        let totals = Totals::default();
        totals.up.stream_bytes.taken.add(10);
        totals.up.stream_bytes.delivered.add(6);
        totals.up.stream_bytes.lost.add(4);
        assert_eq!(totals.imbalance(), Imbalance::default());

        totals.up.stream_bytes.taken.add(1);
        // Never taken: one sum cannot make up for another.
        totals.down.stream_bytes.delivered.add(2);
        totals.down.datagram_bytes.taken.add(4);
        totals.up.datagrams.taken.add(8);
        totals.down.datagrams.lost.add(16);
        assert_eq!(totals.imbalance(), Imbalance { bytes: 1 + 2 + 4, datagrams: 8 + 16 });
    }

    #[test]
    fn losses_are_kept_by_their_reasons() {
        let losses = Losses::default();
        assert_eq!(losses.iter().count(), 0);
        for (why, lost) in [(Loss::Expired, 2), (Loss::QueueFull, 1), (Loss::Expired, 3)] {
            losses.add(Loss::ALL, why, lost);
        }
        let mut found: Vec<_> = losses.iter().map(|(why, lost)| (why.word(), lost)).collect();
        found.sort_unstable();
        assert_eq!(found, [("expired", 5), ("queue_full", 1)]);
    }

    #[test]
    fn whatever_moves_is_seen_to_be_carried() {
        let totals = Totals::default();
        let [up, down] = [&totals.up, &totals.down];
        let moves: [&dyn Fn(); 6] = [
            &|| up.stream_bytes.delivered.add(1),
            &|| down.stream_bytes.delivered.add(1),
            &|| up.stream_bytes.lost.add(1),
            &|| down.stream_bytes.lost.add(1),
            &|| up.take_datagrams(Sum::one(0)),
            &|| down.take_datagrams(Sum::one(0)),
        ];
        for (before, carry) in (0..).zip(moves) {
            assert_eq!(totals.carried(), before);
            carry();
        }
        assert_eq!(totals.carried(), 6);
        totals.streams.add(1);
        assert_eq!(totals.carried(), 6, "a stream that says nothing carries nothing");
    }

    #[test]
    fn what_is_left_when_it_is_dropped_is_lost() {
        let books = HalfBooks::default();
        let mut held = Held::new([Bytes::from("abc"), Bytes::from("de")], &books);
        held.chunks[0] = Bytes::new();
        drop(held);
        assert_eq!(books.lost.load(Relaxed), 2);
    }
}

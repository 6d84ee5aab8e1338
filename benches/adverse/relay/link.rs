//! One direction of a bad network: what goes in comes out later, not at all, twice, or after what came
//! behind it.
//!
//! Pure: no socket, no clock and no sleeping. [`Link::offer`] takes a packet and decides at once what becomes
//! of it, [`Link::next_due`] says when the next one leaves, [`Link::take`] hands out what is due. All
//! chances come from one seed, and the same number of them is drawn for each packet: the same
//! packets offered with the same seed meet the same fate.
//!
//! A packet's way: the queue of the bottleneck (full: lost), the time that its bytes take at the rate, the
//! chance to be lost, then the delay with its jitter. So lost packets have used the bottleneck, as on a
//! radio link behind it.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

/// Packets that are under way at most, with those that wait for the rate. What comes above it is lost and
/// counted as such: 64 MiB of full packets, more than any scenario here has on its way.
const UNDER_WAY: usize = 45_000;

/// What a direction does to packets. The default does nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Conditions {
    /// How long each packet is under way at least.
    pub(crate) delay: Duration,
    /// How much longer it may be, evenly spread. Packets keep their order.
    pub(crate) jitter: Duration,
    /// The share that is lost, from 0 to 1.
    pub(crate) loss: f64,
    /// How many are lost in a row on average (Gilbert's model). At 1 and below each is lost for itself.
    pub(crate) burst: f64,
    /// The share that is held back, so that others pass it.
    pub(crate) reorder: f64,
    /// For how long these are held back.
    pub(crate) hold: Duration,
    /// The share that comes twice.
    pub(crate) duplicate: f64,
    /// The bottleneck, in bits per second.
    pub(crate) rate: Option<u64>,
    /// Packets that wait for it at most, with the one that is being sent.
    pub(crate) queue: usize,
    /// Where all chances come from.
    pub(crate) seed: u64,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: 1.0,
            reorder: 0.0,
            hold: Duration::ZERO,
            duplicate: 0.0,
            rate: None,
            queue: 1000,
            seed: 1,
        }
    }
}

impl Conditions {
    /// The same with chances of its own: for the other direction, or another client.
    pub(crate) const fn reseeded(self, by: u64) -> Self {
        Self { seed: self.seed.wrapping_mul(31).wrapping_add(by), ..self }
    }
}

/// What became of the packets. Each that was offered is under way, delivered, lost or overflowed; a
/// duplicate is delivered once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) offered: u64,
    pub(crate) delivered: u64,
    /// Lost by chance.
    pub(crate) lost: u64,
    /// Lost because a queue was full.
    pub(crate) overflowed: u64,
    pub(crate) held_back: u64,
    pub(crate) duplicated: u64,
}

/// One direction, with the packets that are under way.
#[derive(Debug)]
pub(crate) struct Link<P> {
    conditions: Conditions,
    chances: Chances,
    /// Gilbert's bad state: what comes is lost.
    in_burst: bool,
    /// When each packet that waits for the rate will have been sent; the last is when the link is free.
    sending: VecDeque<Instant>,
    /// When the last packet in order arrives: none that follows arrives before it.
    last_due: Option<Instant>,
    under_way: BinaryHeap<Reverse<Held<P>>>,
    /// How many were put under way: what is due at the same time keeps its order by this.
    held: u64,
    counts: Counts,
}

impl<P: Clone> Link<P> {
    pub(crate) fn new(conditions: Conditions) -> Self {
        Self {
            conditions,
            chances: Chances(conditions.seed),
            in_burst: false,
            sending: VecDeque::new(),
            last_due: None,
            under_way: BinaryHeap::new(),
            held: 0,
            counts: Counts::default(),
        }
    }

    /// Takes a packet of so many bytes on the wire.
    pub(crate) fn offer(&mut self, now: Instant, bytes: usize, packet: P) {
        self.counts.offered += 1;
        let lost = self.draw_loss();
        let jitter = self.conditions.jitter.mul_f64(self.chances.share());
        let held_back = self.chances.hit(self.conditions.reorder);
        let duplicated = self.chances.hit(self.conditions.duplicate);

        let Some(sent) = self.send(now, bytes) else {
            self.counts.overflowed += 1;
            return;
        };
        if lost {
            self.counts.lost += 1;
            return;
        }
        let copies = 1 + usize::from(duplicated);
        if self.under_way.len() + copies > UNDER_WAY {
            self.counts.overflowed += 1;
            return;
        }
        let mut due = sent + self.conditions.delay + jitter;
        if held_back {
            self.counts.held_back += 1;
            due += self.conditions.hold;
        } else {
            due = self.last_due.map_or(due, |last| due.max(last));
            self.last_due = Some(due);
        }
        if duplicated {
            self.counts.duplicated += 1;
            self.hold(due, packet.clone());
        }
        self.hold(due, packet);
    }

    /// When the next packet leaves, if any is under way.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(held)| held.due)
    }

    /// The next packet that has arrived by now.
    pub(crate) fn take(&mut self, now: Instant) -> Option<P> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(held) = self.under_way.pop()?;
        self.counts.delivered += 1;
        Some(held.packet)
    }

    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    fn hold(&mut self, due: Instant, packet: P) {
        self.held += 1;
        self.under_way.push(Reverse(Held { due, order: self.held, packet }));
    }

    /// When the packet has left the bottleneck. None: there is no room in front of it.
    fn send(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate) = self.conditions.rate else { return Some(now) };
        while self.sending.front().is_some_and(|sent| *sent <= now) {
            self.sending.pop_front();
        }
        if self.sending.len() >= self.conditions.queue {
            return None;
        }
        let begin = self.sending.back().map_or(now, |free| *free);
        let takes = Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        let sent = begin + takes;
        self.sending.push_back(sent);
        Some(sent)
    }

    fn draw_loss(&mut self) -> bool {
        let Conditions { loss, burst, .. } = self.conditions;
        let chance = self.chances.share();
        if burst <= 1.0 {
            return chance < loss;
        }
        // The bad state lasts `burst` packets on average, and the share of time in it is `loss`.
        self.in_burst = if self.in_burst {
            chance >= 1.0 / burst
        } else {
            chance < loss / (burst * (1.0 - loss))
        };
        self.in_burst
    }
}

/// A packet under way: ordered by when it arrives, then as it was offered.
#[derive(Debug)]
struct Held<P> {
    due: Instant,
    order: u64,
    packet: P,
}

impl<P> Ord for Held<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl<P> PartialOrd for Held<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> PartialEq for Held<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<P> Eq for Held<P> {}

/// splitmix64: enough for chances, and the same everywhere.
#[derive(Debug)]
struct Chances(u64);

impl Chances {
    /// Evenly from 0 to 1, without 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // 53 bits, what a double holds exactly.
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }

    fn hit(&mut self, share: f64) -> bool {
        self.share() < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Offers packets at a fixed interval and takes what arrives: its number and how long it took.
    fn run(
        conditions: Conditions,
        packets: u64,
        every: Duration,
    ) -> (Vec<(u64, Duration)>, Counts) {
        let begin = Instant::now();
        let mut link = Link::new(conditions);
        let offered_at = |n: u64| begin + every * u32::try_from(n).unwrap();
        let mut arrived = Vec::new();
        let mut take_until = |link: &mut Link<u64>, now: Option<Instant>| {
            while let Some(due) = link.next_due().filter(|due| now.is_none_or(|now| *due <= now)) {
                assert_eq!(link.take(due - Duration::from_nanos(1)), None, "before it was due");
                let n = link.take(due).unwrap();
                arrived.push((n, due - offered_at(n)));
            }
        };
        for n in 0..packets {
            take_until(&mut link, Some(offered_at(n)));
            link.offer(offered_at(n), 1250, n);
        }
        take_until(&mut link, None);
        (arrived, link.counts())
    }

    fn numbers(arrived: &[(u64, Duration)]) -> Vec<u64> {
        arrived.iter().map(|(n, _)| *n).collect()
    }

    #[test]
    fn without_trouble_each_packet_comes_once_in_order_after_the_delay() {
        let (arrived, counts) =
            run(Conditions { delay: 25 * MS, ..Conditions::default() }, 1000, MS);
        assert!(numbers(&arrived).into_iter().eq(0..1000));
        assert!(arrived.iter().all(|(_, took)| *took == 25 * MS));
        assert_eq!(counts, Counts { offered: 1000, delivered: 1000, ..Counts::default() });
    }

    #[test]
    fn jitter_delays_and_keeps_the_order() {
        let conditions = Conditions { delay: 25 * MS, jitter: 10 * MS, ..Conditions::default() };
        let (arrived, _) = run(conditions, 10_000, MS / 10);
        assert!(numbers(&arrived).into_iter().eq(0..10_000));
        assert!(arrived.iter().all(|(_, took)| (25 * MS..=35 * MS).contains(took)));
        let sparse = run(conditions, 1000, 20 * MS).0;
        let mean = sparse.iter().map(|(_, took)| took.as_secs_f64()).sum::<f64>() / 1000.0;
        assert!((0.029..0.031).contains(&mean), "{mean}");
    }

    #[test]
    fn the_share_that_is_lost_is_the_one_asked_for() {
        for loss in [0.01, 0.05, 0.5] {
            let (arrived, counts) = run(Conditions { loss, ..Conditions::default() }, 100_000, MS);
            let share = counts.lost as f64 / 1e5;
            assert!((share - loss).abs() < 0.003, "{share}, not {loss}");
            assert_eq!(arrived.len() as u64 + counts.lost, 100_000);
        }
    }

    #[test]
    fn bursts_are_as_long_as_asked_for_and_lose_as_much() {
        let conditions = Conditions { loss: 0.05, burst: 4.0, ..Conditions::default() };
        let (arrived, counts) = run(conditions, 200_000, MS);
        let share = counts.lost as f64 / 2e5;
        assert!((share - 0.05).abs() < 0.005, "{share}");
        let gaps = numbers(&arrived).windows(2).filter(|pair| pair[1] - pair[0] > 1).count();
        let mean = counts.lost as f64 / gaps as f64;
        assert!((mean - 4.0).abs() < 0.3, "{mean}");
    }

    #[test]
    fn what_is_held_back_comes_after_others_and_once() {
        let conditions =
            Conditions { delay: MS, reorder: 0.1, hold: 5 * MS, ..Conditions::default() };
        let (arrived, counts) = run(conditions, 10_000, MS);
        let mut came = numbers(&arrived);
        let passed = came.windows(2).filter(|pair| pair[1] < pair[0]).count();
        came.sort_unstable();
        assert!(came.into_iter().eq(0..10_000));
        assert!((900..1100).contains(&counts.held_back), "{counts:?}");
        assert!(passed > 500, "{passed}");
        let late = arrived.iter().filter(|(_, took)| *took == 6 * MS).count();
        assert_eq!(late as u64, counts.held_back);
    }

    #[test]
    fn a_duplicate_comes_once_more_and_counts() {
        let conditions = Conditions { delay: MS, duplicate: 0.2, ..Conditions::default() };
        let (arrived, counts) = run(conditions, 10_000, MS);
        assert!((1800..2200).contains(&counts.duplicated), "{counts:?}");
        assert_eq!(counts.delivered, 10_000 + counts.duplicated);
        let mut came = numbers(&arrived);
        came.dedup();
        assert!(came.into_iter().eq(0..10_000), "not in order");
    }

    #[test]
    fn the_rate_spaces_packets_out() {
        let conditions = Conditions { rate: Some(10_000_000), ..Conditions::default() };
        // 1,250 bytes at 10 Mbit/s: a millisecond each, and all come at once.
        let (arrived, counts) = run(conditions, 100, Duration::ZERO);
        for (n, took) in arrived {
            assert_eq!(took, MS * (u32::try_from(n).unwrap() + 1));
        }
        assert_eq!(counts.overflowed, 0);
        // Those that come slower than the rate take their own time only.
        assert!(run(conditions, 100, 2 * MS).0.iter().all(|(_, took)| *took == MS));
    }

    #[test]
    fn the_queue_has_a_bound_and_loses_what_comes_last() {
        let conditions = Conditions { rate: Some(10_000_000), queue: 20, ..Conditions::default() };
        let (arrived, counts) = run(conditions, 100, Duration::ZERO);
        assert!(numbers(&arrived).into_iter().eq(0..20));
        assert_eq!((counts.delivered, counts.overflowed), (20, 80));
        // Twice as fast as the rate: the queue fills, and every other one is lost.
        let (arrived, counts) = run(conditions, 1000, MS / 2);
        assert!((475..=485).contains(&counts.overflowed), "{counts:?}");
        assert!(arrived.iter().all(|(_, took)| *took <= 20 * MS));
    }

    #[test]
    fn what_is_under_way_has_a_bound() {
        let conditions = Conditions { delay: 1000 * MS, duplicate: 0.5, ..Conditions::default() };
        let (arrived, counts) = run(conditions, 50_000, Duration::ZERO);
        assert!(arrived.len() <= UNDER_WAY && arrived.len() > UNDER_WAY - 2);
        assert_eq!(counts.delivered, counts.offered - counts.overflowed + counts.duplicated);
    }

    #[test]
    fn the_same_seed_is_the_same_fate_and_another_is_not() {
        let conditions = Conditions {
            delay: 5 * MS,
            jitter: 5 * MS,
            loss: 0.1,
            burst: 3.0,
            reorder: 0.05,
            hold: 7 * MS,
            duplicate: 0.05,
            rate: Some(50_000_000),
            ..Conditions::default()
        };
        let once = run(conditions, 2000, MS);
        assert_eq!(once, run(conditions, 2000, MS));
        assert_ne!(once, run(conditions.reseeded(1), 2000, MS));
    }
}

//! Which datagrams of a session are on their way, back, late or lost. Pure: no socket, no clock.
//!
//! Wire format of a payload, numbers big-endian:
//!
//! ```text
//! 0..8    tag: names the run and the session
//! 8..16   sequence number, from 0
//! 16..24  time of sending, microseconds since the run began
//! 24..    a pattern made from the three
//! ```
//!
//! What always holds: each datagram is answered for once. It is on its way until it is back or its time
//! is over; a late one is still told from a copy, at the cost of one bit for each datagram.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{pattern::Pattern, sizes::Sizes};

/// Smallest payload: its header and a word of pattern.
pub(crate) const MIN_DATAGRAM_BYTES: u16 = 32;

const HEADER_BYTES: usize = 24;

/// The datagrams of one session.
#[derive(Debug)]
pub(crate) struct Ledger {
    tag: u64,
    epoch: Instant,
    /// With the first names of each.
    payload_bytes: (Sizes, [u64; 2]),
    timeout: Duration,
    /// Those on their way and those behind them, by sequence number from `oldest` on.
    recent: VecDeque<Sent>,
    oldest: u64,
    in_flight: u32,
    /// One bit for each that came back.
    returned: Vec<u64>,
    highest_returned: Option<u64>,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    micros: u64,
    returned: bool,
}

/// What a datagram that came is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Arrival {
    /// It is back. With its time, unless that was over; `overtaken` by a later one or not.
    Returned { time: Option<Duration>, overtaken: bool },
    /// It was back already.
    Duplicate,
    /// It was never sent, or not like this.
    Wrong(String),
}

impl Ledger {
    /// Sizes are of [`MIN_DATAGRAM_BYTES`] at least.
    pub(crate) fn new(
        tag: u64,
        epoch: Instant,
        payload_bytes: (Sizes, [u64; 2]),
        timeout: Duration,
    ) -> Self {
        Self {
            tag,
            epoch,
            payload_bytes,
            timeout,
            recent: VecDeque::new(),
            oldest: 0,
            in_flight: 0,
            returned: Vec::new(),
            highest_returned: None,
        }
    }

    /// Datagrams sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.oldest + self.recent.len() as u64
    }

    /// Datagrams on their way.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The payload of the next datagram, if it were sent now.
    pub(crate) fn next_payload(&self, now: Instant) -> Vec<u8> {
        self.payload(self.sent(), self.micros(now))
    }

    /// Notes that the next datagram was sent with the payload of `at`.
    pub(crate) fn note_sent(&mut self, at: Instant) {
        let micros = self.micros(at);
        self.recent.push_back(Sent { at, micros, returned: false });
        self.in_flight += 1;
    }

    /// When the next datagram's time is over, if one is on its way.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.recent.front().map(|oldest| oldest.at + self.timeout)
    }

    /// Gives up those whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.forget_while(|sent, timeout| sent.returned || now >= sent.at + timeout);
    }

    /// Says what a datagram is that came, and notes it.
    pub(crate) fn arrived(&mut self, payload: &[u8], now: Instant) -> Arrival {
        let Some((sequence, micros)) = self.read_header(payload) else {
            return Arrival::Wrong("its header is not one of this session's".to_owned());
        };
        let recent = sequence.checked_sub(self.oldest).and_then(|at| usize::try_from(at).ok());
        let recent = recent.and_then(|at| self.recent.get_mut(at));
        let micros = recent.as_ref().map_or(micros, |sent| sent.micros);
        let sent_at = recent.filter(|sent| !sent.returned).map(|sent| {
            sent.returned = true;
            sent.at
        });
        if sent_at.is_some() {
            self.in_flight -= 1;
            self.forget_while(|sent, _| sent.returned);
        }
        // What is wrong with it is said even if it is a copy; it is not waited for any more.
        if payload != self.payload(sequence, micros) {
            self.mark_returned(sequence);
            return Arrival::Wrong(format!("number {sequence} came back changed"));
        }
        if sent_at.is_none() && self.is_returned(sequence) {
            return Arrival::Duplicate;
        }
        self.mark_returned(sequence);
        let overtaken = self.highest_returned.is_some_and(|highest| sequence < highest);
        self.highest_returned = self.highest_returned.max(Some(sequence));
        Arrival::Returned { time: sent_at.map(|at| now - at), overtaken }
    }

    /// The sequence number and time of a datagram of this session that was sent.
    fn read_header(&self, payload: &[u8]) -> Option<(u64, u64)> {
        let (tag, rest) = payload.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (micros, _) = rest.split_first_chunk()?;
        let sequence = u64::from_be_bytes(*sequence);
        let known = u64::from_be_bytes(*tag) == self.tag && sequence < self.sent();
        known.then(|| (sequence, u64::from_be_bytes(*micros)))
    }

    fn payload(&self, sequence: u64, micros: u64) -> Vec<u8> {
        let (sizes, [first, second]) = self.payload_bytes;
        let bytes = sizes.of(&[first, second, sequence]);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut payload = Vec::with_capacity(bytes);
        for number in [self.tag, sequence, micros] {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        payload.resize(bytes, 0);
        Pattern::new(&[self.tag, sequence, micros]).fill(0, &mut payload[HEADER_BYTES..]);
        payload
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from((at - self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    fn forget_while(&mut self, over: impl Fn(&Sent, Duration) -> bool) {
        while let Some(sent) = self.recent.front().filter(|sent| over(sent, self.timeout)) {
            self.in_flight -= u32::from(!sent.returned);
            self.recent.pop_front();
            self.oldest += 1;
        }
    }

    fn is_returned(&self, sequence: u64) -> bool {
        let (word, bit) = bit(sequence);
        self.returned.get(word).is_some_and(|word| word & bit != 0)
    }

    fn mark_returned(&mut self, sequence: u64) {
        let (word, bit) = bit(sequence);
        if self.returned.len() <= word {
            self.returned.resize(word + 1, 0);
        }
        self.returned[word] |= bit;
    }
}

fn bit(sequence: u64) -> (usize, u64) {
    (usize::try_from(sequence / 64).unwrap_or(usize::MAX), 1 << (sequence % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn sizes(text: &str) -> Sizes {
        Sizes::parse(text, MIN_DATAGRAM_BYTES.into()..=1500).unwrap()
    }

    #[test]
    fn datagrams_of_a_range_are_known_by_their_size() {
        let epoch = Instant::now();
        let mut ledger = Ledger::new(99, epoch, (sizes("32..40"), [7, 8]), TIMEOUT);
        let mut lengths = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let payload = ledger.next_payload(epoch);
            ledger.note_sent(epoch);
            lengths.insert(payload.len());
            let longer = [&payload[..], &[0]].concat();
            assert!(matches!(ledger.arrived(&longer, epoch), Arrival::Wrong(_)));
        }
        assert_eq!(lengths, (32..=40).collect());
    }

    /// A ledger that has sent `count` datagrams, one each millisecond; and their payloads.
    fn sent(count: u64) -> (Ledger, Vec<Vec<u8>>, Instant) {
        let epoch = Instant::now();
        let mut ledger = Ledger::new(99, epoch, (sizes("100"), [0, 0]), TIMEOUT);
        let payloads = (0..count).map(|n| {
            let at = epoch + Duration::from_millis(n);
            let payload = ledger.next_payload(at);
            ledger.note_sent(at);
            payload
        });
        let payloads = payloads.collect();
        (ledger, payloads, epoch)
    }

    #[test]
    fn each_datagram_is_back_once_with_its_time() {
        let (mut ledger, payloads, epoch) = sent(3);
        assert_eq!((ledger.sent(), ledger.in_flight()), (3, 3));
        let now = epoch + Duration::from_millis(10);
        for (n, payload) in (0..).zip(&payloads) {
            assert_eq!(payload.len(), 100);
            let time = Some(Duration::from_millis(10 - n));
            let back = Arrival::Returned { time, overtaken: false };
            assert_eq!(ledger.arrived(payload, now), back);
            assert_eq!(ledger.arrived(payload, now), Arrival::Duplicate);
        }
        assert_eq!((ledger.in_flight(), ledger.deadline()), (0, None));
    }

    #[test]
    fn one_that_was_overtaken_is_reordered() {
        let (mut ledger, payloads, epoch) = sent(3);
        let overtaken =
            [2, 0, 1].map(|n: usize| match ledger.arrived(&payloads[n], epoch + TIMEOUT) {
                Arrival::Returned { overtaken, .. } => overtaken,
                other => panic!("{other:?}"),
            });
        assert_eq!(overtaken, [false, true, true]);
    }

    #[test]
    fn one_whose_time_is_over_makes_room_and_may_still_come() {
        let (mut ledger, payloads, epoch) = sent(3);
        ledger.arrived(&payloads[1], epoch + TIMEOUT);
        assert_eq!(ledger.deadline(), Some(epoch + TIMEOUT));
        ledger.expire(epoch + TIMEOUT);
        assert_eq!(ledger.in_flight(), 1, "the first is given up and the second is back");
        assert_eq!(ledger.deadline(), Some(epoch + TIMEOUT + Duration::from_millis(2)));

        let late = Arrival::Returned { time: None, overtaken: true };
        assert_eq!(ledger.arrived(&payloads[0], epoch + 2 * TIMEOUT), late);
        assert_eq!(ledger.arrived(&payloads[0], epoch + 2 * TIMEOUT), Arrival::Duplicate);
        assert_eq!(ledger.arrived(&payloads[1], epoch + 2 * TIMEOUT), Arrival::Duplicate);
        assert_eq!((ledger.sent(), ledger.in_flight()), (3, 1));
    }

    #[test]
    fn every_changed_byte_and_every_wrong_length_is_wrong() {
        for at in 0..100 {
            let (mut ledger, mut payloads, epoch) = sent(2);
            payloads[1][at] ^= 1;
            let arrival = ledger.arrived(&payloads[1], epoch + TIMEOUT);
            // A changed last bit of number 1 makes it number 0, whose pattern is another.
            assert!(matches!(arrival, Arrival::Wrong(_)), "byte {at}: {arrival:?}");
        }
        let (mut ledger, payloads, epoch) = sent(3);
        let longer = [&payloads[0][..], &[0]].concat();
        for payload in [&[][..], &payloads[0][..50], &longer, &payloads[1][..99]] {
            assert!(matches!(ledger.arrived(payload, epoch + TIMEOUT), Arrival::Wrong(_)));
        }
        assert_eq!(ledger.in_flight(), 1, "what came back changed is not waited for");
    }

    #[test]
    fn what_was_never_sent_is_wrong() {
        let (mut ledger, _, epoch) = sent(3);
        let (_, ahead, _) = sent(4);
        let foreign = Ledger::new(98, epoch, (sizes("100"), [0, 0]), TIMEOUT).next_payload(epoch);
        for payload in [&ahead[3], &foreign] {
            assert!(matches!(ledger.arrived(payload, epoch), Arrival::Wrong(_)));
        }
        assert_eq!(ledger.in_flight(), 3);
    }
}
